"""`backupctl run`: take a snapshot now."""

import contextlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.memory import keep_memory
from backupctl.options import FLAG_WORDS, Settings, option, printable, said, size_or_off, verb
from backupctl.progress import TerminalReporter
from backupctl.servers import build_options, server_options, table_names
from backupctl.session import opened, repository_url
from backupd.errors import BackupdError, Interrupted
from backupd.repo.compression import COMPRESSION

if TYPE_CHECKING:
    from backupd.config.urls import DatabaseUrl
    from backupd.jobs.backup import BackupOptions, BackupResult
    from backupd.policy.model import Policy, Source
    from backupd.wiring import ServerOptions


@click.command(epilog="Example: backupctl run --source app.db --repository /backup/app --key keys/write.key")
@click.argument("policy", required=False)
@click.argument("name_in_policy", metavar="[SOURCE]", required=False)
@option("--source", metavar="URL", help="The database: a path, postgresql://user@host/db or mariadb://user@host/db.")
@option("--name", metavar="NAME", help="The source's name (default: the database's name or the file's stem).")
@option("--tag", metavar="TAG", multiple=True, callback=printable, help="A tag for the snapshot; may be repeated.")
@option("--note", metavar="TEXT", default="", callback=printable, help="A note, readable with the read right only.")
@option("--hold", metavar="REASON", callback=said, help="Keep this snapshot whatever retention says, and why.")
@option(
    "--check",
    is_flag=True,
    words=FLAG_WORDS,
    help="Let the engine check the database first; a failed check means no snapshot.",
)
@option("--compression", type=click.IntRange(1, 19), default=COMPRESSION, show_default=True, help="zstd level.")
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
@option("--queue", is_flag=True, help="Have the daemon run it, by its queue; for a policy only.")
@option("--wait", is_flag=True, help="With --queue: wait for the end, and end with its code.")
@option("--catalog", metavar="URL", help="With --queue: the daemon's, if it is not catalog.sqlite in --state.")
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
    queue: bool,
    wait: bool,
    catalog: str | None,
    server: dict[str, Any],
) -> None:
    """Take a snapshot of a database now: of the one that --source names, or of those of a policy."""
    from backupd.config.urls import parse_database
    from backupd.errors import UsageError
    from backupd.jobs.backup import BackupOptions

    if queue or wait:
        from backupctl.commands.run_queue import refuse_own_options, run_by_daemon

        refuse_own_options("run", policy if queue else None)
        run_by_daemon(settings, policy or "", name_in_policy, catalog, wait=wait)
        return
    base = BackupOptions("", tag, note, hold, check, compression, accept_rollback, version_cache)
    if policy:
        if source or name or exclude or with_globals or capture != "rows" or server["password_file"]:
            raise UsageError("a policy says what is captured: leave --source and its options out")
        _run_policy(settings, policy, name_in_policy, base, server)
        return
    if not source:
        raise UsageError("no source was given", hint="name the database with --source, for example --source app.db")
    url = parse_database(source)
    if url.engine != "sqlite" and url.database == "*":
        raise UsageError("all databases of a server are for a policy", hint="name one database, or write a policy")
    served = build_options(server, native=capture == "native", exclude=table_names(exclude), globals=with_globals)
    _refuse_meaningless(url.engine, served)
    report = TerminalReporter(settings)
    result = _take(settings, url, served, server["lock_timeout"], replace(base, name=name or ""), report)
    report.clear()
    if settings.json:
        output.document("run", _values(result, report, settings))
    else:
        _tell(result, settings)


def _take(
    settings: Settings,
    url: "DatabaseUrl",
    served: "ServerOptions",
    timeout: float,
    options: "BackupOptions",
    report: TerminalReporter,
) -> "BackupResult":
    """Take one snapshot; without a name, under the one that the database has by default."""
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.backup import backup
    from backupd.wiring import open_source, open_store

    database = open_source(url, timeout=timeout, options=served)
    options = replace(options, name=_checked(options.name or database.default_name))
    if url.engine == "sqlite":
        keep_memory()
    with ExitStack() as stack:
        store = open_store(repository_url(settings), **settings.limits)
        if settings.dry_run:
            from backupd.store.dryrun import DryRunStore

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
        return backup(database, repo, key, folder=places, clock=now, options=options, report=report)


def _run_policy(settings: Settings, text: str, name: str | None, base: "BackupOptions", server: dict[str, Any]) -> None:
    """Take a snapshot of each source of a policy; one that fails does not keep the others from being taken."""
    from backupctl.databases import planned_sources
    from backupctl.policies import find_policy, joined_failure, settings_for, sources_of

    policy = find_policy(settings, text).policy
    meant = sources_of(policy, name)
    settings = settings_for(settings, policy, "write")
    sources = planned_sources(settings, meant, name, server)
    several = len(sources) > 1 or any(source.all_databases for source in meant)
    done: list[dict[str, Any]] = []
    failed: list[BackupdError] = []
    for source, refused in sources:
        report = TerminalReporter(settings)
        try:
            if refused:
                raise refused
            result = _run_source(settings, policy, source, base, server, report)
        except Interrupted:
            raise
        except BackupdError as error:
            report.clear()
            failed.append(error)
            if not several:
                raise
            done.append({"source": source.name, "error": output.error_values(error)})
            output.note(f"{source.name}: {error.message}")
            continue
        report.clear()
        done.append(_values(result, report, settings))
        if not settings.json:
            _tell(result, settings)
    if failed:
        raise joined_failure(failed, len(done), {"runs": done})
    if settings.json:
        output.document("run", {"policy": policy.policy, "runs": done} if several else done[0])


def _run_source(
    settings: Settings,
    policy: "Policy",
    source: "Source",
    base: "BackupOptions",
    server: dict[str, Any],
    report: TerminalReporter,
) -> "BackupResult":
    """One source of a policy, with the policy's hooks around it; those after it run in any case."""
    from backupctl.policies import password_of
    from backupd.config.policies import database_of
    from backupd.jobs.hooks import run_hooks

    served = build_options(server, native=source.capture == "native", exclude=source.exclude, globals=source.globals)
    served = replace(served, password=password_of(source), jobs=source.jobs)
    options = replace(base, name=source.name, tags=(*source.tags, *base.tags), check=base.check or source.check)
    facts = {"policy": policy.policy, "source": source.name, "outcome": ""}
    hooks = policy.hooks
    if settings.dry_run:
        return _take(settings, database_of(source), served, server["lock_timeout"], options, report)
    run_hooks(hooks.before, "before", facts)
    facts["outcome"] = "failure"
    try:
        result = _take(settings, database_of(source), served, server["lock_timeout"], options, report)
        facts["outcome"] = "success"
    finally:
        if facts["outcome"] != "success":
            with contextlib.suppress(BackupdError):  # the run's own error is the one to tell
                run_hooks(hooks.after, "after", facts)
    run_hooks(hooks.after, "after", facts)
    return result


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


def _values(result: "BackupResult", report: TerminalReporter, settings: Settings) -> dict[str, Any]:
    """As the contract's document of `run` has it."""
    return {
        "snapshot": result.snapshot,
        "source": result.source,
        "writer": result.writer,
        "seq": result.seq,
        "taken_at": result.taken_at,
        "repository": result.repository,
        "read_bytes": result.read_bytes,
        "stored_bytes": result.stored_bytes,
        "chunks": result.chunks,
        "rows": result.rows,
        "seconds": round(result.seconds, 3),
        "warnings": [*result.warnings, *report.warnings, *(f"{p.object}: {p.detail}" for p in report.problems)],
        "dry_run": settings.dry_run,
        "resumed_packs": result.resumed,
        "unread": result.unread,
        "brake": [
            {
                "kind": told.kind,
                "reason": told.reason,
                "table": told.table,
                "snapshot": told.snapshot,
                "record": told.record,
            }
            for told in result.brake
        ],
    }


def _tell(result: "BackupResult", settings: Settings) -> None:
    chunks = result.chunks
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
    for told in result.brake:
        output.note(f"sudden change, {told.kind}: " + (f"{told.table}: " if told.table else "") + told.reason)
    for warning in result.warnings:
        output.note(f"warning: {warning}")
