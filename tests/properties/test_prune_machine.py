"""Writers, prunes, crashes and clocks in any order, over real repositories: no live snapshot ever loses a chunk."""

import contextlib
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backupd.crypto.keyfile import Role
from backupd.jobs.prune import Prune
from backupd.jobs.verify import Level
from backupd.policy.retention import Rule
from backupd.report import Tally
from backupd.store.base import ObjectStore
from backupd.store.memory import MemoryStore
from tests.doubles import Crash, CrashingStore, Wrapper
from tests.jobs_kit import Kit
from tests.unit.jobs.test_nights import churn, make_customers

HOSTS = st.sampled_from(["one", "two"])
RULES = st.sampled_from([Rule(last=1), Rule(last=2), Rule(daily=2, weekly=1), Rule(within=timedelta(days=2))])


class _Slow(Wrapper):
    """A session during which something else happens: once, before its n-th write."""

    def __init__(self, inner: ObjectStore, n: int, meanwhile: Callable[[], None]) -> None:
        super().__init__(inner)
        self._left, self._meanwhile = n, meanwhile

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        self._left -= 1
        if self._left == 0:
            self._meanwhile()
        return self.inner.put(name, data, create_only=create_only)


class PruneMachine(RuleBasedStateMachine):
    """Two hosts with one write key and a source each, one who prunes, and a clock that only goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="backupd-prune-")
        self.root = Path(self.folder.name)
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.kept: dict[str, bytes] = {}
        self.seed = 0

    @initialize(pack_bytes=st.sampled_from([1, 60_000]))
    def begin(self, pack_bytes: int) -> None:
        self.kit = Kit(self.root, MemoryStore(self.clock), pack_bytes=pack_bytes)
        self.sources = {host: make_customers(self.root / f"{host}.db", 400) for host in ("one", "two")}

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def _take(self, host: str, store: ObjectStore) -> None:
        source = self.sources[host]
        before = source.read_bytes()
        done = self.kit.backup(source, store=store, host=host, clock=self.clock)
        self.kept[done.snapshot] = before

    def _prune(self, rule: Rule, store: ObjectStore | None = None) -> None:
        repo = self.kit.repo(Role.PRUNE, host="pruner", store=store)
        Prune(repo, self.now, Tally()).by_rule(rule, lambda _: True)

    def _refresh(self, *, must: bool) -> None:
        """What the rules have let go is not expected any more; without a prune nothing may go."""
        there = {view.id for view in self.kit.history().views}
        assert not must or self.kept.keys() <= there
        self.kept = {snapshot: data for snapshot, data in self.kept.items() if snapshot in there}

    @rule(host=HOSTS, share=st.sampled_from([0.01, 0.3, 1.0]))
    def change(self, host: str, share: float) -> None:
        self.seed += 1
        churn(self.sources[host], self.seed, share)

    @rule(host=HOSTS)
    def go_back(self, host: str) -> None:
        """Content of an older snapshot comes back, and with it chunks that may be marked, or gone."""
        if self.kept:
            self.sources[host].write_bytes(self.kept[sorted(self.kept)[self.seed % len(self.kept)]])

    @rule(host=HOSTS)
    def run(self, host: str) -> None:
        self._take(host, self.kit.store)

    @rule(host=HOSTS, write=st.integers(1, 12), hours=st.integers(0, 11), rule=RULES, back=st.booleans())
    def run_slowly(self, host: str, write: int, hours: int, rule: Rule, back: bool) -> None:
        """Two prunes, and hours after each, in the middle of a run that may lean on what they forget."""
        if back:
            self.go_back(host)

        def meanwhile() -> None:
            for _ in range(2):
                self._prune(rule)
                self.now += timedelta(hours=hours)

        self._take(host, _Slow(self.kit.store, write, meanwhile))
        self._refresh(must=False)

    @rule(host=HOSTS, write=st.integers(1, 8))
    def crash(self, host: str, write: int) -> None:
        before = self.sources[host].read_bytes()
        try:
            self._take(host, CrashingStore(self.kit.store, before_write=write))
        except Crash:
            fresh = {view.id for view in self.kit.history().views} - self.kept.keys()
            self.kept |= dict.fromkeys(fresh, before)

    @rule(hours=st.sampled_from([1, 12, 24, 26, 60]))
    def wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(rule=RULES)
    def prune(self, rule: Rule) -> None:
        self._prune(rule)
        self._refresh(must=False)

    @rule(rule=RULES, write=st.integers(1, 25), after=st.booleans())
    def prune_crashes(self, rule: Rule, write: int, after: bool) -> None:
        when = "after_write" if after else "before_write"
        with contextlib.suppress(Crash):
            self._prune(rule, CrashingStore(self.kit.store, **{when: write}))
        self._refresh(must=False)

    @precondition(lambda self: self.kept)
    @rule(n=st.integers(0, 100))
    def restore(self, n: int) -> None:
        snapshot = sorted(self.kept)[n % len(self.kept)]
        restored = self.kit.restore(snapshot)
        assert restored.read_bytes() == self.kept[snapshot]
        restored.unlink()

    @invariant()
    def what_is_there_is_whole(self) -> None:
        if hasattr(self, "kit"):
            history = self.kit.history()
            assert history.problems == []
            assert {view.id for view in history.views} == self.kept.keys()
            assert self.kit.verify(Level.STRUCTURE).problems == []

    def teardown(self) -> None:
        if hasattr(self, "kit"):
            for _ in range(3):
                self.now += timedelta(hours=60)
                self._prune(Rule(last=99))
            self.kit.assert_restores(self.kept)
            assert self.kit.verify(Level.CONTENT, host="last").problems == []
        self.folder.cleanup()


PruneMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.mark.slow
class TestPruneMachine(PruneMachine.TestCase):  # type: ignore[misc]
    """Whatever the order, what was not forgotten restores to the bytes that were kept aside."""
