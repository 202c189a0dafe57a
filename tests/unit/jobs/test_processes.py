"""Work divided among processes: what comes out is what one process would give, whatever happens to the others."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.errors import IntegrityError
from backupd.jobs.processes import shared, usable

HERE = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("tasks", [0, 1, 2, 7])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_their_tasks(tasks: int, processes: int) -> None:
    """Each task is done once, whoever does it."""
    assert list(shared(range(tasks), lambda n: [n] * 3, processes=processes)) == [[n] * 3 for n in range(tasks)]


def test_other_processes_do_their_share() -> None:
    """Every third task is done by each of three processes."""
    done_by = list(shared(range(9), lambda _: os.getpid(), processes=3))
    assert len({*done_by}) == 3
    assert done_by[0::3] == [os.getpid()] * 3


def test_a_failure_is_told_by_the_process_that_asks() -> None:
    """What another process cannot do is tried here, and fails here, with its own error; what came before is given."""

    def work(n: int) -> int:
        if n == 5:
            raise IntegrityError("packs/5 is damaged", object_name="packs/5")
        return n

    given: list[int] = []
    with pytest.raises(IntegrityError) as caught:
        given.extend(shared(range(9), work, processes=2))
    assert given == [0, 1, 2, 3, 4]
    assert caught.value.object_name == "packs/5"


def _dies(parent: int) -> Callable[[int], tuple[int, bool]]:
    def work(n: int) -> tuple[int, bool]:
        if os.getpid() != parent and n >= 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return n, os.getpid() == parent

    return work


def test_work_of_a_process_that_is_killed_is_done_here() -> None:
    """Nothing is missing, and nothing comes twice."""
    given = list(shared(range(10), _dies(os.getpid()), processes=2))
    assert [n for n, _ in given] == list(range(10))
    assert [here for _, here in given] == [True, False, True, False] + [True] * 6


def test_without_more_processes_this_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may refuse them."""
    real, forks = os.fork, 0

    def second_is_refused() -> int:
        nonlocal forks
        forks += 1
        if forks > 1:
            raise BlockingIOError("no more")
        return real()

    monkeypatch.setattr(os, "fork", second_is_refused)
    before = _children()
    assert list(shared(range(20), lambda n: n, processes=3)) == list(range(20))
    assert _children() <= before


def test_results_larger_than_a_pipe_come_whole() -> None:
    """A process waits until what it made is taken."""
    assert [len(data) for data in shared(range(6), lambda n: bytes(n * 300_000), processes=2)] == [
        n * 300_000 for n in range(6)
    ]


def test_who_wants_no_more_leaves_no_process() -> None:
    """The others are ended with the iterator."""
    before = _children()
    results = shared(range(1000), lambda n: bytes(100_000), processes=3)
    next(results)
    assert len(_children() - before) == 2
    results.close()  # type: ignore[attr-defined]
    assert _children() <= before


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def test_nothing_is_forked_beside_threads() -> None:
    """A lock that another thread holds would stay locked in the copy."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert usable() == 1
    finally:
        stop.set()
        thread.join()


def test_one_thread_may_use_all_processors_up_to_four() -> None:
    """As a command runs: without threads."""
    script = (
        "import os; from backupd.jobs.processes import usable; print(usable() == min(4, len(os.sched_getaffinity(0))))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
