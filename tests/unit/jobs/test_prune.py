"""Forgetting and collecting: what goes, what stays, and that nothing which a snapshot needs ever goes."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.crypto.keyfile import Role
from backupd.crypto.primitives import sha256
from backupd.errors import Failed, IntegrityError, KeyProblem, MissingRight, SafetyRefused
from backupd.jobs.appending import append_record
from backupd.jobs.brake import in_force, release
from backupd.jobs.leavings import NOTES
from backupd.jobs.prune import Prune, PruneResult
from backupd.jobs.verify import Level
from backupd.policy.retention import Rule
from backupd.repo.garbage import Collector
from backupd.repo.records import encode_mark
from backupd.report import Tally
from backupd.store.base import ObjectStore, StoreRefused
from backupd.store.dryrun import DryRunStore
from backupd.store.memory import MemoryStore
from tests.doubles import Crash, CrashingStore, LaggingStore, RecordingStore, Wrapper
from tests.jobs_kit import Kit, make_database, names
from tests.unit.jobs.test_nights import churn, make_customers

GRACE = timedelta(hours=25)
LAST = Rule(last=1)


@dataclass
class World:
    """A repository, its storage's clock, and one source."""

    root: Path
    now: datetime = datetime(2026, 3, 1, 2, tzinfo=UTC)
    kept: dict[str, bytes] = field(default_factory=dict)
    nights: int = 0

    def __post_init__(self) -> None:
        self.kit = Kit(self.root, MemoryStore(lambda: self.now), pack_bytes=100_000)
        self.source = make_customers(self.root / "crm.db", 2000)

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)

    def night(
        self, store: ObjectStore | None = None, host: str = "writer", name: str = "crm", *, leaning: bool = True
    ) -> str:
        """One more day, some changes, and a snapshot; one that leans on nothing leaves garbage when others go."""
        if not leaning:
            shutil.rmtree(self.kit.versions(), ignore_errors=True)
        self.later(days=1)
        self.nights += 1
        churn(self.source, self.nights, 0.05)
        done = self.kit.backup(self.source, store=store, host=host, clock=lambda: self.now, name=name)
        self.kept[done.snapshot] = self.source.read_bytes()
        return done.snapshot

    def prune(
        self,
        rule: Rule = LAST,
        *,
        store: ObjectStore | None = None,
        dry_run: bool = False,
        accept_damage: bool = False,
        role: Role = Role.PRUNE,
        cache: Path | None = None,
    ) -> PruneResult:
        repo = self.kit.repo(role, host="pruner", store=store)
        work = Prune(repo, self.now, Tally(), dry_run=dry_run, accept_damage=accept_damage, cache=cache)
        result = work.by_rule(rule, lambda _: True)
        for verdict in result.verdicts:
            if not verdict.keep and not dry_run:
                self.kept.pop(verdict.snapshot.id, None)
        return result

    def forget(self, snapshot: str) -> PruneResult:
        work = Prune(self.kit.repo(Role.PRUNE, host="pruner"), self.now, Tally())
        (view,) = [view for view in work.history.views if view.id == snapshot]
        result = work.by_name(view, "by name")
        self.kept.pop(snapshot)
        return result

    def release(self) -> None:
        """A person says that whatever was sudden was meant."""
        repo = self.kit.repo(Role.PRUNE, host="pruner")
        release(repo, self.kit.signer(Role.PRUNE), in_force(repo.records(lambda _: None)), "a test", self.now)

    def assert_whole(self) -> None:
        """Exactly the snapshots that were not forgotten are there, each restores, and nothing is wrong."""
        history = self.kit.history()
        assert history.problems == []
        assert {view.id for view in history.views} == self.kept.keys()
        self.kit.assert_restores(self.kept)
        assert self.kit.verify(Level.CONTENT).problems == []

    def packs(self) -> set[str]:
        return set(names(self.kit.store, "packs/"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def stored(store: ObjectStore, prefix: str = "packs/") -> int:
    return sum(info.size for info in store.list(prefix))


def test_forgetting_then_marking_then_sweeping(world: World) -> None:
    """Snapshots go at once, their packs only when a later prune finds the wait over, and what is kept stays whole."""
    for _ in range(4):
        world.night(leaning=False)
    before, size = world.packs(), stored(world.kit.store)
    first = world.prune()
    assert [v.keep for v in first.verdicts] == [True, False, False, False]
    assert world.packs() == before
    assert first.pending > 0
    assert first.until == world.now + GRACE
    world.assert_whole()
    world.later(hours=24)
    assert world.prune().freed == 0
    world.later(hours=2)
    last = world.prune()
    assert last.freed >= first.pending
    assert (last.pending, last.until) == (0, None)
    assert stored(world.kit.store) == size - first.pending
    world.assert_whole()
    world.night()
    world.assert_whole()


def test_sessions_without_packs_go_too(world: World) -> None:
    """When nothing of a session is left, its object and its segments go; of the others they stay."""
    for _ in range(3):
        world.night()
    shutil.rmtree(world.kit.versions())  # the next night leans on nothing
    world.source.write_bytes(make_customers(world.root / "other.db", 700).read_bytes())
    world.nights += 100
    world.night()
    world.release()
    world.prune()
    world.later(hours=60)
    world.prune()
    world.assert_whole()
    alive = {view.object.envelope.session.hex() for view in world.kit.history().views}
    segments = {name.split("/")[2] for name in names(world.kit.store, "index/")}
    sessions = {name.split("/")[2] for name in names(world.kit.store, "sessions/")}
    assert alive <= segments <= sessions
    assert len(sessions) < 4
    assert world.kit.backup(world.source, clock=lambda: world.now).chunks["full"] == 0


def test_a_dry_run_changes_nothing(world: World) -> None:
    for _ in range(3):
        world.night(leaning=False)
    before = names(world.kit.store)
    real = DryRunStore(world.kit.store, lambda: world.now)
    result = world.prune(store=real, dry_run=True)
    assert [v.keep for v in result.verdicts] == [True, False, False]
    assert result.pending > 0
    assert names(world.kit.store) == before
    assert world.prune().pending == result.pending


def test_what_is_held_stays(world: World) -> None:
    """Holds of runs and of people, until they are released."""
    held = world.night()
    world.night()
    world.night()
    name = append_hold(world, held, "case 4711")
    assert {v.snapshot.id for v in world.prune().verdicts if v.keep} >= {held}
    with pytest.raises(SafetyRefused, match="case 4711"):
        world.forget(held)
    world.later(hours=1)
    append_hold(world, held, None, ends=[name])
    assert not next(v for v in world.prune().verdicts if v.snapshot.id == held).keep
    world.assert_whole()


def append_hold(world: World, snapshot: str, reason: str | None, *, ends: list[str] | None = None) -> str:
    repo = world.kit.repo(Role.PRUNE, host="pruner")
    kind = {"type": "hold"} if ends is None else {"type": "release", "ends": ends}
    document = {**kind, "created": world.now.isoformat(), "snapshot": snapshot, "reason": reason}
    return append_record(repo, world.kit.signer(Role.PRUNE), document)


def test_one_by_name(world: World) -> None:
    """The newest of a writer cannot be forgotten: its numbers go on from it. The others can."""
    first, middle, last = world.night(), world.night(), world.night()
    with pytest.raises(SafetyRefused, match="newest"):
        world.forget(last)
    world.forget(middle)
    world.assert_whole()
    world.forget(first)
    world.assert_whole()
    world.night()
    world.assert_whole()


def test_the_newest_of_a_writer_stays_whatever_the_rule(world: World) -> None:
    """Its number is what the next one follows: kept with that reason, even where a rule would not keep it."""
    world.night()
    newest = world.night()
    later = Rule(within=timedelta(seconds=1))
    verdicts = world.prune(later).verdicts
    assert verdicts[0].snapshot.id == newest
    assert "the newest of its writer" in verdicts[0].reasons[-1]


def test_a_rule_for_one_source_leaves_the_others_alone(world: World) -> None:
    """With two sources, a rule for one of them leaves the other alone."""
    world.night(name="crm")
    world.night(name="shop")
    other = world.night(name="crm")
    work = Prune(world.kit.repo(Role.PRUNE, host="pruner"), world.now, Tally())
    result = work.by_rule(LAST, lambda view: view.source == "crm")
    assert len(result.verdicts) == 2
    assert other in {v.snapshot.id for v in result.verdicts if v.keep}
    assert len(world.kit.history().views) == 2


def test_a_missing_right(world: World) -> None:
    world.night()
    for role in (Role.READ, Role.CHECK, Role.WRITE):
        with pytest.raises(MissingRight):
            world.prune(role=role)


def test_damage_stops_it(world: World) -> None:
    """While a snapshot or a list cannot be read it is not known what is needed, and nothing goes."""
    for _ in range(3):
        world.night()
    victim = names(world.kit.store, "snapshots/")[1]
    world.kit.store.delete(victim)
    before = names(world.kit.store)
    with pytest.raises(IntegrityError):
        world.prune()
    assert names(world.kit.store) == before
    world.kept.pop(list(world.kept)[1])
    result = world.prune(Rule(last=5), accept_damage=True)
    assert all(v.keep for v in result.verdicts)
    world.kit.assert_restores(world.kept)
    world.later(hours=60)
    world.prune(Rule(last=5), accept_damage=True)
    world.kit.assert_restores(world.kept)


def test_a_damaged_list_stops_it(world: World) -> None:
    """A list that cannot be read may name anything: nothing is taken for garbage."""
    big = make_database(world.root / "big.db", chunks=150)
    world.kit.backup(big, clock=lambda: world.now)
    world.later(days=3)
    world.kit.backup(big, clock=lambda: world.now)
    for name in world.packs():
        data = bytearray(world.kit.store.get(name))
        data[1200::50] = bytes(len(data[1200::50]))
        world.kit.store.put(name, data, create_only=False)
    world.later(days=3)
    before = world.packs()
    with pytest.raises(IntegrityError):
        world.prune(Rule(last=9))
    assert world.packs() == before
    assert names(world.kit.store, "gc/") == []


def test_a_run_under_way_loses_nothing(world: World) -> None:
    """A prune in the middle of a run: packs of the run are young and not marked; what it leans on is spared by the sweep."""
    for _ in range(3):
        world.night()
    fired = threading.Event()

    class Hook(Wrapper):
        def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
            if name.startswith("snapshots/") and not fired.is_set():
                fired.set()
                world.prune(LAST)
            return self.inner.put(name, data, create_only=create_only)

    world.later(hours=3)
    churn(world.source, 77, 0.02)
    done = world.kit.backup(world.source, store=Hook(world.kit.store), clock=lambda: world.now)
    world.kept[done.snapshot] = world.source.read_bytes()
    assert fired.is_set()
    world.assert_whole()
    for _ in range(3):
        world.later(hours=26)
        world.prune(Rule(last=99))
        world.assert_whole()


def test_a_run_that_began_before_the_mark_is_spared(world: World) -> None:
    """A session that leaned on a pack before it was marked, and published after: the second listing sees it."""
    first = world.night()
    world.night()
    content = world.kept[first]
    world.prune(LAST)
    # a slow writer that knows nothing of the mark: its view of gc/ is empty

    class Blind(Wrapper):
        def list(self, prefix: str = "") -> object:  # type: ignore[override]
            return iter([i for i in self.inner.list(prefix) if not i.name.startswith("gc/")])

    world.source.write_bytes(content)
    done = world.kit.backup(world.source, store=Blind(world.kit.store), clock=lambda: world.now)
    world.kept[done.snapshot] = content
    world.later(hours=26)
    world.prune(Rule(last=99))
    world.assert_whole()


def test_marked_packs_come_back_to_life(world: World) -> None:
    """After a sweep that spared them, packs may be leaned on again."""
    test_a_run_that_began_before_the_mark_is_spared(world)
    done = world.kit.backup(world.source, clock=lambda: world.now)
    assert done.chunks["full"] == 0


class LockedStore(Wrapper):
    """A storage that refuses to delete what is locked."""

    def __init__(self, inner: ObjectStore, locked: Callable[[str], bool]) -> None:
        super().__init__(inner)
        self.locked = locked

    def delete(self, name: str) -> None:
        if self.locked(name):
            raise StoreRefused("locked until later", object_name=name)
        self.inner.delete(name)


def test_locked_objects_wait(world: World) -> None:
    """What the storage does not let go stays marked, is named, and goes when the lock has ended."""
    for _ in range(3):
        world.night(leaning=False)
    locked = LockedStore(world.kit.store, lambda name: name.startswith(("packs/", "snapshots/")))
    first = world.prune(store=locked)
    assert [name.split("/")[0] for name in first.refused] == ["snapshots", "snapshots"]
    world.assert_whole()
    world.later(hours=26)
    second = world.prune(Rule(last=9), store=locked)
    assert any(name.startswith("packs/") for name in second.refused)
    assert second.freed == 0
    world.assert_whole()
    before = len(world.packs())
    third = world.prune(Rule(last=9))
    assert third.refused == []
    assert third.freed > 0
    assert len(world.packs()) < before
    world.assert_whole()


def test_crashes_anywhere(world: World) -> None:
    """A prune that dies before any of its writes, or after it, is finished by the next one."""
    for _ in range(3):
        world.night(leaning=False)
    steps = 0
    for phase in ("forget and mark", "sweep"):
        for n in range(1, 200):
            store = CrashingStore(
                world.kit.store, before_write=n if n % 2 else None, after_write=None if n % 2 else n // 2
            )
            try:
                world.prune(store=store)
            except Crash:
                steps += 1
                views = {view.id for view in world.kit.history().views}
                world.kept = {snapshot: data for snapshot, data in world.kept.items() if snapshot in views}
                world.assert_whole()
                if n % 5 == 0:
                    world.night()
                continue
            break
        else:
            raise AssertionError(f"{phase} never ends")
        world.later(hours=26)
    assert steps > 8
    world.later(hours=60)
    world.prune()
    world.later(hours=26)
    last = world.prune()
    assert last.pending == 0
    world.assert_whole()


def test_two_prunes_at_once(world: World) -> None:
    """Two hosts prune together; each does what the other left, and nothing is lost."""
    for _ in range(4):
        world.night(leaning=False)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(2):
                repo = world.kit.repo(Role.PRUNE, host=threading.current_thread().name)
                Prune(repo, world.now, Tally()).by_rule(LAST, lambda _: True)
        except IntegrityError as error:
            errors.append(error)
        except Exception as error:  # TryAgain: the other one won
            if type(error).__name__ != "TryAgain":
                errors.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=work, name=f"pruner-{n}") for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.later(hours=26)
    assert errors == []
    views = {view.id for view in world.kit.history().views}
    world.kept = {snapshot: data for snapshot, data in world.kept.items() if snapshot in views}
    assert len(world.kept) == 1
    world.assert_whole()


@pytest.mark.parametrize("what", ["a writer's mark", "nonsense", "a far sweep"])
def test_what_cannot_be_believed_in_gc_stands_for_nothing(world: World, what: str) -> None:
    """A mark that a writer signed, junk, or a sweep of a far generation: nothing goes on its word, and collecting goes on."""
    for _ in range(2):
        world.night(leaning=False)
    packs = sorted(world.packs())
    name, data = encode_mark(7, packs, "2026-03-01T00:00:00Z", world.kit.trust.repository, world.kit.signer(Role.WRITE))
    junk = {
        "a writer's mark": (name, data),
        "nonsense": (name, b"x"),
        "a far sweep": ("gc/999999999999.sweep", b"x"),
    }[what]
    world.kit.store.put(*junk)
    world.later(hours=60)
    first = world.prune()
    assert first.pending > 0
    world.later(hours=26)
    assert world.prune().freed >= first.pending
    world.kit.store.delete(junk[0])
    world.assert_whole()


def test_an_unsigned_sweep_unmarks_nothing(world: World) -> None:
    """Who can write to the storage cannot make writers lean on what is about to go."""
    for _ in range(2):
        world.night(leaning=False)
    world.prune()
    (mark,) = [name for name in names(world.kit.store, "gc/") if name.endswith(".mark")]
    before = world.kit.repo(Role.CHECK).marked_packs(Tally())
    world.kit.store.put(mark.replace(".mark", ".sweep"), b"x")
    assert world.kit.repo(Role.CHECK).marked_packs(Tally()) == before != set()


def test_a_mark_over_everything_takes_nothing_that_lives(world: World) -> None:
    """Even a rightly signed mark of every pack only makes the next runs store anew; the sweep spares what is needed."""
    for _ in range(2):
        world.night()
    name, data = encode_mark(
        1, sorted(world.packs()), "2026-03-01T00:00:00Z", world.kit.trust.repository, world.kit.signer(Role.PRUNE)
    )
    world.kit.store.put(name, data)
    world.later(hours=60)
    world.prune(Rule(last=9))
    world.assert_whole()


def test_a_snapshot_put_back_stays_forgotten(world: World) -> None:
    """Who replays the object of a forgotten snapshot does not bring it back, nor harms the others."""
    for _ in range(3):
        world.night()
    name = names(world.kit.store, "snapshots/")[0]
    data = world.kit.store.get(name)
    world.prune()
    world.later(hours=26)
    world.prune()
    world.kit.store.put(name, data)
    world.assert_whole()
    world.prune()
    assert name not in names(world.kit.store)


def test_the_storage_tells_the_time(world: World) -> None:
    """A pruner whose own clock is a year ahead waits all the same."""
    for _ in range(3):
        world.night()
    world.prune()
    repo = world.kit.repo(Role.PRUNE, host="pruner")
    before = world.packs()
    Prune(repo, world.now + timedelta(days=365), Tally()).by_rule(LAST, lambda _: True)
    assert world.packs() == before


def test_a_listing_that_lags(world: World) -> None:
    """Objects that a listing does not show yet are not taken for garbage: they are too young to be marked."""
    for _ in range(3):
        world.night()
    lagging = LaggingStore(world.kit.store, 30)
    world.night(store=lagging)
    world.prune(Rule(last=9), store=lagging, accept_damage=True)
    world.later(hours=26)
    world.prune(Rule(last=9))
    world.assert_whole()


def test_few_requests(world: World) -> None:
    """A prune with nothing to do reads snapshots, lists and records, and no pack that holds only rows."""
    for _ in range(3):
        world.night()
    recording = RecordingStore(world.kit.store)
    world.prune(Rule(last=9), store=recording)
    assert len(world.kept) == 3
    assert len(recording.calls) < 60


def test_bases_of_what_stays_stay(world: World) -> None:
    """Chains lean on packs of forgotten snapshots: these stay."""
    for _ in range(6):
        world.night()
    refs = world.kit.refs(list(world.kept)[-1])
    assert any(ref.bases for stream in refs for ref in stream)
    for _ in range(3):
        world.prune()
        world.later(hours=30)
    world.assert_whole()


# ---- what a reviewer broke


def test_a_thief_of_a_write_key_cannot_push_good_snapshots_out(world: World) -> None:
    """Snapshots that claim to be of earlier days are kept, and fill nobody's bucket."""
    good = [world.night() for _ in range(7)]
    today = world.now
    for day in range(7):
        claimed = today.replace(hour=23, minute=59, second=59) - timedelta(days=day)
        lying = MemoryStoreAt(world.kit.store, claimed)
        churn(world.source, 50 + day, 0.1)
        world.kit.backup(world.source, store=lying, clock=lambda: today, accept_rollback=True)
    verdicts = world.prune(Rule(daily=7, min_keep=3), dry_run=True).verdicts
    kept = {v.snapshot.id for v in verdicts if v.keep}
    assert set(good[:-1]) <= kept  # the last one's day is the day on which the thief came


class MemoryStoreAt(Wrapper):
    """Claims another time for what it stored."""

    def __init__(self, inner: ObjectStore, claimed: datetime) -> None:
        super().__init__(inner)
        self.claimed = claimed

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        self.inner.put(name, data, create_only=create_only)
        return self.claimed


def test_times_that_are_none(world: World) -> None:
    """A writer that signs a time of another world stops nobody's prune."""
    world.night()
    strange = MemoryStoreAt(world.kit.store, datetime(9999, 12, 31, 23, 59, tzinfo=UTC))
    world.later(days=1)
    churn(world.source, 9, 0.1)
    odd = world.kit.backup(world.source, store=strange, clock=lambda: world.now)
    world.kept[odd.snapshot] = world.source.read_bytes()
    world.night()
    kept = {v.snapshot.id: v.reasons for v in world.prune().verdicts if v.keep}
    assert "a forgery" in kept[odd.snapshot][0]
    world.assert_whole()


def test_a_copy_of_a_repository(world: World) -> None:
    """In a copy all objects are as old as the copy: nothing goes, unless somebody says that it is one."""
    for _ in range(3):
        world.night()
    world.later(days=30)
    copy = MemoryStore(lambda: world.now)
    for info in world.kit.store.list():
        copy.put(info.name, world.kit.store.get(info.name))
    repo = world.kit.repo(Role.PRUNE, host="other", store=copy)
    assert all(v.keep for v in Prune(repo, world.now, Tally(), dry_run=True).by_rule(LAST, lambda _: True).verdicts)
    work = Prune(repo, world.now, Tally(), dry_run=True, copied=True)
    assert [v.keep for v in work.by_rule(LAST, lambda _: True).verdicts] == [True, False, False]


def test_numbers_of_pruned_snapshots_are_not_used_again(world: World) -> None:
    """The newest object is lost, and a host that remembers nothing publishes: above every number that was signed away."""
    for _ in range(4):
        world.night()
    world.prune()
    newest = names(world.kit.store, "snapshots/")[-1]
    world.kit.store.delete(newest)
    world.kept.clear()
    done = world.kit.backup(world.source, host="fresh", clock=lambda: world.now)
    assert done.seq == 4
    again = world.kit.backup(world.source, host="fresh", clock=lambda: world.now)
    world.later(hours=30)
    world.prune(Rule(last=9), accept_damage=True)
    assert {v.id for v in world.kit.history(host="third").views} == {done.snapshot, again.snapshot}


def test_another_snapshot_of_a_pruned_number_is_not_deleted(world: World) -> None:
    """Deletion is by hash: what was signed for, and nothing else of that name."""
    for _ in range(3):
        world.night()
    name = names(world.kit.store, "snapshots/")[0]
    world.prune()
    other = world.kit.store.get(names(world.kit.store, "snapshots/")[0])
    world.kit.store.put(name, other)
    world.prune(Rule(last=9), accept_damage=True)
    assert name in names(world.kit.store)


@pytest.mark.parametrize("how", ["missing", "bad"])
def test_nothing_goes_while_what_stays_is_broken(world: World, how: str) -> None:
    """The newest lacks a pack, or a verification has found it bad: the older ones are what can be restored, and stay."""
    for _ in range(3):
        world.night(leaning=False)
    newest = list(world.kept)[-1]
    old = {ref.pack for s in list(world.kept)[:-1] for stream in world.kit.refs(s) for ref in stream}
    own = next(r.pack for stream in world.kit.refs(newest) for r in stream if r.pack not in old)
    victim = f"packs/{own.hex()[:2]}/{own.hex()}"
    if how == "missing":
        world.kit.store.delete(victim)
    else:
        repo = world.kit.repo(Role.CHECK)
        document = {"type": "bad-packs", "created": "2026-03-02T00:00:00Z", "packs": [victim]}
        append_record(repo, world.kit.signer(Role.CHECK), document)
    with pytest.raises(IntegrityError) as failed:
        world.prune()
    assert failed.value.object_name == victim
    assert len(world.kit.history().views) == 3
    world.prune(accept_damage=True)
    assert len(world.kit.history().views) == 1


@pytest.mark.parametrize("harm", ["flip", "delete"])
def test_a_hold_that_cannot_be_read_may_be_one(world: World, harm: str) -> None:
    """A damaged or missing record stops forgetting: it may be somebody's hold."""
    held = world.night()
    world.night()
    first = append_hold(world, held, "case 4711")
    append_hold(world, held, "audit")
    if harm == "flip":
        data = bytearray(world.kit.store.get(first))
        data[-1] ^= 1
        world.kit.store.put(first, data, create_only=False)
    else:
        world.kit.store.delete(first)
    with pytest.raises(IntegrityError) as failed:
        world.prune()
    assert failed.value.object_name == first
    assert len(world.kit.history().views) == 2


def test_the_last_record_is_remembered(world: World) -> None:
    """Whoever pruned here once notices that the newest record was taken away."""
    held = world.night()
    world.night()
    hold = append_hold(world, held, "case 4711")
    world.prune()
    world.kit.store.delete(hold)
    with pytest.raises(IntegrityError):
        world.prune()


def test_a_listing_that_was_rolled_back(world: World) -> None:
    """Whoever pruned here once notices that the newest snapshots are not listed any more, and deletes nothing."""
    for _ in range(4):
        world.night()
    world.prune(Rule(last=9))
    hidden = names(world.kit.store, "snapshots/")[2:]

    class Hiding(Wrapper):
        def list(self, prefix: str = "") -> object:  # type: ignore[override]
            return iter([i for i in self.inner.list(prefix) if i.name not in hidden])

    world.later(hours=60)
    before = names(world.kit.store, "packs/")
    with pytest.raises(IntegrityError):
        world.prune(store=Hiding(world.kit.store))
    assert names(world.kit.store, "packs/") == before


def test_a_hold_after_a_release_counts_whatever_the_clocks_say(world: World) -> None:
    """A release ends the holds that it names; a later one is a hold, even if an earlier one came from a clock that was ahead."""
    held = world.night()
    world.night()
    now = world.now
    world.now = now + timedelta(days=365)
    first = append_hold(world, held, "ahead")
    world.now = now
    append_hold(world, held, None, ends=[first])
    append_hold(world, held, "case 4711")
    assert next(v for v in world.prune().verdicts if v.snapshot.id == held).reasons == ["held: case 4711"]


def test_the_first_intent_decides(world: World) -> None:
    """A prune whose generation another one has ended deletes nothing of it: writers lean on what was spared since."""
    for _ in range(3):
        world.night(leaning=False)
    world.prune()
    world.later(hours=26)
    slow = world.kit.repo(Role.PRUNE, host="slow")
    collector = Collector(slow, "2026-03-09T00:00:00Z", world.kit.signer(Role.PRUNE), Tally())
    (generation,) = collector.open()
    sizes = {info.name: info.size for info in world.kit.store.list("packs/")}
    victim = sorted(generation.packs)[0]
    other = Collector(slow, "2026-03-09T00:00:00Z", world.kit.signer(Role.PRUNE), Tally())
    done = other.sweep(generation, lambda name: name == victim, sizes, lambda _: None)
    assert set(done.deleted) == generation.packs - {victim}
    late = collector.sweep(generation, lambda _: False, sizes, lambda _: None)
    assert late.deleted == []
    assert victim in names(world.kit.store)


def test_a_generation_ends_only_when_all_of_its_intent_is_gone(world: World) -> None:
    """While another prune still deletes what its intent names, nobody unmarks it."""
    for _ in range(3):
        world.night(leaning=False)
    world.prune()
    world.later(hours=26)
    repo = world.kit.repo(Role.PRUNE, host="slow")
    signer = world.kit.signer(Role.PRUNE)
    (generation,) = Collector(repo, "x", signer, Tally()).open()
    name, data = encode_mark(generation.number, sorted(generation.packs), "x", repo.id, signer, "intent")
    world.kit.store.put(name, data)
    sizes = {info.name: info.size for info in world.kit.store.list("packs/")}
    spared = sorted(generation.packs)[0]
    Collector(repo, "x", signer, Tally()).sweep(generation, lambda n: n == spared, sizes, lambda _: None)
    assert [n for n in names(world.kit.store, "gc/") if n.endswith(".sweep")] == []
    assert spared in world.kit.repo(Role.CHECK).marked_packs(Tally())


def test_what_is_done_is_tidied_away(world: World) -> None:
    """Objects of generations that ended long ago go; the newest stays, since numbers go on from it."""
    for _ in range(3):
        for _ in range(2):
            world.night(leaning=False)
        world.prune()
        world.later(hours=80)
    world.prune()
    world.later(hours=80)
    world.prune()
    assert len({name[3:15] for name in names(world.kit.store, "gc/")}) <= 2
    world.assert_whole()


def test_a_revoked_prune_key_prunes_nothing(world: World) -> None:
    """Neither does its mark hold up whoever comes after it."""
    for _ in range(3):
        world.night(leaning=False)
    world.prune()
    trust = world.kit.trust
    mine = world.kit.keys[Role.PRUNE].header.id
    last = names(world.kit.store, "records/prune/")[-1]
    good = (int(last.rsplit("/", 1)[1]), sha256(world.kit.store.get(last)))
    identities = tuple(replace(i, last_good=good) if i.id == mine else i for i in trust.identities)
    world.kit.put_trust(replace(trust, version=trust.version + 1, identities=identities))
    with pytest.raises(KeyProblem, match="not trusted"):
        world.prune()
    world.later(hours=60)
    world.prune(role=Role.ROOT)
    world.later(hours=26)
    assert world.prune(role=Role.ROOT).freed > 0
    world.assert_whole()


def test_trust_that_has_expired_and_a_wait_that_is_too_short(world: World) -> None:
    world.night()
    trust = world.kit.trust
    world.kit.put_trust(replace(trust, version=2, expires="2026-03-01T00:00:00Z"))
    with pytest.raises(SafetyRefused, match="expired"):
        world.prune()
    world.kit.put_trust(replace(trust, version=3, policy=replace(trust.policy, grace_hours=24)))
    with pytest.raises(SafetyRefused, match="garbage waits 24"):
        world.prune()


def test_a_storage_that_lets_nothing_go(world: World) -> None:
    """Not even the object that asks for the time: the prune signs, marks, and names what is locked."""
    for _ in range(2):
        world.night()
    locked = LockedStore(world.kit.store, lambda _: True)
    result = world.prune(store=locked)
    assert len(result.refused) == 1
    world.assert_whole()


def test_a_host_that_sleeps_before_it_publishes(world: World) -> None:
    """The session has lasted too long when the snapshot is about to be written: it is not."""
    world.night()
    slept = threading.Event()

    class Sleepy(Wrapper):
        def list(self, prefix: str = "") -> object:  # type: ignore[override]
            if prefix.startswith("snapshots/") and started.is_set() and not slept.is_set():
                slept.set()
                world.later(hours=26)
            return self.inner.list(prefix)

        def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
            if name.startswith("index/"):
                started.set()
            return self.inner.put(name, data, create_only=create_only)

    started = threading.Event()
    churn(world.source, 5, 0.3)
    with pytest.raises(Failed, match="24 hours"):
        world.kit.backup(world.source, store=Sleepy(world.kit.store), clock=lambda: world.now)
    assert slept.is_set()
    world.assert_whole()


def test_young_packs_are_not_marked(world: World) -> None:
    """Packs of a run that is under way belong to no snapshot yet: too young to be garbage."""
    for _ in range(2):
        world.night()
    crashed = CrashingStore(world.kit.store, before_write=4)
    churn(world.source, 70, 1.0)
    shutil.rmtree(world.kit.versions())
    before = world.packs()
    with pytest.raises(Crash):
        world.kit.backup(world.source, store=crashed, clock=lambda: world.now)
    fresh = world.packs() - before
    assert fresh
    world.prune(Rule(last=9))
    assert world.kit.repo(Role.CHECK).marked_packs(Tally()) & fresh == set()
    world.later(hours=26)
    world.prune(Rule(last=9))
    assert world.kit.repo(Role.CHECK).marked_packs(Tally()) >= fresh


def test_segments_that_cannot_be_read_stay(world: World) -> None:
    """A damaged index segment of a forgotten session is no reason to remove it, nor the session."""
    for _ in range(3):
        world.night(leaning=False)
    victim = names(world.kit.store, "index/")[0]
    world.kit.store.put(victim, world.kit.store.get(victim)[:-3], create_only=False)
    for _ in range(3):
        world.prune()
        world.later(hours=30)
    assert victim in names(world.kit.store)


def _reads(world: World, prefix: str, **more: Any) -> list[str]:
    """What a prune reads below a prefix."""
    store = RecordingStore(world.kit.store)
    world.prune(Rule(last=1), store=store, **more)
    return [name for verb, name, _ in store.calls if verb == "get" and name.startswith(prefix)]


def test_segments_of_old_sessions_are_not_read_each_night(world: World) -> None:
    """What a prune has noted spares the next one the reading; it never removes anything, and losing it costs reading."""
    for _ in range(4):
        world.night()  # each leans on the one before, so that packs of all of them stay
    for _ in range(2):
        world.prune()
        world.later(hours=60)
    cache = world.root / "notes"
    first = _reads(world, "index/", cache=cache)
    assert len(first) >= 2
    assert _reads(world, "index/", cache=cache) == []
    assert sorted(_reads(world, "index/")) == sorted(first)
    for nonsense in ("", "[1", "[]", '{"index/x": 5}', "[" * 5000):
        (cache / NOTES).write_text(nonsense)
        assert sorted(_reads(world, "index/", cache=cache)) == sorted(first)
    there = names(world.kit.store, "index/")
    pack = names(world.kit.store, "packs/")[0]
    (cache / NOTES).write_text(json.dumps(dict.fromkeys(there, pack)))  # a lie keeps, and removes nothing
    assert _reads(world, "index/", cache=cache) == []
    (cache / NOTES).write_text(json.dumps(dict.fromkeys(there, "packs/00/gone")))
    assert sorted(_reads(world, "index/", cache=cache)) == sorted(first)
    assert names(world.kit.store, "index/") == there
    world.assert_whole()


def test_a_fresh_index_knows_what_forgotten_sessions_stored(world: World) -> None:
    """A machine that lost its cache stores nothing again, though no snapshot that is left names the segments of what it needs."""
    world.source = make_customers(world.root / "big.db", 60_000)  # enough for lists of more than one level
    content = world.kept[world.night()]
    world.later(days=1)
    done = world.kit.backup(world.source, clock=lambda: world.now, name="crm")
    world.prune()
    (view,) = world.kit.history().views
    assert view.structure.segments == ()
    shutil.rmtree(world.kit.places("writer").cache)
    shutil.rmtree(world.kit.versions())
    world.later(days=1)
    again = world.kit.backup(world.source, clock=lambda: world.now, name="crm")
    assert (again.chunks["full"], again.chunks["reused"]) == (0, again.chunks["total"])
    other = world.kit.backup(world.source, clock=lambda: world.now, name="other")
    assert other.chunks["full"] == 0
    world.kept = dict.fromkeys((done.snapshot, again.snapshot, other.snapshot), content)
    world.assert_whole()


def test_lists_that_cannot_be_read_cost_space(world: World) -> None:
    """Filling a fresh index, damage is told and left out: the run stores anew what it does not know, and is whole."""
    world.source = make_customers(world.root / "big.db", 60_000)
    content = world.kept.pop(world.night())
    world.later(days=1)
    world.kit.backup(world.source, clock=lambda: world.now, name="crm")
    world.prune()
    for name in names(world.kit.store, "packs/"):
        world.kit.store.put(name, bytes(len(world.kit.store.get(name))), create_only=False)
    shutil.rmtree(world.kit.places("writer").cache)
    shutil.rmtree(world.kit.versions())
    report = Tally()
    done = world.kit.backup(world.source, clock=lambda: world.now, name="crm", report=report)
    assert done.chunks["full"] >= done.chunks["total"] - 3  # but for what stands in the snapshot's own top
    assert [p.kind for p in report.problems] == ["damaged"]
    assert world.kit.restore(done.snapshot).read_bytes() == content


def test_notes_do_not_keep_what_is_gone(world: World) -> None:
    """When the pack that a note names goes, its segment is read again, and goes too."""
    cache = world.root / "notes"
    for _ in range(3):
        world.night(leaning=False)
    for _ in range(3):
        world.prune(Rule(last=2), cache=cache)
        world.later(hours=30)
    before = names(world.kit.store, "index/")
    world.night(leaning=False)
    for _ in range(3):
        world.prune(cache=cache)
        world.later(hours=60)
    assert not set(before) <= set(names(world.kit.store, "index/"))
    world.assert_whole()


def test_each_record_is_read_once(world: World) -> None:
    """However many prunes have signed before; but for the last, which the next one follows."""
    for _ in range(6):
        world.night()
        world.prune()
    records = names(world.kit.store, "records/")
    assert len(records) == 5
    assert sorted(_reads(world, "records/")) == records
    world.night()
    assert sorted(set(_reads(world, "records/"))) == records
    assert len(_reads(world, "records/")) == 6


@pytest.mark.parametrize("waits", [True, False])
def test_the_wait_is_what_protects_a_session(world: World, monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    """A session leans on a pack that is marked and swept while it runs; with the wait it is spared, without it is lost."""
    first = world.night(leaning=False)
    world.night(leaning=False)
    content = world.kept[first]
    if not waits:
        monkeypatch.setattr("backupd.jobs.prune.over", lambda generation, now, grace: True)
    pruned = threading.Event()

    class Hook(Wrapper):
        def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
            if name.startswith("snapshots/") and not pruned.is_set():
                pruned.set()
                for _ in range(2):
                    world.prune()
                    world.later(hours=11)
            return self.inner.put(name, data, create_only=create_only)

    world.source.write_bytes(content)
    world.later(hours=1)
    if not waits:
        with pytest.raises(IntegrityError, match="vanished"):
            world.kit.backup(world.source, store=Hook(world.kit.store), clock=lambda: world.now)
        return
    done = world.kit.backup(world.source, store=Hook(world.kit.store), clock=lambda: world.now)
    world.kept[done.snapshot] = content
    world.later(hours=30)
    world.prune(Rule(last=9))
    world.assert_whole()
