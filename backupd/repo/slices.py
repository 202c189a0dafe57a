"""Slices of a pack in a store: what is read where only a few of its chunks are needed.

Slices that will be needed are asked for ahead, several at once, and neighbours together, because a request costs more than
a few kilobytes do.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from backupd.errors import IntegrityError, MissingObject
from backupd.store.base import ObjectMissing, ObjectStore, ShortRead

GAP = 32 * 1024
"""So many bytes that nobody wants are fetched rather than asking twice."""


class StoreSlices:
    """A pack's bytes, read from its store piece by piece. Safe for several threads.

    Args:
        store: where it is.
        name: of the pack.
        fetched: told how many bytes were read.
    """

    def __init__(self, store: ObjectStore, name: str, fetched: Callable[[int], None]) -> None:
        self._store, self._name, self._fetched = store, name, fetched
        self._lock = threading.Lock()
        self._asked: dict[tuple[int, int], tuple[Future[bytes], int]] = {}

    def ask(self, pool: ThreadPoolExecutor, wanted: Iterable[tuple[int, int]]) -> None:
        """Begin to read slices: pairs of offset and length, each of which is then read once."""
        with self._lock:
            fresh = sorted(set(wanted) - self._asked.keys())
            while fresh:
                group = [fresh.pop(0)]
                end = sum(group[0])
                while fresh and fresh[0][0] - end <= GAP:
                    end = max(end, sum(fresh[0]))
                    group.append(fresh.pop(0))
                start = group[0][0]
                future = pool.submit(self._get, start, end - start)
                self._asked |= dict.fromkeys(group, (future, start))

    def forget(self) -> None:
        """What was asked for and not read is not wanted any more."""
        with self._lock:
            self._asked.clear()

    def read(self, offset: int, length: int) -> bytes:
        """A slice.

        Raises:
            MissingObject: the pack is not there.
            IntegrityError: it ends before the slice does.
        """
        with self._lock:
            asked = self._asked.pop((offset, length), None)
        if asked is None:
            return self._get(offset, length)
        future, start = asked
        return future.result()[offset - start : offset - start + length]

    def _get(self, start: int, length: int) -> bytes:
        try:
            data = self._store.get(self._name, start, length)
        except ObjectMissing:
            raise MissingObject(f"{self._name} is missing from the storage", object_name=self._name) from None
        except ShortRead as error:
            raise IntegrityError(f"{self._name} is cut: {error.message}", object_name=self._name) from None
        self._fetched(length)
        return data
