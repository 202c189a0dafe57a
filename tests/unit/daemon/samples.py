"""Overviews from empty to worst, for the tests of what is shown."""

from datetime import UTC, datetime, timedelta

from backupd.catalog.repositories import Incident
from backupd.catalog.totals import DURATION_BOUNDS
from backupd.daemon.overview import (
    AlertView,
    BrakeView,
    DayState,
    DayView,
    NotificationTotals,
    Overview,
    QueueView,
    RepositoryView,
    RunningView,
    RunTotals,
    RunView,
    SourceView,
    VerificationView,
    WorkerView,
)

AT = datetime(2026, 11, 28, 0, 42, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
HOSTILE = "<script>alert('x')</script>\"&{{7*7}}\u202egnp.exe\u200b"
LONG = "customer-records-of-the-whole-company-" * 40


def days(*last: DayState) -> tuple[DayView, ...]:
    """Thirty days that end with these."""
    states: list[DayState] = ["ok"] * (30 - len(last)) + list(last)
    return tuple(DayView(state, 1 if state == "ok" else 0) for state in states)


def source(name: str = "crm", policy: str = "customers-nightly", **changes: object) -> SourceView:
    """A source with which all is well."""
    values: dict[str, object] = {
        "rpo_seconds": 86400.0,
        "rpo_used": 0.37,
        "last_good": AT - 9 * HOUR,
        "next_run": AT + 49 * timedelta(minutes=1),
        "timezone": "Europe/Berlin",
        "drilled_at": AT - 6 * DAY,
        "drill_every_seconds": 7 * 86400.0,
        "restore_seconds": 412.0,
        "rto_seconds": 3600.0,
        "locked_until": AT + 29 * DAY,
        "days": days(),
        "stored": tuple(2_000_000 + (n * 7919 % 13) * 310_000 for n in range(30)),
        "snapshots": 27,
    }
    return SourceView(policy, name, **(values | changes))  # type: ignore[arg-type]


def empty() -> Overview:
    """Nothing at all."""
    return Overview(AT, "0.1.0", "warn", "Nothing is protected: no policy names a source, and there is no snapshot.")


def well() -> Overview:
    """All is well."""
    sources = (source(), source("shop", "shop-hourly", timezone="UTC"), source("ledger", "customers-nightly"))
    return Overview(
        AT,
        "0.1.0",
        "ok",
        "All is well: 3 sources, and no newest snapshot is older than 9 hours.",
        sources,
        running=(
            RunningView(
                "run", "shop-hourly", "shop", AT - 95 * timedelta(seconds=1), "reading", 3 << 30, 9 << 30, 3.4e7
            ),
        ),
        queue=QueueView((("queued", 2), ("running", 1)), 14.0),
        workers=(WorkerView("db1-1", AT - timedelta(seconds=3)), WorkerView("db1-2", AT - timedelta(seconds=2))),
        verifications=(
            VerificationView("customers-nightly", "structure", AT - 5 * HOUR, 86400.0),
            VerificationView("customers-nightly", "content", AT - 20 * HOUR, 86400.0),
        ),
        repositories=(
            RepositoryView(
                "customers-nightly",
                48_200_000_000,
                AT + 29 * DAY,
                False,
                place="s3://acme-backup/crm?region=eu-central-1",
            ),
            RepositoryView("shop-hourly", 3_100_000_000, None, place="/srv/backup/shop"),
        ),
        recent=(
            RunView("run", "customers-nightly", "crm", "done", AT - 9 * HOUR, 184.0, 9_663_676_416, 4_730_000),
            RunView("verify", "customers-nightly", "crm", "done", AT - 5 * HOUR, 21.0, 30_000_000, 0),
        ),
        totals=(totals("crm"), totals("ledger"), totals("shop", "shop-hourly")),
        notifications=(NotificationTotals("ops", "sent", 12), NotificationTotals("ops", "failed", 1)),
    )


def totals(source: str, policy: str = "customers-nightly") -> RunTotals:
    """Some runs."""
    durations = tuple(range(len(DURATION_BOUNDS) + 1))
    return RunTotals(policy, source, (("done", 70), ("failed", 8)), 1_000_000, 5_000, durations, 1234.5)


def breach() -> Overview:
    """Everything that can be wrong, at once."""
    sources = (
        source(
            verdict="breach",
            why=(
                "its newest snapshot is 51 hours old, promised are 1d",
                "the run of 2026-11-27T01:30:00Z has left no snapshot",
            ),
            rpo_used=2.13,
            last_good=AT - 51 * HOUR,
            days=days("missed", "failed", "none"),
            drill_overdue=True,
            drilled_at=AT - 19 * DAY,
            drill_failed_at=AT - 5 * DAY,
            restore_seconds=5000.0,
        ),
        source(
            "archive",
            verdict="breach",
            why=("there is no snapshot of it",),
            rpo_used=None,
            last_good=None,
            drilled_at=None,
            restore_seconds=None,
            drill_overdue=True,
            locked_until=None,
            days=days(*["none"] * 30),
            stored=(),
            next_run=None,
            snapshots=0,
        ),
        source("shop", "shop-hourly", verdict="warn", why=("no drill has proven a restore yet",), rpo_used=0.92),
        source("ledger"),
    )
    return Overview(
        AT,
        "0.1.0",
        "breach",
        "2 of 4 sources are not protected as promised: crm: its newest snapshot is 51 hours old, promised are 1d.",
        sources,
        queue=QueueView((("queued", 7), ("running", 0)), 7300.0),
        workers=(WorkerView("db1-1", AT - 2 * HOUR, stale=True),),
        brakes=(
            BrakeView(
                "shop-hourly",
                "shop",
                AT - 3 * HOUR,
                "38 % of the rows of orders are gone",
                "backupctl brake release --config /etc/backupd/policies.d --source shop --reason 'planned clean-up'",
            ),
        ),
        alerts=(
            AlertView("rpo_breach", "customers-nightly", "crm", AT - 27 * HOUR, "The newest snapshot is too old."),
            AlertView("lock_short", "customers-nightly", None, AT - 2 * DAY, "Locked for 7 days, promised are 30."),
        ),
        notify_failing=True,
        verifications=(
            VerificationView("customers-nightly", "structure", AT - 5 * DAY, 86400.0, overdue=True),
            VerificationView("customers-nightly", "content", None, 86400.0, overdue=True),
        ),
        repositories=(RepositoryView("customers-nightly", 48_200_000_000, AT + 7 * DAY, True, True, "s3://acme/crm"),),
        recent=tuple(
            RunView("run", "customers-nightly", "crm", outcome, AT - 27 * HOUR, 61.0)
            for outcome in ("failed", "incomplete", "cancelled", "lost")
        ),
        totals=(totals("crm"),),
        state="draining",
        incidents=(
            Incident(
                "3f2a91c0de55aa01",
                "deletion",
                ("crm",),
                AT - HOUR,
                "orders of the last week are missing",
                AT - 10 * timedelta(minutes=1),
                "a job deleted them",
                "orders",
                52_000_000,
                3_100_000_000,
                AT + timedelta(minutes=1),
            ),
        ),
    )


def hostile() -> Overview:
    """Every text is an attack, and some are very long."""
    bad = HOSTILE
    return Overview(
        AT,
        bad,
        "breach",
        f"1 of 2 sources is not protected: {bad}",
        (source(bad, bad, why=(bad, LONG), timezone="No/Where"), source(LONG, LONG)),
        running=(RunningView(bad, bad, bad, AT, bad),),
        queue=QueueView(((bad, 1),), 1.0),
        workers=(WorkerView(bad, AT),),
        brakes=(BrakeView(bad, bad, AT, bad, bad),),
        alerts=(AlertView(bad, bad, bad, AT, bad),),
        verifications=(VerificationView(bad, bad, AT, 1.0, True),),
        repositories=(RepositoryView(bad, 1, place=bad),),
        recent=(RunView(bad, bad, bad, bad, AT, 1.0),),
        totals=(RunTotals(bad, bad, ((bad, 1),)),),
        notifications=(NotificationTotals(bad, bad, 1),),
        state=bad,
        incidents=(Incident(bad, bad, (bad, LONG), None, bad, None, bad, LONG),),
    )


def many(count: int = 200) -> Overview:
    """A whole house of databases."""
    sources = tuple(
        source(
            f"db-{n:03d}",
            f"policy-{n % 20:02d}",
            verdict="breach" if n < 3 else "warn" if n < 11 else "ok",
            why=("its newest snapshot is 51 hours old, promised are 1d",)
            if n < 3
            else ("looks odd",)
            if n < 11
            else (),
            days=days("failed") if n < 3 else days(),
        )
        for n in range(count)
    )
    return Overview(AT, "0.1.0", "breach", f"3 of {count} sources are not protected as promised.", sources)


ALL = {"empty": empty, "well": well, "breach": breach, "hostile": hostile, "many": many}
