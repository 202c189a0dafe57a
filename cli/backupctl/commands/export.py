"""`backupctl export`: a snapshot as plain files that native tools can restore."""

from pathlib import Path

import click

from backupctl import output
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened

_NEXT = {
    "sqlite": ["main.db is the database: sqlite3 main.db"],
    "postgresql": [
        "createdb NAME",
        "pg_restore --section=pre-data -d NAME schema.dump",
        "psql -v ON_ERROR_STOP=1 -d NAME -f load.sql",
        "pg_restore --section=post-data -d NAME schema.dump",
    ],
    "mariadb": [
        "mariadb-admin create NAME",
        "mariadb NAME < schema.sql",
        "mariadb --local-infile=1 NAME < load.sql",
        "mariadb NAME < after.sql",
    ],
}


@click.command(epilog="Example: backupctl export latest --dir ./plain --repository /backup/app --key keys/read.key")
@click.argument("snapshot")
@option("--dir", "folder", metavar="DIR", required=True, help="A folder that is empty or not there yet.")
@option("--with-secrets", is_flag=True, help="Also what holds password hashes (roles, if they were captured).")
@verb
def command(settings: Settings, snapshot: str, folder: str, with_secrets: bool) -> None:
    """Write what psql, mariadb and sqlite3 can restore without backupd.

    The files are not encrypted. deploy/backupd-extract.py writes the same ones where backupd is not installed.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.audit import audited, snapshot_facts
    from backupd.jobs.export import export
    from backupd.jobs.select import select_snapshot

    report = TerminalReporter(settings)
    place = Path(folder).absolute()
    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        view = select_snapshot(repo.history(), snapshot)
        if settings.dry_run:
            _would(settings, view.id, place, view.structure.read_bytes)
            return
        spool = session.opened.places.cache if session.remote else None
        with audited(repo, "export", snapshot_facts(view), now, report):
            result = export(repo, view, place, secrets=with_secrets, report=report, spool_folder=spool)
    report.clear()
    steps = _NEXT.get("mariadb" if result.engine == "mysql" else result.engine, [])
    if "native" in result.files:
        steps = ["createdb NAME", "pg_restore -d NAME native"]
    if settings.json:
        values = {
            "snapshot": view.id,
            "dir": str(place),
            "engine": result.engine,
            "files": result.files,
            "left_out": result.left_out,
            "bytes": result.bytes,
            "seconds": round(result.seconds, 3),
            "next": steps,
            "warnings": report.warnings,
        }
        output.document("export", values)
        return
    output.say(
        f"wrote {output.plural(len(result.files), 'file')}, {output.size(result.bytes)}, to {place} in {result.seconds:.1f} s"
    )
    if settings.quiet:
        return
    for name in result.left_out:
        output.note(f"left out: {name} (--with-secrets writes it)")
    output.note("these files are not encrypted; to restore them, in that folder:")
    for step in steps:
        output.note(f"  {step}")


def _would(settings: Settings, snapshot: str, place: Path, size: int) -> None:
    if settings.json:
        output.document("export", {"snapshot": snapshot, "dir": str(place), "bytes": size, "dry_run": True})
        return
    output.say(f"would write {output.size(size)} of {snapshot[:12]} to {place}")
