"""`backupctl keys new`: a key for a second host, signed in by the root."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupctl import output
from backupctl.options import Settings, option, printable, verb
from backupctl.session import Passphrase, opened, refuse_inside, repository_url

if TYPE_CHECKING:
    from backupd.jobs.newkey import NewKey
    from backupd.repo.repository import Repository

_LATER = ("read", "root", "recovery")


@click.command("new", epilog="Example: backupctl keys new write --out db2-write.key --label db2 --key keys/root.key")
@click.argument("role", metavar="write|check|prune")
@option("--keys", "keys_dir", metavar="DIR", envvar="BACKUPCTL_KEYS", help="The folder for the new file, ROLE.key.")
@option("--out", metavar="FILE", help="The new file itself.")
@option("--label", metavar="TEXT", required=True, callback=printable, help="What people call it; sealed.")
@verb
def command(settings: Settings, role: str, keys_dir: str | None, out: str | None, label: str) -> None:
    """Make a further key: write for a second host, check or prune for another one that does that.

    Needs root.key, as many of them as trust asks for. A second writer deduplicates for itself, and the other one's runs go
    on. The file, 0600 and without a passphrase, is written before the trust document that makes it good: what an
    interruption leaves is a file that opens nothing. Where two writers have a source of one name, it is written LABEL/SOURCE.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyfile import Role
    from backupd.crypto.keyring import Right
    from backupd.errors import UsageError
    from backupd.jobs.newkey import issue, plan_key, quorum
    from backupd.wiring import read_keys

    wanted = _role(role)
    if not out and not keys_dir:
        raise UsageError(
            "no place for the new file was given", hint="name it with --out FILE, or its folder with --keys"
        )
    path = Path(out).absolute() if out else Path(keys_dir or "").absolute() / f"{wanted}.key"
    refuse_inside(repository_url(settings), path.parent)
    with opened(settings, Right.ROOT) as session:
        repo = session.opened.repo
        planned = plan_key(repo, Role(wanted), path, label, now=now())
        if not settings.dry_run:
            again = Passphrase(settings)
            issue(repo, planned, quorum(repo, read_keys(settings.key_paths), again.for_key))
            _remember(repo, planned.trust.version)
    _tell(settings, planned, label)


def _role(text: str) -> str:
    from backupd.errors import UsageError

    if text in _LATER:
        raise UsageError(
            f"`backupctl keys new {text}` is not built yet in this version",
            hint="a new reader needs a new write key on every host; made so far: write, check, prune",
        )
    if text not in {"write", "check", "prune"}:
        raise UsageError(f"{text!r} is no kind of key", hint="write, check or prune")
    return text


def _remember(repo: "Repository", version: int) -> None:
    """So that this machine notices a storage that is set back to before."""
    from backupd.errors import Failed

    try:
        repo.ledger.remember(version, {})
    except (OSError, Failed) as error:
        output.note(f"warning: this machine could not remember trust version {version}: {type(error).__name__}")


def _tell(settings: Settings, planned: "NewKey", label: str) -> None:
    header = planned.key.header
    if settings.json:
        values = {
            "role": str(header.role),
            "path": str(planned.path),
            "id": header.id.hex(),
            "writer": header.writer.hex() or None,
            "label": label,
            "trust": planned.trust.version,
            "dry_run": settings.dry_run,
        }
        output.document("keys-new", values)
        return
    if settings.dry_run:
        output.note(f"would make {planned.path} and trust version {planned.trust.version}")
        return
    output.say(f"{header.role} key    {planned.path}")
    output.say(f"id           {header.id.hex()}")
    output.say(f"label        {label}")
    output.say(f"trust        version {planned.trust.version} names it")
    if not settings.quiet:
        output.note("Move the file to its host, and see that no copy stays here. `keys passphrase` puts one on it.")
