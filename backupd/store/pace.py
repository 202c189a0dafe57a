"""Bandwidth limits: bytes to and from a storage pass at a pace, all threads together.

Where bytes pass in pieces (S3) each piece waits its turn; a folder's objects wait as a whole. Must never change what passes.
"""

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from backupd.store.base import ObjectInfo, ObjectStore

PIECE = 64 * 1024
_SENDING = 512 * 1024
"""HTTP clients read a body in pieces below this (128 KiB), signing in larger ones (1 MiB)."""
_BURST_SECONDS = 0.25


class Pace:
    """So many bytes a second, with a quarter of a second's worth saved up at most. Safe for several threads.

    Args:
        rate: bytes a second, at least 1.
        clock: seconds that never go back.
        sleep: waits.
    """

    def __init__(
        self, rate: int, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._lock = threading.Lock()
        self._free = clock()

    def take(self, n: int) -> None:
        """Wait until `n` more bytes may pass."""
        with self._lock:
            now = self._clock()
            self._free = max(self._free, now - _BURST_SECONDS) + n / self._rate
            wait = self._free - now
        if wait > 0:
            self._sleep(wait)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes a second to the storage and from it; None for no limit."""

    upload: int | None = None
    download: int | None = None

    def paces(self) -> tuple[Pace | None, Pace | None]:
        """One for each direction."""
        return (Pace(self.upload) if self.upload else None, Pace(self.download) if self.download else None)


class PacedBody(io.BytesIO):
    """An upload's bytes: whoever reads them in small pieces, as an HTTP client does, reads them at the pace.

    Signing reads a body in large pieces first; that is no traffic.
    """

    def __init__(self, data: bytes, pace: Pace) -> None:
        super().__init__(data)
        self._pace = pace

    def read(self, size: int | None = -1, /) -> bytes:
        """Some of the bytes."""
        if size is None or not 0 < size < _SENDING:
            return super().read(size)
        piece = super().read(min(size, PIECE))
        self._pace.take(len(piece))
        return piece


class PacedStore:
    """A store whose objects pass at a pace, each as a whole."""

    def __init__(self, inner: ObjectStore, limits: Limits) -> None:
        self._inner = inner
        self._up, self._down = limits.paces()

    @property
    def inner(self) -> ObjectStore:
        """The store below."""
        return self._inner

    @property
    def url(self) -> str:
        """The inner store's."""
        return self._inner.url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        """Write, once it may pass."""
        if self._up is not None:
            self._up.take(len(data))
        return self._inner.put(name, data, create_only=create_only)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Read, and go on when as much may have passed."""
        data = self._inner.get(name, start, length)
        if self._down is not None:
            self._down.take(len(data))
        return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The inner store's."""
        return self._inner.list(prefix)

    def strangers(self) -> Iterator[str]:
        """The inner store's."""
        return self._inner.strangers()

    def delete(self, name: str) -> None:
        """The inner store's."""
        self._inner.delete(name)

    def close(self) -> None:
        """Close the inner store."""
        self._inner.close()
