"""What the daemon shows: one frozen picture of everything, from which page, metrics, health and JSON are made.

It holds names, numbers, times and sentences. It never holds a secret or a record, it knows no way to look anything up, and
it reads no clock: `at` says when it was taken.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from backupd.catalog.repositories import Incident
from backupd.catalog.totals import DURATION_BOUNDS

Verdict = Literal["ok", "warn", "breach"]
DayState = Literal["none", "ok", "failed", "missed"]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the daemon itself works.

    Attributes:
        alive: the main loop turns.
        ready: policies are loaded, and it is not on its way out.
        word: why not, in a word: "starting", "failing", "stalled", "draining".
    """

    alive: bool
    ready: bool
    word: str = "ok"


@dataclass(frozen=True, slots=True)
class DayView:
    """One day (UTC) of a source: what its runs came to, and how many snapshots it has of that day."""

    state: DayState
    snapshots: int = 0


@dataclass(frozen=True, slots=True)
class SourceView:
    """One source, as `backupctl status` knows it, and what the catalog adds.

    Attributes:
        why: what is wrong, the worst first.
        rpo_used: the share of the promised time that has passed; more than 1 is a breach.
        timezone: the name of the zone that its policy's schedule is written in.
        drilled_at: when a drill last proved a restore.
        drill_overdue: the policy promises drills, and the last one that passed is too long ago, or never was though there was
            time enough.
        drill_failed_at: when the newest drill ended, if it did not pass.
        restore_seconds: how long the restore of the newest drill took that had one.
        days: the last days, oldest first; the last one is today (UTC).
        stored: bytes that its newest runs stored, oldest first.
    """

    policy: str
    name: str
    verdict: Verdict = "ok"
    why: tuple[str, ...] = ()
    rpo_seconds: float | None = None
    rpo_used: float | None = None
    last_good: datetime | None = None
    next_run: datetime | None = None
    timezone: str = "UTC"
    drilled_at: datetime | None = None
    drill_every_seconds: float | None = None
    drill_overdue: bool = False
    drill_failed_at: datetime | None = None
    restore_seconds: float | None = None
    rto_seconds: float | None = None
    locked_until: datetime | None = None
    days: tuple[DayView, ...] = ()
    stored: tuple[int, ...] = ()
    snapshots: int = 0


@dataclass(frozen=True, slots=True)
class RunningView:
    """A job that is under way; `rate` is in bytes a second."""

    kind: str
    policy: str
    source: str
    started: datetime
    phase: str = ""
    done_bytes: int = 0
    total_bytes: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class QueueView:
    """Jobs by state, and for how long the oldest that is due has waited."""

    counts: tuple[tuple[str, int], ...] = (("queued", 0), ("running", 0))
    oldest_queued_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker, and when it was last heard of; `stale` if that is too long ago."""

    name: str
    heartbeat: datetime
    stale: bool = False


@dataclass(frozen=True, slots=True)
class BrakeView:
    """Pruning of a source stands still after a sudden change; `command` releases it."""

    policy: str
    source: str
    since: datetime
    why: str
    command: str


@dataclass(frozen=True, slots=True)
class AlertView:
    """Something that somebody was told of, and that has not ended."""

    event: str
    policy: str
    source: str | None
    since: datetime
    sentence: str


@dataclass(frozen=True, slots=True)
class VerificationView:
    """One level at which a policy has its repository checked.

    Attributes:
        failed: the newest one failed.
        next_at: when it is checked next, or tried again.
    """

    policy: str
    level: str
    last_ok: datetime | None
    every_seconds: float
    overdue: bool = False
    failed: bool = False
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RepositoryView:
    """Where a policy's snapshots go.

    Attributes:
        place: its address, without any secret.
        lock_short: its snapshots are locked for less time than the policy promises; None: nobody has looked.
        catalog_mismatch: the catalog and the repository do not tell the same.
    """

    policy: str
    bytes: int | None = None
    locked_until: datetime | None = None
    lock_short: bool | None = None
    catalog_mismatch: bool = False
    place: str = ""


@dataclass(frozen=True, slots=True)
class RunView:
    """A job that has ended."""

    kind: str
    policy: str
    source: str
    outcome: str
    started: datetime
    seconds: float
    read_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunTotals:
    """All runs of a source since the catalog began; none of these numbers ever falls.

    Attributes:
        outcomes: how many ended how.
        durations: how many took how long: one number for each bound of `DURATION_BOUNDS` (not summed up), one for longer ones.
        seconds: all run times together.
    """

    policy: str
    source: str
    outcomes: tuple[tuple[str, int], ...] = ()
    read_bytes: int = 0
    stored_bytes: int = 0
    durations: tuple[int, ...] = (0,) * (len(DURATION_BOUNDS) + 1)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NotificationTotals:
    """How many notifications of one notifier ended how, since the catalog began."""

    notifier: str
    outcome: str
    count: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything, at one moment.

    Attributes:
        sources: the worst first.
        state: what the daemon is at: "running", "starting", "reloading" or "draining".
    """

    at: datetime
    version: str
    verdict: Verdict
    sentence: str
    sources: tuple[SourceView, ...] = ()
    running: tuple[RunningView, ...] = ()
    queue: QueueView = QueueView()
    workers: tuple[WorkerView, ...] = ()
    brakes: tuple[BrakeView, ...] = ()
    alerts: tuple[AlertView, ...] = ()
    notify_failing: bool = False
    verifications: tuple[VerificationView, ...] = ()
    repositories: tuple[RepositoryView, ...] = ()
    recent: tuple[RunView, ...] = ()
    totals: tuple[RunTotals, ...] = ()
    notifications: tuple[NotificationTotals, ...] = ()
    state: str = "running"
    incidents: tuple[Incident, ...] = ()
