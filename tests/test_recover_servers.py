"""Recovery into live databases of servers: a customer with cascades, SET NULL and a circle comes back, and goes again."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role
from backupd.engines.base import ServerPlace
from backupd.engines.mariadb import open_live
from backupd.errors import SafetyRefused
from backupd.jobs.recover import carry_out, prepare, prepare_undo, read_undo, take_back
from backupd.jobs.recoverroots import Wanted
from backupd.jobs.storedtables import opened_tables
from backupd.records.plan import Rules
from backupd.records.subject import parse_subject
from backupd.report import Tally
from backupd.wiring import open_file_database
from tests.cli.kit import User
from tests.jobs_kit import Kit
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tests.test_compare_servers import Maria, take

pytestmark = pytest.mark.slow
NOW = datetime(2026, 3, 1, tzinfo=UTC)

SHOP = """
create table customers (id int generated always as identity primary key, name text not null unique, score numeric(10,2));
create table orders (id serial primary key, customer int not null references customers on delete cascade, placed timestamptz);
create table wallets (id int primary key, customer int references customers on delete cascade, card int not null);
create table cards (id int primary key, wallet int not null references wallets on delete cascade);
insert into customers (name, score) values ('Ada', 1.50), ('Bob '' \\ "x"; --', null);
insert into orders (customer, placed) values (1, '2026-01-01 10:00+00'), (1, null), (2, now());
insert into wallets values (1, 1, 7), (2, 2, 8);
insert into cards values (7, 1), (8, 2);
alter table wallets add foreign key (card) references cards on delete cascade;
create table notes (id int primary key, customer int references customers on delete set null, text text,
  size int generated always as (length(text)) stored);
insert into notes values (1, 1, 'tea'), (2, 2, E'tab\\tand\\nline');
create table visits (customer int references customers on delete cascade, page text);
insert into visits values (1, 'home'), (1, 'home'), (2, null);
create table "Robert'); drop table ""customers""; --" ("a "" b" text primary key, c int references customers on delete cascade);
insert into "Robert'); drop table ""customers""; --" values ('''; drop table customers; --', 1);
"""
TABLES = ["customers", "orders", "wallets", "cards", "notes", "visits", '"Robert\'); drop table ""customers""; --"']


def state(server: PostgresServer, database: str) -> list[str]:
    return [server.psql(database, f"select * from {name} t order by t::text") for name in TABLES]


def test_a_customer_comes_back(tmp_path: Path, postgres_servers: Callable[[int], PostgresServer]) -> None:
    """Equal to before but for what is newer; the script does the same; the undo gives back what was between."""
    server = postgres_servers(18)
    database = server.create_database()
    server.psql(database, SHOP)
    user = User(tmp_path)
    user.init()
    tools = ["--tools", str(server.bin)]
    user.back_up(server.url(database), "--name", "shop", *tools)
    try:
        before = state(server, database)
        server.psql(database, "delete from customers where id = 1")
        between = state(server, database)
        words = ["recover", "latest", "customers:1", "--into", server.url(database)]
        done = user.run(*words, "--apply", "--sql", "s.sql", "--json", key="read")
        assert done.code == 0, done.err + done.out
        assert done.document["counts"] == {
            "insert": 8, "update": 0, "repair": 1, "conflict": 0, "same": 0, "skip": 0,
        }  # fmt: skip
        assert state(server, database) == before
        back = user.run("recover", "--undo", done.document["undo"], "--into", server.url(database), "--apply", "--json")
        assert back.code == 0, back.err + back.out
        assert state(server, database) == between
        server.psql(database, (tmp_path / "s.sql").read_text())
        assert state(server, database) == before
        server.psql(database, "update notes set text = 'newer' where id = 1")
        conflict = user.run(*words, "--apply", "--json", key="read")
        assert (conflict.code, conflict.document["counts"]["conflict"]) == (20, 1)
    finally:
        server.psql("postgres", f'drop database if exists "{database}"')


FAMILY = (
    (
        "create table people (id int primary key auto_increment, name varchar(60) not null unique, boss int,"
        " full varchar(80) as (concat(name, '!')) stored, foreign key (boss) references people(id) on delete cascade)"
    ),
    (
        "create table orders (id int primary key, person int not null, paid decimal(10,2), seal varbinary(8),"
        " foreign key (person) references people(id) on delete cascade)"
    ),
    (
        "create table parts (orders int not null, n int not null, what varchar(60), primary key (orders, n),"
        " foreign key (orders) references orders(id) on delete cascade)"
    ),
    "create table calls (id int primary key, name varchar(60), foreign key (name) references people(name) on delete set null)",
    "create table visits (person int, page varchar(60), foreign key (person) references people(id) on delete cascade)",
    "insert into people (id, name, boss) values (1, 'Ada', null), (2, 'O''Brien; -- \\\\', 1), (3, 'Eve', null)",
    "insert into orders values (10, 1, 1.50, x'00ff27'), (11, 2, null, null), (12, 3, 3, '')",
    "insert into parts values (10, 1, 'tea'), (10, 2, null), (11, 1, 'tab\\tline\\n'), (12, 1, 'newer')",
    "insert into calls values (1, 'Ada'), (2, 'Eve'), (3, null)",
    "insert into visits values (1, 'home'), (1, 'home'), (2, 'home'), (3, null)",
)


def test_a_family_comes_back_in_mariadb(tmp_path: Path, mariadb_server: MariaServer) -> None:
    """Parents before children, a tree within a table, equal rows of a table without a key, a reference by name."""
    database = mariadb_server.create_database()
    maria = Maria(mariadb_server, database)
    kit = Kit(tmp_path)
    maria.execute(*FAMILY)
    snapshot = take(kit, maria.source())
    names = ("people", "orders", "parts", "calls", "visits")
    before = {name: dict(maria.rows(name)) for name in names}
    maria.execute("delete from people where id = 1", "insert into people (id, name) values (4, 'Zoe')")
    between = {name: dict(maria.rows(name)) for name in names}
    repo = kit.repo(Role.READ, host="reader")
    view = next(view for view in repo.history().views if view.id == snapshot)
    place = ServerPlace(
        "mariadb",
        mariadb_server.host,
        mariadb_server.port,
        mariadb_server.root,
        database,
        {},
        mariadb_server.root_password,
    )
    with (
        opened_tables(repo, view, open_file=open_file_database, erased=None) as stored,
        closing(open_live(place)) as live,
    ):
        wanted = Wanted(parse_subject("people:1"))
        recovery = prepare(stored, live, wanted, Rules(), Tally())
        assert recovery.plan.counts["insert"] == 2 + 2 + 3 + 3
        assert recovery.plan.counts["repair"] == 1
        done = carry_out(recovery, live, view.id, tmp_path / "undo", NOW, Tally(), triggers=None)
        zoe = Counter({row: 1 for row in between["people"] if "Zoe" in row})
        assert {name: Counter(maria.rows(name)) for name in names} == {
            name: Counter(before[name]) + (zoe if name == "people" else Counter()) for name in names
        }
        undo = read_undo(done.undo)
        take_back(undo, live, tmp_path / "redo", NOW, Tally(), triggers=None)
        assert {name: dict(maria.rows(name)) for name in names} == between
        assert prepare_undo(undo, live).changes == (), "what was taken back once is not taken back again"


def test_rows_that_spell_their_parent_otherwise_are_noticed(tmp_path: Path, mariadb_server: MariaServer) -> None:
    """MariaDB cascades to them: an undo that would delete what somebody added since is refused."""
    database = mariadb_server.create_database()
    maria = Maria(mariadb_server, database)
    kit = Kit(tmp_path)
    maria.execute(
        "create table c (name varchar(20) primary key, n int)",
        "create table o (id int primary key, name varchar(20), foreign key (name) references c(name) on delete cascade)",
        "insert into c values ('ADA', 1)",
        "insert into o values (1, 'ADA')",
    )
    snapshot = take(kit, maria.source())
    maria.execute("delete from c")
    repo = kit.repo(Role.READ, host="reader")
    view = next(view for view in repo.history().views if view.id == snapshot)
    server = mariadb_server
    place = ServerPlace("mariadb", server.host, server.port, server.root, database, {}, server.root_password)
    with (
        opened_tables(repo, view, open_file=open_file_database, erased=None) as stored,
        closing(open_live(place)) as live,
    ):
        wanted = Wanted(parse_subject("c:ADA"))
        recovery = prepare(stored, live, wanted, Rules(), Tally())
        done = carry_out(recovery, live, view.id, tmp_path / "undo", NOW, Tally(), triggers=None)
        maria.execute("insert into o values (2, 'ada')")
        with pytest.raises(SafetyRefused):
            take_back(read_undo(done.undo), live, tmp_path / "redo", NOW, Tally(), triggers=None)
        assert maria.rows("o") == Counter({(1, "ADA"): 1, (2, "ada"): 1})
        maria.execute("delete from c", "insert into c values ('ada', 2)")
        assert prepare(stored, live, wanted, Rules(), Tally()).plan.counts["conflict"] >= 1
