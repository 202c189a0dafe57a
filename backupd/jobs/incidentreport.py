"""What an incident comes to, for people outside: timeline, losses, what was brought back, evidence, and what a breach exposes.

The report is a document of plain values, made from signed records and snapshots alone, to be signed as a statement. It names
tables and counts; it must never hold a record. FORMAT.md, section 3 is the law for what a key opens.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from backupd.config.clock import stamp
from backupd.errors import BackupdError
from backupd.jobs.audit import Entry, read_audit, signed_by
from backupd.jobs.auditcheck import check_audit
from backupd.jobs.compare import compare
from backupd.jobs.comparepages import ReadSchema
from backupd.jobs.comparison import Asked
from backupd.jobs.drillrecords import drills_by_snapshot
from backupd.jobs.holds import holds_by_snapshot
from backupd.jobs.incident import views_of
from backupd.jobs.incidentexposure import Given, breach, groups, is_check, moment_in, should_change
from backupd.jobs.triage import Wanted, anomalies, taken
from backupd.repo.format import snapshot_name
from backupd.repo.incidents import Incident, created, heads_of
from backupd.repo.recordfacts import pruned_snapshots
from backupd.repo.records import Record
from backupd.repo.repository import History, Repository, SnapshotView
from backupd.report import Problem, Reporter

_BROUGHT_BACK = frozenset({"restore", "export", "recover", "recover-undo"})


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
    end = moment_in(created(incident.closed)) if incident.closed else None
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
        document["breach"] = breach(repo, incident, views, given, report)
    return document


def _within(moment: datetime | None, incident: Incident, end: datetime | None) -> bool:
    """Whether something was done while the incident lasted, from when it was noticed on."""
    begins = [m for m in (moment_in(incident.detected), moment_in(incident.since)) if m]
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
    return sorted(found, key=lambda one: (moment_in(str(one["at"])) or datetime.min.replace(tzinfo=UTC), one["record"]))


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
    seen, found = heads_of(incident), []  # numbers: no clock has to be believed for them
    triaged = {} if since else _triaged(incident)
    for group in groups(views):
        known = [view for view in group if view.id == triaged.get(group[-1].source)]
        before = known or [view for view in group if taken(view) <= wanted.onset]
        old = before[-1] if before else None
        later = [view for view in group if old and group.index(view) > group.index(old)]
        then = [view for view in later if view.object.seq <= seen.get(view.object.writer, (-1, b""))[0]][-1:] or later[
            :1
        ]
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
    diff = compare(
        repo, old, new, asked=Asked(wanted.folder, erased=wanted.erased), read_schema=read_schema, report=report
    )
    return [
        {"name": t.name, "added": t.added, "removed": t.removed, "changed": t.changed, "reason": t.reason}
        for t in diff.tables
        if t.added or t.removed or t.changed or t.reason
    ]


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
        began = moment_in(created(begun)) if begun else None
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
            if r.type in {"bad-packs", "good-packs"} or is_check(r)
        ],
        "checked": {"records": checked.records, "snapshots": checked.snapshots, "trust": checked.trust},
        "problems": [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in problems],
    }


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
