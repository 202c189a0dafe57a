"""`backupctl brake`: pauses of pruning after a sudden change, and their end."""

import sys
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.options import Settings, global_options, option, said, settings_of, verb
from backupctl.session import opened
from backupctl.verbs import VerbGroup

if TYPE_CHECKING:
    from backupd.repo.brakes import Brake
    from backupd.repo.repository import Repository


@click.group(
    cls=VerbGroup, epilog="Example: backupctl brake release crm --reason 'old orders archived' --key keys/prune.key"
)
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Pauses of pruning after a sudden change."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command("list", epilog="Example: backupctl brake list --key keys/check.key")
@verb
def show(settings: Settings) -> None:
    """List the sources of which nothing is pruned, since when, and why."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.brake import in_force
    from backupd.report import Problem

    problems: list[Problem] = []
    with opened(settings, Right.LIST) as session:
        repo = session.opened.repo
        brakes = in_force(repo.records(problems.append))
    for problem in problems:
        output.note(f"{problem.object}: {problem.detail}")
    if settings.json:
        warnings = [f"{problem.object}: {problem.detail}" for problem in problems]
        output.document("brake-list", {"brakes": [_values(repo, brake) for brake in brakes], "warnings": warnings})
        return
    if not brakes:
        output.note("no brake is set")
    for brake in brakes:
        output.say(
            f"{_name(repo, brake)}: since {brake.since}, snapshot {brake.snapshot[:12]} ({', '.join(brake.kinds)})"
        )
        output.say(f"  {brake.reason}")


@command.command(
    "release", epilog="Example: backupctl brake release crm --reason 'old orders archived' --key keys/prune.key"
)
@click.argument("source", required=False)
@option("--all", "every", is_flag=True, help="Of every source.")
@option("--reason", callback=said, help="Why it was meant; recorded and signed.")
@verb
def release(settings: Settings, source: str | None, every: bool, reason: str | None) -> None:
    """Let the snapshots of a source be pruned again; a prune or root key may.

    Find out first whether the change was meant: what a rule does not keep goes with the next prune.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.errors import Failed, UsageError
    from backupd.jobs import brake as job

    if bool(source) == every:
        raise UsageError("name one source, or give --all", hint="`backupctl brake list` shows which brakes are set")
    with opened(settings, Right.PRUNE) as session:
        repo = session.opened.repo
        signer = repo.keyring.signer(Right.PRUNE.value)
        assert signer is not None
        brakes = job.in_force(repo.records(lambda _: None))
        chosen = brakes if source is None else _of_source(repo, brakes, source)
        if source and not chosen:
            raise Failed(f"no brake is set of {source!r}", object_name=source, hint="`backupctl brake list` shows them")
        if chosen and not settings.dry_run:
            _ask(settings, repo, chosen)
            job.release(repo, signer, chosen, reason, now())
    if settings.json:
        released = [_values(repo, brake) for brake in chosen]
        output.document("brake-release", {"released": released, "reason": reason, "dry_run": settings.dry_run})
        return
    would = "would be " if settings.dry_run else ""
    for brake in chosen:
        output.say(f"the brake of {_name(repo, brake)} {would}released: {brake.reason}")
    if not chosen:
        output.note("no brake is set")


def _of_source(repo: "Repository", brakes: "list[Brake]", name: str) -> "list[Brake]":
    """The brakes of a source, by its name or WRITER/SOURCE; also where no snapshot of it is left that can be believed.

    Raises:
        UsageError: two writers use the name.
    """
    from backupd.jobs.select import of_source

    writers = {view.object.writer for view in of_source(repo.history().views, name)}
    plain = name.rpartition("/")[2]
    return [
        brake
        for brake in brakes
        if brake.source == plain
        and (
            brake.writer in writers
            or f"{repo.writer_label(brake.writer)}/{plain}" == name
            or (name == plain and not writers)
        )
    ]


def _ask(settings: Settings, repo: "Repository", brakes: "list[Brake]") -> None:
    """Have a person say that it was meant.

    Raises:
        UsageError: there is nobody to ask.
        click.Abort: no.
    """
    from backupd.errors import UsageError

    if settings.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "a person must say that the change was meant, and there is no terminal", hint="say it with --yes"
        )
    for brake in brakes:
        output.note(f"{_name(repo, brake)}, since {brake.since}: {brake.reason}")
    click.confirm("Was this meant, and may old snapshots go again?", abort=True, err=True)


def _name(repo: "Repository", brake: "Brake") -> str:
    return f"{repo.writer_label(brake.writer)}/{brake.source}"


def _values(repo: "Repository", brake: "Brake") -> dict[str, Any]:
    return {
        "source": brake.source,
        "writer": repo.writer_label(brake.writer),
        "snapshot": brake.snapshot,
        "since": brake.since,
        "kinds": list(brake.kinds),
        "reason": brake.reason,
        "record": brake.record,
    }
