"""Recovery into a live PostgreSQL database: a customer with cascades, SET NULL and a circle comes back, and goes again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.kit import User
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.slow

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
