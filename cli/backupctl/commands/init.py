"""`backupctl init`: make a repository and its six keys."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupctl import output
from backupctl.options import Settings, option, printable, verb
from backupctl.session import Passphrase, refuse_inside, repository_url

if TYPE_CHECKING:
    from backupd.config.urls import RepositoryUrl
    from backupd.jobs.init import InitResult

_WHO = {
    "write": "back up (lives on the database's host; cannot read)",
    "check": "verify (cannot read)",
    "prune": "plan and sign deletions (cannot read)",
    "read": "restore (passphrase)",
    "root": "change trust (passphrase; keep offline)",
    "recovery": "restore when all else is lost (passphrase; keep offline, twice)",
}


@click.command(epilog="Example: backupctl init /backup/app --keys ./keys")
@click.argument("place", metavar="REPOSITORY", required=False)
@option("--keys", "keys_dir", metavar="DIR", envvar="BACKUPCTL_KEYS", help="The folder for the six key files.")
@option(
    "--label", metavar="TEXT", default=None, callback=printable, help="This writer's label (default: the host's name)."
)
@verb
def command(settings: Settings, place: str | None, keys_dir: str | None, label: str | None) -> None:
    """Make a repository and its keys, one file for each right."""
    from backupd.config.clock import now
    from backupd.errors import Failed, UsageError
    from backupd.jobs.init import init_repository, refuse_existing
    from backupd.store.probe import probe
    from backupd.wiring import open_store

    if not keys_dir:
        raise UsageError("no folder for the keys was given", hint="name one with --keys DIR")
    url = repository_url(settings, place)
    folder = Path(keys_dir).absolute()
    refuse_inside(url, folder)
    store = open_store(url, create=not settings.dry_run, **settings.limits)
    try:
        if settings.dry_run and url.path is not None and not url.path.exists():
            _would(settings, url, folder)
            return
        refuse_existing(store, folder)
        if settings.dry_run:
            _would(settings, url, folder)
            return
        passphrase = Passphrase(settings).get(confirm=True)
        found = probe(store, now=now())
        if found.level == "C":
            bad = next(f for f in found.facts if not f.honoured)
            raise Failed(
                f"{url} cannot hold a repository: {bad.follows}", object_name=str(url), hint="backupctl repo probe"
            )
        made = init_repository(
            store,
            folder,
            lambda: passphrase,
            now=now(),
            create_only=found.level == "A",
            label=label if label is not None else os.uname().nodename.split(".")[0],
        )
    finally:
        store.close()
    _tell(settings, url, made, found.level)


def _would(settings: Settings, url: "RepositoryUrl", folder: Path) -> None:
    if settings.json:
        keys = {role: str(folder / f"{role}.key") for role in _WHO}
        output.document("init", {"repository": str(url), "fingerprint": None, "keys": keys, "dry_run": True})
    else:
        output.note(f"would make {url} and six keys in {folder}")


def _tell(settings: Settings, url: "RepositoryUrl", made: "InitResult", level: str) -> None:
    keys = {str(role): str(path) for role, path in made.keys.items()}
    if settings.json:
        values = {
            "repository": str(url),
            "id": made.repository.hex(),
            "fingerprint": made.fingerprint.hex(),
            "keys": keys,
        }
        output.document("init", {**values, "store_level": level})
        return
    output.say(f"repository   {url}")
    output.say(f"fingerprint  {made.fingerprint.hex()}")
    for role, path in keys.items():
        output.say(f"{role:<12} {path}  {_WHO[role]}")
    if settings.quiet:
        return
    output.note("Write the fingerprint down. Take read, root and recovery off this machine: if all of read and")
    output.note("recovery are lost, nobody can restore.")
    if level == "B":
        output.note("warning: this store overwrites existing objects; `backupctl repo probe` tells what follows")
