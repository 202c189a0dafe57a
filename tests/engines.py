"""Engines for the conformance suite: how to make a source, keep it busy from another process, restore and compare.

An engine joins the suite by implementing `Engine`; nothing in the suite knows SQL dialects or files.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import apsw

from backupd.engines.base import CheckLevel, LoadResult, Source, Target
from backupd.engines.sqlite import open_source, open_target

CHILD = Path(__file__).with_name("sqlite_child.py")
ACCOUNTS = 2000
OPENING = 1000


@dataclass
class Child:
    """Another process at work, and what it printed at its end."""

    process: "subprocess.Popen[str]"
    said: str = ""
    result: dict[str, float] = field(default_factory=dict)

    def kill(self) -> None:
        """As the power switch would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def child(verb: str, path: Path) -> Iterator[Child]:
    """Run a verb of sqlite_child.py while the context is open, from the moment it says that it is ready."""
    with subprocess.Popen(
        [sys.executable, str(CHILD), verb, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        running = Child(process, process.stdout.readline().strip())
        try:
            yield running
        finally:
            process.stdin.close()
            last = process.stdout.read()
            running.result = json.loads(last) if last else {}
            assert process.wait() in {0, -signal.SIGKILL}


def make_bank(path: Path, journal_mode: str = "delete", *settings: str) -> None:
    """A database of accounts with a fixed sum, and bookings with two lines each."""
    db = apsw.Connection(str(path))
    for setting in settings:
        db.execute(f"PRAGMA {setting}").fetchall()
    db.execute(f"PRAGMA journal_mode={journal_mode}").fetchall()
    with db:
        db.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, filler TEXT)")
        db.execute("CREATE TABLE bookings (id INTEGER PRIMARY KEY, note TEXT)")
        db.execute("CREATE TABLE lines (booking INT, account INT, PRIMARY KEY (booking, account)) WITHOUT ROWID")
        db.execute("CREATE INDEX lines_account ON lines (account)")
        db.execute("CREATE TABLE counter (n)")
        db.execute("INSERT INTO counter VALUES (0)")
        db.executemany("INSERT INTO accounts VALUES (?, ?, ?)", ((i, OPENING, f"{i:0100}") for i in range(ACCOUNTS)))
    db.close()


class Engine(Protocol):
    """What the suite needs of an engine."""

    def source(self) -> Source:
        """A source with `ACCOUNTS` accounts of `OPENING` each, and no bookings."""

    def writer(self) -> AbstractContextManager[Child]:
        """Another process that moves money until the context ends."""

    def target(self, name: str) -> Target:
        """A place to restore to that does not exist yet."""

    def dump(self, name: str) -> Mapping[str, Sequence[tuple[object, ...]]]:
        """Every row of every table of a restored target, in key order; the engine's own check is ok."""

    def dump_source(self) -> Mapping[str, Sequence[tuple[object, ...]]]:
        """The same of the source."""

    def leavings(self) -> set[str]:
        """What lies in the place of the targets, hidden things included."""


class SqliteEngine:
    """SQLite in one journal mode."""

    def __init__(self, folder: Path, journal_mode: str) -> None:
        self._folder = folder
        self._path = folder / "source" / "bank.db"
        self._path.parent.mkdir()
        (folder / "targets").mkdir()
        make_bank(self._path, journal_mode)

    def source(self) -> Source:
        return open_source(self._path)

    def writer(self) -> AbstractContextManager[Child]:
        return child("transfers", self._path)

    def target(self, name: str) -> Target:
        return open_target(self._folder / "targets" / name)

    def dump(self, name: str) -> Mapping[str, Sequence[tuple[object, ...]]]:
        return dump_file(self._folder / "targets" / name)

    def dump_source(self) -> Mapping[str, Sequence[tuple[object, ...]]]:
        return dump_file(self._path)

    def leavings(self) -> set[str]:
        return {path.name for path in (self._folder / "targets").iterdir()}


def dump_file(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of an SQLite file, whose integrity_check must be ok."""
    db = apsw.Connection(str(path))
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        return {name: db.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
    finally:
        db.close()


def restore(
    target: Target,
    buffers: Iterable[bytes],
    *,
    size: int,
    facts: Mapping[str, object],
    check: CheckLevel = "quick",
    overwrite: str | None = None,
) -> LoadResult:
    """Prepare and load, as a restore does."""
    target.prepare(overwrite=overwrite)
    return target.load(buffers, size=size, facts=facts, check=check)
