"""`backupctl policy`: is it valid, when does it run, what may stand in it."""

import json
from typing import Any

import click

from backupctl import output
from backupctl.commands.policy_check import command as check
from backupctl.commands.policy_plan import command as plan
from backupctl.commands.policy_times import planned_of, table
from backupctl.options import Settings, global_options, option, settings_of, verb
from backupctl.policies import folder_of
from backupctl.verbs import VerbGroup


@click.group(cls=VerbGroup, epilog="Example: backupctl policy check policies/nightly-postgresql-s3.yaml")
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Check policies, and see when they run."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command("next", epilog="Example: backupctl policy next nightly.yaml --count 3")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many.")
@verb
def next_times(settings: Settings, files: tuple[str, ...], count: int) -> None:
    """Show when each source starts next: its jitter and the maintenance windows are reckoned in."""
    from backupd.config.policies import load_valid, policy_files

    found = load_valid(policy_files(files or [folder_of(settings)]))
    if settings.json:
        output.document(
            "policy-next", {"sources": [item for loaded in found for item in planned_of(loaded.policy, count)]}
        )
        return
    table(found, count)


@command.command("schema", epilog="Example: backupctl policy schema > policies/schema/policy-v1.json")
@verb
def show_schema(settings: Settings) -> None:
    """Print the JSON Schema of policy files, for editors and checks."""
    from backupd.policy.model import schema

    if settings.json:
        output.document("policy-schema", {"policy": schema()})
        return
    click.echo(json.dumps(schema(), indent=2))


command.add_command(check)
command.add_command(plan)
