"""Which snapshots stay and which go, and why: a pure function of what there is, a rule and the time.

Only the storage's own time counts: a host whose clock is wrong, or that lies, cannot push its good snapshots out of a
bucket. Two sources never share one. What a person holds, what proved itself in a drill and what the rule's floors protect
stays whatever the buckets say.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

FUTURE = timedelta(hours=1)
"""A snapshot that was stored later than this after now is kept, and takes nobody's place."""
NO_RULE = "no rule keeps it"


@dataclass(frozen=True, slots=True)
class Rule:
    """What to keep of each source.

    Attributes:
        last, hourly, daily, weekly, monthly, yearly: of so many (hours, days, ...) that have one, the newest snapshot of each.
        within: everything at most this much older than the newest.
        min_keep: never fewer than these newest ones.
        min_age: nothing younger goes.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    min_keep: int = 1
    min_age: timedelta = timedelta(0)

    @property
    def empty(self) -> bool:
        """Whether it says nothing of what to keep."""
        return not self.within and not any(getattr(self, name) for name in BUCKETS)

    def __str__(self) -> str:
        """As `prune` records it."""
        counts = [f"{name} {getattr(self, name)}" for name in BUCKETS if getattr(self, name)]
        if self.within:
            counts.append(f"within {int(self.within.total_seconds())} s")
        if self.min_age:
            counts.append(f"at least {int(self.min_age.total_seconds())} s old")
        return ", ".join([*counts, f"at least {self.min_keep}"])


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot as a rule sees it.

    Attributes:
        id: the snapshot's.
        source: the source's whole identity, writer and name.
        stored_at: when the storage says that it was made.
        order: breaks ties; greater is newer.
        holds: reasons for which people keep it.
        drilled: whether a restore of it was proven to work.
        checkpoint: of a first run that is not finished.
        pinned: another reason to keep it, or None.
        counts: whether its time can be believed; if not, it fills no bucket and takes nobody's place.
        brake: why pruning of its source is paused, or None.
    """

    id: str
    source: tuple[str, ...]
    stored_at: datetime
    order: int = 0
    holds: tuple[str, ...] = ()
    drilled: bool = False
    checkpoint: bool = False
    pinned: str | None = None
    counts: bool = True
    brake: str | None = None


@dataclass(slots=True)
class Verdict:
    """What becomes of a snapshot, and why."""

    snapshot: Candidate
    reasons: list[str] = field(default_factory=list)

    @property
    def keep(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


def _hour(t: datetime) -> str:
    return t.strftime("%Y-%m-%d %H:00 %z")  # the offset: an hour that comes twice in autumn is two


def _day(t: datetime) -> str:
    return t.strftime("%Y-%m-%d")


def _week(t: datetime) -> str:
    year, week, _ = t.isocalendar()
    return f"{year}-W{week:02d}"


def _month(t: datetime) -> str:
    return t.strftime("%Y-%m")


def _year(t: datetime) -> str:
    return t.strftime("%Y")


BUCKETS: Mapping[str, Callable[[datetime], str] | None] = {
    "last": None,
    "hourly": _hour,
    "daily": _day,
    "weekly": _week,
    "monthly": _month,
    "yearly": _year,
}


def plan(snapshots: Iterable[Candidate], rule: Rule, now: datetime, zone: tzinfo = UTC) -> list[Verdict]:
    """What to keep and why; what has no reason is to be forgotten.

    Args:
        snapshots: of any number of sources.
        rule: an empty one keeps everything.
        now: the storage's time, aware.
        zone: in which hours, days and years begin.

    Returns:
        A verdict for each snapshot, by source, the newest first. The same for any order of `snapshots`.
    """
    sources: dict[tuple[str, ...], list[Candidate]] = {}
    for snapshot in snapshots:
        sources.setdefault(snapshot.source, []).append(snapshot)
    verdicts: list[Verdict] = []
    for source in sorted(sources):
        newest_first = sorted(sources[source], key=lambda s: (s.stored_at, s.order, s.id), reverse=True)
        verdicts += _of_source([Verdict(s) for s in newest_first], rule, now, zone)
    return verdicts


def _of_source(verdicts: list[Verdict], rule: Rule, now: datetime, zone: tzinfo) -> list[Verdict]:
    timely = [v for v in verdicts if v.snapshot.counts and v.snapshot.stored_at <= now + FUTURE]
    whole = [v for v in timely if not v.snapshot.checkpoint]
    if rule.empty:
        _give(verdicts, "the rule is empty")
    for name, label in BUCKETS.items():
        _fill(whole, getattr(rule, name), name, label, zone)
    if rule.within and whole:
        since = whole[0].snapshot.stored_at - rule.within
        _give([v for v in whole if v.snapshot.stored_at >= since], "within")
    _give([v for v in verdicts if v.snapshot.stored_at > now + FUTURE], "it is from the future")
    if rule.min_age:
        _give([v for v in verdicts if now - v.snapshot.stored_at < rule.min_age], "younger than the least age")
    _give([v for v in verdicts if v.snapshot.drilled][:1], "the newest that a drill proved")
    for verdict in verdicts:
        verdict.reasons += [f"held: {reason}" for reason in verdict.snapshot.holds]
        if verdict.snapshot.pinned:
            verdict.reasons.append(verdict.snapshot.pinned)
        if verdict.snapshot.brake:
            verdict.reasons.append(f"the brake is set: {verdict.snapshot.brake}")
    _keep_checkpoints(timely)
    missing = rule.min_keep - sum(v.keep for v in whole)
    _give([v for v in whole if not v.keep][: max(0, missing)], f"one of the {rule.min_keep} that always stay")
    return verdicts


def _give(verdicts: Sequence[Verdict], reason: str) -> None:
    for verdict in verdicts:
        verdict.reasons.append(reason)


def _fill(
    verdicts: Sequence[Verdict], count: int, name: str, label: Callable[[datetime], str] | None, zone: tzinfo
) -> None:
    """Give a reason to the newest snapshot of each of the newest `count` buckets that have one."""
    if label is None:
        _give(verdicts[:count], name)
        return
    filled: set[str] = set()
    for verdict in verdicts:
        if len(filled) >= count:
            return
        bucket = label(verdict.snapshot.stored_at.astimezone(zone))
        if bucket not in filled:
            filled.add(bucket)
            verdict.reasons.append(f"{name} {bucket}")


def _keep_checkpoints(verdicts: Sequence[Verdict]) -> None:
    """A checkpoint stays until a whole snapshot comes after it."""
    for verdict in verdicts:
        if not verdict.snapshot.checkpoint:
            return
        verdict.reasons.append("a checkpoint of a run that is not finished")
