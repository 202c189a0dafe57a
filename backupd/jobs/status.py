"""Where things stand: of each source how old its newest good snapshot is, beside what was promised.

What cannot be seen is never called well. A function of what is known: statusread.py learns it from a repository, standings.py
from the catalog. Nothing of repositories and keys is imported here: `status` by the catalog needs none of it, and is asked often.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from backupd.config.clock import stamp
from backupd.policy.model import Policy
from backupd.policy.proving import OVERDUE
from backupd.policy.words import written

DAYS = 30
_LATE = timedelta(hours=1)
"""After a run was due, and its jitter, so long is waited for it where the policy does not say how long a run may take."""


class Level(IntEnum):
    """How bad it is."""

    OK = 0
    WARN = 1
    BREACH = 2

    @property
    def word(self) -> str:
        """As the contract writes it."""
        return self.name.lower()


@dataclass(slots=True)
class SourceStatus:
    """One source.

    Attributes:
        policy: its policy's name, or None if none speaks of it.
        rpo: what was promised.
        last_good: when its newest snapshot was taken.
        due: when the newest run that should be done by now was due.
        next_run: when the next one is.
        oldest: when its oldest snapshot was taken.
        drilled_at: when a drill proved a restore.
        drill_overdue: the policy promises drills, and the last one that passed is too long ago, or never was though there was
            time enough.
        strip: of the last days, oldest first, how many snapshots each has.
        why: what is wrong, the worst first.
        levels: how bad each of that is.
        brakes: for what pruning of it is paused, after a sudden change.
    """

    name: str
    policy: str | None = None
    rpo: timedelta | None = None
    last_good: datetime | None = None
    due: datetime | None = None
    next_run: datetime | None = None
    drilled_at: datetime | None = None
    oldest: datetime | None = None
    drill_overdue: bool = False
    strip: list[int] = field(default_factory=lambda: [0] * DAYS)
    level: Level = Level.OK
    why: list[str] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    brakes: list["Braked"] = field(default_factory=list)
    locked_until: datetime | None = None
    incidents: list["Troubled"] = field(default_factory=list)

    def used(self, now: datetime) -> float | None:
        """The share of the promised time that has passed; more than 1 is a breach."""
        if self.rpo is None or self.last_good is None:
            return None
        return max(0.0, (now - self.last_good) / self.rpo)

    def worse(self, level: Level, why: str) -> None:
        """Something is wrong; behind what is as bad and was said before."""
        self.level = max(self.level, level)
        place = sum(known >= level for known in self.levels)
        self.levels.insert(place, level)
        self.why.insert(place, why)

    def as_json(self, now: datetime) -> dict[str, Any]:
        """As the contract's document of `status` has it, and more."""
        used = self.used(now)
        return {
            "name": self.name,
            "policy": self.policy,
            "verdict": self.level.word,
            "rpo_seconds": int(self.rpo.total_seconds()) if self.rpo else None,
            "rpo_used": round(used, 4) if used is not None else None,
            "last_good": stamp(self.last_good) if self.last_good else None,
            "next_run": stamp(self.next_run) if self.next_run else None,
            "drilled_at": stamp(self.drilled_at) if self.drilled_at else None,
            "locked_until": stamp(self.locked_until) if self.locked_until else None,
            "days": self.strip,
            "brake": self.brakes[0].since if self.brakes else None,
            "incidents": [{"id": i.id, "since": i.since, "message": i.message} for i in self.incidents],
            "why": self.why,
        }


def unseen(policy: Policy, why: str) -> list[SourceStatus]:
    """The sources of a policy whose repository cannot be looked at: nothing is known to be well."""
    found = [SourceStatus(source.name, policy.policy, policy.objectives.rpo) for source in policy.sources]
    for status in found:
        status.worse(Level.BREACH, f"cannot be seen: {why}")
    return found


@dataclass(slots=True)
class Known:
    """What is known of the snapshots of one source.

    Attributes:
        newest, oldest: when these were taken.
        drilled_at: when a drill proved a restore of one.
        drill_failed: when a drill last did not pass.
        strip: of the last days, oldest first, how many each has.
    """

    newest: datetime | None = None
    oldest: datetime | None = None
    drilled_at: datetime | None = None
    drill_failed: datetime | None = None
    strip: list[int] = field(default_factory=lambda: [0] * DAYS)


@dataclass(frozen=True, slots=True)
class Braked:
    """Pruning of a source is paused, since when and why."""

    source: str
    since: str
    reason: str


@dataclass(frozen=True, slots=True)
class Troubled:
    """An incident that nobody has closed: since when, and what people are told of it."""

    id: str
    sources: tuple[str, ...]
    since: str
    message: str


def tell_incidents(sources: Iterable[SourceStatus], found: Sequence[Troubled]) -> None:
    """Say of each source which incidents are open."""
    for status in sources:
        for one in found:
            if status.name in one.sources:
                status.incidents.append(one)
                status.worse(Level.WARN, f"incident {one.id[:8]} is open since {one.since}: {one.message}")


def of_known(policy: Policy, known: Mapping[str, Known], brakes: Sequence[Braked], now: datetime) -> list[SourceStatus]:
    """The sources of a policy, by what is known of their snapshots."""
    found = []
    for name in _names(policy, known):
        status = SourceStatus(name, policy.policy, policy.objectives.rpo)
        fill(status, known, brakes)
        _schedule(status, policy, now)
        _judge(status, now)
        if policy.drill:
            _judge_drills(status, policy.drill.every, now)
        tell_drill(status, known, now)
        tell_brake(status)
        found.append(status)
    return found


def _names(policy: Policy, known: Iterable[str]) -> list[str]:
    """The policy's sources; in place of one that stands for all databases of a server those that have snapshots."""
    found = []
    for source in policy.sources:
        seen = sorted(name for name in known if source.covers(name)) if source.all_databases else []
        found += seen or [source.name]
    return found


def fill(status: SourceStatus, known: Mapping[str, Known], brakes: Sequence[Braked]) -> None:
    """Say of a source what is known of it."""
    mine = known.get(status.name, Known())
    status.last_good, status.oldest, status.strip = mine.newest, mine.oldest, list(mine.strip)
    status.drilled_at = mine.drilled_at
    status.brakes = [brake for brake in brakes if brake.source == status.name]


def tell_brake(status: SourceStatus) -> None:
    """A pause of pruning waits for a person."""
    for brake in status.brakes:
        status.worse(Level.WARN, f"the brake is set since {brake.since}: {brake.reason}")


def _schedule(status: SourceStatus, policy: Policy, now: datetime) -> None:
    """When a run is due next, and when the last one was that should be done."""
    schedule = policy.schedule
    if schedule is None:
        return
    timing = policy.timing(status.name)
    status.next_run = timing.next_start(now)
    done_by = now - schedule.jitter - (schedule.max_duration or _LATE)
    newest = timing.newest(done_by)
    status.due = newest.at if newest else None


def _judge(status: SourceStatus, now: datetime) -> None:
    if status.last_good is None:
        status.worse(Level.BREACH, "there is no snapshot of it")
    elif (used := status.used(now)) is not None and used > 1:
        assert status.rpo is not None
        status.worse(
            Level.BREACH,
            f"its newest snapshot is {age(now - status.last_good)} old, promised are {written(status.rpo)}",
        )
    elif status.last_good > now + _LATE:
        status.worse(Level.WARN, "its newest snapshot is from the future: a clock is wrong")
    if status.last_good and status.due and status.last_good < status.due:
        status.worse(Level.WARN, f"the run of {stamp(status.due)} has left no snapshot")


def _judge_drills(status: SourceStatus, every: timedelta, now: datetime) -> None:
    """Of what was never drilled the time counts from its oldest snapshot: before there is one, nothing can be drilled."""
    since = status.drilled_at or status.oldest
    status.drill_overdue = since is not None and now - since > every * OVERDUE
    promised = f", promised every {written(every)}" if status.drill_overdue else ""
    level = Level.BREACH if status.drill_overdue else Level.WARN
    if status.drilled_at is None:
        status.worse(level, f"no drill has proven a restore yet{promised}")
    elif status.drill_overdue:
        status.worse(level, f"the last drill was {age(now - status.drilled_at)} ago{promised}")


def tell_drill(status: SourceStatus, known: Mapping[str, Known], now: datetime) -> None:
    """A restore that was tried and is not as it must be: nobody can say that the source comes back."""
    failed = known.get(status.name, Known()).drill_failed
    if failed is not None and (status.drilled_at is None or failed > status.drilled_at):
        status.worse(Level.BREACH, f"its newest drill, {age(now - failed)} ago, did not pass")


def age(length: timedelta) -> str:
    """A length of time for people."""
    minutes = int(length.total_seconds()) // 60
    if minutes < 0:
        return "less than nothing"
    if minutes == 0:
        return "a minute"
    if minutes < 120:
        return f"{minutes} minutes" if minutes != 1 else "a minute"
    hours = minutes // 60
    return f"{hours} hours" if hours < 72 else f"{hours // 24} days"


def sentence(sources: Sequence[SourceStatus], now: datetime) -> str:
    """Everything in one sentence; while an incident is open, in another one what is told of it."""
    base = _sentence(sources, now)
    told = {one.id: (one, status.name) for status in sources for one in status.incidents}
    said = [f"Incident {one.id[:8]} ({name}): {one.message}." for one, name in list(told.values())[:1]]
    said = [sentence for sentence in said if sentence.split()[1] not in base]
    said += [f"{len(told) - 1} more incidents are open."] if len(told) > 1 else []
    return " ".join([base, *said])


def _sentence(sources: Sequence[SourceStatus], now: datetime) -> str:
    if not sources:
        return "Nothing is protected: no policy names a source, and there is no snapshot."
    bad = [s for s in sources if s.level is Level.BREACH]
    so_so = [s for s in sources if s.level is Level.WARN]
    many = f"{len(sources)} source" + ("s" if len(sources) > 1 else "")
    if bad:
        verb = "is" if len(bad) == 1 else "are"
        return f"{len(bad)} of {many} {verb} not protected as promised: {bad[0].name}: {bad[0].why[0]}."
    if so_so:
        verb = "needs" if len(so_so) == 1 else "need"
        return f"{len(so_so)} of {many} {verb} a look: {so_so[0].name}: {so_so[0].why[0]}."
    oldest = max((now - s.last_good for s in sources if s.last_good), default=timedelta(0))
    return f"All is well: {many}, and no newest snapshot is older than {age(oldest)}."


def worst_first(sources: Iterable[SourceStatus], now: datetime) -> list[SourceStatus]:
    """In the order in which they are to be looked at."""
    return sorted(sources, key=lambda s: (-s.level, -(s.used(now) or 0), s.name))
