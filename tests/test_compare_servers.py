"""Records compared on real servers: the truth is what the server itself says of both moments, by plain set difference."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import apsw
import psycopg
import pymysql
import pytest

from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Keyring
from backupd.engines.base import ServerPlace, Source
from backupd.jobs.backup import BackupOptions, backup
from backupd.jobs.comparison import Comparison
from backupd.records.values import Record
from backupd.repo.ledger import Ledger
from backupd.repo.repository import Repository
from backupd.report import Tally
from tests.cli.kit import CHINOOK, User
from tests.jobs_kit import Kit, utc_now
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tests.test_chinook import script
from tests.unit.jobs.test_compare import look
from tests.unit.jobs.test_compare_live import live

pytestmark = pytest.mark.slow
Rows = Counter[tuple[object, ...]]
KEYS = {"customers": (0,), "pairs": (0, 1), "uuids": (0,), "bag": ()}
SCHEMA = """
create table customers (id int primary key, mail text, credit numeric(12, 2), photo {bytes}, at timestamp null);
create table pairs (a varchar(40) {exact} not null, b int not null, note text, primary key (a, b));
create table uuids (u char(36) {exact} primary key, n int);
create table bag (x varchar(20), y int);
"""


class Server(Protocol):
    """A database, and what the tests do with it."""

    heavy: str
    numbers: str

    def execute(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""

    def rows(self, table: str) -> Rows:
        """All rows."""

    def source(self) -> Source:
        """To capture it."""


@dataclass
class Postgres:
    server: PostgresServer
    database: str
    heavy: str = "vacuum full {0}"
    numbers: str = "select n from generate_series({0}, {1}) as n"

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.server.url(self.database), autocommit=True) as link:
            for statement in statements:
                link.execute(statement.encode())

    def rows(self, table: str) -> Rows:
        with psycopg.connect(self.server.url(self.database)) as link:
            return Counter(link.execute(f"select * from {table}".encode()).fetchall())

    def source(self) -> Source:
        from backupd.engines.postgres import open_source

        place = ServerPlace("postgresql", self.server.host, self.server.port, self.server.superuser, self.database)
        return open_source(place, bin_folders=[str(self.server.bin)])


@dataclass
class Maria:
    server: MariaServer
    database: str
    heavy: str = "optimize table {0}"
    numbers: str = "select seq as n from seq_{0}_to_{1}"

    def _link(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        s = self.server
        return pymysql.connect(
            host=s.host,
            port=s.port,
            user=s.root,
            password=s.root_password,
            database=self.database,
            autocommit=True,
            ssl_disabled=True,  # reading the system's certificates costs more than most statements
        )

    def execute(self, *statements: str) -> None:
        with self._link() as link, link.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, table: str) -> Rows:
        with self._link() as link, link.cursor() as cursor:
            cursor.execute(f"select * from {table}")
            return Counter(cursor.fetchall())

    def source(self) -> Source:
        from backupd.engines.mariadb import open_source

        s = self.server
        place = ServerPlace("mariadb", s.host, s.port, s.root, self.database, {}, s.root_password)
        return open_source(place, bin_folders=[s.bin])


@pytest.fixture(params=["postgresql", "mariadb"])
def server(
    request: pytest.FixtureRequest,
) -> Iterator[Server]:
    """A database of each server, dropped at the end."""
    if request.param == "postgresql":
        servers: Callable[[int], PostgresServer] = request.getfixturevalue("postgres_servers")
        pg = servers(18)
        name = pg.create_database()
        yield Postgres(pg, name)
        pg.drop_database(name)
    else:
        maria: MariaServer = request.getfixturevalue("mariadb_server")
        name = maria.create_database()
        yield Maria(maria, name)
        maria.drop_database(name)


def take(kit: Kit, source: Source) -> str:
    key = kit.keys[Role.WRITE]
    repo = Repository.open(kit.store, Keyring((key,)), Ledger.load(kit.places("writer").state))
    options = BackupOptions("db", threads=2)
    return backup(
        source, repo, key, folder=kit.places("writer"), clock=utc_now, options=options, report=Tally()
    ).snapshot


def fill(server: Server, first: int, count: int) -> list[str]:
    last = first + count - 1
    postgres = isinstance(server, Postgres)
    words = r"concat(E'a\tb\n', n, E'\\N')" if postgres else r"concat('a\tb\n', n, '\\N')"
    blob = "decode(md5(n::text), 'hex')" if postgres else "unhex(md5(n))"
    text = "n::text" if postgres else "cast(n as char)"
    numbers = f"({server.numbers.format(first, last)}) as q"
    return [
        f"insert into customers select n, {words}, n / 4.0, case when n % 3 = 0 then null else {blob} end, null from {numbers}",
        f"insert into pairs select concat('k', n % 50), n, {text} from {numbers}",
        f"insert into uuids select concat('00000000-0000-0000-0000-', lpad({text}, 12, '0')), n % 5 from {numbers}",
        f"insert into bag select case when n % 7 = 0 then null else 'x' end, n % 9 from {numbers}",
    ]


def edits(server: Server, night: int) -> list[str]:
    """What happened in a night, drawn at random."""
    noise = random.Random(night)
    at = noise.randrange(97)
    all_edits = [
        [f"update customers set mail = 'night {night}', at = '2026-01-0{night % 9 + 1}' where id % 97 = {at}"],
        [f"delete from customers where id % 89 = {at % 89}", f"delete from pairs where b % 71 = {at % 71}"],
        [f"update customers set id = -id where id % 91 = {at % 91} and id > 0"],
        [
            f"update uuids set n = n + 1 where u like '%{at % 10}{at % 7}'",
            f"delete from bag where y = {at % 9} and x is null",
        ],
        fill(server, 100_000 * (night + 1), 40),
        [
            f"update pairs set a = concat('m', a) where b % 83 = {at % 83}",
            "insert into bag values (null, null), ('x', 1)",
        ],
        [server.heavy.format(table) for table in ("customers", "bag")],
    ]
    return [statement for some in noise.sample(all_edits, 3) for statement in some]


def truth(old: Rows, new: Rows, key: tuple[int, ...]) -> tuple[int, int, int]:
    if not key:
        return sum((new - old).values()), sum((old - new).values()), 0
    was, now = ({tuple(row[at] for at in key): row for row in side} for side in (old, new))
    changed = sum(was[k] != now[k] for k in was.keys() & now.keys())
    return len(now.keys() - was.keys()), len(was.keys() - now.keys()), changed


def counted(found: Comparison) -> dict[str, tuple[int, int, int]]:
    assert [t.reason for t in found.tables if t.reason] == []
    return {t.name: (t.added, t.removed, t.changed) for t in found.tables}


def all_rows(server: Server) -> dict[str, Rows]:
    return {table: server.rows(table) for table in KEYS}


def expected(old: dict[str, Rows], new: dict[str, Rows]) -> dict[str, tuple[int, int, int]]:
    return {table: truth(old[table], new[table], key) for table, key in KEYS.items()}


def make(server: Server) -> None:
    postgres = isinstance(server, Postgres)
    exact = "" if postgres else "character set ascii collate ascii_bin"
    script = SCHEMA.format(bytes="bytea" if postgres else "blob", exact=exact)
    server.execute(*filter(str.strip, script.split(";")), *fill(server, 1, 3000))


def test_nights_of_edits(tmp_path: Path, server: Server) -> None:
    """Updates, deletes, new keys, changed keys, rewritten heaps: any two nights, and the live rows, differ by the truth."""
    kit = Kit(tmp_path)
    make(server)
    states, snapshots = [all_rows(server)], [take(kit, server.source())]
    for night in range(5):
        server.execute(*edits(server, night))
        states.append(all_rows(server))
        snapshots.append(take(kit, server.source()))
    for old, new in ((0, 5), (5, 0), (4, 5), (1, 3)):
        found, records = look(kit, snapshots[old], snapshots[new])
        assert counted(found) == expected(states[old], states[new])
        assert found.schema_changes == []
        check_values(records["customers"], states[old]["customers"], states[new]["customers"])
    server.execute(*edits(server, 7))
    now, _ = live(kit, snapshots[2], server.source())
    assert counted(now) == expected(states[2], all_rows(server))
    same, _ = live(kit, take(kit, server.source()), server.source())
    assert set(counted(same).values()) == {(0, 0, 0)}


def check_values(told: list[Record], old: Rows, new: Rows) -> None:
    """Keys, texts and bytes are those that the server has."""
    was, now = ({row[0]: row for row in side} for side in (old, new))
    for record in told:
        for side, row in ((was, record.old), (now, record.new)):
            if row is not None:
                found = side[row[0]]
                assert (row[1], row[3]) == (found[1], None if found[3] is None else bytes(found[3]))  # type: ignore[arg-type]


def test_a_rewritten_heap_is_no_change(tmp_path: Path, server: Server) -> None:
    """After the server wrote a table anew nothing is told, and nothing of it is read."""
    kit = Kit(tmp_path)
    make(server)
    server.execute("update customers set mail = 'x' where id % 3 = 0", "update bag set y = y + 1 where y < 3")
    one = take(kit, server.source())
    server.execute(*(server.heavy.format(table) for table in KEYS))
    two = take(kit, server.source())
    found, records = look(kit, one, two)
    assert set(counted(found).values()) == {(0, 0, 0)}
    assert (records, found.fetched_bytes) == ({}, 0)


def test_a_schema_that_changed(tmp_path: Path, server: Server) -> None:
    """Added, removed and retyped columns are told apart; the rows are compared on what both sides write alike."""
    kit = Kit(tmp_path)
    make(server)
    one = take(kit, server.source())
    retype = "alter column n type bigint" if isinstance(server, Postgres) else "modify column n bigint"
    server.execute(
        "alter table customers add column extra int default 5",
        "alter table customers drop column at",
        f"alter table uuids {retype}",
        "update customers set mail = 'new' where id = 77",
        "create view v as select 1 as one",
    )
    two = take(kit, server.source())
    for found, records in (look(kit, one, two), live(kit, one, server.source())):
        assert counted(found) == {"customers": (0, 0, 1), "pairs": (0, 0, 0), "uuids": (0, 0, 0), "bag": (0, 0, 0)}
        assert records["customers"][0].key == (77,)
        changes = {(c.table, c.change, c.object) for c in found.schema_changes if c.table}
        assert changes == {
            ("customers", "column added", "extra"),
            ("customers", "column removed", "at"),
            ("uuids", "column retyped", "n"),
        }
    assert "definitions changed" in {c.change for c in look(kit, one, two)[0].schema_changes}


def test_chinook_in_three_engines(
    tmp_path: Path, postgres_servers: Callable[[int], PostgresServer], mariadb_server: MariaServer
) -> None:
    """The same mistake in three databases is told in the same words, by key."""
    user = User(tmp_path)
    user.init()
    postgres, maria = postgres_servers(18), mariadb_server
    ours, theirs = postgres.create_database(), maria.create_database()
    postgres.psql(ours, script("Chinook_PostgreSql.sql"))
    maria.sql(script("Chinook_MySql.sql"), theirs)
    (tmp_path / "c.db").write_bytes(CHINOOK.read_bytes())
    tools = ["--tools", str(postgres.bin), "--tools", str(maria.bin)]
    secret = ["--password-file", str(maria.root_password_file)]
    mistake = "delete from {0} where {1} = 100; update {2} set {3} = 'gone' where {4} = 3"
    words = "InvoiceLine", "InvoiceId", "Customer", "Email", "CustomerId"
    snake = "invoice_line", "invoice_id", "customer", "email", "customer_id"
    try:
        places: list[tuple[str, str, list[str]]] = [
            ("p", postgres.url(ours), tools),
            ("m", maria.url(theirs), [*tools, *secret]),
            ("s", str(tmp_path / "c.db"), []),
        ]
        for name, url, more in places:
            user.back_up(url, "--name", name, *more)
        postgres.psql(ours, mistake.format(*snake))
        maria.sql(mistake.format(*words), theirs)
        db = apsw.Connection(str(tmp_path / "c.db"))
        db.execute(mistake.format(*words)).fetchall()
        db.close()
        told = []
        for name, url, more in places:
            table = snake if name == "p" else words
            lines = user.run(
                "diff", f"latest:{name}", "live", "--source", url, "--table", table[0], "--json", *more, key="read"
            )
            assert lines.code == 0, lines.err
            mail = user.run(
                "diff",
                f"latest:{name}",
                "live",
                "--source",
                url,
                "--table",
                table[2],
                "--columns",
                "--json",
                *more,
                key="read",
            )
            (changed,) = mail.document["records"]
            told.append(
                ([(r["op"], r["key"]) for r in lines.document["records"]], changed["key"], [*changed["new"].values()])
            )
        assert told[0] == told[1] == told[2]
        assert told[0] == ([("removed", n) for n in range(535, 539)], 3, ["gone"])
    finally:
        postgres.psql("postgres", f'drop database if exists "{ours}"')
        maria.sql(f"drop database if exists `{theirs}`")
