"""MariaDB and MySQL: one database of a server as a source, and as a target."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from backupd.engines.base import ServerPlace

if TYPE_CHECKING:
    from backupd.engines.asking import Answer
    from backupd.engines.base import Finding, Listing
    from backupd.engines.mariadb.live import MariaLive
    from backupd.engines.mariadb.restore import MariaTarget
    from backupd.engines.mariadb.source import MariaSource
    from backupd.engines.throwaway import Throwaway


def open_source(
    place: ServerPlace,
    *,
    timeout: float = 30.0,
    exclude: Sequence[str] = (),
    globals: bool = False,  # noqa: A002
    jobs: int = 2,
    bin_folders: Sequence[Path] = (),
) -> "MariaSource":
    """A database to protect; nothing is connected yet.

    Args:
        timeout: seconds to wait for the server's answers, and for the barrier.
        exclude: tables and views that are left out.
        globals: whether accounts and grants come along, as a secret stream.
        jobs: how many connections read at the same time.
        bin_folders: where to look for mariadb and mariadb-dump before the path.
    """
    from backupd.engines.mariadb.source import MariaSource

    return MariaSource(place, timeout=timeout, exclude=exclude, globals=globals, jobs=jobs, bin_folders=bin_folders)


def open_target(place: ServerPlace, *, timeout: float = 30.0, bin_folders: Sequence[Path] = ()) -> "MariaTarget":
    """A database to restore to; nothing is connected yet."""
    from backupd.engines.mariadb.restore import MariaTarget

    return MariaTarget(place, timeout=timeout, bin_folders=bin_folders)


def open_live(place: ServerPlace, *, timeout: float = 30.0) -> "MariaLive":
    """Connect to a live database whose rows are to be found and changed.

    Args:
        timeout: seconds to wait for the connection, and for each lock.

    Raises:
        Unreachable, TryAgain: no connection.
    """
    from backupd.engines.mariadb.live import open_live as opened

    return opened(place, timeout=timeout)


def databases(place: ServerPlace, *, timeout: float = 30.0) -> "Listing":
    """The databases of the server that the account sees; the place's own is not looked at.

    Raises:
        Unreachable: nobody there, or the user is refused.
    """
    from backupd.engines.mariadb.listing import databases as listed

    return listed(place, timeout=timeout)


def preflight(
    place: ServerPlace, *, timeout: float = 30.0, exclude: Sequence[str] = (), bin_folders: Sequence[Path] = ()
) -> "list[Finding]":
    """What a capture of the place would meet: missing privileges, hidden objects, old client programs.

    Raises:
        Unreachable: nobody there, or the user is refused.
    """
    from backupd.engines.mariadb.findings import preflight as look

    return look(place, timeout=timeout, exclude=exclude, bin_folders=bin_folders)


def start_server(
    facts: Mapping[str, object],
    folder: Path,
    database: str,
    *,
    superuser: bool = False,
    bin_folders: Sequence[Path] = (),
    timeout: float = 120.0,
) -> "AbstractContextManager[Throwaway]":
    """A server of our own to restore a snapshot to; see `throwaway.start`.

    Raises:
        Unreachable: there are no programs that fit, or it does not start.
    """
    from backupd.engines.mariadb.throwaway import start

    return start(facts, folder, database, superuser=superuser, bin_folders=bin_folders, timeout=timeout)


def ask(place: ServerPlace, statement: str, *, timeout: float) -> "Answer":
    """The first value of the first row that a query gives; see `asking.ask`."""
    from backupd.engines.mariadb.asking import ask as asked

    return asked(place, statement, timeout=timeout)


def drop(place: ServerPlace, *, timeout: float = 30.0) -> tuple[str, ...]:
    """Drop the database of a drill; see `dropping.drop`."""
    from backupd.engines.mariadb.dropping import drop as dropped

    return dropped(place, timeout=timeout)


def check_references(place: ServerPlace, *, timeout: float = 30.0) -> list[str]:
    """Which foreign keys do not hold; see `references.check_references`."""
    from backupd.engines.mariadb.references import check_references as checked

    return checked(place, timeout=timeout)
