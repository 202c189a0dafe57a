"""Where things stand, by what a repository holds. Reads, and changes nothing."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from backupd.config.clock import parse_stamp
from backupd.jobs.drillrecords import drills_by_snapshot
from backupd.jobs.status import (
    DAYS,
    Braked,
    Known,
    SourceStatus,
    Troubled,
    fill,
    of_known,
    tell_brake,
    tell_drill,
    tell_incidents,
)
from backupd.policy.model import Policy
from backupd.repo.brakes import brakes_set
from backupd.repo.incidents import incidents
from backupd.repo.records import Record
from backupd.repo.repository import SnapshotView


def of_policy(
    policy: Policy, views: Sequence[SnapshotView], records: Iterable[Record], now: datetime
) -> list[SourceStatus]:
    """The sources of a policy, by what its repository holds."""
    records = list(records)
    known, brakes = _known(views, records, now)
    found = of_known(policy, known, brakes, now)
    tell_incidents(found, of_records(records))
    return found


def of_repository(views: Sequence[SnapshotView], records: Iterable[Record], now: datetime) -> list[SourceStatus]:
    """Every source that a repository holds, without a policy: nothing was promised."""
    records = list(records)
    known, brakes = _known(views, records, now)
    found = []
    for name in sorted(known):
        status = SourceStatus(name)
        fill(status, known, brakes)
        tell_drill(status, known, now)
        tell_brake(status)
        found.append(status)
    tell_incidents(found, of_records(records))
    return found


def _known(
    views: Sequence[SnapshotView], records: Sequence[Record], now: datetime
) -> tuple[dict[str, Known], list[Braked]]:
    drills, failed = drills_by_snapshot(records), drills_by_snapshot(records, passed=False)
    today = now.astimezone(UTC).date()
    found: dict[str, Known] = {}
    for view in views:
        known = found.setdefault(view.source, Known())
        if view.structure.kind != "snapshot":
            continue
        try:
            taken = parse_stamp(view.structure.taken_at)
        except (ValueError, OverflowError):
            continue  # a writer that lies about the time has protected nothing
        known.newest, known.oldest = max(taken, known.newest or taken), min(taken, known.oldest or taken)
        back = (today - taken.date()).days
        if 0 <= back < DAYS:
            known.strip[DAYS - 1 - back] += 1
        if drilled := drills.get(view.id):
            known.drilled_at = max(drilled, known.drilled_at or drilled)
        if bad := failed.get(view.id):
            known.drill_failed = max(bad, known.drill_failed or bad)
    return found, [Braked(brake.source, brake.since, brake.reason) for brake in brakes_set(records)[0]]


def of_records(records: Iterable[Record]) -> list[Troubled]:
    """The incidents that are open, by the records of a repository."""
    return [
        Troubled(one.id, tuple(s.source for s in one.sources), one.since[:19].rstrip("Z") + "Z", one.message)
        for one in incidents(records)
        if one.is_open
    ]
