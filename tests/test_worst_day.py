"""The worst day on Chinook in three engines: one scenario, told once, in every engine's own words.

A customer with invoices, tickets, a wallet and its card in a circle, and visits without a key is deleted by mistake while
others go on writing. The truth is what the database itself holds before, between and after, in all of its tables.
"""

import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import apsw
import pytest

from backupd.crypto.keyfile import Role
from backupd.engines.base import ServerPlace, Source
from backupd.engines.live import Live
from backupd.errors import Exit, Failed, SafetyRefused, TryAgain
from backupd.jobs.find import Asked
from backupd.jobs.recover import Recovery, carry_out, prepare, prepare_undo, read_undo, take_back
from backupd.jobs.recoverroots import Wanted
from backupd.jobs.recoverrules import parse_rules
from backupd.jobs.stored import Erased
from backupd.jobs.storedtables import opened_tables
from backupd.records.plan import Rules
from backupd.records.subject import parse_subject
from backupd.report import Tally
from backupd.wiring import open_file_database
from tests.cli.kit import CHINOOK
from tests.erasing import erase, erased
from tests.jobs_kit import Kit
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tests.test_chinook import script
from tests.test_compare_servers import Maria, Postgres, Rows, take
from tests.unit.jobs.test_compare import look
from tests.unit.jobs.test_find import seek
from tests.unit.jobs.test_query import ask

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 28, tzinfo=UTC)
EVIL = 'Robert\'); drop table "Invoice"; --'
EXTRA = """
create table Wallet (WalletId int primary key, CustomerId int, CardId int not null,
  foreign key (CustomerId) references Customer (CustomerId) on delete cascade {inline});
create table Card (CardId int primary key, WalletId int not null,
  foreign key (WalletId) references Wallet (WalletId) on delete cascade {later});
create table Ticket (TicketId int primary key, CustomerId int, Words varchar(200),
  foreign key (CustomerId) references Customer (CustomerId) on delete set null);
create table Visit (CustomerId int, Page varchar(60),
  foreign key (CustomerId) references Customer (CustomerId) on delete cascade);
create table {evil} (Code varchar(60) primary key, CustomerId int,
  foreign key (CustomerId) references Customer (CustomerId) on delete cascade)
"""
CIRCLE = ", foreign key (CardId) references Card (CardId) on delete cascade deferrable initially deferred"
ROWS = """
insert into Ticket values (1, 5, 'it''s; drop table x; --'), (2, 5, '\x1b[2J tab\tend'), (3, 6, 'x'), (4, null, 'y');
insert into Visit values (5, 'home'), (5, 'home'), (5, null), (6, 'home'), (null, 'home');
insert into {evil} values ('''); drop table Customer; --', 5), ('b', 6)
"""
TABLES = (
    *("Album", "Artist", "Customer", "Employee", "Genre", "Invoice", "InvoiceLine", "MediaType", "Playlist"),
    *("PlaylistTrack", "Track", "Wallet", "Card", "Ticket", "Visit", EVIL),
)
GONE = {"Customer": 1, "Invoice": 7, "InvoiceLine": 38, "Wallet": 1, "Card": 1, "Ticket": 2, "Visit": 3, EVIL: 1}
"""How many rows are lost or changed with customer 5."""
REFERENCES = (
    "Invoice(CustomerId) -> Customer(CustomerId)",
    "InvoiceLine(InvoiceId) -> Invoice(InvoiceId)",
    "Wallet(CustomerId) -> Customer(CustomerId)",
    "Card(WalletId) -> Wallet(WalletId)",
    "Ticket(CustomerId) -> Customer(CustomerId) on delete set null",
    "Visit(CustomerId) -> Customer(CustomerId)",
)
State = dict[str, Rows]


class Database(Protocol):
    """A database, as the servers' tests know it."""

    def execute(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""

    def rows(self, table: str) -> Rows:
        """All rows of a table, whose name is as it stands in SQL."""

    def source(self) -> Source:
        """To capture it."""


@dataclass
class File:
    """A file of SQLite."""

    path: Path

    def _link(self) -> apsw.Connection:
        db = apsw.Connection(str(self.path))
        db.set_busy_timeout(20_000)
        db.execute("pragma foreign_keys = on; pragma synchronous = off").fetchall()
        return db

    def execute(self, *statements: str) -> None:
        with closing(self._link()) as db:
            for statement in statements:
                db.execute(statement).fetchall()

    def rows(self, table: str) -> Rows:
        with closing(self._link()) as db:
            return Counter(tuple(row) for row in db.execute(f"select * from {table}"))

    def source(self) -> Source:
        from backupd.engines.sqlite import open_source

        return open_source(self.path, timeout=20)


@dataclass
class Shop:
    """Chinook with customers who own more than invoices, in one engine; SQL is written with the names of the SQLite sample."""

    engine: str
    database: Database
    opened: Callable[[], Live]
    quote: str
    kit: Kit

    def said(self, text: str) -> str:
        """A statement or a reference in this engine's names: PostgreSQL's sample has small letters and underscores."""
        text = text.replace("{evil}", self.quote + EVIL.replace(self.quote, self.quote * 2) + self.quote)
        return text if self.engine != "postgresql" else re.sub(r"(?<![\w\"'(])?\b[A-Z][a-z]\w*", _snake, text)

    def name(self, table: str) -> str:
        return table if table == EVIL else self.said(table)

    def run(self, text: str) -> None:
        self.database.execute(*filter(str.strip, self.said(text).split(";\n")))

    def state(self) -> State:
        """Everything but counters."""
        return {t: self.database.rows(self.said("{evil}" if t == EVIL else t)) for t in TABLES}

    @contextmanager
    def recovery(
        self, snapshot: str, rules: Rules | None = None, *, subject: str = "Customer:5", hidden: Erased | None = None
    ) -> Iterator[tuple[Recovery, Live]]:
        """A plan, and the database that it is for."""
        repo = self.kit.repo(Role.READ, host="reader")
        view = next(view for view in repo.history().views if view.id == snapshot)
        wanted = Wanted(parse_subject(self.said(subject)))
        with (
            opened_tables(repo, view, open_file=open_file_database, erased=hidden) as stored,
            closing(self.opened()) as live,
        ):
            yield prepare(stored, live, wanted, rules or Rules(), Tally()), live


def _snake(match: re.Match[str]) -> str:
    return match[0] if match[0] == "Robert" else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", match[0]).lower()


def make_postgres(request: pytest.FixtureRequest, _: Path, kit: Kit) -> Shop:
    from backupd.engines.postgres import open_live

    servers: Callable[[int], PostgresServer] = request.getfixturevalue("postgres_servers")
    server = servers(18)
    name = server.create_database()
    request.addfinalizer(lambda: server.drop_database(name))
    server.psql(name, script("Chinook_PostgreSql.sql"))
    place = ServerPlace("postgresql", server.host, server.port, server.superuser, name)
    shop = Shop("postgresql", Postgres(server, name), lambda: open_live(place), '"', kit)
    for table, parent in (("Invoice", "Customer"), ("InvoiceLine", "Invoice")):
        shop.run(
            f"alter table {table} drop constraint {shop.said(table)}_{shop.said(parent)}_id_fkey, "
            f"add foreign key ({parent}Id) references {parent} ({parent}Id) on delete cascade"
        )
    shop.run(EXTRA.format(inline="", later="", evil="{evil}"))
    shop.run(
        "insert into Wallet values (1, 5, 7), (2, 6, 8);\ninsert into Card values (7, 1), (8, 2);\n"
        "alter table Wallet add foreign key (CardId) references Card (CardId) on delete cascade"
    )
    return shop


def make_mariadb(request: pytest.FixtureRequest, _: Path, kit: Kit) -> Shop:
    from backupd.engines.mariadb import open_live

    server: MariaServer = request.getfixturevalue("mariadb_server")
    name = server.create_database()
    request.addfinalizer(lambda: server.drop_database(name))
    server.sql(script("Chinook_MySql.sql"), name)
    place = ServerPlace("mariadb", server.host, server.port, server.root, name, {}, server.root_password)
    shop = Shop("mariadb", Maria(server, name), lambda: open_live(place), "`", kit)
    for table, parent in (("Invoice", "Customer"), ("InvoiceLine", "Invoice")):
        shop.run(
            f"alter table {table} drop foreign key FK_{table}{parent}Id;\n"
            f"alter table {table} add foreign key ({parent}Id) references {parent} ({parent}Id) on delete cascade"
        )
    shop.run(EXTRA.format(inline="", later="", evil="{evil}"))
    shop.run(
        "insert into Wallet values (1, 5, 7), (2, 6, 8);\ninsert into Card values (7, 1), (8, 2);\n"
        "alter table Wallet add foreign key (CardId) references Card (CardId) on delete cascade"
    )
    return shop


def make_sqlite(_: pytest.FixtureRequest, folder: Path, kit: Kit) -> Shop:
    from backupd.engines.sqlite_live import open_live

    path = folder / "shop.db"
    shutil.copy(CHINOOK, path)
    with closing(apsw.Connection(str(path))) as db:
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        db.execute(
            "pragma writable_schema = on; update sqlite_schema set sql = replace(sql, 'ON DELETE NO ACTION',"
            " 'ON DELETE CASCADE') where name in ('Invoice', 'InvoiceLine')"
        ).fetchall()
    shop = Shop("sqlite", File(path), lambda: open_live(path, timeout=20), '"', kit)
    shop.run(EXTRA.format(inline=CIRCLE, later="deferrable initially deferred", evil="{evil}"))
    shop.run("begin; insert into Wallet values (1, 5, 7), (2, 6, 8); insert into Card values (7, 1), (8, 2); commit")
    return shop


MAKERS = {"postgresql": make_postgres, "mariadb": make_mariadb, "sqlite": make_sqlite}


@pytest.fixture(scope="module", params=list(MAKERS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, str, State]:
    """A shop, its snapshot, and what it held then; every test leaves it as it was."""
    folder = tmp_path_factory.mktemp("worst")
    shop: Shop = MAKERS[request.param](request, folder, Kit(folder))
    shop.run(ROWS)
    return shop, take(shop.kit, shop.database.source()), shop.state()


class Traffic:
    """Others who go on writing: new genres, and one ticket of another customer."""

    def __init__(self, shop: Shop) -> None:
        self._shop, self._stop, self.count = shop, threading.Event(), 0
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        while self.count < 3 or not self._stop.wait(0.005):
            n = self.count + 1
            self._shop.run(
                f"insert into Genre values ({1000 + n}, 'newer');\nupdate Ticket set Words = 'newer {n}' where TicketId = 3"
            )
            self.count = n

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def upon(self, state: State) -> State:
        """A state, and on top of it what was written."""
        genres = Counter({(1000 + n, "newer"): 1 for n in range(1, self.count + 1)})
        tickets = Counter((3, 6, f"newer {self.count}") if row[0] == 3 else row for row in state["Ticket"])
        return {**state, "Genre": state["Genre"] + genres, "Ticket": tickets}

    def clear(self) -> None:
        """Take it away again."""
        self._shop.run("delete from Genre where GenreId > 1000;\nupdate Ticket set Words = 'x' where TicketId = 3")


def test_a_customer_comes_back_while_others_write(made: tuple[Shop, str, State], tmp_path: Path) -> None:
    """The whole database is as before but for what is newer; the undo gives back what was between, and its undo the rest."""
    shop, snapshot, before = made
    shop.run("delete from Customer where CustomerId = 5")
    between = shop.state()
    gone = {t: sum((before[t] - between[t]).values()) for t in TABLES}
    assert {t: n for t, n in gone.items() if n} == GONE
    with Traffic(shop) as traffic, shop.recovery(snapshot) as (recovery, live):
        assert recovery.plan.counts["insert"] == sum(gone.values()) - 2
        assert (recovery.plan.counts["repair"], recovery.plan.counts["conflict"]) == (2, 0)
        done = carry_out(recovery, live, snapshot, tmp_path / "undo", NOW, Tally(), triggers=None)
    assert traffic.count >= 3
    assert shop.state() == traffic.upon(before)
    with shop.recovery(snapshot) as (recovery, live):
        assert recovery.plan.changes == ()
        take_back(read_undo(done.undo), live, tmp_path / "redo", NOW, Tally(), triggers=None)
        assert shop.state() == traffic.upon(between)
        assert prepare_undo(read_undo(done.undo), live).changes == ()
        take_back(read_undo(tmp_path / "redo"), live, tmp_path / "third", NOW, Tally(), triggers=None)
    traffic.clear()
    assert shop.state() == before


def test_what_somebody_wrote_meanwhile_is_never_overwritten(made: tuple[Shop, str, State], tmp_path: Path) -> None:
    """A stale plan is refused with 75, a conflict by default; both write nothing. Told to skip, what is newer stays."""
    shop, snapshot, before = made
    shop.run("delete from Customer where CustomerId = 5")
    with shop.recovery(snapshot) as (recovery, live):
        shop.run("update Ticket set Words = 'newer' where TicketId = 1")
        between = shop.state()
        with pytest.raises(TryAgain) as stale:
            carry_out(recovery, live, snapshot, tmp_path / "a", NOW, Tally(), triggers=None)
    assert stale.value.exit == Exit.TRY_AGAIN == 75
    with shop.recovery(snapshot) as (recovery, live), pytest.raises(SafetyRefused, match="1 record is in conflict"):
        carry_out(recovery, live, snapshot, tmp_path / "a", NOW, Tally(), triggers=None)
    assert shop.state() == between
    assert not (tmp_path / "a").exists()
    with shop.recovery(snapshot, Rules(tables={shop.name("Ticket"): "skip"})) as (recovery, live):
        carry_out(recovery, live, snapshot, tmp_path / "a", NOW, Tally(), triggers=None)
    after = shop.state()
    assert after == {**before, "Ticket": after["Ticket"]}
    assert {row[0]: row[1:] for row in after["Ticket"]}[1] == (5, "newer")
    shop.run("update Ticket set Words = 'it''s; drop table x; --' where TicketId = 1")
    assert shop.state() == before


def add_column(shop: Shop) -> None:
    """Visit gets a column that must have a value."""
    if shop.engine == "sqlite":
        shop.run(
            "create table V2 (CustomerId int references Customer on delete cascade, Page varchar(60), Site text not null);\n"
            "insert into V2 select *, 'new' from Visit;\ndrop table Visit;\nalter table V2 rename to Visit"
        )
        return
    shop.run(
        "alter table Visit add column Site varchar(20) not null default 'new';\n"
        "alter table Visit alter column Site drop default"
    )


def test_a_schema_that_gained_a_column(made: tuple[Shop, str, State], tmp_path: Path) -> None:
    """One that must have a value is named and nothing is written, until somebody says which value old records get."""
    shop, snapshot, before = made
    shop.run("delete from Customer where CustomerId = 5")
    add_column(shop)
    try:
        between = shop.state()
        column = f"{shop.name('Visit')}.{shop.name('Site')}"
        refusal = pytest.raises(SafetyRefused, match=f"column {column} must have a value".replace(".", r"\."))
        with shop.recovery(snapshot) as (recovery, live):
            with refusal:
                carry_out(recovery, live, snapshot, tmp_path / "a", NOW, Tally(), triggers=None)
            rules = parse_rules([], [f"{column}=old"], live.schema(), shop.engine)
        assert shop.state() == between
        with shop.recovery(snapshot, rules) as (recovery, live):
            carry_out(recovery, live, snapshot, tmp_path / "a", NOW, Tally(), triggers=None)
        sites = Counter((*row, "old" if row[0] == 5 else "new") for row in before["Visit"].elements())
        assert shop.state() == {**before, "Visit": sites}
    finally:
        shop.run("alter table Visit drop column Site")


def test_an_erased_customer_comes_back_by_no_path(made: tuple[Shop, str, State]) -> None:
    """Neither recover, find, query nor diff know them any more; what belonged to them is not there either."""
    shop, snapshot, _ = made
    kit = shop.kit
    erase(kit, shop.said("Customer:6"), [shop.said(text) for text in REFERENCES])
    shop.run("delete from Customer where CustomerId = 6")
    rules = erased(kit)
    with (
        pytest.raises(Failed, match="not in this snapshot, or erased"),
        shop.recovery(snapshot, subject="Customer:6", hidden=rules),
    ):
        pass
    assert seek(kit, Asked(shop.name("Customer"), ("6",)), rules).versions == []  # type: ignore[arg-type]
    asked = "select count(*) from {} where CustomerId = 6"
    for table in ("Customer", "Invoice", "Wallet", "Ticket", "Visit"):
        assert ask(kit, shop.said(asked.format(table)), snapshot, rules)[1] == [(0,)]  # type: ignore[arg-type]
    told = look(kit, snapshot, take(kit, shop.database.source()), erased=rules)[1]
    assert {t: [r for r in some if r.op != "changed"] for t, some in told.items() if "Robert" not in t} == {}
