"""`backupctl hold`: keep snapshots whatever retention says."""

from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.options import Settings, global_options, option, said, settings_of, verb
from backupctl.session import opened
from backupctl.verbs import VerbGroup

if TYPE_CHECKING:
    from backupd.crypto.keyring import Right
    from backupd.jobs.holds import Hold
    from backupd.repo.repository import Repository, SnapshotView


@click.group(cls=VerbGroup, epilog="Example: backupctl hold add latest:crm --reason 'case 4711' --key keys/read.key")
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Keep snapshots whatever retention says."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command("add", epilog="Example: backupctl hold add latest:crm --reason 'case 4711' --key keys/read.key")
@click.argument("snapshot")
@option("--reason", required=True, callback=said, help="Why; recorded and signed.")
@verb
def add(settings: Settings, snapshot: str, reason: str) -> None:
    """Hold a snapshot; a read, prune, root or write key may."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.select import select_snapshot

    with opened(settings, Right.HOLD) as session:
        repo = session.opened.repo
        view = select_snapshot(repo.history(), snapshot)
        _write(settings, repo, Right.HOLD, {"type": "hold", "snapshot": view.id, "reason": reason})
    _tell(settings, "hold-add", view.id, reason, "held")


@command.command("release", epilog="Example: backupctl hold release 3f2a91 --key keys/prune.key")
@click.argument("snapshot")
@option("--reason", callback=said, help="Only the hold of this reason; all of them otherwise.")
@verb
def release(settings: Settings, snapshot: str, reason: str | None) -> None:
    """End the holds of a snapshot; a prune or root key may."""
    from backupd.crypto.keyring import Right
    from backupd.errors import Failed
    from backupd.jobs.select import select_snapshot

    with opened(settings, Right.PRUNE) as session:
        repo = session.opened.repo
        history = repo.history()
        view = select_snapshot(history, snapshot)
        held = [
            hold for hold in _holds(repo, history.views) if hold.snapshot == view.id and reason in {None, hold.reason}
        ]
        if not held:
            raise Failed(
                f"snapshot {view.id[:12]} is not held" + (f" for {reason!r}" if reason else ""), object_name=view.id
            )
        ends = [hold.name for hold in held]
        _write(settings, repo, Right.PRUNE, {"type": "release", "snapshot": view.id, "reason": reason, "ends": ends})
    _tell(settings, "hold-release", view.id, reason, "released")


@command.command("list", epilog="Example: backupctl hold list --key keys/check.key")
@verb
def show(settings: Settings) -> None:
    """List the holds in force."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.select import source_names

    with opened(settings, Right.LIST) as session:
        repo = session.opened.repo
        views = repo.history().views
        holds = _holds(repo, views)
    names = source_names(views)
    listed = [
        {"snapshot": h.snapshot, "source": names.get(h.snapshot), "reason": h.reason, "since": h.created} for h in holds
    ]
    if settings.json:
        output.document("hold-list", {"holds": listed})
        return
    if not listed:
        output.note("nothing is held")
        return
    output.table(
        ["snapshot", "source", "since (UTC)", "reason"],
        [
            [h.snapshot[:12], names.get(h.snapshot, "-"), h.created.replace("T", " ").rstrip("Z"), h.reason]
            for h in holds
        ],
    )


def _holds(repo: "Repository", views: "list[SnapshotView]") -> "list[Hold]":
    from backupd.jobs.holds import holds_of

    return holds_of(views, repo.records(lambda _: None))


def _write(settings: Settings, repo: "Repository", right: "Right", document: dict[str, Any]) -> None:
    """Store the signed record."""
    from backupd.config.clock import fine_stamp, now
    from backupd.jobs.appending import append_record

    signer = repo.keyring.signer(right.value)
    assert signer is not None
    if not settings.dry_run:
        append_record(repo, signer, {**document, "created": fine_stamp(now())})


def _tell(settings: Settings, name: str, snapshot: str, reason: str | None, word: str) -> None:
    if settings.json:
        output.document(name, {"snapshot": snapshot, "reason": reason, "dry_run": settings.dry_run})
        return
    would = "would be " if settings.dry_run else ""
    output.say(f"snapshot {snapshot[:12]} {would}{word}" + (f": {reason}" if reason else ""))
