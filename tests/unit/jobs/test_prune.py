"""Forgetting and collecting: what goes, what stays, and that nothing which a snapshot needs ever goes."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError, MissingRight, SafetyRefused
from backupd.jobs.prune import Prune, PruneResult
from backupd.jobs.verify import Level, append_record
from backupd.policy.retention import Rule
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
    ) -> PruneResult:
        repo = self.kit.repo(role, host="pruner", store=store)
        work = Prune(repo, self.now, Tally(), dry_run=dry_run, accept_damage=accept_damage)
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
    append_hold(world, held, "case 4711")
    assert {v.snapshot.id for v in world.prune().verdicts if v.keep} >= {held}
    with pytest.raises(SafetyRefused, match="case 4711"):
        world.forget(held)
    world.later(hours=1)
    append_hold(world, held, None, kind="release")
    assert not next(v for v in world.prune().verdicts if v.snapshot.id == held).keep
    world.assert_whole()


def append_hold(world: World, snapshot: str, reason: str | None, kind: str = "hold") -> None:
    repo = world.kit.repo(Role.PRUNE, host="pruner")
    signer = world.kit.signer(Role.PRUNE)
    document = {"type": kind, "created": world.now.isoformat(), "snapshot": snapshot, "reason": reason}
    append_record(repo, signer, document)


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


def test_the_newest_of_a_writer_stays_though_its_source_is_forgotten(world: World) -> None:
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


def test_a_forged_mark_stops_it(world: World) -> None:
    """A mark that a writer signed is no mark: nothing is swept on its word."""
    for _ in range(2):
        world.night()
    name, data = encode_mark(
        1, sorted(world.packs()), "2026-03-01T00:00:00Z", world.kit.trust.repository, world.kit.signer(Role.WRITE)
    )
    world.kit.store.put(name, data)
    world.later(hours=60)
    before = world.packs()
    with pytest.raises(IntegrityError):
        world.prune(Rule(last=9))
    assert world.packs() == before


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
    assert replace(LAST, last=2) != LAST
