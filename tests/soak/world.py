"""What is simulated around the daemon: time, repositories, jobs' processes, notifiers, a catalog that fails, and death.

Everything random comes from one generator, so that a seed gives the same month again.
"""

import random
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from backupd.catalog.opening import Catalog
from backupd.catalog.queue import JobSpec
from backupd.catalog.snapshots import Snapshot
from backupd.config.clock import stamp
from backupd.config.policies import repository_of
from backupd.daemon.child import Ended
from backupd.errors import Exit, TryAgain
from backupd.jobs.cataloging import Look, note
from backupd.notify.base import Notice, NotifyLater, NotifyRefused
from backupd.policy.model import Policy

BEGIN = datetime(2026, 10, 12, 9, 0, tzinfo=UTC)
"""A month with a clock change in it: that of Berlin on the 25th of October."""

WRITER = "aa" * 16


class Died(BaseException):
    """The daemon was killed. Nothing of the program may catch it."""


@dataclass(slots=True)
class World:
    """Everything around the daemons.

    Attributes:
        ticks: seconds that have passed, while the machine was awake.
        ahead: by how much the wall clock is ahead of them.
        calm: whether nothing bad happens.
        jumped: when the wall clock was put forward last, or the machine woke up.
        waiting: of each task that could not be done for want of a snapshot, when that was seen last.
    """

    chance: random.Random
    ticks: float = 1000.0
    ahead: timedelta = timedelta(0)
    calm: bool = False
    jumped: float = -1e9
    repositories: dict[str, "Storage"] = field(default_factory=dict)
    children: list["Job"] = field(default_factory=list)
    broken_notifiers: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, datetime] = field(default_factory=dict)
    delivered: int = 0
    wrong: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def now(self) -> datetime:
        """What the wall clock shows."""
        return BEGIN + timedelta(seconds=self.ticks) + self.ahead

    def count(self, what: str, n: int = 1) -> None:
        """For the figures."""
        self.counts[what] = self.counts.get(what, 0) + n

    def happens(self, probability: float) -> bool:
        """Whether something bad happens."""
        return not self.calm and self.chance.random() < probability

    def robbed(self, what: str) -> None:
        """A living worker lost its job: right after the clock was put forward that is known to happen, and only then."""
        if self.ticks - self.jumped < 300:
            self.count("jobs taken from living workers, or run beside them, after the clock was put forward")
        else:
            self.wrong.append(what)

    def storage(self, policy: Policy) -> "Storage":
        """Where its snapshots go."""
        place = str(repository_of(policy))
        return self.repositories.setdefault(place, Storage(place, secrets.token_hex(32)))

    def alive(self) -> Iterator["Job"]:
        """The processes that there are."""
        self.children = [job for job in self.children if not job.over]
        return iter(self.children)


@dataclass(slots=True)
class Storage:
    """A repository.

    Attributes:
        snapshots: those published, by id.
        trouble: the exit code of whatever is tried until `until`.
        damaged: until then a verification finds something.
    """

    place: str
    id: str
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    pruned: set[str] = field(default_factory=set)
    trouble: Exit | None = None
    until: float = 0.0
    damaged: float = 0.0
    seq: int = 0

    def publish(self, source: str, world: World) -> Snapshot:
        """A snapshot is there."""
        self.seq += 1
        now = world.now()
        made = Snapshot(
            self.id, WRITER, source, self.seq, f"{self.seq:064x}", now, now, "snapshot", 1, 1000, 10, (), None, now
        )
        self.snapshots[made.id] = made
        world.count("snapshots published")
        return made


class Job:
    """A job's process; implements `Child`."""

    _pids = 1000

    def __init__(
        self, world: World, policy: Policy, spec: JobSpec, catalog: Callable[[], Catalog], owner: object
    ) -> None:
        Job._pids += 1
        self.pid, self.messages = Job._pids, None
        self.policy, self.spec, self.owner, self._world, self._catalog = policy, spec, owner, world, catalog
        self.over = self.closed = self.stalled_owner = False
        self._end: Ended | None = None
        chance, storage = world.chance, world.storage(policy)
        self._storage, self._began = storage, world.now()
        self._takes = chance.choice([8, 20, 40, 60, 90]) if not world.happens(0.02) else chance.uniform(600, 7200)
        self._fate = "done"
        if storage.trouble is not None and world.ticks < storage.until and not world.calm:
            self._fate, self._takes = "trouble", 30
        elif world.happens(0.03):
            self._fate = chance.choice(["fail", "fail", "killed", "hang", "unreachable", "incomplete"])
        self._ends = world.ticks + self._takes
        self._check_alone()
        world.children.append(self)

    def _check_alone(self) -> None:
        for other in self._world.alive():
            same = (other.spec.kind, other.spec.source, other._storage) == (
                self.spec.kind,
                self.spec.source,
                self._storage,
            )
            if same and other.stalled_owner:
                self._world.count("runs beside one whose worker is stopped")
            elif same:
                self._world.robbed(f"{self.spec.key} begins beside {other.spec.key}, at {self._world.now()}")

    @property
    def deaf(self) -> bool:
        """Whether it does not end when it is asked to."""
        return self._fate == "hang"

    def read_messages(self) -> list[str]:
        return []

    def ended(self) -> Ended | None:
        if self._end is None and self._world.ticks >= self._ends and self._fate != "hang":
            self._end, self.over = self._finish(), True
        return self._end

    def _finish(self) -> Ended:
        codes = {"fail": 1, "killed": 137, "unreachable": 14, "incomplete": 3}
        if self._fate in codes:
            return _failed(codes[self._fate])
        if self._fate == "trouble":
            return _failed(int(self._storage.trouble or Exit.TRY_AGAIN))
        self._world.count(f"{self.spec.kind} processes that did their work")
        if self.spec.kind == "verify" and self._world.ticks < self._storage.damaged and not self._world.calm:
            self._world.count("verifications that found damage")
            return Ended(4, {"error": {"code": "integrity", "exit": 4, "message": "simulated"}, "problems": [{}]})
        if self.spec.kind == "drill":
            return self._drill()
        return Ended(0, {"ok": True, "seconds": self._takes, **getattr(self, f"_{self.spec.kind}")()})

    def _run(self) -> dict[str, Any]:
        made = self._storage.publish(self.spec.source or "", self._world)
        assert made.taken_at is not None
        told = {
            "snapshot": made.id,
            "source": made.source,
            "writer": WRITER,
            "seq": made.seq,
            "repository": self._storage.id,
        }
        sizes = {"read_bytes": 1000, "stored_bytes": 10, "rows": 1, "warnings": [], "brake": []}
        return {**told, **sizes, "taken_at": stamp(made.taken_at)}

    def _drill(self) -> Ended:
        """Of the newest snapshot: mostly it passes; else the storage is damaged, an assertion fails, or it took too long."""
        source, bad, code = self.spec.source or "", "", 0
        newest = max((one for one in self._storage.snapshots.values() if one.source == source), key=lambda s: s.seq)
        if self._world.ticks < self._storage.damaged and not self._world.calm:
            bad, code = "restore", 4
        elif self._world.happens(0.03):
            bad, code = self._world.chance.choice([("assert: balances", 1), ("rto", 5)])
        if bad:
            self._world.count(f"drills that did not pass: {bad}")
        checks = [{"name": n, "passed": n != bad} for n in ("restore", "tables", "assert: balances", "rto")]
        told = {"source": source, "snapshot": newest.id, "passed": not bad, "checks": checks}
        return Ended(code, {"ok": not bad, **told, "restore_seconds": self._takes, "seconds": self._takes})

    def _verify(self) -> dict[str, Any]:
        return {"problems": []}

    def _prune(self) -> dict[str, Any]:
        by_source: dict[str, list[Snapshot]] = {}
        for snapshot in self._storage.snapshots.values():
            by_source.setdefault(snapshot.source, []).append(snapshot)
        gone = [one.id for every in by_source.values() for one in sorted(every, key=lambda s: s.seq)[:-20]]
        for each in gone:
            del self._storage.snapshots[each]
            self._storage.pruned.add(each)
        return {"forget": [{"snapshot": each} for each in gone]}

    def _refresh(self) -> dict[str, Any]:
        storage = self._storage
        seen = Look(
            list(storage.snapshots.values()),
            frozenset(storage.pruned),
            shut=frozenset(),
            brakes=(),
            problems=(),
            size=10,
        )
        began = min(self._began, self._world.now())
        with self._catalog() as catalog:
            note(catalog, self.policy.policy, storage.place, storage.id, seen, began)
        return {}

    def stop(self, *, hard: bool = False) -> None:
        if self._end is None and (hard or self._fate != "hang"):
            self._end, self.over = _failed(137 if hard else 143), True

    def die(self) -> None:
        """Its daemon is gone, and the kernel has asked it to end; it may just have published."""
        if not self.over and self.spec.kind == "run" and self._fate == "done" and self._world.happens(0.1):
            self._storage.publish(self.spec.source or "", self._world)
            self._world.count("snapshots that nobody was told of")
        self.over = self.closed = True

    def close(self) -> list[str]:
        self.over = self.closed = True
        return []


def _failed(code: int) -> Ended:
    return Ended(code, {"error": {"code": "simulated", "exit": code, "message": "it was simulated to fail"}})


@dataclass(slots=True)
class Doorbell:
    """A notifier."""

    world: World
    name: str
    kind: str

    def send(self, notice: Notice) -> None:
        """Delivered, unless the notifier is broken now."""
        if self.world.ticks < self.world.broken_notifiers.get(self.name, 0.0) and not self.world.calm:
            if self.world.chance.random() < 0.9:
                raise NotifyLater("too many at once", retry=True)
            raise NotifyRefused("it said no", retry=False)
        self.world.delivered += 1

    def preview(self, notice: Notice) -> str:
        return notice.title

    def close(self) -> None:
        pass


class Frail:
    """A part of the catalog that sometimes answers "try again", and before or after whose calls the daemon may die.

    Args:
        part: the real one.
        world: decides.
        dying: the probability of a death, of each call.
        busy: and of the answer "try again".
    """

    def __init__(self, part: Any, world: World, dying: float, busy: float) -> None:
        self._part, self._world, self._dying, self._busy = part, world, dying, busy

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        return self._frail(found) if callable(found) else found

    def _frail(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **words: Any) -> Any:
            world = self._world
            if world.happens(self._busy):
                world.count("times the catalog said: try again")
                raise TryAgain("another process kept the catalog locked for too long")
            if world.happens(self._dying / 2):
                raise Died
            answer = call(*args, **words)
            if world.happens(self._dying / 2):
                raise Died
            return answer

        return called


PARTS = (
    "queue",
    "runs",
    "snapshots",
    "verifications",
    "drills",
    "alerts",
    "outbox",
    "heartbeats",
    "plans",
    "repositories",
    "audit",
)


def make_frail(catalog: Catalog, world: World, dying: float, busy: float) -> None:
    """Have a catalog's parts fail."""
    for part in PARTS:
        setattr(catalog, part, Frail(getattr(catalog, part), world, dying, busy))
