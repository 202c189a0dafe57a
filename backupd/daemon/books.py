"""Writes down what begins and ends, decides what becomes of it, and has people told.

A job that failed is tried again as its policy says; people are told once it failed for good. Whoever lost its claim writes
nothing down as done: another worker has the job. A snapshot that was taken is written down in any case: it is there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from backupd.catalog.opening import Catalog
from backupd.catalog.queue import Claim, JobSpec
from backupd.catalog.runs import RunEnd
from backupd.daemon import endings
from backupd.daemon.child import Ended
from backupd.daemon.drills import Drills, Tried
from backupd.daemon.endings import Document
from backupd.daemon.proofs import Found, Proofs
from backupd.daemon.verdicts import Verdict, judged, verdicts_in
from backupd.daemon.workers import TAKEN
from backupd.errors import BackupdError, Exit
from backupd.jobs import notices
from backupd.notify.base import Notice
from backupd.policy.model import Policy
from backupd.policy.retrying import retry_at

_STOPPED = {Exit.INTERRUPTED, Exit.TERMINATED}


@dataclass(slots=True)
class _Settled:
    """How far an end is written down: kept until all of it is.

    Attributes:
        mine: whether the claim still held, which the queue would deny if it were asked again.
        again: when the job is tried again.
        noted: whether it stands in the audit.
        told: whether people were told, and alerts opened or closed.
    """

    mine: bool
    again: datetime | None
    noted: bool = False
    told: bool = False


@dataclass(frozen=True, slots=True)
class _Over:
    """A job that is over: whose, what it printed, how it ended, when it is tried again, if it is, and what a drill found."""

    policy: Policy
    claim: Claim
    document: Document
    end: RunEnd
    now: datetime
    again: datetime | None
    verdicts: Sequence[Verdict] = ()

    @property
    def done(self) -> bool:
        """Whether it did its work."""
        return self.end.outcome == "done"


class Books:
    """The daemon's bookkeeper. For the main thread.

    Args:
        catalog: where things are written down.
        policy: the policy of a name, of those in force.
        tell: has a policy's people told.
        ending: whether the daemon is about to end: what it stops then is put back.
    """

    def __init__(
        self,
        catalog: Catalog,
        policy: Callable[[str], Policy | None],
        tell: Callable[[Policy, Notice], None],
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._catalog, self._policy, self._tell, self._ending = catalog, policy, tell, ending
        self._proofs, self._drills = Proofs(catalog, tell), Drills(catalog, tell)
        self._settled: dict[tuple[str, str], _Settled] = {}

    def begun(self, claim: Claim, now: datetime) -> None:
        """A job begins."""
        spec = claim.spec
        self._catalog.runs.start(spec.policy, spec.source, spec.kind, now, job=claim.id, attempt=claim.attempt)
        policy = self._policy(spec.policy)
        if policy is not None and spec.kind == "run" and spec.source and claim.attempt == 1:
            self._tell(policy, notices.run_started(spec.policy, spec.source, claim.id, now))

    def refused(self, claim: Claim, error: BackupdError, now: datetime) -> None:
        """A job cannot even begin: it ends as if its process had said so."""
        said = {"code": error.code, "exit": int(error.exit), "message": error.message}
        self.ended(claim, Ended(int(error.exit), {"error": said}), now, "")

    def ended(self, claim: Claim, ended: Ended, now: datetime, why: str) -> None:
        """A job's process has ended; `why` it was stopped, if it was. May be called again after an error."""
        spec, runs = claim.spec, self._catalog.runs
        end = endings.read_end(spec.kind, ended, why)
        document = ended.document or {}
        verdicts = verdicts_in(document, ended.code) if spec.kind == "drill" else []
        if spec.kind == "drill":
            end = judged(end, verdicts)
        if spec.kind == "run":
            self._add_snapshots(document, now)
        run = runs.start(spec.policy, spec.source, spec.kind, now, job=claim.id, attempt=claim.attempt)
        # what a drill has looked at is as it is: that is no failure to be tried again at once
        is_over = end.outcome == "done" or any(verdict.tried for verdict in verdicts)
        again = None if is_over else self._again(claim, end.error_exit or ended.code, now, why)
        key = (claim.id, claim.token)
        if key not in self._settled:
            self._settled[key] = _Settled(self._settle(claim, end, now, again), again)
        settled = self._settled[key]
        if not settled.mine:
            end = replace(end, outcome="lost")
        elif why == TAKEN:
            end = replace(end, outcome="cancelled")
        if not settled.noted:
            facts = {"policy": spec.policy, "source": spec.source, "outcome": end.outcome, "exit": end.error_exit}
            self._catalog.audit.append("backupd", spec.kind, end.snapshot or spec.policy, now, facts)
            settled.noted = True
        policy = self._policy(spec.policy)
        if policy is not None and end.outcome not in {"lost", "cancelled"} and not settled.told:
            self._consequences(_Over(policy, claim, document, end, now, settled.again, verdicts))
        settled.told = True
        # last: a run that is left open has somebody look again at what became of it; told twice is better than never
        runs.finish(run, now, end)
        del self._settled[key]

    def _settle(self, claim: Claim, end: RunEnd, now: datetime, again: datetime | None) -> bool:
        """Tell the queue; whether the claim still held."""
        queue = self._catalog.queue
        if end.outcome == "done":
            return queue.finish(claim, now, "done", end.snapshot or "")
        if end.outcome == "incomplete" and again is None:
            return queue.finish(claim, now, "incomplete", end.error_message or "")
        return queue.fail(claim, now, end.error_message or "", again)

    def _add_snapshots(self, document: Document, now: datetime) -> None:
        for done in endings.snapshots_in(document):
            snapshot = endings.snapshot_of(done, now)
            if snapshot is not None:
                self._catalog.snapshots.add(snapshot)

    def _again(self, claim: Claim, code: int, now: datetime, why: str) -> datetime | None:
        """When the job is tried again, if it is."""
        policy, spec = self._policy(claim.spec.policy), claim.spec
        if claim.attempt >= spec.max_attempts or policy is None or why == TAKEN:
            return None
        if self._ending() and (why or code in _STOPPED):
            return now
        timing = policy.timing(spec.source or spec.kind)
        if spec.kind != "run":
            timing = replace(timing, cron=None, every=None)  # the next backup makes no verification needless
        return retry_at(claim.attempt, code, now, policy.retries.rule, timing)

    def _consequences(self, over: _Over) -> None:
        by_kind = {"run": self._run, "verify": self._verify, "drill": self._drill}
        by_kind.get(over.claim.spec.kind, self._other)(over)

    def lost(self, spec: JobSpec, job: str, now: datetime, why: str) -> None:
        """A job is over, and nobody wrote down how: it failed for good, and people hear of it."""
        policy = self._policy(spec.policy)
        if policy is not None and spec.kind == "verify":
            self._proofs.lost(policy, spec, job, now, why)
        elif policy is not None and spec.kind == "drill":
            self._drills.lost(policy, spec, job, now, why)
        elif policy is not None:
            self._failed(policy, spec, job, RunEnd("lost", "lost", int(Exit.FAILED), why), now)

    # ---- runs

    def _run(self, over: _Over) -> None:
        policy, claim, end, now = over.policy, over.claim, over.end, over.now
        source = claim.spec.source or ""
        for done in endings.snapshots_in(over.document):
            self._brake(policy, claim, done, now)
        if over.done:
            closed = self._catalog.alerts.close("failure", policy.policy, source, now)
            for notice in notices.run_done(
                policy.policy,
                source,
                claim.id,
                now,
                seconds=end.seconds or 0.0,
                warnings=end.warnings,
                failed_before=closed is not None,
            ):
                self._tell(policy, notice)
        elif over.again is None:
            self._failed(policy, claim.spec, claim.id, end, now)

    def _failed(self, policy: Policy, spec: JobSpec, job: str, end: RunEnd, now: datetime) -> None:
        sentence = end.error_message or "it failed"
        source = spec.source if spec.kind == "run" and spec.source else spec.kind
        opened = self._catalog.alerts.open("failure", policy.policy, source, sentence, now)
        code, word = end.error_exit or int(Exit.FAILED), end.error_code or "failed"
        self._tell(policy, self._failure(policy, spec, job, now, code, word))
        self._catalog.alerts.mark_told(opened.alert.id, now)

    def _failure(self, policy: Policy, spec: JobSpec, job: str, now: datetime, code: int, word: str) -> Notice:
        if spec.kind != "run" or spec.source is None:
            return notices.job_failed(policy.policy, spec.kind, job, now, exit_code=code, code=word)
        source = spec.source
        good = self._catalog.runs.last_good().get((policy.policy, source))
        following = next(policy.timing(source).upcoming(now), None)
        return notices.run_failed(
            policy.policy,
            source,
            job,
            now,
            exit_code=code,
            code=word,
            last_good=good.ended if good else None,
            next_run=following.start if following else None,
        )

    def _brake(self, policy: Policy, claim: Claim, done: Document, now: datetime) -> None:
        """A run has set the brake."""
        reasons, source = endings.brake_reasons(done), done.get("source")
        if not reasons or not isinstance(source, str):
            return
        opened = self._catalog.alerts.open("brake", policy.policy, source, "; ".join(sorted(set(reasons))), now)
        self._tell(policy, notices.brake_set(policy.policy, source, claim.id, now, signs=len(reasons)))
        self._catalog.alerts.mark_told(opened.alert.id, now)

    # ---- the rest

    def _verify(self, over: _Over) -> None:
        claim = over.claim
        if over.done or over.again is None:
            found = Found(claim.spec, claim.id, over.end, endings.problems_in(over.document))
            self._proofs.ended(over.policy, found, over.now)

    def _drill(self, over: _Over) -> None:
        claim = over.claim
        if over.done or over.again is None:
            self._drills.ended(over.policy, Tried(claim.spec, claim.id, over.end, over.verdicts), over.now)

    def _other(self, over: _Over) -> None:
        """A prune, or a look at the repository."""
        policy, claim, now = over.policy, over.claim, over.now
        kind = claim.spec.kind
        if over.done:
            if kind == "prune":
                self._forget(policy, over.document)
            if self._catalog.alerts.close("failure", policy.policy, kind, now):
                self._tell(policy, notices.job_works(policy.policy, kind, claim.id, now))
        elif over.again is None:
            self._failed(policy, claim.spec, claim.id, over.end, now)

    def _forget(self, policy: Policy, document: Document) -> None:
        seen = self._catalog.repositories.all().get(policy.policy)
        gone = endings.forgotten_in(document)
        if seen is not None and gone:
            self._catalog.snapshots.remove(seen.repository, gone)
