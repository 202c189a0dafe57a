"""What was proven, when: verifications of stored data, and drills of restores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from backupd.catalog.database import Database
from backupd.catalog.queue import Json


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
        raise NotImplementedError

    def newest(self, *, ok_only: bool = False) -> dict[tuple[str, str], Verification]:
        """Of each policy and level the one that ended last; with `ok_only` among those that found nothing."""
        raise NotImplementedError

    def list(self, *, policy: str | None = None, limit: int = 100) -> Sequence[Verification]:
        """Verifications, those that ended last first."""
        raise NotImplementedError


class Drills:
    """The table of drills."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, drill: Drill) -> None:
        """Write one."""
        raise NotImplementedError

    def newest(self, *, passed_only: bool = False) -> dict[tuple[str, str], Drill]:
        """Of each policy and source the one that ended last; with `passed_only` among those that passed."""
        raise NotImplementedError

    def list(self, *, policy: str | None = None, source: str | None = None, limit: int = 100) -> Sequence[Drill]:
        """Drills, those that ended last first."""
        raise NotImplementedError
