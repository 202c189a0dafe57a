"""What was proven, when: verifications of stored data, and drills of restores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, insert, or_, select

from backupd.catalog.database import Database
from backupd.catalog.documents import canonical, parsed
from backupd.catalog.newest import fields_of, newest_of
from backupd.catalog.queue import Json
from backupd.catalog.tables import drills, verifications


@dataclass(frozen=True, slots=True)
class Verification:
    """One verification of a policy's repository.

    Attributes:
        level: structure, bytes or content.
        problems: how many were found.
    """

    policy: str
    level: str
    started: datetime
    ended: datetime
    ok: bool
    problems: int = 0


@dataclass(frozen=True, slots=True)
class Drill:
    """One restore into a scratch server.

    Attributes:
        snapshot: the id of what was restored.
        restore_seconds: how long the restore took, if it came to its end.
        detail: the checks by name, and whether they passed; without data.
    """

    policy: str
    source: str
    snapshot: str | None
    started: datetime
    ended: datetime
    passed: bool
    restore_seconds: float | None = None
    detail: Mapping[str, Json] = field(default_factory=dict)


class Verifications:
    """The table of verifications."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, verification: Verification) -> None:
        """Write one."""
        with self._database.write() as connection:
            connection.execute(insert(verifications).values(**fields_of(verification)))

    def newest(self, *, ok_only: bool = False) -> dict[tuple[str, str], Verification]:
        """Of each policy and level the one that ended last; with `ok_only` among those that found nothing."""
        query = newest_of(verifications, ("policy", "level"), "ended", {"ok": True} if ok_only else None)
        with self._database.read() as connection:
            found = [_verification(row) for row in connection.execute(query)]
        return {(one.policy, one.level): one for one in found}

    def damage(self, policy: str, level: str, before: datetime | None = None) -> Verification | None:
        """The newest one at this level, or of those that ended before a time, that found problems, unless one that found
        nothing has ended since."""
        mine = and_(verifications.c.policy == policy, verifications.c.level == level)
        told = select(verifications).where(mine, or_(verifications.c.ok, verifications.c.problems > 0))
        if before is not None:
            told = told.where(verifications.c.ended < before)
        with self._database.read() as connection:
            row = connection.execute(
                told.order_by(verifications.c.ended.desc(), verifications.c.id.desc()).limit(1)
            ).first()
        return None if row is None or row.ok else _verification(row)

    def list(self, *, policy: str | None = None, limit: int = 100) -> Sequence[Verification]:
        """Verifications, those that ended last first."""
        query = select(verifications).order_by(verifications.c.ended.desc(), verifications.c.id.desc()).limit(limit)
        if policy is not None:
            query = query.where(verifications.c.policy == policy)
        with self._database.read() as connection:
            return [_verification(row) for row in connection.execute(query)]

    def purge(self, before: datetime) -> int:
        """Forget those that ended before then; returns how many."""
        with self._database.write() as connection:
            return connection.execute(delete(verifications).where(verifications.c.ended < before)).rowcount


class Drills:
    """The table of drills."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, drill: Drill) -> None:
        """Write one."""
        values = {**fields_of(drill), "detail": canonical(drill.detail)}
        with self._database.write() as connection:
            connection.execute(insert(drills).values(**values))

    def newest(self, *, passed_only: bool = False) -> dict[tuple[str, str], Drill]:
        """Of each policy and source the one that ended last; with `passed_only` among those that passed."""
        query = newest_of(drills, ("policy", "source"), "ended", {"passed": True} if passed_only else None)
        with self._database.read() as connection:
            found = [_drill(row) for row in connection.execute(query)]
        return {(one.policy, one.source): one for one in found}

    def list(self, *, policy: str | None = None, source: str | None = None, limit: int = 100) -> Sequence[Drill]:
        """Drills, those that ended last first."""
        query = select(drills).order_by(drills.c.ended.desc(), drills.c.id.desc()).limit(limit)
        if policy is not None:
            query = query.where(drills.c.policy == policy)
        if source is not None:
            query = query.where(drills.c.source == source)
        with self._database.read() as connection:
            return [_drill(row) for row in connection.execute(query)]

    def purge(self, before: datetime) -> int:
        """Forget those that ended before then; returns how many. What they proved stands in the repository."""
        with self._database.write() as connection:
            return connection.execute(delete(drills).where(drills.c.ended < before)).rowcount


def _verification(row: Row[Any]) -> Verification:
    return Verification(row.policy, row.level, row.started, row.ended, row.ok, row.problems)


def _drill(row: Row[Any]) -> Drill:
    detail = parsed(row.detail, f"a detail of drill {row.id}")
    return Drill(row.policy, row.source, row.snapshot, row.started, row.ended, row.passed, row.restore_seconds, detail)
