"""The worker: slots, leases, limits and ends, with processes that do as they are told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.catalog.opening import Catalog
from backupd.catalog.queue import JobSpec
from backupd.daemon.child import Ended
from backupd.daemon.workers import LEASE, TAKEN, Command, Workers
from backupd.errors import Exit, Failed, TryAgain
from backupd.wiring import open_catalog
from tests.unit.daemon.kit import NOW, FakeBooks, FakeChild, Ticks, later, lines, quiet, spec

DONE = Ended(0, {})


class Floor:
    """A worker with two slots, whose processes are fakes."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog, self.queue, self.ticks = catalog, catalog.queue, Ticks()
        self.children: dict[str, FakeChild] = {}
        self.books = FakeBooks(self.queue)
        self.refuse: Failed | None = None
        log, self.out = quiet()
        self.workers = Workers("w", 2, self.queue, self._command, self._start, self.books, log, self.ticks)

    def _command(self, job: JobSpec) -> Command:
        if self.refuse:
            raise self.refuse
        return Command([job.key], {})

    def _start(self, command: Command) -> FakeChild:
        return self.children.setdefault(command.arguments[0], FakeChild(command))

    def submit(self, *jobs: JobSpec) -> None:
        for job in jobs:
            assert self.queue.submit(job, NOW)

    def round(self, seconds: float = 0) -> None:
        """So many seconds later: look after what is at work, and take what there is."""
        self.ticks.at += seconds
        now = later(self.ticks.at - 1000)
        self.workers.tend(now)
        self.workers.fill(now)

    def ended(self) -> list[tuple[str, int, str]]:
        return [entry[1:] for entry in self.books.log if entry[0] == "ended"]


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[Floor]:
    with open_catalog(tmp_path) as catalog:
        yield Floor(catalog)


def test_drills_leave_the_last_slot_to_everything_else(floor: Floor) -> None:
    """A backup waits behind no drill that takes all night; where nothing else is to be done, one drill is at work."""
    floor.submit(*(spec(f"drill-{n}", kind="drill") for n in range(2)), spec("verify", kind="verify", priority=-1))
    floor.round()
    assert set(floor.children) == {"drill-0", "verify"}
    floor.children["verify"].end = DONE
    floor.round()
    assert floor.workers.busy == 1
    floor.submit(spec("run"))
    floor.round()
    assert set(floor.children) == {"drill-0", "verify", "run"}
    floor.children["drill-0"].end = DONE
    floor.round()
    assert "drill-1" in floor.children


def test_no_more_than_the_slots_and_one_restore(floor: Floor) -> None:
    """Two jobs at once, and a restore besides; a second restore waits for the slot of the first, or for a shared one."""
    floor.submit(*(spec(f"run-{n}") for n in range(4)))
    floor.round()
    assert floor.workers.busy == 2
    floor.submit(*(spec(f"restore-{n}", kind="restore", priority=100) for n in range(2)))
    floor.round()
    assert set(floor.children) == {"run-0", "run-1", "restore-0"}
    floor.children["run-0"].end = DONE
    floor.round()
    assert set(floor.children) == {"run-0", "run-1", "restore-0", "restore-1"}
    floor.children["restore-0"].end = DONE
    floor.round()
    assert set(floor.children) == {"run-0", "run-1", "restore-0", "restore-1", "run-2"}
    assert floor.workers.busy == 3, "two jobs, and the one restore"


def test_a_lease_is_renewed_for_as_long_as_the_job_works(floor: Floor) -> None:
    floor.submit(spec())
    floor.round()
    for _ in range(20):
        floor.round(LEASE / 3)
        assert floor.queue.recover(later(floor.ticks.at - 1000)) == []
    floor.children["job"].end = DONE
    floor.round()
    assert floor.ended() == [("job", 0, "")]


def test_a_job_that_is_another_workers_now_is_stopped(floor: Floor) -> None:
    """Its lease ran out (a machine that slept), and somebody else has it."""
    floor.submit(spec())
    floor.round()
    assert floor.queue.recover(later(LEASE + 1))
    floor.round(LEASE / 2)
    child = floor.children["job"]
    assert child.stops == [False]
    floor.round(1)
    assert floor.ended() == [("job", 143, TAKEN)]
    assert child.closed


def test_a_job_that_comes_back_waits_until_its_lost_process_is_gone(floor: Floor) -> None:
    """A worker that was asleep lost its job, and is the one to take it again: never beside the process that it had."""
    floor.submit(spec("job"))
    floor.round()
    lost = floor.children.pop("job")
    lost.obeys = False
    floor.ticks.at += LEASE + 1
    (gone,) = floor.queue.recover(later(LEASE + 1))
    assert gone.outcome is None
    floor.round()
    assert (lost.stops, floor.children) == ([False], {})
    floor.round(30)
    floor.submit(spec("restore", kind="restore", priority=100))
    floor.round()
    assert set(floor.children) == {"restore"}, "a restore waits for no other"
    floor.round(31)
    assert lost.stops == [False, True]
    floor.round()
    assert set(floor.children) == {"restore", "job"}


def test_a_cancelled_job_is_stopped(floor: Floor) -> None:
    floor.submit(spec())
    floor.round()
    (job,) = floor.queue.list(["running"])
    assert floor.queue.cancel(job.id, NOW)
    floor.round(LEASE / 2)
    assert floor.children["job"].stops == [False]


def test_what_takes_too_long_is_asked_to_end_and_then_ended(floor: Floor) -> None:
    floor.submit(spec(max_seconds=100.0))
    floor.round()
    child = floor.children["job"]
    child.obeys = False
    floor.round(99)
    assert child.stops == []
    floor.round(2)
    assert child.stops == [False]
    floor.round(59)
    assert child.stops == [False]
    floor.round(2)
    assert child.stops == [False, True]
    floor.round()
    ((_, code, why),) = floor.ended()
    assert (code, "longer than the 100 seconds" in why) == (137, True)


def test_limits_hold_while_the_catalog_does_not_answer(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    floor.submit(spec(max_seconds=100.0))
    floor.round()

    def locked(*_: object) -> bool:
        raise TryAgain("locked")

    monkeypatch.setattr(floor.queue, "heartbeat", locked)
    floor.children["job"].said.append("still here")
    with pytest.raises(TryAgain):
        floor.round(101)
    assert floor.children["job"].stops == [False]
    assert "still here" in floor.out.getvalue()


def test_an_end_that_cannot_be_written_down_is_kept_with_its_claim(floor: Floor) -> None:
    """The catalog is locked when a backup ends: it must be neither forgotten nor done again."""
    floor.submit(spec())
    floor.round()
    floor.children["job"].end = DONE
    floor.books.trouble = TryAgain("locked")
    for _ in range(6):
        with pytest.raises(TryAgain):
            floor.round(LEASE / 3)
        assert floor.queue.recover(later(floor.ticks.at - 1000)) == []
    assert floor.workers.busy == 1
    floor.books.trouble = None
    floor.round()
    assert floor.ended() == [("job", 0, "")]
    assert floor.workers.busy == 0
    assert floor.queue.counts()["done"] == 1


def test_one_end_that_cannot_be_written_down_does_not_hold_up_the_others(floor: Floor) -> None:
    floor.submit(spec("a"), spec("b"))
    floor.round()
    for child in floor.children.values():
        child.end = DONE
    ended = floor.books.ended

    def picky(claim, *rest):  # type: ignore[no-untyped-def]
        if claim.spec.key == "a":
            raise Failed("never")
        ended(claim, *rest)

    floor.books.ended = picky  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(Failed):
            floor.workers.tend(NOW)
    assert floor.ended() == [("b", 0, "")]


def test_a_job_that_cannot_begin_ends_at_once(floor: Floor) -> None:
    """And the next one gets its turn."""
    floor.refuse = Failed("no such thing")
    floor.submit(spec("a"), spec("b"))
    floor.round()
    assert [entry[:3] for entry in floor.books.log] == [
        ("begun", "a", 0),
        ("refused", "a", 1),
        ("begun", "b", 0),
        ("refused", "b", 1),
    ]
    assert floor.workers.busy == 0


def test_nothing_new_begins_while_the_daemon_ends(floor: Floor) -> None:
    floor.submit(spec("a"))
    floor.round()
    floor.submit(spec("b"))
    floor.workers.draining = True
    floor.round()
    assert set(floor.children) == {"a"}
    floor.workers.stop_all("the daemon ends")
    floor.round()
    assert floor.ended() == [("a", 143, "the daemon ends")]


def test_what_does_not_end_is_abandoned(floor: Floor) -> None:
    floor.submit(spec("a"), spec("b"))
    floor.round()
    floor.children["b"].end = DONE
    floor.books.trouble = TryAgain("locked")
    with pytest.raises(TryAgain):
        floor.round()
    floor.books.trouble = None
    floor.workers.abandon(NOW)
    assert floor.children["a"].stops == [True]
    assert sorted(floor.ended()) == [("a", int(Exit.TERMINATED), "the daemon ended"), ("b", 0, "")], "b was done"
    assert floor.workers.busy == 0


def test_abandoning_comes_to_an_end_though_nothing_can_be_written_down(floor: Floor) -> None:
    floor.submit(spec("a"), spec("b"))
    floor.round()
    floor.books.trouble = TryAgain("locked")
    floor.workers.abandon(NOW)
    assert floor.workers.busy == 0
    assert [line["event"] for line in lines(floor.out)].count("the end of a job cannot be written down") == 2
