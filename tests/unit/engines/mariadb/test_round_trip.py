"""A restored MariaDB database is the one that was captured, by the native dump's own text."""

import re
from collections.abc import Callable, Iterator

import pytest

from backupd.engines import mariadb
from backupd.engines.base import LoadOptions
from backupd.errors import IntegrityError, SafetyRefused
from backupd.records.rowtext import cell_of
from backupd.repo.codecs import split_rows
from tests.servers.mariadb import MariaServer
from tests.unit.engines.mariadb import kit

pytestmark = pytest.mark.slow
ALLOW = frozenset({"definer"})


@pytest.fixture(scope="module")
def nasty(mariadb_server: MariaServer) -> Iterator[str]:
    """The nasty database."""
    name = mariadb_server.create_database(options="CHARACTER SET utf8mb4")
    kit.fill(mariadb_server, name, "nasty/mariadb.sql")
    yield name
    mariadb_server.drop_database(name)


@pytest.mark.parametrize("local", ["ON", "OFF"])
def test_the_nasty_database_comes_back_as_it_was(
    mariadb_server: MariaServer, nasty: str, make: Callable[..., str], local: str
) -> None:
    """Every trap of the nasty database, with LOAD DATA and with INSERTs."""
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, nasty))
    target = make()
    mariadb_server.sql(f"SET GLOBAL local_infile = {local}")
    try:
        result = kit.restore(mariadb_server, kept, kit.place(mariadb_server, target), allow=ALLOW)
    finally:
        mariadb_server.sql("SET GLOBAL local_infile = ON")
    assert kit.dump(mariadb_server, target) == kit.dump(mariadb_server, nasty)
    assert result.bytes == sum(len(data) for info, data in kept.streams if info.kind == "rows")
    assert any("local_infile is off" in warning for warning in result.warnings) == (local == "OFF")


def test_what_dumps_do_not_show_comes_back_too(
    mariadb_server: MariaServer, nasty: str, make: Callable[..., str]
) -> None:
    """FLOAT to the last bit, the invalid ENUM value beside a member '', the order of triggers."""
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, nasty))
    target = make()
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, target), allow=ALLOW)
    for query in (
        "SELECT id, CAST(f AS DOUBLE), CAST(fn AS DOUBLE), CAST(fd AS DOUBLE), HEX(d), CAST(u AS DOUBLE) FROM floats ORDER BY id",
        "SELECT id, a+0, b+0, c+0, d+0, e+0, f+0, g+0, h+0 FROM members ORDER BY id",
        "SELECT id, e+0 FROM t ORDER BY id",
        "SELECT a, HEX(g), HEX(h), c FROM numbers ORDER BY a",
        "SELECT id, HEX(l), HEX(c9), HEX(sj), HEX(u2), HEX(gb), HEX(eu) FROM charsets ORDER BY id",
        "SHOW TRIGGERS LIKE 'my_isam'",
        "SELECT * FROM sq", "SELECT * FROM down", "SELECT * FROM untouched",
        "SELECT a, row_start, row_end FROM sv FOR SYSTEM_TIME ALL ORDER BY a, row_end",
        "SELECT EVENT_NAME, STATUS, TIME_ZONE, STARTS, ENDS, EXECUTE_AT, DEFINER FROM information_schema.EVENTS",
        "SELECT TABLE_NAME, AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND AUTO_INCREMENT > 0",
    ):  # fmt: skip
        was = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d\d(?=\t)", "WHEN", mariadb_server.sql(query, nasty))
        now = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d\d(?=\t)", "WHEN", mariadb_server.sql(query, target))
        assert now == was, query


def test_captures_without_a_change_between_them_are_equal(mariadb_server: MariaServer, nasty: str) -> None:
    """Equal databases give equal bytes, but for the clock."""
    first = kit.capture(mariadb_server, kit.place(mariadb_server, nasty))
    second = kit.capture(mariadb_server, kit.place(mariadb_server, nasty), jobs=3)
    assert [data for _, data in first.streams] == [data for _, data in second.streams]
    assert first.tables == second.tables


def test_chinook(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """A public sample database."""
    source = make()
    sql = (kit.DATA / "chinook/Chinook_MySql.sql").read_text(encoding="utf-8-sig")
    mariadb_server.sql(re.sub(r"(?m)^(DROP|CREATE) DATABASE.*;|^USE .*;", "", sql), source)
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    target = make()
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, target))
    assert kit.dump(mariadb_server, target) == kit.dump(mariadb_server, source)
    assert sum(kept.rows(table.name).count(b"\n") for table in kept.tables) == 15607
    track = next(table for table in kept.tables if table.name == "Track")
    assert track.key == ("TrackId",)
    assert track.ordered


def test_keys_that_are_compared_byte_by_byte_come_in_that_order(
    mariadb_server: MariaServer, make: Callable[..., str]
) -> None:
    """Bytes and texts of a binary collation without padding; other collations make no promise."""
    source = make()
    words = ["a", "a\x01", "a ", "B", "b", "é", "\U0001f600", ""]
    values = ", ".join(f"(CONVERT(X'{word.encode().hex()}' USING utf8mb4))" for word in words)
    sql = "CREATE TABLE raw (k varbinary(40) PRIMARY KEY);"
    sql += "CREATE TABLE exact (k varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY);"
    sql += "CREATE TABLE padded (k varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY);"
    mariadb_server.sql(sql + f"INSERT INTO raw VALUES {values}; INSERT INTO exact VALUES {values};", source)
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    assert {table.name: table.ordered for table in kept.tables} == {"raw": True, "exact": True, "padded": False}
    cells = [cell_of(line[:-1]) for line in split_rows(kept.rows("exact"))]
    assert cells == sorted(word.encode() for word in words)
    digits = [line[:-1] for line in split_rows(kept.rows("raw"))]
    assert digits == sorted(word.encode().hex().upper().encode() for word in words)


def test_an_empty_database(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """It has a schema, and nothing in it; its character set comes along."""
    source = make(options="CHARACTER SET latin1 COLLATE latin1_german1_ci")
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    target = source + "x"
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, target))
    assert not [info for info, _ in kept.streams if info.kind == "rows"]
    assert "latin1_german1_ci" in mariadb_server.sql(f"SHOW CREATE DATABASE {target}")


def test_many_small_tables(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Three hundred tables."""
    sql = "".join(
        f"CREATE TABLE t{n} (id INT PRIMARY KEY, v TEXT); INSERT INTO t{n} VALUES ({n}, 'v{n}');" for n in range(300)
    )
    source = make(sql)
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    target = make()
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, target))
    assert kit.dump(mariadb_server, target) == kit.dump(mariadb_server, source)


def test_a_large_table_is_read_in_ranges_and_its_indexes_come_later(
    mariadb_server: MariaServer, make: Callable[..., str]
) -> None:
    """Several streams of one name; plain indexes and foreign keys are added when the rows are in."""
    source = make(
        "CREATE TABLE parent (id INT PRIMARY KEY); INSERT INTO parent SELECT seq FROM seq_0_to_9;"
        "CREATE TABLE big (id BIGINT AUTO_INCREMENT PRIMARY KEY, p INT, t VARCHAR(40), UNIQUE KEY u (t), KEY k (t, p), KEY (p),"
        " FULLTEXT KEY f (t), CONSTRAINT `to parent` FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)"
        " COMMENT 'a KEY `k` (x)';"
        "INSERT INTO big SELECT CAST(seq AS SIGNED) * 1000 - 5000, seq % 10, MD5(seq) FROM seq_1_to_200000;"
    )
    from backupd.engines.mariadb import capture

    before = capture._LARGE, capture._PART
    try:
        mariadb_server.sql("ANALYZE TABLE big", source)
        capture._LARGE, capture._PART = 1 << 20, 1 << 20
        kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    finally:
        capture._LARGE, capture._PART = before
    assert sum(info.name == "big" for info, _ in kept.streams) > 5
    ids = [int(line.split(b"\t")[0]) for line in kept.rows("big").splitlines()]
    assert ids == sorted(ids)
    assert len(ids) == 200000
    target = make()
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, target))
    assert kit.dump(mariadb_server, target) == kit.dump(mariadb_server, source)


def test_long_values(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Values of many megabytes, most of it newlines."""
    source = make(
        "CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB, t LONGTEXT);"
        "INSERT INTO t VALUES (1, REPEAT(X'00FF5C0A', 2000000), REPEAT('\\n', 7000000)), (2, NULL, REPEAT('x', 9000000)),"
        " (3, '', '');"
    )
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    target = make()
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, target))
    query = "SELECT id, MD5(b), MD5(t), LENGTH(b), LENGTH(t) FROM t ORDER BY id"
    assert mariadb_server.sql(query, target) == mariadb_server.sql(query, source)


def test_chosen_tables(mariadb_server: MariaServer, nasty: str, make: Callable[..., str]) -> None:
    """Only they are read and made; a name that is not there is refused."""
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, nasty))
    target = make()
    result = kit.restore(mariadb_server, kept, kit.place(mariadb_server, target), tables=("drawn", "fk1"))
    assert mariadb_server.sql("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'", target).split("\n") == [
        "drawn\tBASE TABLE",
        "fk1\tBASE TABLE",
    ]
    assert {name for name in kept.opened if not name.endswith(".sql")} == {"drawn", "fk1"}
    assert any("are not restored" in warning for warning in result.warnings)
    with pytest.raises(SafetyRefused, match="no table nothing"):
        kit.restore(mariadb_server, kept, kit.place(mariadb_server, target + "x"), tables=("nothing",))


def test_a_database_that_is_not_empty_is_refused_unless_named(
    mariadb_server: MariaServer, make: Callable[..., str]
) -> None:
    """Its own name must be repeated; another's is not enough."""
    source = make("CREATE TABLE a (id INT PRIMARY KEY); INSERT INTO a VALUES (1);")
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    target = make(
        "CREATE TABLE old (x INT); CREATE TABLE a (y INT); CREATE VIEW v AS SELECT 1;"
        "CREATE TRIGGER t BEFORE INSERT ON old FOR EACH ROW SET @x = 1;"
    )
    where = kit.place(mariadb_server, target)
    for overwrite in (None, source, "old"):
        with pytest.raises(SafetyRefused, match="is not empty"):
            kit.restore(mariadb_server, kept, where, overwrite=overwrite)
    assert mariadb_server.sql("SHOW TABLES", target) == "a\nold\nv"
    kit.restore(mariadb_server, kept, where, overwrite=target)
    assert kit.dump(mariadb_server, target) == kit.dump(mariadb_server, source)
    routine_only = make("CREATE PROCEDURE p() SELECT 1")
    with pytest.raises(SafetyRefused, match="it has routine p"):
        kit.restore(mariadb_server, kept, kit.place(mariadb_server, routine_only))


def test_other_servers_and_the_servers_own_databases_are_refused(
    mariadb_server: MariaServer, make: Callable[..., str]
) -> None:
    """Another vendor, a newer snapshot, `mysql`."""
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, make()))
    target = mariadb.open_target(kit.place(mariadb_server, make()), bin_folders=[mariadb_server.bin])
    with pytest.raises(SafetyRefused, match="the snapshot is of mysql"):
        target.prepare(LoadOptions(), {**kept.facts, "vendor": "mysql"})
    with pytest.raises(SafetyRefused, match=r"is older than the snapshot's 99\.1\.0"):
        target.prepare(LoadOptions(), {**kept.facts, "version": [99, 1, 0]})
    for name in ("mysql", "information_schema", ""):
        own = mariadb.open_target(kit.place(mariadb_server, name), bin_folders=[mariadb_server.bin])
        with pytest.raises(SafetyRefused, match="is not a database for restoring to"):
            own.prepare(LoadOptions(overwrite=name), kept.facts)


def test_a_difference_leaves_nothing_behind(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Where the rows read back are not those that were stored, the target stays as it was."""
    source = make("CREATE TABLE a (id INT PRIMARY KEY, v INT); INSERT INTO a VALUES (1, 1);")
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    name = source + "_new"

    def compare(table: str, rows: Iterator[bytes | bytearray]) -> None:
        list(rows)
        raise IntegrityError(f"table {table} differs")

    target = mariadb.open_target(kit.place(mariadb_server, name), bin_folders=[mariadb_server.bin])
    target.prepare(LoadOptions(), kept.facts)
    with pytest.raises(IntegrityError, match="table a differs"):
        target.load(kept.stored(), kept.tables, facts=kept.facts, check="full", compare=compare)
    assert not [one for one in kit.databases(mariadb_server) if one.startswith(name)]
