"""`backupctl export`: a snapshot as plain files that native tools can restore."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupctl import output
from backupctl.erased import erased_options, erasures_of, reason_facts
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.jobs.export import ExportResult

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
@erased_options
@verb
def command(settings: Settings, snapshot: str, folder: str, with_secrets: bool, with_erased: str | None) -> None:
    """Write what psql, mariadb and sqlite3 can restore without backupd.

    The files are not encrypted. Rows that the erasure ledger hides are left out. deploy/backupd-extract.py writes the same
    files where backupd is not installed, but knows nothing of the ledger.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.audit import audited, snapshot_facts
    from backupd.jobs.export import export
    from backupd.jobs.select import select_snapshot
    from backupd.wiring import take_out_of_file

    report = TerminalReporter(settings)
    place = Path(folder).absolute()
    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        history = repo.history()
        view = select_snapshot(history, snapshot)
        erasures = erasures_of(repo, history, [view], with_erased, report)
        if settings.dry_run:
            _would(settings, view.id, place, view.structure.read_bytes)
            return
        spool = session.opened.places.cache if session.remote else None
        facts = {**snapshot_facts(view), **reason_facts(with_erased)}
        rule_of = None if erasures is None else erasures.rule
        with audited(repo, "export", facts, now, report):
            result = export(
                repo,
                view,
                place,
                secrets=with_secrets,
                report=report,
                spool_folder=spool,
                erased=rule_of,
                take_out=take_out_of_file,
            )
    report.clear()
    _tell(settings, view.id, place, result, report.warnings)


def _tell(settings: Settings, snapshot: str, place: Path, result: "ExportResult", warnings: list[str]) -> None:
    steps = _NEXT.get("mariadb" if result.engine == "mysql" else result.engine, [])
    if "native" in result.files:
        steps = ["createdb NAME", "pg_restore -d NAME native"]
    if settings.json:
        values = {
            "snapshot": snapshot,
            "dir": str(place),
            "engine": result.engine,
            "files": result.files,
            "left_out": result.left_out,
            "bytes": result.bytes,
            "seconds": round(result.seconds, 3),
            "next": steps,
            "erased": result.erased,
            "warnings": [*warnings, *result.warnings],
        }
        output.document("export", values)
        return
    output.say(
        f"wrote {output.plural(len(result.files), 'file')}, {output.size(result.bytes)}, to {place} in {result.seconds:.1f} s"
    )
    if settings.quiet:
        return
    if result.erased:
        output.note(f"left out: {output.plural(result.erased, 'row')} of people who were erased")
    for warning in result.warnings:
        output.note(f"warning: {warning}")
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
