"""The daemon's one loop: plan, work, look, and say so. What it cannot do now it tries again; it waits for the next event only.

The roles share nothing but the catalog, so that one process may play all of them, or several on several machines one each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupd.catalog.opening import Catalog
from backupd.daemon.inforce import InForce, take
from backupd.daemon.logs import Logger
from backupd.daemon.options import Options
from backupd.daemon.planner import LOOK, Planner
from backupd.daemon.signals import Signals
from backupd.daemon.systemd import Systemd
from backupd.daemon.timetable import Task, tasks_of
from backupd.daemon.workers import Workers
from backupd.errors import BackupdError

_PATIENCE = 90.0
"""Seconds between asking the last jobs to end and ending them."""
_STALLED = 300.0
"""A loop that fails for so many seconds no longer says that it is alive: the service manager begins anew."""
KEPT = timedelta(days=400)
"""For how long what ran is remembered."""


class Every:
    """Something that is due every so many seconds, and the first time at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next: float | None = None

    def due(self, ticks: float, *, now: bool = False) -> bool:
        """Whether it is due; `now` for sooner than that."""
        if not now and self._next is not None and ticks < self._next:
            return False
        self._next = ticks + self._seconds
        return True


@dataclass(slots=True)
class State:
    """What others may know of the loop, from any thread."""

    policies: InForce | None = None
    draining: bool = False
    reloading: bool = False
    last_step: float = 0.0
    trouble: str = ""
    failing_since: float | None = None


@dataclass(slots=True)
class Parts:
    """What the loop works with; a role that is not played has none.

    Attributes:
        planner, timer: of the scheduler.
        workers: of the worker.
        look: has alerts opened and closed.
    """

    catalog: Catalog
    clock: Callable[[], datetime]
    ticks: Callable[[], float]
    log: Logger
    systemd: Systemd
    state: State
    planner: Planner | None = None
    timer: Callable[[list[Task]], None] = field(default=lambda _tasks: None)
    workers: Workers | None = None
    look: Callable[[InForce, datetime], None] | None = None
    worker_name: str = ""
    adopted: Callable[[InForce], None] = field(default=lambda _policies: None)


class Loop:
    """One round after the other.

    Args:
        options: what the daemon was told.
        parts: what it works with.
    """

    def __init__(self, options: Options, parts: Parts) -> None:
        self._options, self._parts = options, parts
        self._plan, self._recover, self._look = Every(LOOK.total_seconds()), Every(30), Every(60)
        self._claim, self._beat, self._purge = Every(2), Every(30), Every(6 * 3600)
        watchdog = parts.systemd.watchdog
        self._alive = Every(watchdog / 3 if watchdog else 3600)

    # ---- policies

    def load(self) -> None:
        """Read the policies for the first time.

        Raises:
            UsageError: they are not valid.
        """
        self._adopt(take(self._options.policies, self._options.state / "daemon" / "policies"))

    def reload(self) -> None:
        """Read them again: all of them, or, if one is not valid, none."""
        parts = self._parts
        parts.state.reloading = True
        parts.systemd.reloading()
        try:
            self.load()
        except BackupdError as error:
            parts.log.error("the policies stay as they were: the new ones are not valid", reason=error.message)
            parts.systemd.ready(f"policies not reloaded: {error.message}")
        else:
            parts.systemd.ready("policies reloaded")
        finally:
            parts.state.reloading = False

    def _adopt(self, found: InForce) -> None:
        parts, now = self._parts, self._parts.clock()
        before = parts.state.policies
        if before is not None and before.digest == found.digest:
            parts.log.info("the policies are as they were", digest=found.digest)
            return
        parts.state.policies = found
        tasks = tasks_of(found)
        if parts.planner is not None:
            parts.planner.take(tasks, now)
            parts.timer(tasks)
            known = parts.catalog.repositories.all()
            parts.planner.look_soon((policy.policy for policy in found if policy.policy not in known), now)
        parts.adopted(found)
        names = [policy.policy for policy in found]
        parts.log.info("policies in force", policies=names, tasks=len(tasks), digest=found.digest)

    # ---- rounds

    def step(self, *, woken: bool = False) -> None:
        """One round. What fails is logged and tried again in the next."""
        parts, ticks = self._parts, self._parts.ticks()
        try:
            self._round(ticks, woken)
        except BackupdError as error:
            if parts.state.failing_since is None:
                parts.state.failing_since = ticks
                parts.log.error("the daemon cannot do its work", reason=error.message, hint=error.hint)
            parts.state.trouble = error.message
        else:
            if parts.state.failing_since is not None:
                parts.log.info("the daemon works again")
            parts.state.failing_since, parts.state.trouble = None, ""
            parts.state.last_step = ticks
        works = parts.state.failing_since is None or ticks - parts.state.failing_since < _STALLED
        if works and self._alive.due(ticks):
            parts.systemd.alive()

    def _round(self, ticks: float, woken: bool) -> None:
        parts, now = self._parts, self._parts.clock()
        policies = parts.state.policies
        assert policies is not None
        if parts.planner is not None:
            self._schedule(parts.planner, now, ticks, woken)
        ended = False
        if parts.workers is not None:
            ended = parts.workers.tend(now)
            if self._claim.due(ticks, now=woken or ended):
                parts.workers.fill(now)
        if parts.look is not None and self._look.due(ticks, now=ended):
            parts.look(policies, now)
        if self._beat.due(ticks):
            parts.catalog.heartbeats.beat(parts.worker_name or "+".join(sorted(self._options.roles)), now)

    def _schedule(self, planner: Planner, now: datetime, ticks: float, woken: bool) -> None:
        parts = self._parts
        if not parts.state.draining and self._plan.due(ticks, now=woken):
            for job in planner.plan(now):
                parts.log.info("planned", job=job.key, kind=job.kind, policy=job.policy)
        if self._recover.due(ticks):
            for lost in parts.catalog.queue.recover(now):
                parts.catalog.runs.lose(lost.id, lost.attempt, now)
                parts.log.warning("a worker is gone", worker=lost.worker, job=lost.spec.key, outcome=lost.outcome)
        if self._purge.due(ticks):
            before = now - KEPT
            parts.catalog.runs.purge(before)
            parts.catalog.alerts.purge(before)
            parts.catalog.outbox.purge(now - timedelta(days=30))
            parts.catalog.queue.purge(now - timedelta(days=30))


def run(loop: Loop, parts: Parts, signals: Signals, options: Options) -> None:
    """Go round until somebody asks for an end, and end in order."""
    while not signals.stop:
        woken = _wait(signals, parts, 1.0)
        if signals.reload:
            signals.reload = False
            loop.reload()
        loop.step(woken=woken)
    _drain(loop, parts, signals, options)


def _wait(signals: Signals, parts: Parts, seconds: float) -> bool:
    descriptors = parts.workers.descriptors() if parts.workers else iter(())
    return signals.wait(seconds, descriptors)


def _drain(loop: Loop, parts: Parts, signals: Signals, options: Options) -> None:
    """Let the jobs at work come to their end; ask them to end when that takes too long or somebody asks again."""
    workers = parts.workers
    parts.state.draining = True
    if workers is None:
        return
    workers.draining = True
    begun, asked = parts.ticks(), signals.stop
    parts.systemd.stopping(f"ending; {workers.busy} jobs are still at work")
    parts.log.info("ending", jobs=workers.busy)
    stopping: float | None = None
    while workers.busy:
        _wait(signals, parts, 1.0)
        loop.step()
        ticks = parts.ticks()
        if stopping is None and (signals.stop > asked or ticks - begun > options.drain):
            stopping = ticks
            workers.stop_all("the daemon ends")
        if stopping is not None and ticks - stopping > _PATIENCE:
            workers.abandon(parts.clock())
