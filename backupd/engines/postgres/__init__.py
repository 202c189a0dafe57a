"""PostgreSQL 14 and newer: one consistent moment as row streams and a pg_dump archive of the schema, and back.

Importing this package is cheap; the driver is imported where it is used.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from backupd.engines.base import Finding, Listing, ServerPlace

if TYPE_CHECKING:
    from backupd.engines.postgres.capture import PostgresSource
    from backupd.engines.postgres.live import PostgresLive
    from backupd.engines.postgres.restore import PostgresTarget
    from backupd.engines.throwaway import Throwaway
    from backupd.model import Answer

__all__ = ["ask", "databases", "drop", "open_live", "open_source", "open_target", "preflight", "start_server"]


def open_source(
    place: ServerPlace,
    *,
    timeout: float = 30.0,
    native: bool = False,
    exclude: Sequence[str] = (),
    globals: bool = False,  # noqa: A002
    jobs: int = 2,
    bin_folders: Sequence[str] = (),
) -> "PostgresSource":
    """A database to protect. Nothing is connected yet.

    Args:
        place: the server and the database.
        timeout: seconds to wait for a connection or a lock.
        native: store one opaque pg_dump archive instead of row streams.
        exclude: tables whose rows are left out, by the names of the manifest; `*` stands for anything.
        globals: whether roles and tablespaces are captured too, as a secret stream.
        jobs: connections that read rows at the same time.
        bin_folders: where to look first for pg_dump and its like.
    """
    from backupd.engines.postgres.capture import CaptureOptions, PostgresSource

    options = CaptureOptions(timeout, native, tuple(exclude), globals, jobs, tuple(bin_folders))
    return PostgresSource(place, options)


def open_target(place: ServerPlace, *, timeout: float = 30.0, bin_folders: Sequence[str] = ()) -> "PostgresTarget":
    """A database to restore to. Nothing is connected yet.

    Args:
        place: the server and the name that the database shall have.
        timeout: seconds to wait for a connection or a lock.
        bin_folders: where to look first for pg_restore.
    """
    from backupd.engines.postgres.restore import PostgresTarget

    return PostgresTarget(place, timeout=timeout, bin_folders=tuple(bin_folders))


def open_live(place: ServerPlace, *, timeout: float = 30.0) -> "PostgresLive":
    """Connect to a live database whose rows are to be found and changed.

    Args:
        place: the server and the database.
        timeout: seconds to wait for the connection, and for each lock.

    Raises:
        Unreachable, TryAgain: no connection.
    """
    from backupd.engines.postgres.live import open_live as opened

    return opened(place, timeout=timeout)


def databases(place: ServerPlace, *, timeout: float = 30.0) -> Listing:
    """The databases of the server; the place's own is not looked at.

    Raises:
        Unreachable: no connection.
    """
    from backupd.engines.postgres.listing import databases as listed

    return listed(place, timeout=timeout)


def preflight(place: ServerPlace, *, timeout: float = 30.0, bin_folders: Sequence[str] = ()) -> list[Finding]:
    """What would keep a capture from being whole, and what should be known beforehand; for `doctor --source URL`.

    Raises:
        Unreachable: no connection.
    """
    from backupd.engines.postgres.examination import examine

    return examine(place, timeout=timeout, bin_folders=tuple(bin_folders))


def start_server(
    facts: Mapping[str, object],
    folder: Path,
    database: str,
    *,
    superuser: bool = False,
    bin_folders: Sequence[str] = (),
    timeout: float = 120.0,
) -> "AbstractContextManager[Throwaway]":
    """A server of our own to restore a snapshot to; see `throwaway.start`.

    Raises:
        Unreachable: there are no programs that fit, or it does not start.
    """
    from backupd.engines.postgres.throwaway import start

    return start(facts, folder, database, superuser=superuser, bin_folders=bin_folders, timeout=timeout)


def ask(place: ServerPlace, statement: str, *, timeout: float) -> "Answer":
    """The first value of the first row that a query gives; see `asking.ask`."""
    from backupd.engines.postgres.asking import ask as asked

    return asked(place, statement, timeout=timeout)


def check_references(place: ServerPlace, *, timeout: float = 30.0) -> list[str]:
    """Which foreign keys were not checked; see `asking.check_references`."""
    from backupd.engines.postgres.asking import check_references as checked

    return checked(place, timeout=timeout)


def drop(place: ServerPlace, *, timeout: float = 30.0) -> tuple[str, ...]:
    """Drop the database of a drill; see `dropping.drop`."""
    from backupd.engines.postgres.dropping import drop as dropped

    return dropped(place, timeout=timeout)
