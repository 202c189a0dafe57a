"""`backupctl repo`: the storage and the repository in it."""

from typing import Any

import click

from backupctl import output
from backupctl.options import Settings, global_options, settings_of, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened, repository_url
from backupctl.verbs import VerbGroup


class _RepoVerbs(VerbGroup):
    planned = dict.fromkeys(("copy",), frozenset[str]())


@click.group(cls=_RepoVerbs, epilog="Example: backupctl repo probe --repository s3://bucket/prefix")
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Try the storage, count what is in it, and rebuild the local index."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command("probe", epilog="Example: backupctl repo probe --repository s3://bucket/prefix?region=eu-central-1")
@verb
def probe_store(settings: Settings) -> None:
    """Find out by trying what the storage really honours, and what follows from it. Needs no key."""
    from backupd.config.clock import now
    from backupd.errors import Failed
    from backupd.store.probe import probe
    from backupd.wiring import open_store

    store = open_store(repository_url(settings), **settings.limits)
    try:
        found = probe(store, now=now())
    finally:
        store.close()
    error = None
    if found.level == "C":
        bad = next((fact.follows for fact in found.facts if not fact.honoured), None)
        error = Failed(f"{found.url} cannot hold a repository as it is", object_name=found.url, hint=bad)
        error.values = found.as_json()  # type: ignore[attr-defined]  # the JSON document shows them beside the error
    if settings.json:
        if error is not None:
            raise error
        output.document("repo-probe", found.as_json())
        return
    output.say(f"{found.url}: level {found.level}")
    output.table(
        ["what", "honoured", "what follows"],
        [[f.name, "yes" if f.honoured else "NO", f.follows] for f in found.facts],
    )
    if error is not None:
        raise error


@command.command("stats", epilog="Example: backupctl repo stats --repository /backup/app --key keys/check.key")
@verb
def stats(settings: Settings) -> None:
    """Count snapshots, packs and bytes, and what deduplication saved."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.stats import repository_stats

    report = TerminalReporter(settings)
    with opened(settings, Right.CHECK) as session:
        values = repository_stats(session.opened.repo, session.opened.places)
        for problem in values.problems:
            report.problem(problem)
    if settings.json:
        output.document("repo-stats", values.as_json())
        return
    output.table(
        ["source", "snapshots", "newest (UTC)", "size of newest", "stored by its run"],
        [
            [
                s.name,
                output.count(s.snapshots),
                s.newest.rstrip("Z").replace("T", " "),
                output.size(s.read),
                output.size(s.stored),
            ]
            for s in values.sources
        ],
        right=[1, 3, 4],
    )
    output.say("")
    for kind, (number, size) in sorted(values.objects.items()):
        output.say(f"{kind:<10} {output.count(number):>9} objects  {output.size(size):>9}")
    saved = values.read_bytes / values.stored_bytes if values.stored_bytes else 0
    output.say(
        f"{'all':<10} {output.size(values.read_bytes)} of snapshots in {output.size(values.stored_bytes)} ({saved:.1f} : 1)"
    )
    output.say(f"{'here':<10} {output.size(values.cache_bytes)} of caches in {values.cache}")
    output.say(f"{'':<10} {output.size(values.version_cache_bytes)} of versions, on which deltas lean (may be deleted)")


@command.command(
    "rebuild-index", epilog="Example: backupctl repo rebuild-index --repository /backup/app --key keys/write.key"
)
@verb
def rebuild_index(settings: Settings) -> None:
    """Throw the local index away and make it anew from the storage."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.backup import index_path, open_index
    from backupd.repo.localindex import LocalIndex

    report = TerminalReporter(settings)
    with opened(settings, Right.WRITE) as session:
        repo, places = session.opened.repo, session.opened.places
        key = repo.keyring.need(Right.WRITE)
        if not settings.dry_run:
            LocalIndex.throw_away(index_path(places, key))
            index = open_index(repo, key, places, report)
            count = index.count()
            index.close()
    if settings.dry_run:
        if settings.json:
            index_file = str(index_path(places, key))
            output.document("repo-rebuild-index", {"chunks": None, "index": index_file, "dry_run": True})
        else:
            output.note("would make the local index anew")
        return
    if settings.json:
        output.document("repo-rebuild-index", {"chunks": count, "warnings": [p.detail for p in report.problems]})
        return
    output.say(f"the local index holds {output.plural(count, 'chunk')}")
