"""The first catalog. What a migration does never changes afterwards, so it takes nothing from the other modules."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TEXT, _MOMENT, _INT, _BIG, _FLOAT, _BOOL = sa.Text, sa.BigInteger, sa.Integer, sa.BigInteger, sa.Float, sa.Boolean
_NEVER_AGAIN: dict[str, Any] = {"sqlite_autoincrement": True}


def _id(name: str = "id", *, given: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _NUMBER, primary_key=True, autoincrement=not given)


def _needed(type_: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, type_, nullable=False) for name in names]


def _optional(type_: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, type_, nullable=True) for name in names]


def upgrade() -> None:
    """Make all tables."""
    _jobs()
    _runs()
    _snapshots()
    _checks()
    _alerts()
    _notifications()
    op.create_table(
        "audit",
        _id("n", given=True),
        *_needed(_MOMENT, "at"),
        *_needed(_TEXT, "who", "action", "object", "detail", "previous", "hash"),
    )
    op.create_table("heartbeats", sa.Column("name", _TEXT, primary_key=True), *_needed(_MOMENT, "at"))
    op.create_table("plans", sa.Column("name", _TEXT, primary_key=True), *_needed(_MOMENT, "at"))
    op.create_table(
        "repositories",
        sa.Column("policy", _TEXT, primary_key=True),
        *_needed(_TEXT, "repository", "place", "detail"),
        *_needed(_MOMENT, "at"),
        *_optional(_MOMENT, "locked_until"),
        *_optional(_BIG, "bytes"),
    )
    op.create_table("meta", sa.Column("key", _TEXT, primary_key=True), *_needed(_TEXT, "value"))


def _only(table: str, name: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _jobs() -> None:
    op.create_table(
        "jobs",
        _id("n"),
        *_needed(_TEXT, "key", "kind", "policy", "lock", "payload", "state", "detail"),
        *_needed(_INT, "rank", "max_attempts", "attempt"),
        *_needed(_MOMENT, "submitted", "queued", "due"),
        *_needed(_BIG, "lease_microseconds"),
        *_needed(_BOOL, "cancelling"),
        *_optional(_TEXT, "source", "worker", "token"),
        *_optional(_MOMENT, "not_before", "started", "ended", "lease_until"),
        *_optional(_FLOAT, "max_seconds"),
        sa.UniqueConstraint("key"),
        **_NEVER_AGAIN,
    )
    op.create_index("jobs_next", "jobs", ["state", "rank", "due", "n"])
    op.create_index("jobs_ended", "jobs", ["ended"])
    _only("jobs", "jobs_one_holds_a_lock", ["lock"], "state = 'running'")


def _runs() -> None:
    op.create_table(
        "runs",
        _id(),
        *_needed(_TEXT, "policy", "source", "kind"),
        *_needed(_INT, "attempt", "warnings"),
        *_needed(_MOMENT, "started"),
        *_optional(_MOMENT, "ended"),
        *_optional(_TEXT, "job", "outcome", "error_code", "error_message", "snapshot"),
        *_optional(_INT, "error_exit"),
        *_optional(_BIG, "read_bytes", "stored_bytes", "rows"),
        *_optional(_FLOAT, "seconds"),
        sa.UniqueConstraint("job", "attempt"),
        **_NEVER_AGAIN,
    )
    op.create_index("runs_started", "runs", ["started"])
    op.create_index("runs_ended", "runs", ["ended"])
    op.create_index("runs_of_source", "runs", ["kind", "policy", "source", "started"])
    op.create_index("runs_by_outcome", "runs", ["kind", "outcome", "policy", "source", "started"])


def _snapshots() -> None:
    op.create_table(
        "snapshots",
        sa.Column("repository", _TEXT, primary_key=True),
        sa.Column("id", _TEXT, primary_key=True),
        *_needed(_TEXT, "writer", "source", "kind", "holds"),
        *_needed(_BIG, "seq", "read_bytes", "stored_bytes"),
        *_needed(_MOMENT, "last_seen"),
        *_optional(_MOMENT, "taken_at", "stored_at", "drilled_at"),
        *_optional(_BIG, "rows"),
    )
    op.create_index("snapshots_of_source", "snapshots", ["kind", "repository", "writer", "source", "taken_at", "seq"])


def _checks() -> None:
    op.create_table(
        "verifications",
        _id(),
        *_needed(_TEXT, "policy", "level"),
        *_needed(_MOMENT, "started", "ended"),
        *_needed(_BOOL, "ok"),
        *_needed(_INT, "problems"),
    )
    op.create_index("verifications_of_policy", "verifications", ["policy", "level", "ended"])
    op.create_table(
        "drills",
        _id(),
        *_needed(_TEXT, "policy", "source", "detail"),
        *_needed(_MOMENT, "started", "ended"),
        *_needed(_BOOL, "passed"),
        *_optional(_TEXT, "snapshot"),
        *_optional(_FLOAT, "restore_seconds"),
    )
    op.create_index("drills_of_source", "drills", ["policy", "source", "ended"])


def _alerts() -> None:
    op.create_table(
        "alerts",
        _id(),
        *_needed(_TEXT, "event", "policy", "source", "sentence"),
        *_needed(_MOMENT, "opened"),
        *_needed(_INT, "told"),
        *_optional(_MOMENT, "closed", "told_at", "acknowledged"),
        *_optional(_TEXT, "acknowledged_by"),
        **_NEVER_AGAIN,
    )
    op.create_index("alerts_opened", "alerts", ["opened"])
    _only("alerts", "alerts_one_is_open", ["event", "policy", "source"], "closed IS NULL")


def _notifications() -> None:
    op.create_table(
        "notifications",
        _id(),
        *_needed(_TEXT, "key", "policy", "notifier", "event", "message"),
        *_needed(_MOMENT, "enqueued"),
        *_needed(_INT, "attempts"),
        sa.Column("alert", _BIG, sa.ForeignKey("alerts.id", ondelete="SET NULL")),
        sa.Column("run", _BIG, sa.ForeignKey("runs.id", ondelete="SET NULL")),
        *_optional(_MOMENT, "tried", "next_try", "ended"),
        *_optional(_TEXT, "outcome", "reason"),
        sa.UniqueConstraint("key"),
        **_NEVER_AGAIN,
    )
    op.create_index("notifications_next", "notifications", ["next_try"])
    op.create_index("notifications_ended", "notifications", ["ended"])
    op.create_index("notifications_alert", "notifications", ["alert"])
    op.create_index("notifications_run", "notifications", ["run"])
