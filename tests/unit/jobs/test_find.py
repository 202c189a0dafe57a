"""A record through time: its versions, where it is missing, and how little is read for it."""

from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings

from backupd.crypto.keyfile import Role
from backupd.engines.base import TableInfo
from backupd.errors import IntegrityError, UsageError
from backupd.jobs.conditions import AskRows, parse_where
from backupd.jobs.find import Asked, Found, find
from backupd.jobs.pagefile import Groups
from backupd.jobs.storedfile import StoredFileTable
from backupd.jobs.storedtables import open_tables
from backupd.records.rowtext import row_of
from backupd.repo.reading import PackCache
from backupd.report import Tally
from backupd.wiring import ask_rows, open_file_database
from tests.faults.test_damage import change_wide_database, make_wide_database
from tests.jobs_kit import Kit, contents, overwrite, pack_kinds
from tests.table_engine import TableSource
from tests.unit.jobs.test_compare_files import EDITS, TABLES, edit, fill
from tests.unit.jobs.test_stored_tables import Ledger
from tests.unit.jobs.test_tables import rows, take


def seek(kit: Kit, asked: Asked, erased: Ledger | None = None, ask: AskRows = ask_rows) -> Found:
    repo = kit.repo(Role.READ, host="reader")
    return find(
        repo,
        repo.history().views,
        asked,
        open_file=open_file_database,
        ask_rows=ask,
        erased=lambda _: erased,
        report=Tally(),
    )


def counting(asked: list[int]) -> AskRows:
    """Conditions that note of how many rows they were asked."""

    class Counting:
        def __init__(self, *given: object) -> None:
            self._test = ask_rows(*given)  # type: ignore[arg-type]

        def fitting(self, taken):  # type: ignore[no-untyped-def]
            def noted(used):  # type: ignore[no-untyped-def]
                rows = taken(used)
                asked.append(len(rows))
                return rows

            return self._test.fitting(noted)

        def close(self) -> None:
            self._test.close()

    return Counting


def test_versions_and_gaps_of_a_row(tmp_path: Path) -> None:
    """Absent, added, unchanged while others change, changed, removed, back again; a look-up reads little."""
    kit = Kit(tmp_path)
    base = rows(12_000)
    key, nights = b"6000", []
    for n, text in enumerate([None, b"a", b"a", b"b", None, b"b"]):
        made = [row for row in base if not row.startswith(key + b"\t")]
        made[n] = b"%d\tother %d\n" % (n, n)
        if text:
            made.insert(6000, row_of([key, text]))
        nights.append(take(kit, TableSource({"t": made})).snapshot)
    found = seek(kit, Asked("t", ("6000",)))
    assert [(v.snapshot, v.values) for v in found.versions] == [
        (nights[1], (6000, "a")), (nights[3], (6000, "b")), (nights[5], (6000, "b")),
    ]  # fmt: skip
    assert found.present == [nights[1], nights[2], nights[3], nights[5]]
    assert len(found.absent) == 2
    scan = seek(kit, Asked("t", where=(parse_where("x=b"),)))
    assert [v.snapshot for v in scan.versions] == [nights[3], nights[5]]
    assert found.fetched_bytes < scan.fetched_bytes
    hidden = seek(kit, Asked("t", ("6000",)), Ledger([key]))
    assert hidden.versions == []
    assert hidden.last_seen is None
    with pytest.raises(UsageError, match="is made of: id"):
        seek(kit, Asked("t", ("1", "2")))
    with pytest.raises(UsageError, match="has a table nowhere"):
        seek(kit, Asked("nowhere", ("1",)))


def test_a_table_that_changed_its_shape_is_told_of(tmp_path: Path) -> None:
    """A column added, a key changed, a table gone: each is a remark, and the record is found where it can be."""
    kit = Kit(tmp_path)
    wide = TableInfo("t", ("id",), None, (("id", "bigint"), ("x", "text"), ("y", "text")), "f2", True)
    other = TableInfo("t", ("id", "x"), None, (("id", "bigint"), ("x", "text")), "f3", False)
    take(kit, TableSource({"t": [b"1\ta\n"]}))
    take(kit, TableSource({"t": [b"1\ta\t\\N\n"]}, infos={"t": wide}))
    take(kit, TableSource({"t": [b"1\ta\n"]}, infos={"t": other}))
    take(kit, TableSource({"u": [b"1\ta\n"]}))
    found = seek(kit, Asked("t", ("1",)))
    assert [v.values for v in found.versions] == [(1, "a"), (1, "a", None)]
    assert [remark.split(": ")[1] for remark in found.remarks] == [
        "the columns of t changed", "the key of t changed", "the key of t is made of",
        "the snapshot has no table t",
    ]  # fmt: skip


def test_a_record_of_a_file_is_found(tmp_path: Path) -> None:
    """By its composite key, in each snapshot; pages that did not change are read once."""
    path = tmp_path / "x.db"
    kit = Kit(tmp_path)
    db = apsw.Connection(str(path))
    db.execute(
        "CREATE TABLE t (a TEXT, b INT, c, PRIMARY KEY (a, b)); INSERT INTO t VALUES ('x,y', 1, 'old')"
    ).fetchall()
    one = kit.backup(path).snapshot
    read = seek(kit, Asked("t", ("x,y", "1"))).fetched_bytes
    two = kit.backup(path).snapshot
    assert seek(kit, Asked("t", ("x,y", "1"))).fetched_bytes < 1.5 * read
    db.execute("UPDATE t SET c = 'new'").fetchall()
    three = kit.backup(path).snapshot
    db.close()
    found = seek(kit, Asked("t", ("x,y", "1")))
    assert [(v.snapshot, v.values) for v in found.versions] == [(one, ("x,y", 1, "old")), (three, ("x,y", 1, "new"))]
    assert found.present == [one, two, three]


def versions(
    kit: Kit, *where: str, erased: Ledger | None = None, table: str = "t"
) -> list[tuple[str, tuple[object, ...]]]:
    found = seek(kit, Asked(table, where=tuple(map(parse_where, where))), erased)
    return [(v.snapshot, v.values) for v in found.versions]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kit, list[str]]:
    """Four snapshots of a server's table; few rows change, one of them is a hostile one."""
    kit, made = Kit(tmp_path_factory.mktemp("nights")), []
    kinds = (("id", "bigint"), ("x", "text"), ("n", "numeric"), ("b", "bytea"), ('Odd"; --', "text"))
    info = {"t": TableInfo("t", ("id",), None, kinds, "f1", True)}
    held = [row_of([b"%d" % n, b"word %d" % n, b"%d.50" % n, b"\\x%02x" % (n % 256), None]) for n in range(20_000)]
    for night in range(4):
        if night:
            held[100 * night] = row_of([b"%d" % (100 * night), b"'); drop table t; --", b"-1.5", None, b"a\tb\\"])
        made.append(take(kit, TableSource({"t": list(held)}, infos=info)).snapshot)
    return kit, made


def test_a_condition_of_sql_is_asked_of_every_version(nights: tuple[Kit, list[str]]) -> None:
    """Ranges, CAST, LIKE, blobs, hostile names and values; several --where all hold; names may be the table's own."""
    kit, made = nights
    hostile = "'); drop table t; --"
    found = versions(kit, "n < '0' and x like '%drop table%'")
    assert [(snapshot, values[:2]) for snapshot, values in found] == [(made[n], (100 * n, hostile)) for n in (1, 2, 3)]
    assert [v[0] for _, v in versions(kit, "cast(n as real) between 70 and 71.5")] == [70, 71]
    assert [v[0] for _, v in versions(kit, "t.id >= 19998", "x=word 19999")] == [19_999]
    assert [v[0] for _, v in versions(kit, "b = x'07' and id < 300")] == [7, 263]
    assert [v[0] for _, v in versions(kit, "id = 5 or id=6 -- (")] == [5, 6]
    assert len(versions(kit, "\"Odd\"\"; --\" = 'a' || char(9) || 'b\\'")) == 3
    assert [v[0] for _, v in versions(kit, "x = 'word 9'")] == [v[0] for _, v in versions(kit, "x='word 9'")] == [9]
    assert [v[0] for _, v in versions(kit, f"x={hostile}", "id<250")] == [100, 200]
    assert versions(kit, "id between 99 and 101", erased=Ledger([b"99", b"100"])) == [
        (made[0], (101, "word 101", "101.50", b"\x65", None))
    ]


def test_a_chunk_that_was_seen_is_not_opened_again(nights: tuple[Kit, list[str]]) -> None:
    """Four nights cost little more than one, by SQL and by a value, also where rows are hidden."""
    kit, made = nights
    asked = Asked("t", where=(parse_where("id % 10000 = 100"),))
    for erased in (None, Ledger([b"5"])):
        rows_asked: list[int] = []
        found = seek(kit, asked, erased, counting(rows_asked))
        assert [(v.snapshot, v.values[0]) for v in found.versions] == [
            (made[0], 100),
            (made[0], 10_100),
            (made[1], 100),
        ]
        assert 20_000 - 1 <= sum(rows_asked) < 30_000
    one = seek(kit, Asked("t", where=(parse_where("x=word 19000"),)))
    assert len(one.present) == 4
    assert one.fetched_bytes < 1.5 * found.fetched_bytes


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("id in (select id from t)", "no statement"),
        ("id in t", "no statement"),
        ("id in json_each('[1]')", "no statement"),
        ("1) or (select 1", "not one condition"),
        ("1) union values (1", "not one condition"),
        ("1; drop table t", "not one condition"),
        ("id > 1 /* ", "not one condition"),
        ("x > 'a", "not one condition"),
        ("count(*) > 1", "refuses"),
        ("nowhere > 1", "no such column"),
        ("Mood=1", "no column Mood"),
        ("id=zzz", "no value of type"),
        ("load_extension('x') = 1", "not authorized|does more than"),
        ("x match 'a'", "refuses|cannot be said"),
        ("x = ? or x = :a", "parameters"),
        ("json_extract(x, '$.a') = 1", "cannot be said"),
        ("", "not one condition"),
        ("x = '\0'", "no text of SQL|refuses|cannot"),
    ],
)
def test_what_is_no_condition_is_refused(nights: tuple[Kit, list[str]], where: str, said: str) -> None:
    """Statements, other tables, unbalanced text, unknown columns; no message holds a row's value."""
    with pytest.raises(UsageError, match=said) as caught:
        versions(nights[0], where)
    assert "word" not in caught.value.message


def test_a_value_that_looks_like_sql_is_told_of(nights: tuple[Kit, list[str]]) -> None:
    """COLUMN=VALUE stays what it was: the value as it stands."""
    found = seek(nights[0], Asked("t", where=(parse_where("x=word 5 or id > 7"),)))
    assert found.versions == []
    assert any("was taken for a value of x" in remark for remark in found.remarks)


def test_conditions_over_a_file(tmp_path: Path) -> None:
    """Values of a file keep their types; a file that did not change is not asked again; hidden rows are not found."""
    path, kit = tmp_path / "f.db", Kit(tmp_path)
    db = apsw.Connection(str(path))
    db.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v, r REAL); INSERT INTO t VALUES (1, 'a', 1), (2, 5, 2.5);"
        "CREATE TABLE s (id INTEGER PRIMARY KEY, v ANY) STRICT; INSERT INTO s VALUES (1, '5'), (2, 5)"
    ).fetchall()
    one = kit.backup(path).snapshot
    kit.backup(path)
    db.execute("UPDATE t SET v = 6 WHERE id = 2").fetchall()
    three = kit.backup(path).snapshot
    db.close()
    assert versions(kit, "typeof(v) = 'integer' and r > 2") == [(one, (2, 5, 2.5)), (three, (2, 6, 2.5))]
    assert versions(kit, "v = '5'", table="s") == [(one, (1, "5"))]
    assert versions(kit, "v = 5", table="s") == versions(kit, "v=5", table="s") == [(one, (2, 5))]
    assert versions(kit, "v=a") == [(one, (1, "a", 1.0))]
    assert versions(kit, "r >= 0", erased=Ledger([2])) == [(one, (1, "a", 1.0))]


LONG = """
CREATE TABLE t (id INTEGER PRIMARY KEY, v, long BLOB);
CREATE TABLE pairs (a TEXT, b INT, long BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE other (x);
WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 99)
  INSERT INTO t SELECT n, 'v' || n, zeroblob(n % 10 * 900) FROM n;
INSERT INTO pairs SELECT v, id, long FROM t;
INSERT INTO other SELECT randomblob(500) FROM t;
"""


@pytest.mark.parametrize(("table", "key"), [("t", "id"), ("pairs", "b")])
def test_a_table_of_a_file_is_asked_again_when_a_page_of_it_changed(tmp_path: Path, table: str, key: str) -> None:
    """Not for other tables and longer files; but for a leaf, the rest of a long record, a page that moved, a new column."""
    path, kit, nights, asked = tmp_path / "f.db", Kit(tmp_path), [], list[int]()
    changes = [
        LONG,
        "UPDATE other SET x = 'new' WHERE rowid % 7 = 0; CREATE TABLE more AS SELECT randomblob(3000) FROM other",
        "INSERT INTO more SELECT randomblob(3000) FROM other; DELETE FROM other",
        f"UPDATE {table} SET long = CAST(zeroblob(8099) || x'01' AS BLOB) WHERE {key} = 9",
        f"UPDATE {table} SET long = CAST(zeroblob(8099) || x'02' AS BLOB) WHERE {key} = 9",
        "INSERT INTO other VALUES (1)",
        f"DELETE FROM {table} WHERE {key} = 19",
        "DROP TABLE more; VACUUM",
        f"ALTER TABLE {table} ADD COLUMN later DEFAULT 5",
    ]
    for change in changes:
        db = apsw.Connection(str(path))
        db.execute(change).fetchall()
        db.close()
        asked.clear()
        nights.append(kit.backup(path).snapshot)
    found = seek(kit, Asked(table, where=(parse_where(f"{key} in (9, 19) and length(long) > 0"),)), ask=counting(asked))
    assert [(v.snapshot, v.values[-1]) for v in found.versions if 19 not in v.values] == [
        (nights[0], bytes(8100)), (nights[3], bytes(8099) + b"\1"), (nights[4], bytes(8099) + b"\2"), (nights[8], 5),
    ]  # fmt: skip
    # the second night made a table, of which the first page tells; the third and the sixth left this one as it was
    assert asked == [100, 100, 100, 100, 99, 99, 99]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_what_reads_as_before_is_as_before(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int, int]]
) -> None:
    """Whatever was done to a file: where a night says that what was read of the one before is the same, so are the rows."""
    folder = tmp_path_factory.mktemp("same")
    path, kit = folder / "x.db", Kit(folder)
    db = apsw.Connection(str(path))
    db.execute(TABLES).fetchall()
    fill(db, 1, 200)
    kit.backup(path)
    for word, seed, share in edits:
        edit(db, word, seed, share)
        kit.backup(path)
    db.close()
    repo, kept = kit.repo(Role.READ, host="reader"), Groups()
    cache = PackCache(repo, sparse=True)
    looks = {"customers": (["id"], [(3,)]), "tokens": ([], []), "pairs": (["a", "b"], [("a1", 1)]), "bag": ([], [])}
    try:
        for name, look in looks.items():
            before = None
            for view in repo.history().views:
                tables = open_tables(repo, view, cache, open_file=open_file_database, erased=None, kept=kept)
                table = tables.rows[name]
                assert isinstance(table, StoredFileTable)
                same = before is not None and table.reads_as(before[0])
                found = sorted(map(repr, table.rows(*look)))
                assert not same or before is None or found == before[1]
                before = table, found
                tables.close()
    finally:
        cache.close()


def test_damage_is_named_or_of_no_account(tmp_path: Path) -> None:
    """Whatever pack is gone or damaged: the answer is the same as before, or an error that names that pack."""
    kit = Kit(tmp_path, pack_bytes=200_000)
    path = make_wide_database(tmp_path / "w.db", chunks=100)
    made = [kit.backup(path).snapshot]
    change_wide_database(path)
    made.append(kit.backup(path).snapshot)
    asked = Asked("rows", ("500",))
    sound = seek(kit, asked)
    assert [v.snapshot for v in sound.versions] == made
    lists = {pack for snapshot in made for pack in pack_kinds(kit, snapshot)[1]}
    named: set[tuple[str, str | None]] = set()
    for name, data in contents(kit.store).items():
        if not name.startswith("packs/"):
            continue
        for harmed in (
            b"",
            data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
            bytes(byte ^ 1 for byte in data),
        ):
            overwrite(kit.store, name, harmed)
            try:
                assert seek(kit, asked).versions == sound.versions
            except IntegrityError as error:
                named.add((name, error.object_name))
        overwrite(kit.store, name, data)
    assert all(name == said for name, said in named)
    assert lists & {name for name, _ in named}
    assert seek(kit, asked).versions == sound.versions
