"""Sources of many tables: read several at once, listed in two trees, verified, loaded, and compared."""

import random
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from backupd.crypto.chunks import Kind
from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Keyring
from backupd.engines.base import LoadOptions, LoadResult, StreamInfo
from backupd.errors import (
    BackupdError,
    Failed,
    IntegrityError,
    SafetyRefused,
    SourceIncomplete,
    SourceMoved,
    UsageError,
)
from backupd.jobs.backup import BackupOptions, BackupResult, backup
from backupd.jobs.load import load, rehearse
from backupd.jobs.restore import open_content
from backupd.jobs.rowcheck import compare_live
from backupd.jobs.verify import Level
from backupd.repo.ledger import Ledger
from backupd.repo.nodes import ChunkRef, PackPlace
from backupd.repo.repository import Repository, SnapshotView
from backupd.repo.rowdigest import RowDigest
from backupd.repo.trees import TreeBuilder, finish_trees, walk, walk_content
from backupd.repo.writing import WriteSession
from backupd.report import Tally
from backupd.store.base import ObjectStore
from tests.doubles import Data, Wrapper
from tests.jobs_kit import Kit, utc_now
from tests.table_engine import TableSource, TableTarget, TableView


def rows(count: int, seed: int = 1, width: int = 60) -> list[bytes]:
    made = random.Random(seed)
    return [b"%d\t%s\n" % (n, made.randbytes(width // 2).hex().encode()) for n in range(count)]


def take(
    kit: Kit, source: TableSource, *, store: ObjectStore | None = None, report: Tally | None = None, **options: object
) -> BackupResult:
    key = kit.keys[Role.WRITE]
    repo = Repository.open(store or kit.store, Keyring((key,)), Ledger.load(kit.places("writer").state))
    chosen = BackupOptions(**{"name": "made-up", "threads": 2, **options})  # type: ignore[arg-type]
    return backup(
        source, repo, key, folder=kit.places("writer"), clock=utc_now, options=chosen, report=report or Tally()
    )


def newest(kit: Kit) -> tuple[Repository, SnapshotView]:
    repo = kit.repo(Role.READ, host="reader")
    return repo, repo.history().views[-1]


def give_back(kit: Kit, target: TableTarget, options: LoadOptions | None = None, check: str = "quick") -> TableTarget:
    repo, view = newest(kit)
    load(repo, view, target, ["postgresql"], options or LoadOptions(), check=check, report=Tally())  # type: ignore[arg-type]
    return target


def joined(tables: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    return {name: b"".join(one) for name, one in tables.items() if one}


@pytest.mark.parametrize(("parts", "parallel", "buffer"), [(1, 1, 1 << 20), (1, 4, 4096), (3, 2, 100_000)])
def test_tables_come_back(tmp_path: Path, parts: int, parallel: int, buffer: int) -> None:
    """Every table and schema comes back as it was, in streams of its own, with counts and digests in the manifest."""
    kit = Kit(tmp_path)
    tables = {"big": rows(30_000), "small": rows(5, 2), "empty": [], "crm.wide": rows(40, 3, 90_000)}
    source = TableSource(tables, parallel=parallel, parts=parts, buffer=buffer)
    done = take(kit, source)
    assert done.rows == 30_045
    assert kit.verify(Level.CONTENT).problems == []
    target = give_back(kit, TableTarget())
    assert {k: v for k, v in target.held.items() if v} == joined(tables)
    assert target.schemas == {"schema.sql": source.schema, "after.sql": b"select 'done';\n"}
    assert target.facts == {"finished": True}
    content = open_content(*newest(kit))
    assert {t["name"]: t["rows"] for t in content["tables"]} == {n: len(r) for n, r in tables.items()}
    assert content["tables"][0]["columns"] == [["id", "bigint"], ["x", "text"]]


def test_streams_are_read_side_by_side(tmp_path: Path) -> None:
    """As many streams as the view allows are read at once: each waits here until the other has begun."""
    together = threading.Barrier(2, timeout=20)

    def wait(name: str, at: int) -> None:
        if at == 0:
            together.wait()

    take(Kit(tmp_path), TableSource({"a": rows(100), "b": rows(100)}, before_read=wait))


def test_a_second_run_stores_nothing_but_lists(tmp_path: Path) -> None:
    """An unchanged table is recognised chunk by chunk; an appended row costs a chunk."""
    kit = Kit(tmp_path)
    table = rows(40_000)
    first = take(kit, TableSource({"t": table}))
    again = take(kit, TableSource({"t": table}, parts=1, buffer=7777))
    assert again.chunks["full"] == 0
    assert again.chunks["reused"] == first.chunks["total"]
    more = take(kit, TableSource({"t": [*table, b"40000\tnew\n"]}))
    assert more.chunks["full"] <= 1
    assert kit.verify(Level.CONTENT).problems == []


def test_digests_do_not_depend_on_parts(tmp_path: Path) -> None:
    """A table has the same digest however many streams it was read in."""
    kit = Kit(tmp_path)
    digests = set()
    for parts in (1, 2, 7):
        take(kit, TableSource({"t": rows(3000)}, parts=parts))
        digests.add(open_content(*newest(kit))["tables"][0]["digest"])
    assert len(digests) == 1


def test_content_lists_tell_keys_and_rows(tmp_path: Path) -> None:
    """The content tree tells of each chunk its rows and the first and last key, also where it has several levels."""
    kit = Kit(tmp_path, pack_bytes=1 << 20)
    table = rows(60_000, width=200)
    take(kit, TableSource({"t": table}))
    repo, view = newest(kit)
    from base64 import b64decode

    from backupd.repo.reading import ChunkReader, PackCache

    content = open_content(repo, view)
    kinds = [root.kind for root in view.structure.streams]
    assert kinds == [Kind.SCHEMA, Kind.ROWS, Kind.SCHEMA, Kind.CONTENT]
    root, described = view.structure.streams[1], content["streams"][1]
    cache = PackCache(repo)
    try:
        reader = ChunkReader(repo, cache, view.object.envelope)
        chunks = [reader.read(ref, Kind.ROWS) for ref in walk(root.top, root.kind, reader.node_loader())]
        entries = list(
            walk_content(b64decode(described["content"]), lambda ref: reader.read(ref, Kind.CONTENT), rows=60_000)
        )
    finally:
        cache.close()
    assert len(entries) == len(chunks) == root.chunks > 64
    for entry, chunk in zip(entries, chunks, strict=True):
        lines = chunk.splitlines()
        assert (entry.rows, entry.first, entry.last) == (
            len(lines),
            lines[0].split(b"\t")[0],
            lines[-1].split(b"\t")[0],
        )


def test_whoever_may_only_check_sees_content_lists_as_needed(tmp_path: Path) -> None:
    """A pack that holds content lists alone is missed by `verify` with the check right."""
    kit = Kit(tmp_path, pack_bytes=1)
    take(kit, TableSource({"t": rows(60_000, width=200)}))
    repo, view = newest(kit)
    from backupd.repo.reading import ChunkReader, PackCache

    cache = PackCache(repo)
    reader = ChunkReader(repo, cache)
    content = view.structure.streams[-1]
    refs = list(walk(content.top, Kind.CONTENT, reader.node_loader(), totals=content.totals))
    cache.close()
    assert refs
    victim = f"packs/{refs[0].pack.hex()[:2]}/{refs[0].pack.hex()}"
    kit.store.delete(victim)
    problems = kit.verify(Level.STRUCTURE).problems
    assert victim in {p.object for p in problems}


@pytest.mark.parametrize(
    "error", [SourceMoved("t was dropped", object_name="t"), SourceIncomplete("gone"), OSError("x")]
)
@pytest.mark.parametrize("when", ["read", "finish"])
def test_a_failing_source_leaves_no_snapshot(tmp_path: Path, error: Exception, when: str) -> None:
    """Whatever fails in a reading thread, or at the end, is raised as it is, and nothing is published."""
    kit = Kit(tmp_path)

    def fail(*_: object) -> None:
        raise error

    source = TableSource({"a": rows(3000), "t": rows(3000)}, buffer=10_000)
    if when == "finish":
        source = replace(source, before_finish=fail)
    else:
        source = replace(source, before_read=lambda name, at: fail() if name == "t" and at > 20_000 else None)
    with pytest.raises(type(error)) as caught:
        take(kit, source)
    assert caught.value is error
    assert kit.history().views == []
    assert threading.active_count() < 20


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_a_source_that_moves_is_tried_again(tmp_path: Path, moves: int) -> None:
    """A migration under way costs another attempt, whose warning names the table; one that never ends is a failure by name."""
    left = [moves]

    def move() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise SourceMoved("table t was altered", object_name="t")

    kit, report = Kit(tmp_path), Tally()
    source = TableSource({"t": rows(3000)}, before_finish=move)
    if moves == 3:
        with pytest.raises(SourceMoved, match="table t"):
            take(kit, source)
        assert kit.history().views == []
        return
    take(kit, source, report=report)
    assert len(kit.history().views) == 1
    assert [w for w in report.warnings if "table t was altered" in w and "again" in w]
    assert kit.verify(Level.CONTENT).problems == []


def test_rows_that_end_in_the_middle_of_one_are_no_snapshot(tmp_path: Path) -> None:
    """A stream of rows whose last newline is missing was cut off: exit 3, by name."""
    with pytest.raises(SourceIncomplete, match="t ended in the middle") as caught:
        take(Kit(tmp_path), TableSource({"t": [*rows(10), b"11\thalf"]}))
    assert caught.value.object_name == "t"


def test_a_table_that_comes_back_otherwise_is_noticed(tmp_path: Path) -> None:
    """A row lost, doubled or changed by the target is an integrity error that names the table, and no name is given."""
    kit = Kit(tmp_path)
    take(kit, TableSource({"a": rows(50), "t": rows(500)}))
    spoilers = {
        "lost": lambda data: data[data.index(b"\n") + 1 :],
        "doubled": lambda data: data + b"7\tseven\n",
        "changed": lambda data: data.replace(b"a", b"b", 1),
    }
    for spoil in spoilers.values():
        target = TableTarget(spoil=lambda name, data, spoil=spoil: spoil(data) if name == "t" else data)  # type: ignore[misc]
        with pytest.raises(IntegrityError, match="table t is not what the snapshot holds"):
            give_back(kit, target)
        assert not target.named
    assert give_back(kit, TableTarget(spoil=lambda name, data: b""), check="none").named


def test_chosen_tables(tmp_path: Path) -> None:
    """Only the tables that were asked for come back; one that is not there is a usage error."""
    kit = Kit(tmp_path)
    tables = {"a": rows(50), "t": rows(500)}
    take(kit, TableSource(tables))
    assert give_back(kit, TableTarget(), LoadOptions(("t",))).held == {"t": b"".join(tables["t"])}
    with pytest.raises(UsageError, match="no table nonsense"):
        give_back(kit, TableTarget(), LoadOptions(("t", "nonsense")))


def test_words_of_allow_are_known(tmp_path: Path) -> None:
    """A word that the target does not know is a usage error that lists those it knows, before anything is written."""
    kit = Kit(tmp_path)
    take(kit, TableSource({"t": rows(5)}))
    target = TableTarget()
    with pytest.raises(UsageError, match="no kind 'chees'") as caught:
        give_back(kit, target, LoadOptions(allow=frozenset({"chees", "all"})))
    assert "cheese, all" in str(caught.value.hint)
    assert not target.held
    assert give_back(kit, target, LoadOptions(allow=frozenset({"cheese", "all"}))).named


@pytest.mark.parametrize("only_rehearse", [False, True])
def test_warnings_come_before_anything_is_written(tmp_path: Path, only_rehearse: bool) -> None:
    """What a target warns of is told while there is time to stop, and a rehearsal tells it too."""
    kit = Kit(tmp_path)
    take(kit, TableSource({"t": rows(5)}))
    repo, view = newest(kit)
    target, report, order = TableTarget(), Tally(), list[str]()
    target.spoil = lambda name, data: [order.extend(report.warnings), data][1]  # type: ignore[return-value]
    if only_rehearse:
        rehearse(repo, view, target, ["postgresql"], LoadOptions(), report)
        assert not target.held
    else:
        load(repo, view, target, ["postgresql"], LoadOptions(), check="quick", report=report)
        assert order == ["the moon is far"]
    assert report.warnings == ["the moon is far"]


def test_another_engine_is_refused(tmp_path: Path) -> None:
    """A PostgreSQL snapshot does not go into MariaDB."""
    kit = Kit(tmp_path)
    take(kit, TableSource({"t": rows(5)}, engine="mariadb"))
    with pytest.raises(SafetyRefused, match="holds a mariadb database"):
        give_back(kit, TableTarget())


def test_damage_reaches_the_target_as_an_error(tmp_path: Path) -> None:
    """A pack with a flipped bit ends the restore with an integrity error while rows are being loaded."""
    kit = Kit(tmp_path)
    take(kit, TableSource({"t": rows(20_000)}))
    for info in list(kit.store.list("packs/")):
        data = bytearray(kit.store.get(info.name))
        data[len(data) // 2] ^= 1
        kit.store.delete(info.name)
        kit.store.put(info.name, bytes(data))
    target = TableTarget()
    with pytest.raises(IntegrityError):
        give_back(kit, target)
    assert not target.named


def test_a_writer_that_lies_about_rows_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest whose digest or counts are not those of its rows fails `verify --level content`."""
    kit = Kit(tmp_path)
    monkeypatch.setattr(RowDigest, "hexdigest", lambda self: "00" * 32)
    take(kit, TableSource({"t": rows(100)}))
    monkeypatch.undo()
    assert [p for p in kit.verify(Level.CONTENT).problems if "not the ones that were captured" in p.detail]


class Forgetful(Wrapper):
    """A store that keeps no packs."""

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        if name.startswith("packs/"):
            return utc_now()
        return self.inner.put(name, data, create_only=create_only)


class Endless(TableView):
    """A table that is made while it is read."""

    megabytes = 0

    def read(self, stream: StreamInfo) -> Iterator[bytes]:
        made = random.Random(7)
        for n in range(self.megabytes if stream.kind == "rows" else 0):
            yield b"".join(b"%d\t%s\n" % (n * 10_000 + i, made.randbytes(46).hex().encode()) for i in range(10_000))

    def counted(self, stream: StreamInfo, rows: int) -> None:
        assert rows == 10_000 * self.megabytes

    def finish(self) -> None:
        raise Failed("on purpose, before anybody looks for the packs")


def test_a_stream_of_no_table_is_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that reads a table and does not list it has a bug, which must not look like a backup."""
    monkeypatch.setattr(TableView, "tables", [])
    kit = Kit(tmp_path)
    with pytest.raises(Failed, match="this is a bug"):
        take(kit, TableSource({"t": rows(10)}))
    assert kit.history().views == []


def test_waiting_lists_are_bounded_over_all_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many streams with few waiting nodes each hold no more than one stream with many."""
    monkeypatch.setattr("backupd.repo.writing.NODES_IN_LINE", 8)
    most = [0]
    relieve = WriteSession.relieve

    def watched(self: WriteSession) -> None:
        most[0] = max(most[0], sum(writer.tree.waiting for writer in self.writers))
        relieve(self)

    monkeypatch.setattr(WriteSession, "relieve", watched)
    monkeypatch.setattr("backupd.jobs.capture.ROWS", 16)  # many chunks of few rows
    kit = Kit(tmp_path, pack_bytes=16 << 20)
    take(kit, TableSource({f"t{n}": rows(16_000, n, 300) for n in range(10)}))
    assert 8 < most[0] < 20
    assert kit.verify(Level.CONTENT).problems == []


def test_a_slow_reader_does_not_hold_up_a_failure(tmp_path: Path) -> None:
    """When one of two streams fails at once, the other is not read to its end first."""
    began = time.monotonic()
    seen: list[int] = []

    def slow(name: str, at: int) -> None:
        if name == "a":
            raise SourceIncomplete("gone")
        seen.append(at)
        time.sleep(0.05)

    source = TableSource({"a": rows(10), "b": rows(40_000)}, buffer=10_000, before_read=slow)
    kit = Kit(tmp_path)
    with pytest.raises(SourceIncomplete):
        take(kit, source)
    with pytest.raises(SourceIncomplete), source.view() as view:
        compare_live({"tables": [], "streams": [], "facts": {}}, view, bytes(32), Tally())
    assert len(seen) < 60
    assert time.monotonic() - began < 15


def test_packs_are_fetched_about_once_by_parallel_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tables that are loaded side by side share packs; each pack is fetched about once (all at a sixteenth's scale)."""
    monkeypatch.setattr("backupd.jobs.restore.AHEAD_BATCHES", 5)
    monkeypatch.setattr("backupd.jobs.restore.BATCH", 2)
    kit = Kit(tmp_path, pack_bytes=1 << 20)
    tables = {f"t{n}": rows(30_000, n, 300) for n in range(4)}
    take(kit, TableSource(tables, parallel=4))
    repo, view = newest(kit)
    stored = sum(info.size for info in kit.store.list("packs/"))
    target = SideBySide()
    result = load(repo, view, target, ["postgresql"], LoadOptions(jobs=4), check="none", report=Tally())
    assert result.fetched_bytes < 2 * stored
    assert dict(target.held) == joined(tables)


class SideBySide(TableTarget):
    """Reads all streams at once."""

    def load(self, streams, tables, **_):  # type: ignore[no-untyped-def]
        with ThreadPoolExecutor(4) as pool:
            done = pool.map(lambda s: (s.info.name, s.info.kind, b"".join(s.open())), streams)
            self.held = {name: data for name, kind, data in done if kind == "rows"}
        return LoadResult(0, 0.0)


def test_memory_does_not_follow_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of 80 MB needs the memory that one of 16 MB needs."""
    monkeypatch.setattr("tests.table_engine.TableView", Endless)
    peaks = []
    for megabytes in (16, 80):
        kit = Kit(tmp_path / str(megabytes), pack_bytes=1 << 20)
        Endless.megabytes = megabytes
        tracemalloc.start()
        try:
            with pytest.raises(Failed, match="on purpose"):
                take(kit, TableSource({"t": []}, hint=1 << 30), store=Forgetful(kit.store))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.3 + 4_000_000


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000, 30_000])
def test_trees_of_rows_of_any_length(count: int) -> None:
    """Content trees give every entry back, in order, and their leaves are cut where the structure's are."""
    from backupd.repo.nodes import CONTENT, STRUCTURE, ContentEntry, decode_node

    made = random.Random(count)
    nodes: dict[bytes, bytes] = {}
    place = PackPlace(bytes(32))

    def store(plain: bytes) -> ChunkRef:
        name = made.randbytes(32)
        nodes[name] = plain
        return ChunkRef(name, place, 0, len(plain), len(plain), 0)

    tree = TreeBuilder(store, store)
    entries = [ContentEntry(n % 7, b"%d" % n, b"%d" % (n + 1), n % 4) for n in range(count)]
    for entry in entries:
        tree.add(ChunkRef(made.randbytes(32), place, 0, 9, 9, 0), entry)
    finish_trees([tree], lambda: None)
    assert tree.content_top is not None
    total = sum(e.rows for e in entries)
    assert list(walk_content(tree.content_top, lambda ref: nodes[ref.id], rows=total)) == entries
    with pytest.raises(IntegrityError, match="other rows"):
        list(walk_content(tree.content_top, lambda ref: nodes[ref.id], rows=total + 1))
    leaves: dict[int, list[int]] = {STRUCTURE: [], CONTENT: []}
    for plain in nodes.values():
        node = decode_node(plain, plain[0], Kind.ROWS)
        if node.level == 0:
            leaves[plain[0]].append(len(node.entries) or len(node.content))
    assert leaves[STRUCTURE] == leaves[CONTENT]


def test_errors_name_no_rows() -> None:
    """The errors of comparisons count, and quote nothing."""
    from backupd.jobs.rowcheck import comparer

    compare = comparer([{"name": "t", "rows": 1, "digest": "00" * 32}], bytes(32))
    with pytest.raises(BackupdError) as caught:
        compare("t", iter([b"1\tJoanna Canary\n"]))
    assert "Canary" not in str(caught.value) + repr(caught.value)
