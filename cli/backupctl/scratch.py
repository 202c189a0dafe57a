"""Scratch places of drills: a private file, a server of our own, or a database on a server that was named.

What is in them are customers' records in the clear, so each goes as soon as its drill is over, whatever came of it; what a killed
drill left is removed by the next one. A database that a drill did not make is never touched: those that it makes have names that
nobody else uses.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupctl.memory import keep_memory, share_memory
from backupd.config.urls import DatabaseUrl, parse_database
from backupd.errors import BackupdError, Busy, Failed, Interrupted, SafetyRefused, StorageRefused
from backupd.report import Reporter, size

if TYPE_CHECKING:
    from backupd.engines.base import RuleOf
    from backupd.jobs.drill import Scratch
    from backupd.jobs.restore import RestoreResult
    from backupd.model import Answer
    from backupd.repo.repository import Repository, SnapshotView
    from backupd.wiring import ServerOptions

FOLDER = "backupd-drills"
_COMMON = Path("/var/tmp")  # noqa: S108 - what is made there is checked to be our own, and closed
OWN = frozenset({"missing-roles", "definer"})
"""What may come along in any case to a server of our own: roles and accounts are a server's, not a database's, so it has none of
them; what was theirs becomes the drill's own, which has no rights beyond its database."""
NAMED = frozenset({"missing-roles"})
"""The same to a server that was named: it may well have the accounts under which definers would run."""
ASK_SECONDS = 900.0
"""So long an assertion may take: it may count a table of hundreds of gigabytes."""
_NAME = re.compile("[0-9a-f]{16}")
_LOCK, _MADE = "lock", "database.json"
_GROWS = {"sqlite": 1.1}
"""So much larger than its streams a restored database gets, with room for what its server writes meanwhile."""
_SERVER_GROWS = 3.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a drill was told of its scratch place.

    Attributes:
        folder: below it the place is made.
        served: how to reach or start a server.
        timeout: seconds to wait for a connection, a lock, or an answer.
        into: the server on which a database may be made; None to start one.
        allow: kinds of objects that may come along.
        spool: where packs wait on disk.
    """

    folder: Path
    served: "ServerOptions"
    timeout: float
    into: DatabaseUrl | None = None
    allow: frozenset[str] = frozenset()
    spool: Path | None = None


def scratch_base(state: Path, engine: str, given: str | None) -> Path:
    """The folder below which scratch places of an engine are made.

    Args:
        state: the state folder of the repository.
        engine: of the snapshot.
        given: the folder that the user named.
    """
    if given:
        return Path(given).absolute() / FOLDER
    return (_COMMON if _runs_apart(engine) else state) / FOLDER


def _runs_apart(engine: str) -> bool:
    """Whether the engine's server runs as somebody else: one that root starts, who cannot get into root's own folders."""
    return engine != "sqlite" and os.geteuid() == 0


def make_base(base: Path, engine: str) -> None:
    """Make that folder; it is ours alone, and holds nothing else.

    Raises:
        SafetyRefused: somebody else has made the folder that it would be.
        StorageRefused: it cannot be made.
    """
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = base.lstat()
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if ours and _runs_apart(engine):
            base.chmod(0o711)
    except OSError as error:
        raise _unmade(base, error) from None
    if not ours:
        raise SafetyRefused(
            f"{base} is not a folder of this user's own", object_name=str(base), hint="name another with --scratch"
        )


def _unmade(folder: Path, error: OSError) -> StorageRefused:
    return StorageRefused(
        f"{folder} cannot be made: {error.strerror}", object_name=str(folder), hint="name another with --scratch"
    )


@contextmanager
def scratch_place(
    content: dict[str, Any], view: "SnapshotView", wanted: Wanted, report: Reporter
) -> "Iterator[Scratch]":
    """A place for one restore of this snapshot.

    Args:
        content: the snapshot's content part.
        view: the snapshot.
        wanted: what was said of the place.
        report: progress.

    Raises:
        StorageRefused: there is no room for it.
        Unreachable: no server can be started, or reached.
        SafetyRefused: the server that was named is of another kind.
    """
    engine = content["engine"]
    with _private_folder(wanted.folder) as folder:
        if engine == "sqlite":
            _room(folder, view, engine)
            yield FileScratch(folder / "restored.db", wanted)
            return
        database = f"backupd_drill_{secrets.token_hex(8)}"
        if wanted.into is not None:
            _same_kind(engine, wanted.into)
            url = replace(wanted.into, database=database)
            with _dropped(url, folder, wanted, report):
                yield ServerScratch(url, wanted.served, wanted, f"a database on {url.host or 'this host'}", None)
            return
        _room(folder, view, engine)
        report.phase("starting a server")
        yield from _started(content, folder, database, wanted)


@contextmanager
def _dropped(url: DatabaseUrl, folder: Path, wanted: Wanted, report: Reporter) -> Iterator[None]:
    """Drop a database at the end. As long as it may be there, its folder says so, and stays for the next drill."""
    (folder / _MADE).write_text(json.dumps({"database": str(url)}))
    try:
        yield
    except BaseException:
        try:
            _drop(url, folder, wanted)
        except Failed as error:
            report.warning(f"{error.message}: {error.hint}")
        raise
    _drop(url, folder, wanted)


def _drop(url: DatabaseUrl, folder: Path, wanted: Wanted) -> None:
    from backupd.drilling import drop_scratch

    try:
        drop_scratch(url, timeout=wanted.timeout, options=wanted.served)
    except Interrupted:
        raise
    except BackupdError as error:
        raise Failed(
            f"{url} may still hold what the drill restored, in the clear: {error.message}",
            object_name=str(url),
            hint="drill on that server again, which drops it, or drop it by hand",
        ) from None
    (folder / _MADE).unlink()


def _started(content: dict[str, Any], folder: Path, database: str, wanted: Wanted) -> "Iterator[Scratch]":
    """On a server of our own, as long as it runs."""
    from backupd.drilling import start_server

    home = folder / "server"
    home.mkdir(mode=0o700)
    folder.chmod(0o711)  # its server may run as a user who owns nothing else
    rights = bool(wanted.allow - OWN)
    served = replace(wanted.served, password=None)
    with start_server(content["engine"], content["facts"], home, database, superuser=rights, options=served) as server:
        options = replace(server.options, jobs=served.jobs)
        yield ServerScratch(server.url, options, wanted, f"a server of our own, {server.version}", server.version)


def _same_kind(engine: str, url: DatabaseUrl) -> None:
    kinds = {"postgresql"} if engine == "postgresql" else {"mariadb", "mysql"}
    if url.engine not in kinds:
        raise SafetyRefused(
            f"the snapshot is of {engine}, and the scratch server of {url.engine}",
            object_name=str(url),
            hint="name a server of the same kind, or none: one is started for the drill",
        )


def _room(folder: Path, view: "SnapshotView", engine: str) -> None:
    needed = int(view.structure.read_bytes * _GROWS.get(engine, _SERVER_GROWS))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageRefused(
            f"a drill of this snapshot takes about {size(needed)} for a while, and {folder} has {size(free)} left",
            object_name=str(folder),
            hint="name another folder with --scratch",
        )


@contextmanager
def _private_folder(base: Path) -> Iterator[Path]:
    """A folder of our own, locked while it is ours; it and all that is in it goes at the end."""
    folder = base / secrets.token_hex(8)
    with contextlib.ExitStack() as held:
        try:
            with _locked(base, wait=True):  # nobody looks for leftovers between these two
                folder.mkdir(mode=0o700)
                held.callback(_leave, folder)
                held.enter_context(_locked(folder))
        except OSError as error:
            raise _unmade(folder, error) from None
        yield folder


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        Busy: somebody else holds it.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor, folder, 0 if wait else fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, how: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
    except BlockingIOError:
        raise Busy(f"a drill is at work in {folder}", object_name=str(folder)) from None


def _leave(folder: Path) -> None:
    """Remove a drill's folder, unless it says which database must be dropped yet."""
    if not (folder / _MADE).exists():
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a drill's folder.

    Raises:
        Failed: something is left.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise Failed(
            f"{folder} cannot be removed, and holds restored records in the clear",
            object_name=str(folder),
            hint="remove it by hand",
        )


def clear_leftovers(wanted: Wanted, report: Reporter) -> None:
    """Remove what killed drills have left in the scratch folder, and on the server that was named."""
    with _locked(wanted.folder, wait=True):
        for folder in sorted(wanted.folder.iterdir()):
            if _NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                try:
                    with _locked(folder):
                        _clear(folder, wanted, report)
                except Busy:
                    continue
                except Interrupted:
                    raise
                except (BackupdError, OSError) as error:
                    report.warning(f"what a drill has left in {folder} is still there: {error}")


def _clear(folder: Path, wanted: Wanted, report: Reporter) -> None:
    database = _made(folder)
    if database is not None and (wanted.into is None or database != replace(wanted.into, database=database.database)):
        report.warning(f"a drill that was cut off has left the database {database}: drop it")
        return
    if database is not None:
        _drop(database, folder, wanted)
    _remove(folder)


def _made(folder: Path) -> DatabaseUrl | None:
    """The database that a drill made on a server, by its folder."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, BackupdError):
        return parse_database(json.loads((folder / _MADE).read_text())["database"])
    return None


@dataclass(frozen=True, slots=True)
class FileScratch:
    """A file that nobody else may read."""

    path: Path
    wanted: Wanted
    what: str = "a private file"
    version: str | None = None

    def restore(
        self, repo: "Repository", view: "SnapshotView", erased: "RuleOf | None", report: Reporter
    ) -> "RestoreResult":
        """See `jobs.drill.Scratch`."""
        from backupd.jobs.restore import restore
        from backupd.wiring import open_target

        keep_memory()
        target = open_target(self._url)
        target.prepare(overwrite=None)
        return restore(repo, view, target, check="full", report=report, spool_folder=self.wanted.spool, erased=erased)

    def references(self) -> Sequence[str]:
        """See `jobs.drill.Scratch`."""
        from backupd.drilling import check_references

        return check_references(self._url, timeout=self.wanted.timeout)

    def ask(self, statement: str) -> "Answer":
        """See `jobs.drill.Scratch`."""
        from backupd.drilling import ask_database

        return ask_database(self._url, statement, timeout=ASK_SECONDS)

    @property
    def _url(self) -> DatabaseUrl:
        return DatabaseUrl("sqlite", self.path)


@dataclass(frozen=True, slots=True)
class ServerScratch:
    """A database on a server."""

    url: DatabaseUrl
    served: "ServerOptions" = field(repr=False)
    wanted: Wanted
    what: str
    version: str | None

    def restore(
        self, repo: "Repository", view: "SnapshotView", erased: "RuleOf | None", report: Reporter
    ) -> "RestoreResult":
        """See `jobs.drill.Scratch`."""
        from backupd.engines.base import LoadOptions
        from backupd.jobs.load import load
        from backupd.wiring import open_server_target

        share_memory()
        target = open_server_target(self.url, timeout=self.wanted.timeout, options=self.served)
        allow = self.wanted.allow | ((NAMED if self.version is None else OWN) & target.kinds)
        engines = ["postgresql"] if self.url.engine == "postgresql" else ["mariadb", "mysql"]
        return load(
            repo,
            view,
            target,
            engines,
            LoadOptions(allow=allow, jobs=self.served.jobs),
            check="full",
            report=report,
            spool_folder=self.wanted.spool,
            erased=erased,
        )

    def references(self) -> Sequence[str]:
        """See `jobs.drill.Scratch`."""
        from backupd.drilling import check_references

        return check_references(self.url, timeout=self.wanted.timeout, options=self.served)

    def ask(self, statement: str) -> "Answer":
        """See `jobs.drill.Scratch`."""
        from backupd.drilling import ask_database

        return ask_database(self.url, statement, timeout=ASK_SECONDS, options=self.served)
