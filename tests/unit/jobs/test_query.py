"""SQL over snapshots: rows, types, joins and look-ups; hidden rows by no path; nothing but reading."""

from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from backupd.crypto.keyfile import Role
from backupd.engines.base import TableInfo
from backupd.errors import Failed, UsageError
from backupd.jobs.query import query
from backupd.model import Cells
from backupd.records.rowtext import row_of
from backupd.wiring import open_file_database, run_sql
from tests.jobs_kit import Kit
from tests.table_engine import TableSource
from tests.unit.jobs.test_stored_tables import Ledger
from tests.unit.jobs.test_tables import rows, take

KINDS = (
    ("id", "integer"), ("big", "bigint"), ("n", "numeric(10,2)"), ("at", "timestamp with time zone"),
    ("tags", "text[]"), ("j", "jsonb"), ("ok", "boolean"), ("b", "bytea"),
)  # fmt: skip
TYPED = [
    row_of([b"1", b"9223372036854775807", b"9.50", b"2026-11-28 06:00:00+00", b'{a,"b c"}', b'{"a": 1}', b"t", b"\\x00ff"]),
    row_of([b"2", b"-1", b"10.00", None, b"{}", b"null", b"f", b"\\x"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kit, str, str]:
    """Two snapshots of a server's tables."""
    kit = Kit(tmp_path_factory.mktemp("query"))
    infos = {
        "typed": TableInfo("typed", ("id",), None, KINDS, "f1", True),
        "Sales.odd\"; --": TableInfo("Sales.odd\"; --", (), None, (("x\"; y", "text"), ("X\"; Y", "text")), "f1", False),
    }  # fmt: skip
    tables = {"t": rows(20_000), "u": rows(300, 2), "typed": TYPED, 'Sales.odd"; --': [b"a\\tb\t\\N\n"]}
    with pytest.MonkeyPatch.context() as small:
        small.setattr("backupd.jobs.capture.ROWS", 16)  # many chunks of few rows
        first = take(kit, TableSource(tables, infos=infos)).snapshot
        second = take(kit, TableSource({"t": rows(20_001)[1:]})).snapshot
    return kit, first, second


def ask(
    kit: Kit, sql: str, main: str, erased: Ledger | None = None, **attached: str
) -> tuple[Sequence[str], list[Cells], int]:
    repo = kit.repo(Role.READ, host="reader")
    views = {v.id: v for v in repo.history().views}
    chosen = {name: views[i] for name, i in {"main": main, **attached}.items()}
    with query(
        repo, chosen, sql, run_sql=run_sql, open_file=open_file_database, erased=lambda _: erased
    ) as answer:  # fmt: skip
        return answer.columns, list(answer.rows), answer.fetched()


def test_types_are_as_the_manual_says(world: tuple[Kit, str, str]) -> None:
    """Integers and bytes are typed, everything else is the server's text; numeric text needs a CAST to be compared."""
    kit, first, _ = world
    columns, found, _ = ask(kit, "select * from typed order by id", first)
    assert list(columns) == [name for name, _ in KINDS]
    assert found[0] == (1, 2**63 - 1, "9.50", "2026-11-28 06:00:00+00", '{a,"b c"}', '{"a": 1}', "t", b"\0\xff")
    assert found[1] == (2, -1, "10.00", None, "{}", "null", "f", b"")
    assert ask(kit, "select id from typed where n > '9.6'", first)[1] == []
    assert ask(kit, "select id from typed where cast(n as real) > 9.6", first)[1] == [(2,)]
    assert ask(kit, "select sum(n), j ->> 'a' from typed", first)[1] == [(19.5, 1)]


def test_a_key_reads_a_few_chunks(world: tuple[Kit, str, str]) -> None:
    """A look-up by the key, also in a join, costs a part of the scan."""
    kit, first, _ = world
    _, found, quick = ask(kit, "select id, length(x) from t where id = 12345", first)
    assert found == [(12345, 60)]
    _, found, joined = ask(kit, "select u.id, t.id from u join t on t.id = u.id where u.id = 7.0", first)
    assert found == [(7, 7)]
    _, found, whole = ask(kit, "select count(*), sum(id), max(length(x)) from t", first)
    assert found == [(20_000, 199_990_000, 60)]
    assert quick < whole / 10
    assert joined < whole / 5


def test_two_snapshots_are_joined(world: tuple[Kit, str, str]) -> None:
    """What one has and the other has not, by NAME.TABLE."""
    kit, first, second = world
    sql = "select id from main.t except select id from later.t"
    assert ask(kit, sql, first, later=second)[1] == [(0,)]


def test_hostile_names_are_names(world: tuple[Kit, str, str]) -> None:
    """Of a table and of columns that differ in their case only."""
    kit, first, _ = world
    columns, found, _ = ask(kit, 'select * from "Sales.odd""; --"', first)
    assert (list(columns), found) == (['x"; y', 'X"; Y_2'], [("a\tb", None)])


@pytest.mark.parametrize(
    "sql",
    [
        "select 1; select 2",
        "delete from t",
        "create table x (a)",
        "attach '/tmp/x' as x",
        "pragma query_only = off",
        "select * from pragma_database_list",
        "select load_extension('x')",
        "vacuum into '/tmp/x'",
        "",
        "-- nothing",
        "select * from nowhere",
        "selec 1",
        "select '\0'",
        "select id from t where id = ?",
    ],
)
def test_only_one_statement_that_reads_is_run(world: tuple[Kit, str, str], sql: str) -> None:
    """Everything else is refused before it does anything."""
    kit, first, _ = world
    with pytest.raises(UsageError):
        ask(kit, sql, first)


def test_a_statement_that_needs_too_much_memory_is_ended(world: tuple[Kit, str, str]) -> None:
    """It fails, and nothing is sorted on a disk."""
    kit, first, _ = world
    sql = "with recursive n(i, z) as (select 1, zeroblob(9000000) union all select i + 1, zeroblob(9000000) from n limit 60)"
    with pytest.raises(Failed, match="memory"):
        ask(kit, f"{sql} select count(*) from (select * from n order by z, i desc)", first)


def test_files_are_asked_like_servers_and_hidden_rows_are_not_there(
    world: tuple[Kit, str, str], tmp_path: Path
) -> None:
    """Values of a file keep their types; an erased row is found by no name of its table and no look-up."""
    kit, first, _ = world
    path = tmp_path / "file.db"
    db = apsw.Connection(str(path))
    with db:
        db.execute("CREATE TABLE c (id INTEGER PRIMARY KEY, v, r REAL)").fetchall()
        db.execute("CREATE VIEW everyone AS SELECT * FROM c").fetchall()
        db.execute("INSERT INTO c VALUES (1, 'a', 1), (7, x'00', 2.5), (8, NULL, NULL)").fetchall()
    db.close()
    snapshot = kit.backup(path).snapshot
    assert ask(kit, "select * from c", snapshot)[1] == [(1, "a", 1.0), (7, b"\0", 2.5), (8, None, None)]
    assert ask(kit, "select v from c where id = 7", snapshot)[1] == [(b"\0",)]
    hidden = Ledger([7, b"7"])
    for sql in ("select id from c", "select id from main.c", "select id from c where id in (1, 7, 8)"):
        assert ask(kit, sql, snapshot, hidden)[1] == [(1,), (8,)]
    for sql in ("select * from everyone", "select * from c where rowid in (select pgno from sqlite_dbpage)"):
        with pytest.raises(UsageError):
            ask(kit, sql, snapshot, hidden)
    assert ask(kit, "select count(*) from t where id in (6, 7)", first, hidden)[1] == [(1,)]
    assert ask(kit, "select count(*), sum(id) from t", first, hidden)[1] == [(19_999, 199_990_000 - 7)]


LEFT = [(1, 2, "a"), (2, 2, "b"), (3, 7, "c"), (4, None, "d")]
RIGHT = [(1, 10, "x"), (2, 20, "y"), (3, 30, "z")]
PAIRS = [(-3, 4, "s"), (1, 1, "p"), (1, 2, "q"), (2, 1, "r")]
JOINS = (
    "select a.id, b.id, b.x from a right join b on a.bid = b.id",
    "select a.id, b.id from a full join b on a.bid = b.id",
    "select a.id, c.k2 from a full join c on a.id = c.k1 and a.bid = c.k2",
    "select * from c where (k1 = 1 and k2 = 1) or (k1 = 2 and k2 = 1) or k1 = -3",
    "select a.id, b.id from a join b on b.id = a.id or b.id = a.bid",
    "select c.x, a.id from a join c on (c.k1 = a.id and c.k2 = a.bid) or (c.k1 = a.bid and c.k2 = a.id)",
    "select id from a where id = 1 or id = 2 or bid = 7 or x in ('d', 'e')",
    "select id from a where id in (select bid from a) union all select n from b where id between 2 and 9",
)


def test_joins_and_alternatives_are_those_of_a_real_database(tmp_path: Path) -> None:
    """SQLite tells rows apart by their numbers: rows that several look-ups find must have one number, others another."""
    kit = Kit(tmp_path)
    tables = {"a": (("id", "bid", "x"), ("id",), LEFT), "b": (("id", "n", "x"), ("id",), RIGHT)}
    tables["c"] = (("k1", "k2", "x"), ("k1", "k2"), PAIRS)
    infos, stored, real = {}, {}, apsw.Connection(":memory:")
    for name, (columns, key, held) in tables.items():
        kinds = tuple((column, "text" if column == "x" else "bigint") for column in columns)
        infos[name] = TableInfo(name, key, None, kinds, "f1", True)
        stored[name] = [row_of([None if cell is None else str(cell).encode() for cell in row]) for row in held]
        real.execute(
            f"create table {name} ({', '.join(f'{c} {kind}' for c, kind in kinds)}, primary key ({', '.join(key)}))"
        )
        real.executemany(f"insert into {name} values (?, ?, ?)", held)
    snapshot = take(kit, TableSource(stored, infos=infos)).snapshot
    for sql in JOINS:
        _, found, _ = ask(kit, sql, snapshot)
        assert sorted(found, key=repr) == sorted(real.execute(sql).fetchall(), key=repr), sql
    same = "select m.id, o.id from main.a as m full join o.a as o on m.id = o.id"
    _, found, _ = ask(kit, same, snapshot, o=snapshot)
    assert sorted(found) == [(n, n) for n in (1, 2, 3, 4)]
