"""A store that takes writes and drops them: what `--dry-run` runs on."""

from collections.abc import Callable, Iterator
from datetime import datetime

from backupd.store.base import ObjectExists, ObjectInfo, ObjectStore


class DryRunStore:
    """Reads come from the inner store; writes are only remembered by name, so that a run believes in them."""

    def __init__(self, inner: ObjectStore, now: Callable[[], datetime]) -> None:
        self._inner = inner
        self._now = now
        self._written: dict[str, ObjectInfo] = {}

    @property
    def inner(self) -> ObjectStore:
        """The store below."""
        return self._inner

    @property
    def url(self) -> str:
        """The inner store's."""
        return self._inner.url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        """Remember the name; nothing is stored."""
        if create_only and any(info.name == name for info in self.list(name)):
            raise ObjectExists(f"{name} exists", object_name=name)
        info = ObjectInfo(name, len(data), self._now())
        self._written[name] = info
        return info.modified

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """From the inner store."""
        return self._inner.get(name, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """What is there, and what would be."""
        there = list(self._inner.list(prefix))
        there += [info for name, info in self._written.items() if name.startswith(prefix)]
        yield from sorted(there, key=lambda info: info.name)

    def strangers(self) -> Iterator[str]:
        """The inner store's."""
        return self._inner.strangers()

    def delete(self, name: str) -> None:
        """Nothing is deleted."""
        self._written.pop(name, None)

    def close(self) -> None:
        """Close the inner store."""
        self._inner.close()
