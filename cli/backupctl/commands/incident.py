"""`backupctl incident`: from the first alarm to the report, with a read key alone."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.commands.incident_report import command as report_command
from backupctl.commands.incident_tell import close, update
from backupctl.commands.incident_triage import command as triage_command
from backupctl.moments import past
from backupctl.options import Settings, global_options, option, said, settings_of, verb
from backupctl.session import opened
from backupctl.verbs import VerbGroup

if TYPE_CHECKING:
    from backupd.repo.incidents import Incident


@click.group(
    cls=VerbGroup,
    epilog="Example: backupctl incident open --source crm --reason 'orders are missing' --key keys/read.key",
)
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Keep, find out, tell and report when records were lost or read by strangers.

    A read, recovery or root key is enough, on any machine that reaches the repository. What you write is stored, sealed, for
    good, and whoever may check or prune can read it: names of customers and their data do not belong there.
    """
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command(
    "open",
    epilog="Example: backupctl incident open --source crm --reason 'orders are missing' --kind deletion --key keys/read.key",
)
@option("--source", multiple=True, required=True, metavar="NAME", help="What is concerned; may be given several times.")
@option("--reason", required=True, callback=said, help="What was noticed; recorded and signed. No names of customers.")
@option("--detected", metavar="TIME", callback=past, help="When it was noticed (default: now).")
@option(
    "--kind",
    type=click.Choice(["deletion", "breach", "corruption", "other"]),
    default="other",
    show_default=True,
    help="What it looks like.",
)
@verb
def open_(settings: Settings, source: tuple[str, ...], reason: str, detected: datetime | None, kind: str) -> None:
    """Open an incident: from now on nothing of its sources is pruned.

    Every snapshot of them is held, those that are taken later too. The holding ends with a release by a prune or root key (see
    `incident close`), however the incident itself ends.
    """
    from backupd.config.clock import now, stamp
    from backupd.crypto.keyring import Right
    from backupd.jobs.incident import covered_of, open_incident

    at = now()
    with opened(settings, Right.RESPOND) as session:
        repo = session.opened.repo
        history = repo.history()
        covered = list(dict.fromkeys(covered_of(history.views, name) for name in source))
        held = [v for v in history.views if any(c.covers(v.object.writer, v.source) for c in covered)]
        name = open_incident(
            repo,
            history,
            covered,
            kind=kind,
            reason=reason,
            detected=detected or at,
            now=at,
            store=not settings.dry_run,
        )
    problems = [f"{p.object}: {p.detail}" for p in [*history.record_problems, *history.problems]]
    values = {
        "incident": None if settings.dry_run else name,
        "kind": kind,
        "sources": list(source),
        "detected": stamp(detected or at),
        "opened": stamp(at),
        "held": [view.id for view in held],
        "problems": problems,
        "dry_run": settings.dry_run,
    }
    for problem in problems:
        output.note(f"warning: {problem}")
    if settings.json:
        output.document("incident-open", values)
        return
    if settings.dry_run:
        output.say(f"an incident would be opened; {output.plural(len(held), 'snapshot')} would be held")
        return
    output.say(f"incident {name} is open; {output.plural(len(held), 'snapshot')} and all that follow are held")
    output.say(f"next: backupctl incident triage {name}")


@command.command(
    "note", epilog="Example: backupctl incident note 3f2a 'access of the old job was withdrawn' --key keys/read.key"
)
@click.argument("incident")
@click.argument("text", callback=said)
@option(
    "--recovery",
    metavar="RECORD",
    help="Link what brought records back: a record's name, as `audit show --json` tells it.",
)
@verb
def note(settings: Settings, incident: str, text: str, recovery: str | None) -> None:
    """Write down what was found or done: for the report, sealed, and never changed. No names of customers."""
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.incident import add_step, check_recovery, find_incident, read_incidents

    with opened(settings, Right.RESPOND) as session:
        repo = session.opened.repo
        chosen = find_incident(read_incidents(repo)[1], incident)
        if recovery:
            check_recovery(repo, recovery)
        values: dict[str, object] = {"text": text, **({"record": recovery} if recovery else {})}
        record = None
        if not settings.dry_run:
            record = add_step(repo, chosen, "recovery" if recovery else "note", values, now())
    if settings.json:
        output.document("incident-note", {"incident": chosen.id, "record": record, "dry_run": settings.dry_run})
        return
    output.say(f"incident {chosen.id}: " + ("would be noted" if settings.dry_run else "noted"))


@command.command("list", epilog="Example: backupctl incident list --key keys/check.key")
@verb
def show(settings: Settings) -> None:
    """List the incidents, open and closed, and whether their snapshots are still held."""
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.incident import read_incidents
    from backupd.repo.incidents import orphans

    with opened(settings, Right.LIST) as session:
        history, found = read_incidents(session.opened.repo)
    problems = [*history.record_problems, *orphans(history.records), *(p for one in found for p in one.problems)]
    at = now()
    if settings.json:
        values = {
            "incidents": [_values(one, at) for one in found],
            "hidden": len(history.hidden_records),
            "problems": [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in problems],
        }
        output.document("incident-list", values)
        return
    if found:
        output.table(
            ["incident", "state", "age", "kind", "sources", "snapshots", "told"],
            [
                [
                    one.id,
                    "open" if one.is_open else "closed",
                    _age(one, at),
                    one.kind,
                    ", ".join(covered.source for covered in one.sources),
                    "not held" if one.released else "held",
                    one.message,
                ]
                for one in found
            ],
        )
    else:
        output.note("there was no incident")
    if history.hidden_records:
        output.note(
            f"{len(history.hidden_records)} records not read: the key at hand does not open them (a check key does)"
        )
    for problem in problems:
        output.note(f"warning: {problem.object}: {problem.detail}")


def _seconds(one: "Incident", at: datetime) -> int | None:
    from backupd.config.clock import parse_stamp
    from backupd.repo.incidents import created

    try:
        end = parse_stamp(created(one.closed)) if one.closed else at
        return max(0, int((end - parse_stamp(one.since)).total_seconds()))
    except (ValueError, OverflowError):
        return None


def _age(one: "Incident", at: datetime) -> str:
    from datetime import timedelta

    from backupd.jobs.status import age

    seconds = _seconds(one, at)
    return "-" if seconds is None else age(timedelta(seconds=seconds))


def _values(one: "Incident", at: datetime) -> dict[str, Any]:
    from backupd.repo.incidents import created

    return {
        "incident": one.id,
        "state": "open" if one.is_open else "closed",
        "kind": one.kind,
        "reason": one.reason,
        "message": one.message,
        "sources": [covered.source for covered in one.sources],
        "detected": one.detected,
        "opened": one.since,
        "closed": created(one.closed) if one.closed else None,
        "seconds": _seconds(one, at),
        "held": not one.released,
        "steps": len(one.steps),
    }


command.add_command(triage_command)
command.add_command(update)
command.add_command(report_command)
command.add_command(close)
