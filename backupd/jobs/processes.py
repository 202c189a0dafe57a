"""Work that Python does one thread at a time, divided among processes of this machine.

They are forked: nothing is sent to them, keys neither, and they begin at once. What one of them cannot do the process itself
does, so an error is found and told where it always was. A process that has other threads is not forked, because a lock that one
of them holds would stay locked in the copy.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from backupd.engines.children import die_with_us

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

MOST = 4
"""So many processes at most, this one among them: each has its own memory."""
_PIPE_BYTES = 1 << 20
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_Task = TypeVar("_Task")
_T = TypeVar("_T")


def usable() -> int:
    """How many processes may share work now, this one among them."""
    if sys.platform != "linux" or threading.active_count() > 1:
        return 1
    return min(MOST, len(os.sched_getaffinity(0)))


def shared(tasks: Sequence[_Task], work: Callable[[_Task], _T], *, processes: int) -> Iterator[_T]:
    """What is made of each task, in their order.

    Args:
        tasks: each is done by one process.
        work: does one. What it gives can be pickled, holds no secret that this process does not, and is small.
        processes: of `usable`.

    Raises:
        whatever the work does.
    """
    others: list[_Other[_Task, _T]] = []
    try:
        with contextlib.suppress(OSError):  # no more memory, descriptors or processes: this one does what is left
            for n in range(1, min(processes, len(tasks))):
                others.append(_Other(tasks[n::processes], work))
        for n, task in enumerate(tasks):
            at = n % processes
            yield others[at - 1].next(task) if 0 < at <= len(others) else work(task)
    finally:
        for other in others:
            other.end()


def forked(work: Callable[[], None]) -> int | None:
    """Fork a process that does some work and comes to its end, whatever happens: it never goes on where this one does.

    What ends a command is held back until the copy no longer has this process's handlers: it must not clean up after it.

    Returns:
        its number, which is to be waited for; None if there can be no more processes.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        pid = os.fork()
        if not pid:
            _work_and_end(work, held)
        return pid
    except OSError:
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _work_and_end(work: Callable[[], None], mask: "set[int | signal.Signals]") -> None:
    try:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if ask := die_with_us():
            ask()
        gc.disable()  # what belongs to the other process is not closed here
        work()
    finally:  # whatever went wrong the other process finds as well, and tells
        os._exit(0)


def ended(pid: int) -> None:
    """Kill a process that was forked, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


class _Other(Generic[_Task, _T]):
    """A forked process that does some of the tasks, ahead as far as a pipe holds what it made."""

    def __init__(self, tasks: Iterable[_Task], work: Callable[[_Task], _T]) -> None:
        import multiprocessing

        fork = multiprocessing.get_context("fork")
        self._work = work
        self._made, theirs = fork.Pipe(duplex=False)
        _widen(theirs.fileno())
        self._process: ForkProcess = fork.Process(target=_do, args=(tasks, work, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def next(self, task: _Task) -> _T:
        """What it made of its next task."""
        try:
            made: _T = self._made.recv()
        except (EOFError, OSError):  # it came to its end before, whatever the reason
            return self._work(task)
        return made

    def end(self) -> None:
        """Nobody wants more of it."""
        self._made.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _widen(pipe: int) -> None:
    """Let a pipe hold more, where the system allows that: whoever fills it waits less often."""
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _do(tasks: Iterable[_Task], work: Callable[[_Task], _T], made: "Connection[_T, object]") -> None:
    if ask := die_with_us():
        ask()
    gc.disable()  # what belongs to the other process is not closed here
    with contextlib.suppress(BaseException):  # that process finds the same, and tells
        for task in tasks:
            made.send(work(task))
    os._exit(0)
