"""Puts what is due into the queue, and remembers it in the catalog, so that a restart neither repeats nor forgets."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from backupd.catalog.queue import JobSpec, Queue
from backupd.daemon.timetable import PRIORITY, Task
from backupd.policy.schedule import Planned

LOOK = timedelta(seconds=30)
"""So often everything is looked at, whatever the timer says: clocks are put forward and back, and machines sleep."""


class Memory(Protocol):
    """Where it is remembered for when each task was planned last."""

    def planned(self) -> dict[str, datetime]:
        """Of each task's name the time."""

    def remember(self, times: Mapping[str, datetime]) -> None:
        """That tasks were planned for these times."""


class Planner:
    """Plans the tasks of the policies in force. For one thread.

    Args:
        queue: where jobs go.
        memory: what was planned before.
        ready: whether a task can be done at all; one that cannot stays due.
    """

    def __init__(self, queue: Queue, memory: Memory, ready: Callable[[Task], bool] = lambda _task: True) -> None:
        self._queue, self._memory, self._ready = queue, memory, ready
        self._tasks: list[Task] = []
        self._planned: dict[str, datetime] = {}

    def take(self, tasks: Iterable[Task], now: datetime) -> None:
        """New policies are in force. A task that was never planned begins now, see `Task.begins`."""
        tasks = list(tasks)
        known = self._memory.planned()
        new = {task.name: task.begins(now) for task in tasks if task.name not in known}
        self._memory.remember(new)
        self._tasks = tasks
        known |= new
        self._planned = {task.name: known[task.name] for task in tasks}

    @property
    def names(self) -> frozenset[str]:
        """Of all tasks."""
        return frozenset(self._planned)

    def do_now(self, tasks: Iterable[Task], now: datetime) -> None:
        """Have these done before all runs, besides their times; once a minute at most, however often it is asked for."""
        minute = now.replace(second=0, microsecond=0)
        for task in tasks:
            self._queue.submit(replace(task.job(Planned(minute, now)), priority=PRIORITY["run"] + 1), now)

    def plan(self, now: datetime) -> list[JobSpec]:
        """Submit what is due; returns the jobs that are new."""
        jobs = [
            self._submit(task, planned, now)
            for task in self._tasks
            for planned in task.timing.due(self._planned[task.name], now)
            if self._ready(task)
        ]
        return [job for job in [*jobs, *self._failed(now)] if job is not None]

    def _failed(self, now: datetime) -> Iterator[JobSpec | None]:
        """Proofs that failed, and whose time to be tried again has come."""
        proofs = [task for task in self._tasks if task.promise is not None]
        known = {**self._memory.planned(), **self._planned} if proofs else {}
        for task in proofs:
            at = task.again(known)
            if at is not None and at <= now and self._ready(task):
                yield self._submit(task, Planned(at, at), now, again=True)

    def _submit(self, task: Task, planned: Planned, now: datetime, *, again: bool = False) -> JobSpec | None:
        """Remembered only once it is in the queue: a crash in between finds the job's key there already."""
        job = task.job(planned, again=again)
        new = self._queue.submit(job, now)
        self._set(task, planned.at)
        return job if new else None

    def _set(self, task: Task, at: datetime) -> None:
        self._planned[task.name] = at
        self._memory.remember({task.name: at})

    def upcoming(self, now: datetime) -> Iterator[tuple[Task, datetime]]:
        """When each task starts next."""
        for task in self._tasks:
            start = task.next_start(now)
            if start is not None:
                yield task, start


class _Trigger(BaseTrigger):  # type: ignore[misc]  # the library has no types
    """A task's own times, in place of the library's cron, which takes 0 for Monday and fires twice when clocks go back."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """When the task starts after the last time, or after now."""
        return self._task.next_start(max(now, previous_fire_time) if previous_fire_time else now)


class Timer:
    """Wakes the daemon when a task's time comes (APScheduler, in memory: what is planned is not kept here)."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        options: dict[str, Any] = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler = BackgroundScheduler(job_defaults=options, timezone="UTC")

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def take(self, tasks: Iterable[Task]) -> None:
        """Wake for these tasks, and for no others."""
        with self._lock:
            self._scheduler.remove_all_jobs()
            for task in tasks:
                self._scheduler.add_job(self._wake, _Trigger(task), id=task.name)

    def stop(self) -> None:
        """End; what is under way is nothing but a wake-up."""
        self._scheduler.shutdown(wait=False)
