"""What every queue must do: the port's promises, one by one, against every adapter."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.catalog.queue import Claim, JobOutcome, JobSpec, Queue
from backupd.wiring import open_catalog
from tests.catalogs import Fresh, on_server
from tests.servers.postgres import PostgresServer

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
LEASE = 60.0


@dataclass(frozen=True, slots=True)
class Adapter:
    """A queue, and the URL under which another process finds it."""

    queue: Queue
    url: str


@pytest.fixture(scope="module")
def server_catalog(postgres_servers: Callable[[int], PostgresServer]) -> Iterator[Fresh]:
    """A catalog on a real server; each call empties it."""
    with on_server(postgres_servers(18)) as fresh:
        yield fresh


@pytest.fixture(params=["file", "server"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Adapter]:
    """A fresh, empty queue of each kind."""
    if request.param == "server":
        catalog, url = request.getfixturevalue("server_catalog")()
        yield Adapter(catalog.queue, url)
        return
    with open_catalog(tmp_path) as catalog:
        yield Adapter(catalog.queue, f"sqlite:///{tmp_path}/catalog.sqlite")


@pytest.fixture
def queue(adapter: Adapter) -> Queue:
    return adapter.queue


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def spec(key: str, **values: Any) -> JobSpec:
    """A job; its lock is its own unless one is given."""
    return JobSpec(**{"kind": "run", "policy": "p", "source": key, "lock": key, **values}, key=key)


def submit(queue: Queue, *specs: JobSpec, now: datetime = NOW) -> list[str]:
    ids = [queue.submit(one, now) for one in specs]
    assert None not in ids
    return [str(one) for one in ids]


def claim(queue: Queue, now: datetime = NOW, **values: Any) -> Claim:
    found = queue.claim("w", now, LEASE, **values)
    assert found is not None
    return found


def keys(queue: Queue, now: datetime) -> list[str]:
    """Claim all that can be had; the keys in the order."""
    found = []
    while (one := queue.claim("w", now, LEASE)) is not None:
        found.append(one.spec.key)
    return found


def state(queue: Queue, wanted: str) -> tuple[str, int]:
    (job,) = [job for job in queue.list() if job.id == wanted]
    return job.state, job.attempt


def test_a_job_comes_as_it_was_submitted(queue: Queue) -> None:
    """Every field of a spec survives; the claim is the first attempt, and its lease is what was asked for."""
    full = JobSpec(
        "restore",
        "customers-nightly",
        None,
        "key ä",
        "lock",
        -3,
        {"list": [1, 2.5, None, True, "ä"], "map": {"a": {}}},
        NOW - timedelta(microseconds=1),
        5,
        90.5,
    )
    (one,) = submit(queue, full)
    got = claim(queue)
    assert (got.id, got.spec, got.attempt, got.lease_until) == (one, full, 1, later(LEASE))
    (job,) = queue.list()
    assert (job.state, job.worker, job.started, job.submitted) == ("running", "w", NOW, NOW)


def test_an_empty_queue_gives_nothing(queue: Queue) -> None:
    assert queue.claim("w", NOW, LEASE) is None
    assert (queue.list(), queue.recover(NOW), queue.oldest_due(NOW), queue.purge(NOW)) == ([], [], None, 0)
    assert set(queue.counts().values()) == {0}


def test_the_highest_priority_and_then_the_one_due_longest_goes_first(queue: Queue) -> None:
    """Priority beats age; of the same priority, the moment from which a job may run decides, then who came first."""
    submit(queue, spec("c", not_before=later(-10)), spec("d"), spec("e"), spec("a", priority=5), spec("z", priority=-1))
    submit(queue, spec("b", not_before=later(-20)), now=later(1))
    assert keys(queue, later(2)) == ["a", "b", "c", "d", "e", "z"]


def test_never_before_its_time(queue: Queue) -> None:
    """A job waits for its moment, whatever its priority."""
    submit(queue, spec("a", not_before=later(10), priority=9))
    assert queue.claim("w", later(9.999999), LEASE) is None
    assert queue.oldest_due(later(9)) is None
    assert queue.oldest_due(later(11)) == later(10)
    assert keys(queue, later(10)) == ["a"]


def test_one_job_of_a_lock_at_a_time(queue: Queue) -> None:
    """A held lock passes its jobs over and blocks no other; each way of ending an attempt frees it."""
    submit(queue, *[spec(f"crm-{n}", lock="crm", priority=9) for n in range(4)], spec("other"))
    first = claim(queue)
    assert first.spec.key == "crm-0"
    assert keys(queue, NOW) == ["other"]
    assert queue.finish(first, later(1), "done")
    second = claim(queue, later(1))
    assert second.spec.key == "crm-1"
    assert queue.fail(second, later(1), retry_at=later(500))
    third = claim(queue, later(1))
    assert third.spec.key == "crm-2"
    assert queue.claim("w", later(2), LEASE) is None
    assert [lost.id for lost in queue.recover(later(1 + 2 * LEASE)) if lost.id == third.id] == [third.id]
    assert claim(queue, later(1 + 2 * LEASE)).spec.lock == "crm"


def test_a_slot_for_restores(queue: Queue) -> None:
    """A worker that claims only restores has a restore at once, however many others wait."""
    submit(queue, *[spec(f"run-{n}", priority=9) for n in range(50)], spec("r", kind="restore"))
    assert claim(queue, kinds={"restore"}).spec.key == "r"
    assert queue.claim("w", NOW, LEASE, kinds={"restore"}) is None
    assert queue.claim("w", NOW, LEASE, kinds=[]) is None
    assert claim(queue, kinds=["verify", "run"]).spec.kind == "run"


def test_a_key_is_known_until_it_is_purged(queue: Queue) -> None:
    """A second submission is refused while the first waits, runs, and after its end, until it is forgotten."""
    twin = spec("a", kind="drill", lock="x")
    submit(queue, spec("a"))
    assert queue.submit(twin, NOW) is None
    mine = claim(queue)
    assert queue.submit(twin, NOW) is None
    queue.finish(mine, later(5), "done")
    assert queue.submit(twin, later(6)) is None
    assert queue.purge(later(5)) == 0
    assert queue.purge(later(5.1)) == 1
    assert submit(queue, twin) != [mine.id]
    assert queue.purge(later(1e9)) == 0


def test_a_retry_waits_for_its_time_and_counts(queue: Queue) -> None:
    """A failed attempt is queued again as the next one; after the last the job has failed."""
    (one,) = submit(queue, spec("a", max_attempts=2))
    assert queue.fail(claim(queue), NOW, "storage refused", later(30))
    assert state(queue, one) == ("queued", 2)
    assert queue.list()[0].detail == "storage refused"
    assert queue.claim("w", later(29), LEASE) is None
    again = claim(queue, later(30))
    assert again.attempt == 2
    assert queue.fail(again, later(31), "again", later(60))
    assert state(queue, one) == ("failed", 2)
    assert queue.claim("w", later(1000), LEASE) is None


def test_a_failure_without_a_retry_is_final(queue: Queue) -> None:
    (one,) = submit(queue, spec("a"))
    assert queue.fail(claim(queue), NOW, "no such database")
    assert state(queue, one) == ("failed", 1)


@pytest.mark.parametrize("outcome", ["done", "failed", "incomplete", "cancelled", "lost"])
def test_a_finished_job_is_in_the_state_of_its_outcome(queue: Queue, outcome: JobOutcome) -> None:
    (one,) = submit(queue, spec("a"))
    mine = claim(queue)
    assert queue.finish(mine, later(1), outcome, "3 warnings")
    (job,) = queue.list([outcome])
    assert (job.id, job.ended, job.detail, job.lease_until) == (one, later(1), "3 warnings", None)
    assert queue.counts()[outcome] == 1
    assert not queue.finish(mine, later(2), "done")
    assert not queue.heartbeat(mine, later(2), LEASE)


def test_a_queued_job_that_is_cancelled_never_runs(queue: Queue) -> None:
    (one,) = submit(queue, spec("a"))
    assert queue.cancel(one, NOW)
    assert not queue.cancel(one, NOW)
    assert state(queue, one) == ("cancelled", 1)
    assert queue.claim("w", NOW, LEASE) is None
    assert not queue.cancel("999999", NOW)
    assert not queue.cancel("no-id", NOW)


def test_a_running_job_that_is_cancelled_keeps_its_lock_until_it_stopped(queue: Queue) -> None:
    """Its heartbeat is refused; only when its worker says that it stopped does the next one of the lock run."""
    one, _ = submit(queue, spec("a", lock="crm"), spec("b", lock="crm"))
    mine = claim(queue)
    assert queue.cancel(one, NOW)
    assert not queue.heartbeat(mine, later(1), LEASE)
    assert [job.cancelling for job in queue.list(["running"])] == [True]
    assert queue.claim("w", later(1), LEASE) is None
    assert queue.fail(mine, later(2), "stopped", later(3))
    assert state(queue, one) == ("cancelled", 1)
    assert claim(queue, later(2)).spec.key == "b"


def test_a_cancelled_job_whose_worker_is_gone_ends_with_its_lease(queue: Queue) -> None:
    (one,) = submit(queue, spec("a"))
    mine = claim(queue)
    queue.cancel(one, NOW)
    assert queue.recover(later(LEASE - 1)) == []
    assert [(lost.id, lost.outcome) for lost in queue.recover(later(LEASE))] == [(one, "cancelled")]
    assert state(queue, one) == ("cancelled", 1)
    assert not queue.fail(mine, later(LEASE), "late")


def test_a_job_that_was_done_before_it_heard_of_its_end_is_done(queue: Queue) -> None:
    (one,) = submit(queue, spec("a"))
    mine = claim(queue)
    queue.cancel(one, NOW)
    assert queue.finish(mine, NOW, "done")
    assert state(queue, one) == ("done", 1)


def test_a_lease_that_runs_out_gives_the_job_to_another(queue: Queue) -> None:
    """It is the next attempt, for another worker; after the last attempt the job is lost."""
    (one,) = submit(queue, spec("a", max_attempts=2))
    assert claim(queue).lease_until == later(LEASE)
    assert queue.recover(later(LEASE - 0.000001)) == []
    assert queue.claim("other", later(LEASE), LEASE) is None, "only recover takes a job away"
    (lost,) = queue.recover(later(LEASE))
    assert (lost.id, lost.attempt, lost.worker, lost.outcome, lost.spec.key) == (one, 1, "w", None, "a")
    assert queue.recover(later(LEASE)) == []
    second = queue.claim("other", later(LEASE), LEASE)
    assert second is not None
    assert second.attempt == 2
    (lost,) = queue.recover(later(3 * LEASE))
    assert (lost.attempt, lost.worker, lost.outcome) == (2, "other", "lost")
    assert state(queue, one) == ("lost", 2)


def test_a_worker_that_is_known_to_be_dead_is_not_waited_for(queue: Queue) -> None:
    """Its jobs go to others at once; those of the living stay, and what the dead one had ended."""
    submit(queue, spec("a"), spec("b"), spec("c"))
    done, theirs, mine = (queue.claim(worker, NOW, LEASE) for worker in ("dead", "dead", "living"))
    assert done is not None
    assert theirs is not None
    assert mine is not None
    assert queue.finish(done, NOW, "done")
    assert queue.disown("nobody", NOW) == 0
    assert queue.disown("dead", NOW) == 1
    assert [lost.id for lost in queue.recover(NOW)] == [theirs.id]
    assert not queue.heartbeat(theirs, NOW, LEASE)
    assert queue.heartbeat(mine, NOW, LEASE)
    assert claim(queue).attempt == 2


def test_a_heartbeat_keeps_the_job(queue: Queue) -> None:
    """A lease counts from the newest heartbeat, also from one that came late but before anybody took the job."""
    submit(queue, spec("a"))
    mine = claim(queue)
    assert queue.heartbeat(mine, later(50), LEASE)
    assert queue.recover(later(50 + LEASE - 1)) == []
    assert queue.heartbeat(mine, later(50 + LEASE + 5), LEASE)
    assert queue.recover(later(50 + LEASE + 6)) == []


def test_a_zombie_changes_nothing(queue: Queue) -> None:
    """Who lost a claim can neither renew, finish nor fail it, before and after another has it, and after its end."""
    (one,) = submit(queue, spec("a"))
    zombie = claim(queue)
    queue.recover(later(LEASE))

    def refused() -> bool:
        at = later(LEASE + 1)
        tries = [queue.heartbeat(zombie, at, LEASE), queue.finish(zombie, at, "done", "zombie")]
        return not any([*tries, queue.fail(zombie, at, "zombie"), queue.fail(zombie, at, "zombie", at)])

    before = queue.list()
    assert refused()
    assert queue.list() == before
    heir = claim(queue, later(LEASE))
    assert heir.token != zombie.token
    assert refused()
    assert queue.list()[0].worker == "w"
    assert queue.list()[0].detail == ""
    assert not queue.heartbeat(replace(heir, token=zombie.token), later(LEASE), LEASE)
    assert not queue.heartbeat(replace(heir, attempt=1), later(LEASE), LEASE)
    assert queue.finish(heir, later(LEASE + 2), "done", "heir")
    assert refused()
    assert (state(queue, one), queue.list()[0].detail) == (("done", 2), "heir")


def test_a_clock_that_jumps_back_leaves_no_job_to_the_dead(queue: Queue) -> None:
    """A lease from before the jump lasts at most as long as it was given for, counted from the first look after it."""
    (one,) = submit(queue, spec("a"))
    claim(queue)
    back = NOW - timedelta(days=30)
    assert queue.recover(back) == []
    assert queue.recover(back + timedelta(seconds=LEASE - 1)) == []
    assert [lost.id for lost in queue.recover(back + timedelta(seconds=LEASE))] == [one]
    assert claim(queue, back + timedelta(seconds=LEASE)).attempt == 2


def test_a_clock_that_jumps_back_takes_no_job_from_the_living(queue: Queue) -> None:
    """Nobody else gets the job, its lock stays held, and its worker goes on renewing and finishes it."""
    submit(queue, spec("a", lock="crm"), spec("b", lock="crm"))
    mine = claim(queue)
    back = NOW - timedelta(days=30)
    for n in range(1, 40):
        now = back + timedelta(seconds=10 * n)
        assert queue.claim("other", now, LEASE) is None
        assert queue.recover(now) == []
        if n % 3 == 0:
            assert queue.heartbeat(mine, now, LEASE)
    assert queue.finish(mine, back, "done")


def test_a_clock_that_jumps_back_does_not_hold_up_what_may_run(queue: Queue) -> None:
    """What may run at once, and a retry's pause, count anew from the jump; an appointment stays what it is."""
    submit(queue, spec("now"), spec("retry"), spec("fixed", not_before=later(-60)))
    retry = next(one for one in iter(lambda: claim(queue), None) if one.spec.key == "retry")
    queue.fail(retry, NOW, "", later(300))
    back = NOW - timedelta(days=30)
    for one in queue.list(["running"]):
        assert one.spec.key in {"now", "fixed"}
    queue.recover(back)
    queue.recover(back + timedelta(seconds=LEASE))
    assert "retry" not in keys(queue, back + timedelta(seconds=299))
    assert keys(queue, back + timedelta(seconds=300)) == ["retry"]
    submit(queue, spec("now 2"), spec("fixed 2", not_before=later(-60)))
    again = back - timedelta(days=1)
    queue.recover(again)
    assert keys(queue, again) == ["now 2"]
    assert "fixed 2" in keys(queue, later(-60))


def test_a_clock_that_jumps_ahead_gives_a_job_to_one_owner(queue: Queue) -> None:
    """A worker that gives its heartbeat first keeps its job; one that does not is fenced off before another has it."""
    submit(queue, spec("a"), spec("b"))
    quick, slow = claim(queue), claim(queue)
    ahead = NOW + timedelta(days=30)
    assert queue.heartbeat(quick, ahead, LEASE)
    assert [lost.id for lost in queue.recover(ahead)] == [slow.id]
    assert claim(queue, ahead).id == slow.id
    assert not queue.heartbeat(slow, ahead, LEASE)
    assert not queue.finish(slow, ahead, "done")
    assert queue.finish(quick, ahead, "done")


def test_lists_are_bounded_and_newest_first(queue: Queue) -> None:
    ids = submit(queue, *[spec(f"{n}") for n in range(5)])
    assert [job.id for job in queue.list(limit=3)] == ids[::-1][:3]
    assert queue.list(["done"]) == []
    assert queue.list([]) == []
    claim(queue)
    assert [job.id for job in queue.list(["queued"])] == ids[:0:-1]
    assert (queue.counts()["queued"], queue.counts()["running"]) == (4, 1)


def test_threads_share_the_work_and_nobody_gets_a_job_twice(queue: Queue) -> None:
    """Eight threads over sixty jobs of twelve locks: each runs once, and never two of one lock at a time."""
    submit(queue, *[spec(f"{n}", lock=f"{n % 12}") for n in range(60)])
    at_work: Counter[str] = Counter()
    guard = threading.Lock()
    done: list[str] = []

    def work(name: str) -> None:
        while len(done) < 60:
            mine = queue.claim(name, NOW, LEASE)
            if mine is None:
                time.sleep(0.001)
                continue
            with guard:
                at_work[mine.spec.lock] += 1
                assert at_work[mine.spec.lock] == 1
            assert queue.heartbeat(mine, NOW, LEASE)
            with guard:
                at_work[mine.spec.lock] -= 1
            assert queue.finish(mine, NOW, "done")
            done.append(mine.id)

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(work, "abcdefgh"):
            pass
    assert len(set(done)) == len(done) == 60


def test_threads_submit_one_key_once(queue: Queue) -> None:
    """Of many submissions of one key at once, one is taken."""
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: queue.submit(spec("a"), NOW), range(16)))
    assert len([found for found in ids if found]) == 1


def child(adapter: Adapter, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.queue_child", adapter.url, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_share_the_work(adapter: Adapter) -> None:
    """Three real processes over forty jobs of ten locks: each job is finished once, by the one that had it, alone in its lock."""
    submit(adapter.queue, *[spec(f"{n}", lock=f"{n % 10}") for n in range(40)])
    workers = [child(adapter, "drain", f"w{n}") for n in range(3)]
    lines = [line.split() for worker in workers for line in worker.communicate(timeout=120)[0].splitlines()]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(int(job) for job, _ in lines) == sorted(int(job.id) for job in adapter.queue.list(["done"]))
    assert len(lines) == 40
    assert {taken for _, taken in lines} == {"1"}


def test_a_job_of_a_killed_worker_is_finished_by_another(adapter: Adapter) -> None:
    """kill -9 of the process that holds the claim: when its lease is over, another process runs the job to its end."""
    (one,) = submit(adapter.queue, spec("a", lock="crm"), now=datetime.now(UTC))
    holder = child(adapter, "hold", "doomed")
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == one
        assert adapter.queue.list(["running"])[0].worker == "doomed"
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    lost: list[str] = []
    while not lost:
        lost = [gone.id for gone in adapter.queue.recover(datetime.now(UTC))]
        time.sleep(0.05)
    assert lost == [one]
    heir = child(adapter, "drain", "heir")
    assert heir.communicate(timeout=120)[0].split() == [one, "1"]
    (job,) = adapter.queue.list()
    assert (job.state, job.attempt, job.worker, job.detail) == ("done", 2, "heir", "heir")
