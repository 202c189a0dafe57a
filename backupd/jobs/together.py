"""Chunks opened by several processes of this machine, in the order in which they are asked for.

As in `processes` the others are forked, and what one of them cannot do this process does. What they make is large, so it comes
back through memory that both have, and not through a pipe. Each process goes through all that is asked for by itself, and opens
every so many: nothing is held for a database of any size.
"""

import contextlib
import gc
import mmap
import os
import select
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Generic, TypeVar

from backupd.engines.children import die_with_us

LONGEST = 120.0
"""After so many seconds nothing more is expected of a process."""
SLOTS = 4
"""So many batches may be ready before they are taken."""
_DONE = struct.Struct("<Q")
_Task = TypeVar("_Task")


class Share(Generic[_Task]):
    """What several processes open together.

    Args:
        batches: begins to go through everything that is asked for; every call gives the same.
        read: opens one.
        size: how many bytes that gives.
        largest: no batch gives more bytes.
        cost: of what this process has done so far; counted for the others too.
        processes: of `processes.usable`.
        ahead: so many batches each of the others opens for one of this process, which has more to do with all of them.
    """

    def __init__(
        self,
        batches: Callable[[], Iterator[Sequence[_Task]]],
        read: Callable[[_Task], bytes],
        size: Callable[[_Task], int],
        *,
        largest: int,
        cost: Callable[[], int],
        processes: int,
        ahead: int = 1,
    ) -> None:
        self._batches, self._read, self._size, self._largest, self._cost = batches, read, size, largest, cost
        self._turns = [*range(1, processes)] * ahead + [0]
        self._processes = processes
        self.elsewhere = 0

    def run(self) -> Iterator[bytes]:
        """What is asked for.

        Raises:
            whatever `read` does.
        """
        others = [_Other(self._own(n), self._fill, self._largest) for n in range(1, self._processes)]
        try:
            for batch, turn in zip(self._batches(), cycle(self._turns), strict=False):
                if turn and (filled := others[turn - 1].next()) is not None:
                    cost, view = filled
                    self.elsewhere += cost
                    at = 0
                    for task in batch:
                        yield bytes(view[at : at + self._size(task)])
                        at += self._size(task)
                else:
                    yield from map(self._read, batch)
        finally:
            for other in others:
                other.end()

    def _own(self, mine: int) -> Iterator[Sequence[_Task]]:
        return (batch for batch, turn in zip(self._batches(), cycle(self._turns), strict=False) if turn == mine)

    def _fill(self, batch: Sequence[_Task], view: memoryview) -> int:
        """Open a batch into memory; what that cost."""
        before, at = self._cost(), 0
        for task in batch:
            data = self._read(task)
            view[at : at + len(data)] = data
            at += len(data)
        return self._cost() - before


class _Other(Generic[_Task]):
    """A forked process that opens some of the batches, ahead as far as there are slots."""

    def __init__(
        self, batches: Iterator[Sequence[_Task]], fill: Callable[[Sequence[_Task], memoryview], int], largest: int
    ) -> None:
        self._memory = mmap.mmap(-1, SLOTS * largest)
        whole = memoryview(self._memory)
        self._slots = [whole[n * largest : (n + 1) * largest] for n in range(SLOTS)]
        self._taken = 0
        self._silent = False
        done, tell = os.pipe()
        wait, free = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            self._do(batches, fill, tell, wait, (done, free))
        os.close(tell)
        os.close(wait)
        self._done, self._free = done, free

    def next(self) -> tuple[int, memoryview] | None:
        """The next batch: what it cost, and where it is until the next one is asked for; None if the process is no more."""
        if self._silent:
            return None
        if self._taken:
            with contextlib.suppress(OSError):
                os.write(self._free, b".")
        told = os.read(self._done, _DONE.size) if select.select([self._done], [], [], LONGEST)[0] else b""
        if len(told) < _DONE.size:
            self._silent = True
            return None
        slot = self._slots[self._taken % SLOTS]
        self._taken += 1
        return _DONE.unpack(told)[0], slot

    def end(self) -> None:
        """Nobody wants more of it."""
        import signal

        os.close(self._done)
        os.close(self._free)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        for slot in self._slots:
            slot.release()

    def _do(
        self,
        batches: Iterator[Sequence[_Task]],
        fill: Callable[[Sequence[_Task], memoryview], int],
        tell: int,
        wait: int,
        theirs: Sequence[int],
    ) -> None:
        """In the forked process, which never comes back."""
        try:
            if ask := die_with_us():
                ask()
            gc.disable()  # what belongs to the other process is not closed here
            for fd in theirs:
                os.close(fd)
            for n, batch in enumerate(batches):
                if n >= SLOTS and not os.read(wait, 1):
                    break
                os.write(tell, _DONE.pack(fill(batch, self._slots[n % SLOTS])))
        finally:  # whatever went wrong the other process finds as well, and tells
            os._exit(0)
