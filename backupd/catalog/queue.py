"""The queue's port: what is to run, who runs it, and how a worker that died loses what it held.

An adapter keeps these promises whatever happens to workers and clocks: one job has at most one owner, of the jobs that
share a lock at most one runs, and a job whose worker is gone goes to another. It must never believe a worker that lost
its claim, and never keep secrets or customer data: payloads and details are names, numbers and sentences.

Times come from the caller, in UTC. Where the clock jumps ahead, living workers keep what they hold if they give their
heartbeat before anybody calls `recover`; where it jumps back, `recover` shortens leases to what they can be at most.

A slot that is kept free for restores is a worker that claims with `kinds={"restore"}`, beside those that claim anything.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
JobOutcome = Literal["done", "failed", "incomplete", "cancelled", "lost"]
JobState = Literal["queued", "running", "done", "failed", "incomplete", "cancelled", "lost"]
"""A job that has ended is in the state of its outcome."""
ENDED: tuple[JobOutcome, ...] = ("done", "failed", "incomplete", "cancelled", "lost")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What is to be done.

    Attributes:
        kind: run, prune, verify, drill, refresh or restore.
        policy: the policy's name.
        source: the source's name, if it is about one.
        key: what makes it this job and no other; a second one of the same key is refused while the first is known.
        lock: of the jobs with the same one, at most one runs.
        priority: higher ones go first.
        payload: what else the worker must know; can be written as JSON.
        not_before: when it may begin; None for at once.
        max_attempts: how often it is begun at most.
        max_seconds: how long one attempt may take; whoever runs it sees to that.
    """

    kind: str
    policy: str
    source: str | None
    key: str
    lock: str
    priority: int = 0
    payload: Mapping[str, Json] = field(default_factory=dict)
    not_before: datetime | None = None
    max_attempts: int = 3
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in the hands of one worker, for as long as its lease is renewed.

    Attributes:
        attempt: counts from 1.
        token: random, of this claim alone; with the attempt it tells this owner from all before and after.
    """

    id: str
    spec: JobSpec
    attempt: int
    lease_until: datetime
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands.

    Attributes:
        attempt: the one that runs or ran last, or that will be next while it is queued; counts from 1.
        due: when it may begin; after a failure, when it may begin again.
        started: when the newest attempt began.
        worker: who has it, or had it last.
        cancelling: its worker was asked to stop and has not said yet that it did.
        detail: what its worker said at the end of an attempt.
    """

    id: str
    spec: JobSpec
    state: JobState
    attempt: int
    submitted: datetime
    due: datetime
    started: datetime | None = None
    ended: datetime | None = None
    worker: str | None = None
    lease_until: datetime | None = None
    cancelling: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """A job that `recover` took from a worker whose lease had run out.

    Attributes:
        attempt: the one that was lost.
        worker: who had it.
        outcome: None if it is queued again, for attempt + 1; "lost" if that was its last attempt, "cancelled" if its
            worker had been asked to stop.
    """

    id: str
    spec: JobSpec
    attempt: int
    worker: str
    outcome: JobOutcome | None


class Queue(Protocol):
    """Jobs, from their submission to their end. Any number of threads and processes may use one queue at once."""

    def submit(self, spec: JobSpec, now: datetime) -> str | None:
        """Put a job in; returns its id, or None if there is one of this key already, also one that has ended."""

    def claim(
        self, worker: str, now: datetime, lease_seconds: float, kinds: Collection[str] | None = None
    ) -> Claim | None:
        """Take the next job, or None if there is none.

        The highest priority goes first, then the one that has been due for longest. Never one before its time, and never one
        whose lock a running job holds; such a job is passed over, so it blocks no other.

        Args:
            worker: a name for people.
            now: the time.
            lease_seconds: for how long it is this worker's without a heartbeat.
            kinds: only jobs of these.
        """

    def heartbeat(self, claim: Claim, now: datetime, lease_seconds: float) -> bool:
        """Renew the lease. False: the claim is lost (taken over, or the job is cancelled): stop at once.

        Whoever got False stops the work and then calls `fail`: this ends a cancelled job and frees its lock, and does nothing
        to one that was taken over.
        """

    def finish(self, claim: Claim, now: datetime, outcome: JobOutcome, detail: str = "") -> bool:
        """End a job. False if the claim was taken over: then nothing changes.

        A job that was done before its worker heard that it is cancelled counts as done.
        """

    def fail(self, claim: Claim, now: datetime, detail: str = "", retry_at: datetime | None = None) -> bool:
        """End an attempt that failed. False if the claim was taken over: then nothing changes.

        Args:
            claim: what the worker holds.
            now: the time.
            detail: why, in a sentence.
            retry_at: queue it again, not before then; None, or no attempts left: the job is over, as failed. One that was
                cancelled is over in any case, as cancelled.
        """

    def cancel(self, job: str, now: datetime) -> bool:
        """Have a job (by its id) not run, or stop. False if it is over already, or not known.

        A queued one is over at once. A running one keeps its lock until its worker, whose heartbeat is refused from now on, calls
        `fail` or `finish`, or until its lease runs out.
        """

    def disown(self, worker: str, now: datetime) -> int:
        """End the leases of a worker that is known to be dead, so that `recover` need not wait for them; returns how many."""

    def recover(self, now: datetime) -> Sequence[Lost]:
        """Take the jobs from workers whose lease has run out; queue them again, or end them.

        Also undoes what a clock does that jumps back: no lease lasts longer from now than it was given for, and no job waits
        longer for its next attempt than it was told to.
        """

    def list(self, states: Collection[JobState] | None = None, limit: int = 100) -> Sequence[Job]:
        """Jobs in these states (None: in any), those that were submitted last first."""

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state; states without jobs count 0."""

    def oldest_due(self, now: datetime) -> datetime | None:
        """Since when the job waits that has waited for longest among those that may begin; None if none waits."""

    def purge(self, before: datetime) -> int:
        """Forget jobs that ended before then, and their keys; returns how many."""
