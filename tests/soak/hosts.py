"""The daemons of the simulated month: the program's own parts, put together as `backupd.daemon.assembly` does, over a world."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from backupd.catalog.opening import Catalog, open_catalog
from backupd.catalog.queue import JobSpec
from backupd.daemon import postman as postman_module
from backupd.daemon.assembly import _adopted, _bury, _named, _statuses
from backupd.daemon.books import Books
from backupd.daemon.drills import has_snapshot
from backupd.daemon.inforce import InForce, take
from backupd.daemon.options import Options
from backupd.daemon.planner import Planner
from backupd.daemon.postman import Postman
from backupd.daemon.recovery import Recovery
from backupd.daemon.service import Every, Loop, Parts, State
from backupd.daemon.steward import Steward
from backupd.daemon.systemd import Systemd
from backupd.daemon.timetable import Task
from backupd.daemon.workers import LEASE, Command, Workers
from backupd.errors import BackupdError, UsageError
from tests.soak.world import Died, Doorbell, Job, World, make_frail

DYING, BUSY = 4e-5, 2e-4
"""Of each call to the catalog, the probability that the daemon dies there, and that it is told to try again."""


PLAN, LOOK = 250.0, 900.0
"""Seconds between two looks at what is due, and at what is promised: a real daemon's are shorter, and make a month take a day.

With the month's steps of 45 and 125 seconds the first is never more than 270: a run that must not be caught up with is still
prompt after five minutes.
"""


class _Patient(Every):
    """Not sooner when a job has ended."""

    def due(self, ticks: float, *, now: bool = False) -> bool:
        return super().due(ticks)


@dataclass
class Log:
    """Keeps what the checks want to know, and counts the rest."""

    world: World
    planned: list[tuple[str, datetime]] = field(default_factory=list)
    robbed: Callable[[str], bool] = field(default=lambda _worker: False)

    def info(self, event: str, **facts: Any) -> None:
        if event == "planned":
            self.planned.append((facts["job"], self.world.now()))

    def warning(self, event: str, **facts: Any) -> None:
        if event == "a worker is gone":
            self.world.count("jobs taken from workers that were gone")
            if self.robbed(facts["worker"]):
                self.world.robbed(
                    f"{facts['job']} was taken from {facts['worker']}, which lives, at {self.world.now()}"
                )

    def error(self, event: str, **facts: Any) -> None:
        self.world.count(event)


class Host:
    """A daemon that can die and be started again.

    Args:
        name: of the machine.
        roles, slots: as of the daemon's options.
        folder: with the policies, the state folder and the catalog.
        world, log: around it.
    """

    policies: InForce | None = None

    def __init__(self, name: str, roles: frozenset[str], slots: int, folder: Path, world: World, log: Log) -> None:
        self.name, self.world, self.log, self._folder = name, world, log, folder
        self.options = Options(roles, folder / "policies", folder / name, slots=slots)
        self._place = folder / "catalog.sqlite"
        self.starts_at = 0.0
        self.stopped_until = 0.0
        self.catalog: Catalog | None = None
        self.postman: Postman | None = None
        self.starts = 0
        self.last_step = 0.0
        self.looked = False
        self.looks: list[datetime] = []

    @property
    def up(self) -> bool:
        """Whether there is a process."""
        return self.catalog is not None

    @property
    def worker(self) -> str:
        """The name of its worker: of this process, and of no other."""
        return f"{self.name}:{self.starts}"

    @property
    def stalled(self) -> bool:
        """Whether it was stopped, and will go on."""
        return self.world.ticks < self.stopped_until

    def start(self) -> None:
        """A new process."""
        self.starts += 1
        self.catalog = open_catalog(self._place)
        try:
            self._build(self.catalog)
        except Died:
            self.die()
        except (
            BackupdError
        ):  # the catalog said "try again" too early: it ends with an error, and systemd starts it again
            self.die()

    def _build(self, catalog: Catalog) -> None:
        world = self.world
        make_frail(catalog, world, DYING, BUSY)
        if self.starts > 1:
            before = dict.fromkeys(self.options.roles, f"{self.name}:{self.starts - 1}")
            _bury(catalog, before, world.now(), self.log)  # type: ignore[arg-type]
        state = State(last_step=world.ticks)
        self.state = state
        parts = Parts(catalog, world.now, lambda: world.ticks, self.log, Systemd(), state)  # type: ignore[arg-type]
        named = lambda name: _named(state, name)  # noqa: E731
        self.postman = Postman(catalog, named, world.now, self.log, self._open)  # type: ignore[arg-type]
        steward = None
        if "scheduler" in self.options.roles:
            steward = Steward(
                catalog, lambda policies, now: _statuses(catalog, policies, now), self.postman.teller.tell
            )
            parts.planner = self._planner(catalog)
            parts.look = self._looking(steward)
        books = Books(catalog, named, self.postman.teller.tell, lambda: state.draining)
        if "scheduler" in self.options.roles:
            parts.recover = Recovery(catalog, books.lost, self.log).look  # type: ignore[arg-type]
        parts.workers = Workers(
            self.worker,
            self.options.slots,
            catalog.queue,
            self._command,
            self._spawn,
            books,
            self.log,
            parts.ticks,  # type: ignore[arg-type]
        )
        parts.name = self.worker

        def adopted(found: InForce) -> None:
            _adopted(catalog, steward, parts.clock, found)

        parts.adopted = adopted
        self.parts = parts
        self.loop = Loop(self.options, parts)
        self.loop._plan, self.loop._look = Every(PLAN), _Patient(LOOK)
        if Host.policies is None:
            Host.policies = take(self.options.policies, self.options.state / "kept")
        self.loop._adopt(Host.policies)  # as `load` does, without reading twenty files again at every start

    def _looking(self, steward: Steward) -> Callable[[InForce, datetime], str]:
        def look(policies: InForce, now: datetime) -> str:
            said = steward.look(policies, now)
            self.looked = True
            return said

        return look

    def _planner(self, catalog: Catalog) -> Planner:
        looks, world = self.looks, self.world

        class Watched(Planner):
            def plan(self, now: datetime) -> list[JobSpec]:
                found = super().plan(now)
                looks.append(world.now())
                return found

        def ready(task: Task) -> bool:
            if has_snapshot(catalog, task):
                return True
            world.waiting[task.name] = world.now()
            return False

        return Watched(catalog.queue, catalog.plans, ready)

    def _command(self, spec: JobSpec) -> Any:
        if _named(self.state, spec.policy) is None:
            raise UsageError(f"there is no policy {spec.policy!r} any more")
        return spec

    def _spawn(self, spec: JobSpec | Command) -> Job:
        assert isinstance(spec, JobSpec)
        policy = _named(self.state, spec.policy)
        assert policy is not None
        return Job(self.world, policy, spec, lambda: open_catalog(self._place), self)

    def _open(self, name: str, model: Any, _resolve: object) -> Doorbell:
        return Doorbell(self.world, name, "ping" if model.ping else "webhook")

    def step(self, *, woken: bool = False) -> None:
        """One round, if there is a process that goes on; it may die in it."""
        if self.stalled:
            return
        for job in self.world.alive():
            if job.owner is self and not job.deaf:  # a deaf one lives on until the worker that came back kills it
                job.stalled_owner = False
        if not self.up:
            if self.world.ticks >= self.starts_at:
                self.start()
            return
        try:
            self.loop.step(woken=woken)
            self.last_step = self.world.ticks
            if "scheduler" in self.options.roles and self.postman is not None:
                self.postman.round()
        except Died:
            self.die()
        except BackupdError:  # the postman's thread would try again at its next look
            pass

    def stop_for(self, seconds: float) -> None:
        """Everything of it stands still, but its jobs' processes."""
        self.stopped_until = self.world.ticks + seconds
        for job in self.world.alive():
            if job.owner is self:
                job.stalled_owner = True

    def die(self) -> None:
        """Killed, with its jobs; the service manager starts it again."""
        assert self.catalog is not None
        self.world.count("daemons that died")
        for job in list(self.world.alive()):
            if job.owner is self:
                job.die()
        self.catalog.close()
        self.catalog, self.postman = None, None
        chance: random.Random = self.world.chance
        self.starts_at = self.world.ticks + chance.choice([1, 1, 5, 5, 30, 300, 3600, 3 * 3600])

    def owns(self, worker: str) -> bool:
        """Whether that worker is this process, at work."""
        return self.up and not self.stalled and worker == self.worker and self.world.ticks - self.last_step < LEASE / 2


postman_module.random = random.Random(1)  # type: ignore[assignment]  # its waits are spread by chance: the same for each seed
