"""Stores that misbehave on purpose, each wrapped round a store that does not.

Every double implements the whole protocol, so that any test can stack them. They must never hide what the inner store
does beyond the one thing they are named after.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NoReturn

from backupd.store.base import LockFacts, ObjectInfo, ObjectMissing, ObjectStore, StoreRefused, StoreUnavailable

Data = bytes | bytearray | memoryview
Call = tuple[str, str, int]


class Crash(BaseException):
    """The process is gone: nothing may catch this but the test."""


class Wrapper:
    """Passes everything on; the doubles below override what they change."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def retries_inside(self) -> bool:
        return bool(getattr(self.inner, "retries_inside", False))

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        return self.inner.put(name, data, create_only=create_only)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self.inner.get(name, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def strangers(self) -> Iterator[str]:
        return self.inner.strangers()

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def close(self) -> None:
        self.inner.close()


class LockingStore(Wrapper):
    """Locks each object from when it is written, as a bucket with a default retention does; `days` None locks nothing by itself.

    Attributes:
        until: until when each object is locked.
        refuse: a lock is not made longer while this is set.
        asked: names whose locks were asked for.
    """

    def __init__(self, inner: ObjectStore, clock: Callable[[], datetime], days: int | None) -> None:
        super().__init__(inner)
        self._clock, self._days = clock, days
        self.until: dict[str, datetime] = {}
        self.refuse = False
        self.asked: list[str] = []

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        written = self.inner.put(name, data, create_only=create_only)
        if self._days is not None:
            self.until[name] = self._clock() + timedelta(days=self._days)
        return written

    def delete(self, name: str) -> None:
        if self.until.get(name, self._clock()) > self._clock():
            raise StoreRefused("the object is locked", object_name=name)
        self.inner.delete(name)

    def lock_facts(self) -> LockFacts:
        return LockFacts(True, True, "compliance" if self._days else None, self._days)

    def locked_until(self, name: str) -> datetime | None:
        self.asked.append(name)
        return self.until.get(name)

    def lock(self, name: str, until: datetime, mode: str) -> None:
        if self.refuse or mode not in {"compliance", "governance"}:
            raise StoreRefused("access denied", object_name=name)
        self.until[name] = max(until, self.until.get(name, until))


class RecordingStore(Wrapper):
    """Writes down (verb, name, bytes) of every call that was made, failed ones included.

    The size is what was handed over for a put, what came back for a get, and 0 otherwise or on failure.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._calls: dict[int, Call] = {}
        self._next = itertools.count()

    @property
    def calls(self) -> "list[Call]":
        """The calls in the order in which they began."""
        return [call for _, call in sorted(self._calls.items())]

    def count(self, verb: str, prefix: str = "") -> int:
        """How many calls of `verb` met names that start with `prefix`."""
        return sum(1 for v, name, _ in self.calls if v == verb and name.startswith(prefix))

    def clear(self) -> None:
        """Forget the calls so far."""
        self._calls.clear()

    def _note(self, verb: str, name: str, size: int = 0) -> int:
        number = next(self._next)
        self._calls[number] = (verb, name, size)
        return number

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        self._note("put", name, memoryview(data).nbytes)
        return self.inner.put(name, data, create_only=create_only)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        number = self._note("get", name)
        data = self.inner.get(name, start, length)
        self._calls[number] = ("get", name, len(data))
        return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._note("list", prefix)
        return self.inner.list(prefix)

    def strangers(self) -> Iterator[str]:
        self._note("strangers", "")
        return self.inner.strangers()

    def delete(self, name: str) -> None:
        self._note("delete", name)
        self.inner.delete(name)


class CrashingStore(Wrapper):
    """The process dies at the n-th write (put or delete, counted from 1); the store is dead from then on.

    Args:
        before_write: die before this write takes effect.
        after_write: die after this write took effect, before its answer.
    """

    def __init__(self, inner: ObjectStore, *, before_write: int | None = None, after_write: int | None = None) -> None:
        super().__init__(inner)
        self._before = before_write
        self._after = after_write
        self._lock = threading.Lock()
        self.writes = 0
        self.dead = False

    def _die(self) -> NoReturn:
        self.dead = True
        raise Crash(f"at write {self.writes}")

    def _alive(self) -> None:
        if self.dead:
            self._die()

    def _begin(self) -> int:
        with self._lock:
            self._alive()
            self.writes += 1
            if self.writes == self._before:
                self._die()
            return self.writes

    def _end(self, number: int) -> None:
        if number == self._after:
            self._die()

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        number = self._begin()
        written = self.inner.put(name, data, create_only=create_only)
        self._end(number)
        return written

    def delete(self, name: str) -> None:
        number = self._begin()
        self.inner.delete(name)
        self._end(number)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._alive()
        return self.inner.get(name, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._alive()
        return self.inner.list(prefix)

    def strangers(self) -> Iterator[str]:
        self._alive()
        return self.inner.strangers()


class DamagingStore(Wrapper):
    """Hands out changed bytes for some names; the change is made to the whole object, ranges are cut from the result.

    A function that returns None makes the object missing.
    """

    def __init__(self, inner: ObjectStore, damage: Mapping[str, Callable[[bytes], bytes | None]]) -> None:
        super().__init__(inner)
        self.damage = dict(damage)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        change = self.damage.get(name)
        if change is None:
            return self.inner.get(name, start, length)
        data = change(self.inner.get(name))
        if data is None:
            raise ObjectMissing("there is no object of this name", object_name=name)
        return data[start:] if length is None else data[start : start + length]


class LaggingStore(Wrapper):
    """Listings show a write (put or delete) only after `lag` more calls of any kind; reads see it at once."""

    def __init__(self, inner: ObjectStore, lag: int) -> None:
        super().__init__(inner)
        self._lag = lag
        self._lock = threading.Lock()
        self._calls = 0
        self._changes: dict[str, tuple[int, ObjectInfo | None]] = {}

    def _tick(self) -> int:
        with self._lock:
            self._calls += 1
            return self._calls

    def _remember(self, name: str, before: ObjectInfo | None, at: int) -> None:
        with self._lock:
            known = self._changes.get(name)
            visible = known[1] if known and at - known[0] <= self._lag else before
            self._changes[name] = (at, visible)

    def _info(self, name: str) -> ObjectInfo | None:
        return next((info for info in self.inner.list(name) if info.name == name), None)

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        at, before = self._tick(), self._info(name)
        written = self.inner.put(name, data, create_only=create_only)
        self._remember(name, before, at)
        return written

    def delete(self, name: str) -> None:
        at, before = self._tick(), self._info(name)
        self.inner.delete(name)
        self._remember(name, before, at)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._tick()
        return self.inner.get(name, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        now = self._tick()
        found = {info.name: info for info in self.inner.list(prefix)}
        with self._lock:
            recent = {
                n: old for n, (at, old) in self._changes.items() if now - at <= self._lag and n.startswith(prefix)
            }
        for name, old in recent.items():
            if old is None:
                found.pop(name, None)
            else:
                found[name] = old
        yield from (found[name] for name in sorted(found))


class ThrottlingStore(Wrapper):
    """Some calls fail with StoreUnavailable, before they take effect.

    Args:
        every: every n-th call fails (0: none by this rule).
        first: that many calls in a row fail, then it works.
    """

    def __init__(self, inner: ObjectStore, *, every: int = 0, first: int = 0) -> None:
        super().__init__(inner)
        self._every = every
        self._first = first
        self._lock = threading.Lock()
        self.calls = 0
        self.refusals = 0

    def _throttle(self, name: str) -> None:
        with self._lock:
            self.calls += 1
            refuse = self.calls <= self._first or (self._every > 0 and self.calls % self._every == 0)
            self.refusals += refuse
        if refuse:
            raise StoreUnavailable("the storage asks to slow down", object_name=name, hint="try again later")

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        self._throttle(name)
        return self.inner.put(name, data, create_only=create_only)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._throttle(name)
        return self.inner.get(name, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._throttle(prefix)
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self._throttle(name)
        self.inner.delete(name)


class FullDiskStore(Wrapper):
    """Refuses writes once more than `limit_bytes` have been written; a refused write leaves nothing."""

    def __init__(self, inner: ObjectStore, limit_bytes: int) -> None:
        super().__init__(inner)
        self._left = limit_bytes
        self._lock = threading.Lock()

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        size = memoryview(data).nbytes
        with self._lock:
            if size > self._left:
                raise StoreRefused("the disk is full", object_name=name, hint="free some space")
            self._left -= size
        return self.inner.put(name, data, create_only=create_only)


class NoCreateOnlyStore(Wrapper):
    """Ignores `create_only` and overwrites silently, as some S3 servers do."""

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        return self.inner.put(name, data, create_only=False)


class ReadOnlyStore(Wrapper):
    """Refuses every write, as a bucket does whose credentials may only read."""

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        raise StoreRefused("these credentials may not write", object_name=name)

    def delete(self, name: str) -> None:
        raise StoreRefused("these credentials may not delete", object_name=name)
