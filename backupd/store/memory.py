"""A store in memory: for tests and dry runs.

It keeps every promise of the protocol except that nothing outlives the process; it must never be offered as a place
for a backup.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime

from backupd.store.base import ObjectExists, ObjectInfo, ObjectMissing, check_name
from backupd.store.edges import range_end


class MemoryStore:
    """Objects in a dictionary, under one lock.

    Args:
        clock: tells the store's time (aware, UTC).
        url: what it calls itself.
    """

    def __init__(self, clock: Callable[[], datetime], *, url: str = "memory:") -> None:
        self._clock = clock
        self._url = url
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, datetime]] = {}

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return self._url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        """Write a whole object; see `ObjectStore.put`."""
        check_name(name)
        held = bytes(data)
        with self._lock:
            if create_only and name in self._objects:
                raise ObjectExists("there is an object of this name already", object_name=name)
            modified = self._clock()
            self._objects[name] = (held, modified)
        return modified

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Read an object or a range of it; see `ObjectStore.get`."""
        check_name(name)
        with self._lock:
            entry = self._objects.get(name)
        if entry is None:
            raise ObjectMissing("there is no object of this name", object_name=name)
        data = entry[0]
        return data[start : range_end(name, len(data), start, length)]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects as they are when the first one is asked for, in name order."""
        with self._lock:
            found = [ObjectInfo(n, len(d), m) for n, (d, m) in self._objects.items() if n.startswith(prefix)]
        yield from sorted(found, key=lambda info: info.name)

    def strangers(self) -> Iterator[str]:
        """None: nothing but `put` writes here."""
        return iter(())

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""
        check_name(name)
        with self._lock:
            self._objects.pop(name, None)

    def close(self) -> None:
        """Nothing to give back; the objects stay readable."""
