"""Any value of any type comes back as it was, whatever it looks like as text."""

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.mariadb import MariaServer
from tests.unit.engines.mariadb import kit

pytestmark = pytest.mark.slow

AWKWARD = [
    "",
    "\\N",
    "N",
    "NULL",
    "\t",
    "\n",
    "\r\n",
    "\\",
    "\\\\N",
    "'",
    "','",
    "'),('",
    "\0",
    "\x1a",
    "a\\",
    " a ",
    "%s",
    "--",
    "/*",
    "😀",
]
TEXT = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
LATIN = st.one_of(st.sampled_from(AWKWARD[:-1]), st.text(st.characters(codec="latin-1"), max_size=60))
BYTES = st.one_of(st.sampled_from([text.encode() for text in AWKWARD]), st.binary(max_size=60))


def float32(value: float) -> float:
    """The nearest FLOAT."""
    found: float = struct.unpack("f", struct.pack("f", value))[0]
    return found


@dataclass(frozen=True)
class Type:
    """A column's type, values of it, and an expression that shows them exactly."""

    sql: str
    values: st.SearchStrategy[object]
    shown: str = "HEX({})"


def dates() -> st.SearchStrategy[object]:
    """Dates that are none are among them."""
    date = st.builds("{:04}-{:02}-{:02}".format, st.integers(0, 9999), st.integers(0, 12), st.integers(0, 31))
    return st.one_of(st.sampled_from(["0000-00-00", "9999-12-31", "2024-02-31"]), date)


def moments(digits: int) -> st.SearchStrategy[object]:
    """Of DATETIME, with so many digits of a second."""
    part = st.integers(0, 10**digits - 1).map(lambda number: f".{number:0{digits}}" if digits else "")
    return st.builds(
        "{} {:02}:{:02}:{:02}{}".format, dates(), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), part
    )


def times() -> st.SearchStrategy[object]:
    """Of TIME(6)."""
    small = st.integers(0, 58)
    return st.builds(
        "{}{}:{:02}:{:02}.{:06}".format,
        st.sampled_from(["", "-"]),
        st.integers(0, 838),
        small,
        small,
        st.integers(0, 999999),
    )


TYPES: Sequence[Type] = (
    Type("TINYINT", st.integers(-128, 127)),
    Type("BIGINT", st.integers(-(2**63), 2**63 - 1)),
    Type("BIGINT UNSIGNED ZEROFILL", st.integers(0, 2**64 - 1)),
    Type("DECIMAL(65,30)", st.decimals(-(10**30), 10**30, places=30, allow_nan=False), "{}"),
    Type("DOUBLE", st.floats(allow_nan=False, allow_infinity=False), "{}"),
    Type("FLOAT", st.floats(allow_nan=False, allow_infinity=False, width=32).map(float32), "CAST({} AS DOUBLE)"),
    Type("BIT(1)", st.integers(0, 1), "{} + 0"),
    Type("BIT(13)", st.integers(0, 2**13 - 1), "{} + 0"),
    Type("BIT(64)", st.integers(0, 2**64 - 1), "{} + 0"),
    Type("DATE", dates(), "{}"),
    Type("DATETIME", moments(0), "{}"),
    Type("DATETIME(6)", moments(6), "{}"),
    Type("TIME(6)", times(), "{}"),
    Type("YEAR", st.one_of(st.just("0000"), st.integers(1901, 2155)), "{}"),
    Type("VARCHAR(60) CHARACTER SET utf8mb4", TEXT),
    Type("LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", TEXT),
    Type("CHAR(60) CHARACTER SET utf8mb3", st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF), max_size=60)),
    Type("VARCHAR(60) CHARACTER SET latin1", LATIN),
    Type("VARCHAR(60) CHARACTER SET utf16", TEXT),
    Type("VARCHAR(60) CHARACTER SET gbk", st.text("中文ab\\\n\t'丂", max_size=30)),
    Type("VARBINARY(200)", BYTES),
    Type("BINARY(9)", st.binary(max_size=9)),
    Type("LONGBLOB", BYTES),
    Type("ENUM('','a','b''c','\\\\')", st.integers(1, 4), "{} + 0"),
    Type("ENUM('2','1','\t')", st.integers(1, 3), "{} + 0"),
    Type("SET('a','b','','d')", st.integers(0, 15), "{} + 0"),
    Type("JSON", st.recursive(st.none() | TEXT, lambda inner: st.lists(inner, max_size=3), max_leaves=5).map(json.dumps)),
    Type("UUID", st.uuids().map(str)),
    Type("INET6", st.ip_addresses(v=6).map(str)),
    Type("INET4", st.ip_addresses(v=4).map(str)),
    Type("POINT", st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)).map(lambda at: struct.pack("<IbIdd", 0, 1, 1, *at))),
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Type], list[tuple[object, ...]]]:
    """Some columns, and rows of values of theirs."""
    types = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=6))
    rows = st.tuples(*(st.none() | kind.values for kind in types))
    return types, draw(st.lists(rows, max_size=8))


@pytest.fixture(scope="module")
def work(
    mariadb_server: MariaServer,
) -> Iterator[Callable[[], tuple["pymysql.Connection[pymysql.cursors.Cursor]", str]]]:
    """A connection in an empty database."""
    name = mariadb_server.create_database(options="CHARACTER SET utf8mb4")
    link = pymysql.connect(
        host=mariadb_server.host, port=mariadb_server.port, user="root", password=mariadb_server.root_password,
        autocommit=True, charset="utf8mb4", binary_prefix=True,
    )  # fmt: skip

    def fresh() -> tuple["pymysql.Connection[pymysql.cursors.Cursor]", str]:
        with link.cursor() as cursor:
            for database in (name, name + "_back"):
                cursor.execute(f"DROP DATABASE IF EXISTS {database}")
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
            cursor.execute(f"USE {name}")
            cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION'")
        return link, name

    yield fresh
    fresh()
    link.close()
    mariadb_server.drop_database(name)


@given(table=tables())
@settings(
    max_examples=45, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_rows_of_any_types(
    mariadb_server: MariaServer,
    work: Callable[[], tuple["pymysql.Connection[pymysql.cursors.Cursor]", str]],
    table: tuple[list[Type], list[tuple[object, ...]]],
) -> None:
    """Captured, loaded, read back equal as bytes, and equal by the server's own account."""
    link, name = work()
    types, rows = table
    columns = ", ".join(f"c{number} {kind.sql} NULL" for number, kind in enumerate(types))
    shown = ", ".join(kind.shown.format(f"c{number}") for number, kind in enumerate(types))
    with link.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, {columns})")
        for row in rows:
            assert all(value is None or not isinstance(value, float) or math.isfinite(value) for value in row)
            cursor.execute(f"INSERT INTO t VALUES (NULL, {', '.join(['%s'] * len(row))})", row)
        cursor.execute(f"SELECT id, {shown} FROM t ORDER BY id")
        before = cursor.fetchall()
        assert len(before) == len(rows)
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, name), jobs=1)
    assert kept.rows("t").count(b"\n") == len(rows)
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, name + "_back"))
    with link.cursor() as cursor:
        cursor.execute(f"SELECT id, {shown} FROM {name}_back.t ORDER BY id")
        assert cursor.fetchall() == before
