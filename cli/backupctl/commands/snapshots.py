"""`backupctl snapshots`: what there is."""

from collections.abc import Container
from typing import TYPE_CHECKING

import click

from backupctl import output
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.repo.repository import SnapshotView


@click.command(epilog="Example: backupctl snapshots --repository /backup/app --key keys/check.key --source crm")
@option(
    "--source", metavar="NAME", help="Only this source, by its name; a URL or path means the name it has by default."
)
@verb
def command(settings: Settings, source: str | None) -> None:
    """List the snapshots, oldest first."""
    from backupd.config.clock import stamp
    from backupd.crypto.keyring import Right
    from backupd.jobs.drillrecords import drills_by_snapshot
    from backupd.jobs.holds import holds_by_snapshot
    from backupd.jobs.select import source_names

    report = TerminalReporter(settings)
    with opened(settings, Right.LIST) as session:
        history = session.opened.repo.history()
    holds = holds_by_snapshot(history.views, history.records)
    drilled = {snapshot: stamp(at) for snapshot, at in drills_by_snapshot(history.records).items()}
    for problem in (*history.record_problems, *history.problems):
        report.problem(problem)
    if history.hidden:
        report.warning(f"{history.hidden} snapshots are not shown: the key at hand does not open their structure")
    names = source_names(history.views)
    views = _of_source(history.views, source) if source else history.views
    if settings.json:
        listed = [
            {
                "id": v.id,
                "source": names[v.id],
                "taken_at": v.structure.taken_at,
                "rows": v.structure.rows,
                "read_bytes": v.structure.read_bytes,
                "stored_bytes": v.structure.stored_bytes,
                "holds": holds.get(v.id, []),
                "drilled_at": drilled.get(v.id),
                "tags": list(v.structure.tags),
                "kind": v.structure.kind,
            }
            for v in views
        ]
        problems = [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in history.problems]
        output.document("snapshots", {"snapshots": listed, "problems": problems})
        return
    if not views:
        output.note("no snapshots yet" + (f" of {source}" if source else ""))
        return
    output.table(
        ["id", "source", "taken (UTC)", "rows", "size", "stored", "tags"],
        [
            [
                v.id[:12],
                names[v.id],
                v.structure.taken_at.replace("T", " ").rstrip("Z"),
                output.count(v.structure.rows),
                output.size(v.structure.read_bytes),
                output.size(v.structure.stored_bytes),
                ",".join([*v.structure.tags, *_marks(v, held=holds, drilled=drilled)]),
            ]
            for v in views
        ],
        right=[3, 4, 5],
    )


def _marks(view: "SnapshotView", **known: Container[str]) -> list[str]:
    """What is known of a snapshot besides its tags, in words."""
    return [word for word, snapshots in known.items() if view.id in snapshots]


def _of_source(views: "list[SnapshotView]", source: str) -> "list[SnapshotView]":
    """The snapshots of a source; WRITER/SOURCE looks like a path, so what is known as a name is one."""
    from backupd.config.urls import is_url, parse_database
    from backupd.jobs.select import of_source
    from backupd.wiring import open_source

    found = of_source(views, source)
    if not found and is_url(source):
        return of_source(views, open_source(parse_database(source)).default_name)
    return found
