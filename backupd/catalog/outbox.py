"""What is to be told to whom, until it was told or given up. What is in here survives a crash and is sent at least once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, or_, select, update

from backupd.catalog.database import Database
from backupd.catalog.documents import canonical, parsed
from backupd.catalog.queue import Json
from backupd.catalog.tables import meta
from backupd.catalog.tables import notifications as table

_PURGED = "purged_notifications"
"""Under this key the catalog keeps how many were forgotten: counters that fall look like ones that began anew."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One message to one notifier.

    Attributes:
        key: what makes it this one and no other.
        policy, notifier: the policy, and the notifier's name in it.
        message: what to tell, without data.
        attempts: how often sending it was begun.
        next_try: when it may be tried (again); None once it is over.
        outcome: None while it waits, then sent or failed.
        reason: why the last attempt failed.
    """

    id: int
    key: str
    policy: str
    notifier: str
    event: str
    message: Mapping[str, Json]
    alert: int | None
    run: int | None
    enqueued: datetime
    attempts: int
    next_try: datetime | None
    outcome: str | None
    reason: str | None


class Outbox:
    """The table of notifications."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enqueue(
        self,
        key: str,
        policy: str,
        notifier: str,
        event: str,
        message: Mapping[str, Json],
        now: datetime,
        *,
        alert: int | None = None,
        run: int | None = None,
    ) -> int | None:
        """Put a message in; returns its id, or None if there is one of this key already, sent or not."""
        with self._database.write() as connection:
            new = self._database.insert_new(
                connection,
                table,
                key=key,
                policy=policy,
                notifier=notifier,
                event=event,
                message=canonical(message),
                alert=alert,
                run=run,
                enqueued=now,
                attempts=0,
                next_try=now,
            )
            return connection.execute(select(table.c.id).where(table.c.key == key)).scalar_one() if new else None

    def due(self, now: datetime, limit: int = 20, lease_seconds: float = 120.0) -> Sequence[Notification]:
        """Take the messages that may be tried now, oldest first.

        Each counts one more attempt, and nobody else gets it before the lease is over: a sender that dies delays it by that much.
        """
        # whose time lies after now was written before the clock jumped back: it has waited long enough
        jumped = and_(table.c.next_try.is_not(None), func.coalesce(table.c.tried, table.c.enqueued) > now)
        query = select(table).where(or_(table.c.next_try <= now, jumped)).order_by(table.c.id).limit(limit)
        with self._database.read() as connection:  # most often there is nothing: that must not keep writers waiting
            if connection.execute(query).first() is None:
                return []
        with self._database.write() as connection:
            taken = [row.id for row in connection.execute(query)]
            lease = {"tried": now, "next_try": now + timedelta(seconds=lease_seconds)}
            connection.execute(
                update(table).where(table.c.id.in_(taken)).values(attempts=table.c.attempts + 1, **lease)
            )
            rows = connection.execute(select(table).where(table.c.id.in_(taken)).order_by(table.c.id))
            return [_notification(row) for row in rows]

    def done(self, notification: int, now: datetime) -> None:
        """It was sent."""
        self._end(notification, now, "sent", None)

    def failed(self, notification: int, now: datetime, next_try: datetime | None, reason: str) -> None:
        """It could not be sent; it is tried again at `next_try`, or given up if that is None."""
        if next_try is None:
            self._end(notification, now, "failed", reason)
            return
        with self._database.write() as connection:
            waits = update(table).where(table.c.id == notification, table.c.ended.is_(None))
            connection.execute(waits.values(tried=now, next_try=next_try, reason=reason))

    def list(self, *, waiting_only: bool = False, limit: int = 100) -> Sequence[Notification]:
        """Messages, those enqueued last first."""
        query = select(table).order_by(table.c.id.desc()).limit(limit)
        if waiting_only:
            query = query.where(table.c.ended.is_(None))
        with self._database.read() as connection:
            return [_notification(row) for row in connection.execute(query)]

    def counts(self) -> dict[tuple[str, str | None], int]:
        """How many there were of each notifier and outcome (None: waiting), with those that were purged since."""
        with self._database.read() as connection:
            found = _purged(connection)
            for place, count in _counted(connection).items():
                found[place] = found.get(place, 0) + count
        return found

    def purge(self, before: datetime) -> int:
        """Forget messages that were over before then, and their keys; how many they were is not forgotten."""
        over = table.c.ended < before
        with self._database.write() as connection:
            going = _counted(connection, over)
            if going:
                self._remember(connection, going)
            return connection.execute(delete(table).where(over)).rowcount

    def _remember(self, connection: Connection, going: Mapping[tuple[str, str | None], int]) -> None:
        sums = _purged(connection)
        for place, count in going.items():
            sums[place] = sums.get(place, 0) + count
        text = canonical({"counts": [[notifier, outcome, count] for (notifier, outcome), count in sums.items()]})
        if not self._database.insert_new(connection, meta, key=_PURGED, value=text):
            connection.execute(update(meta).where(meta.c.key == _PURGED).values(value=text))

    def _end(self, notification: int, now: datetime, outcome: str, reason: str | None) -> None:
        with self._database.write() as connection:
            waits = update(table).where(table.c.id == notification, table.c.ended.is_(None))
            connection.execute(waits.values(ended=now, next_try=None, outcome=outcome, reason=reason))


def _counted(connection: Connection, *which: ColumnElement[bool]) -> dict[tuple[str, str | None], int]:
    query = select(table.c.notifier, table.c.outcome, func.count()).where(*which)
    rows = connection.execute(query.group_by(table.c.notifier, table.c.outcome))
    return {(notifier, outcome): count for notifier, outcome, count in rows}


def _purged(connection: Connection) -> dict[tuple[str, str | None], int]:
    text = connection.execute(select(meta.c.value).where(meta.c.key == _PURGED)).scalar()
    kept = parsed(text, "the numbers of purged notifications")["counts"] if text is not None else []
    return {(str(notifier), outcome): int(count) for notifier, outcome, count in kept}


def _notification(row: Row[Any]) -> Notification:
    return Notification(
        row.id,
        row.key,
        row.policy,
        row.notifier,
        row.event,
        parsed(row.message, f"a message of notification {row.id}"),
        row.alert,
        row.run,
        row.enqueued,
        row.attempts,
        row.next_try,
        row.outcome,
        row.reason,
    )
