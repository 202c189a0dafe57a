"""`backupctl demo`: the whole story on a made-up customer database."""

import click

from backupctl.options import Settings, option, verb


@click.command(epilog="Example: backupctl demo ./backupd-demo")
@click.argument("folder", metavar="[DIR]", default="./backupd-demo")
@option("--customers", type=click.IntRange(100, 5_000_000), default=90_000, show_default=True, help="1.1 kB each.")
@verb
def command(settings: Settings, folder: str, customers: int) -> None:
    """Back up, lose, and restore a made-up telecom customer database, in a folder that stays for playing."""
    from pathlib import Path

    from backupctl.story import tell_story

    tell_story(settings, Path(folder).absolute(), customers)
