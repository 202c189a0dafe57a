"""`backupctl keys passphrase`: another passphrase for a key file."""

from pathlib import Path

import click

from backupctl import output
from backupctl.options import Settings, option, verb
from backupctl.session import Passphrase


@click.command("passphrase", epilog="Example: backupctl keys passphrase --key keys/read.key --new-passphrase-file new")
@option("--new-passphrase-file", metavar="FILE", help="The new passphrase (without: it is asked for twice).")
@option("--no-passphrase", is_flag=True, help="Take the passphrase away; write, check and prune keys only.")
@verb
def command(settings: Settings, new_passphrase_file: str | None, no_passphrase: bool) -> None:
    """Give a key file another passphrase, its first one, or none.

    The old one comes from --passphrase-file or the terminal. The file is replaced at once, by a whole one that was tried; the
    key stays the same. Copies made earlier still open with the old passphrase: destroy them.
    """
    from backupd.errors import UsageError
    from backupd.jobs.passphrase import change_passphrase, refuse_without
    from backupd.wiring import read_keys

    if len(settings.key_paths) != 1:
        raise UsageError("one key file at a time", hint="name it with --key FILE")
    if new_passphrase_file and no_passphrase:
        raise UsageError("--new-passphrase-file and --no-passphrase exclude each other")
    (locked,) = read_keys(settings.key_paths)
    if no_passphrase:
        refuse_without(locked)
    old = Passphrase(settings).get() if locked.header.kdf.needs_passphrase else None
    new = None if no_passphrase else Passphrase.of(new_passphrase_file, "New passphrase").get(confirm=True)
    if not settings.dry_run:
        change_passphrase(locked, old, new)
    _tell(settings, str(Path(locked.header.path).absolute()), locked.header.id.hex(), new is not None)


def _tell(settings: Settings, path: str, key: str, has_one: bool) -> None:
    if settings.json:
        values = {"path": path, "id": key, "passphrase": has_one, "dry_run": settings.dry_run}
        output.document("keys-passphrase", values)
        return
    would = "would have" if settings.dry_run else "has"
    output.say(f"{path} {would} {'a new' if has_one else 'no'} passphrase")
    if not settings.quiet and not settings.dry_run:
        output.note("Copies that were made earlier still open with the old one.")
