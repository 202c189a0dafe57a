"""What is due when: the policies in force as tasks, each with its times. Pure.

The key of a job is its task and the time for which it was planned, so that two schedulers, or one that was restarted, cannot have
one thing done twice. Work for which this host has no key is no task here: it is left to the host that has it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupd.catalog.queue import JobSpec, Json
from backupd.config.clock import stamp
from backupd.config.policies import repository_of
from backupd.daemon.commands import can, verify_payload
from backupd.policy.model import Policy
from backupd.policy.proving import Promise, can_drill, drills, regular, verification
from backupd.policy.schedule import Planned, Timing

DAY = timedelta(days=1)
LONGEST = timedelta(days=1)
"""A job that the policy does not limit may take so long: one that hangs must not hold its lock for ever, unheard of."""
PRIORITY = {"restore": 100, "run": 10, "refresh": 5, "drill": 3, "verify": 2, "prune": 1}


@dataclass(frozen=True, slots=True)
class Task:
    """Something that a policy wants done again and again.

    Attributes:
        kind: run, drill, verify, prune or refresh.
        policy: whose.
        timing: when.
        source: the source's name, of a run or a drill.
        payload: what else the job must know.
        promise: the proof that it brings, of a verification or a drill.
    """

    kind: str
    policy: Policy = field(repr=False)
    timing: Timing
    source: str | None = None
    payload: Mapping[str, Json] = field(default_factory=dict)
    promise: Promise | None = None

    @property
    def name(self) -> str:
        """The same for ever: what was planned is remembered under it."""
        return self.timing.key

    @property
    def lock(self) -> str:
        """Jobs with the same one never run at once: one source's runs, its drills, one repository's prunes."""
        return f"{self.kind}:{repository_of(self.policy)}:{self.source or ''}"

    def job(self, planned: Planned, *, again: bool = False) -> JobSpec:
        """The job of one time; `again` if it is no time of its own, but another try after it failed."""
        schedule = self.policy.schedule
        most = (schedule.max_duration if schedule and self.kind == "run" else None) or LONGEST
        return (
            JobSpec(  # without `not_before`: it is planned when it may begin, and a clock put back must not hold it up
                self.kind,
                self.policy.policy,
                self.source,
                f"{self.name}:{stamp(planned.at)}",
                self.lock,
                PRIORITY[self.kind],
                {**self.payload, "due": stamp(planned.at), **({"again": True} if again else {})},
                max_attempts=self.policy.retries.attempts,
                max_seconds=most.total_seconds(),
            )
        )

    def next_start(self, now: datetime) -> datetime | None:
        """When it starts next, after `now`."""
        return self.timing.next_start(now)

    def again(self, planned: Mapping[str, datetime]) -> datetime | None:
        """When it is to be tried again, of a proof that failed; `planned` is for when everything was planned last."""
        return self.promise.awaited(planned) if self.promise is not None else None

    def begins(self, now: datetime) -> datetime:
        """For when it counts as planned where it never was: nothing of its past was missed, but a first drill is to come soon."""
        return now - self.policy.drill.every if self.kind == "drill" and self.policy.drill else now


def run_of(policy: Policy, source: str) -> Task:
    """The runs of a source."""
    return Task("run", policy, policy.timing(source), source)


def drill_of(policy: Policy, source: str) -> Task | None:
    """The drills of a source; None if the policy promises none."""
    promise = drills(policy).get(source)
    return Task("drill", policy, promise.timing, source, promise=promise) if promise else None


def tasks_of(policies: Iterable[Policy]) -> list[Task]:
    """The tasks of policies for which this host has the keys; what a policy says twice is done once."""
    return list({task.name: task for policy in policies for task in _tasks(policy)}.values())


def _tasks(policy: Policy) -> Iterator[Task]:
    if policy.schedule and can(policy, "run"):
        for source in policy.sources:
            yield run_of(policy, source.name)
    for verify in policy.verify:
        if can(policy, "verify", verify.level):
            promise = verification(policy, verify)
            yield Task("verify", policy, promise.timing, payload=verify_payload(verify), promise=promise)
    for source in policy.sources if can_drill(policy) else ():
        if (task := drill_of(policy, source.name)) is not None:
            yield task
    if policy.retention and can(policy, "prune"):
        yield Task("prune", policy, regular(f"prune:{policy.policy}", DAY))
    if can(policy, "refresh"):
        yield Task("refresh", policy, regular(f"refresh:{policy.policy}", DAY))
