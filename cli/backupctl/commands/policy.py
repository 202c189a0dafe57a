"""`backupctl policy`: is it valid, when does it run, what may stand in it."""

import json
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.commands.policy_plan import command as plan
from backupctl.options import Settings, global_options, option, settings_of, verb
from backupctl.policies import folder_of
from backupctl.verbs import VerbGroup

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from backupd.config.policies import PolicyFile, PolicySet
    from backupd.policy.model import Policy
    from backupd.policy.schedule import Planned


@click.group(cls=VerbGroup, epilog="Example: backupctl policy check policies/nightly-postgresql-s3.yaml")
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Check policies, and see when they run."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


def _load(settings: Settings, files: tuple[str, ...]) -> "PolicySet":
    from backupd.config.policies import load, policy_files

    return load(policy_files(files or [folder_of(settings)]))


@command.command("check", epilog="Example: backupctl policy check /etc/backupd/policies.d")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@verb
def check(settings: Settings, files: tuple[str, ...]) -> None:
    """Check policy files; what is wrong is told with its line and column, and the exit code is 2.

    Of a folder all *.yaml are taken. No database and no storage is asked.
    """
    from backupd.errors import UsageError

    found = _load(settings, files)
    warnings = [fault for loaded in found.files for fault in loaded.warnings]
    values: dict[str, Any] = {
        "policies": [{"name": loaded.policy.policy, "file": str(loaded.file)} for loaded in found.files],
        "errors": [_values(fault) for fault in found.faults],
        "warnings": [_values(fault) for fault in warnings],
        "next": _next(found.files, 5),
    }
    if found.faults:
        if not settings.json:
            for fault in found.faults:
                output.note(str(fault))
        count = output.plural(len(found.faults), "error")
        error = UsageError(f"{count} in {output.plural(len({f.file for f in found.faults}), 'policy file')}")
        error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
        raise error
    if settings.json:
        output.document("policy-check", values)
        return
    for fault in warnings:
        output.note(f"warning: {fault}")
    for loaded in found.files:
        output.say(f"{loaded.file}: {loaded.policy.policy} is valid: {_what(loaded.policy)}")
    _table(found.files, 5)


def _values(fault: Any) -> dict[str, Any]:
    return {"file": fault.file, "line": fault.line, "column": fault.column, "message": fault.message}


def _what(policy: "Policy") -> str:
    """A policy in a few words."""
    names = ", ".join(source.name for source in policy.sources)
    kept = f"; keeps {policy.retention.rule}" if policy.retention else "; everything is kept"
    return f"{names} to {policy.repository.url}{kept}"


@command.command("next", epilog="Example: backupctl policy next nightly.yaml --count 3")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many.")
@verb
def next_times(settings: Settings, files: tuple[str, ...], count: int) -> None:
    """Show when each source starts next: its jitter and the maintenance windows are reckoned in."""
    from backupd.config.policies import load_valid, policy_files

    found = load_valid(policy_files(files or [folder_of(settings)]))
    if settings.json:
        output.document("policy-next", {"sources": _next(found, count)})
        return
    _table(found, count)


def _planned(policy: "Policy", source: str, count: int) -> "list[Planned]":
    from itertools import islice

    from backupd.config.clock import now

    return list(islice(policy.timing(source).upcoming(now()), count))


def _next(files: "list[PolicyFile]", count: int) -> list[dict[str, Any]]:
    from backupd.config.clock import stamp

    return [
        {
            "policy": loaded.policy.policy,
            "source": source.name,
            "next": [stamp(planned.start) for planned in _planned(loaded.policy, source.name, count)],
        }
        for loaded in files
        for source in loaded.policy.sources
    ]


def _table(files: "list[PolicyFile]", count: int) -> None:
    """Policies with their next starts, with offsets; sources that start at the same times share a line."""
    from zoneinfo import ZoneInfo

    rows = []
    for loaded in files:
        schedule = loaded.policy.schedule
        zone = ZoneInfo(schedule.timezone if schedule else "UTC")
        together: dict[tuple[str, ...], list[str]] = {}
        for source in loaded.policy.sources:
            starts = tuple(_shown(p, zone) for p in _planned(loaded.policy, source.name, count))
            together.setdefault(starts, []).append(source.name)
        for starts, names in together.items():
            rows += [[loaded.policy.policy, ", ".join(names), start] for start in starts or ["no schedule"]]
    output.table(["policy", "sources", "next run"], rows)


def _shown(planned: "Planned", zone: "ZoneInfo") -> str:
    start = planned.start.astimezone(zone)
    fine = "seconds" if start.second else "minutes"
    return start.isoformat(" ", fine) + (" (after a window)" if planned.postponed else "")


@command.command("schema", epilog="Example: backupctl policy schema > policies/schema/policy-v1.json")
@verb
def show_schema(settings: Settings) -> None:
    """Print the JSON Schema of policy files, for editors and checks."""
    from backupd.policy.model import schema

    if settings.json:
        output.document("policy-schema", {"policy": schema()})
        return
    click.echo(json.dumps(schema(), indent=2))


command.add_command(plan)
