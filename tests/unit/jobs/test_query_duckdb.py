"""SQL by DuckDB: typed columns of all engines, only what is read, hidden rows by no path, and nothing but the snapshot."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from backupd.crypto.keyfile import Role
from backupd.engines import duckdb_query
from backupd.engines.base import TableInfo
from backupd.errors import Failed, UsageError
from backupd.jobs.query import query
from backupd.model import Cells
from backupd.records.rowtext import row_of
from backupd.wiring import open_file_database, run_duckdb
from tests.jobs_kit import Kit
from tests.table_engine import TableSource
from tests.unit.jobs.test_stored_tables import Ledger
from tests.unit.jobs.test_tables import rows, take

KINDS = (
    ("id", "integer"), ("big", "bigint"), ("n", "numeric(10,2)"), ("free", "numeric"), ("d", "double precision"),
    ("at", "timestamp(3) with time zone"), ("day", "date"), ("t", "time without time zone"), ("tags", "text[]"), ("j", "jsonb"),
    ("ok", "boolean"), ("b", "bytea"), ("u", "uuid"), ("x", "text"),
)  # fmt: skip
UUID = b"00000000-0000-0000-0000-0000000000ff"
TYPED = [
    row_of([b"1", b"9223372036854775807", b"9.50", b"1e400", b"1.5", b"2026-11-28 06:00:00.125+00", b"2026-11-28", b"06:00:00",
            b'{a,"b c"}', b'{"a": [1, 2]}', b"t", b"\\x00ff", UUID, b"a\\b"]),
    row_of([b"2", b"-1", b"10.00", b"NaN", b"NaN", b"infinity", b"0044-03-15", None, b"{}", b"null", b"f", b"\\x", None, b"\\N"]),
]  # fmt: skip
ODD = 'Sales.odd"; DROP SCHEMA main; --'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kit, str, str]:
    """Two snapshots of a server's tables, one of MariaDB's, with values that are no values and names that are SQL."""
    kit = Kit(tmp_path_factory.mktemp("duckdb"))
    infos = {
        "typed": TableInfo("typed", ("id",), None, KINDS, "f1", True),
        ODD: TableInfo(ODD, (), None, (("x\"; y", "text"), ("X\"; Y", "text"), ("rowid", "int')) --")), "f1", False),
        "wrong": TableInfo("wrong", (), None, (("at", "date"), ("n", "numeric(4,1)"), ("s", "text")), "f1", False),
    }  # fmt: skip
    tables = {"t": rows(20_000), "u": rows(300, 2), "typed": TYPED, ODD: [b"a\\tb\t\\N\tz\n", b"\\\\\t\\\\N\t\n"]}
    tables["wrong"] = [b"2026-01-01\t1.5\ta\n"] * 3000 + [b"2026-13-45\t1.5\tb\n", b"infinity\t1.5\tc\n"]
    first = take(kit, TableSource(tables, infos=infos)).snapshot
    second = take(kit, TableSource({"t": rows(20_001)[1:]})).snapshot
    return kit, first, second


def ask(
    kit: Kit, sql: str, main: str, erased: Ledger | None = None, **attached: str
) -> tuple[Sequence[str], list[Cells], int, Sequence[str]]:
    repo = kit.repo(Role.READ, host="reader")
    views = {v.id: v for v in repo.history().views}
    chosen = {name: views[i] for name, i in {"main": main, **attached}.items()}
    with query(
        repo, chosen, sql, run_sql=run_duckdb, open_file=open_file_database, erased=lambda _: erased
    ) as answer:  # fmt: skip
        return answer.columns, list(answer.rows), answer.fetched(), answer.remarks


def test_types_are_as_the_manual_says(world: tuple[Kit, str, str]) -> None:
    """Numbers are numbers, instants are compared as instants; what has no type of DuckDB's is the server's text."""
    kit, first, _ = world
    columns, found, _, remarks = ask(kit, "select * from typed order by id", first)
    assert list(columns) == [name for name, _ in KINDS]
    assert found[0] == (
        1, 2**63 - 1, "9.50", "1e400", 1.5, "2026-11-28 06:00:00.125+00", "2026-11-28", "06:00:00", '{a,"b c"}', '{"a": [1, 2]}',
        "true", b"\0\xff", UUID.decode(), "a\\b",
    )  # fmt: skip
    assert found[1][1:4] == (-1, "10.00", "NaN")
    assert found[1][5:] == ("infinity", "0044-03-15", None, "{}", "null", "false", b"", None, "\\N")
    assert remarks == ()
    assert ask(kit, "select id from typed where n > 9.6 and not ok", first)[1] == [(2,)]
    assert ask(kit, "select sum(n), max(\"at\") > '2027-01-01', typeof(sum(n)) from typed", first)[1] == [
        ("19.50", "true", "DECIMAL(38,2)")
    ]
    assert ask(kit, "select j ->> '$.a[1]', date_part('year', day) from typed where id = 1", first)[1] == [("2", 2026)]


def test_values_that_are_none_make_their_column_text(world: tuple[Kit, str, str]) -> None:
    """The whole column, as the server wrote it, and it is told; the other columns keep their types."""
    kit, first, _ = world
    _, found, _, remarks = ask(kit, 'select "at", n, count(*) from wrong group by all order by 1', first)
    assert found == [("2026-01-01", "1.5", 3000), ("2026-13-45", "1.5", 1), ("infinity", "1.5", 1)]
    assert len(remarks) == 1
    assert "wrong.at is text here" in remarks[0]
    assert ask(kit, "select sum(n) from wrong", first)[3] == ()


def test_only_what_is_read_is_loaded(world: tuple[Kit, str, str]) -> None:
    """A statement over a small table does not fetch a large one; a column that is not named need not be sound."""
    kit, first, second = world
    small = ask(kit, "select count(*) from u", first)
    whole = ask(kit, "select count(*), sum(id), max(length(x)) from t", first)
    assert small[1] == [(300,)]
    assert whole[1] == [(20_000, 199_990_000, 60)]
    assert small[2] < whole[2] / 4
    sql = "select id from main.t except select id from later.t"
    assert ask(kit, sql, first, later=second)[1] == [(0,)]
    assert ask(kit, "with w as (select * from t) select count(*) from w a join w b using (id)", first)[1] == [(20_000,)]
    assert ask(kit, "from query('select max(id) from t')", first)[1] == [(19_999,)]
    assert ask(kit, "select r.id from (select t as r from t) where r.x is null", first)[1] == []
    assert ask(kit, "select id from t order by id desc limit 2", first)[1] == [(19_999,), (19_998,)]
    held = [row.rstrip(b"\n").split(b"\t") for row in rows(20_000)]
    held.sort(key=lambda row: (row[1], -int(row[0])))
    assert [row[0] for row in ask(kit, "select id from t order by x, id desc", first)[1]] == [int(n) for n, _ in held]


def test_hostile_names_are_names(world: tuple[Kit, str, str]) -> None:
    """Of tables, columns and types; values with every kind of escape."""
    kit, first, _ = world
    columns, found, _, _ = ask(kit, 'select * from "' + ODD.replace('"', '""') + '" order by 1', first)
    assert (list(columns), found) == (['x"; y', 'X"; Y_2', "rowid"], [("\\", "\\N", ""), ("a\tb", None, "z")])


def test_hidden_rows_are_not_there(world: tuple[Kit, str, str], tmp_path: Path) -> None:
    """Neither of servers nor of files."""
    kit, first, _ = world
    assert ask(kit, "select count(*), sum(id) from t", first, Ledger([b"7"]))[1] == [(19_999, 199_990_000 - 7)]
    path = tmp_path / "file.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE c (id INTEGER PRIMARY KEY, v, n NUMERIC, at DATETIME, r REAL, i INT)").fetchall()
    db.execute(
        "INSERT INTO c VALUES (1, 'a', 1.5, '2026-01-01 10:00:00', 1, 1), (7, x'00', 2, NULL, 2.5, 'odd'), (8, 5, 3, NULL, 0, 3)"
    ).fetchall()
    db.close()
    snapshot = kit.backup(path).snapshot
    columns = 'id, v, n, "at" + interval 1 day, r, i'
    _, found, _, remarks = ask(kit, f"select {columns} from c order by id", snapshot)
    assert found == [
        (1, "a", 1.5, "2026-01-02 10:00:00", 1.0, "1"), (7, "\\x00", 2.0, None, 2.5, "odd"), (8, "5", 3.0, None, 0.0, "3"),
    ]  # fmt: skip
    assert "c.i is text here" in remarks[0]
    assert [row[0] for row in ask(kit, "from c", snapshot, Ledger([7]))[1]] == [1, 8]


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from read_text('/etc/passwd')",
        "select * from glob('/etc/*')",
        "from sniff_csv('/etc/passwd')",
        "select * from rows",
        "select * from query('select * from read_blob(''/etc/passwd'')')",
        "attach '/tmp/x.db'",
        "copy t to '/tmp/x.csv'",
        "export database '/tmp/x'",
        "install httpfs",
        "load json",
        "set enable_external_access = true",
        "reset lock_configuration",
        "call enable_logging()",
        "select * from enable_logging(storage = 'file', storage_config = {'path': '/tmp/x'})",
        "create table x (a int)",
        'with x as (insert into "-".t0 values (1) returning *) select * from x',
        "drop view t",
        "select 1; select 2",
        "pragma database_list",
        "select getenv('HOME')",
        "explain select 1",
        "select 1) as r(c0), (select 2",
        "",
        "-- nothing",
        "selec 1",
        "select * from nowhere",
        "select '\ud800'",
        "select cast(x as integer) from u",
    ],
)
def test_only_one_statement_that_reads_the_snapshot_is_run(world: tuple[Kit, str, str], sql: str) -> None:
    """Everything else is refused, and no message holds a row's value or a file's content."""
    with pytest.raises(UsageError) as caught:
        ask(world[0], sql, world[1])
    assert "root:" not in caught.value.message
    assert rows(1)[0].split(b"\t")[1][:20].decode() not in caught.value.message


def test_too_much_memory_is_an_error_and_not_a_file(
    world: tuple[Kit, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no folder for what does not fit."""
    monkeypatch.setattr(duckdb_query, "MEMORY", "20MiB")
    monkeypatch.setitem(duckdb_query._SETTINGS, "memory_limit", "20MiB")
    sql = "select count(*) from (select a.x || b.x as y, random() r from t a, u b order by r)"
    with pytest.raises(Failed, match="20MiB"):
        ask(world[0], sql, world[1])


@pytest.mark.parametrize("sql", ["select list_sum(range(3000000000))", "select length(repeat('x', 2000000000)) from t"])
def test_one_list_or_text_is_bounded_too(world: tuple[Kit, str, str], sql: str) -> None:
    """DuckDB's own limit does not hold for them; the kernel's is taken back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(Failed, match="more than 1GiB of memory"):
        ask(world[0], sql, world[1])
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert ask(world[0], "select 1", world[1])


def test_without_the_extra_it_is_said_what_to_install(
    world: tuple[Kit, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        ask(world[0], "select 1", world[1])
    assert "backupd[duckdb]" in (caught.value.hint or "")
