"""Two versions of an SQLite file compared: the truth is what SQLite itself reads from plain copies."""

import random
from collections import Counter
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupd.engines.sqlite_lazy import lazy_connection, read_schema
from backupd.errors import IntegrityError, UsageError
from backupd.jobs.comparepages import compare_files
from backupd.jobs.comparison import Asked, Comparison
from backupd.jobs.pagefile import Groups, PageFile
from backupd.records.btree import cells, tree
from backupd.records.pagediff import GROUP
from backupd.records.values import Record, Value, is_same
from backupd.report import Tally
from tests.cli.kit import CHINOOK
from tests.jobs_kit import Kit
from tests.unit.jobs.test_compare import look

Rows = dict[str, list[tuple[Value, ...]]]
TABLES = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, credit REAL, photo BLOB);
CREATE TABLE tokens (token TEXT PRIMARY KEY, n);
CREATE TABLE pairs (note TEXT, b INT, a TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE bag (x, y);
CREATE INDEX by_name ON customers (name);
"""
KEYS = {"customers": (0,), "tokens": (0,), "pairs": (2, 1), "bag": ()}


def connect(path: Path) -> apsw.Connection:
    return apsw.Connection(str(path))


def file_of(path: Path, kept: Groups | None = None) -> PageFile:
    """A plain file as a version: groups named by their content."""
    data = path.read_bytes()
    groups = [data[at : at + GROUP] for at in range(0, len(data), GROUP)]
    return PageFile(groups, len(data), lambda n: groups[n], Groups() if kept is None else kept)


def plain(old: Path, new: Path, folder: Path, **asked: object) -> tuple[Comparison, dict[str, list[Record]]]:
    """Compare two files without a repository."""
    records: dict[str, list[Record]] = {}
    wanted = Asked(folder, take=lambda n, r: records.setdefault(n, []).append(r), **asked)  # type: ignore[arg-type]
    kept = Groups()
    return compare_files(file_of(old, kept), file_of(new, kept), read_schema, wanted, Tally()), records


def truth(old: Path, new: Path, keys: dict[str, tuple[int, ...]] = KEYS) -> dict[str, tuple[int, int, int]]:
    """Added, removed, changed by reading both files with SQLite."""
    out = {}
    for name, key in keys.items():
        before, after = rows(old, name), rows(new, name)
        if not key:
            out[name] = (sum((after - before).values()), sum((before - after).values()), 0)
            continue
        was, now = ({tuple(row[at] for at in key): row for row in side} for side in (before, after))
        changed = sum(was[k] != now[k] for k in was.keys() & now.keys())
        out[name] = (len(now.keys() - was.keys()), len(was.keys() - now.keys()), changed)
    return out


def rows(path: Path, name: str) -> Counter[tuple[object, ...]]:
    db = connect(path)
    try:
        found = db.execute(f'SELECT * FROM "{name}"').fetchall()
        return Counter(tuple((type(v).__name__, v) for v in row) for row in found)
    finally:
        db.close()


def counted(found: Comparison) -> dict[str, tuple[int, int, int]]:
    assert [t.reason for t in found.tables if t.reason] == []
    return {t.name: (t.added, t.removed, t.changed) for t in found.tables}


def fill(db: apsw.Connection, seed: int, count: int) -> None:
    noise = random.Random(seed)
    texts = ["", "a", "Ünï\ncode\t\\N", "x" * 700, "y" * 9000]
    with db:
        for n in range(count):
            name = noise.choice(texts[:4]) + str(n)
            photo = noise.randbytes(noise.choice([0, 3, 40, 40, 9000]))
            credit = noise.choice([None, 1.5, 7.0, -(2**40)])
            db.execute(
                "INSERT OR REPLACE INTO customers VALUES (?,?,?,?)", (noise.choice([None, n * 3]), name, credit, photo)
            )
            db.execute(
                "INSERT OR REPLACE INTO tokens VALUES (?,?)",
                (f"{noise.randrange(9**9)}", noise.choice([None, n, b"\0\xff"])),
            )
            db.execute(
                "INSERT OR REPLACE INTO pairs VALUES (?,?,?)",
                (noise.choice(texts), n % 7, f"a{noise.randrange(count)}"),
            )
            db.execute("INSERT INTO bag VALUES (?,?)", (noise.randrange(4), noise.choice([None, "t", 1, 1.0])))


def edit(db: apsw.Connection, word: str, seed: int, share: int) -> None:
    noise = random.Random(seed)
    at = noise.randrange(200)
    match word:
        case "insert":
            fill(db, seed, share)
        case "update":
            db.execute(
                "UPDATE customers SET name = name || ?, credit = 3 WHERE id % 97 = ?", (str(seed), at % 97)
            ).fetchall()
            db.execute("UPDATE pairs SET note = ? WHERE b = ? AND a < 'a4'", (str(seed), at % 7)).fetchall()
        case "in place":
            sql = "UPDATE customers SET photo = ? WHERE length(photo) = 9000 AND id % 5 = ?"
            db.execute(sql, (noise.randbytes(9000), at % 5)).fetchall()
        case "delete":
            db.execute("DELETE FROM customers WHERE id BETWEEN ? AND ?", (at * 3, at * 3 + share * 9)).fetchall()
            db.execute("DELETE FROM tokens WHERE rowid % 11 = ?", (at % 11,)).fetchall()
            db.execute("DELETE FROM pairs WHERE b = ?", (at % 7,)).fetchall()
        case "rekey":
            db.execute("UPDATE OR IGNORE customers SET id = id + 1 WHERE id % 31 = ?", (at % 31,)).fetchall()
        case "bag":
            db.execute("DELETE FROM bag WHERE rowid % 13 = ?", (at % 13,)).fetchall()
            db.execute("INSERT INTO bag SELECT x, y FROM bag LIMIT ?", (share,)).fetchall()
        case "vacuum":
            db.execute("VACUUM").fetchall()
        case "page size":
            db.execute(f"PRAGMA page_size = {noise.choice([512, 1024, 4096, 65536])}").fetchall()
            db.execute("VACUUM").fetchall()


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "update", "in place", "delete", "rekey", "bag", "vacuum", "page size"]),
        st.integers(0, 999),
        st.integers(1, 60),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    edits=EDITS,
    size=st.sampled_from([512, 1024, 4096]),
    vacuum=st.sampled_from(["none", "full", "incremental"]),
    encoding=st.sampled_from(["UTF-8", "UTF-16le"]),
    count=st.sampled_from([3, 300]),
)
def test_random_histories(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[str, int, int]],
    size: int,
    vacuum: str,
    encoding: str,
    count: int,
) -> None:
    """Any two versions of any file differ by exactly what reading both of them whole says, in both directions."""
    folder = tmp_path_factory.mktemp("files")
    live = folder / "live.db"
    db = connect(live)
    for pragma in (f"page_size={size}", f"auto_vacuum={vacuum}", f"encoding='{encoding}'", "journal_mode=delete"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    db.execute(TABLES).fetchall()
    fill(db, 1, count)
    copies = [folder / "0.db"]
    copies[0].write_bytes(live.read_bytes())
    for night, (word, seed, share) in enumerate(edits, 1):
        edit(db, word, seed, share)
        copies.append(folder / f"{night}.db")
        copies[-1].write_bytes(live.read_bytes())
    db.close()
    for old, new in ((copies[0], copies[-1]), (copies[-1], copies[0]), (copies[-2], copies[-1])):
        found, records = plain(old, new, folder)
        assert counted(found) == truth(old, new)
        for name, told in records.items():
            check(old, new, name, told)


def check(old: Path, new: Path, name: str, told: list[Record]) -> None:
    """The values that records tell are those that SQLite reads."""
    was, now = rows(old, name), rows(new, name)
    for record in told:
        for side, row in ((was, record.old), (now, record.new)):
            assert row is None or tuple((type(v).__name__, v) for v in row) in side


def make(path: Path, script: str, **pragmas: object) -> Path:
    db = connect(path)
    for name, value in pragmas.items():
        db.execute(f"PRAGMA {name}={value}").fetchall()
    db.execute(script).fetchall()
    db.close()
    return path


def changed(path: Path, to: Path, script: str) -> Path:
    to.write_bytes(path.read_bytes())
    return make(to, script)


def test_a_long_record_rewritten_in_place(tmp_path: Path) -> None:
    """The rest of a record may change while the page in which it begins stays as it was: it is found all the same."""
    old = make(tmp_path / "old.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)")
    db = connect(old)
    db.executemany("INSERT INTO t VALUES (?, ?)", ((n, bytes([n]) * 50_000) for n in range(1, 200)))
    db.close()
    new = tmp_path / "new.db"
    new.write_bytes(old.read_bytes())
    db = connect(new)
    with db.blob_open("main", "t", "x", 77, True) as blob:
        blob.seek(40_000)
        blob.write(b"!")
    db.close()
    pages = [path.read_bytes() for path in (old, new)]
    differing = [at for at in range(0, len(pages[0]), 4096) if pages[0][at : at + 4096] != pages[1][at : at + 4096]]
    found, records = plain(old, new, tmp_path)
    assert counted(found) == {"t": (0, 0, 1)}
    assert records["t"][0].key == (77,)
    assert len(differing) == 2  # the header's counter, and one page of the record


def test_columns_that_came_and_went(tmp_path: Path) -> None:
    """Added columns fill old records with their defaults, removed ones rewrite all rows: neither is a change of data."""
    old = make(tmp_path / "old.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b REAL, c); CREATE TABLE u (x)")
    db = connect(old)
    db.executemany("INSERT INTO t VALUES (?,?,?,?)", ((n, f"a{n}", n, b"c") for n in range(5000)))
    db.execute("INSERT INTO u VALUES (1), (2)")
    db.close()
    added = changed(
        old, tmp_path / "1.db", "ALTER TABLE t ADD COLUMN d TEXT DEFAULT 'it''s'; UPDATE t SET a = 'new' WHERE id = 7"
    )
    found, records = plain(old, added, tmp_path)
    assert counted(found) == {"t": (0, 0, 1), "u": (0, 0, 0)}
    assert [(c.change, c.object) for c in found.schema_changes] == [("column added", "d")]
    assert (records["t"][0].old, records["t"][0].new) == ((7, "a7", 7.0, b"c"), (7, "new", 7.0, b"c"))
    later = changed(added, tmp_path / "2.db", "UPDATE t SET c = 5 WHERE id = 8")
    found, records = plain(added, later, tmp_path)
    assert records["t"][0].old == (8, "a8", 8.0, b"c", "it's")
    assert records["t"][0].new == (8, "a8", 8.0, 5, "it's")
    dropped = changed(later, tmp_path / "3.db", "ALTER TABLE t DROP COLUMN b; DELETE FROM t WHERE id = 9; DROP TABLE u")
    found, _ = plain(later, dropped, tmp_path)
    assert counted(found) == {"t": (0, 1, 0), "u": (0, 2, 0)}
    assert {c.change for c in found.schema_changes} == {"column removed", "table removed"}
    renamed = changed(later, tmp_path / "4.db", "ALTER TABLE t RENAME COLUMN c TO e; CREATE VIEW v AS SELECT 1")
    found, _ = plain(later, renamed, tmp_path)
    assert counted(found) == {"t": (0, 0, 0), "u": (0, 0, 0)}
    assert {c.change for c in found.schema_changes} == {"column removed", "column added", "definition added"}


def test_generated_columns_and_odd_names(tmp_path: Path) -> None:
    """Computed columns are no data; a primary key that is no rowid, and names that look like SQL, are what they are."""
    script = """
    CREATE TABLE "a""; DROP" (id INTEGER PRIMARY KEY DESC, "x y" REAL, z AS (id * 2), s AS (id + 1) STORED, w);
    INSERT INTO "a""; DROP" (id, "x y", w) VALUES (1, 2, 3), (4, 5.5, NULL);
    CREATE VIRTUAL TABLE search USING fts5(body); INSERT INTO search VALUES ('hello');
    """
    old = make(tmp_path / "old.db", script)
    new = changed(
        old, tmp_path / "new.db", """UPDATE "a""; DROP" SET w = 9 WHERE id = 4; INSERT INTO search VALUES ('b')"""
    )
    found, records = plain(old, new, tmp_path)
    assert {t.name: t.reason for t in found.tables}["search"] == "a virtual table has no records of its own"
    (record,) = records['a"; DROP']
    assert (record.key, record.columns) == ((4,), ("id", "x y", "s", "w"))
    assert (record.old, record.new) == ((4, 5.5, 5, None), (4, 5.5, 5, 9))


def test_chinook_through_a_repository(tmp_path: Path) -> None:
    """The sample database, edited: the changes, with their keys and values, in both directions."""
    kit = Kit(tmp_path)
    path = tmp_path / "c.db"
    path.write_bytes(CHINOOK.read_bytes())
    one = kit.backup(path).snapshot
    make(path, "DELETE FROM InvoiceLine WHERE InvoiceId = 100; UPDATE Customer SET Email = 'x@y' WHERE CustomerId = 3")
    two = kit.backup(path).snapshot
    found, records = look(kit, one, two)
    assert {t.name: (t.added, t.removed, t.changed) for t in found.tables if t.added + t.removed + t.changed} == {
        "Customer": (0, 0, 1),
        "InvoiceLine": (0, len(records["InvoiceLine"]), 0),
    }
    assert records["Customer"][0].key == (3,)
    assert [records["Customer"][0].columns[at] for at in records["Customer"][0].differing] == ["Email"]
    back, _ = look(kit, two, one, table="InvoiceLine")
    assert [(t.name, t.added) for t in back.tables] == [("InvoiceLine", len(records["InvoiceLine"]))]
    with pytest.raises(UsageError):
        look(kit, one, two, table="Moon")


def test_what_is_read_follows_what_changed(tmp_path: Path) -> None:
    """A few changed rows cost their groups and the inner pages; nothing changed costs nothing."""
    kit = Kit(tmp_path, pack_bytes=2_000_000)
    path = make(tmp_path / "c.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)")
    db = connect(path)
    noise = random.Random(1)
    with db:
        db.executemany("INSERT INTO t VALUES (?, ?)", ((n, noise.randbytes(300)) for n in range(60_000)))
    db.close()
    one = kit.backup(path)
    make(path, "UPDATE t SET x = 'new' WHERE id IN (5, 30000, 59000)")
    two = kit.backup(path).snapshot
    found, records = look(kit, one.snapshot, two)
    assert [r.key for r in records["t"]] == [(5,), (30000,), (59000,)]
    assert found.fetched_bytes < kit.history().views[0].structure.stored_bytes / 10
    make(path, "ANALYZE")
    three, four = kit.backup(path).snapshot, kit.backup(path).snapshot
    found, _ = look(kit, three, four)
    assert (counted(found), found.fetched_bytes) == ({"t": (0, 0, 0)}, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hostile_pages(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever stands in the pages, a comparison ends, with a result, with faults by table, or with damage."""
    folder = tmp_path_factory.mktemp("hostile")
    old = make(folder / "old.db", TABLES, page_size=512)
    db = connect(old)
    fill(db, 1, 40)
    db.close()
    content = bytearray(old.read_bytes())
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            page = at // 512 * 512
            content[page : page + 16] = data.draw(st.binary(min_size=16, max_size=16))
    new = folder / "new.db"
    new.write_bytes(content)
    for pair in ((old, new), (new, old)):
        try:
            plain(*pair, folder)
        except IntegrityError:
            continue


def test_a_tree_that_turns_on_itself(tmp_path: Path) -> None:
    """A page that stands in a tree twice is a fault of its table, and no endless walk."""
    old = make(tmp_path / "old.db", "CREATE TABLE t (x); CREATE TABLE u (x)", page_size=512)
    db = connect(old)
    db.executemany("INSERT INTO t VALUES (?)", (("y" * 100,) for _ in range(400)))
    db.execute("INSERT INTO u VALUES (1)").fetchall()
    root = next(iter(db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 't'")))[0]
    db.close()
    content = bytearray(old.read_bytes())
    page = (int(root) - 1) * 512
    content[page + 8 : page + 12] = int(root).to_bytes(4, "big")
    new = tmp_path / "new.db"
    new.write_bytes(content)
    found, _ = plain(old, new, tmp_path)
    reasons = {t.name: t.reason for t in found.tables}
    assert "cannot be compared" in str(reasons["t"])
    assert reasons["u"] is None


def test_records_that_share_their_pages(tmp_path: Path) -> None:
    """Records that all go on in the same pages are a fault, and cost no more than the file has."""
    old = make(tmp_path / "old.db", "CREATE TABLE t (x)", page_size=512)
    db = connect(old)
    db.executemany("INSERT INTO t VALUES (?)", ((bytes(20_000),) for _ in range(3)))
    db.close()
    content = bytearray(old.read_bytes())
    pages = file_of(old)
    leaf = next(n for n in tree(pages, read_schema(pages).tables[0].root) if pages.page(n)[0] == 13)
    cells_of = list(cells(pages, leaf))
    wanted = cells_of[1].local + cells_of[1].overflow.to_bytes(4, "big")
    at = content.index(wanted, (leaf - 1) * 512) + len(cells_of[1].local)
    content[at : at + 4] = cells_of[0].overflow.to_bytes(4, "big")
    new = tmp_path / "new.db"
    new.write_bytes(content)
    found, _ = plain(old, new, tmp_path)
    assert "belongs to two records" in str(found.tables[0].reason)


def test_no_database_and_an_empty_one(tmp_path: Path) -> None:
    """A file of no bytes is a database without tables; other bytes are none."""
    empty, full = tmp_path / "empty", make(tmp_path / "full.db", "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    empty.write_bytes(b"")
    assert counted(plain(empty, full, tmp_path)[0]) == {"t": (1, 0, 0)}
    assert counted(plain(full, empty, tmp_path)[0]) == {"t": (0, 1, 0)}
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(9000))
    with pytest.raises(IntegrityError):
        plain(full, tmp_path / "noise", tmp_path)


def test_the_lazy_file_reads_only_what_it_needs(tmp_path: Path) -> None:
    """A look-up by key through SQLite itself reads a few pages, and nothing can be written."""
    path = make(tmp_path / "x.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, x)", journal_mode="wal")
    db = connect(path)
    with db:
        db.executemany("INSERT INTO t VALUES (?, ?)", ((n, "z" * 200) for n in range(50_000)))
    db.close()
    whole = file_of(path)
    asked: list[int] = []

    class Counting:
        size = whole.size

        def read(self, offset: int, length: int) -> bytes:
            asked.append(offset)
            return whole.read(offset, length)

    with lazy_connection(Counting()) as link:
        assert link.execute("SELECT x FROM t WHERE id = 31415").fetchall() == [("z" * 200,)]
        with pytest.raises(apsw.ReadOnlyError):
            link.execute("DELETE FROM t").fetchall()
    assert len(asked) < 12


def test_records_come_back(tmp_path: Path) -> None:
    """What is encoded as a record is decoded again, and is what SQLite stores."""
    from backupd.records.sqliterecords import decode_record, encode_record

    values: list[Value] = [
        None,
        0,
        1,
        -1,
        127,
        -129,
        2**23,
        -(2**31),
        2**47,
        2**62,
        -(2**63),
        1.5,
        "",
        "Ü",
        b"",
        b"\0",
        "y" * 300,
    ]
    for encoding in ("utf-8", "utf-16-le"):
        record = encode_record(values * 9, encoding)
        assert all(map(is_same, decode_record(record, encoding), values * 9))
