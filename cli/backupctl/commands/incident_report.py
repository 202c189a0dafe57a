"""`backupctl incident report`: what it came to, signed, for people outside; and the check of such a file."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from backupctl import output
from backupctl.erased import erasures_of
from backupctl.moments import past
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened
from backupctl.statements import check_file, signed_with_trust, signers_of, write_new

_ROLES = ("write", "check", "prune", "read", "root", "recovery")


@click.command(
    "report", epilog="Example: backupctl incident report 3f2a --exposed write --out reports --key keys/read.key"
)
@click.argument("incident", required=False)
@option("--out", metavar="PATH", help="A folder for both files, or a file that ends in .json or .html (default: here).")
@option(
    "--exposed",
    multiple=True,
    type=click.Choice(_ROLES),
    help="A key that strangers may have; may be given several times.",
)
@option(
    "--since",
    metavar="TIME",
    callback=past,
    help="When it began (default: by the newest triage, else when it was detected).",
)
@option(
    "--verify",
    "check",
    metavar="FILE",
    help="Check a report instead, without the repository: its pin is that of --key.",
)
@verb
def command(
    settings: Settings,
    incident: str | None,
    out: str | None,
    exposed: tuple[str, ...],
    since: datetime | None,
    check: str | None,
) -> None:
    """Write the report of an incident: timeline, losses, what came back, evidence, and of a breach what it exposes.

    It is signed by the read or recovery key, as JSON and as a page that needs nothing else. Names of tables and counts are in
    it, and no record. A file that is there is never overwritten.
    """
    from backupd.errors import UsageError

    if bool(incident) == bool(check):
        raise UsageError("name an incident, or a file with --verify", hint="`backupctl incident list` shows them")
    if check:
        _check(settings, Path(check))
        return
    signed = _make(settings, incident or "", exposed, since)
    said = signed["statement"]
    files = [] if settings.dry_run else _write(signed, Path(out or "."), f"incident-{said['incident']}")
    if settings.json:
        output.document("incident-report", {"files": files, "report": said, "dry_run": settings.dry_run})
        return
    removed = sum(table["removed"] for loss in said["lost"] for table in loss["tables"])
    output.say(
        f"incident {said['incident']}: {output.plural(removed, 'record')} removed, {len(said['restored'])} restores"
    )
    if "breach" in said:
        output.say(f"notice to the authority until {said['breach']['notice_until']}")
    for file in files:
        output.say(f"written: {file}")


def _make(settings: Settings, incident: str, exposed: tuple[str, ...], since: datetime | None) -> dict[str, Any]:
    from backupctl.commands.incident_tell import given_of
    from backupd.config.clock import now, parse_stamp
    from backupd.crypto.keyring import Right
    from backupd.jobs.incident import find_incident, read_incidents, signer_of, views_of
    from backupd.jobs.incidentreport import build_report
    from backupd.jobs.triage import Wanted
    from backupd.wiring import read_file_schema

    report = TerminalReporter(settings)
    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        history, known = read_incidents(repo)
        chosen = find_incident(known, incident)
        erased = erasures_of(repo, history, views_of(chosen, history.views), None, report)
        wanted = Wanted(since or parse_stamp(chosen.detected), session.opened.places.cache, erased=erased)
        given = replace(given_of(settings, chosen, now(), exposed), since=since)
        document = build_report(repo, history, chosen, wanted, given, read_file_schema, report)
        signed = signed_with_trust(repo, document, signer_of(repo))
    report.clear()
    return signed


def _write(signed: dict[str, Any], out: Path, name: str) -> list[str]:
    """Write the files.

    Raises:
        SafetyRefused, Failed: see `write_new`.
    """
    from backupd.jobs.incidentpage import page

    texts = {".json": json.dumps(signed, indent=1, sort_keys=True) + "\n", ".html": page(signed)}
    chosen = {out: texts[out.suffix]} if out.suffix in texts else {out / f"{name}{s}": t for s, t in texts.items()}
    for path, text in chosen.items():
        write_new(path, text)
    return [str(path.resolve()) for path in chosen]


def _check(settings: Settings, path: Path) -> None:
    """Check a file against the pin of a key file, which is not opened for it.

    Raises:
        IntegrityError: it is not what was signed.
    """
    from backupd.jobs.incidentpage import carried

    stated, trust = check_file(settings, path, carried, "backupd incident report")
    values = {
        "file": str(path.resolve()),
        "incident": stated.document.get("incident"),
        "signed_by": signers_of(stated),
        "trust": trust.version,
    }
    if settings.json:
        output.document("incident-report", values)
        return
    who = ", ".join(f"{role} key {key.hex()[:12]}" for key, role in stated.signers)
    output.say(f"{path}: the report of incident {values['incident']} is what was signed, by {who}")
