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
from backupd.daemon.steward import promised_names
from backupd.daemon.systemd import Systemd
from backupd.daemon.timetable import Task, tasks_of
from backupd.daemon.workers import Workers
from backupd.errors import BackupdError, UsageError

_PATIENCE = 90.0
"""Seconds between asking the last jobs to end and ending them."""
_STALLED = 300.0
"""A loop that fails for so many seconds no longer says that it is alive: the service manager begins anew."""
_RELOAD_AGAIN = 30.0
"""After so many seconds valid policies are taken that the catalog kept from being taken."""
_DEAD = timedelta(days=1)
"""A worker without a sign of life for so long is not waited for any more."""
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
        look: has alerts opened and closed; returns how things stand, in a sentence.
        recover: of the scheduler: finds what dead workers left behind.
        check: raises if it makes no sense to go on with this catalog.
        name: of this process, for people.
        adopted: writes down which policies are about to be in force.
        tidy: removes from the state folder what is to be kept there for so long only.
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
    look: Callable[[InForce, datetime], str] | None = None
    recover: Callable[[datetime], None] | None = None
    check: Callable[[], None] = field(default=lambda: None)
    name: str = "backupd"
    adopted: Callable[[InForce], None] = field(default=lambda _policies: None)
    tidy: Callable[[datetime], None] = field(default=lambda _now: None)


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
        self._tidy = Every(6 * 3600)
        self._tidy.due(parts.ticks())  # not at once: after a start the clock may be wrong until somebody sets it
        watchdog = parts.systemd.watchdog
        self._alive = Every(watchdog / 3 if watchdog else 3600)
        self._reload_at: float | None = None

    # ---- policies

    def load(self) -> None:
        """Read the policies, and have them in force if all of them are valid.

        Raises:
            UsageError: they are not valid.
        """
        self._adopt(take(self._options.policies, self._options.state / "daemon" / "policies"))

    def reload(self) -> None:
        """Read them again: all of them, or, if one is not valid, none. Where the catalog is in the way it is tried again."""
        parts = self._parts
        parts.state.reloading = True
        self._reload_at = None
        parts.systemd.reloading()
        try:
            self.load()
        except UsageError as error:
            parts.log.error("the policies stay as they were: the new ones are not valid", reason=error.message)
            parts.systemd.ready(f"policies not reloaded: {error.message}")
        except BackupdError as error:
            self._reload_at = parts.ticks() + _RELOAD_AGAIN
            parts.log.error("the policies stay as they were for now", reason=error.message)
            parts.systemd.ready(f"policies not reloaded yet: {error.message}")
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
        tasks = tasks_of(found)
        # what may fail comes first, and can be done again: until all of it is done, the set before stays in force
        parts.adopted(found)
        if parts.planner is not None:
            known = parts.catalog.repositories.all()
            unseen = [task for task in tasks if task.kind == "refresh" and task.policy.policy not in known]
            parts.planner.do_now(unseen, now)
            parts.planner.take(tasks, now)
        parts.state.policies = found
        parts.timer(tasks)
        names = [policy.policy for policy in found]
        parts.log.info("policies in force", policies=names, tasks=len(tasks), digest=found.digest)

    # ---- rounds

    def step(self, *, woken: bool = False) -> None:
        """One round. What fails is logged and tried again in the next."""
        parts, ticks = self._parts, self._parts.ticks()
        if self._reload_at is not None and ticks >= self._reload_at:
            self.reload()
        try:
            parts.check()
            self._round(ticks, woken)
        except BackupdError as error:
            if parts.state.trouble != error.message:
                parts.log.error("the daemon cannot do its work", reason=error.message, hint=error.hint)
            if parts.state.failing_since is None:
                parts.state.failing_since = ticks
                parts.systemd.status(f"failing: {error.message}")
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
        ended = False
        try:  # the jobs at work first: they must not escape their limits because the catalog does not answer
            ended = parts.workers is not None and parts.workers.tend(now)
        finally:
            if parts.planner is not None:
                self._schedule(parts.planner, now, ticks, woken)
        if parts.workers is not None and self._claim.due(ticks, now=woken or ended):
            parts.workers.fill(now)
        if parts.look is not None and self._look.due(ticks, now=ended):
            parts.systemd.status(parts.look(policies, now))
        if self._tidy.due(ticks):
            parts.tidy(now)
        if self._beat.due(ticks):
            parts.catalog.heartbeats.beat(parts.name, now)

    def _schedule(self, planner: Planner, now: datetime, ticks: float, woken: bool) -> None:
        parts = self._parts
        if not parts.state.draining and self._plan.due(ticks, now=woken):
            for job in planner.plan(now):
                parts.log.info("planned", job=job.key, kind=job.kind, policy=job.policy)
        if parts.recover is not None and self._recover.due(ticks):
            parts.recover(now)
        if self._purge.due(ticks):
            self._forget(planner, now)

    def _forget(self, planner: Planner, now: datetime) -> None:
        """Forget what is of no use any more."""
        catalog, before, month = self._parts.catalog, now - KEPT, now - timedelta(days=30)
        catalog.runs.purge(before)
        catalog.alerts.purge(before)
        catalog.verifications.purge(before)
        catalog.drills.purge(before)
        catalog.outbox.purge(month)
        catalog.queue.purge(month)
        catalog.plans.purge(before, planner.names | promised_names(self._parts.state.policies or ()))
        for name, at in catalog.heartbeats.all().items():
            if now - at > _DEAD:
                catalog.heartbeats.forget(name)


def run(loop: Loop, parts: Parts, signals: Signals, options: Options) -> None:
    """Go round until somebody asks for an end, and end in order."""
    while not signals.stop:
        woken = _wait(signals, parts, 1.0)
        if signals.stop:  # before anything else: what ends now ends because of it
            break
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
    jobs = workers.busy if workers else 0
    parts.systemd.stopping(f"ending; {jobs} jobs are still at work")
    parts.log.info("ending", jobs=jobs)
    if workers is None:
        return
    workers.draining = True
    begun, asked = parts.ticks(), signals.stop
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
