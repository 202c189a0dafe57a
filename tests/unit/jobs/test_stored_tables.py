"""Records looked up in snapshots: the truth is a plain list of rows, and a look-up by the key reads what can hold it."""

import os
import random
import tempfile
from collections.abc import Collection, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import backupd.jobs.compare as comparing
from backupd.crypto.keyfile import Role
from backupd.engines.base import TableInfo
from backupd.errors import IntegrityError, UsageError
from backupd.jobs.compare import MANY_BATCHES, StoredSide
from backupd.jobs.restore import BATCH
from backupd.jobs.storedtables import OpenTables, opened_tables
from backupd.model import Cell, Cells
from backupd.records.rowtext import row_of
from backupd.records.subject import Subject, parse_key, parse_subject
from backupd.repo.comparing import units
from backupd.repo.reading import PackCache
from backupd.store.folder import FolderStore
from backupd.wiring import open_file_database
from tests.jobs_kit import Kit, damage_packs
from tests.table_engine import TableSource
from tests.unit.jobs.test_tables import rows, take

MIXED = (("a", "bigint"), ("b", "integer"), ("c", "text"))


class Ledger:
    """Hides the rows whose first cell is among some."""

    def __init__(self, cells: Collection[Cell]) -> None:
        self._cells = set(cells)

    def hidden(self, table: str, columns: Sequence[str], key: Sequence[str]):  # type: ignore[no-untyped-def]
        return lambda row: None if row[0] in self._cells else ()


def look(kit: Kit, snapshot: str, erased: Ledger | None = None):  # type: ignore[no-untyped-def]
    repo = kit.repo(Role.READ, host="reader")
    view = next(v for v in repo.history().views if v.id == snapshot)
    return opened_tables(repo, view, open_file=open_file_database, erased=erased)


def found(tables: OpenTables, name: str, by: Sequence[str] = (), values: Collection[Cells] = ()) -> list[Cells]:
    return sorted(tables.tables[name].rows(by, values), key=repr)


def test_a_key_reads_one_chunk_and_the_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up in 40,000 rows reads a few per cent of what a scan reads."""
    monkeypatch.setattr("backupd.jobs.capture.ROWS", 16)  # many chunks of few rows
    kit = Kit(tmp_path)
    made = rows(40_000)
    taken = take(kit, TableSource({"t": made}))
    with look(kit, taken.snapshot) as tables:
        assert found(tables, "t", ["id"], [(b"31234",)]) == [(b"31234", made[31234].split(b"\t")[1][:-1])]
        quick = tables.fetched_bytes
        assert found(tables, "t", ["id"], [(b"40000",), (b"-1",), (b"031",), (None,)]) == []
        assert len(found(tables, "t")) == 40_000
        assert quick < tables.fetched_bytes / 10


def test_chunks_in_files_are_shared_among_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken of many is the same, whoever opens them; a damaged pack is named by the process that asks."""
    monkeypatch.setattr(comparing, "usable", lambda: 2)  # whatever threads other tests have left
    store = FolderStore(tmp_path / "repository", create=True)
    kit = Kit(tmp_path, store)
    taken = take(kit, TableSource({"t": rows(3000)}))
    repo = kit.repo(Role.READ, host="reader")
    (view,) = [v for v in repo.history().views if v.id == taken.snapshot]
    with closing(PackCache(repo, sparse=True)) as cache:
        side = StoredSide(repo, view, cache)
        refs = [ref for unit in units(side.streams("t")) for ref in unit]
        refs = refs * (BATCH * MANY_BATCHES // len(refs) + 1)

        def work(chunks: Sequence[bytes]) -> tuple[int, str]:
            return os.getpid(), sha256(b"".join(chunks)).hexdigest()

        alone = list(side.taken(refs, work, alone=True))
        fetched = cache.fetched_bytes
        shared = list(side.taken(refs, work))
        assert [digest for _, digest in shared] == [digest for _, digest in alone]
        assert len({process for process, _ in shared}) == 2
        assert cache.fetched_bytes == 2 * fetched
    damage_packs(tmp_path / "repository")
    with closing(PackCache(repo, sparse=True)) as cache, pytest.raises(IntegrityError, match="packs/"):
        list(StoredSide(repo, view, cache).taken(refs, work))


cells = st.one_of(st.none(), st.binary(max_size=5), st.sampled_from([b"", b"\\N", b"\t", b"a\nb", b"\\", b"1"]))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(st.tuples(st.integers(-50, 50), st.integers(-3, 3)), unique=True, min_size=1, max_size=60),
    others=st.lists(cells, min_size=1, max_size=8),
    parts=st.integers(1, 3),
    ordered=st.booleans(),
    seed=st.integers(0, 9),
)
def test_rows_are_those_of_a_plain_filter(
    tmp_path: Path, keys: list[tuple[int, int]], others: list[bytes | None], parts: int, ordered: bool, seed: int
) -> None:
    """Whole keys, their beginnings, other columns and several values, in one stream or several, in order or not."""
    noise = random.Random(seed)
    truth: list[tuple[bytes, bytes, bytes | None]] = [(b"%d" % a, b"%d" % b, noise.choice(others)) for a, b in keys]
    truth.sort(key=lambda row: (int(row[0]), int(row[1])))
    if not ordered:
        noise.shuffle(truth)
    info = TableInfo("t", ("a", "b"), None, MIXED, "f1", ordered)
    padded = [row_of(row) for row in truth]
    kit = Kit(Path(tempfile.mkdtemp(dir=tmp_path)))
    taken = take(kit, TableSource({"t": padded}, infos={"t": info}, parts=parts))
    with look(kit, taken.snapshot) as tables:
        for by in (["a"], ["a", "b"], ["b"], ["c"], ["c", "a"], ["b", "a"]):
            places = ["abc".index(name) for name in by]
            values = [tuple(row[at] for at in places) for row in noise.choices(truth, k=3)]
            wanted = [
                row for row in truth if tuple(row[at] for at in places) in values and None not in _of(row, places)
            ]
            assert found(tables, "t", by, values) == sorted(wanted, key=repr)


def _of(row: Sequence[bytes | None], places: Sequence[int]) -> list[bytes | None]:
    return [row[at] for at in places]


def test_many_chunks_long_rows_and_several_streams_are_found(tmp_path: Path) -> None:
    """Rows of more than 1 MiB between others, keys split over streams, and enough chunks for lists of two levels."""
    kit = Kit(tmp_path)
    made = rows(30_000)
    made[700] = b"700\t" + b"y" * 2_500_000 + b"\n"
    taken = take(kit, TableSource({"t": made}, parts=2))
    with look(kit, taken.snapshot) as tables:
        for key in (0, 699, 700, 701, 14_999, 15_000, 29_999):
            (row,) = tables.tables["t"].rows(["id"], [(b"%d" % key,)])
            assert row_of(row) == made[key]  # type: ignore[arg-type]
        assert sum(1 for _ in tables.tables["t"].rows()) == 30_000


def test_hidden_rows_never_come_out(tmp_path: Path) -> None:
    """Neither by a scan nor by a key, of servers' tables and of files."""
    kit = Kit(tmp_path)
    taken = take(kit, TableSource({"t": rows(50)}))
    with look(kit, taken.snapshot, Ledger([b"7"])) as tables:
        assert len(found(tables, "t")) == 49
        assert found(tables, "t", ["id"], [(b"7",)]) == []
    path = tmp_path / "x.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES (1, 'a'), (7, 'b')").fetchall()
    db.close()
    with look(kit, kit.backup(path).snapshot, Ledger([7])) as tables:
        assert found(tables, "t") == [(1, "a")]
        assert found(tables, "t", ["id"], [(7,)]) == []


def test_a_file_is_looked_up_by_its_indexes_and_hostile_names(tmp_path: Path) -> None:
    """Keys cost a few pages; names that look like SQL are names; what has no pages is left out by name."""
    path = tmp_path / "x.db"
    db = apsw.Connection(str(path))
    with db:
        db.execute('CREATE TABLE "a""; DROP TABLE t; --" ("x"" y" INTEGER PRIMARY KEY, "z" BLOB, w REAL)').fetchall()
        db.execute("CREATE TABLE pairs (a INT, b TEXT, c, PRIMARY KEY (a, b)) WITHOUT ROWID").fetchall()
        db.execute("CREATE VIRTUAL TABLE f USING fts5(x)").fetchall()
        noise = random.Random(1)
        db.executemany(
            'INSERT INTO "a""; DROP TABLE t; --" VALUES (?, ?, ?)', ((n, noise.randbytes(300), n) for n in range(8000))
        )
        db.executemany("INSERT INTO pairs VALUES (?, ?, ?)", [(1, "x", None), (1, "y", b"\0"), (2, "x", 1.5)])
    db.close()
    kit = Kit(tmp_path)
    with look(kit, kit.backup(path).snapshot) as tables:
        odd = tables.tables['a"; DROP TABLE t; --']
        assert [row[0] for row in odd.rows(['x" y'], [(4711,), (None,)])] == [4711]
        assert tables.fetched_bytes < 700_000
        assert found(tables, "pairs", ["a", "b"], [(1, "y"), (2, "x"), (3, "x")]) == [(1, "y", b"\0"), (2, "x", 1.5)]
        assert odd.cell("w", "3") == 3.0
        assert odd.cell("z", "x'00ff'") == b"\0\xff"
        assert [odd.cell('x" y', text) for text in ("-9223372036854775808", "7")] == [-(2**63), 7]
        assert "f" in tables.left_out
        with pytest.raises(UsageError):
            odd.cell('x" y', "one")


def test_what_is_written_becomes_the_cell_that_the_server_writes(tmp_path: Path) -> None:
    """Integers without their zeros, bytes and UUIDs in one form, padded texts padded; nonsense is refused."""
    kinds = {"i": "bigint", "u": "uuid", "b": "bytea", "t": "boolean", "p": "character(4)", "x": "text"}
    info = TableInfo("t", ("i",), None, tuple(kinds.items()), "f1", True)
    line = row_of([b"1", b"00000000-0000-0000-0000-0000000000ff", b"\\x0a", b"t", b"ab  ", None])
    kit = Kit(tmp_path)
    taken = take(kit, TableSource({"t": [line]}, infos={"t": info}))
    with look(kit, taken.snapshot) as tables:
        table = tables.tables["t"]
        (row,) = table.rows()
        texts = ["+01", "000000000000000000000000000000FF", "\\x0A", "true", "ab"]
        assert [table.cell(c, text) for c, text in zip("iubtp", texts, strict=True)] == list(row[:5])
        assert table.shown(row) == (1, "00000000-0000-0000-0000-0000000000ff", b"\n", "t", "ab  ", None)
        for column, text in {"i": "x", "u": "1", "b": "0", "t": "maybe", "x": "\0", "none": "1"}.items():
            with pytest.raises(UsageError):
                table.cell(column, text)


def test_subjects_are_read_as_the_contract_writes_them() -> None:
    """A table, a colon, the key's parts; a backslash makes a colon, a comma or a backslash a letter."""
    assert parse_subject("customers:4711") == Subject("customers", ("4711",))
    assert parse_subject(r"a\:b:c\,d,e:f\\,\x") == Subject("a:b", ("c,d", "e:f\\", "\\x"))
    assert parse_key("a,,") == ("a", "", "")
    for text in ("", "customers", ":1", "customers:", "customers:1\\"):
        with pytest.raises(UsageError):
            parse_subject(text)
    assert "4711" not in repr(parse_subject("customers:4711"))
