"""`backupctl run`: take a snapshot now."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.memory import keep_memory
from backupctl.options import FLAG_WORDS, Settings, option, printable, size_or_off, verb
from backupctl.progress import TerminalReporter
from backupctl.servers import build_options, server_options, table_names
from backupctl.session import opened, repository_url

if TYPE_CHECKING:
    from backupd.jobs.backup import BackupResult
    from backupd.wiring import ServerOptions


@click.command(epilog="Example: backupctl run --source app.db --repository /backup/app --key keys/write.key")
@click.argument("policy", required=False)
@click.argument("name_in_policy", metavar="[SOURCE]", required=False)
@option("--source", metavar="URL", help="The database: a path, postgresql://user@host/db or mariadb://user@host/db.")
@option("--name", metavar="NAME", help="The source's name (default: the database's name or the file's stem).")
@option("--tag", metavar="TAG", multiple=True, callback=printable, help="A tag for the snapshot; may be repeated.")
@option("--note", metavar="TEXT", default="", callback=printable, help="A note, readable with the read right only.")
@option("--hold", metavar="REASON", callback=printable, help="Keep this snapshot whatever retention says, and why.")
@option(
    "--check",
    is_flag=True,
    words=FLAG_WORDS,
    help="Let the engine check the database first; a failed check means no snapshot.",
)
@option("--compression", type=click.IntRange(1, 19), default=3, show_default=True, help="zstd level.")
@option(
    "--version-cache",
    metavar="SIZE",
    default="20G",
    show_default=True,
    callback=size_or_off,
    help="How much of this disk may hold sealed versions of the last run, on which deltas lean; off: none.",
)
@option("--exclude", metavar="TABLE", multiple=True, help="Leave the rows of this table out; may be repeated.")
@option("--with-globals", is_flag=True, help="Capture roles (and their password hashes) as well, as a secret stream.")
@option(
    "--capture",
    type=click.Choice(["rows", "native"]),
    default="rows",
    show_default=True,
    help="native: one opaque archive of pg_dump instead of rows.",
)
@option(
    "--accept-rollback", is_flag=True, help="Go on although the storage lost snapshots that this machine remembers."
)
@server_options
@verb
def command(
    settings: Settings,
    policy: str | None,
    name_in_policy: str | None,
    source: str | None,
    name: str | None,
    tag: tuple[str, ...],
    note: str,
    hold: str | None,
    check: bool,
    compression: int,
    exclude: tuple[str, ...],
    with_globals: bool,
    capture: str,
    accept_rollback: bool,
    version_cache: int | None,
    server: dict[str, Any],
) -> None:
    """Take a snapshot of a database now."""
    from backupd.config.clock import now
    from backupd.config.urls import parse_database
    from backupd.crypto.keyring import Right
    from backupd.errors import UsageError
    from backupd.jobs.backup import BackupOptions, backup
    from backupd.store.dryrun import DryRunStore
    from backupd.wiring import open_source, open_store

    if policy or name_in_policy:
        raise UsageError(
            "policies are not built yet in this version", hint="say backupctl run --source URL --repository URL"
        )
    if not source:
        raise UsageError("no source was given", hint="name the database with --source, for example --source app.db")
    url = parse_database(source)
    served = build_options(server, native=capture == "native", exclude=table_names(exclude), globals=with_globals)
    _refuse_meaningless(url.engine, served)
    database = open_source(url, timeout=server["lock_timeout"], options=served)
    options = BackupOptions(
        _checked(name or database.default_name), tag, note, hold, check, compression, accept_rollback, version_cache
    )
    if url.engine == "sqlite":
        keep_memory()
    report = TerminalReporter(settings)
    with ExitStack() as stack:
        store = open_store(repository_url(settings), **settings.limits)
        if settings.dry_run:
            store = DryRunStore(store, now)
        session = stack.enter_context(opened(settings, Right.WRITE, store=store))
        repo, places = session.opened.repo, session.opened.places
        if settings.dry_run:
            import tempfile

            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backupd-")))
            options = replace(options, trial=places)
            places = replace(places, cache=scratch, state=scratch)
            repo.ledger = replace(repo.ledger, path=scratch / "heads.json")
        key = repo.keyring.need(Right.WRITE)
        result = backup(database, repo, key, folder=places, clock=now, options=options, report=report)
    report.clear()
    _tell(result, report, settings)


def _refuse_meaningless(engine: str, served: "ServerOptions") -> None:
    from backupd.errors import UsageError

    if engine == "sqlite" and (served.native or served.exclude or served.globals):
        raise UsageError("--capture, --exclude and --with-globals mean nothing for a SQLite file")
    if served.native and engine != "postgresql":
        raise UsageError("--capture native is for PostgreSQL: other engines have no archive of their own")


def _checked(name: str) -> str:
    from backupd.errors import UsageError

    if not 1 <= len(name) <= 128 or not name.isprintable() or set(name) & set("/@\\"):
        raise UsageError(
            "a source's name has 1 to 128 printable characters without / @ and \\", hint="choose one with --name"
        )
    return name


def _tell(result: "BackupResult", report: TerminalReporter, settings: Settings) -> None:
    chunks = result.chunks
    if settings.json:
        values = {
            "snapshot": result.snapshot,
            "source": result.source,
            "read_bytes": result.read_bytes,
            "stored_bytes": result.stored_bytes,
            "chunks": chunks,
            "rows": result.rows,
            "seconds": round(result.seconds, 3),
            "warnings": [*result.warnings, *report.warnings, *(f"{p.object}: {p.detail}" for p in report.problems)],
            "dry_run": settings.dry_run,
            "resumed_packs": result.resumed,
            "unread": result.unread,
        }
        output.document("run", values)
        return
    what = "would be snapshot" if settings.dry_run else "snapshot"
    output.say(f"{what} {result.snapshot[:12]} of {result.source}: {output.count(result.rows)} rows")
    if settings.quiet:
        return
    output.say(
        f"read {output.size(result.read_bytes)}, stored {output.size(result.stored_bytes)} in {result.seconds:.1f} s; "
        f"{output.plural(chunks['total'], 'chunk')}: {chunks['full']:,} new, {chunks['delta']:,} as deltas, "
        f"{chunks['reused']:,} known"
    )
    if result.unread:
        output.say("nobody wrote to it since the last run: nothing was read, and the snapshot names what that run read")
    if result.resumed:
        output.say(f"{output.plural(result.resumed, 'pack')} of a run that was cut off did not have to be stored again")
    for warning in result.warnings:
        output.note(f"warning: {warning}")
