"""The databases that the worst day happens to: customers, orders, items and tickets in PostgreSQL, or in a file of SQLite's.

A place may be kept in a folder and opened again: filling it takes minutes, asking does not.
"""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from tests.servers import postgres

DATABASE, CUSTOMER, DEPENDENTS = "crm", 4711, 200
_SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB"}
_POSTGRES = """
CREATE TABLE customers(id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, city text, notes text);
CREATE TABLE orders(id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
  at timestamptz NOT NULL, amount numeric(12,2) NOT NULL);
CREATE TABLE items(id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
  product text NOT NULL, quantity int NOT NULL, price numeric(10,2) NOT NULL);
CREATE TABLE tickets(id bigint PRIMARY KEY, customer_id bigint REFERENCES customers ON DELETE SET NULL, text text NOT NULL);
INSERT INTO customers SELECT n, 'name ' || md5(n::text), md5((n * 7)::text) || n || '@example.com', 'city ' || n % 997,
  repeat(md5((n * 3)::text), 2) FROM generate_series(1, {customers}) n;
INSERT INTO orders SELECT n, CASE WHEN n <= 40 THEN {customer} ELSE 1 + (n::bigint * 7919) % {customers} END,
  '2026-01-01'::timestamptz + n * interval '13 seconds', (n * 37 % 100000) / 100.0 FROM generate_series(1, {orders}) n;
INSERT INTO items SELECT n, CASE WHEN n <= 150 THEN 1 + n % 40 ELSE 41 + (n::bigint * 31) % ({orders} - 40) END,
  'product ' || md5((n % 5000)::text), 1 + n % 9, (n * 11 % 10000) / 100.0 FROM generate_series(1, {items}) n;
INSERT INTO tickets SELECT n, CASE WHEN n <= 10 THEN {customer} ELSE 1 + (n::bigint * 104729) % {customers} END,
  repeat(md5(n::text), 3) FROM generate_series(1, {tickets}) n;
CREATE INDEX ON orders(customer_id);
CREATE INDEX ON items(order_id);
CREATE INDEX ON tickets(customer_id);
ANALYZE;
"""
_SQLITE = """
PRAGMA page_size = 4096;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, city TEXT, notes TEXT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE,
  at TEXT NOT NULL, amount NUMERIC NOT NULL);
CREATE TABLE items(id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders ON DELETE CASCADE,
  product TEXT NOT NULL, quantity INTEGER NOT NULL, price NUMERIC NOT NULL);
CREATE TABLE tickets(id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers ON DELETE SET NULL, text TEXT NOT NULL);
WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {customers})
  INSERT INTO customers SELECT n, 'name ' || word(n), word(n * 7) || n || '@example.com', 'city ' || n % 997, word(n * 3) FROM s;
WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {orders})
  INSERT INTO orders SELECT n, CASE WHEN n <= 40 THEN {customer} ELSE 1 + n * 7919 % {customers} END,
    datetime(1767225600 + n * 13, 'unixepoch'), n * 37 % 100000 / 100.0 FROM s;
WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {items})
  INSERT INTO items SELECT n, CASE WHEN n <= 150 THEN 1 + n % 40 ELSE 41 + n * 31 % ({orders} - 40) END,
    'product ' || word(n % 5000), 1 + n % 9, n * 11 % 10000 / 100.0 FROM s;
WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {tickets})
  INSERT INTO tickets SELECT n, CASE WHEN n <= 10 THEN {customer} ELSE 1 + n * 104729 % {customers} END, word(n) || word(n + 1)
    FROM s;
CREATE INDEX orders_customer ON orders(customer_id);
CREATE INDEX items_order ON items(order_id);
CREATE INDEX tickets_customer ON tickets(customer_id);
"""
_CHANGE = """
UPDATE customers SET city = 'moved ' || {night} WHERE id IN (SELECT 1 + (n * 99991) % {customers} FROM ({first}) AS s(n));
UPDATE items SET quantity = quantity + 1 WHERE id IN (SELECT 151 + (n * 1299709) % ({items} - 150) FROM ({second}) AS s(n));
"""
_DELETE = f"DELETE FROM customers WHERE id = {CUSTOMER}"


class Place(Protocol):
    """A live database."""

    @property
    def url(self) -> str:
        """As `--source` and `--into` name it."""

    @property
    def words(self) -> list[str]:
        """What `backupctl run` has to be told besides."""

    def fill(self, counts: Mapping[str, int]) -> None:
        """Make the tables."""

    def change(self, counts: Mapping[str, int], night: int, share: int) -> None:
        """Scattered updates in two tables."""

    def delete(self) -> None:
        """Delete the customer, with everything that cascades."""


def sizes(rows: int) -> dict[str, int]:
    """How many rows each table has."""
    return {"customers": rows // 10, "orders": rows // 5, "items": rows * 6 // 10, "tickets": rows // 10}


class OnPostgres:
    """In a server."""

    def __init__(self, server: postgres.PostgresServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """See `Place`."""
        return self._server.url(DATABASE)

    @property
    def words(self) -> list[str]:
        """See `Place`."""
        return ["--tools", str(self._server.bin)]

    def fill(self, counts: Mapping[str, int]) -> None:
        """See `Place`."""
        self._server.create_database(DATABASE)
        for statement in _POSTGRES.format(customer=CUSTOMER, **counts).split(";\n"):
            self._server.psql(DATABASE, statement)

    def change(self, counts: Mapping[str, int], night: int, share: int) -> None:
        """See `Place`."""
        series = "SELECT * FROM generate_series({}::bigint, {}::bigint)"
        self._server.psql(DATABASE, _changes(series, counts, night, share))

    def delete(self) -> None:
        """See `Place`."""
        self._server.psql(DATABASE, _DELETE)


class OnSqlite:
    """In a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def url(self) -> str:
        """See `Place`."""
        return str(self._path)

    @property
    def words(self) -> list[str]:
        """See `Place`."""
        return []

    def fill(self, counts: Mapping[str, int]) -> None:
        """See `Place`."""
        self._run(_SQLITE.format(customer=CUSTOMER, **counts))

    def change(self, counts: Mapping[str, int], night: int, share: int) -> None:
        """See `Place`."""
        series = "WITH RECURSIVE r(n) AS (SELECT {0} UNION ALL SELECT n + 1 FROM r WHERE n < {1}) SELECT n FROM r"
        self._run(_changes(series, counts, night, share).replace(" AS s(n)", ""))

    def delete(self) -> None:
        """See `Place`."""
        self._run(_DELETE)

    def _run(self, script: str) -> None:
        with closing(sqlite3.connect(self._path)) as link:
            link.create_function("word", 1, lambda n: f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" * 2, deterministic=True)
            link.execute("PRAGMA foreign_keys = ON")
            link.executescript(script)
            link.commit()


def _changes(series: str, counts: Mapping[str, int], night: int, share: int) -> str:
    first, second = night * 7919, night * 104729
    a, b = share // 2, share - share // 2
    return _CHANGE.format(
        night=night,
        first=series.format(first, first + a - 1),
        second=series.format(second, second + b - 1),
        **counts,
    )


@contextmanager
def opened(engine: str, folder: Path) -> Iterator[Place]:
    """The place in a folder; a server runs as long as the context lasts."""
    if engine == "sqlite":
        yield OnSqlite(folder / "crm.db")
        return
    home = folder / "server"
    home.mkdir(exist_ok=True)
    for name in ("socket", "tree"):  # made anew by every start
        shutil.rmtree(home / name, ignore_errors=True)
    server = postgres.PostgresServer(18, home, _SETTINGS)
    if not (home / "data").exists():
        server.make_cluster()
    try:
        server.start()
        yield OnPostgres(server)
    finally:
        server.stop()
