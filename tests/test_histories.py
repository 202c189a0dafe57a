"""Thirty nights at random in each real engine: what diff, find and query say of them is what plain copies of the rows say.

Nothing here knows how snapshots are made: after each night all rows are read from the database itself and kept, and the
truth is a set difference of two such copies.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import psycopg
import pymysql
import pytest

from backupd.engines.base import Source
from backupd.engines.sqlite import open_source
from backupd.jobs.find import Asked
from backupd.model import Cell, Cells
from backupd.records.values import Record
from tests.jobs_kit import Kit
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tests.test_compare_servers import Maria, Postgres, take
from tests.unit.jobs.test_compare import look
from tests.unit.jobs.test_find import seek
from tests.unit.jobs.test_query import ask

NIGHTS = 30
KEYS = {"customers": ("id",), "pairs": ("a", "b"), "names": ("name",), "uuids": ("u",), "bag": ()}
COLUMNS = {
    "customers": ("id", "mail", "note"),
    "pairs": ("a", "b", "note"),
    "names": ("name", "n"),
    "uuids": ("u", "n"),
    "bag": ("x", "y"),
}
SCHEMA = """
create table customers (id {int} primary key, mail {text}, note {text});
create table pairs (a {text} not null, b int not null, note {text}, primary key (a, b));
create table names (name {text} not null primary key, n int);
create table uuids (u {uuid} not null primary key, n int);
create table bag (x {text}, y int)
"""
ODD = [
    "",
    " ",
    "a",
    "A",
    "a ",
    "\\",
    "\\N",
    "\t",
    "line\nline",
    "'; drop table bag; --",
    "x,y",
    "x\\,y",
    "%",
    "é",
    "e\u0301",
    "𝄞",
]
Copy = dict[str, Counter[Cells]]
Run = Callable[[str, Sequence[object]], list[Cells]]


@dataclass
class Place:
    """A database: how a statement with %s is run in it, how it is captured, and how it writes a table anew."""

    run: Run
    source: Callable[[], Source]
    heavy: str
    types: Mapping[str, str]


@contextmanager
def postgres_place(request: pytest.FixtureRequest, _: Path) -> Iterator[Place]:
    """A database of PostgreSQL."""
    servers: Callable[[int], PostgresServer] = request.getfixturevalue("postgres_servers")
    server = servers(18)
    name = server.create_database()
    with psycopg.connect(server.url(name), autocommit=True) as link:

        def run(statement: str, values: Sequence[object] = ()) -> list[Cells]:
            cursor = link.execute(statement.encode(), values or None)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

        types = {"int": "int", "text": "text", "uuid": "uuid"}
        yield Place(run, Postgres(server, name).source, "vacuum full {}", types)
    server.drop_database(name)


@contextmanager
def mariadb_place(request: pytest.FixtureRequest, _: Path) -> Iterator[Place]:
    """A database of MariaDB; its texts differ as bytes do."""
    server: MariaServer = request.getfixturevalue("mariadb_server")
    name = server.create_database()
    link = pymysql.connect(
        host=server.host, port=server.port, user=server.root, password=server.root_password, database=name,
        autocommit=True, charset="utf8mb4",
    )  # fmt: skip
    with closing(link), link.cursor() as cursor:

        def run(statement: str, values: Sequence[object] = ()) -> list[Cells]:
            cursor.execute(statement, values or None)
            return [tuple(row) for row in cursor.fetchall()]

        text = "varchar(700) character set utf8mb4 collate utf8mb4_nopad_bin"
        types = {"int": "int", "text": text, "uuid": "char(36) character set ascii"}
        yield Place(run, Maria(server, name).source, "optimize table {}", types)
    server.drop_database(name)


@contextmanager
def sqlite_place(_: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    """A file of SQLite."""
    path = folder / "source.db"
    with closing(apsw.Connection(str(path))) as db:

        def run(statement: str, values: Sequence[object] = ()) -> list[Cells]:
            return [tuple(row) for row in db.execute(statement.replace("%s", "?"), tuple(values)).fetchall()]  # type: ignore[arg-type]

        types = {"int": "integer", "text": "text", "uuid": "text"}
        yield Place(run, lambda: open_source(path, timeout=5), "vacuum", types)


PLACES = {"postgresql": postgres_place, "mariadb": mariadb_place, "sqlite": sqlite_place}


def copy(place: Place) -> Copy:
    """All rows that there are now."""

    def cell(value: object) -> Cell:
        return value if isinstance(value, int | str | None) else str(value)

    return {t: Counter(tuple(map(cell, row)) for row in place.run(f"select * from {t}", ())) for t in KEYS}


@dataclass
class Life:
    """What users do to the database, drawn at random."""

    place: Place
    noise: random.Random
    past: list[Copy] = field(default_factory=list)
    made: int = 0

    def row(self, table: str) -> Cells:
        """A new row, with a key that no row ever had."""
        self.made += 1
        n, noise = self.made, self.noise
        text = noise.choice(ODD) + "~" * noise.choice([0, 20, 600])
        if table == "customers":
            return n, text, noise.choice([None, text])
        if table == "pairs":
            return f"{noise.choice(ODD)}{n % 7}", n, text
        if table == "names":
            return f"{noise.choice(ODD)}{n}" if n > len(ODD) * 5 else f"{ODD[n % len(ODD)]}{n}", noise.choice([None, n])
        if table == "uuids":
            return f"{noise.getrandbits(32):08x}-0000-4000-8000-{n:012x}", noise.randrange(5)
        return noise.choice([None, "", "x", text]), noise.choice([None, noise.randrange(4)])

    def insert(self, table: str, rows: Sequence[Cells]) -> None:
        for row in rows:
            self.place.run(f"insert into {table} values ({', '.join(['%s'] * len(row))})", row)

    def delete(self, table: str, row: Cells) -> None:
        """Every row that is equal, or has its key."""
        names, values = self.match(table, row)
        self.place.run(f"delete from {table} where {names}", values)

    def match(self, table: str, row: Cells) -> tuple[str, list[Cell]]:
        pairs = list(zip(COLUMNS[table], row, strict=True))
        wanted = [(name, value) for name, value in pairs if not KEYS[table] or name in KEYS[table]]
        texts = [f"{name} is null" if value is None else f"{name} = %s" for name, value in wanted]
        return " and ".join(texts), [value for _, value in wanted if value is not None]

    def some(self, table: str) -> list[Cells]:
        rows = sorted(self.past[-1][table], key=repr)
        return self.noise.sample(rows, min(len(rows), self.noise.choice([1, 1, 3, 12])))

    def night(self) -> None:
        """Everything that happens between two snapshots."""
        for _ in range(self.noise.choice([0, 1, 2, 3, 4])):
            table = self.noise.choice(list(KEYS))
            self.noise.choice([self.add, self.take_away, self.change, self.rekey, self.move, self.rewrite, self.again])(
                table
            )
            self.past[-1:] = [copy(self.place)]

    def add(self, table: str) -> None:
        self.insert(table, [self.row(table) for _ in range(self.noise.choice([1, 2, 40]))])

    def take_away(self, table: str) -> None:
        for row in self.some(table):
            self.delete(table, row)

    def change(self, table: str) -> None:
        """Values of columns that are no key."""
        for row in self.some(table):
            names, values = self.match(table, row)
            column = COLUMNS[table][-1]
            self.place.run(f"update {table} set {column} = %s where {names}", [self.row(table)[-1], *values])

    def rekey(self, table: str) -> None:
        """The first column gets another value, which may be a part of a key."""
        for row in self.some(table):
            names, values = self.match(table, row)
            column = COLUMNS[table][0]
            self.place.run(f"update {table} set {column} = %s where {names}", [self.row(table)[0], *values])

    def move(self, table: str) -> None:
        """The same rows, gone and written again, as often as they were there."""
        for row in self.some(table):
            times = self.past[-1][table][row]
            self.delete(table, row)
            self.insert(table, [row] * times)

    def rewrite(self, table: str) -> None:
        self.place.run(self.place.heavy.format(table), ())

    def again(self, table: str) -> None:
        """Rows as they were in an earlier night."""
        for row in sorted(self.noise.choice(self.past)[table], key=repr)[:1]:
            self.delete(table, row)
            self.insert(table, [row])


def key_of(table: str, row: Cells) -> Cells:
    """The part of a row that is the key; the row itself without one."""
    return tuple(row[COLUMNS[table].index(name)] for name in KEYS[table]) or row


def differences(old: Copy, new: Copy) -> dict[str, Counter[tuple[str, Cells | None, Cells | None]]]:
    """What is different, by plain set difference."""
    found = {}
    for table, key in KEYS.items():
        gone, come = old[table] - new[table], new[table] - old[table]
        told: Counter[tuple[str, Cells | None, Cells | None]] = Counter()
        if not key:
            told.update({("removed", row, None): n for row, n in gone.items()})
            told.update({("added", None, row): n for row, n in come.items()})
        else:
            was, now = ({key_of(table, row): row for row in side} for side in (gone, come))
            for k in was.keys() | now.keys():
                word = "changed" if k in was and k in now else "removed" if k in was else "added"
                told[word, was.get(k), now.get(k)] += 1
        if told:
            found[table] = told
    return found


def told(records: Mapping[str, Sequence[Record]]) -> dict[str, Counter[tuple[str, Cells | None, Cells | None]]]:
    """What `diff` says is different, in the same words."""
    return {table: Counter((r.op, r.old, r.new) for r in some) for table, some in records.items() if some}


def check_find(kit: Kit, snapshots: Sequence[str], copies: Sequence[Copy], table: str, key: Cells) -> None:
    """A key through time: where it is, and each version of its record once for each time that it began."""
    found = seek(kit, Asked(table, tuple(map(str, key))))
    rows = [next((row for row in copy[table] if key_of(table, row) == key), None) for copy in copies]
    begun = [n for n, row in enumerate(rows) if row is not None and (n == 0 or rows[n - 1] != row)]
    assert found.present == [snapshots[n] for n, row in enumerate(rows) if row is not None]
    assert [(v.snapshot, v.values) for v in found.versions] == [(snapshots[n], rows[n]) for n in begun]


def quoted(value: Cell) -> str:
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def check_query(kit: Kit, snapshot: str, kept: Copy, table: str, key: Cells) -> None:
    """A key asked for by SQL, and the table as a whole."""
    condition = " and ".join(f"{name} = {quoted(v)}" for name, v in zip(KEYS[table], key, strict=True))
    _, rows, _ = ask(kit, f"select * from {table} where {condition}", snapshot)
    assert rows == [row for row in kept[table] if key_of(table, row) == key]
    _, rows, _ = ask(kit, f"select * from {table}", snapshot)
    assert Counter(rows) == kept[table]


def check(kit: Kit, snapshots: Sequence[str], copies: Sequence[Copy], noise: random.Random) -> None:
    """Random pairs of nights and random keys."""
    last = len(snapshots) - 1
    for old, new in [(0, last), (last, 0), (last - 1, last), *(noise.sample(range(last + 1), 2) for _ in range(5))]:
        found, records = look(kit, snapshots[old], snapshots[new])
        assert [t.reason for t in found.tables if t.reason] == []
        assert told(records) == differences(copies[old], copies[new])
    for table in [name for name, key in KEYS.items() if key]:
        ever = sorted({key_of(table, row) for copy in copies for row in copy[table]}, key=repr)
        for key in noise.sample(ever, 2):
            check_find(kit, snapshots, copies, table, key)
            night = noise.randrange(last + 1)
            check_query(kit, snapshots[night], copies[night], table, key)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "seed"), [("postgresql", 1), ("mariadb", 2), ("sqlite", 3)])
def test_thirty_nights(request: pytest.FixtureRequest, tmp_path: Path, engine: str, seed: int) -> None:
    """Inserts, deletes, updates, other keys, moved rows, rewritten heaps: composite, text, UUID and no keys."""
    kit = Kit(tmp_path)
    with PLACES[engine](request, tmp_path) as place:
        for statement in SCHEMA.format(**place.types).split(";"):
            place.run(statement, ())
        life = Life(place, random.Random(seed))
        for table in KEYS:
            life.insert(table, [life.row(table) for _ in range(80)])
        snapshots: list[str] = []
        for _ in range(NIGHTS):
            life.past.append(copy(place))
            life.night()
            snapshots.append(take(kit, place.source()))
        check(kit, snapshots, life.past, random.Random(seed))
