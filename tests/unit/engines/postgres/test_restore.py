"""A restore is whole under the target's name, or it is not there: refusals, broken streams, chosen tables, overwriting."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import psycopg
import pytest

from backupd.engines.base import LoadOptions
from backupd.errors import Failed, IntegrityError, SafetyRefused, UsageError
from tests.servers.postgres import PostgresServer
from tests.unit.engines.postgres import kit

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("postgres", [15], indirect=True)]
SHOP = """
CREATE TYPE state AS ENUM ('new', 'paid');
CREATE TABLE customers(id serial PRIMARY KEY, email text UNIQUE CHECK (email LIKE '%@%'), state state DEFAULT 'new');
CREATE TABLE orders(id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES customers, total money);
CREATE TABLE items(o int REFERENCES orders, n int, PRIMARY KEY (o, n)); CREATE INDEX ON items (n);
CREATE VIEW rich AS SELECT * FROM customers; CREATE TABLE lone(a int); INSERT INTO lone VALUES (1);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER touched BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO customers(email) SELECT 'canary-' || g || '@example.com' FROM generate_series(1, 5000) g;
INSERT INTO orders(customer, total) SELECT id, id FROM customers; INSERT INTO items SELECT id, 1 FROM orders;
"""


@pytest.fixture
def shop(postgres: PostgresServer) -> Iterator[kit.Snapshot]:
    """A snapshot of a small shop; databases that begin with `back_` are dropped at the end."""
    name = postgres.create_database()
    postgres.psql(name, SHOP)
    yield kit.capture(kit.source(postgres, name), threads=2)
    for database in kit.databases(postgres):
        if database.startswith("back_") or database == name:
            postgres.drop_database(database)


def scratch(server: PostgresServer) -> set[str]:
    """Databases that a restore has left behind."""
    return {name for name in kit.databases(server) if "_backupd_" in name}


def test_a_database_that_is_not_empty_is_refused(postgres: PostgresServer, shop: kit.Snapshot) -> None:
    """Unless its name is repeated; an empty one is taken (H73)."""
    postgres.create_database("back_full")
    postgres.psql("back_full", "CREATE TABLE precious(a int)")
    for options in (LoadOptions(), LoadOptions(overwrite="another")):
        with pytest.raises(SafetyRefused, match="back_full is not empty"):
            kit.restore(postgres, "back_full", shop, options)
    kit.restore(postgres, "back_full", shop, LoadOptions(overwrite="back_full"))
    assert postgres.psql("back_full", "SELECT count(*), to_regclass('precious') FROM orders") == "5000|"
    postgres.create_database("back_empty")
    kit.restore(postgres, "back_empty", shop, LoadOptions())
    assert scratch(postgres) == set()
    for object_sql in (
        "CREATE SCHEMA s",
        "SELECT lo_create(0)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ):
        postgres.drop_database("back_full")
        postgres.create_database("back_full")
        postgres.psql("back_full", object_sql)
        with pytest.raises(SafetyRefused, match="not empty"):
            kit.restore(postgres, "back_full", shop, LoadOptions())


def test_a_database_in_use_is_not_replaced(postgres: PostgresServer, shop: kit.Snapshot) -> None:
    """Neither at the beginning nor at the end."""
    postgres.create_database("back_used")
    postgres.psql("back_used", "CREATE TABLE precious(a int)")
    with psycopg.connect(postgres.url("back_used")), pytest.raises(SafetyRefused, match="1 sessions are connected"):
        kit.restore(postgres, "back_used", shop, LoadOptions(overwrite="back_used"))
    assert postgres.psql("back_used", "SELECT count(*) FROM precious") == "0"
    assert scratch(postgres) == set()


def test_a_database_that_fills_meanwhile_is_kept(postgres: PostgresServer, shop: kit.Snapshot) -> None:
    """An empty database is looked at again before it is dropped."""
    postgres.create_database("back_race")

    def spoil(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
        if name == "lone":
            postgres.psql("back_race", "CREATE TABLE precious(a int)")
        yield from blocks

    with pytest.raises(SafetyRefused, match="not empty"):
        kit.restore(postgres, "back_race", shop, LoadOptions(), streams=kit.stored(shop, spoil))
    assert postgres.psql("back_race", "SELECT count(*) FROM precious") == "0"
    assert scratch(postgres) == set()


@pytest.mark.parametrize("how", ["raises", "short", "long"])
@pytest.mark.parametrize("victim", ["customers", "schema.dump"])
def test_a_broken_stream_leaves_nothing(postgres: PostgresServer, shop: kit.Snapshot, how: str, victim: str) -> None:
    """Cut at 99 %: the loader is killed, and no database appears under any name (H72)."""

    def spoil(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
        data = b"".join(blocks)
        if name != victim:
            yield data
        elif how == "long":
            yield data + data
        else:
            yield data[: len(data) * 99 // 100]
            if how == "raises":
                raise IntegrityError("the pack is damaged")

    if (victim, how) == ("schema.dump", "long"):
        return
    before = kit.databases(postgres)
    with pytest.raises(IntegrityError):
        kit.restore(postgres, "back_broken", shop, LoadOptions(), streams=kit.stored(shop, spoil))
    assert kit.databases(postgres) == before


def test_rows_that_differ_leave_nothing(postgres: PostgresServer, shop: kit.Snapshot) -> None:
    """The comparison comes before the name."""
    other = shop.with_stream("lone", b"2\n")
    with pytest.raises(IntegrityError, match="lone is not what was stored"):
        kit.restore(postgres, "back_other", shop, LoadOptions(), streams=kit.stored(other))
    assert "back_other" not in kit.databases(postgres)
    assert scratch(postgres) == set()
    kit.restore(postgres, "back_other", shop, LoadOptions(), streams=kit.stored(other), check="none")
    assert postgres.psql("back_other", "SELECT a FROM lone") == "2"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (b"1\tcanary-no-at-sign\tnew\n", "constraint customers_email_check: a check constraint"),
        (b"1\tcanary@x\tnew\n2\tcanary@x\tnew\n", "could not create unique index"),
        (b"canary\tcanary@x\tnew\n", "SQLSTATE 22P02"),
        (b"1\tcanary@x\tcanary\n", "SQLSTATE 22P02"),
        (b"1\tcanary@x\n", "SQLSTATE 22P04"),
        (b"1\tcanary\xff@x\tnew\n", "SQLSTATE 22021"),
    ],
)
def test_rows_that_the_server_refuses_are_not_quoted(
    postgres: PostgresServer, shop: kit.Snapshot, rows: bytes, words: str
) -> None:
    """The error has the table, the column or constraint and the SQLSTATE, and no value."""
    bad = shop.with_stream("customers", rows)
    with pytest.raises(Failed) as caught:
        kit.restore(postgres, "back_bad", bad, LoadOptions())
    error = caught.value
    assert words in error.message
    assert "canary" not in f"{error.message}{error.hint}{error.__cause__}"
    assert scratch(postgres) == set()


def test_chosen_tables_come_with_what_they_need(postgres: PostgresServer, shop: kit.Snapshot) -> None:
    """Types, sequences, indexes and triggers; a foreign key to a table that is not there is left out, and said."""
    result = kit.restore(postgres, "back_some", shop, LoadOptions(tables=("orders", "items")))
    assert postgres.psql("back_some", "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'v')"
                         " AND relnamespace = 'public'::regnamespace") == "items orders"  # fmt: skip
    assert [warning for warning in result.warnings if "left out" in warning] == [
        "FK CONSTRAINT orders orders_customer_fkey was left out: it needs a table that was not chosen"
    ]
    postgres.psql("back_some", "INSERT INTO orders(customer) VALUES (1)")
    assert postgres.psql("back_some", "SELECT max(id) FROM orders") == "5001"
    kit.restore(postgres, "back_one", shop, LoadOptions(tables=("customers",)))
    postgres.psql("back_one", "INSERT INTO customers(email) VALUES ('x@y')")
    assert postgres.psql("back_one", "SELECT max(id), max(state) FROM customers") == "5001|new"
    assert postgres.psql("back_one", "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == "touched"
    with pytest.raises(UsageError, match="no table missing"):
        kit.restore(postgres, "back_none", shop, LoadOptions(tables=("missing",)))


def test_chosen_partitions_through_their_root(postgres: PostgresServer) -> None:
    """A table that is loaded through its root comes with all of its partitions."""
    name = postgres.create_database("back_parts")
    postgres.psql(
        name,
        "CREATE TYPE m AS ENUM ('a', 'b', 'c'); CREATE TABLE p(k m, v int) PARTITION BY HASH (k); CREATE TABLE x(a int);",
    )
    for part in range(3):
        postgres.psql(name, f"CREATE TABLE p{part} PARTITION OF p FOR VALUES WITH (MODULUS 3, REMAINDER {part})")
    postgres.psql(name, "INSERT INTO p SELECT (ARRAY['a', 'b', 'c']::m[])[1 + g % 3], g FROM generate_series(1, 300) g")
    snapshot = kit.capture(kit.source(postgres, name))
    kit.restore(postgres, "back_chosen", snapshot, LoadOptions(tables=("p",)))
    assert postgres.psql("back_chosen", "SELECT count(*), sum(v) FROM p") == "300|45150"
    assert postgres.psql("back_chosen", "SELECT to_regclass('x')") == ""


DANGEROUS = {
    "event-trigger": "CREATE FUNCTION et() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
    "CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION et()",
    "extension": "CREATE EXTENSION postgres_fdw",
    "c-function": "CREATE FUNCTION c1() RETURNS int LANGUAGE internal IMMUTABLE AS 'pg_backend_pid'",
    "language": "CREATE FUNCTION handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';"
    "CREATE LANGUAGE strange HANDLER handler",
    "foreign-server": "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
    "CREATE USER MAPPING FOR PUBLIC SERVER s; CREATE FOREIGN TABLE far(a int) SERVER s",
    "subscription": "CREATE SUBSCRIPTION sub CONNECTION 'host=none' PUBLICATION p WITH (connect = false, slot_name = NONE)",
}


@pytest.mark.parametrize("kind", DANGEROUS)
def test_what_runs_code_as_a_superuser_is_refused_by_name(postgres: PostgresServer, kind: str) -> None:
    """Before anything is created; allowed by its kind, it comes along (H67)."""
    name = postgres.create_database("back_danger")
    try:
        postgres.psql(name, DANGEROUS[kind])
        snapshot = kit.capture(kit.source(postgres, name))
        with pytest.raises(SafetyRefused) as caught:
            kit.restore(postgres, "back_refused", snapshot, LoadOptions())
        assert f"({kind})" in caught.value.message
        assert f"--allow {kind}" in str(caught.value.hint)
        assert "back_refused" not in kit.databases(postgres)
        kinds = frozenset({kind, "c-function"} if kind == "language" else {kind})
        kit.restore(postgres, "back_allowed", snapshot, LoadOptions(allow=kinds))
        assert kit.dump(postgres, "back_allowed") == kit.dump(postgres, name)
    finally:
        for database in (name, "back_allowed"):
            if kind == "subscription" and database in kit.databases(postgres):
                postgres.psql(database, "DROP SUBSCRIPTION IF EXISTS sub")
            postgres.drop_database(database)


def test_a_role_that_is_no_superuser_can_restore(postgres: PostgresServer, shop: kit.Snapshot) -> None:
    """With CREATEDB; without it, that is refused before anything happens. There is no warning of a superuser then."""
    postgres.psql("postgres", "CREATE ROLE restorer LOGIN")
    facts = {**shop.facts, "roles": []}
    try:
        with pytest.raises(SafetyRefused, match="may not create databases"):
            kit.restore(postgres, "back_plain", replace(shop, facts=facts), LoadOptions(), user="restorer")
        postgres.psql("postgres", "ALTER ROLE restorer CREATEDB")
        name = postgres.create_database("back_theirs", owner="restorer")
        session = "SET ROLE restorer;"
        postgres.psql(
            name, session + "CREATE SCHEMA own; CREATE TABLE own.t AS SELECT 1 AS a; SELECT lo_from_bytea(5, 'y')"
        )
        theirs = kit.capture(kit.source(postgres, name, "restorer"))
        result = kit.restore(postgres, "back_plain", theirs, LoadOptions(), user="restorer")
        assert result.warnings == ()
        assert kit.dump(postgres, "back_plain") == kit.dump(postgres, name)
    finally:
        for database in ("back_plain", "back_theirs"):
            postgres.drop_database(database)
        postgres.psql("postgres", "DROP ROLE restorer")


def test_owners_as_which_a_role_may_not_act(postgres: PostgresServer) -> None:
    """They are there, and could be given nothing: refused, unless owners may be left out; never so that more is seen."""
    allowed = LoadOptions(allow=frozenset({"missing-roles"}))
    postgres.psql("postgres", "CREATE ROLE restorer LOGIN CREATEDB; CREATE ROLE gone")
    try:
        name = postgres.create_database("back_owned")
        postgres.psql(name, "CREATE TABLE t AS SELECT 1 AS a; SELECT lo_from_bytea(5, 'y')")
        owned = kit.capture(kit.source(postgres, name))
        with pytest.raises(SafetyRefused, match="restorer is no member of roles that own objects: postgres"):
            kit.restore(postgres, "back_plain", owned, LoadOptions(), user="restorer")
        result = kit.restore(postgres, "back_plain", owned, allowed, user="restorer")
        assert result.warnings == ("owners and grants were left out: restorer is no member of postgres",)
        assert result.untaken == 1
        query = "SELECT tableowner || (SELECT datdba::regrole FROM pg_database WHERE datname = current_database())"
        assert postgres.psql("back_plain", query + " FROM pg_tables WHERE tablename = 't'") == "restorerrestorer"
        postgres.psql(name, "CREATE POLICY few ON t AS RESTRICTIVE TO gone, restorer USING (a > 1)")
        fenced = kit.capture(kit.source(postgres, name))
        postgres.drop_database(name)
        postgres.psql("postgres", "DROP ROLE gone")
        with pytest.raises(SafetyRefused, match="policy t few keeps rows from roles of which only some are here"):
            kit.restore(postgres, "back_fenced", fenced, allowed)
        assert scratch(postgres) == set()
    finally:
        for database in ("back_owned", "back_plain", "back_fenced"):
            postgres.drop_database(database)
        postgres.psql("postgres", "DROP ROLE IF EXISTS gone; DROP ROLE restorer")


def test_the_scratch_database_is_marked_and_named_if_it_stays(postgres: PostgresServer, shop: kit.Snapshot) -> None:
    """A comment says that it is not finished."""
    seen: list[Sequence[str]] = []

    def spoil(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
        if name == "lone":
            seen.append(
                postgres.psql(
                    "postgres",
                    "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname LIKE '%backupd%'",
                ).split("|")
            )
        yield from blocks

    kit.restore(postgres, "back_marked", shop, LoadOptions(), streams=kit.stored(shop, spoil))
    (name, comment), = seen  # fmt: skip
    assert name.startswith("back_marked_backupd_")
    assert "not finished" in comment
    assert (
        postgres.psql(
            "postgres", "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'back_marked'"
        )
        == ""
    )
