"""Engines for the conformance suite: how to make a source, keep it busy from another process, restore and compare.

An engine joins the suite by implementing `Engine`; nothing in the suite knows SQL dialects or files.
"""

import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import apsw

from backupd.engines.base import (
    CheckLevel,
    LoadOptions,
    LoadResult,
    ServerPlace,
    ServerTarget,
    Source,
    StoredStream,
    StreamInfo,
    TableInfo,
    Target,
    View,
)
from backupd.engines.sqlite import open_source, open_target
from backupd.errors import IntegrityError
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer

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


def child(verb: str, path: Path) -> AbstractContextManager[Child]:
    """Run a verb of sqlite_child.py while the context is open."""
    return running([sys.executable, str(CHILD), verb, str(path)])


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run another process while the context is open, from the moment it says that it is ready."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=CHILD.parents[1]
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


@dataclass
class Kept:
    """A capture in memory: what a repository would keep of it."""

    streams: list[tuple[StreamInfo, bytes]]
    tables: Sequence[TableInfo]
    facts: Mapping[str, object]

    @property
    def content(self) -> dict[str, list[bytes]]:
        """What is compared between two readings of one moment: pages, and rows of tables without an order."""
        found: dict[str, list[bytes]] = {}
        for info, data in self.streams:
            if info.kind != "schema":
                found.setdefault(info.name, []).extend(sorted(data.splitlines()) if info.kind == "rows" else [data])
        return found

    def rows(self, table: str) -> int:
        """How many rows were captured of a table."""
        counted = next(t.rows for t in self.tables if t.name == table)
        return counted if counted is not None else len(self.content.get(table, []))


def keep(view: View) -> Kept:
    """Read all streams of a view: those that may be read together in threads, the late ones last."""
    data: dict[int, bytes] = {}

    def read(n: int) -> None:
        stream = view.streams[n]
        data[n] = b"".join(bytes(buffer) for buffer in view.read(stream))
        if stream.kind == "rows":
            view.counted(stream, data[n].count(b"\n"))

    early = [n for n, s in enumerate(view.streams) if not s.late]
    with ThreadPoolExecutor(view.parallel) as pool:
        for _ in pool.map(read, early):
            pass
    for n, stream in enumerate(view.streams):
        if stream.late:
            read(n)
    view.finish()
    return Kept([(s, data[n]) for n, s in enumerate(view.streams)], view.tables, dict(view.facts))


Spoil = Callable[[bytes], Iterator[bytes]]


class Engine(Protocol):
    """What the suite needs of an engine."""

    def source(self) -> Source:
        """A source with `ACCOUNTS` accounts of `OPENING` each, and no bookings."""

    def writer(self) -> AbstractContextManager[Child]:
        """Another process that moves money until the context ends."""

    def restore(self, name: str, kept: Kept, *, overwrite: str | None = None, spoil: Spoil | None = None) -> None:
        """Prepare a place to restore to, and load; `spoil` changes the bytes of the largest stream on their way."""

    def refuse(self, name: str, kept: Kept, overwrite: str | None) -> None:
        """Only prepare."""

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

    def refuse(self, name: str, kept: Kept, overwrite: str | None) -> None:
        open_target(self._folder / "targets" / name).prepare(overwrite=overwrite)

    def restore(self, name: str, kept: Kept, *, overwrite: str | None = None, spoil: Spoil | None = None) -> None:
        ((_, data),) = kept.streams
        buffers = spoil(data) if spoil else iter([data])
        target = open_target(self._folder / "targets" / name)
        restore(target, buffers, size=len(data), facts=kept.facts, check="full", overwrite=overwrite)

    def dump(self, name: str) -> Mapping[str, Sequence[tuple[object, ...]]]:
        return dump_file(self._folder / "targets" / name)

    def dump_source(self) -> Mapping[str, Sequence[tuple[object, ...]]]:
        return dump_file(self._path)

    def leavings(self) -> set[str]:
        return {path.name for path in (self._folder / "targets").iterdir()}


BANK = f"""
create table accounts (id int primary key, balance int not null, filler varchar(200));
create table bookings (id int primary key, note text);
create table "lines" (booking int, account int, primary key (booking, account));
create index lines_account on "lines" (account);
create table counter (n int);
insert into counter values (0);
insert into accounts values {", ".join(f"({n}, {OPENING}, '{n:0100}')" for n in range(ACCOUNTS))};
"""


class ServerEngine(ABC):
    """A database server: a source database, and targets whose names begin with its name."""

    engine = ""

    def __init__(self) -> None:
        self._database = self._create()

    @abstractmethod
    def _create(self) -> str:
        """Make the source database and fill it."""

    @abstractmethod
    def place(self, database: str) -> ServerPlace:
        """Where a database is."""

    @abstractmethod
    def source(self) -> Source:
        """The source."""

    @abstractmethod
    def _target(self, place: ServerPlace) -> ServerTarget:
        """A target."""

    @abstractmethod
    def _query(self, database: str, statement: str) -> list[tuple[object, ...]]:
        """Rows."""

    @abstractmethod
    def drop(self) -> None:
        """Drop all that was made."""

    def writer(self) -> AbstractContextManager[Child]:
        place = self.place(self._database)
        words = [self.engine, place.host, str(place.port), place.user, place.database, str(ACCOUNTS)]
        return running(
            [sys.executable, "-m", "tests.server_child", *words], {**os.environ, "CHILD_PASSWORD": place.password or ""}
        )

    def refuse(self, name: str, kept: Kept, overwrite: str | None) -> None:
        options = LoadOptions(overwrite=f"{self._database}_{overwrite}" if overwrite else None)
        self._target(self.place(f"{self._database}_{name}")).prepare(options, kept.facts)

    def restore(self, name: str, kept: Kept, *, overwrite: str | None = None, spoil: Spoil | None = None) -> None:
        largest = max(
            range(len(kept.streams)), key=lambda n: len(kept.streams[n][1]) * (kept.streams[n][0].kind == "rows")
        )

        def opener(n: int) -> Callable[[], Iterator[bytes]]:
            data = kept.streams[n][1]
            if spoil and n == largest:
                return lambda: spoil(data)
            return lambda: iter([data[at : at + 100_000] for at in range(0, len(data), 100_000)])

        def compare(table: str, rows: Iterator[bytes | bytearray]) -> None:
            found = sorted(b"".join(bytes(block) for block in rows).splitlines())
            if found != kept.content[table]:
                raise IntegrityError(f"table {table} is not what was stored", object_name=table)

        target = self._target(self.place(f"{self._database}_{name}"))
        target.prepare(LoadOptions(overwrite=f"{self._database}_{overwrite}" if overwrite else None), kept.facts)
        streams = [StoredStream(info, len(data), opener(n)) for n, (info, data) in enumerate(kept.streams)]
        target.load(streams, kept.tables, facts=kept.facts, check="full", compare=compare)

    def dump(self, name: str) -> Mapping[str, Sequence[tuple[object, ...]]]:
        return self._dump(f"{self._database}_{name}")

    def dump_source(self) -> Mapping[str, Sequence[tuple[object, ...]]]:
        return self._dump(self._database)

    def _dump(self, database: str) -> dict[str, list[tuple[object, ...]]]:
        quote = '"' if self.engine == "postgresql" else "`"
        names = ("accounts", "bookings", "lines", "counter")
        return {
            n: self._query(
                database,
                f"select * from {quote}{n}{quote} order by 1, 2" if n != "counter" else "select n from counter",
            )
            for n in names
        }

    @abstractmethod
    def databases(self) -> set[str]:
        """Names of all databases."""

    def leavings(self) -> set[str]:
        start = f"{self._database}_"
        return {name.removeprefix(start) for name in self.databases() if name.startswith(start)}


class PostgresEngine(ServerEngine):
    """PostgreSQL of one major version."""

    engine = "postgresql"

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        super().__init__()

    def _create(self) -> str:
        name = self._server.create_database()
        self._server.psql(name, BANK)
        return name

    def place(self, database: str) -> ServerPlace:
        return ServerPlace(self.engine, self._server.host, self._server.port, self._server.superuser, database)

    def source(self) -> Source:
        from backupd.engines.postgres import open_source as postgres_source

        return postgres_source(self.place(self._database), bin_folders=[str(self._server.bin)])

    def _target(self, place: ServerPlace) -> ServerTarget:
        from backupd.engines.postgres import open_target as postgres_target

        return postgres_target(place, bin_folders=[str(self._server.bin)])

    def _query(self, database: str, statement: str) -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self._server.url(database), autocommit=True) as link:
            return link.execute(statement.encode()).fetchall()

    def databases(self) -> set[str]:
        return {str(name) for (name,) in self._query("postgres", "select datname from pg_database")}

    def drop(self) -> None:
        for name in self.databases():
            if name.startswith(self._database):
                self._server.drop_database(name)


class MariaEngine(ServerEngine):
    """MariaDB."""

    engine = "mariadb"

    def __init__(self, server: MariaServer) -> None:
        self._server = server
        super().__init__()

    def _create(self) -> str:
        name = self._server.create_database()
        self._server.sql(BANK.replace('"', "`"), name)
        self._server.sql("analyze table accounts", name)  # its size is otherwise counted some time later
        return name

    def place(self, database: str) -> ServerPlace:
        s = self._server
        return ServerPlace(self.engine, s.host, s.port, s.root, database, {}, s.root_password)

    def source(self) -> Source:
        from backupd.engines.mariadb import open_source as mariadb_source

        return mariadb_source(self.place(self._database), bin_folders=[self._server.bin])

    def _target(self, place: ServerPlace) -> ServerTarget:
        from backupd.engines.mariadb import open_target as mariadb_target

        return mariadb_target(place, bin_folders=[self._server.bin])

    def _query(self, database: str, statement: str) -> list[tuple[object, ...]]:
        import pymysql

        s = self._server
        link = pymysql.connect(
            host=s.host, port=s.port, user=s.root, password=s.root_password, database=database or None
        )
        with link, link.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def databases(self) -> set[str]:
        return {str(name) for (name,) in self._query("", "show databases")}

    def drop(self) -> None:
        for name in self.databases():
            if name.startswith(self._database):
                self._server.drop_database(name)


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
