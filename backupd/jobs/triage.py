"""What changed when: the snapshots of a source around the time at which something began, and what each night took away.

Adjacent snapshots are compared, the newest first, so the cost follows what changed: counts by table. Where one record is asked
for, it is looked up in all of them, and only the night that changed it last is compared. Reads only; what is stored of it names
no table and no key.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from backupd.config.clock import parse_stamp
from backupd.errors import BackupdError
from backupd.jobs.compare import compare
from backupd.jobs.comparepages import ReadSchema
from backupd.jobs.comparison import Asked, TableDiff
from backupd.jobs.conditions import no_sql
from backupd.jobs.erasure import Erasures
from backupd.jobs.find import Asked as Sought
from backupd.jobs.find import find
from backupd.jobs.storedfile import OpenFile
from backupd.policy.nights import Night
from backupd.policy.sudden import judge
from backupd.repo.brakes import brakes_set
from backupd.repo.records import Record as Stored
from backupd.repo.repository import Repository, SnapshotView
from backupd.report import Reporter


@dataclass(frozen=True, slots=True)
class NightDiff:
    """What became of records between two neighbouring snapshots; `reason` says why that is not known."""

    old: str
    new: str
    taken_at: str
    tables: tuple[TableDiff, ...] = ()
    reason: str | None = None
    key_op: str | None = None

    @property
    def removed(self) -> int:
        """Records of all tables that were taken away."""
        return sum(table.removed for table in self.tables)

    def as_json(self) -> dict[str, Any]:
        """Tables without a difference are left out."""
        told = [
            {"name": t.name, "added": t.added, "removed": t.removed, "changed": t.changed, "reason": t.reason}
            for t in self.tables
            if t.added or t.removed or t.changed or t.reason
        ]
        return {
            "old": self.old,
            "new": self.new,
            "taken_at": self.taken_at,
            "tables": told,
            "reason": self.reason,
            "key": self.key_op,
        }


@dataclass(slots=True)
class Triage:
    """One source.

    Attributes:
        source: its name; `writer` the label of who writes it.
        before, after: the snapshots taken up to the onset, and since; oldest first.
        anomalies: what of each night's numbers is sudden: (snapshot, kind, sentence).
        brakes: pauses of pruning that were set.
        nights: comparisons, the newest first.
        last_with: the newest snapshot that still had what is missing; None if none had it, or no night says so.
    """

    source: str
    writer: str
    before: list[SnapshotView] = field(default_factory=list)
    after: list[SnapshotView] = field(default_factory=list)
    anomalies: list[tuple[str, str, str]] = field(default_factory=list)
    brakes: list[tuple[str, str, str]] = field(default_factory=list)
    nights: list[NightDiff] = field(default_factory=list)
    last_with: str | None = None
    fetched: int = 0

    @property
    def clean(self) -> SnapshotView | None:
        """The newest snapshot taken up to the onset."""
        return self.before[-1] if self.before else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a triage.

    Attributes:
        onset: when it began, or was noticed.
        table, key: what is missing, if that is known.
        nights: how many comparisons at most, of each source.
        erased: what nobody may be told of.
        folder: where rows may wait on disk, sealed.
    """

    onset: datetime
    folder: Path
    table: str | None = None
    key: tuple[str, ...] = ()
    nights: int = 14
    erased: Erasures | None = None


def triage(
    repo: Repository,
    views: Sequence[SnapshotView],
    records: Sequence[Stored],
    wanted: Wanted,
    read_schema: ReadSchema,
    open_file: OpenFile,
    report: Reporter,
) -> list[Triage]:
    """Look at each source, writer by writer.

    Args:
        repo: the repository, with the read right.
        views: the snapshots of the sources that are meant.
        records: all of the repository.
        wanted: what is asked.
        read_schema: tells what tables a database file has.
        open_file: opens a database file.
        report: progress.
    """
    groups: dict[tuple[bytes, str], list[SnapshotView]] = {}
    for view in views:
        if view.structure.kind == "snapshot":
            groups.setdefault((view.object.writer, view.source), []).append(view)
    found = []
    for (writer, source), mine in sorted(groups.items()):
        mine.sort(key=lambda v: (v.structure.taken_at, v.object.seq))
        one = Triage(source, mine[0].writer_label)
        for view in mine:
            (one.before if taken(view) <= wanted.onset else one.after).append(view)
        one.anomalies = anomalies(mine)
        in_force, over = brakes_set(records)
        mine_too = [b for b in [*over, *in_force] if (b.writer, b.source) == (writer, source)]
        one.brakes = [(b.snapshot, b.since, b.reason) for b in mine_too]
        if wanted.key:
            _follow_record(repo, one, mine, wanted, read_schema, open_file, report)
        else:
            _compare_nights(repo, one, mine, wanted, read_schema, report)
        found.append(one)
    return found


def taken(view: SnapshotView) -> datetime:
    """When a snapshot was taken, as its writer says."""
    try:
        return parse_stamp(view.structure.taken_at)
    except (ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


def anomalies(views: Sequence[SnapshotView]) -> list[tuple[str, str, str]]:
    """Which nights' numbers are sudden, by what all who may check can read: (snapshot, kind, sentence)."""
    nights = [
        Night(taken(v), v.structure.rows, v.structure.read_bytes, v.structure.stored_bytes, v.structure.chunks)
        for v in views
    ]
    return [
        (view.id, alarm.kind, alarm.sentence())
        for n, view in enumerate(views)
        for alarm in judge(nights[:n], nights[n])
    ]


def _compare_nights(
    repo: Repository,
    one: Triage,
    views: Sequence[SnapshotView],
    wanted: Wanted,
    read_schema: ReadSchema,
    report: Reporter,
) -> None:
    pairs = list(pairwise(views))[::-1][: wanted.nights]
    report.phase(f"comparing the nights of {one.source}", None)
    for old, new in pairs:
        night = _compare_night(repo, one, old, new, wanted, read_schema, report)
        one.nights.append(night)
        if wanted.table is not None and night.removed > 0:
            one.last_with = old.id
            return


def _compare_night(
    repo: Repository,
    one: Triage,
    old: SnapshotView,
    new: SnapshotView,
    wanted: Wanted,
    read_schema: ReadSchema,
    report: Reporter,
    op: str | None = None,
) -> NightDiff:
    asked = Asked(wanted.folder, wanted.table, None, wanted.erased)
    place = (old.id, new.id, new.structure.taken_at)
    try:
        said = compare(repo, old, new, asked=asked, read_schema=read_schema, report=report)
    except BackupdError as error:
        return NightDiff(*place, reason=error.message, key_op=op)
    one.fetched += said.fetched_bytes
    return NightDiff(*place, tuple(said.tables), key_op=op)


def _follow_record(
    repo: Repository,
    one: Triage,
    views: Sequence[SnapshotView],
    wanted: Wanted,
    read_schema: ReadSchema,
    open_file: OpenFile,
    report: Reporter,
) -> None:
    """Find the newest snapshot that has the record, and compare the night that changed it last."""
    report.phase(f"following the record through {one.source}", None)
    sought = Sought(wanted.table or "", wanted.key)
    try:
        found = find(
            repo, views, sought, open_file=open_file, ask_rows=no_sql, erased=lambda _: wanted.erased, report=report
        )
    except BackupdError as error:
        newest = views[-1]
        one.nights.append(NightDiff(views[-2:][0].id, newest.id, newest.structure.taken_at, reason=error.message))
        return
    one.fetched += found.fetched_bytes
    one.last_with = found.present[-1] if found.present else None
    begun = {version.snapshot for version in found.versions}
    for old, new in list(pairwise(views))[::-1]:
        op = _op(old.id in found.present, new.id in found.present, new.id in begun)
        if op is not None and wanted.nights:
            one.nights.append(_compare_night(repo, one, old, new, wanted, read_schema, report, op))
            return


def _op(was: bool, now: bool, begins: bool) -> str | None:
    """What a night did to a record."""
    if was != now:
        return "added" if now else "removed"
    return "changed" if now and begins else None


def step_values(found: Sequence[Triage], onset: str) -> dict[str, object]:
    """What the incident's record keeps of it: numbers and snapshots."""
    return {
        "onset": onset,
        "sources": [
            {
                "source": one.source,
                "before": one.last_with or (one.clean.id if one.clean else None),
                "after": one.after[0].id if one.after else None,
                "nights": len(one.nights),
                "rows_removed": sum(night.removed for night in one.nights),
            }
            for one in found
        ],
    }


def next_commands(one: Triage, wanted: Wanted) -> list[str]:
    """What to run next."""
    snapshot = one.last_with or (one.clean.id if one.clean else None)
    if snapshot is None:
        return [f"backupctl snapshots --source {_word(one.source)}"]
    short, table = snapshot[:12], wanted.table or "TABLE"
    key = ",".join(part.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:") for part in wanted.key) or "KEY"
    return [
        f"backupctl diff {short} live --table {_word(table)}",
        f"backupctl find {_word(one.source)} {_word(table)} {_word(key)}",
        f"backupctl recover {short} {_word(f'{table}:{key}')} --into URL",
    ]


def _word(text: str) -> str:
    """As a shell takes it for one word."""
    return shlex.quote(text)
