"""Any value of any type comes back as it was, whatever it looks like as text."""

import datetime as dt
import math
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.servers.postgres import PostgresServer
from tests.unit.engines.postgres import kit

pytestmark = pytest.mark.slow

AWKWARD = ["", "\\N", "N", "NULL", "\t", "\n", "\r\n", "\\", "\\\\N", "\\.", "'", '"']
AWKWARD += ["{}", "{NULL}", ",", "\x01", "\x7f", "é", "😀", " a "]
TEXT = st.one_of(
    st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
)
BYTES = st.one_of(st.sampled_from([text.encode() for text in AWKWARD]), st.binary(max_size=80))
DATES = st.one_of(st.dates(), st.sampled_from(["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"]))
MOMENTS = st.one_of(
    st.datetimes(timezones=st.just(dt.UTC)), st.sampled_from(["infinity", "-infinity", "4714-11-24 00:00:00+00 BC"])
)
NUMBERS = st.one_of(
    st.decimals(allow_infinity=False, places=5, min_value=-(10**30), max_value=10**30),
    st.sampled_from(["NaN", "Infinity", "-Infinity", Decimal("1e-300"), Decimal("0.000"), Decimal("-0")]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), TEXT.map(lambda t: t.replace("\0", ""))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text('abc"\\\n', max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
TYPES: dict[str, st.SearchStrategy[object]] = {
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "numeric": NUMBERS,
    "real": st.floats(width=32),
    "double precision": st.floats(),
    "boolean": st.booleans(),
    "text": TEXT,
    "varchar(70)": TEXT,
    "char(70)": TEXT,
    "bytea": BYTES,
    "date": DATES,
    "timestamptz": MOMENTS,
    "timestamp": st.datetimes(),
    "time": st.times(),
    "interval": st.timedeltas(dt.timedelta(-(10**5)), dt.timedelta(10**5)),
    "uuid": st.uuids(),
    "jsonb": JSON.map(Jsonb),
    "text[]": st.lists(st.one_of(st.none(), TEXT), max_size=4),
    "bigint[]": st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=4),
    "bit varying": st.text("01", max_size=40),
    "inet": st.ip_addresses(),
}
Row = tuple[object, ...]
ROWS = st.lists(st.tuples(*(st.one_of(st.none(), values) for values in TYPES.values())), max_size=6)


def make(link: "psycopg.Connection[tuple[object, ...]]", rows: Sequence[Row]) -> None:
    """The table, with these rows twice: doubles are not lost."""
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(TYPES))
    link.execute(b"drop table if exists things")
    link.execute(f"create table things ({columns})".encode())
    marks = ", ".join(
        f"%s::text::{kind}" if kind in {"date", "timestamptz", "numeric"} else f"%s::{kind}" for kind in TYPES
    )
    with link.cursor() as cursor:
        for row in (*rows, *rows):
            cursor.execute(f"insert into things values ({marks})".encode(), [plain(value) for value in row])


def plain(value: object) -> object:
    """What the driver takes."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, (dt.date, dt.datetime, Decimal, uuid.UUID)):
        return str(value)
    return value


@pytest.mark.parametrize("major", [14, 18])
def test_values_of_every_type(major: int, postgres_servers: Callable[[int], PostgresServer]) -> None:
    """Rows of any values are captured, loaded and read back the same, byte for byte as the server writes them."""
    server = postgres_servers(major)
    database = server.create_database()
    back = f"{database}_back"

    @given(rows=ROWS)
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    def check(rows: list[Row]) -> None:
        with psycopg.connect(server.url(database), autocommit=True) as link:
            make(link, rows)
        snapshot = kit.capture(kit.source(server, database))
        kit.restore(server, back, snapshot)
        try:
            again = kit.capture(kit.source(server, back))
            assert kit.digest(again.rows("things")) == kit.digest(snapshot.rows("things"))
            assert snapshot.rows("things").count(b"\n") == 2 * len(rows)
            show = "select md5(string_agg(t::text, '|' order by t::text)), count(*) from things t"
            assert server.psql(database, show) == server.psql(back, show)
        finally:
            server.drop_database(back)

    try:
        check()
    finally:
        server.drop_database(database)
