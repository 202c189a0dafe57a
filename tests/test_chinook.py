"""Chinook, a public sample database, in three engines: backed up, restored, and the same rows everywhere."""

import re
import sqlite3
from collections.abc import Callable, Iterable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import psycopg
import pymysql
import pytest

from tests.cli.kit import CHINOOK, User
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.slow
DATA = Path(__file__).parent / "data/chinook"
Rows = dict[str, list[tuple[str, ...]]]


def plain(value: object) -> str:
    """One spelling for what the drivers give in several."""
    if isinstance(value, (datetime, date)):
        return f"{value:%Y-%m-%d}"
    if isinstance(value, (Decimal, float)):
        return f"{value:.2f}"
    return re.sub(r"^(\d{4}-\d\d-\d\d) 00:00:00$", r"\1", str(value))


def alike(rows: Rows) -> Rows:
    """The scripts themselves mean different things in two places: a blank behind a city, and a backslash in a title."""
    return {t: sorted(tuple(v.rstrip().replace("\\", "") for v in row) for row in found) for t, found in rows.items()}


def tables(names: Iterable[str], query: Callable[[str], Iterable[tuple[object, ...]]]) -> Rows:
    """Every table under a name without case and underscores."""
    return {
        name.lower().replace("_", ""): sorted(tuple(plain(value) for value in row) for row in query(name))
        for name in names
    }


def script(name: str) -> str:
    """The sample's statements without those that make its own database."""
    text = (DATA / name).read_text("utf-8-sig")
    return re.sub(r"^(DROP DATABASE|CREATE DATABASE|USE |\\c ).*$", "", text, flags=re.MULTILINE)


def test_the_same_rows_in_three_engines(
    tmp_path: Path, postgres_servers: Callable[[int], PostgresServer], mariadb_server: MariaServer
) -> None:
    """Three databases go through one repository and come back; all three then hold the rows that SQLite began with."""
    user = User(tmp_path)
    user.init()
    postgres, maria = postgres_servers(18), mariadb_server
    ours, theirs = postgres.create_database(), maria.create_database()
    postgres.psql(ours, script("Chinook_PostgreSql.sql"))
    maria.sql(script("Chinook_MySql.sql"), theirs)
    back = {"p": f"{ours}_back", "m": f"{theirs}_back"}
    tools = ["--tools", str(postgres.bin), "--tools", str(maria.bin)]
    secret = ["--password-file", str(maria.root_password_file)]
    try:
        for name, url, more in (
            ("p", postgres.url(ours), []),
            ("m", maria.url(theirs), secret),
            ("s", str(CHINOOK), []),
        ):
            done = user.back_up(url, "--name", name, *([*tools, *more] if name != "s" else []))
            assert done["rows"] == 15_607
        for name, url, more in (
            ("p", postgres.url(back["p"]), []),
            ("m", maria.url(back["m"]), secret),
            ("s", str(tmp_path / "back.db"), []),
        ):
            words = [*tools, *more] if name != "s" else []
            restored = user.run("restore", f"latest:{name}", url, "--check", "full", *words, key="read")
            assert restored.code == 0, restored.err
        found = [from_postgres(postgres, back["p"]), from_mariadb(maria, back["m"]), from_sqlite(tmp_path / "back.db")]
        assert found == [from_postgres(postgres, ours), from_mariadb(maria, theirs), from_sqlite(CHINOOK)]
        one, two, three = map(alike, found)
        assert one.keys() == two.keys() == three.keys()
        for table in three:
            assert one[table] == three[table], table
            assert two[table] == three[table], table
    finally:
        for database in (ours, back["p"]):
            postgres.psql("postgres", f'drop database if exists "{database}"')
        for database in (theirs, back["m"]):
            maria.sql(f"drop database if exists `{database}`")


def from_postgres(server: PostgresServer, database: str) -> Rows:
    with psycopg.connect(server.url(database)) as link:
        names = [r[0] for r in link.execute("select tablename from pg_tables where schemaname='public'").fetchall()]
        return tables(names, lambda name: link.execute(f'select * from "{name}"'.encode()).fetchall())


def from_mariadb(server: MariaServer, database: str) -> Rows:
    link = pymysql.connect(
        host=server.host, port=server.port, user=server.root, password=server.root_password, database=database
    )
    with link, link.cursor() as cursor:

        def query(statement: str) -> list[tuple[object, ...]]:
            cursor.execute(statement)
            return list(cursor.fetchall())

        return tables([str(r[0]) for r in query("show tables")], lambda name: query(f"select * from `{name}`"))


def from_sqlite(path: Path) -> Rows:
    link = sqlite3.connect(path)
    try:
        names = [
            r[0] for r in link.execute("select name from sqlite_master where type='table' and name not like 'sqlite%'")
        ]
        return tables(names, lambda name: link.execute(f'select * from "{name}"').fetchall())
    finally:
        link.close()
