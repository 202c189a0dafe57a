"""`backupctl catalog`: the table of contents that the daemon keeps, made anew from the repositories."""

from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.options import Settings, global_options, option, settings_of, verb
from backupctl.policies import find_policy, folder_of, reading_settings
from backupctl.progress import TerminalReporter
from backupctl.session import opened
from backupctl.verbs import VerbGroup

if TYPE_CHECKING:
    from datetime import datetime

    from backupd.jobs.cataloging import Look
    from backupd.policy.model import Policy


@click.group(cls=VerbGroup, epilog="Example: backupctl catalog rebuild --config /etc/backupd/policies.d")
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Look after the catalog, in which the daemon remembers runs and snapshots."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command("rebuild", epilog="Example: backupctl catalog rebuild --config /etc/backupd/policies.d")
@option(
    "--catalog",
    metavar="URL",
    help="A file, or postgresql://user@host/database (default: catalog.sqlite in --state).",
)
@option("--policy", metavar="NAME", help="Only the repository of this policy.")
@option("--accept-vanished", is_flag=True, help="Warn no longer of snapshots that are gone and no record says why.")
@verb
def rebuild(settings: Settings, catalog: str | None, policy: str | None, accept_vanished: bool) -> None:
    """Write the catalog's list of snapshots anew, from the repositories themselves.

    The repositories are those of the policies in --config, or the one of --repository. A catalog that is not there is made. Its
    history of runs cannot be had from anywhere else: it stays as it is, or is lost with the catalog. Snapshots that vanished
    without a signed deletion are counted, and told of, until somebody accepts that.
    """
    from backupd.config.clock import now
    from backupd.config.paths import state_base
    from backupd.errors import BackupdError
    from backupd.jobs.cataloging import Look, note
    from backupd.wiring import open_catalog

    moment = now()
    done: dict[str, dict[str, Any]] = {}
    failed: list[BackupdError] = []
    looks: dict[tuple[str | None, int | None], tuple[str, Look]] = {}
    with nullcontext() if settings.dry_run else open_catalog(state_base(settings.state), catalog) as target:
        for one in _policies(settings, policy):
            try:
                there = reading_settings(settings, one) if one else settings
                promised = one.retention.lock if one and one.retention else None
                wanted = there.repository, promised.days if promised else None
                if wanted not in looks:
                    looks[wanted] = _look(there, moment, wanted[1])
            except BackupdError as error:
                failed.append(error)
                continue
            repository, seen = looks[wanted]
            name, place = one.policy if one else None, str(there.repository)
            vanished = note(target, name, place, repository, seen, moment, accept=accept_vanished) if target else 0
            if repository not in done and not settings.json:
                output.say(f"{place}: {output.plural(len(seen.snapshots), 'snapshot')}")
            if vanished and not settings.json:
                output.note(
                    f"warning: {output.plural(vanished, 'snapshot')} of {place} that the catalog knew are gone, and no record"
                    " says why (`backupctl verify`)"
                )
            entry = done.setdefault(repository, _values(repository, seen, vanished))
            entry["policies"] += [name] if name else []
    if failed:
        for other in failed[1:]:
            output.note(f"backupctl: {other.message}")
        failed[0].values = {"repositories": [*done.values()]}  # type: ignore[attr-defined]  # the JSON document shows them beside it
        raise failed[0]
    if settings.json:
        output.document("catalog rebuild", {"repositories": [*done.values()]})


def _values(repository: str, seen: "Look", vanished: int) -> dict[str, Any]:
    return {
        "repository": repository,
        "policies": [],
        "snapshots": len(seen.snapshots),
        "vanished": vanished,
        "problems": list(seen.problems),
    }


def _policies(settings: Settings, name: str | None) -> "list[Policy | None]":
    """Those whose repositories are read; None stands for the repository that the command line names."""
    if name is not None:
        return [find_policy(settings, name).policy]
    from backupd.config.policies import load_valid, policy_files
    from backupd.errors import UsageError

    folder = folder_of(settings)
    if settings.config or (not settings.repository and folder.exists()):
        return [loaded.policy for loaded in load_valid(policy_files([folder]))]
    if not settings.repository:
        raise UsageError(
            f"there are no policies in {folder}", hint="name a folder with --config, or a repository with --repository"
        )
    return [None]


def _look(settings: Settings, moment: "datetime", locked_days: int | None) -> "tuple[str, Look]":
    """A repository's id, and what is in it; with `locked_days`, also whether the storage locks that for so long."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.cataloging import look

    with opened(settings, Right.LIST) as session:
        repo = session.opened.repo
        promised = timedelta(days=locked_days) if locked_days else None
        return repo.id.hex(), look(repo, moment, TerminalReporter(settings), promised=promised)
