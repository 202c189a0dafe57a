"""What is due goes into the queue once: over restarts, sleep, clocks that jump, and two schedulers at work."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.catalog.opening import Catalog
from backupd.daemon.commands import Here, arguments
from backupd.daemon.planner import Planner, Timer
from backupd.daemon.timetable import Task, tasks_of
from backupd.errors import UsageError
from backupd.policy.model import Policy
from backupd.policy.schedule import Planned, Timing
from backupd.wiring import open_catalog
from tests.unit.daemon.kit import NOW, policy

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
VERIFY = [{"level": "bytes", "every": "1d"}]
AT = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with open_catalog(tmp_path) as opened:
        yield opened


def planner(catalog: Catalog, now: datetime, *policies: Policy) -> Planner:
    """One that has just started."""
    started = Planner(catalog.queue, catalog.plans)
    started.take(tasks_of(policies or [nightly()]), now)
    return started


def nightly(name: str = "crm", **more: Any) -> Policy:
    """Runs at half past two and nothing else."""
    return policy(name, keys={"write": "file:/keys/write.key"}, **more)


def plan(this: Planner, now: datetime) -> list[str]:
    """The jobs that are new, but for looks at repositories."""
    return [job.key for job in this.plan(now) if job.kind != "refresh"]


def test_a_new_policy_begins_now(catalog: Catalog) -> None:
    """Nothing of its past was missed, and the next time comes once."""
    this = planner(catalog, AT)
    assert plan(this, AT) == []
    assert plan(this, AT + 14 * HOUR) == []
    assert plan(this, AT + 15 * HOUR) == ["crm/db:2026-03-11T02:30:00Z"]
    assert plan(this, AT + 15 * HOUR) == []


def test_a_restart_neither_repeats_nor_forgets(catalog: Catalog) -> None:
    planner(catalog, AT)
    assert plan(planner(catalog, AT + 15 * HOUR), AT + 15 * HOUR) == ["crm/db:2026-03-11T02:30:00Z"]
    assert plan(planner(catalog, AT + 16 * HOUR), AT + 16 * HOUR) == []


def test_a_crash_before_it_was_remembered_repeats_nothing(catalog: Catalog) -> None:
    """The job is in the queue, the plan is not yet: its key is known there, also once it has ended."""
    this = planner(catalog, AT)
    plan(this, AT + 15 * HOUR)
    catalog.plans.remember({"crm/db": AT})
    claim = catalog.queue.claim("w", AT + 15 * HOUR, 60, ["run"])
    assert claim is not None
    assert catalog.queue.finish(claim, AT + 15 * HOUR, "done")
    assert plan(planner(catalog, AT + 16 * HOUR), AT + 16 * HOUR) == []


def test_a_week_of_sleep_is_made_up_for_by_one_run(catalog: Catalog) -> None:
    this = planner(catalog, AT)
    assert plan(this, AT + 7 * DAY) == ["crm/db:2026-03-17T02:30:00Z"]
    assert plan(this, AT + 7 * DAY + HOUR) == []


def test_or_by_none_if_the_policy_says_so(catalog: Catalog) -> None:
    this = planner(catalog, AT, nightly(schedule={"cron": "30 2 * * *", "catch_up": "never"}))
    assert plan(this, AT + 7 * DAY) == []
    assert plan(this, AT + 7 * DAY + 14 * HOUR + timedelta(minutes=31)) == ["crm/db:2026-03-18T02:30:00Z"]


def test_a_clock_put_back_repeats_nothing(catalog: Catalog) -> None:
    """By half an hour and by a day: the job of that time is known."""
    this = planner(catalog, AT)
    at = datetime(2026, 3, 11, 2, 31, tzinfo=UTC)
    assert len(plan(this, at)) == 1
    assert plan(this, at - HOUR / 2) == []
    assert plan(this, at) == []
    assert plan(this, at - 3 * DAY + HOUR) == ["crm/db:2026-03-08T02:30:00Z"], "a new time: it was never run"
    assert plan(this, at) == []


@pytest.mark.parametrize("boot", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC)])
def test_a_clock_that_was_years_behind_at_boot(catalog: Catalog, boot: datetime) -> None:
    """One run when it is set right, and the usual ones from then on."""
    this = planner(catalog, boot)
    plan(this, boot + HOUR)
    assert plan(this, AT) == ["crm/db:2026-03-10T02:30:00Z"]
    assert plan(this, AT + DAY) == ["crm/db:2026-03-11T02:30:00Z"]


def test_a_clock_that_was_years_ahead_at_boot(catalog: Catalog) -> None:
    """What was planned in the future keeps nothing from being done now, and its jobs do not wait for that future."""
    ahead = datetime(2041, 6, 1, 12, 0, tzinfo=UTC)
    this = planner(catalog, ahead)
    assert plan(this, ahead + DAY) == ["crm/db:2041-06-02T02:30:00Z"]
    assert plan(this, AT) == ["crm/db:2026-03-10T02:30:00Z"]
    catalog.queue.recover(AT)
    first = catalog.queue.claim("w", AT, 60, ["run"])
    assert first is not None, "a job of the future holds nothing up"
    catalog.queue.finish(first, AT, "done")
    assert catalog.queue.claim("w", AT, 60, ["run"]) is not None, "and does not wait for it either"
    assert plan(planner(catalog, AT + DAY), AT + DAY) == ["crm/db:2026-03-11T02:30:00Z"]


def test_two_schedulers_on_one_catalog_submit_once(catalog: Catalog) -> None:
    one, two = planner(catalog, AT), planner(catalog, AT)
    at = AT + 15 * HOUR
    barrier = threading.Barrier(2)
    found: list[str] = []

    def go(this: Planner) -> None:
        barrier.wait()
        found.extend(plan(this, at))

    threads = [threading.Thread(target=go, args=(this,)) for this in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["crm/db:2026-03-11T02:30:00Z"]
    assert plan(one, at + DAY) + plan(two, at + DAY) == ["crm/db:2026-03-12T02:30:00Z"]


def test_a_policy_that_was_removed_plans_nothing(catalog: Catalog) -> None:
    this = planner(catalog, AT, nightly(), nightly("web"))
    this.take(tasks_of([nightly("web")]), AT)
    assert plan(this, AT + DAY) == ["web/db:2026-03-11T02:30:00Z"]
    assert {task.policy.policy for task, _ in this.upcoming(AT)} == {"web"}


def test_work_without_its_key_is_left_to_the_host_that_has_it() -> None:
    verify = [{"level": level, "every": "1d"} for level in ("structure", "content")]
    more: dict[str, Any] = {"verify": verify, "retention": {"keep": {"last": 3}}}
    kinds = lambda **keys: sorted({task.kind for task in tasks_of([policy(**more, keys=keys)])})  # noqa: E731
    key = "file:/k"
    assert kinds() == []
    assert kinds(write=key) == ["refresh", "run"]
    assert kinds(prune=key) == ["prune", "refresh"]
    assert [t.payload["level"] for t in tasks_of([policy(**more, keys={"check": key})]) if t.payload] == ["structure"]
    assert [t.payload["level"] for t in tasks_of([policy(**more, keys={"read": key})]) if t.payload] == [
        "structure",
        "content",
    ]
    more["drill"] = {"every": "7d"}
    assert kinds(write=key, check=key, prune=key) == ["prune", "refresh", "run", "verify"]
    assert kinds(read=key) == ["drill", "refresh", "verify"]


def test_what_a_policy_says_twice_is_done_once_and_no_name_stands_for_two(catalog: Catalog) -> None:
    """Two verifications of one level with different samples are two tasks; the same one twice is one."""
    verify = [
        {"level": "content", "sample": "5%", "every": "1d"},
        {"level": "content", "sample": "100%", "every": "30d"},
        {"level": "content", "sample": "5%", "every": "1d"},
    ]
    tasks = tasks_of([policy(verify=verify)])
    names = [task.name for task in tasks]
    assert len(names) == len(set(names))
    assert sum(task.kind == "verify" for task in tasks) == 2
    timer = Timer(lambda: None)
    timer.start()
    try:
        timer.take(tasks)
        timer.take(tasks)
    finally:
        timer.stop()


def test_a_verification_that_failed_is_tried_again_once(catalog: Catalog) -> None:
    """At the time that is remembered, also after a restart; not if its own time came first, and not if nobody wants it."""
    weekly = policy(verify=[{"level": "bytes", "every": "7d"}], keys={"check": "file:/keys/check.key"})
    this, at = planner(catalog, AT, weekly), AT + HOUR
    catalog.plans.remember({"again:crm:bytes": at})
    assert plan(this, at - timedelta(seconds=1)) == []
    again = "verify:crm:bytes:100:2026-03-10T13:00:00Z"
    two = planner(catalog, AT, weekly)
    (job,) = this.plan(at + HOUR)
    assert (job.key, job.payload["again"]) == (again, True)
    assert plan(this, at + 2 * HOUR) + plan(two, at + 2 * HOUR) + plan(planner(catalog, at, weekly), at + DAY) == []
    assert len(plan(this, AT + 7 * DAY)) == 1
    catalog.plans.remember({"again:crm:bytes": at + DAY})
    assert plan(this, AT + 7 * DAY) == [], "its own time has come since"
    catalog.plans.remember({"again:crm:bytes": AT + 8 * DAY})
    this.take(tasks_of([policy()]), AT + 8 * DAY)
    assert plan(this, AT + 8 * DAY + HOUR) == [], "nobody wants it any more"


DRILL: dict[str, Any] = {"drill": {"every": "7d"}, "keys": {"read": "file:/keys/read.key"}}


def test_a_first_drill_comes_soon_and_the_others_every_so_often(catalog: Catalog) -> None:
    """Within the spread after its source is first seen, once; a restart changes nothing."""
    weekly = policy(**DRILL)
    this, found = planner(catalog, AT, weekly), []
    for hours in range(24 * 29):
        found += plan(this, AT + hours * HOUR)
        if hours == 100:
            this = planner(catalog, AT + hours * HOUR, weekly)
    assert [key.partition("T")[0] for key in found] == [f"drill:crm:db:2026-03-{day:02}" for day in (5, 12, 19, 26)] + [
        "drill:crm:db:2026-04-02"
    ]


def test_a_drill_waits_for_its_first_snapshot(catalog: Catalog) -> None:
    """It stays due, and so does one that is to be tried again; nothing else waits."""
    there: list[bool] = []
    this = Planner(catalog.queue, catalog.plans, lambda task: task.kind != "drill" or bool(there))
    this.take(tasks_of([policy(**DRILL, verify=VERIFY)]), AT)
    assert {job.kind for hours in range(50) for job in this.plan(AT + hours * HOUR)} == {"refresh", "verify"}
    there.append(True)
    assert [key for key in plan(this, AT + 50 * HOUR) if key.startswith("drill")] == [
        "drill:crm:db:2026-03-12T00:00:00Z"
    ]
    there.clear()
    catalog.plans.remember({"again:drill:crm:db": AT + 51 * HOUR})
    assert plan(this, AT + 52 * HOUR) == []
    there.append(True)
    (job,) = [job for job in this.plan(AT + 53 * HOUR) if job.kind == "drill"]
    assert (job.source, job.payload["again"], job.lock) == ("db", True, "drill:file:///backup/repo:db")


def test_the_command_of_a_drill_is_what_a_person_would_type() -> None:
    """Its source may have any name; one that the policy does not name is none."""
    here = Here(Path("/policies"), Path("/state"))
    words = ["drill", "--config", "/policies", "--state", "/state", "--json", "--", "crm", "--help"]
    assert arguments("drill", policy("crm", "--help"), "--help", {}, here) == words
    with pytest.raises(UsageError):
        arguments("drill", policy(), None, {}, here)


def test_jobs_that_must_not_run_at_once_share_a_lock() -> None:
    one, two = policy("a", "x", "y"), policy("b", "x")
    locks = {(task.policy.policy, task.source): task.lock for task in tasks_of([one, two]) if task.kind == "run"}
    assert locks["a", "x"] == locks["b", "x"], "one source of one repository, whichever policy names it"
    assert locks["a", "x"] != locks["a", "y"]


def test_what_is_wanted_now_goes_before_all_runs_and_is_asked_for_once_a_minute(catalog: Catalog) -> None:
    this = planner(catalog, AT)
    refresh = [task for task in tasks_of([nightly()]) if task.kind == "refresh"]
    for second in range(3):
        this.do_now(refresh, AT + timedelta(seconds=second))
    plan(this, AT + 15 * HOUR)
    first = catalog.queue.claim("w", AT + 15 * HOUR, 60)
    assert first is not None
    assert first.spec.kind == "refresh"
    assert sum(job.spec.kind == "refresh" and job.submitted < AT + HOUR for job in catalog.queue.list()) == 1


def test_a_memory_that_fails_leaves_the_tasks_as_they_were(catalog: Catalog) -> None:
    class Broken:
        def planned(self) -> dict[str, datetime]:
            return {}

        def remember(self, times: object) -> None:
            raise OSError

    this = planner(catalog, AT)
    this._memory = Broken()
    with pytest.raises(OSError):
        this.take(tasks_of([nightly("web")]), AT)
    assert this.names == {task.name for task in tasks_of([nightly()])}


def test_the_timer_wakes_when_a_time_comes() -> None:
    """For real, once: whatever its pool of threads and its clock do."""
    woken = threading.Event()
    timer = Timer(woken.set)
    timer.start()
    try:
        timer.take([Task("run", nightly(), Timing("x", every=timedelta(seconds=1)), "db")])
        assert woken.wait(20)
        timer.take([])
        assert timer._scheduler.get_jobs() == []
    finally:
        timer.stop()


def test_a_plan_that_no_task_has_is_forgotten_after_a_year(catalog: Catalog) -> None:
    """What a policy still has is not, however rare it is."""
    long_ago = NOW - timedelta(days=500)
    catalog.plans.remember({"gone": long_ago, "rare": long_ago, "fresh": NOW})
    assert catalog.plans.purge(NOW - timedelta(days=400), {"rare"}) == 1
    assert set(catalog.plans.planned()) == {"rare", "fresh"}


def test_every_job_has_an_end() -> None:
    """A job that hangs holds its lock for a day at the longest; a run for as long as its policy says."""
    planned = Planned(AT, AT)
    limits = {task.kind: task.job(planned).max_seconds for task in tasks_of([nightly(verify=VERIFY), policy("all")])}
    assert limits == dict.fromkeys(limits, 86_400.0)
    (run,) = [t for t in tasks_of([nightly(schedule={"cron": "30 2 * * *", "max_duration": "4h"})]) if t.kind == "run"]
    assert run.job(planned).max_seconds == 4 * 3600
