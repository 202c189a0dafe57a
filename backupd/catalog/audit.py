"""Who did what: a list that only grows, each entry chained to the one before by a hash over both.

A changed, removed or inserted entry breaks the chain. A missing tail shows only to somebody who remembers a later head.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, insert, select

from backupd.catalog.database import Database
from backupd.catalog.documents import canonical, parsed, plain
from backupd.catalog.queue import Json
from backupd.catalog.tables import audit

_NOTHING = "0" * 64
_BACKWARDS = select(audit).order_by(audit.c.n.desc())


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
        with self._database.write() as connection:
            last = connection.execute(_BACKWARDS.limit(1)).first()
            n, previous = (last.n + 1, last.hash) if last else (1, _NOTHING)
            words = {"who": plain(who), "action": plain(action), "object": plain(object_name)}
            values: dict[str, Any] = {
                "n": n,
                "at": now,
                **words,
                "detail": canonical(detail or {}),
                "previous": previous,
            }
            values["hash"] = _hash(**values)
            connection.execute(insert(audit).values(**values))
            return _entry(connection.execute(select(audit).where(audit.c.n == n)).one())

    def head(self) -> Head | None:
        """The end of the chain."""
        with self._database.read() as connection:
            last = connection.execute(_BACKWARDS.limit(1)).first()
        return Head(last.n, last.hash) if last else None

    def verify(self, remembered: Head | None = None) -> Broken | None:
        """The first entry that breaks the chain, or None.

        Args:
            remembered: a head that was seen before: the chain must still hold it.
        """
        n, previous = 0, _NOTHING
        with self._database.read() as connection:
            rows = connection.execution_options(yield_per=1000).execute(select(audit).order_by(audit.c.n))
            for row in rows:
                n += 1
                if reason := _wrong(row, n, previous):
                    return Broken(n, reason)
                previous = row.hash
                if remembered and remembered.n == n and remembered.hash != previous:
                    return Broken(n, "it is not the one that is remembered: the chain was written anew")
        if remembered and remembered.n > n:
            return Broken(n + 1, f"it is missing, as is all that follows: entry {remembered.n} is remembered")
        return None

    def page(self, *, after: int = 0, limit: int = 100) -> Sequence[Entry]:
        """Entries in their order, those numbered above `after`."""
        return self._entries(select(audit).where(audit.c.n > after).order_by(audit.c.n).limit(limit))

    def newest(self, limit: int = 100) -> Sequence[Entry]:
        """The newest entries, newest first."""
        return self._entries(_BACKWARDS.limit(limit))

    def _entries(self, query: Select[Any]) -> Sequence[Entry]:
        with self._database.read() as connection:
            return [_entry(row) for row in connection.execute(query)]


def _hash(*, at: datetime, detail: str, **others: int | str) -> str:
    """Over the canonical JSON; `detail` is one itself, and is hashed as the text that it is."""
    document: dict[str, Json] = {
        **others,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "detail": detail,
    }
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def _wrong(row: Row[Any], n: int, previous: str) -> str | None:
    """What is wrong with the entry that should be number `n`, and follow the one with that hash."""
    if row.n != n:
        return f"it is missing; the next one is entry {row.n}"
    if row.previous != previous:
        return "it does not follow the one before"
    values = row._asdict()
    if values.pop("hash") != _hash(**values):
        return "it was changed after it was written"
    return None


def _entry(row: Row[Any]) -> Entry:
    detail = parsed(row.detail, f"a detail of audit entry {row.n}")
    return Entry(row.n, row.at, row.who, row.action, row.object, detail, row.previous, row.hash)
