"""Who did what: a list that only grows, each entry chained to the one before by a hash over both.

A changed, removed or inserted entry breaks the chain. A missing tail shows only to somebody who remembers a later head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from backupd.catalog.database import Database
from backupd.catalog.queue import Json


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry.

    Attributes:
        n: counts from 1 without a gap.
        who: a person, a key or a part of the program.
        action: run, restore, prune, hold, release, key, policy, ...
        object_name: what it was done to.
        detail: more about it, without secrets or data.
        previous: the hash of the entry before, hex; zeros for the first.
        hash: SHA-256 over the canonical JSON of all the others, hex.
    """

    n: int
    at: datetime
    who: str
    action: str
    object_name: str
    detail: Mapping[str, Json]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry's number and hash: what somebody else remembers, to notice a missing tail."""

    n: int
    hash: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The first entry that is not what was written, and what is wrong with it."""

    n: int
    reason: str


class Audit:
    """The table of what was done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self,
        who: str,
        action: str,
        object_name: str,
        now: datetime,
        detail: Mapping[str, Json] | None = None,
    ) -> Entry:
        """Write an entry at the end of the chain."""
        raise NotImplementedError

    def head(self) -> Head | None:
        """The end of the chain."""
        raise NotImplementedError

    def verify(self, remembered: Head | None = None) -> Broken | None:
        """The first entry that breaks the chain, or None.

        Args:
            remembered: a head that was seen before: the chain must still hold it.
        """
        raise NotImplementedError

    def page(self, *, after: int = 0, limit: int = 100) -> Sequence[Entry]:
        """Entries in their order, those numbered above `after`."""
        raise NotImplementedError

    def newest(self, limit: int = 100) -> Sequence[Entry]:
        """The newest entries, newest first."""
        raise NotImplementedError
