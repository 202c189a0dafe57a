"""`backupctl find`: one record through time, over all snapshots of a source."""

from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.erased import erasures_of
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.jobs.find import Asked, Found, Version

_WIDEST = 200


@click.command(epilog="Example: backupctl find crm customers 4711 --key keys/read.key")
@click.argument("source")
@click.argument("table")
@click.argument("wanted", metavar="[KEY]", required=False)
@option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Instead of KEY: COLUMN=VALUE, or SQL over the table's columns; may read whole tables.",
)
@verb
def command(settings: Settings, source: str, table: str, wanted: str | None, where: tuple[str, ...]) -> None:
    """Show the record of TABLE with KEY in every snapshot of SOURCE: its versions, and where it is missing.

    The parts of a composite key are separated by commas; a backslash makes a comma part of a value. Values are written as the
    server prints them, bytes as \\x and hexadecimal digits. --where may be given several times, and then all of them hold:
    name=Smith looks for this value as it stands; anything else, such as "name = 'Smith' and total > 100", is a condition of
    SQLite's SQL about one row (values have the types that `query` tells of). This needs the read right. Nothing is changed.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.errors import UsageError
    from backupd.jobs.audit import append_audit
    from backupd.jobs.find import find
    from backupd.jobs.select import of_source
    from backupd.wiring import ask_rows, open_file_database

    asked = _asked(table, wanted, where)
    report = TerminalReporter(settings)
    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        history = repo.history()
        complete = [view for view in history.views if view.structure.kind == "snapshot"]
        views = sorted(of_source(complete, source), key=lambda view: view.structure.taken_at)
        if not views:
            raise UsageError(
                f"there is no snapshot of a source {source}", hint="`backupctl snapshots` lists all of them"
            )
        for problem in history.problems:
            report.warning(f"{problem.object} is {problem.kind}: what it held is not looked into")
        erased = erasures_of(repo, history, views, None, report)
        append_audit(repo, "find", {"source": views[-1].source}, now(), report)
        found = find(
            repo, views, asked, open_file=open_file_database, ask_rows=ask_rows, report=report, erased=lambda _: erased
        )
        report.clear()
    if settings.json:
        output.document("find", _values(table, found, report.warnings))
    else:
        _say(found)


def _asked(table: str, key: str | None, where: tuple[str, ...]) -> "Asked":
    from backupd.errors import UsageError
    from backupd.jobs.conditions import parse_where
    from backupd.jobs.find import Asked
    from backupd.records.subject import parse_key

    if (key is None) == (not where):
        raise UsageError("a record is looked for by its KEY, or by --where CONDITION")
    return Asked(table, parse_key(key)) if key is not None else Asked(table, where=tuple(map(parse_where, where)))


def _values(table: str, found: "Found", warnings: list[str]) -> dict[str, Any]:
    from backupd.records.values import named

    return {
        "table": table,
        "versions": [
            {"from": v.first, "to": v.last, "snapshot": v.snapshot, "record": named(v.columns, v.values)}
            for v in found.versions
        ],
        "present_in": found.present,
        "last_seen": found.last_seen,
        "absent": [{"from": first, "to": last} for first, last in found.absent],
        "remarks": found.remarks,
        "fetched_bytes": found.fetched_bytes,
        "warnings": warnings,
    }


def _say(found: "Found") -> None:
    told = [(v.first, 1, v) for v in found.versions]
    before: Version | None = None
    lines: list[tuple[str, int, Any]] = [*told, *((first, 0, last) for first, last in found.absent)]
    for first, kind, what in sorted(lines, key=lambda line: line[:2]):
        if kind == 0:
            output.say(f"{first} to {what}: not there")
            continue
        output.say(f"{first} to {what.last}: (snapshot {what.snapshot[:12]})")
        _say_version(what, before)
        before = what
    output.say(f"last seen {found.last_seen}" if found.last_seen else "never seen")
    for remark in found.remarks:
        output.note(remark)


def _say_version(version: "Version", before: "Version | None") -> None:
    """The record, or what differs from the version told before."""
    from backupd.records.values import as_text, is_same

    was = dict(zip(before.columns, before.values, strict=True)) if before else {}
    for name, value in zip(version.columns, version.values, strict=True):
        if name in was and is_same(was[name], value):
            continue
        text = as_text(value)
        output.say(f"    {name}: {text if len(text) <= _WIDEST else text[:_WIDEST] + '...'}")
