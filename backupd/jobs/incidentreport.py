"""What an incident comes to, for people outside: timeline, losses, what was brought back, evidence, and what a breach exposes.

The report is a document of plain values, made from signed records and snapshots alone, to be signed as a statement. It names
tables and counts; it must never hold a record. FORMAT.md, section 3 is the law for what a key opens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from backupd.config.clock import parse_stamp, stamp
from backupd.crypto.keyfile import Role
from backupd.errors import BackupdError
from backupd.jobs.audit import Entry, read_audit, signed_by
from backupd.jobs.auditcheck import check_audit
from backupd.jobs.compare import compare
from backupd.jobs.comparepages import ReadSchema
from backupd.jobs.comparison import Asked
from backupd.jobs.holds import holds_by_snapshot
from backupd.jobs.incident import views_of
from backupd.jobs.restore import open_content
from backupd.jobs.status import drills_by_snapshot
from backupd.jobs.triage import Wanted, anomalies, taken
from backupd.repo.format import snapshot_name
from backupd.repo.incidents import Incident, created, heads_of
from backupd.repo.records import Record
from backupd.repo.repository import History, Repository, SnapshotView, pruned_snapshots
from backupd.report import Problem, Reporter

NOTICE = timedelta(hours=72)
"""From awareness of a breach to the notice to the authority: GDPR, article 33."""
STALE = timedelta(days=30)
_BROUGHT_BACK = frozenset({"restore", "export", "recover", "recover-undo"})
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


def build_report(
    repo: Repository,
    history: History,
    incident: Incident,
    wanted: Wanted,
    given: Given,
    read_schema: ReadSchema,
    report: Reporter,
) -> dict[str, Any]:
    """The document of a report; the repository must be opened with the read right."""
    views = views_of(incident, history.views)
    end = _moment(created(incident.closed)) if incident.closed else None
    audit = read_audit(repo)
    document: dict[str, Any] = {
        "statement": "backupd incident report",
        "version": 1,
        "made": stamp(given.now),
        "incident": incident.id,
        "kind": incident.kind,
        "reason": incident.reason,
        "detected": incident.detected,
        "opened": incident.since,
        "opened_by": signed_by(repo, incident.opened.signer),
        "closed": created(incident.closed) if incident.closed else None,
        "summary": incident.closed.document["summary"] if incident.closed else None,
        "sources": [{"source": s.source, "writer": s.writer.hex() if s.writer else None} for s in incident.sources],
        "timeline": _timeline(repo, incident, audit.entries, views, end),
        "lost": _lost(repo, incident, views, wanted, given.since, read_schema, report),
        "restored": _restored(audit.entries, history.records, incident, end),
        "evidence": _evidence(repo, history, incident, views),
        "should_change": should_change(history, incident, views, given),
    }
    if incident.kind == "breach" or given.exposed:
        document["breach"] = _breach(repo, incident, views, given, report)
    return document


def _moment(text: str) -> datetime | None:
    try:
        return parse_stamp(text)
    except (ValueError, OverflowError):
        return None


def _within(moment: datetime | None, incident: Incident, end: datetime | None) -> bool:
    """Whether something was done while the incident lasted, from when it was noticed on."""
    begins = [m for m in (_moment(incident.detected), _moment(incident.since)) if m]
    return moment is not None and (not begins or moment >= min(begins)) and (end is None or moment <= end)


def _timeline(
    repo: Repository, incident: Incident, entries: Sequence[Entry], views: Sequence[SnapshotView], end: datetime | None
) -> list[dict[str, Any]]:
    steps = {record.name for record in incident.steps}
    found = [
        {
            "at": created(r),
            "who": signed_by(repo, r.signer),
            "role": str(r.role),
            "what": f"incident {r.document['step']}",
        }
        | {"detail": said(r), "record": r.name}
        for r in incident.steps
    ]
    found += [
        {"at": e.at, "who": e.who, "role": e.role, "what": e.action, "detail": e.detail, "record": e.record}
        for e in entries
        if e.record not in steps and e.action not in {"snapshot", "incident"} and _within(e.moment, incident, end)
    ]
    times = {view.id: view for view in views}
    for snapshot, kind, sentence in anomalies(views):
        view = times[snapshot]
        detail = f"{view.source}, snapshot {snapshot[:12]}: {sentence}"
        found.append({"at": view.structure.taken_at, "who": view.writer_label, "role": "write", "what": f"sudden: {kind}"}
                     | {"detail": detail, "record": view.object.name})  # fmt: skip
    return sorted(found, key=lambda one: (_moment(str(one["at"])) or datetime.min.replace(tzinfo=UTC), one["record"]))


def said(record: Record) -> str:
    """What a step says, in one line."""
    d = record.document
    match d["step"]:
        case "open":
            return f"{d['kind']}: {d['reason']}"
        case "note":
            return str(d["text"])
        case "update":
            more = [
                f"known: {d['known']}" if d["known"] else "",
                f"being restored: {d['restoring']}" if d["restoring"] else "",
            ]
            return "; ".join(filter(None, [str(d["message"]), *more]))
        case "recovery":
            return f"{d['text']} ({d['record']})"
        case "close":
            return str(d["summary"])
        case _:
            return f"onset {d['onset']}"


def _lost(
    repo: Repository,
    incident: Incident,
    views: Sequence[SnapshotView],
    wanted: Wanted,
    since: datetime | None,
    read_schema: ReadSchema,
    report: Reporter,
) -> list[dict[str, Any]]:
    """By table: from the newest snapshot that was well to the newest when the incident was opened, and to the newest there is."""
    opened, found = _moment(incident.since), []
    triaged = {} if since else _triaged(incident)
    for group in _groups(views):
        known = [view for view in group if view.id == triaged.get(group[-1].source)]
        before = known or [view for view in group if taken(view) <= wanted.onset]
        old = before[-1] if before else None
        later = [view for view in group if old and group.index(view) > group.index(old)]
        then = [view for view in later if opened and taken(view) <= opened][-1:] or later[:1]
        new, newest = (then[0] if then else None), (later[-1] if later else None)
        values: dict[str, Any] = {
            "source": group[-1].source,
            "writer": group[-1].writer_label,
            "before": old.id if old else None,
            "after": new.id if new else None,
            "newest": newest.id if newest else None,
            "tables": [],
            "still": [],
            "reason": None if new else "no snapshot was taken since" if old else "there is no snapshot from before",
        }
        found.append(values)
        if not (old and new and newest):
            continue
        report.phase(f"comparing {new.source} with how it was", None)
        try:
            values["tables"] = _compared(repo, old, new, wanted, read_schema, report)
            same = new.id == newest.id
            values["still"] = values["tables"] if same else _compared(repo, old, newest, wanted, read_schema, report)
        except BackupdError as error:
            values["reason"] = error.message
    return found


def _triaged(incident: Incident) -> dict[str, str]:
    """Of each source the snapshot that the newest triage found to be well."""
    found: dict[str, str] = {}
    for record in incident.steps:
        for one in record.document.get("sources", []) if record.document["step"] == "triage" else []:
            if one["before"]:
                found[one["source"]] = one["before"]
    return found


def _compared(
    repo: Repository,
    old: SnapshotView,
    new: SnapshotView,
    wanted: Wanted,
    read_schema: ReadSchema,
    report: Reporter,
) -> list[dict[str, Any]]:
    diff = compare(repo, old, new, asked=Asked(wanted.folder), read_schema=read_schema, report=report)
    return [
        {"name": t.name, "added": t.added, "removed": t.removed, "changed": t.changed, "reason": t.reason}
        for t in diff.tables
        if t.added or t.removed or t.changed or t.reason
    ]


def _groups(views: Iterable[SnapshotView]) -> list[list[SnapshotView]]:
    """Whole snapshots by source, oldest first."""
    groups: dict[tuple[bytes, str], list[SnapshotView]] = {}
    for view in views:
        if view.structure.kind == "snapshot":
            groups.setdefault((view.object.writer, view.source), []).append(view)
    return [sorted(g, key=lambda v: (v.structure.taken_at, v.object.seq)) for _, g in sorted(groups.items())]


def _restored(
    entries: Sequence[Entry], records: Sequence[Record], incident: Incident, end: datetime | None
) -> list[dict[str, Any]]:
    """Notes of what brought something back, with how long it took; those that people linked are marked."""
    by_name = {record.name: record for record in records}
    linked = {str(r.document["record"]) for r in incident.steps if r.document["step"] == "recovery"}
    found = []
    for entry in entries:
        record = by_name.get(entry.record)
        wanted = entry.action in _BROUGHT_BACK and _within(entry.moment, incident, end)
        if record is None or record.type != "audit" or not (wanted or entry.record in linked):
            continue
        document = record.document
        begun = by_name.get(str(document.get("begun")))
        began = _moment(created(begun)) if begun else None
        seconds = (entry.moment - began).total_seconds() if began and entry.moment else None
        found.append(
            {
                "at": entry.at,
                "who": entry.who,
                "role": entry.role,
                "action": entry.action,
                "snapshot": entry.object or None,
                "source": entry.source,
                "outcome": document.get("outcome"),
                "tables": document.get("tables"),
                "seconds": round(seconds, 3) if seconds is not None else None,
                "record": entry.record,
                "linked": entry.record in linked,
            }
        )
    return found


def _evidence(repo: Repository, history: History, incident: Incident, views: Sequence[SnapshotView]) -> dict[str, Any]:
    checked = check_audit(repo)
    held, drilled = holds_by_snapshot(views, history.records), drills_by_snapshot(history.records)
    problems = [*checked.problems, *incident.problems, *_gone_since(history, incident)]
    return {
        "snapshots": [
            {
                "snapshot": view.id,
                "source": view.source,
                "writer": view.object.writer.hex(),
                "seq": view.object.seq,
                "taken_at": view.structure.taken_at,
                "stored_at": view.structure.stored_at,
                "rows": view.structure.rows,
                "signed_by": view.object.signed.signer().hex(),
                "label": view.writer_label,
                "previous": view.structure.previous.hex() if view.structure.previous else None,
                "holds": held.get(view.id, []),
                "drilled_at": stamp(drilled[view.id]) if view.id in drilled else None,
            }
            for view in views
        ],
        "verifications": [
            {"at": created(r), "who": signed_by(repo, r.signer), "what": _verdict(r), "record": r.name}
            for r in history.records
            if r.type in {"bad-packs", "good-packs"} or _is_check(r)
        ],
        "checked": {"records": checked.records, "snapshots": checked.snapshots, "trust": checked.trust},
        "problems": [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in problems],
    }


def _is_check(record: Record) -> bool:
    return record.type == "evidence" or (record.type == "audit" and record.document.get("action") == "verify-content")


def _verdict(record: Record) -> str:
    if record.type in {"bad-packs", "good-packs"}:
        return f"{len(record.document['packs'])} packs found {'bad' if record.type == 'bad-packs' else 'good again'}"
    if record.type == "evidence":
        return "a drill passed" if record.document.get("passed") is True else "a drill did not pass"
    return "content was verified"


def _gone_since(history: History, incident: Incident) -> list[Problem]:
    """Snapshots that whoever opened the incident had seen, and that are gone without a signed reason."""
    there = {(v.object.writer, v.object.seq): v.object.id for v in history.views} | pruned_snapshots(history.records)
    return [
        Problem(snapshot_name(writer, seq), "missing", "it was there when the incident was opened")
        for writer, (seq, digest) in heads_of(incident).items()
        if there.get((writer, seq)) != digest
    ]


def _breach(
    repo: Repository, incident: Incident, views: Sequence[SnapshotView], given: Given, report: Reporter
) -> dict[str, Any]:
    """Which keys open what, whose records those are, and until when an authority must hear of it."""
    detected = _moment(incident.detected) or given.now
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
        "live": [] if rows else [_holds_whom(repo, g[-1], given, report) for g in _groups(views)],
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
    detected, found = _moment(incident.detected) or given.now, list[dict[str, str]]()

    def tell(source: str, what: str, do: str) -> None:
        found.append({"source": source, "what": what, "do": do})

    drilled = drills_by_snapshot(history.records)
    checks = [m for r in history.records if _is_check(r) and (m := _moment(created(r)))]
    for group in _groups(views):
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
