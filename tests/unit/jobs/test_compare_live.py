"""A snapshot compared with the live source: through the same cutter, without storing anything."""

import random
from collections import Counter
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings

from backupd.crypto.keyfile import Role
from backupd.engines.base import Source
from backupd.engines.sqlite import open_source
from backupd.engines.sqlite_lazy import read_schema
from backupd.errors import SafetyRefused, SourceMoved
from backupd.jobs.comparelive import compare_with_live
from backupd.jobs.comparison import Asked, Comparison
from backupd.records.values import Record
from backupd.report import Tally
from tests.jobs_kit import Kit, contents
from tests.table_engine import TableSource
from tests.unit.jobs.test_compare import EDITS, FACTS, counts, infos, nights, row_of, table, truth
from tests.unit.jobs.test_compare_files import TABLES, counted, edit, fill
from tests.unit.jobs.test_compare_files import truth as file_truth
from tests.unit.jobs.test_tables import take


def live(kit: Kit, snapshot: str, source: Source, **asked: object) -> tuple[Comparison, dict[str, list[Record]]]:
    """Compare a snapshot, by its id, with a source; nothing may be stored."""
    repo = kit.repo(Role.READ, host="reader")
    view = next(v for v in repo.history().views if v.id == snapshot)
    records: dict[str, list[Record]] = {}
    wanted = Asked(
        kit.root,
        take=lambda name, record: records.setdefault(name, []).append(record),
        **asked,  # type: ignore[arg-type]
    )
    before = contents(kit.store)
    found = compare_with_live(repo, view, source, asked=wanted, read_schema=read_schema, report=Tally())
    assert contents(kit.store) == before
    return found, records


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_random_histories(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int, int]]) -> None:
    """The live rows differ from a snapshot by exactly what a plain set difference says, whatever was stored since."""
    kit = Kit(tmp_path_factory.mktemp("live"))
    history = nights(table({n: n % 5 for n in range(1500)}), edits)
    snapshots = [take(kit, TableSource({"t": rows})).snapshot for rows in history[:-1]]
    for at in {0, len(snapshots) - 1}:
        found, records = live(kit, snapshots[at], TableSource({"t": history[-1]}, parts=2))
        assert counts(found) == truth(history[at], history[-1])
        assert max(Counter(r.key for r in records.get("t", [])).values(), default=1) == 1


def test_what_is_read_follows_what_changed(tmp_path: Path) -> None:
    """Of a table that did not change only the lists are read; one changed row costs its chunk."""
    kit = Kit(tmp_path)
    rows = table({n: n for n in range(20_000)})
    one = take(kit, TableSource({"t": rows}))
    stored = kit.history().views[0].structure.stored_bytes
    same, _ = live(kit, one.snapshot, TableSource({"t": rows}))
    rows[777] = b"777\tother\n"
    other, records = live(kit, one.snapshot, TableSource({"t": rows}), table="t")
    assert counts(same) == (0, 0, 0)
    assert same.fetched_bytes < stored / 40
    assert counts(other) == (0, 0, 1)
    assert same.fetched_bytes < other.fetched_bytes < stored / 10  # with what lies between two slices in a pack
    assert records["t"][0].new == (777, "other")


def test_long_rows_and_tables_that_came_and_went(tmp_path: Path) -> None:
    """Rows of several mebibytes are compared as wholes; a table on one side only is all added or all removed."""
    kit = Kit(tmp_path, pack_bytes=4_000_000)
    noise = random.Random(3)
    parts = [noise.randbytes(600_000).hex().encode() for _ in range(3)]
    old = [b"a\t" + parts[0] + parts[1] + b"\n", b"b\t" + parts[1] + parts[2] + b"\n", b"c\tx\n"]
    new = [b"a\t" + parts[0] + parts[2] + b"\n", b"c\tx\n", b"b\t" + parts[1] + parts[2] + b"\n"]
    one = take(kit, TableSource({"t": old, "gone": [b"1\ta\n", b"2\ta\n"]})).snapshot
    found, records = live(kit, one, TableSource({"t": new, "fresh": [b"1\ta\n"]}))
    assert counts(found) == (0, 0, 1)
    assert records["t"][0].key == ("a",) or records["t"][0].key == (b"a",)
    assert (counts(found, "gone"), counts(found, "fresh")) == ((0, 2, 0), (1, 0, 0))
    assert [c.change for c in found.schema_changes] == ["table added", "table removed"]


def test_a_schema_that_changed_since(tmp_path: Path) -> None:
    """Columns that came since are told apart; rows are compared on the columns that both sides have."""
    kit = Kit(tmp_path)
    first = infos(("id", "integer"), ("x", "text"), form="f1")
    then = infos(("id", "integer"), ("more", "text"), ("x", "text"))
    old = [row_of([b"%d" % n, b"x%d" % n]) for n in range(500)]
    new = [row_of([b"%d" % n, b"!", b"x%d" % (n + (n == 5))]) for n in range(500)]
    one = take(kit, TableSource({"t": old}, infos=first, told=FACTS)).snapshot
    found, records = live(kit, one, TableSource({"t": new}, infos=then, told=FACTS))
    assert counts(found) == (0, 0, 1)
    assert (records["t"][0].columns, records["t"][0].new) == (("id", "x"), (5, "x6"))


def test_nothing_is_told_of_a_source_that_moved(tmp_path: Path) -> None:
    """If what was read was not one moment, the comparison fails before a record is told."""
    kit = Kit(tmp_path)
    one = take(kit, TableSource({"t": table({1: 1})})).snapshot

    def moved() -> None:
        raise SourceMoved("it moved")

    told: list[str] = []
    repo = kit.repo(Role.READ, host="reader")
    with pytest.raises(SourceMoved):
        compare_with_live(
            repo,
            repo.history().views[0],
            TableSource({"t": []}, before_finish=moved),
            asked=Asked(tmp_path, take=lambda name, _: told.append(name)),
            read_schema=read_schema,
            report=Tally(),
        )
    assert told == []
    with pytest.raises(SafetyRefused):
        live(kit, one, TableSource({}, engine="mariadb"))


def test_a_file(tmp_path: Path) -> None:
    """A live SQLite file against its snapshots, while another connection has it open; only changed groups are fetched."""
    kit = Kit(tmp_path)
    path = tmp_path / "live.db"
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode=wal; PRAGMA page_size=1024").fetchall()
    db.execute(TABLES).fetchall()
    fill(db, 1, 400)
    db.close()
    one = kit.backup(path).snapshot
    old = tmp_path / "old.db"
    old.write_bytes(path.read_bytes())
    same, _ = live(kit, one, open_source(path))
    assert set(counted(same).values()) == {(0, 0, 0)}
    # ids are keyed, so by chance the list of chunks is cut: then its nodes are read, and never a group (33 kB)
    cut = kit.history().views[-1].structure.streams[0].top[1] > 0
    assert same.fetched_bytes < 10_000 if cut else same.fetched_bytes == 0
    for seed, word in enumerate(("update", "delete", "insert", "vacuum")):
        db = apsw.Connection(str(path))
        edit(db, word, seed, 20)
        db.close()
        found, records = live(kit, one, open_source(path))
        assert counted(found) == file_truth(old, path)
        assert {name: len(told) for name, told in records.items()} == {
            name: sum(three) for name, three in counted(found).items() if sum(three)
        }
