"""`backupctl completion`: a script that has the shell complete verbs, options and files."""

import sys

import click

from backupctl import output
from backupctl.options import Settings, verb

_HOW = {
    "bash": "source <(backupctl completion bash), or the same into /etc/bash_completion.d/backupctl",
    "zsh": "backupctl completion zsh into a file _backupctl in your fpath",
    "fish": "backupctl completion fish into ~/.config/fish/completions/backupctl.fish",
}


@click.command(epilog="Example: backupctl completion bash > /etc/bash_completion.d/backupctl")
@click.argument("shell", type=click.Choice(list(_HOW)))
@verb
def command(settings: Settings, shell: str) -> None:
    """Print what makes a shell complete verbs, options and files."""
    from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

    known: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    root = click.get_current_context().find_root().command
    script = known[shell](root, {}, "backupctl", "_BACKUPCTL_COMPLETE").source()
    if settings.json:
        output.document("completion", {"shell": shell, "script": script})
        return
    click.echo(script)
    if sys.stdout.isatty():
        output.note(f"use: {_HOW[shell]}")
