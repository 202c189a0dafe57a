"""What is wrong now, and what was. Of one thing there is one open alert, however often it is noticed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, delete, insert, select, update

from backupd.catalog.database import Database
from backupd.catalog.tables import alerts


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
        with self._database.write() as connection:
            row = connection.execute(_open_one(event, policy, source)).first()
            if row is None:
                values = {"event": event, "policy": policy, "source": source or "", "sentence": sentence}
                connection.execute(insert(alerts).values(**values, opened=now, told=0))
            elif row.sentence != sentence:
                connection.execute(update(alerts).where(alerts.c.id == row.id).values(sentence=sentence))
            return Opened(_alert(connection.execute(_open_one(event, policy, source)).one()), row is None)

    def close(self, event: str, policy: str, source: str | None, now: datetime) -> Alert | None:
        """It is well again; returns the alert that is closed now, or None if none was open."""
        with self._database.write() as connection:
            row = connection.execute(_open_one(event, policy, source)).first()
            if row is None:
                return None
            connection.execute(update(alerts).where(alerts.c.id == row.id).values(closed=now))
            return _alert(connection.execute(select(alerts).where(alerts.c.id == row.id)).one())

    def list_open(self) -> Sequence[Alert]:
        """All open ones, the oldest first."""
        return self._alerts(select(alerts).where(alerts.c.closed.is_(None)).order_by(alerts.c.opened, alerts.c.id))

    def list(self, *, policy: str | None = None, source: str | None = None, limit: int = 100) -> Sequence[Alert]:
        """Alerts, open or not, those opened last first."""
        query = select(alerts).order_by(alerts.c.opened.desc(), alerts.c.id.desc()).limit(limit)
        if policy is not None:
            query = query.where(alerts.c.policy == policy)
        if source is not None:
            query = query.where(alerts.c.source == source)
        return self._alerts(query)

    def mark_told(self, alert: int, now: datetime) -> None:
        """Somebody was told of it."""
        with self._database.write() as connection:
            told = {"told_at": now, "told": alerts.c.told + 1}
            connection.execute(update(alerts).where(alerts.c.id == alert).values(**told))

    def acknowledge(self, alert: int, who: str, now: datetime) -> bool:
        """Somebody knows; False if it is not open, or was acknowledged before."""
        fresh = and_(alerts.c.id == alert, alerts.c.closed.is_(None), alerts.c.acknowledged.is_(None))
        with self._database.write() as connection:
            known = update(alerts).where(fresh).values(acknowledged=now, acknowledged_by=who)
            return connection.execute(known).rowcount == 1

    def purge(self, before: datetime) -> int:
        """Forget alerts that were closed before then."""
        with self._database.write() as connection:
            return connection.execute(delete(alerts).where(alerts.c.closed < before)).rowcount

    def _alerts(self, query: Select[Any]) -> Sequence[Alert]:
        with self._database.read() as connection:
            return [_alert(row) for row in connection.execute(query)]


def _open_one(event: str, policy: str, source: str | None) -> Select[Any]:
    same = and_(alerts.c.event == event, alerts.c.policy == policy, alerts.c.source == (source or ""))
    return select(alerts).where(same, alerts.c.closed.is_(None))


def _alert(row: Row[Any]) -> Alert:
    return Alert(**{**row._asdict(), "source": row.source or None})
