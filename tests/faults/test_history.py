"""History: rollbacks, forks, gaps, strangers, revoked writers and false indexes are noticed, and honest storage never is."""

import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Key as KeyFile
from backupd.crypto.keyfile import Pin, Role, Secrets, new_header
from backupd.crypto.primitives import random_bytes
from backupd.errors import Exit, Failed, IntegrityError, KeyProblem, SafetyRefused
from backupd.jobs.prune import Prune
from backupd.jobs.verify import Level
from backupd.repo.format import FRAME_BYTES, snapshot_name, trust_name
from backupd.repo.indexing import read_segment
from backupd.repo.records import encode_mark
from backupd.repo.segments import encode_segment
from backupd.repo.trust import WriterEntry
from backupd.report import Tally
from backupd.store.folder import FolderStore
from tests.jobs_kit import (
    HookStore,
    Kit,
    change_database,
    contents,
    copy_host,
    make_database,
    names,
    overwrite,
    store_of,
)
from tests.stores import utc_now


class Story:
    """A kit with some runs, and a copy of the storage after each."""

    def __init__(self, root: Path, runs: int = 3) -> None:
        self.kit = Kit(root)
        self.source = make_database(root / "bank.db")
        self.held: dict[str, bytes] = {}
        self.after: list[Mapping[str, bytes]] = [contents(self.kit.store)]
        for n in range(runs):
            change_database(self.source, n)
            self.run()
            self.after.append(contents(self.kit.store))

    def run(self, **options: object) -> str:
        done = self.kit.backup(self.source, **options).snapshot  # type: ignore[arg-type]
        self.held[done] = self.source.read_bytes()
        return done

    def name(self, seq: int) -> str:
        return snapshot_name(self.kit.writer, seq)


def _problems(kit: Kit, level: Level = Level.STRUCTURE, host: str = "checker") -> dict[str, str]:
    return {p.object: p.kind for p in kit.verify(level, host=host).problems}


# ---- deletion and rollback


@pytest.mark.parametrize("gone", [1, 2])
def test_deleting_the_newest_snapshots_alarms_writer_and_verifier(tmp_path: Path, gone: int) -> None:
    """The newest one or two snapshot objects are deleted: writer and verifier, who remember, both say so (D26)."""
    story = Story(tmp_path)
    assert _problems(story.kit) == {}
    for seq in range(4 - gone, 4):
        story.kit.store.delete(story.name(seq))
    assert _problems(story.kit) == {story.name(3): "missing"}
    before = names(story.kit.store)
    with pytest.raises(SafetyRefused) as refused:
        story.kit.backup(story.source)
    assert (refused.value.exit, refused.value.object_name) == (Exit.SAFETY, story.name(3))
    assert "--accept-rollback" in str(refused.value.hint)
    assert names(story.kit.store) == before


def test_a_rollback_can_be_accepted_and_its_number_is_never_reused(tmp_path: Path) -> None:
    """With the rollback accepted a run goes on behind the remembered number, and its snapshot says what was skipped (D26)."""
    story = Story(tmp_path)
    assert _problems(story.kit) == {}
    story.kit.store.delete(story.name(3))
    story.run(accept_rollback=True)
    assert story.name(4) in names(story.kit.store)
    assert story.name(3) not in names(story.kit.store)
    assert _problems(story.kit, host="elsewhere") == {}
    assert story.kit.history().views[-1].structure.skipped == ((3, 3),)
    assert story.kit.backup(story.source).seq == 5
    held = {s: c for s, c in story.held.items() if s in {v.id for v in story.kit.history().views}}
    assert len(held) == 3
    story.kit.assert_restores(held)


def test_a_middle_snapshot_is_missed_by_everybody(tmp_path: Path) -> None:
    """A snapshot in the middle was deleted: also one who remembers nothing reports the gap (D31)."""
    story = Story(tmp_path)
    story.kit.store.delete(story.name(2))
    assert _problems(story.kit, host="fresh") == {story.name(2): "missing"}


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_a_rolled_back_store_alarms_those_who_remember(tmp_path: Path, back_to: int) -> None:
    """The whole storage shows an earlier state: the writer and the verifier alarm (D27)."""
    story = Story(tmp_path)
    assert _problems(story.kit) == {}
    story.kit.store = store_of(story.after[back_to])
    assert _problems(story.kit) == {story.name(3): "missing"}
    with pytest.raises(SafetyRefused):
        story.kit.backup(story.source)


def test_a_fresh_client_gives_no_false_alarm_on_an_old_state(tmp_path: Path) -> None:
    """A client with only the pin cannot know of a rollback, and reports nothing false; times tell the age (D27, D28)."""
    story = Story(tmp_path)
    story.kit.store = store_of(story.after[2])
    assert _problems(story.kit, Level.BYTES, host="fresh") == {}
    history = story.kit.history(host="fresh")
    assert history.problems == []
    newest = history.views[-1].structure
    assert newest.seq == 2
    assert newest.taken_at
    assert newest.stored_at


def test_a_store_that_freezes_is_noticed_by_the_writer(tmp_path: Path) -> None:
    """Storage that takes writes and goes on showing an old state is no success: the run says so (D28)."""
    story = Story(tmp_path, runs=2)
    frozen = store_of(story.after[2])

    class Frozen(HookStore):
        def put(self, name, data, *, create_only=True):  # type: ignore[no-untyped-def]
            return store_of({}).put(name, data)

    with pytest.raises(IntegrityError):
        story.kit.backup(change_database(story.source, 9), store=Frozen(frozen, lambda _: None))
    assert _problems(story.kit) == {}


def test_a_restored_old_ledger_is_caught_up_without_alarm(tmp_path: Path) -> None:
    """A host whose state comes from an old copy goes on: the storage is ahead of it, which is no rollback (D27)."""
    story = Story(tmp_path, runs=1)
    copy_host(story.kit, "writer", "old")
    story.run()
    story.run()
    assert story.kit.backup(story.source, host="old").seq == 4
    assert _problems(story.kit) == {}


# ---- misplaced and forked


def test_a_snapshot_copied_elsewhere_is_refused(tmp_path: Path) -> None:
    """A snapshot copied to another number, writer or repository does not verify there (D29)."""
    story = Story(tmp_path)
    kit = story.kit
    other = kit.add_writer()
    data = kit.store.get(story.name(2))
    repository = data[:16] + bytes(16) + data[FRAME_BYTES:]
    for name, content in {
        story.name(4): data,
        snapshot_name(other.header.writer, 1): data,
        story.name(5): repository,
    }.items():
        kit.store.put(name, content)
        found = _problems(kit, host="fresh")
        assert found[name] == "damaged"
        kit.store.delete(name)
    assert _problems(kit, host="fresh") == {}
    assert kit.backup(story.source, key=other, host="other").seq == 1
    assert _problems(kit, Level.CONTENT, host="fresh") == {}


def _forked(root: Path) -> tuple[Story, Kit]:
    """A story of two runs whose host was copied after the first: the second kit holds another snapshot 2."""
    story = Story(root, runs=1)
    copy_host(story.kit, "writer", "clone")
    fork = Kit(root / "fork")
    fork.store = store_of(story.after[1])
    copy_host(story.kit, "writer", root / "fork" / "writer")
    story.run()
    fork.backup(change_database(make_database(root / "fork.db", seed=7), 8))
    return story, fork


def test_two_snapshots_of_one_number_are_a_fork(tmp_path: Path) -> None:
    """Another snapshot with the remembered number, well signed: writer and verifier alarm, nobody overwrites it (D30)."""
    story, fork = _forked(tmp_path)
    assert _problems(story.kit) == {}
    story.kit.store = fork.store
    assert _problems(story.kit) == {story.name(2): "forked"}
    with pytest.raises(IntegrityError) as refused:
        story.kit.backup(story.source)
    assert refused.value.object_name == story.name(2)


def test_a_fork_that_was_continued_is_still_a_fork(tmp_path: Path) -> None:
    """The fork went on to higher numbers: the writer who remembers the other branch alarms all the same (D30)."""
    story, fork = _forked(tmp_path)
    assert _problems(story.kit) == {}
    fork.backup(make_database(tmp_path / "fork2.db", seed=3))
    fork.backup(make_database(tmp_path / "fork3.db", seed=4))
    story.kit.store = fork.store
    assert _problems(story.kit) == {story.name(2): "forked"}
    with pytest.raises(IntegrityError) as refused:
        story.kit.backup(story.source)
    assert refused.value.object_name == story.name(2)


def test_a_snapshot_from_another_branch_breaks_the_chain(tmp_path: Path) -> None:
    """One snapshot of a chain replaced by one of another branch: its successor does not follow it (D30)."""
    story, fork = _forked(tmp_path)
    story.run()
    overwrite(story.kit.store, story.name(2), fork.store.get(story.name(2)))
    assert _problems(story.kit, host="fresh")[story.name(3)] == "chain"


# ---- gaps and prune records


def _prune_document(story: Story, seq: int) -> dict[str, object]:
    view = next(v for v in story.kit.history().views if v.object.seq == seq)
    item = {"writer": story.kit.writer.hex(), "seq": seq, "hash": view.id}
    return {"type": "prune", "created": "2026-01-01T00:00:00Z", "snapshots": [item], "rule": "forget"}


@pytest.mark.parametrize("seq", [1, 2])
def test_a_gap_with_a_signed_prune_record_is_fine(tmp_path: Path, seq: int) -> None:
    """A snapshot whose removal the pruner signed is no gap, for the verifier and for the next run (D31)."""
    story = Story(tmp_path)
    story.kit.put_record(Role.PRUNE, 1, _prune_document(story, seq))
    story.kit.store.delete(story.name(seq))
    assert _problems(story.kit, Level.BYTES, host="fresh") == {}
    assert story.kit.backup(story.source).seq == 4
    assert _problems(story.kit, Level.BYTES) == {}


@pytest.mark.parametrize("signer", [Role.WRITE, Role.CHECK])
def test_a_prune_record_signed_by_another_role_counts_for_nothing(tmp_path: Path, signer: Role) -> None:
    """A prune record signed by a writer or a verifier is reported, and the gap too (D31)."""
    from backupd.repo.format import RECORD, block, dump_json, frame, sign_object

    story = Story(tmp_path)
    document = _prune_document(story, 2)
    written = []
    for n, role in enumerate((signer, Role.PRUNE), start=1):
        # once under the signer's own name, once under the pruner's
        name = f"records/{role}/{n:012d}"
        body = frame(RECORD, story.kit.trust.repository) + bytes(36) + b"\0" + block(dump_json(document))
        written.append(name)
        story.kit.store.put(name, sign_object(name, body, [story.kit.signer(signer)]))
    story.kit.store.delete(story.name(2))
    found = _problems(story.kit, host="fresh")
    assert found[story.name(2)] == "missing"
    assert all(found[name] == "damaged" for name in written)


def test_a_prune_record_for_another_snapshot_explains_nothing(tmp_path: Path) -> None:
    """A prune record names a number with another hash: the chain does not fit, and that is reported (D31)."""
    story = Story(tmp_path)
    document = _prune_document(story, 1)
    document["snapshots"][0]["seq"] = 2  # type: ignore[index]
    story.kit.put_record(Role.PRUNE, 1, document)
    story.kit.store.delete(story.name(2))
    assert _problems(story.kit, host="fresh") == {story.name(3): "chain"}


def test_missing_records_are_noticed(tmp_path: Path) -> None:
    """Deleted records: a gap in the middle by everybody, the newest by one who remembers it (D31)."""
    story = Story(tmp_path, runs=1)
    for n in (1, 2, 3):
        story.kit.put_record(Role.CHECK, n, {"type": "bad-packs", "created": "x", "packs": []})
    assert _problems(story.kit) == {}
    story.kit.store.delete("records/check/000000000003")
    assert _problems(story.kit, host="fresh") == {}
    assert _problems(story.kit) == {"records/check/000000000003": "missing"}
    story.kit.store.delete("records/check/000000000001")
    assert _problems(story.kit, host="fresh") == {"records/check/000000000001": "missing"}


@pytest.mark.parametrize(
    ("role", "document"),
    [
        (Role.PRUNE, {"type": "prune"}),
        (Role.PRUNE, {"type": "prune", "snapshots": None}),
        (Role.PRUNE, {"type": "prune", "snapshots": [{"writer": "x", "seq": 1, "hash": "00"}]}),
        (Role.PRUNE, {"type": "prune", "snapshots": ["all"]}),
        (Role.CHECK, {"type": "bad-packs"}),
        (Role.CHECK, {"type": "bad-packs", "packs": None}),
        (Role.CHECK, {"type": "bad-packs", "packs": {"a": 1}}),
    ],
)
def test_a_record_without_what_it_should_tell_is_reported(
    tmp_path: Path, role: Role, document: dict[str, object]
) -> None:
    """A well signed record whose document makes no sense is reported by name and stops nothing (D31)."""
    story = Story(tmp_path, runs=1)
    name = story.kit.put_record(role, 1, document)
    assert _problems(story.kit, Level.BYTES) == {name: "damaged"}
    report = Tally()
    story.run(report=report)
    assert [p.object for p in report.problems] == [name]
    story.kit.assert_restores(story.held)


def test_used_up_numbers_are_no_success(tmp_path: Path) -> None:
    """Behind the highest number that a name can hold a run is refused instead of storing what nobody sees (D35)."""
    story = Story(tmp_path, runs=1)
    repo = story.kit.repo(Role.WRITE, host="writer")
    repo.ledger.remember(1, {story.kit.writer: (999_999_999_999, bytes(32))})
    with pytest.raises(SafetyRefused) as refused:
        story.run(accept_rollback=True)
    assert refused.value.exit is Exit.SAFETY
    assert len(names(story.kit.store, "snapshots/")) == 1


# ---- indexes and packs


def test_an_index_for_packs_that_are_gone_is_not_believed(tmp_path: Path) -> None:
    """The index lists packs that were deleted: the next run stores their chunks anew, and everything restores (D32)."""
    story = Story(tmp_path, runs=1)
    for name in names(story.kit.store, "packs/"):
        story.kit.store.delete(name)
    done = story.kit.backup(story.source)
    assert done.chunks["reused"] == 0
    story.kit.assert_restores({done.snapshot: story.source.read_bytes()})
    view = next(v for v in story.kit.history().views if v.id == done.snapshot)
    assert story.kit.verify(Level.CONTENT, only=view).problems == []


def test_a_forged_index_is_not_believed(tmp_path: Path) -> None:
    """An index that was signed by another role, or by nobody, is never used, and verify reports it (D32)."""
    story = Story(tmp_path, runs=1)
    kit = story.kit
    (genuine,) = names(kit.store, "index/")
    data = kit.store.get(genuine)
    forged = genuine.rpartition("/")[0] + "/000001"
    envelope = kit.history().views[0].object.envelope
    structure = kit.keys[Role.WRITE].secrets["structure"]
    by_check = encode_segment(forged, [], envelope, structure, kit.signer(Role.CHECK))
    for content in (data, by_check, data[:-64] + bytes(64)):
        overwrite(kit.store, forged, content)
        report = Tally()
        done = kit.backup(story.source, report=report, host=f"host-{len(content)}-{content[-1]}")
        assert report.problems == []
        assert done.chunks["full"] == 0
        assert _problems(kit, host="fresh") == {forged: "damaged"}


def test_a_rolled_back_index_costs_space_only(tmp_path: Path) -> None:
    """Index segments that were removed are forgotten: their chunks are stored again, nothing dangles (D32)."""
    story = Story(tmp_path, runs=2)
    for name in names(story.kit.store, "index/"):
        story.kit.store.delete(name)
    done = story.kit.backup(story.source)
    assert done.chunks["reused"] == 0
    view = next(v for v in story.kit.history().views if v.id == done.snapshot)
    assert story.kit.verify(Level.CONTENT, only=view).problems == []


def test_a_doctored_local_index_costs_space_only(tmp_path: Path) -> None:
    """Rows of the local index that point elsewhere are no rows: a doctored cache never makes a bad snapshot (D32)."""
    import sqlite3

    from backupd.jobs.backup import index_path, versions_path

    story = Story(tmp_path, runs=1)
    shutil.rmtree(versions_path(story.kit.places("writer"), story.kit.keys[Role.WRITE]))
    db = sqlite3.connect(index_path(story.kit.places("writer"), story.kit.keys[Role.WRITE]))
    db.execute("update packs set list = zeroblob(length(list))")
    db.commit()
    db.close()
    done = story.kit.backup(story.source)
    assert done.chunks["reused"] == 0
    assert _problems(story.kit, Level.CONTENT) == {}


@pytest.mark.parametrize("when", ["index/", "snapshots/"])
def test_a_pack_that_vanishes_during_the_run_fails_it(tmp_path: Path, when: str) -> None:
    """A pack that the run leans on is deleted after it looked: the run fails and names it (D33)."""
    story = Story(tmp_path, runs=1)
    victim = names(story.kit.store, "packs/")[0]
    gone = threading.Event()

    def strike(name: str) -> None:
        if name.startswith(when) and not gone.is_set():
            gone.set()
            story.kit.store.delete(victim)

    change_database(story.source, 5)
    with pytest.raises(IntegrityError) as failed:
        story.kit.backup(story.source, store=HookStore(story.kit.store, strike))
    assert failed.value.object_name == victim
    done = story.kit.backup(story.source)
    view = next(v for v in story.kit.history().views if v.id == done.snapshot)
    assert story.kit.verify(Level.CONTENT, only=view).problems == []


def test_marked_packs_are_not_leaned_on(tmp_path: Path) -> None:
    """A pack that a signed mark lists counts as absent for new runs, until its sweep is done (D33)."""
    story = Story(tmp_path, runs=1)
    packs = names(story.kit.store, "packs/")
    name, data = encode_mark(1, packs, "x", story.kit.trust.repository, story.kit.signer(Role.PRUNE))
    story.kit.store.put(name, data)
    done = story.kit.backup(story.source)
    assert done.chunks["reused"] == 0
    for pack in packs:
        story.kit.store.delete(pack)
    story.kit.assert_restores({done.snapshot: story.source.read_bytes()})


def test_a_mark_by_another_role_marks_nothing(tmp_path: Path) -> None:
    """A mark signed by a writer is reported and not obeyed; it does not stop the nights (D33)."""
    story = Story(tmp_path, runs=1)
    packs = names(story.kit.store, "packs/")
    name, data = encode_mark(1, packs, "x", story.kit.trust.repository, story.kit.signer(Role.WRITE))
    story.kit.store.put(name, data)
    report = Tally()
    assert story.kit.backup(story.source, report=report).chunks["full"] == 0
    assert name in {p.object for p in report.problems}
    assert _problems(story.kit) == {name: "damaged"}


def test_segments_of_a_thief_are_not_believed(tmp_path: Path) -> None:
    """A segment signed with a stolen write key, though well formed, decides nothing for a host that has its own index."""
    story = Story(tmp_path, runs=1)
    kit = story.kit
    (genuine,) = names(kit.store, "index/")
    envelope = kit.history().views[0].object.envelope
    structure = kit.keys[Role.WRITE].secrets["structure"]
    forged = genuine.rpartition("/")[0] + "/000001"
    packs = read_segment(kit.repo(Role.CHECK), genuine)
    lying = [replace(p, entries=tuple(replace(e, offset=e.offset + 1) for e in p.entries)) for p in packs]
    kit.store.put(forged, encode_segment(forged, lying, envelope, structure, kit.signer(Role.WRITE)))
    for host in ("writer", "fresh-host"):
        done = kit.backup(story.source, host=host)
        assert done.chunks["full"] == 0
        kit.assert_restores({done.snapshot: story.source.read_bytes()})


# ---- strangers


STRANGE = {
    "elsewhere": "backup/old.tar",
    "no number": "trust/latest",
    "short number": "snapshots/{w}/7",
    "long number": "snapshots/{w}/0000000000001",
    "no writer": "snapshots/{z}/000000000001.tmp",
    "wrong folder": f"packs/ab/{'cd' * 32}",
    "short hash": f"packs/cd/{'cd' * 31}",
    "unknown role": "records/auditor/000000000001",
    "unknown end": "gc/000000000001.marked",
    "reserved": "rewrap/1",
}


@pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE.keys())
def test_foreign_names_are_left_alone_and_reported(tmp_path: Path, name: str) -> None:
    """An object whose name is not of the format is reported and changes nothing, empty or not (D35)."""
    story = Story(tmp_path, runs=2)
    name = name.format(w=story.kit.writer.hex(), z="00" * 16)
    for content in (b"", b"BKPD something"):
        overwrite(story.kit.store, name, content)
        report = Tally()
        found = story.kit.verify(Level.BYTES, host="fresh", report=report)
        assert any(name in text for text in [*report.warnings, *(p.object for p in found.problems)])
        assert all(p.object == name and p.kind == "unknown" for p in found.problems)
        story.run()
        story.kit.assert_restores(story.held)
        assert story.kit.store.get(name) == content


def test_names_outside_the_grammar_are_reported(tmp_path: Path) -> None:
    """Case variants, links and spaces in a folder repository are reported as strangers and change nothing (D35)."""
    kit = Kit(tmp_path, FolderStore(tmp_path / "repository", create=True))
    source = make_database(tmp_path / "bank.db")
    done = kit.backup(source)
    place = tmp_path / "repository" / "snapshots" / kit.writer.hex()
    (place / "000000000002 (copy)").write_bytes((place / "000000000001").read_bytes())
    (place / "000000000003").symlink_to(place / "000000000001")
    upper = place.parent / kit.writer.hex().upper()
    upper.mkdir()
    (upper / "000000000001").write_bytes((place / "000000000001").read_bytes())
    report = Tally()
    assert kit.verify(Level.CONTENT, report=report).problems == []
    assert len([text for text in report.warnings if "no object of this repository" in text]) == 3
    assert kit.backup(source).seq == 2
    kit.assert_restores({done.snapshot: source.read_bytes()})


@pytest.mark.parametrize("seq", [3, 999_999_999_999])
def test_an_empty_object_in_the_place_of_a_snapshot(tmp_path: Path, seq: int) -> None:
    """An empty object under a snapshot's name is reported at once, others restore, the next run refuses by name (D35)."""
    story = Story(tmp_path, runs=2)
    story.kit.store.put(story.name(seq), b"")
    assert _problems(story.kit)[story.name(seq)] == "damaged"
    story.kit.assert_restores(story.held)
    with pytest.raises(IntegrityError) as refused:
        story.kit.backup(story.source)
    assert refused.value.object_name == story.name(seq)


@pytest.mark.parametrize("n", [2, 999_999_999_999])
def test_an_empty_object_in_the_place_of_a_record(tmp_path: Path, n: int) -> None:
    """An empty object under a record's name is reported at once and does not stop a run (D35)."""
    story = Story(tmp_path, runs=1)
    story.kit.put_record(Role.CHECK, 1, {"type": "bad-packs", "created": "x", "packs": []})
    name = f"records/check/{n:012d}"
    story.kit.store.put(name, b"")
    assert _problems(story.kit)[name] == "damaged"
    report = Tally()
    story.kit.backup(story.source, report=report)
    assert [p.object for p in report.problems] == [name]


def test_a_pack_by_a_stranger_is_named_and_stops_nothing(tmp_path: Path) -> None:
    """A pack with a good hash but an envelope that no key leads to is one problem, not the end of the check (D35)."""
    from backupd.crypto.primitives import sha256
    from backupd.repo.format import pack_name

    story = Story(tmp_path, runs=1)
    data = bytearray(story.kit.store.get(names(story.kit.store, "packs/")[0]))
    data[FRAME_BYTES + 4 + 40] ^= 1
    strange = pack_name(sha256(bytes(data)))
    story.kit.store.put(strange, bytes(data))
    for level in (Level.BYTES, Level.CONTENT):
        assert _problems(story.kit, level) == {strange: "damaged"}
    story.kit.assert_restores(story.held)


# ---- revoked writers and trust


def _revoke(story: Story, seq: int) -> None:
    """Revoke the writer's key: only snapshot `seq` and what it leads back to stays trusted."""
    view = next(v for v in story.kit.history().views if v.object.seq == seq)
    trust = story.kit.trust
    writers = tuple(replace(w, last_good=(seq, view.object.id)) for w in trust.writers)
    story.kit.put_trust(replace(trust, version=trust.version + 1, writers=writers))


def test_a_revoked_writers_later_snapshots_are_refused(tmp_path: Path) -> None:
    """Up to the pinned number and hash a revoked writer is trusted, behind it and beside it nothing is (B20)."""
    story = Story(tmp_path)
    _revoke(story, 2)
    found = _problems(story.kit, Level.BYTES, host="fresh")
    assert found == {story.name(3): "revoked"}
    assert [v.object.seq for v in story.kit.history().views] == [1, 2]
    snapshots = list(story.held)
    story.kit.assert_restores({s: story.held[s] for s in snapshots[:2]})
    with pytest.raises(IntegrityError):
        story.kit.restore(snapshots[2])
    with pytest.raises(KeyProblem, match="revoked"):
        story.kit.backup(story.source)


def test_a_revoked_writers_good_snapshots_stay_good_when_one_between_is_pruned(tmp_path: Path) -> None:
    """The way back from the last good snapshot leads over those that a prune has signed for (D35)."""
    story = Story(tmp_path, runs=4)
    middle = next(v for v in story.kit.history().views if v.object.seq == 2)
    Prune(story.kit.repo(Role.PRUNE, host="pruner"), utc_now(), Tally()).by_name(middle, "by name")
    _revoke(story, 3)
    assert _problems(story.kit, host="fresh") == {story.name(4): "revoked"}
    assert [v.object.seq for v in story.kit.history().views] == [1, 3]


def test_other_bodies_signed_by_a_revoked_key_are_refused(tmp_path: Path) -> None:
    """Another body with a number before the pinned one, signed by the stolen key, is refused (B20)."""
    story, fork = _forked(tmp_path)
    story.run()
    _revoke(story, 3)
    for name in names(fork.store, "packs/") + names(fork.store, "index/") + names(fork.store, "sessions/"):
        overwrite(story.kit.store, name, fork.store.get(name))
    forged = fork.history().views[-1].id
    overwrite(story.kit.store, story.name(2), fork.store.get(story.name(2)))
    with pytest.raises(IntegrityError):
        story.kit.restore(forged)
    assert _problems(story.kit, host="fresh")[story.name(2)] == "revoked"


def test_a_new_key_of_a_revoked_writer_goes_on(tmp_path: Path) -> None:
    """The writer gets a new key: it goes on behind the revoked one's last snapshot, and everything verifies (B20)."""
    story = Story(tmp_path, runs=2)
    old = story.kit.keys[Role.WRITE]
    secrets = Secrets({**old.secrets.values, "sign": random_bytes(32)}, 1)
    header = new_header(
        Role.WRITE,
        Pin(old.header.pin.repository, old.header.pin.root, 2),
        secrets,
        old.header.kdf,
        utc_now(),
        old.header.writer,
    )
    _revoke(story, 2)
    entry = WriterEntry(story.kit.writer, header.id, header.public, 1, "host")
    trust = story.kit.trust
    story.kit.put_trust(replace(trust, version=3, writers=(*trust.writers, entry)))
    key = KeyFile(header, secrets)
    done = story.run(key=key)
    assert story.kit.backup(story.source, key=key).seq == 4
    assert done in {v.id for v in story.kit.history().views}
    assert _problems(story.kit, Level.CONTENT, host="fresh") == {}
    story.kit.assert_restores(story.held)


def test_a_trust_rollback_is_refused(tmp_path: Path) -> None:
    """Trust documents that were removed: refused by all who saw them, or who see a snapshot made under them (D27)."""
    story = Story(tmp_path, runs=1)
    second = story.kit.add_writer()
    story.run()
    assert _problems(story.kit) == {}
    story.kit.store.delete(trust_name(2))
    for host in ("writer", "checker"):
        with pytest.raises(IntegrityError) as refused:
            story.kit.repo(Role.CHECK, host=host)
        assert refused.value.object_name == trust_name(2)
    found = story.kit.verify(Level.STRUCTURE, host="fresh").problems
    assert [p.object for p in found if "trust version 2" in p.detail] == [story.name(2)]
    assert second.header.writer != story.kit.writer


def test_a_trust_document_in_the_middle_is_missed(tmp_path: Path) -> None:
    """A trust document between the pinned and the newest one is missing: everybody refuses (D27)."""
    story = Story(tmp_path, runs=1)
    trust = story.kit.trust
    for version in (2, 3):
        story.kit.put_trust(replace(trust, version=version))
    story.kit.store.delete(trust_name(2))
    with pytest.raises(IntegrityError) as refused:
        story.kit.repo(Role.CHECK, host="fresh")
    assert refused.value.object_name == trust_name(2)


def test_an_expired_trust_document_warns_and_restores(tmp_path: Path) -> None:
    """An expired trust document warns on a run and never blocks a run, a verification or a restore (B13)."""
    story = Story(tmp_path, runs=1)
    story.kit.put_trust(replace(story.kit.trust, version=2, expires="2020-01-01T00:00:00Z"))
    report = Tally()
    story.run(report=report)
    assert len([text for text in report.warnings if "expired" in text]) == 1
    assert _problems(story.kit, Level.CONTENT) == {}
    story.kit.assert_restores(story.held)


def test_a_damaged_ledger_is_somebodys_decision(tmp_path: Path) -> None:
    """A ledger that cannot be read stops the run with its path: what it remembers is not forgotten silently (D27)."""
    story = Story(tmp_path, runs=1)
    path = story.kit.places("writer").state / "heads.json"
    for damage in (b"", b"{}", path.read_bytes()[:-5], b"\xff" * 10):
        path.write_bytes(damage)
        with pytest.raises(Failed) as failed:
            story.kit.backup(story.source)
        assert failed.value.object_name == str(path)
    assert len(names(story.kit.store, "snapshots/")) == 1


def test_a_damaged_newest_snapshot_does_not_stop_the_nights(tmp_path: Path) -> None:
    """The writer remembers the hash of its damaged newest snapshot and links to it; a stranger needs --accept-rollback."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "a.db")
    kit.backup(source)
    kit.backup(source)
    name = max(names(kit.store, "snapshots/"))
    overwrite(kit.store, name, kit.store.get(name)[:-1])
    report = Tally()
    done = kit.backup(source, report=report)
    assert any(name in warning for warning in report.warnings)
    assert done.seq == 3
    assert {p.object for p in kit.verify().problems} == {name}
    kit.assert_restores({done.snapshot: source.read_bytes()})
    overwrite(kit.store, max(names(kit.store, "snapshots/")), b"gone")
    with pytest.raises(IntegrityError):
        kit.backup(source, host="stranger")
    again = kit.backup(source, host="stranger", accept_rollback=True)
    assert again.seq == 4
    kit.assert_restores({again.snapshot: source.read_bytes()})
