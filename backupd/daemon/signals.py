"""Signals as flags, and one way to wake a loop that waits: from a signal, from a child's end, and from other threads."""

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Iterable

_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Signals:
    """What was asked for. Made, asked and closed by the main thread.

    Attributes:
        stop: how often an end was asked for.
        reload: whether new policies are to be read; whoever does that puts it back.
    """

    def __init__(self) -> None:
        self.stop = 0
        self.reload = False
        self._read, self._write = os.pipe()
        for fd in (self._read, self._write):
            os.set_blocking(fd, False)
        self._before = {number: signal.signal(number, self._arrived) for number in _CAUGHT}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def _arrived(self, number: int, _frame: object) -> None:
        if number in {signal.SIGTERM, signal.SIGINT}:
            self.stop += 1
        elif number == signal.SIGHUP:
            self.reload = True

    def wake(self) -> None:
        """Have `wait` return; from any thread."""
        with contextlib.suppress(BlockingIOError, OSError):  # full: it will wake anyway; closed: nobody waits
            os.write(self._write, b"\0")

    def wait(self, seconds: float, descriptors: Iterable[int] = ()) -> bool:
        """Wait for a signal, `wake`, something to read, or so many seconds; whether it was one of the first two."""
        with selectors.DefaultSelector() as selector:
            for fd in (self._read, *descriptors):
                selector.register(fd, selectors.EVENT_READ)
            woken = any(key.fd == self._read for key, _ in selector.select(max(0.0, seconds)))
        if woken:
            self._drain()
        return woken

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def close(self) -> None:
        """As it was before."""
        signal.set_wakeup_fd(self._wakeup)
        restore: Callable[[int, object], object] = signal.signal  # type: ignore[assignment]
        for number, handler in self._before.items():
            restore(number, handler)
        ends, self._write = (
            (self._read, self._write),
            -1,
        )  # a thread that still wakes us must not write into another file
        for fd in ends:
            os.close(fd)
