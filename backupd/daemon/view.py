"""Makes the overview: from the catalog, the policies in force and the state of the loop. Called by the web server's threads."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from backupd.catalog.opening import Catalog
from backupd.catalog.repositories import Incident
from backupd.catalog.runs import Run
from backupd.catalog.totals import DURATION_BOUNDS
from backupd.config.policies import repository_of
from backupd.config.version import VERSION
from backupd.daemon.commands import can
from backupd.daemon.overview import (
    AlertView,
    BrakeView,
    DayState,
    DayView,
    Health,
    NotificationTotals,
    Overview,
    QueueView,
    RepositoryView,
    RunningView,
    RunTotals,
    RunView,
    SourceView,
    VerificationView,
    WorkerView,
)
from backupd.daemon.service import State
from backupd.daemon.wording import quoted
from backupd.jobs.standings import Standings
from backupd.jobs.status import DAYS, Level, SourceStatus, sentence, worst_first
from backupd.policy.model import Policy
from backupd.policy.schedule import Timing

_STALE = timedelta(minutes=3)
_GONE = timedelta(days=1)
"""A worker that was not heard of for so long is no worker any more: each start of a daemon is one of its own."""
_SPARKS = 14
_RECENT = 25
STALLED = 120.0
"""Seconds without a round after which the loop is not alive."""


@dataclass(slots=True)
class Viewer:
    """Makes overviews.

    Attributes:
        catalog: read by the threads of the web server.
        state: of the loop.
        clock, ticks: the time, and a clock that nobody puts forward or back.
    """

    catalog: Catalog
    state: State
    clock: Callable[[], datetime]
    ticks: Callable[[], float]

    def health(self) -> Health:
        """Whether the daemon itself works."""
        state = self.state
        if state.policies is None:
            return Health(alive=True, ready=False, word="starting")
        if self.ticks() - state.last_step > STALLED:
            return Health(alive=False, ready=False, word="stalled")
        if state.failing_since is not None:
            return Health(alive=True, ready=False, word="failing")
        return Health(alive=True, ready=not state.draining, word="draining" if state.draining else "ok")

    def overview(self) -> Overview:
        """Everything, at this moment."""
        now, state, catalog = self.clock(), self.state, self.catalog
        policies = list(state.policies or ())
        standings = Standings(catalog, now)
        statuses = worst_first([status for policy in policies for status in standings.of(policy)], now)
        worst = max((status.level for status in statuses), default=Level.WARN)
        alerts = standings.alerts
        return Overview(
            at=now,
            version=VERSION,
            verdict=worst.word,  # type: ignore[arg-type]  # the words of `Level` are those of the overview
            sentence=sentence(statuses, now),
            sources=self._sources(policies, standings, statuses, now),
            running=tuple(self._running()),
            queue=self._queue(now),
            workers=tuple(
                WorkerView(name, at, now - at > _STALE)
                for name, at in sorted(catalog.heartbeats.all().items())
                if now - at < _GONE
            ),
            brakes=tuple(_brakes(policies, standings)),
            alerts=tuple(AlertView(a.event, a.policy, a.source, a.opened, a.sentence) for a in alerts),
            notify_failing=any(alert.event == "notify_failed" for alert in alerts),
            verifications=tuple(_verifications(policies, standings)),
            repositories=tuple(_repositories(policies, standings)),
            recent=tuple(_recent(catalog.runs.list(limit=_RECENT))),
            totals=tuple(self._totals()),
            notifications=tuple(self._notifications()),
            state="draining" if state.draining else "reloading" if state.reloading else "running",
            incidents=_incidents(policies, standings),
        )

    # ---- sources

    def _sources(
        self, policies: Sequence[Policy], standings: Standings, statuses: Sequence[SourceStatus], now: datetime
    ) -> tuple[SourceView, ...]:
        by_name = {policy.policy: policy for policy in policies}
        runs = {(d.policy, d.source, d.day): (d.good, d.bad) for d in self.catalog.days(now - timedelta(days=DAYS))}
        sparks = self.catalog.runs.last(_SPARKS)
        planned = self.catalog.plans.planned()
        found = []
        for status in statuses:
            policy = by_name[status.policy or ""]
            place = (policy.policy, status.name)
            seen = standings.seen.get(policy.policy)
            restored = standings.drills.of(policy, status)
            stored = [run.end.stored_bytes or 0 for run in reversed(sparks.get(place, ())) if run.end]
            found.append(
                SourceView(
                    policy.policy,
                    status.name,
                    status.level.word,  # type: ignore[arg-type]  # as above
                    tuple(status.why),
                    _seconds(status.rpo),
                    status.used(now),
                    status.last_good,
                    _next_run(policy, status, planned, now),
                    policy.schedule.timezone if policy.schedule else "UTC",
                    status.drilled_at,
                    _seconds(policy.drill.every if policy.drill else None),
                    status.drill_overdue,
                    restored.failed_at,
                    restored.seconds,
                    _seconds(policy.objectives.rto),
                    seen.locked_until if seen else None,
                    _days(status, policy, runs, now),
                    tuple(stored),
                    standings.counts.get((seen.repository, status.name), 0) if seen else 0,
                )
            )
        return tuple(found)

    # ---- what goes on

    def _running(self) -> Iterator[RunningView]:
        for job in self.catalog.queue.list(["running"], limit=100):
            yield RunningView(job.spec.kind, job.spec.policy, job.spec.source or "", job.started or job.submitted)

    def _queue(self, now: datetime) -> QueueView:
        oldest = self.catalog.queue.oldest_due(now)
        counts = tuple((state, count) for state, count in self.catalog.queue.counts().items())
        return QueueView(counts, max(0.0, (now - oldest).total_seconds()) if oldest else 0.0)

    def _totals(self) -> Iterator[RunTotals]:
        groups: dict[tuple[str, str], RunTotals] = {}
        for total in self.catalog.totals(DURATION_BOUNDS):
            place = (total.policy, total.source)
            before = groups.get(place, RunTotals(*place))
            outcomes = dict(before.outcomes)
            outcomes[total.outcome] = outcomes.get(total.outcome, 0) + total.count
            durations = list(before.durations)
            durations[total.place] += total.count
            groups[place] = RunTotals(
                *place,
                tuple(outcomes.items()),
                before.read_bytes + total.read_bytes,
                before.stored_bytes + total.stored_bytes,
                tuple(durations),
                before.seconds + total.seconds,
            )
        yield from groups.values()

    def _notifications(self) -> Iterator[NotificationTotals]:
        for (notifier, outcome), count in self.catalog.outbox.counts().items():
            yield NotificationTotals(notifier, outcome or "waiting", count)


def _next_run(policy: Policy, status: SourceStatus, planned: Mapping[str, datetime], now: datetime) -> datetime | None:
    """When the source runs next; a time that has passed if a run is due that nobody has put into the queue."""
    timing = policy.timing(status.name)
    last = planned.get(timing.key)
    waiting = timing.due(last, now) if last is not None and can(policy, "run") else []
    return waiting[0].start if waiting else status.next_run or timing.next_start(now)


def _seconds(length: timedelta | None) -> float | None:
    return length.total_seconds() if length is not None else None


def _days(
    status: SourceStatus, policy: Policy, runs: dict[tuple[str, str, date], tuple[int, int]], now: datetime
) -> tuple[DayView, ...]:
    today = now.astimezone(UTC).date()
    # neither the name nor the jitter moves the day for which a run is planned: sources of one schedule share the answer
    timing = replace(policy.timing(status.name), key="", jitter=timedelta(0))
    due = _due_days(timing, today) if policy.schedule else frozenset()
    found: list[DayView] = []
    begun = False
    for back in reversed(range(DAYS)):
        day, count = today - timedelta(days=back), status.strip[DAYS - 1 - back]
        good, bad = runs.get((policy.policy, policy.source_of(status.name), day), (0, 0))
        begun = begun or bool(count or good or bad)
        missed = begun and back > 0 and day in due
        state: DayState = "ok" if count or good else "failed" if bad else "missed" if missed else "none"
        found.append(DayView(state, count))
    return tuple(found)


@lru_cache(maxsize=2048)
def _due_days(timing: Timing, today: date) -> frozenset[date]:
    """Of the last days those on which a run was due."""
    start = datetime(today.year, today.month, today.day, tzinfo=UTC) - timedelta(days=DAYS)
    found: set[date] = set()
    while True:
        planned = next(timing.upcoming(start), None)
        if planned is None or planned.at.astimezone(UTC).date() > today:
            return frozenset(found)
        day = planned.at.astimezone(UTC).date()
        found.add(day)
        start = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)


def _verifications(policies: Iterable[Policy], standings: Standings) -> Iterator[VerificationView]:
    for policy in policies:
        for proof in standings.proofs.of(policy):
            every = proof.verify.every.total_seconds()
            yield VerificationView(
                policy.policy,
                proof.verify.level,
                proof.last_ok,
                every,
                proof.overdue,
                bool(proof.failed),
                proof.next_at,
            )


def _brakes(policies: Iterable[Policy], standings: Standings) -> Iterator[BrakeView]:
    for policy in policies:
        seen = standings.seen.get(policy.policy)
        for brake in seen.brakes if seen else ():
            if not any(source.covers(brake.source) for source in policy.sources):
                continue  # another policy's, which stores in the same repository
            place = quoted(str(repository_of(policy)))
            command = f"backupctl brake release {quoted(brake.source)} --repository {place}"
            yield BrakeView(policy.policy, brake.source, brake.since or seen.at, brake.reason, command)  # type: ignore[union-attr]


def _incidents(policies: Iterable[Policy], standings: Standings) -> tuple[Incident, ...]:
    """Those of the policies' sources, each once, though several policies store in one repository."""
    found: dict[str, Incident] = {}
    for policy in policies:
        seen = standings.seen.get(policy.policy)
        for one in seen.incidents if seen else ():
            if any(source.covers(name) for source in policy.sources for name in one.sources):
                found[one.id] = one
    return tuple(found.values())


def _repositories(policies: Iterable[Policy], standings: Standings) -> Iterator[RepositoryView]:
    for policy in policies:
        seen = standings.seen.get(policy.policy)
        if seen is not None:
            yield RepositoryView(
                policy.policy,
                seen.bytes,
                seen.locked_until,
                seen.lock_short if policy.retention and policy.retention.lock else None,
                seen.vanished > 0,
                policy.repository.url,
            )


def _recent(runs: Iterable[Run]) -> Iterator[RunView]:
    for run in runs:
        if run.ended is None or run.end is None:
            continue
        seconds = run.end.seconds if run.end.seconds is not None else (run.ended - run.started).total_seconds()
        read, stored = run.end.read_bytes or 0, run.end.stored_bytes or 0
        yield RunView(
            run.kind, run.policy, run.source or "", run.end.outcome, run.started, max(0.0, seconds), read, stored
        )
