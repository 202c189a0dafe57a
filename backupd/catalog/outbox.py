"""What is to be told to whom, until it was told or given up. What is in here survives a crash and is sent at least once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from backupd.catalog.database import Database
from backupd.catalog.queue import Json


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
        raise NotImplementedError

    def due(self, now: datetime, limit: int = 20, lease_seconds: float = 120.0) -> Sequence[Notification]:
        """Take the messages that may be tried now, oldest first.

        Each counts one more attempt, and nobody else gets it before the lease is over: a sender that dies delays it by that much.
        """
        raise NotImplementedError

    def done(self, notification: int, now: datetime) -> None:
        """It was sent."""
        raise NotImplementedError

    def failed(self, notification: int, now: datetime, next_try: datetime | None, reason: str) -> None:
        """It could not be sent; it is tried again at `next_try`, or given up if that is None."""
        raise NotImplementedError

    def list(self, *, waiting_only: bool = False, limit: int = 100) -> Sequence[Notification]:
        """Messages, those enqueued last first."""
        raise NotImplementedError

    def counts(self) -> dict[tuple[str, str | None], int]:
        """How many there are of each notifier and outcome (None: waiting)."""
        raise NotImplementedError

    def purge(self, before: datetime) -> int:
        """Forget messages that were over before then, and their keys."""
        raise NotImplementedError
