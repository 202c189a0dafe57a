"""The tables, as the newest migration leaves them.

Nobody outside the catalog sees these: its parts answer with values. A change here needs a migration beside it, and a test
compares the two. Which rows a partial index is about is said for SQLite only: the migrations say it for both, and saying it
here would import the other dialect into every command.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypedColumns,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

from backupd.catalog.documents import plain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """A time: microseconds since 1970 in UTC, so that it sorts and counts alike in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> int | None:
        """To the database; a time without a zone is a mistake."""
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, _dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else _EPOCH + value * _MICROSECOND


def microseconds(moment: datetime) -> int:
    """A time as the tables hold it.

    Raises:
        ValueError: it has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return (moment - _EPOCH) // _MICROSECOND


class Words(TypeDecorator[str]):
    """Text that any database takes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else plain(value)


def _number() -> Column[int]:
    return Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


metadata = MetaData()


class _JobColumns(TypedColumns):
    n = _number()
    key = Column(Words, nullable=False, unique=True)
    kind = Column(Words, nullable=False)
    policy = Column(Words, nullable=False)
    source = Column(Words)
    lock = Column(Words, nullable=False)
    rank = Column(Integer, nullable=False)  # the priority's negative: rows in the index's order are in the queue's
    payload = Column(Text, nullable=False)
    not_before = Column(Moment)
    max_attempts = Column(Integer, nullable=False)
    max_seconds = Column(Float)
    state = Column(Text, nullable=False)
    attempt = Column(Integer, nullable=False)
    submitted = Column(Moment, nullable=False)
    queued = Column(Moment, nullable=False)
    due = Column(Moment, nullable=False)
    started = Column(Moment)
    ended = Column(Moment)
    worker = Column(Words)
    token = Column(Text)
    lease_until = Column(Moment)
    lease_microseconds = Column(BigInteger, nullable=False)
    cancelling = Column(Boolean, nullable=False)
    detail = Column(Words, nullable=False)


jobs = Table(
    "jobs",
    metadata,
    _JobColumns,
    Index("jobs_next", "state", "rank", "due", "n"),
    Index("jobs_ended", "ended"),
    Index(
        "jobs_one_holds_a_lock",
        "lock",
        unique=True,
        sqlite_where=text("state = 'running'"),
    ),
    sqlite_autoincrement=True,  # the numbers of what is forgotten are not given again
)


class _RunColumns(TypedColumns):
    id = _number()
    policy = Column(Words, nullable=False)
    source = Column(Words, nullable=False)  # empty if it is about none: nulls would equal nothing
    kind = Column(Words, nullable=False)
    job = Column(Words)
    attempt = Column(Integer, nullable=False)
    started = Column(Moment, nullable=False)
    ended = Column(Moment)
    outcome = Column(Words)
    error_code = Column(Words)
    error_exit = Column(Integer)
    error_message = Column(Words)
    snapshot = Column(Words)
    read_bytes = Column(BigInteger)
    stored_bytes = Column(BigInteger)
    rows = Column(BigInteger)
    seconds = Column(Float)
    warnings = Column(Integer, nullable=False)


runs = Table(
    "runs",
    metadata,
    _RunColumns,
    UniqueConstraint("job", "attempt"),
    Index("runs_started", "started"),
    Index("runs_ended", "ended"),
    Index("runs_of_source", "kind", "policy", "source", "started"),
    Index("runs_by_outcome", "kind", "outcome", "policy", "source", "started"),
    sqlite_autoincrement=True,
)


class _SnapshotColumns(TypedColumns):
    repository = Column(Words, primary_key=True)
    id = Column(Words, primary_key=True)
    writer = Column(Words, nullable=False)
    source = Column(Words, nullable=False)
    seq = Column(BigInteger, nullable=False)
    taken_at = Column(Moment)
    stored_at = Column(Moment)
    kind = Column(Words, nullable=False)
    rows = Column(BigInteger)
    read_bytes = Column(BigInteger, nullable=False)
    stored_bytes = Column(BigInteger, nullable=False)
    holds = Column(Text, nullable=False)
    drilled_at = Column(Moment)
    last_seen = Column(Moment, nullable=False)


snapshots = Table(
    "snapshots",
    metadata,
    _SnapshotColumns,
    Index("snapshots_of_source", "kind", "repository", "writer", "source", "taken_at", "seq"),
)


class _VerificationColumns(TypedColumns):
    id = _number()
    policy = Column(Words, nullable=False)
    level = Column(Words, nullable=False)
    started = Column(Moment, nullable=False)
    ended = Column(Moment, nullable=False)
    ok = Column(Boolean, nullable=False)
    problems = Column(Integer, nullable=False)


verifications = Table(
    "verifications",
    metadata,
    _VerificationColumns,
    Index("verifications_of_policy", "policy", "level", "ended"),
)


class _DrillColumns(TypedColumns):
    id = _number()
    policy = Column(Words, nullable=False)
    source = Column(Words, nullable=False)
    snapshot = Column(Words)
    started = Column(Moment, nullable=False)
    ended = Column(Moment, nullable=False)
    passed = Column(Boolean, nullable=False)
    restore_seconds = Column(Float)
    detail = Column(Text, nullable=False)


drills = Table(
    "drills",
    metadata,
    _DrillColumns,
    Index("drills_of_source", "policy", "source", "ended"),
)


class _AlertColumns(TypedColumns):
    id = _number()
    event = Column(Words, nullable=False)
    policy = Column(Words, nullable=False)
    source = Column(Words, nullable=False)  # as in runs
    opened = Column(Moment, nullable=False)
    closed = Column(Moment)
    sentence = Column(Words, nullable=False)
    told_at = Column(Moment)
    told = Column(Integer, nullable=False)
    acknowledged = Column(Moment)
    acknowledged_by = Column(Words)


alerts = Table(
    "alerts",
    metadata,
    _AlertColumns,
    Index("alerts_opened", "opened"),
    Index(
        "alerts_one_is_open",
        "event",
        "policy",
        "source",
        unique=True,
        sqlite_where=text("closed IS NULL"),
    ),
    sqlite_autoincrement=True,
)


class _NotificationColumns(TypedColumns):
    id = _number()
    key = Column(Words, nullable=False, unique=True)
    policy = Column(Words, nullable=False)
    notifier = Column(Words, nullable=False)
    event = Column(Words, nullable=False)
    message = Column(Text, nullable=False)
    alert = Column(BigInteger, ForeignKey("alerts.id", ondelete="SET NULL"))
    run = Column(BigInteger, ForeignKey("runs.id", ondelete="SET NULL"))
    enqueued = Column(Moment, nullable=False)
    attempts = Column(Integer, nullable=False)
    tried = Column(Moment)
    next_try = Column(Moment)
    ended = Column(Moment)
    outcome = Column(Words)
    reason = Column(Words)


notifications = Table(
    "notifications",
    metadata,
    _NotificationColumns,
    Index("notifications_next", "next_try"),
    Index("notifications_ended", "ended"),
    Index("notifications_alert", "alert"),
    Index("notifications_run", "run"),
    sqlite_autoincrement=True,
)


class _AuditColumns(TypedColumns):
    n = Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False)
    at = Column(Moment, nullable=False)
    who = Column(Text, nullable=False)
    action = Column(Text, nullable=False)
    object = Column(Text, nullable=False)
    detail = Column(Text, nullable=False)
    previous = Column(Text, nullable=False)
    hash = Column(Text, nullable=False)


audit = Table("audit", metadata, _AuditColumns)


class _HeartbeatColumns(TypedColumns):
    name = Column(Words, primary_key=True)
    at = Column(Moment, nullable=False)


heartbeats = Table("heartbeats", metadata, _HeartbeatColumns)


class _PlanColumns(TypedColumns):
    name = Column(Words, primary_key=True)
    at = Column(Moment, nullable=False)


plans = Table("plans", metadata, _PlanColumns)


class _RepositoryColumns(TypedColumns):
    policy = Column(Words, primary_key=True)
    repository = Column(Words, nullable=False)
    place = Column(Words, nullable=False)
    at = Column(Moment, nullable=False)
    bytes = Column(BigInteger)
    locked_until = Column(Moment)
    detail = Column(Text, nullable=False)


repositories = Table("repositories", metadata, _RepositoryColumns)


class _MetaColumns(TypedColumns):
    key = Column(Text, primary_key=True)
    value = Column(Text, nullable=False)


meta = Table("meta", metadata, _MetaColumns)
