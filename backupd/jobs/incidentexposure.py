"""What an incident exposes and what it teaches: of each key what it opens, whose records that are, and what should be otherwise.

FORMAT.md, section 3 is the law for what a key opens. Counts and names of tables only; must never hold a record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from backupd.config.clock import parse_stamp, stamp
from backupd.crypto.keyfile import Role
from backupd.jobs.drillrecords import drills_by_snapshot
from backupd.jobs.restore import open_content
from backupd.jobs.triage import taken
from backupd.repo.incidents import Incident, created
from backupd.repo.records import Record
from backupd.repo.repository import History, Repository, SnapshotView
from backupd.report import Reporter

NOTICE = timedelta(hours=72)
"""From awareness of a breach to the notice to the authority: GDPR, article 33."""
STALE = timedelta(days=30)
_STRUCTURE = "the structure of all snapshots and the text of sealed records; no row"
_ROWS = "every row of every snapshot"
_READER_SIGNS = "hold, evidence, erasure, incident and audit records"
_WRITER_OPENS = """the structure of its own writer's snapshots (source names, times, sizes, numbers of rows) and nothing else \
that is stored; with the state folder of its host the version cache: rows of the last runs"""
_PRUNER_SIGNS = """prunes, releases of holds and brakes, garbage collection: with the storage's right to delete, the loss of \
snapshots"""
_ROOT_SIGNS = "trust, and every record: it may name a new recipient for what is stored from then on"
OPENS: Mapping[Role, tuple[str, str, bool]] = {
    Role.WRITE: (_WRITER_OPENS, "snapshots of its own writer; hold and brake records", False),
    Role.CHECK: (_STRUCTURE, "verdicts on packs, evidence, brake and audit records", False),
    Role.PRUNE: (_STRUCTURE, _PRUNER_SIGNS, False),
    Role.READ: (_ROWS, _READER_SIGNS, True),
    Role.RECOVERY: (_ROWS, _READER_SIGNS, True),
    Role.ROOT: (_STRUCTURE, _ROOT_SIGNS, False),
}
"""Of each key: what it opens, what it signs, and whether it opens rows."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the report is told besides.

    Attributes:
        exposed: roles of the keys that strangers may have.
        subjects: of a source's name the table of persons, by the policies at hand.
        rpo: of a source's name what was promised, in seconds.
        locked: of a source's name whether its policy asks for an object lock.
        now: the time.
        since: when it began, if a person said so; else what triage found counts.
    """

    exposed: tuple[Role, ...]
    subjects: Mapping[str, str]
    rpo: Mapping[str, float]
    locked: Mapping[str, bool]
    now: datetime
    since: datetime | None = None


def moment_in(text: str) -> datetime | None:
    """A time that a record tells; None if it is none."""
    try:
        return parse_stamp(text)
    except (ValueError, OverflowError):
        return None


def groups(views: Iterable[SnapshotView]) -> list[list[SnapshotView]]:
    """Whole snapshots by source, oldest first."""
    groups: dict[tuple[bytes, str], list[SnapshotView]] = {}
    for view in views:
        if view.structure.kind == "snapshot":
            groups.setdefault((view.object.writer, view.source), []).append(view)
    return [sorted(g, key=lambda v: (v.structure.taken_at, v.object.seq)) for _, g in sorted(groups.items())]


def is_check(record: Record) -> bool:
    """Whether a record says that content was read back: a drill, or a verification of content."""
    return record.type == "evidence" or (record.type == "audit" and record.document.get("action") == "verify-content")


def breach(
    repo: Repository, incident: Incident, views: Sequence[SnapshotView], given: Given, report: Reporter
) -> dict[str, Any]:
    """Which keys open what, whose records those are, and until when an authority must hear of it."""
    detected = moment_in(incident.detected) or given.now
    rows = any(OPENS[role][2] for role in given.exposed)
    report.phase("reading what the snapshots hold", len(views))
    return {
        "keys": [
            {"role": str(role), "opens": OPENS[role][0], "signs": OPENS[role][1], "opens_rows": OPENS[role][2]}
            for role in given.exposed
        ],
        "keys_known": bool(given.exposed),
        "host": "a host that holds a write key also reads the live database: what it could read there is not in this list",
        "exposed": [_holds_whom(repo, view, given, report) for view in views] if rows else [],
        "live": [] if rows else [_holds_whom(repo, g[-1], given, report) for g in groups(views)],
        "detected": stamp(detected),
        "notice_until": stamp(detected + NOTICE),
        "notice_overdue": given.now > detected + NOTICE,
    }


def _holds_whom(repo: Repository, view: SnapshotView, given: Given, report: Reporter) -> dict[str, Any]:
    report.advance(1)
    tables = open_content(repo, view)["tables"]
    subject = given.subjects.get(view.source)
    count = next((table["rows"] for table in tables if table["name"] == subject), None)
    return {
        "snapshot": view.id,
        "source": view.source,
        "taken_at": view.structure.taken_at,
        "tables": [{"name": table["name"], "rows": table["rows"]} for table in tables],
        "subject_table": subject,
        "subjects": count,
    }


# ---- what should change


def should_change(
    history: History, incident: Incident, views: Sequence[SnapshotView], given: Given
) -> list[dict[str, str]]:
    """What this incident shows that should be otherwise, with what to do."""
    detected, found = moment_in(incident.detected) or given.now, list[dict[str, str]]()

    def tell(source: str, what: str, do: str) -> None:
        found.append({"source": source, "what": what, "do": do})

    drilled = drills_by_snapshot(history.records)
    checks = [m for r in history.records if is_check(r) and (m := moment_in(created(r)))]
    for group in groups(views):
        source = group[-1].source
        before = [view for view in group if taken(view) <= detected]
        gap, promised = (detected - taken(before[-1])).total_seconds() if before else None, given.rpo.get(source)
        if gap is None:
            tell(source, "there was no snapshot from before", "look why it was not protected: backupctl status")
        elif promised is not None and gap > promised:
            tell(
                source,
                f"the newest snapshot was {int(gap)} s old, promised were {int(promised)} s",
                "a closer schedule",
            )
        if not any(view.id in drilled for view in group):
            tell(source, "no drill ever proved a restore of it", "a drill in its policy")
        if given.locked.get(source) is not True:
            tell(
                source,
                "no policy at hand asks for an object lock",
                "retention.lock in its policy, on a bucket with locks",
            )
        if incident.kind in {"deletion", "corruption"} and not _was_braked(history, group):
            tell(source, "the loss set no brake", "keep more nights; small losses are found by diff, not by the brake")
    if not checks or given.now - max(checks) > STALE:
        tell("*", "no content was verified within 30 days", "verify: {level: content, every: 1d} in the policy")
    return found


def _was_braked(history: History, group: Sequence[SnapshotView]) -> bool:
    place = (group[-1].object.writer.hex(), group[-1].source)
    return any(r.type == "brake" and (r.document["writer"], r.document["source"]) == place for r in history.records)
