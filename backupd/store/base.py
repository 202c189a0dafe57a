"""What a store must promise, and the rules of names, checked both ways.

A store holds whole objects under flat names. It knows nothing of encryption, packs or snapshots, and it must never
change or rename an object once written. The repository relies on exactly what the protocol's docstrings say; the
conformance suite in `tests/contracts/test_object_store.py` checks every implementation against them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from backupd.errors import BackupdError, NoRepository, StorageRefused, TryAgain, UsageError

MAX_OBJECT_BYTES = 64 * 1024 * 1024
"""No object of the format is larger; a store may hold it in memory."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}(/[a-z0-9][a-z0-9._-]{0,127}){0,5}")


class StoreError(BackupdError):
    """Base of a store's own failures; never raised itself."""


class ObjectMissing(StoreError):
    """There is no object of this name."""

    code = "object_missing"


class ObjectExists(StoreError):
    """A create-only write found an object of this name."""

    code = "object_exists"


class ShortRead(StoreError):
    """The store gave fewer or other bytes than it announced: truncated, transcoded, or a range it did not honour."""

    code = "short_read"


class StoreRefused(StorageRefused, StoreError):
    """Credentials, permissions, quota, a full disk: trying again does not help."""


class StoreUnavailable(TryAgain, StoreError):
    """Timeouts, throttling, resets: the bounded retries are used up."""


class StoreMissing(NoRepository, StoreError):
    """The bucket or the folder itself does not exist."""


def is_valid_name(name: str) -> bool:
    """Whether `name` follows the grammar: 1 to 6 lower-case parts of [a-z0-9._-], at most 512 characters."""
    return len(name) <= 512 and _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return `name` if it follows the grammar.

    Raises:
        UsageError: it does not.
    """
    if not is_valid_name(name):
        raise UsageError(f"not a valid object name: {name[:80]!r}")
    return name


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells of an object: its name, its size in bytes, and when the store says it was written (UTC)."""

    name: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """A place for whole objects. Safe for use from several threads at once.

    Attributes:
        url: where it is, for people; holds no secret.
    """

    @property
    def url(self) -> str:
        """Where it is, for people; holds no secret."""

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        """Write a whole object, durably and atomically: it is visible whole, or not at all.

        With `create_only`, an existing object of this name is left as it is and ObjectExists is raised; of several
        concurrent writers one wins. Without it, concurrent writers may all succeed and one of the contents stays:
        only for names that are bound to the content. When the answer to a create-only write was lost and a retry
        meets an object that equals `data`, that is success.

        Returns:
            When the store says it was written (UTC, the store's own clock).

        Raises:
            ObjectExists, StoreRefused, StoreUnavailable, StoreMissing.
        """

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Read an object, or `length` bytes of it from `start`; exactly those bytes or an error.

        Raises:
            ObjectMissing, ShortRead (a range past the end included), StoreRefused, StoreUnavailable, StoreMissing.
        """

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All complete objects whose name starts with `prefix`, in name order, without names outside the grammar."""

    def strangers(self) -> Iterator[str]:
        """Names under the store's place that are outside the grammar (shortened, printable), for reports."""

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""

    def close(self) -> None:
        """Give connections back; the store is not used afterwards."""


@runtime_checkable
class Wrapped(Protocol):
    """A store that changes how another one is used, and not what is in it."""

    @property
    def inner(self) -> ObjectStore:
        """The other one."""


@dataclass(frozen=True, slots=True)
class LockFacts:
    """What a store says of versions and locks.

    Attributes:
        versioned: whether what is removed or overwritten can be brought back; None if the store does not say.
        enabled: whether objects can be locked; None if the store does not say.
        mode: `compliance` or `governance`, in which a new object is locked unless it asks for something else; None if it is not.
        days: and for how long.
    """

    versioned: bool | None = None
    enabled: bool | None = None
    mode: str | None = None
    days: int | None = None


@runtime_checkable
class Lockable(Protocol):
    """A store that can lock objects."""

    def lock_facts(self) -> LockFacts:
        """What it does with locks; only asks.

        Raises:
            StoreUnavailable, StoreMissing.
        """

    def locked_until(self, name: str) -> datetime | None:
        """Until when nobody may remove an object (UTC); None if it is not locked.

        Raises:
            ObjectMissing, StoreRefused, StoreUnavailable, StoreMissing.
        """

    def lock(self, name: str, until: datetime, mode: str) -> None:
        """Lock an object until then. A lock is never made shorter: what is locked for longer stays so.

        Args:
            name: of the object.
            until: aware.
            mode: `compliance` or `governance`.

        Raises:
            ObjectMissing, StoreRefused, StoreUnavailable, StoreMissing.
        """


@runtime_checkable
class LocalObjects(Protocol):
    """A store whose objects are plain files of this machine, so that pieces of one can be read without asking each time."""

    def open_file(self, name: str) -> int:
        """A descriptor of the object, for reading; the caller closes it.

        Raises:
            ObjectMissing, StoreRefused, StoreMissing.
        """


def local_objects(store: ObjectStore) -> LocalObjects | None:
    """The store, or the one that it wraps, if its objects are files of this machine."""
    while isinstance(store, Wrapped):
        store = store.inner
    return store if isinstance(store, LocalObjects) else None


def lockable(store: ObjectStore) -> Lockable | None:
    """The store, or what it wraps, if it can lock objects."""
    while not isinstance(store, Lockable) and isinstance(store, Wrapped):
        store = store.inner
    return store if isinstance(store, Lockable) else None
