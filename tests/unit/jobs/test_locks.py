"""Object locks: what the newest snapshots need is locked as long as was promised, or it is said that it is not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.catalog.opening import open_catalog
from backupd.crypto.keyfile import Role
from backupd.jobs.cataloging import look, note
from backupd.jobs.locks import Locked, Locks, newest_of_each, slack
from backupd.jobs.needed import packs_needed
from backupd.jobs.prune import Prune
from backupd.policy.retention import Rule
from backupd.report import Tally
from backupd.store.base import Lockable, lockable
from backupd.store.dryrun import DryRunStore
from backupd.store.memory import MemoryStore
from tests.doubles import LockingStore, RecordingStore
from tests.jobs_kit import Kit
from tests.unit.jobs.test_nights import churn, make_customers

PROMISED = timedelta(days=30)


class World:
    """A repository in a storage that locks what is written for thirty days, and one source."""

    def __init__(self, root: Path, days: int | None = 30) -> None:
        self.now = datetime(2026, 3, 1, 2, tzinfo=UTC)
        inner = MemoryStore(lambda: self.now)
        self.store = LockingStore(inner, lambda: self.now, days)
        self.kit = Kit(root, inner, pack_bytes=100_000)
        self.source = make_customers(root / "crm.db", 2000)

    def night(self, share: float = 0.01) -> str:
        self.now += timedelta(days=1)
        churn(self.source, self.now.toordinal(), share)
        return self.kit.backup(self.source, store=self.store, clock=lambda: self.now, name="crm").snapshot

    def locks(self) -> Locks:
        return Locks(self.kit.repo(Role.CHECK, store=self.store), self.store, PROMISED, self.now, Tally())

    def look(self) -> Locked:
        return self.locks().look(self.kit.history().views)

    def prune(self, *, dry_run: bool = False) -> Locked:
        store = DryRunStore(self.store, lambda: self.now) if dry_run else self.store
        work = Prune(self.kit.repo(Role.PRUNE, host="pruner", store=store), self.now, Tally(), dry_run=dry_run)
        work.by_rule(Rule(last=5), lambda _: True)
        target = lockable(work.store)
        assert target is self.store
        work.keep_locked(target, PROMISED, "compliance", lambda _: True)
        assert work.result.locks is not None
        return work.result.locks

    def needed(self) -> set[str]:
        """Everything that the newest snapshot needs, told in another way than the code under test does."""
        history = self.kit.history()
        (newest,) = newest_of_each(history.views)
        packs, _ = packs_needed(self.kit.repo(Role.CHECK), [newest], [])
        return packs | {newest.object.name}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_was_just_written_is_locked_as_promised(world: World) -> None:
    world.night()
    seen = world.look()
    assert not seen.short
    assert seen.until == world.now + PROMISED
    assert set(world.store.asked) == world.needed()


def test_packs_of_earlier_nights_run_out_before_the_snapshots_that_lean_on_them(world: World) -> None:
    """Nothing but the bucket's default: after a month the newest snapshot leans on packs that anybody may remove."""
    world.night()
    for _ in range(2):
        world.now += timedelta(days=16)
        world.night()
    seen = world.look()
    assert seen.short
    assert seen.until is not None
    assert seen.until < world.now + PROMISED


def test_a_prune_locks_them_anew_and_only_now_and_then(world: World) -> None:
    world.night()
    for day in range(40):
        world.night(0.002)
        done = world.prune()
        assert not done.short
        assert done.refused is None
        assert done.until is not None
        assert done.until >= world.now + PROMISED, f"day {day}"
    longer = [world.prune().extended for _ in range(2)]
    assert longer == [0, 0], "what is locked for long enough is left alone"
    assert min(world.store.until[name] for name in world.needed()) >= world.now + PROMISED
    assert max(world.store.until.values()) <= world.now + PROMISED + slack(PROMISED)


def test_a_dry_run_only_looks(world: World) -> None:
    world.night()
    world.now += timedelta(days=20)
    world.night()
    before = dict(world.store.until)
    assert world.prune(dry_run=True).short
    assert world.store.until == before


def test_a_storage_that_does_not_let_locks_be_made_longer_is_told_of(world: World) -> None:
    world.night()
    world.now += timedelta(days=20)
    world.night()
    world.store.refuse = True
    done = world.prune()
    assert done.short
    assert done.refused == "access denied"


def test_objects_without_a_lock_are_short_and_have_no_end(tmp_path: Path) -> None:
    world = World(tmp_path, days=None)
    world.night()
    assert world.look() == Locked(None, short=True, objects=len(world.needed()))


def test_a_snapshot_from_the_future_locks_nothing_for_centuries(world: World) -> None:
    """Whoever holds a write key may sign any time; the lock follows this machine's clock at most."""
    real, world.now = world.now, datetime(8000, 1, 1, tzinfo=UTC)
    world.kit.backup(world.source, store=world.kit.store, clock=lambda: world.now, name="crm")
    world.now = real
    world.locks().keep(world.kit.history().views, "compliance")
    assert world.store.until
    assert max(world.store.until.values()) <= real + PROMISED + slack(PROMISED)


def test_two_sources_are_each_looked_at_by_their_newest_snapshot(world: World, tmp_path: Path) -> None:
    world.night()
    other = make_customers(tmp_path / "shop.db", 500)
    world.kit.backup(other, store=world.store, clock=lambda: world.now, name="shop")
    world.now += timedelta(days=20)
    world.night()
    views = newest_of_each(world.kit.history().views)
    assert sorted(view.source for view in views) == ["crm", "shop"]
    names = {view.object.name for view in views}
    world.look()
    assert names <= set(world.store.asked)


def test_the_catalog_learns_of_it(world: World, tmp_path: Path) -> None:
    """Without a promise nobody asks; with one the end is written down, and whether it is too soon."""
    world.night()
    world.now += timedelta(days=20)
    world.night()
    repo = world.kit.repo(Role.CHECK, store=world.store)
    assert look(repo, world.now, Tally()).locks is None
    assert world.store.asked == []
    seen = look(repo, world.now, Tally(), promised=PROMISED)
    with open_catalog(tmp_path / "catalog.sqlite") as catalog:
        note(catalog, "p", "s3://bucket", repo.id.hex(), seen, world.now)
        written = catalog.repositories.all()["p"]
        assert written.lock_short is True
        assert written.locked_until == min(world.store.until[name] for name in world.needed())


def test_a_storage_without_locks_is_not_asked(world: World) -> None:
    world.night()
    repo = world.kit.repo(Role.CHECK, store=RecordingStore(world.kit.store))
    assert lockable(repo.store) is None
    assert look(repo, world.now, Tally(), promised=PROMISED).locks is None
    assert isinstance(world.store, Lockable)
