"""Two snapshots of tables compared: the truth is a plain set difference, and the cost follows what changed."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupd.crypto.keyfile import Role
from backupd.engines.base import TableInfo
from backupd.engines.sqlite_lazy import read_schema
from backupd.errors import IntegrityError, MissingRight, SafetyRefused, UsageError
from backupd.jobs import compare as comparing
from backupd.jobs.compare import compare
from backupd.jobs.comparison import Asked, Comparison
from backupd.jobs.stored import Hidden
from backupd.records.rowtext import row_of
from backupd.records.values import Record
from backupd.report import Tally
from tests.jobs_kit import Kit, overwrite
from tests.table_engine import TableSource
from tests.unit.jobs.test_tables import take

Found = tuple[Comparison, dict[str, list[Record]]]


def look(kit: Kit, old: str, new: str, **asked: object) -> Found:
    """Compare two snapshots, by their ids."""
    repo = kit.repo(Role.READ, host="reader")
    views = {view.id: view for view in repo.history().views}
    records: dict[str, list[Record]] = {}
    wanted = Asked(
        kit.root,
        take=lambda name, record: records.setdefault(name, []).append(record),
        **asked,  # type: ignore[arg-type]
    )
    return compare(repo, views[old], views[new], asked=wanted, read_schema=read_schema, report=Tally()), records


def truth(old: Sequence[bytes], new: Sequence[bytes]) -> tuple[int, int, int]:
    """Added, removed, changed, for rows whose first field is the key."""
    before, after = ({row.split(b"\t")[0]: row for row in rows} for rows in (old, new))
    changed = sum(before[key] != after[key] for key in before.keys() & after.keys())
    return len(after.keys() - before.keys()), len(before.keys() - after.keys()), changed


def counts(found: Comparison, name: str = "t") -> tuple[int, int, int]:
    (table,) = [t for t in found.tables if t.name == name]
    assert table.reason is None
    return table.added, table.removed, table.changed


def table(values: Mapping[int, int], seed: int = 0) -> list[bytes]:
    noise = random.Random(seed)
    return [row_of([b"%d" % key, b"%d-" % values[key] + noise.randbytes(40).hex().encode()]) for key in values]


def nights(rows: list[bytes], edits: list[tuple[str, int, int]]) -> list[list[bytes]]:
    """A history: each edit makes the next night out of the one before."""
    out = [rows]
    for word, seed, share in edits:
        now, noise = list(out[-1]), random.Random(seed)
        match word:
            case "update":
                for _ in range(max(1, len(now) * share // 300)):
                    at = noise.randrange(len(now))
                    now[at] = now[at].split(b"\t")[0] + b"\tchanged \\\\ \\t %d\n" % noise.randrange(4)
            case "delete":
                gone = {noise.randrange(len(now)) for _ in range(max(1, len(now) * share // 300))}
                now = [row for at, row in enumerate(now) if at not in gone] or now[:1]
            case "insert":
                now += [b"n%d-%d\tnew\n" % (seed, n) for n in range(share)]
            case "rekey":
                at = noise.randrange(len(now))
                now[at] = b"k%d\t" % seed + now[at].split(b"\t", 1)[1]
            case "move":
                at = noise.randrange(len(now))
                now = now[at:] + now[:at]
            case "shuffle":
                noise.shuffle(now)
            case "back":
                now = list(out[max(0, len(out) - 1 - share % 3)])
        by_key = {row.split(b"\t")[0]: row for row in now}
        out.append(list(by_key.values()))
    return out


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["update", "update", "delete", "insert", "rekey", "move", "shuffle", "back"]),
        st.integers(0, 1000),
        st.integers(1, 30),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS, parts=st.integers(1, 2), lose=st.integers(0, 6), few=st.booleans())
def test_random_histories(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int, int]], parts: int, lose: int, few: bool
) -> None:
    """Any two nights of any history differ by exactly what a plain set difference says, in both directions."""
    kit = Kit(tmp_path_factory.mktemp("histories"))
    history = nights(table({n: n % 5 for n in range(30 if few else 1500)}), edits)
    snapshots = []
    for night, rows in enumerate(history):
        if night == lose:
            for left in kit.versions().glob("**/*"):
                left.unlink() if left.is_file() else None
        snapshots.append(take(kit, TableSource({"t": rows}, parts=parts)).snapshot)
    for at, old in enumerate(snapshots):
        for to in {len(snapshots) - 1, max(0, at - 1)}:
            found, records = look(kit, old, snapshots[to])
            assert counts(found) == truth(history[at], history[to])
            told = Counter((r.op, r.key) for r in records.get("t", []))
            assert max(told.values(), default=1) == 1


def test_nothing_changed_reads_nothing(tmp_path: Path) -> None:
    """Two nights alike are compared without a byte of a chunk or a list; so are they if all rows only moved."""
    kit = Kit(tmp_path)
    rows = table({n: n for n in range(20_000)})
    one = take(kit, TableSource({"t": rows})).snapshot
    two = take(kit, TableSource({"t": rows})).snapshot
    three = take(kit, TableSource({"t": rows[7000:] + rows[:7000]})).snapshot
    for new in (two, three):
        found, records = look(kit, one, new)
        assert (counts(found), records, found.fetched_bytes) == ((0, 0, 0), {}, 0)


def test_what_is_read_follows_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few changes cost a small share of what the table takes, many changes more; told from deltas, no chunk is read whole.

    Where the lists are cut is chance (new keys every time): 1.5 to 5 % of what is stored, and 8 to 19 %.
    """
    monkeypatch.setattr("backupd.jobs.capture.ROWS", 16)  # many chunks of few rows
    kit = Kit(tmp_path)
    rows = table({n: n for n in range(60_000)})
    first = take(kit, TableSource({"t": rows}))
    snapshots = [first.snapshot]
    now = list(rows)
    for night, step in enumerate((6_000, 200, 200)):
        for at in range(night, len(now), step):
            now[at] = b"%d\tnight %d\n" % (at, night)
        snapshots.append(take(kit, TableSource({"t": list(now)})).snapshot)
    few, _ = look(kit, snapshots[0], snapshots[1])
    many, _ = look(kit, snapshots[0], snapshots[3])
    assert counts(few) == (0, 0, 10)
    assert counts(many) == (0, 0, 610)
    stored = kit.history().views[0].structure.stored_bytes
    assert 0 < few.fetched_bytes < stored / 10
    assert few.fetched_bytes < many.fetched_bytes < stored / 4


def test_keys_of_every_kind_and_no_key(tmp_path: Path) -> None:
    """Composite keys, texts that need escapes, NULLs and duplicates; without a key rows are a multiset."""
    kit = Kit(tmp_path)
    infos = {
        "pair": TableInfo("pair", ("b", "a"), None, (("a", "text"), ("b", "bytea"), ("c", "integer")), "f"),
        "bare": TableInfo("bare", (), None, (("a", "text"), ("c", "integer")), "f"),
        "none": TableInfo("none", (), None, (), "f"),
    }
    old = {
        "pair": [row_of([b"x\ty", b"\\x00", b"1"]), row_of([b"x\ny", b"\\x00", None]), row_of([b"\\", b"\\x01", b"5"])],
        "bare": [row_of([b"a", b"1"])] * 3 + [row_of([None, None])],
        "none": [b"\n"] * 3,
    }
    new = {
        "pair": [row_of([b"x\ty", b"\\x00", b"2"]), row_of([b"x\ny", b"\\x00", None]), row_of([b"\\", b"\\x02", b"5"])],
        "bare": [row_of([b"a", b"1"])] * 2 + [row_of([None, None])] * 2,
        "none": [b"\n"] * 5,
    }
    one = take(kit, TableSource(old, infos=infos)).snapshot
    two = take(kit, TableSource(new, infos=infos)).snapshot
    found, records = look(kit, one, two)
    assert counts(found, "pair") == (1, 1, 1)
    assert counts(found, "bare") == (1, 1, 0)
    assert counts(found, "none") == (2, 0, 0)
    changed = next(r for r in records["pair"] if r.op == "changed")
    assert (changed.key, changed.old, changed.new) == ((b"\0", "x\ty"), ("x\ty", b"\0", 1), ("x\ty", b"\0", 2))
    assert [r.old for r in records["bare"] if r.op == "removed"] == [("a", 1)]
    only, records = look(kit, one, two, table="bare")
    assert [t.name for t in only.tables] == ["bare"]
    with pytest.raises(UsageError):
        look(kit, one, two, table="moon")


def test_long_rows(tmp_path: Path) -> None:
    """Rows of several mebibytes, cut into pieces, are compared as wholes, whichever of their pieces changed."""
    kit = Kit(tmp_path, pack_bytes=4_000_000)
    noise = random.Random(3)
    mebi = 1024 * 1024
    long = [noise.randbytes(mebi // 2).hex().encode() for _ in range(5)]
    small = table({n: n for n in range(3000)})

    def whole(key: bytes, *parts: int) -> bytes:
        return key + b"\t" + b"".join(long[n] for n in parts) + b"\n"

    old = [*small, whole(b"a", 0, 1, 2), whole(b"b", 3, 1), whole(b"c", 4, 4)]
    versions = [
        [*small, whole(b"a", 0, 1, 3), whole(b"b", 3, 1), whole(b"c", 4, 4)],
        [whole(b"c", 4, 4), *small[5:], whole(b"b", 0, 1), whole(b"a", 0, 1, 2)],
        [*small, whole(b"a", 0), whole(b"c", 4, 4, 4)],
    ]
    one = take(kit, TableSource({"t": old})).snapshot
    for new in versions:
        two = take(kit, TableSource({"t": new})).snapshot
        for a, b, x, y in ((one, two, old, new), (two, one, new, old)):
            found, records = look(kit, a, b)
            assert counts(found) == truth(x, y)
            assert all(len(r.new[1]) > mebi // 2 for r in records["t"] if r.new and r.key[0] in ("a", "b", "c"))  # type: ignore[arg-type]


def test_a_row_too_long_is_named_and_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with a row that memory should not hold says so; the others are compared."""
    monkeypatch.setattr(comparing, "LONGEST_ROW", 2 * 1024 * 1024)
    kit = Kit(tmp_path, pack_bytes=4_000_000)
    noise = random.Random(1)
    rows = [b"1\t" + noise.randbytes(1024 * 1024 + 7).hex().encode() + b"\n" for _ in range(2)]
    one = take(kit, TableSource({"t": rows[:1], "u": [b"1\ta\n"]})).snapshot
    two = take(kit, TableSource({"t": rows[1:], "u": [b"1\tb\n"]})).snapshot
    found, _ = look(kit, one, two)
    assert "too many to be compared" in str(found.tables[0].reason)
    assert counts(found, "u") == (0, 0, 1)


def infos(*columns: tuple[str, str], key: tuple[str, ...] = ("id",), form: str = "f2") -> dict[str, TableInfo]:
    return {"t": TableInfo("t", key, None, columns, form, True)}


FACTS = {"server_version_num": 180001, "database": {"encoding": "UTF8"}}


def test_changes_of_a_schema_are_no_changes_of_data(tmp_path: Path) -> None:
    """A column that came, went or moved is told apart, and rows are compared on the columns that both sides have."""
    kit = Kit(tmp_path)
    first = infos(("id", "integer"), ("x", "text"), ("y", "date"), form="f1")
    then = infos(("y", "date"), ("id", "bigint"), ("z", "text"), ("x", "character varying(20)"))
    old = [row_of([b"%d" % n, b"x%d" % n, b"2026-01-01"]) for n in range(1000)]
    new = [row_of([b"2026-01-01", b"%d" % n, b"!", b"x%d" % (n + (n == 5))]) for n in range(1, 1001)]
    one = take(kit, TableSource({"t": old}, infos=first, told=FACTS)).snapshot
    two = take(kit, TableSource({"t": new}, infos=then, told=FACTS)).snapshot
    found, records = look(kit, one, two)
    assert counts(found) == (1, 1, 1)
    assert next(r for r in records["t"] if r.op == "changed").key == (5,)
    assert {(c.change, c.object) for c in found.schema_changes} == {
        ("column added", "z"),
        ("column retyped", "id"),
        ("column retyped", "x"),
    }


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("f2", FACTS),
        ("f2", {**FACTS, "server_version_num": 190000}),
        ("f2", {**FACTS, "database": {"encoding": "LATIN1"}}),
    ],
)
def test_another_way_of_writing_is_not_called_a_change(tmp_path: Path, form: str, told: Mapping[str, object]) -> None:
    """Where the row format's fingerprint differs and no column explains it, the rows cannot be compared, and that is said."""
    kit = Kit(tmp_path)
    rows = table({n: n for n in range(100)})
    columns = ("id", "bigint"), ("x", "text")
    one = take(kit, TableSource({"t": rows}, infos=infos(*columns, form="f1"), told=FACTS)).snapshot
    two = take(kit, TableSource({"t": rows[1:]}, infos=infos(*columns, form=form), told=told)).snapshot
    found, records = look(kit, one, two)
    assert "cannot be compared by text" in str(found.tables[0].reason)
    assert (found.tables[0].removed, records) == (0, {})


def test_tables_that_came_and_went(tmp_path: Path) -> None:
    """All rows of a table that is gone were removed, all of a new one were added; without records nothing is read for that."""
    kit = Kit(tmp_path)
    rows = table({n: n for n in range(5000)})
    one = take(kit, TableSource({"gone": rows, "t": rows})).snapshot
    two = take(kit, TableSource({"fresh": rows[:7], "t": rows})).snapshot
    repo = kit.repo(Role.READ, host="reader")
    views = {view.id: view for view in repo.history().views}
    silent = compare(repo, views[one], views[two], asked=Asked(kit.root), read_schema=read_schema, report=Tally())
    loud, records = look(kit, one, two)
    assert records == {}
    for found in (silent, loud):
        assert [(t.name, t.added, t.removed, t.changed) for t in found.tables] == [
            ("fresh", 7, 0, 0),
            ("gone", 0, 5000, 0),
            ("t", 0, 0, 0),
        ]
        assert [c.change for c in found.schema_changes] == ["table added", "table removed"]
    assert silent.fetched_bytes == 0
    three = take(kit, TableSource({"fresh": rows[:7], "t": rows}, schema=b"create view;\n")).snapshot
    assert [c.change for c in look(kit, two, three)[0].schema_changes] == ["definitions changed"]
    for name, count in (("fresh", 7), ("gone", 5000)):
        _, records = look(kit, one, two, table=name)
        assert len(records[name]) == count


def test_two_writers(tmp_path: Path) -> None:
    """Snapshots of different writers have no id in common and compare all the same."""
    from backupd.crypto.keyring import Keyring
    from backupd.jobs.backup import BackupOptions, backup
    from backupd.repo.ledger import Ledger
    from backupd.repo.repository import Repository
    from tests.jobs_kit import utc_now

    kit = Kit(tmp_path)
    rows = table({n: n for n in range(3000)})
    one = take(kit, TableSource({"t": rows})).snapshot
    key = kit.add_writer()
    places = kit.places("second")
    repo = Repository.open(kit.store, Keyring((key,)), Ledger.load(places.state))
    source = TableSource({"t": [*rows[1:], b"x\ty\n"]})
    two = backup(source, repo, key, folder=places, clock=utc_now, options=BackupOptions("b"), report=Tally()).snapshot
    found, _ = look(kit, one, two)
    assert counts(found) == (1, 1, 0)


class Hiding:
    """A ledger that hides the record 2 of the table t."""

    def hidden(self, table: str, columns: Sequence[str], key: Sequence[str]) -> Hidden | None:
        assert (columns, key) == (("id", "x"), ["id"])
        return (lambda cells: None if cells[0] == b"2" else ()) if table == "t" else None


def test_rows_that_may_not_be_told_of(tmp_path: Path) -> None:
    """A row that the ledger hides is neither counted nor told, wherever it stands."""
    kit = Kit(tmp_path)
    one = take(kit, TableSource({"t": table({1: 1, 2: 2})})).snapshot
    two = take(kit, TableSource({"t": table({1: 3, 2: 4})})).snapshot
    found, records = look(kit, one, two, erased=Hiding())
    assert counts(found) == (0, 0, 1)
    assert [r.key for r in records["t"]] == [(1,)]


def test_refusals(tmp_path: Path) -> None:
    """Two engines are not compared, nor an opaque archive; without the read right nothing is."""
    kit = Kit(tmp_path)
    source = TableSource({"t": table({1: 1})})
    one = take(kit, source).snapshot
    two = take(kit, replace(source, engine="mariadb")).snapshot
    with pytest.raises(SafetyRefused):
        look(kit, one, two)
    repo = kit.repo(Role.CHECK, host="reader")
    view = repo.history().views[0]
    with pytest.raises(MissingRight):
        compare(repo, view, view, asked=Asked(kit.root), read_schema=read_schema, report=Tally())


def test_rows_of_a_liar(tmp_path: Path) -> None:
    """Rows that are no rows of their table, and texts of a mebibyte, are told as far as they go, and end nothing."""
    kit = Kit(tmp_path)
    noise = random.Random(5)
    old = [
        b"\n",
        b"\t\t\t\t\n",
        b"1\t\\\n",
        b"1\tx\ty\tz\n",
        b"\\N\n",
        b"\xff\xfe\t\x00\n",
        b"9\t" + b"z" * 900_000 + b"\n",
    ]
    new = [b"\\\n", b"1\n", b"1\tx\n", b"\x1b[2J\t\\N\n", b"9\t" + b"y" * 900_000 + b"\n"]
    new += [noise.randbytes(30).replace(b"\n", b"").replace(b"\r", b"") + b"\n" for _ in range(50)]
    one = take(kit, TableSource({"t": old})).snapshot
    two = take(kit, TableSource({"t": new})).snapshot
    for a, b in ((one, two), (two, one)):
        found, records = look(kit, a, b)
        added, removed, changed = counts(found)
        assert added + removed + changed == len(records["t"])
        assert all(len(row) == 2 for r in records["t"] for row in (r.old, r.new) if row is not None)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """A pack that is needed and gone, or cut, ends the comparison by its name; one that is not needed is not missed."""
    kit = Kit(tmp_path)
    rows = table({n: n for n in range(20_000)})
    one = take(kit, TableSource({"t": rows})).snapshot
    before = {info.name for info in kit.store.list("packs/")}
    rows[7] = b"7\tother\n"
    two = take(kit, TableSource({"t": rows})).snapshot
    fresh = sorted({info.name for info in kit.store.list("packs/")} - before)
    whole = {name: kit.store.get(name) for name in fresh}
    for spoil in (  # the cut is in the header: what lies before a later one may be all that is needed
        lambda name: kit.store.delete(name),
        lambda name: overwrite(kit.store, name, whole[name][:1000]),
    ):
        missed = set()
        for name in fresh:
            spoil(name)
            try:
                look(kit, one, two)
            except IntegrityError as error:
                missed.add(error.object_name)
            overwrite(kit.store, name, whole[name])
        assert missed
        assert missed <= set(fresh)
    assert counts(look(kit, one, two)[0]) == (0, 0, 1)
