"""Holds: what people keep whatever retention says, and the brake, which pauses it. Both are signed records."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from backupd.config.clock import parse_stamp
from backupd.repo.records import Record
from backupd.repo.repository import SnapshotView


@dataclass(frozen=True, slots=True)
class Hold:
    """One reason to keep a snapshot, and since when."""

    snapshot: str
    reason: str
    created: str


def holds_of(views: Iterable[SnapshotView], records: Iterable[Record]) -> list[Hold]:
    """The holds in force, oldest first: those that a run gave its own snapshot, and those of records.

    A release ends every hold of its snapshot with its reason that is not newer; one without a reason ends all of them.
    """
    found = [Hold(v.id, v.structure.hold, v.structure.taken_at) for v in views if v.structure.hold]
    ended: dict[tuple[str, str | None], datetime] = {}
    for record in records:
        snapshot, created = str(record.document.get("snapshot")), str(record.document.get("created"))
        reason = record.document.get("reason")
        if record.type == "hold":
            found.append(Hold(snapshot, str(reason), created))
        elif record.type == "release" and (time := _time(created)) is not None:
            key = (snapshot, None if reason is None else str(reason))
            ended[key] = max(time, ended.get(key, time))
    return sorted((hold for hold in found if not _is_ended(hold, ended)), key=lambda hold: hold.created)


def holds_by_snapshot(views: Iterable[SnapshotView], records: Iterable[Record]) -> dict[str, list[str]]:
    """Of each snapshot that is held the reasons."""
    found: dict[str, list[str]] = {}
    for hold in holds_of(views, records):
        found.setdefault(hold.snapshot, []).append(hold.reason)
    return found


def _is_ended(hold: Hold, ended: dict[tuple[str, str | None], datetime]) -> bool:
    since = _time(hold.created)
    times = [ended.get((hold.snapshot, reason)) for reason in (hold.reason, None)]
    return since is not None and any(time is not None and time >= since for time in times)


def _time(text: str) -> datetime | None:
    """A time, or None: a hold without one never ends by a release, a release without one ends nothing."""
    try:
        return parse_stamp(text)
    except ValueError:
        return None
