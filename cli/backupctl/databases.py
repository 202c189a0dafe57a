"""A policy's source that stands for all databases of a server, as one source for each of them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backupctl.options import Settings
from backupctl.output import note
from backupctl.session import opened
from backupd.errors import BackupdError, UsageError

if TYPE_CHECKING:
    from backupd.policy.model import Source

Planned = tuple["Source", BackupdError | None]
"""A source, and why no snapshot of it can be taken."""


def planned_sources(
    settings: Settings, sources: "list[Source]", name: str | None, server: dict[str, Any]
) -> list[Planned]:
    """The sources to take snapshots of; a server that cannot be listed stands for itself, with its error.

    Args:
        sources: of the policy, as far as they are meant.
        name: of a source or of one database, NAME.DATABASE, if only that is wanted.

    Raises:
        UsageError: the server has no database of that name.
    """
    found: list[Planned] = []
    for source in sources:
        if not source.all_databases:
            found.append((source, None))
            continue
        try:
            mine = _of_server(settings, source, server)
        except BackupdError as error:
            found.append((source, error))
            continue
        if name not in {None, source.name}:
            mine = [one for one in mine if one[0].name == name]
            if not mine:
                raise UsageError(f"the server of {source.name} has no database for {name!r}", object_name=name)
        found += mine
    return found


def _of_server(settings: Settings, source: "Source", server: dict[str, Any]) -> list[Planned]:
    from backupctl.policies import password_of
    from backupctl.servers import build_options
    from backupd.config.policies import database_of
    from backupd.errors import Failed
    from backupd.jobs.databases import as_sources
    from backupd.wiring import list_databases

    url = database_of(source)
    options = replace(build_options(server), password=password_of(source))
    listing = list_databases(url, options, timeout=server["lock_timeout"])
    for warning in listing.warnings:
        note(f"warning: {source.name}: {warning}")
    _tell_gone(settings, source.name, [one.name for one in listing.databases])
    if not listing.databases:
        raise Failed(f"the server of {source.name} has no database", object_name=source.name)
    return [
        (source.model_copy(update={"name": one.name, "url": str(replace(url, database=one.database))}), one.error)
        for one in as_sources(source.name, listing)
    ]


def _tell_gone(settings: Settings, server: str, names: list[str]) -> None:
    """Say once which databases are not there any more."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.databases import gone_since

    with opened(settings, Right.WRITE) as session:
        key, folder = session.opened.repo.keyring.need(Right.WRITE), session.opened.places.state
    try:
        gone = gone_since(folder, key, server, names, keep=not settings.dry_run)
    except OSError as error:
        note(f"warning: what databases {server} has could not be remembered: {error.strerror}")
        return
    for name in gone:
        note(
            f"warning: database {name!r} of {server} is gone since the last run; retention goes on keeping its snapshots"
        )
