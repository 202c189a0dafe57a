"""`backupctl keys`: which keys are at hand, do they work, and further ones."""

from pathlib import Path
from typing import Any

import click

from backupctl import output
from backupctl.commands.keys_new import command as new
from backupctl.commands.keys_passphrase import command as passphrase
from backupctl.options import Settings, global_options, settings_of, verb
from backupctl.session import Passphrase, repository_url
from backupctl.verbs import VerbGroup

_RIGHTS = {
    "write": "back up",
    "check": "verify",
    "prune": "verify, sign deletions",
    "read": "restore, verify",
    "root": "change trust",
    "recovery": "restore, verify",
}


class _KeyVerbs(VerbGroup):
    planned = dict.fromkeys(("rotate", "revoke", "split", "join"), frozenset[str]())


@click.group(cls=_KeyVerbs, epilog="Example: backupctl keys test --repository /backup/app --key keys/read.key")
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Look at key files, try them, and make further ones."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command("list", epilog="Example: backupctl keys list --key keys/read.key --key keys/write.key")
@verb
def list_keys(settings: Settings) -> None:
    """List the key files at hand: role, rights, whose they are. Opens none of them."""
    from backupd.wiring import read_keys

    keys = [
        {
            "path": str(Path(k.header.path).absolute()),
            "role": str(k.header.role),
            "id": k.header.id.hex(),
            "repository": k.header.pin.repository.hex(),
            "root": k.header.pin.root.hex(),
            "created": k.header.created,
            "passphrase": k.header.kdf.needs_passphrase,
        }
        for k in read_keys(settings.key_paths)
    ]
    if settings.json:
        output.document("keys-list", {"keys": keys})
        return
    output.table(
        ["role", "rights", "id", "repository", "passphrase", "file"],
        [
            [
                k["role"],
                _RIGHTS[str(k["role"])],
                str(k["id"])[:12],
                str(k["repository"])[:12],
                "yes" if k["passphrase"] else "no",
                k["path"],
            ]
            for k in keys
        ],
    )


@command.command("test", epilog="Example: backupctl keys test --repository /backup/app --key keys/recovery.key")
@verb
def test_keys(settings: Settings) -> None:
    """Open each key and prove that it works: its passphrase, its pin, and that it opens what it should."""
    from backupd.jobs.keytest import try_key
    from backupd.wiring import open_store, read_keys

    locked = read_keys(settings.key_paths)
    asked = Passphrase(settings)
    store = open_store(repository_url(settings), **settings.limits)
    try:
        results = [
            try_key(key, store, asked.for_key(key) if key.header.kdf.needs_passphrase else None) for key in locked
        ]
    finally:
        store.close()
    rows = [
        {
            "path": str(Path(k.header.path).absolute()),
            "role": str(k.header.role),
            "works": not r.error,
            "detail": r.detail,
        }
        for k, r in zip(locked, results, strict=True)
    ]
    failed = next((r.error for r in results if r.error), None)
    if failed is not None:
        failed.values = {"keys": rows}  # type: ignore[attr-defined]  # the JSON document shows them beside the error
    if settings.json:
        if failed is not None:
            raise failed
        output.document("keys-test", {"keys": rows})
        return
    output.table(["role", "works", "what was tried", "file"], [[*_row(r)] for r in rows])
    if failed is not None:
        raise failed


command.add_command(new)
command.add_command(passphrase)


def _row(row: dict[str, Any]) -> list[str]:
    return [row["role"], "yes" if row["works"] else "NO", row["detail"], row["path"]]
