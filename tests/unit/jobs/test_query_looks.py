"""What a statement looks at: ranges, orders and joins give what a real database gives, and read no more than they must."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw
import pytest

from backupd.engines import sqlite_index
from backupd.engines.base import TableInfo
from backupd.errors import IntegrityError, UsageError
from backupd.model import Cell, Cells
from backupd.records.rowtext import row_of
from tests.jobs_kit import Kit
from tests.table_engine import TableSource
from tests.unit.jobs.test_query import ask
from tests.unit.jobs.test_stored_tables import Ledger
from tests.unit.jobs.test_tables import rows, take

Columns = Sequence[tuple[str, str]]
Rows = list[tuple[Cell, ...]]
ODD = [
    "",
    "a",
    "a\tb",
    "a\nb",
    "\\N",
    "B",
    "b",
    "z" * 300,
    "z" * 300 + "a",
    "é",
    "\U0001f600",
    "0",
    "10",
    "9",
    "x'); --",
]
TABLES: Mapping[str, tuple[Columns, tuple[str, ...]]] = {
    "n": ((("id", "bigint"), ("g", "integer"), ("x", "text")), ("id",)),
    "p": ((("a", "integer"), ("b", "integer"), ("x", "text")), ("a", "b")),
    "w": ((("word", "text"), ("k", "integer"), ("x", "character varying(40)")), ("word", "k")),
    "y": ((("raw", "bytea"), ("x", "text")), ("raw",)),
}
STATEMENTS = (
    "select * from n where id < 7 order by id",
    "select * from n where id <= 7.5 and id > -3 order by id desc",
    "select * from n where id between '5' and '11' order by id desc limit 4",
    "select * from n where id > 10 and id < 3",
    "select * from n where id > null or id < 4",
    "select * from n where id > 'x' or id < x'00'",
    "select id from n where id > 9e18 or id < -9e18",
    "select x, count(*) from n where id >= 100 group by x order by x",
    "select id from n order by id limit 5 offset 3",
    "select distinct id from n where id in (5, 3, 200, 4) order by id desc",
    "select * from p where a = 3 and b >= 2 order by b desc",
    "select * from p where a > 3 order by a, b",
    "select * from p where a = 2 order by a desc, b desc",
    "select * from p where a >= 2 order by a, b desc",
    "select * from p where (a, b) > (3, 1) order by a, b",
    "select * from w where word = 'a\tb' order by k",
    "select * from w where word > 'a' and word <= 'b' order by word, k",
    "select * from w where word >= 'z' order by word desc, k desc",
    "select * from w where word > 5 and word < 95",
    "select * from w where word < 'B' collate nocase order by 1, 2",
    "select word from w where word like 'Z%' order by word collate nocase, k limit 9",
    "select * from w where word = 'b' and k between 1 and 3 order by k desc",
    "select * from y where raw > x'10' and raw <= x'7f' order by raw desc",
    "select * from y where raw = x'' or raw >= 'text'",
    "select n.id, w.k from n join w on n.x = w.x where n.id < 40 order by 1, 2",
    "select count(*) from n join w on n.x = w.x and n.g = w.k",
    "select count(*), min(q.id) from n join n as q on n.x = q.x where n.id % 3 = 0",
    "select n.id, w.word from n left join w on n.x = w.x and w.k > 1 order by 1, 2",
    "select n.id, w.word from n right join w on n.x = w.x and n.g = w.k",
    "select id, (select count(*) from w where w.x = n.x), (select max(word) from w where w.k = n.g) from n order by id",
    "select a.id, b.a from n a join p b on a.g = b.b join w on w.x = b.x where w.word < 'b' order by 1, 2",
    "select id from n where exists (select 1 from w where w.x = n.x and w.word > n.x) order by id",
    "select count(*) from n, p where n.id > p.a and p.b = 2",
    "select * from p where a = 3 and x in ('p', 'q', 'r', 's', 'a') order by x, b",
    "select * from n where id >= 3 and g in (3, 1) order by g desc, id desc limit 7",
    "select * from p where a in (4, 1) and b in (2, 0) order by a, b desc",
    "select id from n where id in (4611686018427387904.0, 5.0, 9223372036854775807.0)",
    "select x from n where x = ''",
    "select n.id, w.k from n join w on w.word = n.g",
    "select n.id, w.k from w join n on n.g = w.word join p on p.x = n.id",
    "select count(*) from n join w on w.word < n.id where n.id in (5, 9, 10, 100)",
    "select w.k from n cross join w where w.word = n.g order by n.id, w.k",
    "select word from w where word = 9 or word = cast(10 as integer)",
    "select word from w where word in (9, 'b', x'00') order by word",
    "select w.k from n join w on w.word = n.g and w.word in ('0', '9')",
    "select word from w where +word in (select g from n) or word in (select g + 6 from n)",
)


def _data() -> dict[str, Rows]:
    noise = random.Random(7)
    words: list[Cell] = [None, *ODD[:9], *"pqrstuv"]
    wide = sorted({-5, 0, 2**62, -(2**63), 2**63 - 1, *noise.sample(range(-40, 300), 180)})
    return {
        "n": [(n, noise.randrange(5), noise.choice(words)) for n in wide],
        "p": [(a, b, noise.choice(words)) for a in range(-1, 6) for b in range(-2, 5)],
        "w": [(word, k, noise.choice(words)) for word in sorted(ODD, key=str.encode) for k in range(4)],
        "y": [(raw, noise.choice(words)) for raw in sorted({noise.randbytes(noise.randrange(4)) for _ in range(80)})],
    }


def _field(cell: Cell) -> bytes | None:
    if isinstance(cell, bytes):
        return b"\\x" + cell.hex().encode()
    return None if cell is None else str(cell).encode()


def _real(path: Path, data: Mapping[str, Rows]) -> apsw.Connection:
    words = {"bigint": "INTEGER", "integer": "INTEGER", "bytea": "BLOB"}
    db = apsw.Connection(str(path))
    for name, (columns, key) in TABLES.items():
        made = ", ".join(f"{column} {words.get(kind, 'TEXT')}" for column, kind in columns)
        db.execute(f"create table {name} ({made}, primary key ({', '.join(key)}))").fetchall()
        db.executemany(f"insert into {name} values ({', '.join('?' * len(columns))})", data[name])
    return db


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kit, Mapping[str, str], apsw.Connection]:
    """The same rows in a server's snapshot of small chunks and several streams, in one of a file, and in a database."""
    folder, data = tmp_path_factory.mktemp("looks"), _data()
    kit, db = Kit(folder), _real(folder / "real.db", data)
    infos = {name: TableInfo(name, key, None, tuple(columns), "f1", True) for name, (columns, key) in TABLES.items()}
    stored = {name: [row_of([_field(cell) for cell in row]) for row in some] for name, some in data.items()}
    utf8 = {"database": {"encoding": "UTF8"}}
    server = take(kit, TableSource(stored, infos=infos, parts=5, told=utf8)).snapshot
    return kit, {"server": server, "file": kit.backup(folder / "real.db").snapshot}, db


@pytest.mark.parametrize("kind", ["server", "file"])
def test_looks_give_what_a_real_database_gives(
    world: tuple[Kit, Mapping[str, str], apsw.Connection], kind: str
) -> None:
    """Ranges of numbers, texts and bytes, composite keys, values of other types, orders both ways, joins by any column."""
    kit, snapshots, db = world
    for sql in STATEMENTS:
        _, found, _ = ask(kit, sql, snapshots[kind])
        wanted: list[Cells] = db.execute(sql).fetchall()  # type: ignore[assignment]
        if "order by" in sql:
            assert found == wanted, sql
        else:
            assert sorted(found, key=repr) == sorted(wanted, key=repr), sql
    with pytest.raises(UsageError, match="among numbers"):
        ask(kit, "select word from w where word in (select g from n)", snapshots[kind])


def test_hidden_rows_are_in_no_range_and_no_join(world: tuple[Kit, Mapping[str, str], apsw.Connection]) -> None:
    """Whatever way rows are looked for."""
    kit, snapshots, _ = world
    for snapshot, hidden in ((snapshots["server"], b"2"), (snapshots["file"], 2)):
        ledger = Ledger([hidden])
        assert ask(kit, "select distinct a from p where a >= 1 order by a desc limit 3", snapshot, ledger)[1] == [
            (5,), (4,), (3,),
        ]  # fmt: skip
        _, found, _ = ask(kit, "select count(*) from n join p on p.b = n.g where p.a = 2 or p.a = 2", snapshot, ledger)
        assert found == [(0,)]


def test_ranges_and_orders_read_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rows, a range of keys, and a range of words each read a few chunks."""
    monkeypatch.setattr("backupd.jobs.capture.ROWS", 16)  # many chunks of few rows
    kit = Kit(tmp_path)
    words = [b"w%06d\tx\n" % n for n in range(20_000)]
    info = {"s": TableInfo("s", ("w",), None, (("w", "text"), ("x", "text")), "f1", True)}
    utf8 = {"database": {"encoding": "UTF8"}}
    snapshot = take(kit, TableSource({"t": rows(20_000), "s": words}, infos=info, told=utf8)).snapshot
    whole = ask(kit, "select count(*), max(length(x)) from t", snapshot)[2]
    for sql, first in (
        ("select id from t order by id desc limit 3", (19_999,)),
        ("select id from t where id between 12000 and 12005 order by id", (12_000,)),
        ("select id from t where id < 5", (0,)),
        ("select w from s where w >= 'w0070' and w < 'w0071'", ("w007000",)),
        ("select w from s where w = 'w019999'", ("w019999",)),
    ):
        _, found, fetched = ask(kit, sql, snapshot)
        assert found[0] == first, sql
        assert fetched < whole / 4, sql


def test_texts_of_unsure_order_are_scanned(tmp_path: Path) -> None:
    """Where nothing says that texts are UTF-8, or that rows are ordered, every row is looked at."""
    kit = Kit(tmp_path)
    columns = (("w", "text"), ("x", "text"))
    info = {
        "s": TableInfo("s", ("w",), None, columns, "f1", True),
        "u": TableInfo("u", ("w",), None, columns, "f1", False),
    }
    held = {"s": [b"b\t1\n", b"\xe9\t2\n", b"a\t3\n"], "u": [b"b\t1\n", b"a\t2\n"]}
    latin = take(kit, TableSource(held, infos=info, told={"database": {"encoding": "LATIN1"}})).snapshot
    assert ask(kit, "select w from s where w >= 'b' order by w", latin)[1] == [("b",), ("é",)]
    assert ask(kit, "select x from s where w = 'é'", latin)[1] == [("2",)]
    ascii_ = take(kit, TableSource(held, infos=info, told={"database": {"encoding": "SQL_ASCII"}})).snapshot
    assert ask(kit, "select x from s where w = '\\xe9'", ascii_)[1] == [("2",)]
    assert ask(kit, "select w from u order by w", ascii_)[1] == [("a",), ("b",)]
    assert ask(kit, "select w from u where w = ''", ascii_)[1] == []


def test_an_order_is_never_believed(tmp_path: Path) -> None:
    """A snapshot that lies about the order of its rows is found out, and can be sorted by an expression."""
    kit = Kit(tmp_path)
    snapshot = take(kit, TableSource({"t": [b"3\tc\n", b"1\ta\n", b"2\tb\n"]})).snapshot
    with pytest.raises(IntegrityError, match="do not stand in the order"):
        ask(kit, "select id from t order by id", snapshot)
    assert ask(kit, "select id from t order by +id", snapshot)[1] == [(1,), (2,), (3,)]


def test_a_join_without_an_index_is_linear_and_without_room_still_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inner table is read twice, not for each outer row; where no index fits, each look is a scan."""
    kit = Kit(tmp_path)
    columns = (("id", "bigint"), ("mail", "text"))
    info = {name: TableInfo(name, ("id",), None, columns, "f1", True) for name in "ab"}
    held = {name: [b"%d\t%s@example.com\n" % (n, str(n * 7 % 3000).encode()) for n in range(3000)] for name in "ab"}
    snapshot = take(kit, TableSource(held, infos=info)).snapshot
    sql = "select count(*), sum(b.id) from a join b on a.mail = b.mail"
    plain = ask(kit, "select count(*) from a", snapshot)[2]
    _, found, fetched = ask(kit, sql, snapshot)
    assert found == [(3000, 2999 * 1500)]
    assert fetched < 20 * plain
    monkeypatch.setattr(sqlite_index, "INDEX_BYTES", 40_000)
    assert ask(kit, f"{sql} where a.id < 20", snapshot)[1] == [(20, 190)]
