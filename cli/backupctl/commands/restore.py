"""`backupctl restore`: bring a snapshot back."""

from pathlib import Path

import click

from backupctl import output
from backupctl.options import LEVEL_WORDS, Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened


@click.command(
    epilog="Example: backupctl restore latest ./app-restored.db --repository /backup/app --key keys/read.key"
)
@click.argument("snapshot")
@click.argument("target")
@option("--overwrite", metavar="NAME", help="Replace the existing database of this file name.")
@option(
    "--check",
    type=click.Choice(["none", "quick", "full"]),
    default="quick",
    words=LEVEL_WORDS,
    show_default=True,
    help="The engine's own check before the result becomes visible.",
)
@verb
def command(settings: Settings, snapshot: str, target: str, overwrite: str | None, check: str) -> None:
    """Restore a snapshot to a new file.

    SNAPSHOT is an id or the beginning of one, latest, latest:SOURCE or SOURCE@2026-11-21T23:00. The file is written
    beside the target, checked, and only then renamed; an existing file is never touched unless --overwrite names it.
    """
    from backupd.config.urls import parse_database
    from backupd.crypto.keyring import Right
    from backupd.jobs.restore import restore
    from backupd.jobs.select import select_snapshot
    from backupd.wiring import open_target

    url = parse_database(target)
    place = open_target(url)
    place.prepare(overwrite=overwrite)
    report = TerminalReporter(settings)
    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        history = repo.history()
        for problem in history.problems:
            report.warning(f"{problem.object}: {problem.detail} (not needed unless it is the snapshot you want)")
        view = select_snapshot(history, snapshot)
        if settings.dry_run:
            _would(settings, view, url.path)
            return
        spool = session.opened.places.cache if session.remote else None
        result = restore(repo, view, place, check=check, report=report, spool_folder=spool)  # type: ignore[arg-type]
    report.clear()
    warnings = [*report.warnings, *result.warnings]
    if settings.json:
        values = {
            "snapshot": view.id,
            "source": view.source,
            "taken_at": view.structure.taken_at,
            "target": str(url.path),
            "tables": result.tables,
            "rows": result.rows,
            "bytes": result.bytes,
            "seconds": round(result.seconds, 3),
            "unlock_seconds": round(session.unlock_seconds, 3),
            "check": check,
            "check_seconds": round(result.check_seconds, 3),
            "fetched_bytes": result.fetched_bytes,
            "erased": 0,
            "warnings": warnings,
        }
        output.document("restore", values)
        return
    output.say(
        f"restored {view.source} of {view.structure.taken_at} to {url.path}: "
        f"{output.plural(result.tables, 'table')}, {output.count(result.rows)} rows, {output.size(result.bytes)}"
    )
    if not settings.quiet:
        checked = (
            f"{check} check passed in {result.check_seconds:.1f} s" if check != "none" else "not checked by SQLite"
        )
        output.say(f"{result.seconds:.1f} s from unlocked key to renamed file; {checked}")
        for warning in result.warnings:
            output.note(f"warning: {warning}")


def _would(settings: Settings, view, path: Path) -> None:  # type: ignore[no-untyped-def]  # SnapshotView is imported late
    if settings.json:
        values = {"snapshot": view.id, "target": str(path), "bytes": view.structure.read_bytes, "dry_run": True}
        output.document("restore", values)
        return
    output.say(
        f"would restore {view.source} of {view.structure.taken_at} ({view.id[:12]}, {output.size(view.structure.read_bytes)}) "
        f"to {path}"
    )
