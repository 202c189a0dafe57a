"""Holds: what people keep whatever retention says. A hold is a signed record, and so is the release that ends it by name.

An incident holds every snapshot of its sources, those that are taken later too, until a release names its opening.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backupd.repo.incidents import openings
from backupd.repo.records import Record
from backupd.repo.repository import SnapshotView

RUN = "run"
"""Stands in a release for the hold that a run gave its own snapshot."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One reason to keep a snapshot: since when, and the record that says so (or RUN)."""

    snapshot: str
    reason: str
    created: str
    name: str


def holds_of(views: Iterable[SnapshotView], records: Iterable[Record]) -> list[Hold]:
    """The holds in force, oldest first: those that a run gave its own snapshot, those of records, and those of incidents.

    A release ends the holds that it names, and no other: clocks have no say in what is held.
    """
    views, records = list(views), list(records)
    found = [Hold(v.id, v.structure.hold, v.structure.taken_at, RUN) for v in views if v.structure.hold]
    found += _of_incidents(views, records)
    ended: set[tuple[str, str]] = set()
    for record in records:
        snapshot = str(record.document.get("snapshot"))
        if record.type == "hold":
            created, reason = str(record.document.get("created")), str(record.document.get("reason"))
            found.append(Hold(snapshot, reason, created, record.name))
        elif record.type == "release":
            names = record.document.get("ends")
            ended |= {(snapshot, str(name)) for name in (names if isinstance(names, list) else [])}
    return sorted((hold for hold in found if (hold.snapshot, hold.name) not in ended), key=lambda hold: hold.created)


def _of_incidents(views: Iterable[SnapshotView], records: Iterable[Record]) -> Iterator[Hold]:
    for record, sources in openings(records):
        said = record.document
        reason = f"incident {said['incident']} ({said['kind']}): {said['reason']}"
        for view in views:
            if any(source.covers(view.object.writer, view.source) for source in sources):
                yield Hold(view.id, reason, str(said["created"]), record.name)


def holds_by_snapshot(views: Iterable[SnapshotView], records: Iterable[Record]) -> dict[str, list[str]]:
    """Of each snapshot that is held the reasons."""
    found: dict[str, list[str]] = {}
    for hold in holds_of(views, records):
        found.setdefault(hold.snapshot, []).append(hold.reason)
    return found
