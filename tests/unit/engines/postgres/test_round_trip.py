"""A restored PostgreSQL database is what pg_dump says the source was, on every version and from one to the next."""

from collections.abc import Callable, Iterator

import pytest

from backupd.engines.base import LoadOptions
from backupd.errors import SafetyRefused
from backupd.records.rowtext import cell_of
from backupd.repo.codecs import split_rows
from tests.servers.postgres import PostgresServer
from tests.unit.engines.postgres import kit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nasty(postgres: PostgresServer) -> Iterator[kit.Snapshot]:
    """A snapshot of the hand-made database."""
    kit.make_nasty(postgres)
    yield kit.capture(kit.source(postgres, "nasty", globals=True), threads=2)
    kit.drop_nasty(postgres)


def test_the_nasty_database_comes_back_as_it_was(postgres: PostgresServer, nasty: kit.Snapshot) -> None:
    """Definitions, rights, rows, sequences, large objects, comments and the database's own settings are equal."""
    compared: list[str] = []
    told: list[str] = []
    result = kit.restore(postgres, "back_1", nasty, compared=compared, told=told)
    assert result.warnings == ()
    assert told == ["the restore runs as a superuser: constraints and functions of the snapshot run with its rights"]
    assert sorted(compared) == sorted(table.name for table in nasty.tables)
    assert result.check_seconds > 0
    assert _without_partition_data(kit.dump(postgres, "back_1")) == _without_partition_data(kit.dump(postgres, "nasty"))


def _without_partition_data(text: str) -> str:
    """Rows of a hash partition of an enum land in other partitions; `compared` has looked at them."""
    lines = [line for line in text.split("\n") if not line.startswith(("sad\t", "ok\t", "happy\t"))]
    return "\n".join(lines)


def test_a_snapshot_of_a_restored_database_has_equal_rows(postgres: PostgresServer, nasty: kit.Snapshot) -> None:
    """Row for row, table by table, and with the same row formats."""
    kit.restore(postgres, "back_2", nasty)
    again = kit.capture(kit.source(postgres, "back_2"))
    for table in nasty.tables:
        assert kit.digest(again.rows(table.name)) == kit.digest(nasty.rows(table.name)), table.name
    assert {table.name: table.format for table in again.tables} == {table.name: table.format for table in nasty.tables}
    assert again.facts["sequences"] == nasty.facts["sequences"]


def test_equal_snapshots_have_equal_streams(postgres: PostgresServer, nasty: kit.Snapshot) -> None:
    """Nothing in a row stream or in the schema's text depends on the run."""
    again = kit.capture(kit.source(postgres, "nasty", globals=True))
    old = {(info.name, number): data for number, (info, data) in enumerate(nasty.streams) if info.name != "schema.dump"}
    new = {(info.name, number): data for number, (info, data) in enumerate(again.streams) if info.name != "schema.dump"}
    assert old == new


def test_the_manifest_describes_each_table(nasty: kit.Snapshot) -> None:
    """Names that need quotes have them; keys, types, and whether rows are in order."""
    tables = {table.name: table for table in nasty.tables}
    assert tables["crm.base"].key == ("id",)
    assert tables["crm.base"].ordered
    assert tables["crm.strings"].key == ("s",)
    assert tables["crm.strings"].ordered
    words = [cell_of(line[:-1]) or b"" for line in split_rows(nasty.rows("crm.strings"))]
    assert len(words) > 300
    assert words == sorted(words)
    assert tables['"Weird ""schema"".x"."tab.le ""q"" ; DROP"'].columns[1] == ("a:b", "text")
    assert tables["public.pg_largeobject"].columns == (("id", "integer"),)
    assert [name for name, _ in tables["crm.middle"].columns] == ["a", "z", "k"]
    streams = {info.name: info for info, _ in nasty.streams}
    assert streams["crm.middle"].key == (2,)
    assert streams["globals.sql"].secret
    assert "crm.unl is unlogged: a crash or a failover of the source empties it" in nasty.warnings
    assert [row.split(b"\t")[0] for row in nasty.rows("crm.strings").split(b"\n")][:3] == [
        b"",
        rb"\b"[:0] + b"\x01",
        b"\x02",
    ]


def test_rows_of_a_parent_are_not_those_of_its_children(nasty: kit.Snapshot) -> None:
    """Inheritance: each table's own rows, once."""
    assert nasty.rows("crm.base").count(b"\n") == 5
    assert nasty.rows("crm.child").count(b"\n") == 1
    assert b"both" not in nasty.rows("crm.base")
    assert b"both" in nasty.rows("crm.both")
    assert nasty.rows("crm.zerocol") == b"\n\n"
    assert nasty.rows("crm.onlygen") == b"\n\n"


def test_an_older_server_is_refused(
    postgres_servers: Callable[[int], PostgresServer], postgres: PostgresServer, nasty: kit.Snapshot
) -> None:
    """Before anything is created."""
    if postgres.major == 14:
        return
    older = postgres_servers(14)
    before = kit.databases(older)
    with pytest.raises(SafetyRefused, match="is PostgreSQL 14, the snapshot is of"):
        kit.restore(older, "back_old", nasty)
    assert kit.databases(older) == before


@pytest.mark.parametrize("postgres", [14], indirect=True)
@pytest.mark.parametrize("newer", [15, 18])
def test_the_nasty_database_goes_to_a_newer_server_with_its_roles(
    postgres_servers: Callable[[int], PostgresServer], postgres: PostgresServer, nasty: kit.Snapshot, newer: int
) -> None:
    """Its roles are created there first; without that, their absence is refused by name."""
    server = postgres_servers(newer)
    kit.drop_nasty(server)
    with pytest.raises(SafetyRefused, match="lacks roles that own objects or have grants: app_owner, app_ro"):
        kit.restore(server, "back_newer", nasty)
    options = LoadOptions(allow=frozenset({"event-trigger"}), globals=True)
    kit.restore(server, "back_newer", nasty, options, tools=[postgres])
    again = kit.capture(kit.source(server, "back_newer"))
    for table in nasty.tables:
        assert kit.digest(again.rows(table.name)) == kit.digest(nasty.rows(table.name)), table.name
    members = "SELECT pg_has_role('we\"ird role', 'app_ro', 'member')"
    assert server.psql("postgres", members) == "t"
    server.drop_database("back_newer")
    kit.drop_nasty(server)


@pytest.mark.parametrize("postgres", [14, 18], indirect=True)
def test_missing_roles_may_be_left_out(postgres: PostgresServer) -> None:
    """Owners and grants are dropped then, and that is said."""
    postgres.psql("postgres", "CREATE ROLE gone_soon")
    name = postgres.create_database()
    postgres.psql(
        name,
        "CREATE TABLE t(a int); INSERT INTO t VALUES (1); ALTER TABLE t OWNER TO gone_soon; GRANT SELECT ON t TO gone_soon",
    )
    snapshot = kit.capture(kit.source(postgres, name))
    postgres.drop_database(name)
    postgres.psql("postgres", "DROP ROLE gone_soon")
    with pytest.raises(SafetyRefused, match="gone_soon"):
        kit.restore(postgres, name, snapshot)
    result = kit.restore(postgres, name, snapshot, LoadOptions(allow=frozenset({"missing-roles"})))
    assert any("gone_soon" in warning for warning in result.warnings)
    assert postgres.psql(name, "SELECT a FROM t") == "1"
    postgres.drop_database(name)


def test_chinook_comes_back_with_equal_text(postgres: PostgresServer) -> None:
    """A database as people have them."""
    script = (kit.DATA / "chinook/Chinook_PostgreSql.sql").read_text()
    postgres.psql("postgres", script)
    try:
        kit.restore(postgres, "back_chinook", kit.capture(kit.source(postgres, "chinook"), threads=2))
        assert kit.dump(postgres, "back_chinook") == kit.dump(postgres, "chinook")
    finally:
        postgres.drop_database("chinook")
        postgres.drop_database("back_chinook")


@pytest.mark.parametrize("postgres", [15], indirect=True)
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252"])
def test_every_encoding_comes_back(postgres: PostgresServer, encoding: str) -> None:
    """Rows are stored in the server's own encoding, without a conversion that might fail."""
    name = postgres.create_database(encoding=encoding, lc_collate="C", lc_ctype="C", template="template0")
    text = {"EUC_JP": "日本", "SQL_ASCII": "x"}.get(encoding, "Zoë")
    postgres.psql(name, f"CREATE TABLE \"t_{text}\"(a text); INSERT INTO \"t_{text}\" VALUES ('{text}'), (E'\\t')")
    if encoding == "SQL_ASCII":
        postgres.psql(name, f"INSERT INTO \"t_{text}\" VALUES (E'\\xff\\xfe')")
    snapshot = kit.capture(kit.source(postgres, name))
    kit.restore(postgres, "back_encoded", snapshot)
    sizes = f'SELECT sum(octet_length(a)), getdatabaseencoding() FROM "t_{text}"'
    assert postgres.psql("back_encoded", sizes) == postgres.psql(name, sizes)
    postgres.drop_database(name)
    postgres.drop_database("back_encoded")


def test_an_empty_database_and_one_of_many_tables(postgres: PostgresServer) -> None:
    """No table at all, and three hundred small ones, read by two workers."""
    empty, many = postgres.create_database(), postgres.create_database()
    postgres.psql(
        many,
        "".join(
            f"CREATE TABLE t{n}(a int PRIMARY KEY, b text); INSERT INTO t{n} SELECT g, g FROM generate_series(1, {n}) g;"
            for n in range(300)
        ),
    )
    kit.restore(postgres, "back_empty", kit.capture(kit.source(postgres, empty)))
    snapshot = kit.capture(kit.source(postgres, many), threads=2)
    assert len(snapshot.tables) == 300
    assert snapshot.rows("t299").count(b"\n") == 299
    kit.restore(postgres, "back_many", snapshot)
    assert kit.dump(postgres, "back_many") == kit.dump(postgres, many)
    for name in (empty, many, "back_empty", "back_many"):
        postgres.drop_database(name)


def test_a_native_archive_comes_back(postgres: PostgresServer) -> None:
    """capture: native stores one archive of pg_dump's and feeds it to pg_restore."""
    kit.make_nasty(postgres)
    snapshot = kit.capture(kit.source(postgres, "nasty", native=True))
    assert [info.name for info, _ in snapshot.streams] == ["native"]
    with pytest.raises(SafetyRefused, match="event-trigger"):
        kit.restore(postgres, "back_native", snapshot, LoadOptions())
    result = kit.restore(postgres, "back_native", snapshot)
    assert any("not compared" in warning for warning in result.warnings)
    assert _without_partition_data(kit.dump(postgres, "back_native")) == _without_partition_data(
        kit.dump(postgres, "nasty")
    )
    postgres.drop_database("back_native")
    kit.drop_nasty(postgres)
