"""`backupctl incident triage`: what changed when, and which snapshot still has what is missing."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.erased import erasures_of
from backupctl.moments import past
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.jobs.triage import Triage, Wanted


@click.command(
    "triage", epilog="Example: backupctl incident triage 3f2a --table orders --record 4711 --key keys/read.key"
)
@click.argument("incident", required=False)
@option("--source", metavar="NAME", help="Look at a source without an incident; nothing is recorded.")
@option("--table", metavar="NAME", help="Only this table.")
@option("--record", metavar="KEY", help="The key of a record of --table that is missing (of several columns: a,b).")
@option("--since", metavar="TIME", callback=past, help="When it began (default: when it was detected, or now).")
@option(
    "--nights", type=click.IntRange(0, 10_000), default=14, show_default=True, help="Compare at most so many nights."
)
@verb
def command(
    settings: Settings,
    incident: str | None,
    source: str | None,
    table: str | None,
    record: str | None,
    since: datetime | None,
    nights: int,
) -> None:
    """Tell which snapshots are before and after, what each night took away, and what to run next.

    Neighbouring snapshots are compared, the newest first; with --table this ends at the night that took something away. With
    --record this one is looked up in all snapshots, and only the night that changed it last is compared. The incident keeps
    numbers and snapshots of it, no table's name and no key.
    """
    from backupd.config.clock import now, stamp
    from backupd.crypto.keyring import Right
    from backupd.errors import UsageError
    from backupd.jobs.incident import add_step, find_incident, read_incidents, views_of
    from backupd.jobs.select import of_source
    from backupd.jobs.triage import Wanted, step_values, triage
    from backupd.wiring import open_file_database, read_file_schema

    if bool(incident) == bool(source):
        raise UsageError("name an incident, or a source with --source", hint="`backupctl incident list` shows them")
    if record and not table:
        raise UsageError("--record needs --table: whose key it is")
    report = TerminalReporter(settings)
    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        history, known = read_incidents(repo)
        chosen = find_incident(known, incident) if incident else None
        views = views_of(chosen, history.views) if chosen else of_source(history.views, source or "")
        if not views:
            raise UsageError(f"there is no snapshot of {source or 'its sources'}", object_name=source)
        onset = since or (_detected(chosen.detected) if chosen else None) or now()
        erased = erasures_of(repo, history, views, None, report)
        wanted = Wanted(onset, session.opened.places.cache, table, split_key(record), nights, erased)
        found = triage(repo, views, history.records, wanted, read_file_schema, open_file_database, report)
        if chosen and chosen.is_open and not settings.dry_run:
            add_step(repo, chosen, "triage", step_values(found, stamp(onset)), now())
    report.clear()
    values = {
        "incident": chosen.id if chosen else None,
        "onset": stamp(onset),
        "table": table,
        "sources": [_values(one, wanted) for one in found],
        "fetched_bytes": sum(one.fetched for one in found),
        "warnings": report.warnings,
        "dry_run": settings.dry_run,
    }
    if settings.json:
        output.document("incident-triage", values)
        return
    for one in found:
        _say(one, wanted)


def split_key(text: str | None) -> tuple[str, ...]:
    """The parts of a key: commas part them, a backslash escapes."""
    if text is None:
        return ()
    parts, escaped = [""], False
    for letter in text:
        if not escaped and letter == "\\":
            escaped = True
        elif not escaped and letter == ",":
            parts.append("")
        else:
            parts[-1] += letter
            escaped = False
    return tuple(parts)


def _detected(text: str) -> datetime | None:
    from backupd.config.clock import parse_stamp

    try:
        return parse_stamp(text)
    except (ValueError, OverflowError):
        return None


def _values(one: "Triage", wanted: "Wanted") -> dict[str, Any]:
    from backupd.jobs.triage import next_commands

    return {
        "source": one.source,
        "writer": one.writer,
        "before": [{"snapshot": v.id, "taken_at": v.structure.taken_at, "rows": v.structure.rows} for v in one.before],
        "after": [{"snapshot": v.id, "taken_at": v.structure.taken_at, "rows": v.structure.rows} for v in one.after],
        "newest_before": one.clean.id if one.clean else None,
        "anomalies": [{"snapshot": s, "kind": kind, "sentence": said} for s, kind, said in one.anomalies],
        "brakes": [{"snapshot": s, "since": since, "reason": reason} for s, since, reason in one.brakes],
        "nights": [night.as_json() for night in one.nights],
        "newest_with": one.last_with,
        "next": next_commands(one, wanted),
    }


def _say(one: "Triage", wanted: "Wanted") -> None:
    from backupd.jobs.triage import next_commands

    output.say(
        f"{one.writer}/{one.source}: {len(one.before)} snapshots before {wanted.onset:%Y-%m-%d %H:%M} UTC, {len(one.after)} since"
    )
    if one.clean:
        output.say(f"the newest from before: {one.clean.id[:12]}, taken {one.clean.structure.taken_at}")
    for snapshot, kind, said in one.anomalies:
        output.say(f"sudden in {snapshot[:12]} ({kind}): {said}")
    for snapshot, since, reason in one.brakes:
        output.say(f"the brake was set after {snapshot[:12]}, {since}: {reason}")
    rows = []
    for night in one.nights:
        tables = [t for t in night.tables if t.added or t.removed or t.changed]
        place = [night.taken_at, night.old[:12], night.new[:12]]
        if night.reason or not tables:
            rows.append([*place, "-", "", "", "", night.reason or "no difference"])
        rows += [
            [*place, t.name, f"{t.removed:,}", f"{t.changed:,}", f"{t.added:,}", night.key_op or ""] for t in tables
        ]
    if rows:
        output.say("")
        output.table(["taken (UTC)", "from", "to", "table", "removed", "changed", "added", ""], rows, right=[4, 5, 6])
        output.say("")
    if one.last_with:
        output.say(f"the newest snapshot that still had it: {one.last_with[:12]}")
    elif wanted.table:
        after = "none of these nights took it away: if it is missing now, that happened since the newest snapshot"
        output.say("no snapshot of this source has it" if wanted.key else after)
    output.say("next:")
    for line in next_commands(one, wanted):
        output.say(f"  {line}")
