"""What becomes of a drill that has ended: what is remembered of it, its alert, who hears of it, and when it is tried again.

A drill that could not be tried is no verdict on the source, and an alert all the same: one that silently never comes would be
worse than one that fails. What did not pass stays the alert's subject until a drill passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.catalog.checks import Drill
from backupd.catalog.opening import Catalog
from backupd.catalog.queue import JobSpec, Json
from backupd.catalog.runs import RunEnd
from backupd.daemon.endings import MOST_WORDS
from backupd.daemon.timetable import Task
from backupd.daemon.tries import Tries
from backupd.daemon.verdicts import RESTORE, RTO, Verdict
from backupd.daemon.wording import length
from backupd.errors import Exit
from backupd.jobs import notices
from backupd.notify.base import Notice
from backupd.policy.model import Policy
from backupd.policy.proving import again_name, drills
from backupd.policy.retrying import worth
from backupd.policy.words import written


@dataclass(frozen=True, slots=True)
class Tried:
    """A drill that has ended for good: its job, how it ended, and what its document says of each source."""

    spec: JobSpec
    job: str
    end: RunEnd
    verdicts: Sequence[Verdict] = ()

    @property
    def source(self) -> str:
        """Whose: the policy's, which may stand for all databases of a server."""
        return self.spec.source or ""

    @property
    def again(self) -> bool:
        """Whether it was another try after one that failed."""
        return bool(self.spec.payload.get("again"))

    def of(self, policy: Policy) -> list[Verdict]:
        """What it says of the sources that it was to drill; where it ended without that, that it could not be tried."""
        found = [v for v in self.verdicts if v.source == self.source or policy.source_of(v.source) == self.source]
        if found and (self.end.outcome == "done" or any(not verdict.passed for verdict in found)):
            return found
        end = self.end
        why, code, word = end.error_message or "it failed", end.error_exit or int(Exit.FAILED), end.error_code
        return [*found, Verdict(self.source, why=why, code=code, word=word or "failed")]


class Drills:
    """For the main thread.

    Args:
        catalog: where it is written down.
        tell: has a policy's people told.
    """

    def __init__(self, catalog: Catalog, tell: Callable[[Policy, Notice], None]) -> None:
        self._catalog, self._tries = catalog, Tries("drill_failed", catalog, tell)

    def ended(self, policy: Policy, tried: Tried, now: datetime) -> None:
        """It has ended, and is not tried again but as a new job."""
        verdicts = tried.of(policy)
        again = self._again(policy, tried, verdicts, now)
        for verdict in verdicts:
            if verdict.passed:
                self._passed(policy, tried, verdict, now)
            else:
                self._failed(policy, tried, verdict, again, now)
        self._close_others(policy, tried, {verdict.source for verdict in verdicts}, now)

    def lost(self, policy: Policy, spec: JobSpec, job: str, now: datetime, why: str) -> None:
        """It is over, and nobody wrote down how."""
        self.ended(policy, Tried(spec, job, RunEnd("lost", "lost", int(Exit.FAILED), why)), now)

    def _again(self, policy: Policy, tried: Tried, verdicts: Sequence[Verdict], now: datetime) -> datetime | None:
        """When all of it is tried again. What was restored and did not pass will not by itself: the next snapshot may."""
        name = again_name("drill", policy.policy, tried.source)
        if all(verdict.passed for verdict in verdicts):
            self._catalog.plans.forget(name)
            return None
        passes = any(not verdict.tried and worth(verdict.code).again for verdict in verdicts)
        promise = drills(policy).get(tried.source)
        return self._tries.again(promise, name, now, passes=passes, again=tried.again)

    def _passed(self, policy: Policy, tried: Tried, verdict: Verdict, now: datetime) -> None:
        self._remember(policy, verdict, now)
        seen = self._catalog.repositories.all().get(policy.policy)
        if seen is not None:
            self._catalog.snapshots.proven(seen.repository, verdict.snapshot, now)
        notice = notices.drill_passed(policy.policy, verdict.source, tried.job, now)
        self._tries.passed(policy, verdict.source, notice, now)

    def _failed(self, policy: Policy, tried: Tried, verdict: Verdict, again: datetime | None, now: datetime) -> None:
        # what an end that is written down for the second time, after an error, has said of itself does not count
        before = self._catalog.drills.list(policy=policy.policy, source=verdict.source, limit=3)
        newest = next((drill for drill in before if drill.ended < now), None)
        was_bad = newest is not None and not newest.passed
        if verdict.tried:
            self._remember(policy, verdict, now)
        sentence = said(verdict, policy)
        if not verdict.tried and newest is not None and was_bad:
            sentence = f"it did not pass at {notices.when(newest.ended)}, and could not be tried since: {verdict.why}"
        notice = _notice(policy, tried, verdict, again, now)
        known = tried.again and (was_bad or not verdict.tried)
        self._tries.failed(policy, verdict.source, sentence[:MOST_WORDS], notice, now, known=known)

    def _remember(self, policy: Policy, verdict: Verdict, now: datetime) -> None:
        checks: list[Json] = [{"name": name, "passed": passed} for name, passed in verdict.checks]
        self._catalog.drills.add(
            Drill(
                policy.policy,
                verdict.source,
                verdict.snapshot,
                now - timedelta(seconds=min(verdict.seconds, timedelta(days=30).total_seconds())),
                now,
                verdict.passed,
                verdict.restore_seconds,
                {"checks": checks},
            )
        )

    def _close_others(self, policy: Policy, tried: Tried, told: set[str], now: datetime) -> None:
        """A server's alert gives way to its databases' once those can be told, and a database's ends when it is gone."""
        if not tried.verdicts:
            return
        for alert in self._catalog.alerts.list_open():
            name = alert.source or ""
            mine = name == tried.source or policy.source_of(name) == tried.source
            if (alert.event, alert.policy) == ("drill_failed", policy.policy) and mine and name not in told:
                self._catalog.alerts.close(alert.event, alert.policy, alert.source, now)


def said(verdict: Verdict, policy: Policy) -> str:
    """The sentence of an alert: what did not pass, by the names of the checks."""
    if not verdict.tried:
        return f"it could not be tried: {verdict.why}"
    failed, rto = verdict.failed, policy.objectives.rto
    if RESTORE in failed:
        return "the restore itself failed"
    if failed == (RTO,) and rto is not None:
        return f"the restore took {length(verdict.restore_seconds)}, promised are {written(rto)}"
    return f"{len(failed)} of {len(verdict.checks)} checks failed: {', '.join(failed)}"


def _notice(policy: Policy, tried: Tried, verdict: Verdict, again: datetime | None, now: datetime) -> Notice:
    name, source, job = policy.policy, verdict.source, tried.job
    if not verdict.tried:
        return notices.drill_untried(name, source, job, now, exit_code=verdict.code, code=verdict.word, again=again)
    failed, rto = verdict.failed, policy.objectives.rto
    if failed == (RTO,) and rto is not None and verdict.restore_seconds is not None:
        took = timedelta(seconds=verdict.restore_seconds)
        return notices.drill_slow(name, source, job, now, took=took, rto=rto, again=again)
    count = 0 if RESTORE in failed else len(failed)
    return notices.drill_failed(name, source, job, now, failed=count, checks=len(verdict.checks), again=again)


def has_snapshot(catalog: Catalog, task: Task) -> bool:
    """Whether a task can be done: a drill needs a snapshot, and waits until there is one."""
    if task.kind != "drill":
        return True
    seen = catalog.repositories.all().get(task.policy.policy)
    if seen is None:
        return False
    there = [name for repository, name in catalog.snapshots.counts() if repository == seen.repository]
    return any(name == task.source or task.policy.source_of(name) == task.source for name in there)
