"""Writing down in the catalog what a repository holds. The repository is the truth: this reads it, and never changes it."""

from collections.abc import Iterable
from datetime import datetime

from backupd.catalog.snapshots import Snapshot
from backupd.config.clock import parse_stamp
from backupd.jobs.holds import holds_by_snapshot
from backupd.jobs.status import drills_by_snapshot
from backupd.repo.records import Record
from backupd.repo.repository import Repository, SnapshotView
from backupd.report import Reporter


def read_snapshots(repo: Repository, now: datetime, report: Reporter) -> list[Snapshot]:
    """Every snapshot that a repository holds, for the catalog.

    What does not verify is told to the reporter and left out, and so are snapshots that the key at hand does not open.

    Raises:
        MissingRight: the key may not list snapshots.
        BackupdError: as the storage says.
    """
    history = repo.history()
    records = list(repo.records(report.problem))
    for problem in history.problems:
        report.problem(problem)
    if history.hidden:
        report.warning(f"{history.hidden} snapshots are left out: the key at hand does not open their structure")
    return listed(repo.id, history.views, records, now)


def listed(
    repository: bytes, views: Iterable[SnapshotView], records: Iterable[Record], now: datetime
) -> list[Snapshot]:
    """Snapshots that were read, with what the records say of them, for the catalog.

    Args:
        repository: its id.
        views: the snapshots.
        records: all of the repository.
        now: when they were seen.
    """
    views, records = list(views), list(records)
    holds, drills = holds_by_snapshot(views, records), drills_by_snapshot(records)
    return [
        Snapshot(
            repository=repository.hex(),
            writer=view.object.writer.hex(),
            source=view.source,
            seq=view.object.seq,
            id=view.id,
            taken_at=_moment(view.structure.taken_at),
            stored_at=_moment(view.structure.stored_at),
            kind=view.structure.kind,
            rows=view.structure.rows,
            read_bytes=view.structure.read_bytes,
            stored_bytes=view.structure.stored_bytes,
            holds=tuple(holds.get(view.id, ())),
            drilled_at=drills.get(view.id),
            last_seen=now,
        )
        for view in views
    ]


def _moment(text: str) -> datetime | None:
    try:
        return parse_stamp(text)
    except (ValueError, OverflowError):
        return None  # a writer that lies about the time
