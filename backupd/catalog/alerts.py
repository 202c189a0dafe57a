"""What is wrong now, and what was. Of one thing there is one open alert, however often it is noticed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backupd.catalog.database import Database


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong, or was until `closed`.

    Attributes:
        event: as policies name it: failure, rpo_breach, ...
        source: None if it is about the policy as a whole.
        sentence: what is wrong, without data.
        told_at, told: when somebody was last told of it, and how often.
        acknowledged: when somebody said that they know.
        acknowledged_by: who.
    """

    id: int
    event: str
    policy: str
    source: str | None
    opened: datetime
    closed: datetime | None
    sentence: str
    told_at: datetime | None
    told: int
    acknowledged: datetime | None
    acknowledged_by: str | None


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to `Alerts.open`: the alert, and whether it is new."""

    alert: Alert
    new: bool


class Alerts:
    """The table of alerts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, event: str, policy: str, source: str | None, sentence: str, now: datetime) -> Opened:
        """Something is wrong. If an alert of it is open, that one gets the new sentence, and nothing else changes."""
        raise NotImplementedError

    def close(self, event: str, policy: str, source: str | None, now: datetime) -> Alert | None:
        """It is well again; returns the alert that is closed now, or None if none was open."""
        raise NotImplementedError

    def list_open(self) -> Sequence[Alert]:
        """All open ones, the oldest first."""
        raise NotImplementedError

    def list(self, *, policy: str | None = None, source: str | None = None, limit: int = 100) -> Sequence[Alert]:
        """Alerts, open or not, those opened last first."""
        raise NotImplementedError

    def mark_told(self, alert: int, now: datetime) -> None:
        """Somebody was told of it."""
        raise NotImplementedError

    def acknowledge(self, alert: int, who: str, now: datetime) -> bool:
        """Somebody knows; False if it is not open, or was acknowledged before."""
        raise NotImplementedError

    def purge(self, before: datetime) -> int:
        """Forget alerts that were closed before then."""
        raise NotImplementedError
