"""`backupctl verify`: is everything there, whole, and what it was?"""

import time
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from backupctl import output
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.servers import build_options, server_options
from backupctl.session import opened, repository_url

if TYPE_CHECKING:
    from backupd.jobs.verify import VerifyResult
    from backupd.repo.repository import History, Repository


def _sample(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    try:
        share = float(value.removesuffix("%"))
    except ValueError:
        raise click.BadParameter("write a share like 5%") from None
    if not 0 < share <= 100:
        raise click.BadParameter("must be more than 0% and at most 100%")
    return share


@click.command(epilog="Example: backupctl verify --level content --repository /backup/app --key keys/read.key")
@click.argument("snapshot", required=False)
@option(
    "--level",
    type=click.Choice(["structure", "bytes", "content"]),
    default="bytes",
    show_default=True,
    help="structure: signatures, chains, lists, presence. bytes: also every stored byte. content: also open every chunk.",
)
@option(
    "--sample",
    default="100%",
    callback=_sample,
    help="Share of the packs to read, chosen at random (5%); those known to be bad are always read.",
)
@option(
    "--against-source",
    is_flag=True,
    help="Instead: compare each table of the snapshot with the live database that --source names.",
)
@option("--source", metavar="URL", help="The live database, for --against-source.")
@server_options
@verb
def command(
    settings: Settings,
    snapshot: str | None,
    level: str,
    sample: float,
    against_source: bool,
    source: str | None,
    server: dict[str, Any],
) -> None:
    """Verify the repository, or what one snapshot needs.

    structure and bytes need the check right, content the read right. Whatever is damaged, forged or missing is named, and
    the exit code is 4. Packs found bad are recorded, so that the next run stores anew what they held.

    With --against-source nothing stored is checked: the content of each table is compared with the live database, by
    digest; what differs is named, and the exit code is 1. This needs the read right.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.audit import append_audit, snapshot_facts
    from backupd.jobs.select import select_snapshot
    from backupd.jobs.verify import Level, verify
    from backupd.store.dryrun import DryRunStore
    from backupd.wiring import open_store

    began = time.monotonic()
    report = TerminalReporter(settings)
    _refuse_mixed(against_source)
    if against_source:
        _compare(settings, snapshot, source, server, report)
        return
    wanted = Level[level.upper()]
    right = Right.READ if wanted is Level.CONTENT else Right.CHECK
    store = DryRunStore(open_store(repository_url(settings), **settings.limits), now) if settings.dry_run else None
    with opened(settings, right, store=store, fresh=True) as session:
        repo = session.opened.repo
        only = select_snapshot(repo.history(), snapshot) if snapshot else None
        if wanted is Level.CONTENT:
            append_audit(repo, "verify-content", snapshot_facts(only) if only else {}, now(), report)
        result = verify(repo, wanted, only=only, sample=sample, now=now(), report=report)
        if not result.problems and not settings.dry_run:
            _remember(repo, result, report)
    report.clear()
    seconds = time.monotonic() - began
    _tell(settings, level, result, report, seconds)


def _refuse_mixed(against_source: bool) -> None:
    """Options that mean something only with, or only without, --against-source."""
    from backupd.errors import UsageError

    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if against_source and given & {"level", "sample"}:
        raise UsageError("--level and --sample look at what is stored, --against-source does not: choose one")
    if not against_source and given & {"source", "password_file", "tools", "jobs", "lock_timeout"}:
        raise UsageError("options of a live database need --against-source")


def _compare(
    settings: Settings, snapshot: str | None, source: str | None, server: dict[str, Any], report: TerminalReporter
) -> None:
    """Compare a snapshot with the live database."""
    from backupd.config.clock import now
    from backupd.config.urls import parse_database
    from backupd.crypto.keyring import Right
    from backupd.errors import Failed, UsageError
    from backupd.jobs.audit import append_audit, snapshot_facts
    from backupd.jobs.load import compare_with_source
    from backupd.jobs.select import select_snapshot
    from backupd.wiring import open_source

    began = time.monotonic()
    if not source:
        raise UsageError("--against-source needs the live database", hint="name it with --source URL")
    live = open_source(parse_database(source), timeout=server["lock_timeout"], options=build_options(server))
    with opened(settings, Right.READ, fresh=True) as session:
        repo = session.opened.repo
        history = repo.history()
        view = select_snapshot(history, snapshot or f"latest:{_known(history, live.default_name)}")
        if not settings.dry_run:
            append_audit(repo, "compare", snapshot_facts(view), now(), report)
        tables, problems = compare_with_source(repo, view, live, report)
    report.clear()
    seconds = time.monotonic() - began
    values = {
        "level": "source",
        "snapshot": view.id,
        "checked": {"snapshots": 1, "packs": 0, "chunks": 0, "bytes": 0, "tables": tables},
        "problems": [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in problems],
        "seconds": round(seconds, 3),
        "warnings": report.warnings,
        "dry_run": settings.dry_run,
    }
    if problems:
        error = Failed(
            f"{output.plural(len(problems), 'table')} of {tables} differ from the snapshot of {view.structure.taken_at}, "
            f"the first: {problems[0].object}: {problems[0].detail}",
            object_name=problems[0].object,
            hint="expected where something was written since; --json names all of them",
        )
        error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
        raise error
    if settings.json:
        output.document("verify", values)
        return
    output.say(
        f"the source is what the snapshot of {view.structure.taken_at} holds: {output.plural(tables, 'table')} compared "
        f"in {seconds:.1f} s"
    )


def _known(history: "History", name: str) -> str:
    """The source to compare with where no snapshot was named: the one of the database's name, or the only one."""
    from backupd.errors import UsageError
    from backupd.jobs.select import source_names

    names = {view.structure.source for view in history.views}
    if name in names or not names:
        return name
    if len(names) > 1:
        raise UsageError(f"no source here is called {name}", hint="name the snapshot: latest:SOURCE, or an id")
    return next(iter(set(source_names(history.views).values())))


def _remember(repo: "Repository", result: "VerifyResult", report: TerminalReporter) -> None:
    """Keep the heads in the ledger; a full disk on this machine is no finding about the repository."""
    from backupd.errors import Failed

    try:
        repo.ledger.remember(repo.trust.version, result.heads, records=result.records)
    except (OSError, Failed) as error:
        why = error.message if isinstance(error, Failed) else error.strerror or "input/output error"
        report.warning(f"what was seen could not be remembered in {repo.ledger.path}: {why}")


def _tell(settings: Settings, level: str, result: "VerifyResult", report: TerminalReporter, seconds: float) -> None:
    from backupd.errors import IntegrityError

    values = {
        "level": level,
        "checked": {
            "snapshots": result.snapshots,
            "packs": result.packs,
            "chunks": result.chunks,
            "bytes": result.size,
        },
        "problems": [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in result.problems],
        "seconds": round(seconds, 3),
        "warnings": report.warnings,
        "dry_run": settings.dry_run,
    }
    if result.problems:
        first = result.problems[0]
        error = IntegrityError(
            f"{output.plural(len(result.problems), 'problem')} found, the first: {first.object}: {first.detail}",
            object_name=first.object,
            hint="other snapshots may be whole: `backupctl verify SNAPSHOT` tells for each; run a backup now to heal",
        )
        error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
        raise error
    if settings.json:
        output.document("verify", values)
        return
    output.say(
        f"no problems: {output.plural(result.snapshots, 'snapshot')}, {output.plural(result.packs, 'pack')}, "
        f"{output.plural(result.chunks, 'chunk')}, {output.size(result.size)} at level {level} in {seconds:.1f} s"
    )
