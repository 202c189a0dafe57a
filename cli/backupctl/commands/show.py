"""`backupctl show`: what a snapshot holds and who signed it."""

from typing import Any

import click

from backupctl import output
from backupctl.options import Settings, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened


@click.command(epilog="Example: backupctl show latest --repository /backup/app --key keys/read.key")
@click.argument("snapshot")
@verb
def command(settings: Settings, snapshot: str) -> None:
    """Show a snapshot's streams, tables, sizes, and who signed it.

    Table and stream names need the read right; everything else the right to list.
    """
    from backupd.config.clock import stamp
    from backupd.crypto.chunks import Kind
    from backupd.crypto.keyring import Right
    from backupd.jobs.drillrecords import drills_by_snapshot
    from backupd.jobs.holds import holds_by_snapshot
    from backupd.jobs.restore import open_content
    from backupd.jobs.select import select_snapshot, source_names
    from backupd.wiring import read_keys

    roles = {key.header.role for key in read_keys(settings.key_paths)}
    right = Right.READ if roles & set(Right.READ.value) else Right.LIST
    report = TerminalReporter(settings)
    with opened(settings, right) as session:
        repo = session.opened.repo
        history = repo.history()
        for problem in (*history.record_problems, *history.problems):
            report.problem(problem)
        view = select_snapshot(history, snapshot)
        held = holds_by_snapshot([view], history.records)
        drilled = drills_by_snapshot(history.records).get(view.id)
        content: dict[str, Any] = open_content(repo, view) if right is Right.READ else {}
    if right is not Right.READ and not settings.quiet:
        output.note("names of streams and tables need the read right (--key read.key)")
    structure = view.structure
    named = content.get("streams", [{}] * len(structure.streams))
    shown = [(r, n) for r, n in zip(structure.streams, named, strict=True) if r.kind is not Kind.CONTENT]
    streams = [
        {"name": n.get("name"), "kind": r.kind.name.lower(), "rows": n.get("rows"), "bytes": r.size, "chunks": r.chunks}
        for r, n in shown
    ]
    values: dict[str, Any] = {
        "id": view.id,
        "source": source_names(history.views)[view.id],
        "taken_at": structure.taken_at,
        "rows": structure.rows,
        "read_bytes": structure.read_bytes,
        "stored_bytes": structure.stored_bytes,
        "holds": held.get(view.id, []),
        "drilled_at": stamp(drilled) if drilled else None,
        "tags": list(structure.tags),
        "note": content.get("note"),
        "engine": content.get("engine"),
        "facts": content.get("facts"),
        "streams": streams,
        "tables": content.get("tables", []),
        "warnings": content.get("warnings", []),
        "signed_by": {
            "writer": view.object.writer.hex(),
            "key": view.object.signed.signer().hex(),
            "label": view.writer_label,
        },
        "previous": structure.previous.hex() if structure.previous else None,
        "seq": view.object.seq,
    }
    if settings.json:
        output.document("show", values)
    else:
        _tell(values)


def _tell(values: dict[str, Any]) -> None:
    output.say(f"snapshot   {values['id']}")
    output.say(f"source     {values['source']}" + (f" ({values['engine']})" if values["engine"] else ""))
    output.say(f"taken      {values['taken_at']}")
    output.say(
        f"signed by  {values['signed_by']['label']} (key {values['signed_by']['key'][:16]}), number {values['seq']}"
    )
    output.say(f"previous   {(values['previous'] or 'none')[:12]}")
    output.say(f"size       {output.size(values['read_bytes'])}, stored {output.size(values['stored_bytes'])}")
    for name in ("tags", "holds"):
        if values[name]:
            output.say(f"{name:<10} {', '.join(values[name])}")
    if values["drilled_at"]:
        output.say(f"drilled    {values['drilled_at']}")
    if values["note"]:
        output.say(f"note       {values['note']}")
    output.say("")
    output.table(
        ["stream", "kind", "size", "chunks"],
        [[s["name"] or "-", s["kind"], output.size(s["bytes"]), output.count(s["chunks"])] for s in values["streams"]],
        right=[2, 3],
    )
    if values["tables"]:
        output.say("")
        output.table(
            ["table", "key", "rows"],
            [[t["name"], ",".join(t["key"]) or "-", output.count(t["rows"])] for t in values["tables"]],
            right=[2],
        )
