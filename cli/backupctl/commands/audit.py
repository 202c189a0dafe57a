"""`backupctl audit`: who did what, and is that history whole?"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.moments import moment
from backupctl.options import Settings, global_options, option, settings_of, verb
from backupctl.session import opened
from backupctl.verbs import VerbGroup

if TYPE_CHECKING:
    from backupd.catalog.opening import Catalog
    from backupd.jobs.audit import Entry


@click.group(cls=VerbGroup, epilog="Example: backupctl audit show --since 2026-11-01 --key keys/check.key")
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Show who did what with a repository, and check that history."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


_catalog_option = option(
    "--catalog", metavar="URL", help="The daemon's catalog (default: catalog.sqlite in --state, if it is there)."
)


@contextmanager
def _local(settings: Settings, url: str | None) -> "Iterator[Catalog | None]":
    """The catalog of this machine's daemon; None if there is none: asking for its history makes none."""
    from backupd.config.paths import state_base
    from backupd.wiring import open_catalog

    base = state_base(settings.state)
    if url is None and not (base / "catalog.sqlite").exists():
        yield None
        return
    with open_catalog(base, url) as found:
        yield found


@command.command("show", epilog="Example: backupctl audit show --since 2026-11-01 --source crm --key keys/check.key")
@option("--since", metavar="TIME", callback=moment, help="Only what was done since then.")
@option("--source", metavar="NAME", help="Only what was done with this source, as far as that can still be told.")
@option("--limit", type=click.IntRange(1), help="Only the newest so many.")
@_catalog_option
@verb
def show(
    settings: Settings, since: datetime | None, source: str | None, limit: int | None, catalog: str | None
) -> None:
    """List what was done, the newest last: snapshots, restores, exports, holds, prunes, verdicts, changes of trust.

    What the daemon of this machine did stands among it, if there is one: runs that failed, policies taken.

    Most of it is sealed: a check key opens all, a write key its own snapshots; what stays shut is counted. Times are what those
    who did it said. Programs that leave no notes leave none here.
    """
    from backupd.crypto.keyring import Right
    from backupd.jobs.audit import chosen, merge, of_catalog, read_audit

    with opened(settings, Right.LIST) as session:
        audit = read_audit(session.opened.repo)
    with _local(settings, catalog) as local:
        entries = merge(audit.entries, of_catalog(local.audit) if local else ())
    entries = chosen(entries, since=since, source=source, limit=limit)
    problems = [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in audit.problems]
    if settings.json:
        listed = [_values(entry) for entry in entries]
        output.document("audit-show", {"entries": listed, "hidden": audit.hidden, "problems": problems})
        return
    if entries:
        _table(entries)
    else:
        output.note("nothing was done" + (" that this shows" if since or source else ""))
    if audit.hidden:
        output.note(f"{audit.hidden} more not shown: the key at hand does not open them (a check key does)")
    for problem in audit.problems:
        output.note(f"warning: {problem.object}: {problem.detail}")


def _values(entry: "Entry") -> dict[str, Any]:
    return {
        "at": entry.at,
        "who": entry.who,
        "role": entry.role,
        "action": entry.action,
        "object": entry.object or None,
        "detail": entry.detail,
        "record": entry.record or None,
        "source": entry.source,
    }


def _table(entries: "list[Entry]") -> None:
    output.table(
        ["at (UTC)", "who", "role", "did", "to", "detail"],
        [
            [e.at[:19].replace("T", " ").rstrip("Z"), e.who, e.role, e.action, e.object[:12] or "-", e.detail]
            for e in entries
        ],
    )


@command.command("verify", epilog="Example: backupctl audit verify --key keys/check.key")
@_catalog_option
@verb
def verify(settings: Settings, catalog: str | None) -> None:
    """Recompute the chains: records of each role, snapshots of each writer, versions of trust, and the daemon's own history.

    What is missing, damaged or does not follow what stands before it is named, and the exit code is 4.
    """
    from backupd.crypto.keyring import Right
    from backupd.errors import IntegrityError
    from backupd.jobs.auditcheck import check_audit
    from backupd.report import Problem

    with opened(settings, Right.CHECK, fresh=True) as session:
        found = check_audit(session.opened.repo)
    with _local(settings, catalog) as local:
        if local is not None and (broken := local.audit.verify()) is not None:
            found.problems.append(Problem(f"catalog entry {broken.n}", "chain", broken.reason))
        entries = head.n if local is not None and (head := local.audit.head()) else 0
    values = {
        "checked": {
            "records": found.records,
            "snapshots": found.snapshots,
            "writers": found.writers,
            "trust": found.trust,
            "catalog": entries,
        },
        "problems": [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in found.problems],
    }
    if found.problems:
        first = found.problems[0]
        error = IntegrityError(
            f"{output.plural(len(found.problems), 'break')} in the history, the first: {first.object}: {first.detail}",
            object_name=first.object,
            hint="keep the storage as it is, and find out who could write to it since it was last whole",
        )
        error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
        raise error
    if settings.json:
        output.document("audit-verify", values)
        return
    output.say(
        f"the history is whole: {output.plural(found.records, 'record')}, {output.plural(found.snapshots, 'snapshot')} of "
        f"{output.plural(found.writers, 'writer')}, {output.plural(found.trust, 'version')} of trust"
        + (f", {output.plural(entries, 'event')} of the daemon" if entries else "")
    )
