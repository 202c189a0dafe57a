"""`run POLICY --queue` and `drill POLICY --queue`: have the daemon do it, and tell how that ended.

The daemon does it as it does what it planned itself: with its own keys, never beside another run or drill of the same source,
written down in its catalog. Nothing is captured or restored in this process.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from backupctl import output
from backupctl.known import alive
from backupctl.options import Settings, is_global
from backupctl.policies import find_policy, sources_of
from backupd.errors import BackupdError, Exit, Failed, TryAgain, UsageError

if TYPE_CHECKING:
    from backupd.catalog.opening import Catalog
    from backupd.catalog.queue import Job, JobSpec
    from backupd.catalog.runs import Run
    from backupd.daemon.timetable import Task
    from backupd.policy.model import Policy

Kind = Literal["run", "drill"]
_PRIORITY = 50
"""Before what was planned, and after restores."""
_PAUSE = 0.5
_EXITS: Mapping[str, Exit] = {"incomplete": Exit.INCOMPLETE, "cancelled": Exit.INTERRUPTED}


def refuse_own_options(kind: Kind, policy: str | None) -> None:
    """What the daemon would not hear of must not be asked for: it does everything as the policy says.

    Args:
        kind: of the jobs.
        policy: whose; None if there is none, or --queue was not given.

    Raises:
        UsageError: something else was asked for.
    """
    if not policy:
        raise UsageError(
            f"only {kind}s of a policy can be queued", hint=f"backupctl {kind} POLICY [SOURCE] --queue [--wait]"
        )
    ctx = click.get_current_context()
    asked = [
        param.opts[0]
        for param in ctx.command.params
        if param.name not in {"policy", "name_in_policy", "queue", "wait", "catalog"}
        and not is_global(param)
        and ctx.get_parameter_source(str(param.name)) in {ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT}
    ]
    if asked:
        raise UsageError(f"{asked[0]} cannot be queued: the daemon does it as the policy is written")


def run_by_daemon(
    settings: Settings, policy: str, name: str | None, catalog: str | None, *, wait: bool, kind: Kind = "run"
) -> None:
    """Submit one job of this kind for each source; with `wait`, follow them to their end.

    Raises:
        TryAgain: no daemon works here now.
        BackupdError: as the first job that failed.
    """
    from backupd.config.clock import now
    from backupd.config.paths import state_base
    from backupd.wiring import find_catalog

    specs = _specs(settings, policy, name, kind)
    found = find_catalog(state_base(settings.state), catalog)
    if found is None:
        raise _nobody("there is no catalog of a daemon here")
    with found as opened:
        if not settings.yes and not alive(opened, now()):
            raise _nobody("no daemon was heard of in the last five minutes")
        if settings.dry_run:
            _tell(settings, kind, [{"job": None, "policy": spec.policy, "source": spec.source} for spec in specs])
            return
        jobs = {_submitted(opened, spec): spec for spec in specs}
        if not wait:
            _tell(settings, kind, [{"job": job, "policy": s.policy, "source": s.source} for job, s in jobs.items()])
            return
        _tell_end(settings, kind, opened, _ended(settings, opened, jobs))


def _nobody(why: str) -> TryAgain:
    return TryAgain(
        f"nothing was queued: {why}",
        hint="start backupd (with this --state), or do it here and now, without --queue",
    )


def _specs(settings: Settings, text: str, name: str | None, kind: Kind) -> "list[JobSpec]":
    """The jobs, as the daemon itself would plan them, but for their keys and their priority."""
    from backupd.config.clock import now
    from backupd.policy.schedule import Planned

    policy, moment = find_policy(settings, text).policy, now()
    return [
        replace(
            _task(policy, source.name, kind).job(Planned(moment, moment)),
            key=f"now:{secrets.token_hex(16)}",
            priority=_PRIORITY,
        )
        for source in sources_of(policy, name)
    ]


def _task(policy: "Policy", source: str, kind: Kind) -> "Task":
    """What the daemon does of its own accord.

    Raises:
        UsageError: the policy does not have it done.
    """
    from backupd.daemon.timetable import drill_of, run_of

    task = run_of(policy, source) if kind == "run" else drill_of(policy, source)
    if task is None:
        raise UsageError(f"policy {policy.policy} promises no drills", hint="write `drill: {every: 7d}` into it")
    return task


def _submitted(catalog: "Catalog", spec: "JobSpec") -> str:
    from backupd.config.clock import now

    job = catalog.queue.submit(spec, now())
    if job is None:
        raise Failed(f"a job of the key {spec.key} is there already")
    return job


def _ended(settings: Settings, catalog: "Catalog", jobs: "Mapping[str, JobSpec]") -> "list[Job]":
    """Wait for all of them, in the order in which they were submitted."""
    from backupd.catalog.queue import ENDED

    said: dict[str, str] = {}
    while True:
        # the newest first: others may be submitted meanwhile, but nobody submits thousands while somebody waits
        there = {job.id: job for job in catalog.queue.list(limit=len(jobs) + 5000) if job.id in jobs}
        for job in there.values():
            if said.get(job.id) != job.state and not settings.quiet:
                output.note(f"job {job.id}, {job.spec.source}: {job.state}")
            said[job.id] = job.state
        if all(job in there and there[job].state in ENDED for job in jobs):
            return [there[job] for job in jobs]
        time.sleep(_PAUSE)


def _tell(settings: Settings, kind: Kind, queued: Sequence[Mapping[str, Any]]) -> None:
    if settings.json:
        output.document(kind, {"queued": list(queued), "dry_run": settings.dry_run})
        return
    for one in queued:
        output.say(
            f"would queue a {kind} of {one['source']}"
            if settings.dry_run
            else f"job {one['job']}: a {kind} of {one['source']}"
        )


def _tell_end(settings: Settings, kind: Kind, catalog: "Catalog", jobs: "Sequence[Job]") -> None:
    runs = {job.id: _run(catalog, job) for job in jobs}
    values = {"jobs": [_values(job, runs[job.id]) for job in jobs]}
    bad = next((job for job in jobs if job.state != "done"), None)
    if bad is not None:
        raise _failure(bad, runs[bad.id], values)
    if settings.json:
        output.document(kind, values)
        return
    for one in values["jobs"]:
        came = f"{output.count(one['rows'])} rows" if kind == "run" else "the drill passed"
        output.say(f"snapshot {str(one['snapshot'])[:12]} of {one['source']}: {came}")


def _run(catalog: "Catalog", job: "Job") -> "Run | None":
    """The job's newest attempt, as the daemon wrote it down."""
    runs = catalog.runs.list(policy=job.spec.policy, source=job.spec.source, kinds=[job.spec.kind], since=job.submitted)
    return next((run for run in runs if run.job == job.id), None)


def _values(job: "Job", run: "Run | None") -> dict[str, Any]:
    end = run.end if run else None
    return {
        "job": job.id,
        "policy": job.spec.policy,
        "source": job.spec.source,
        "outcome": job.state,
        "attempts": job.attempt,
        "snapshot": end.snapshot if end else None,
        "read_bytes": end.read_bytes if end else None,
        "stored_bytes": end.stored_bytes if end else None,
        "rows": end.rows if end else None,
        "seconds": end.seconds if end else None,
    }


def _failure(job: "Job", run: "Run | None", values: Mapping[str, Any]) -> BackupdError:
    """The error of a job that is not done: with the code with which its last attempt ended."""
    end = run.end if run else None
    said = job.detail or (end.error_message if end else None) or "see the daemon's log"
    error = Failed(
        f"job {job.id}, the {job.spec.kind} of {job.spec.source}, is {job.state}: {said}", object_name=job.spec.source
    )
    error.exit = _EXITS.get(job.state, Exit.FAILED)
    if end is not None and end.error_exit in set(Exit) and job.state == "failed":
        error.exit, error.code = Exit(end.error_exit), end.error_code or error.code
    error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
    return error
