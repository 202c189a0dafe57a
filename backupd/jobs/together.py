"""Chunks opened by several processes of this machine, in the order in which they are asked for.

As in `processes` the others are forked, and what one of them cannot do this process does. What they make is large, so it comes
back through memory that both have, and not through a pipe. Each process goes through all that is asked for by itself, and opens
every so many: nothing is held for a database of any size.
"""

import contextlib
import mmap
import os
import select
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Generic, TypeVar

from backupd.jobs.processes import ended, forked

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
        others: list[_Other[_Task]] = []
        try:
            for n in range(1, self._processes):
                others.append(_Other(self._own(n), self._fill, self._largest))
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
        self._slots: list[memoryview] = []
        self._mine: tuple[int, ...] = ()
        self._pid: int | None = None
        self._taken = 0
        with contextlib.suppress(OSError):  # no more memory, descriptors or processes: then this process does all
            self._begin(batches, fill, largest)
        self._silent = self._pid is None

    def _begin(
        self, batches: Iterator[Sequence[_Task]], fill: Callable[[Sequence[_Task], memoryview], int], largest: int
    ) -> None:
        whole = memoryview(mmap.mmap(-1, SLOTS * largest))
        self._slots = [whole[n * largest : (n + 1) * largest] for n in range(SLOTS)]
        done, tell = os.pipe()
        self._mine = (done,)
        try:
            wait, free = os.pipe()
            self._mine = (done, free)
            try:
                self._pid = forked(lambda: self._do(batches, fill, tell, wait, (done, free)))
            finally:
                os.close(wait)
        finally:
            os.close(tell)

    def next(self) -> tuple[int, memoryview] | None:
        """The next batch: what it cost, and where it is until the next one is asked for; None if the process is no more."""
        if self._silent:
            return None
        done, free = self._mine
        if self._taken:
            with contextlib.suppress(OSError):
                os.write(free, b".")
        told = os.read(done, _DONE.size) if _comes(done) else b""
        if len(told) < _DONE.size:
            self._silent = True
            return None
        slot = self._slots[self._taken % SLOTS]
        self._taken += 1
        return _DONE.unpack(told)[0], slot

    def end(self) -> None:
        """Nobody wants more of it."""
        for fd in self._mine:
            os.close(fd)
        if self._pid is not None:
            ended(self._pid)
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
        """In the forked process."""
        for fd in theirs:
            os.close(fd)
        for n, batch in enumerate(batches):
            if n >= SLOTS and not os.read(wait, 1):
                break
            os.write(tell, _DONE.pack(fill(batch, self._slots[n % SLOTS])))


def _comes(pipe: int) -> bool:
    """Whether there is something to read, or the end, before long."""
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    return bool(waiting.poll(LONGEST * 1000))
