"""An end for whole conversations, however slowly the other side speaks.

A socket's own timeout begins anew with each byte that comes in. It must never keep a connection open, or a thread waiting, after
its block is left.
"""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Deadline:
    """After so many seconds every socket that it holds is shut, so that whoever reads from one gets an end of file.

    Sockets are held by a duplicate of their descriptor: what becomes of the original (wrapped in TLS, closed) is not its concern.
    """

    def __init__(self, seconds: float) -> None:
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self.passed = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()
        for held in self._held:
            held.close()

    def hold(self, connected: socket.socket) -> None:
        """Take a connected socket under the deadline."""
        with self._lock:
            self._held.append(connected.dup())
            if self.passed:
                _shut(self._held[-1])

    def _end(self) -> None:
        with self._lock:
            self.passed = True
            for held in self._held:
                _shut(held)


def _shut(held: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        held.shutdown(socket.SHUT_RDWR)
