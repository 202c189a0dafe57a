"""What a worker that died leaves behind: jobs that nobody has, and runs that nobody ended. Nothing may stay open for ever."""

from collections.abc import Callable
from datetime import datetime, timedelta

from backupd.catalog.opening import Catalog
from backupd.catalog.queue import Job, JobSpec
from backupd.catalog.runs import Run, RunEnd
from backupd.daemon.logs import Logger

_GRACE = timedelta(minutes=5)
"""So long a worker is given between telling the queue and writing the rest down."""
_FORGOTTEN = timedelta(days=1)
"""A job that is not among the newest is over after so long."""
_LOOK_AT = 2000
_BAD = ("failed", "lost", "incomplete")


class Recovery:
    """For the main thread.

    Args:
        catalog: with the queue and the runs.
        failed: told of each job that is over without anybody having heard how: the job, its id, the time and why.
        log: says what was found.
    """

    def __init__(self, catalog: Catalog, failed: Callable[[JobSpec, str, datetime, str], None], log: Logger) -> None:
        self._catalog, self._failed, self._log = catalog, failed, log

    def look(self, now: datetime) -> None:
        """Find jobs whose worker is gone, and runs whose job is over."""
        for lost in self._catalog.queue.recover(now):
            self._log.warning("a worker is gone", worker=lost.worker, job=lost.spec.key, outcome=lost.outcome)
            if lost.outcome == "lost":
                self._failed(lost.spec, lost.id, now, "its worker was gone, and that was its last attempt")
            self._catalog.runs.lose(lost.id, lost.attempt, now)
        self._orphans(now)

    def _orphans(self, now: datetime) -> None:
        """Runs that have not ended though their jobs have: their worker died between writing down the one and the other."""
        queue, left = self._catalog.queue, [run for run in self._catalog.runs.unfinished() if run.job]
        if left:
            running = {(job.id, job.attempt) for job in queue.list(["running"], limit=_LOOK_AT)}
            left = [r for r in left if (r.job, r.attempt) not in running and abs(now - r.started) > _GRACE]
        if not left:
            return
        jobs = {job.id: job for job in queue.list(limit=_LOOK_AT)}
        for run in left:
            job = jobs.get(run.job or "")
            end = _end_of(run, job, now)
            if end is None:
                continue
            self._log.warning("a run was left open", job=run.job, policy=run.policy, outcome=end.outcome)
            if job is not None and end.outcome in _BAD and job.state == end.outcome:
                self._failed(job.spec, job.id, now, end.error_message or "its worker was gone")
            self._catalog.runs.finish(run.id, now, end)


def _end_of(run: Run, job: Job | None, now: datetime) -> RunEnd | None:
    """How an open run ended, by what is known of its job; None if it may still be at work."""
    if job is None:
        return RunEnd("lost") if now - run.started > _FORGOTTEN else None
    if job.attempt > run.attempt:
        return RunEnd("lost")
    if job.ended is None or now - job.ended < _GRACE:
        return None
    if job.state == "done":
        return RunEnd("done", snapshot=job.detail or None)
    return RunEnd(job.state, error_message=job.detail or None)
