"""Writes down what begins and ends, decides what becomes of it, and has people told.

A job that failed is tried again as its policy says; people are told once it failed for good. Whoever lost its claim writes
nothing down as done: another worker has the job.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from backupd.catalog.checks import Verification
from backupd.catalog.opening import Catalog
from backupd.catalog.queue import Claim, JobOutcome
from backupd.catalog.runs import RunEnd
from backupd.catalog.snapshots import Snapshot
from backupd.config.clock import parse_stamp
from backupd.daemon.child import Ended
from backupd.errors import BackupdError, Exit
from backupd.jobs import notices
from backupd.notify.base import Notice
from backupd.policy.model import Policy
from backupd.policy.retrying import retry_at

_OUTCOMES: Mapping[int, JobOutcome] = {Exit.DONE: "done", Exit.INCOMPLETE: "incomplete"}


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
        """A job's process has ended; `why` it was stopped, if it was."""
        end = read_end(ended, why)
        spec, queue, runs = claim.spec, self._catalog.queue, self._catalog.runs
        run = runs.start(spec.policy, spec.source, spec.kind, now, job=claim.id, attempt=claim.attempt)
        again: datetime | None = None
        if end.outcome == "done":
            mine = queue.finish(claim, now, "done", end.snapshot or "")
        else:
            again = self._again(claim, ended.code, now)
            mine = queue.fail(claim, now, end.error_message or "", again)
        end = end if mine else replace(end, outcome="lost")
        if runs.finish(run, now, end):
            facts = {"policy": spec.policy, "source": spec.source, "outcome": end.outcome, "exit": end.error_exit}
            self._catalog.audit.append("backupd", spec.kind, end.snapshot or spec.policy, now, facts)
        if mine:
            self._consequences(claim, ended, end, now, again)

    def _again(self, claim: Claim, code: int, now: datetime) -> datetime | None:
        """When the job is tried again, if it is."""
        policy = self._policy(claim.spec.policy)
        if self._ending():
            return now
        if policy is None:
            return None
        retries, timing = policy.retries.rule, policy.timing(claim.spec.source or claim.spec.kind)
        return retry_at(claim.attempt, code, now, retries, timing)

    def _consequences(self, claim: Claim, ended: Ended, end: RunEnd, now: datetime, again: datetime | None) -> None:
        policy = self._policy(claim.spec.policy)
        if policy is None:
            return
        document = ended.document or {}
        if claim.spec.kind == "run":
            self._run(policy, claim, document, end, now, again)
        elif claim.spec.kind == "verify":
            self._verify(policy, claim, document, end, now, again)
        else:
            self._other(policy, claim, document, end, now, again)

    # ---- runs

    def _run(
        self,
        policy: Policy,
        claim: Claim,
        document: Mapping[str, Any],
        end: RunEnd,
        now: datetime,
        again: datetime | None,
    ) -> None:
        source = claim.spec.source or ""
        for done in _snapshots(document):
            self._catalog.snapshots.add(snapshot_of(done, now))
            self._brake(policy, claim, done, now)
        if end.outcome == "done":
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
        elif again is None:
            self._failed(policy, source, claim, end, now)

    def _failed(self, policy: Policy, source: str, claim: Claim, end: RunEnd, now: datetime) -> None:
        sentence = end.error_message or "it failed"
        opened = self._catalog.alerts.open("failure", policy.policy, source, sentence, now)
        good = self._catalog.runs.last_good().get((policy.policy, source))
        following = next(policy.timing(source).upcoming(now), None)
        notice = notices.run_failed(
            policy.policy,
            source,
            claim.id,
            now,
            exit_code=end.error_exit or int(Exit.FAILED),
            code=end.error_code or "failed",
            last_good=good.ended if good else None,
            next_run=following.start if following else None,
        )
        self._catalog.alerts.mark_told(opened.alert.id, now)
        self._tell(policy, notice)

    def _brake(self, policy: Policy, claim: Claim, done: Mapping[str, Any], now: datetime) -> None:
        """A run has set the brake."""
        signs = done.get("brake")
        if not isinstance(signs, list) or not signs:
            return
        source = str(done["source"])
        said = "; ".join(sorted({str(sign.get("reason")) for sign in signs if isinstance(sign, dict)}))
        opened = self._catalog.alerts.open("brake", policy.policy, source, said, now)
        self._catalog.alerts.mark_told(opened.alert.id, now)
        self._tell(policy, notices.brake_set(policy.policy, source, claim.id, now, signs=len(signs)))

    # ---- the rest

    def _verify(
        self,
        policy: Policy,
        claim: Claim,
        document: Mapping[str, Any],
        end: RunEnd,
        now: datetime,
        again: datetime | None,
    ) -> None:
        level = str(claim.spec.payload.get("level", ""))
        found = document.get("problems")
        problems = len(found) if isinstance(found, list) else 0
        ok = end.outcome == "done"
        if not ok and again is not None:
            return
        begun = parse_stamp(str(claim.spec.payload["due"])) if "due" in claim.spec.payload else now
        self._catalog.verifications.add(Verification(policy.policy, level, min(begun, now), now, ok, problems))
        key = f"level {level}"
        if ok:
            if self._catalog.alerts.close("verify_failed", policy.policy, key, now):
                self._tell(policy, notices.verify_passed(policy.policy, claim.id, now, level=level))
            return
        said = f"{problems} problems" if problems else end.error_message or "it could not be done"
        opened = self._catalog.alerts.open("verify_failed", policy.policy, key, said, now)
        self._catalog.alerts.mark_told(opened.alert.id, now)
        self._tell(policy, notices.verify_failed(policy.policy, claim.id, now, level=level, problems=problems))

    def _other(
        self,
        policy: Policy,
        claim: Claim,
        document: Mapping[str, Any],
        end: RunEnd,
        now: datetime,
        again: datetime | None,
    ) -> None:
        """A prune, or a look at the repository."""
        kind = claim.spec.kind
        if end.outcome == "done":
            if kind == "prune":
                self._forget(policy, document)
            self._catalog.alerts.close("failure", policy.policy, kind, now)
        elif again is None:
            self._failed(policy, kind, claim, end, now)

    def _forget(self, policy: Policy, document: Mapping[str, Any]) -> None:
        seen = self._catalog.repositories.all().get(policy.policy)
        gone = [str(one["snapshot"]) for one in document.get("forget", []) if isinstance(one, dict)]
        if seen is not None and gone:
            self._catalog.snapshots.remove(seen.repository, gone)


def read_end(ended: Ended, why: str) -> RunEnd:
    """How a job ended, by its exit code and what it printed; `why` it was stopped, if it was."""
    document = ended.document or {}
    outcome = _OUTCOMES.get(ended.code, "failed")
    runs = list(_snapshots(document))
    error = document.get("error")
    error = error if isinstance(error, dict) else {}
    if outcome == "done":
        return RunEnd(
            outcome,
            snapshot=str(runs[-1]["snapshot"]) if runs else None,
            read_bytes=_sum(runs, "read_bytes"),
            stored_bytes=_sum(runs, "stored_bytes"),
            rows=_sum(runs, "rows"),
            seconds=float(document["seconds"]) if isinstance(document.get("seconds"), int | float) else None,
            warnings=sum(len(run["warnings"]) for run in runs if isinstance(run.get("warnings"), list)),
        )
    message = why or str(error.get("message") or ended.last_words or f"it ended with {ended.code}")
    return RunEnd(outcome, str(error.get("code") or "failed"), ended.code, message[:1000])


def _sum(runs: list[Mapping[str, Any]], key: str) -> int | None:
    values = [run[key] for run in runs if isinstance(run.get(key), int)]
    return sum(values) if values else None


def _snapshots(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The snapshots that a run's document tells of: one, or of a source that stands for many databases several."""
    several = document.get("runs")
    for one in several if isinstance(several, list) else [document]:
        if isinstance(one, dict) and isinstance(one.get("snapshot"), str) and not one.get("dry_run"):
            yield one


def snapshot_of(done: Mapping[str, Any], now: datetime) -> Snapshot:
    """A snapshot that a run tells of, for the catalog."""
    taken = parse_stamp(str(done["taken_at"]))
    return Snapshot(
        repository=str(done["repository"]),
        writer=str(done["writer"]),
        source=str(done["source"]),
        seq=int(done["seq"]),
        id=str(done["snapshot"]),
        taken_at=taken,
        stored_at=taken,
        kind="snapshot",
        rows=done["rows"],
        read_bytes=int(done["read_bytes"]),
        stored_bytes=int(done["stored_bytes"]),
        holds=(),
        drilled_at=None,
        last_seen=now,
    )
