"""`backupctl erase`: the erasure ledger, which hides the rows of people who were erased from everything that reads snapshots."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.options import Settings, global_options, option, said, settings_of, verb
from backupctl.policies import references_of, source_if_known
from backupctl.progress import TerminalReporter
from backupctl.servers import build_options, server_options
from backupctl.session import opened
from backupctl.statements import write_new
from backupctl.verbs import VerbGroup

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from backupd.engines.live import Live
    from backupd.jobs.erasing import Found
    from backupd.jobs.erasurereport import Kept, Told
    from backupd.jobs.stored import StoredTables
    from backupd.model import LiveSchema, Reference
    from backupd.repo.repository import Repository, SnapshotView

_EXAMPLE = "Example: backupctl erase add customers:4711 --source crm --reason 'request 17 of May' --key keys/read.key"


@click.group(cls=VerbGroup, epilog=_EXAMPLE)
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Hide the rows of people who were erased from all that reads snapshots; tell when they are gone."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command("add", epilog=_EXAMPLE)
@click.argument("subject")
@option(
    "--source", metavar="NAME", help="Whose snapshots, as `backupctl snapshots` writes it; not needed if there is one."
)
@option("--reason", required=True, callback=said, help="Why; recorded and signed. Write no name and no key into it.")
@option(
    "--reference",
    metavar="TEXT",
    multiple=True,
    help="What belongs to what: 'orders(customer_id) -> customers(id)', with 'on delete set null' behind it if such rows"
    " stay. SQLite files, and --from, say it themselves.",
)
@option(
    "--from",
    "live",
    metavar="URL",
    help="The live database: it says what refers to what, and whether it has the row yet.",
)
@option("--only-subject", is_flag=True, help="Only the subject's own row, and nothing that refers to it.")
@server_options
@verb
def add(
    settings: Settings,
    subject: str,
    source: str | None,
    reason: str,
    reference: tuple[str, ...],
    live: str | None,
    only_subject: bool,
    server: dict[str, Any],
) -> None:
    """Add SUBJECT (table:key, such as customers:4711; several columns table:a,b) to the ledger.

    Looks through every snapshot of the source for the row and for everything that belongs to it, and keeps keyed hashes of
    what it found: no key and no value. This cannot be undone. Delete the rows from the live database first: what is captured
    afterwards is hidden only as far as it was known now. A read or recovery key may.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.erasing import add_erasure, erasure_from, is_live, look_for, records_hash
    from backupd.jobs.erasure import read_ledger
    from backupd.records.references import parse_reference
    from backupd.records.subject import parse_subject

    wanted, given = parse_subject(subject), [parse_reference(text) for text in reference]
    report = TerminalReporter(settings)
    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        history = repo.history()
        read_ledger(repo, history)
        views = _views(history.views, source)
        for problem in history.problems:
            report.warning(f"{problem.object} is {problem.kind}: add this erasure again once it can be read")
        given += references_of(source_if_known(settings, views[-1].source))
        database = _live(live, server)
        looking = _Snapshots(repo, given, database.schema() if database else None, only_subject)
        try:
            found = look_for(views, wanted, looking.tables, looking.schema, records_hash(repo)[0], report, database)
            _warn(report, database is not None and is_live(database, wanted, found), found.snapshots[-1] is views[-1])
        finally:
            looking.close()
            if database is not None:
                database.close()
        erasure = erasure_from(repo, found, wanted, reason, now())
        records = [] if settings.dry_run else add_erasure(repo, erasure)
        if records:
            read_ledger(repo, repo.history())
    report.clear()
    _tell_added(settings, erasure.id, found, records, report.warnings)


@command.command("list", epilog="Example: backupctl erase list --key keys/read.key")
@verb
def show(settings: Settings) -> None:
    """List what was erased: when, why, how many rows, and when they are gone from everything that is stored."""
    told, _ = _told(settings, None)
    if settings.json:
        output.document("erase-list", {"erasures": [one.values() for one in told]})
        return
    if not told:
        output.note("nothing was erased")
        return
    rows = [
        [
            one.id[:12],
            f"{one.writer}/{one.source}",
            one.created[:19].replace("T", " "),
            one.table or "-",
            output.count(one.rows),
            len(one.left),
            one.says,
            one.reason,
        ]
        for one in told
    ]
    output.table(["id", "source", "since (UTC)", "table", "rows", "snapshots", "gone", "reason"], rows, right=[4, 5])


@command.command(
    "report", epilog="Example: backupctl erase report --policy crm --out erasures.html --key keys/read.key"
)
@click.argument("erasure", required=False)
@option(
    "--policy", metavar="NAME", help="The policy by which the source is pruned: it says how long snapshots are kept."
)
@option("--out", metavar="FILE", help="Write the signed report: HTML if FILE ends in .html, otherwise JSON.")
@verb
def report(settings: Settings, erasure: str | None, policy: str | None, out: str | None) -> None:
    """Report on one erasure (by its id, or the beginning of it) or all: what is hidden, and by when it is gone.

    The report is signed by the key at hand. It holds no record, key or name of a person, unless a reason does.
    """
    from backupd.errors import UsageError

    told, signed = _told(settings, _kept(settings, policy), erasure)
    if erasure is not None and len(told) != 1:
        raise UsageError(
            f"{erasure!r} is the beginning of {len(told)} erasures", hint="`backupctl erase list --json` has their ids"
        )
    if out and not settings.dry_run:
        _write(Path(out).absolute(), signed)
    if settings.json:
        place = str(Path(out).absolute()) if out else None
        output.document("erase-report", {"erasures": [one.values() for one in told], "report": signed, "out": place})
        return
    for one in told:
        output.say(f"{one.id[:12]}  {one.writer}/{one.source}  {one.reason}")
        output.say(
            f"  {output.plural(one.rows, 'row')} hidden since {one.created}; {output.plural(len(one.left), 'snapshot')} with them"
        )
        output.say(f"  gone: {one.says}")
        if not one.complete:
            output.note("  warning: parts of this erasure were never written: add it again")
    if not told:
        output.note("nothing was erased")
    if out:
        output.say(f"{'would write' if settings.dry_run else 'wrote'} {Path(out).absolute()}")


def _live(url: str | None, server: dict[str, Any]) -> "Live | None":
    """The live database, if one was named."""
    from backupd.config.urls import parse_database
    from backupd.wiring import open_live

    if url is None:
        return None
    return open_live(parse_database(url), timeout=server["lock_timeout"], options=build_options(server))


def _warn(report: TerminalReporter, live: bool, newest: bool) -> None:
    """Say where the record still is, and will come from again."""
    again = "and add it again if a later snapshot has rows that belong to it"
    if live:
        report.warning(f"the live database still has this record: delete it there, {again}")
    elif newest:
        report.warning(f"the newest snapshot still has this record: see that the live database has deleted it, {again}")


class _Snapshots:
    """Opens snapshots one after the other, and says what refers to what in each."""

    def __init__(self, repo: "Repository", given: "list[Reference]", live: "LiveSchema | None", alone: bool) -> None:
        from backupd.jobs.compare import FETCHERS
        from backupd.jobs.pagefile import Groups
        from backupd.repo.reading import PackCache

        self._kept = Groups()
        self._repo, self._given, self._live, self._alone = repo, given, live, alone
        self._cache = PackCache(repo, sparse=True, fetchers=FETCHERS)

    def tables(self, view: "SnapshotView") -> "AbstractContextManager[StoredTables]":
        """The tables of a snapshot, with the rows that are hidden already."""
        from backupd.jobs.storedtables import opened_tables
        from backupd.wiring import open_file_database

        return opened_tables(self._repo, view, open_file=open_file_database, erased=None, kept=self._kept)

    def schema(self, view: "SnapshotView") -> "LiveSchema":
        """What refers to what, and which values of a column are one.

        Raises:
            UsageError: nobody says so.
        """
        from dataclasses import replace

        from backupd.errors import UsageError
        from backupd.jobs.compare import StoredSide
        from backupd.model import LiveSchema
        from backupd.wiring import read_file_relations

        side = StoredSide(self._repo, view, self._cache)
        is_file = side.content["engine"] == "sqlite"
        found = read_file_relations(side.file(self._kept)) if is_file else self._live or LiveSchema({}, ())
        if self._alone:
            return replace(found, references=())
        if not is_file and not found.references and not self._given:
            raise UsageError(
                f"a snapshot of {side.content['engine']} does not say what refers to what",
                hint="name the live database with --from URL, or each with --reference 'orders(customer_id) -> customers(id)';"
                " or --only-subject",
            )
        others = self._live.references if is_file and self._live else ()
        return replace(found, references=tuple(dict.fromkeys((*found.references, *others, *self._given))))

    def close(self) -> None:
        """Give back what was fetched."""
        self._cache.close()


def _views(views: "list[SnapshotView]", name: str | None) -> "list[SnapshotView]":
    """The snapshots of the source, oldest first.

    Raises:
        UsageError: there is none of that name, or there are several sources and none was named.
    """
    from backupd.errors import UsageError
    from backupd.jobs.select import of_source, source_names

    names = sorted(set(source_names(views).values()))
    if name is None and len(names) > 1:
        raise UsageError("there are several sources", hint=f"name one with --source: {', '.join(names)}")
    found = of_source(views, name) if name else list(views)
    if not found:
        raise UsageError(f"there is no snapshot of a source {name!r}", hint=f"there are: {', '.join(names)}")
    if len({view.object.writer for view in found}) > 1:
        raise UsageError("two writers have a source of this name", hint="write it WRITER/SOURCE")
    return found


def _tell_added(settings: Settings, erasure: str, found: "Found", records: list[str], warnings: list[str]) -> None:
    if settings.json:
        values = {
            "id": erasure,
            "snapshots": [view.id for view in found.snapshots],
            "looked_through": found.looked,
            "tables": [{"name": name, "rows": rows} for name, rows in sorted(found.counts.items())],
            "records": records,
            "dry_run": settings.dry_run,
            "warnings": warnings,
        }
        output.document("erase-add", values)
        return
    output.table(["table", "rows"], [[n, output.count(r)] for n, r in sorted(found.counts.items())], right=[1])
    held = f"found in {len(found.snapshots)} of {output.plural(found.looked, 'snapshot')}"
    would = "would hide them" if settings.dry_run else f"hidden from now on, as {erasure[:12]}"
    output.say(f"{held}; {would}")
    if not settings.dry_run:
        output.note("`backupctl erase report` tells when they are gone from everything that is stored")


def _kept(settings: Settings, policy: str | None) -> "Kept | None":
    """How long a policy keeps snapshots."""
    from datetime import timedelta

    from backupctl.policies import find_policy
    from backupd.jobs.erasurereport import Kept

    if policy is None:
        return None
    found = find_policy(settings, policy).policy
    if found.retention is None:
        return Kept()
    every = found.schedule.every if found.schedule else None
    longest = found.retention.keep.longest(every or timedelta(days=1))
    lock = timedelta(days=found.retention.lock.days if found.retention.lock else 0)
    return Kept(None if longest is None else max(longest, found.retention.min_age), lock)


def _told(settings: Settings, kept: "Kept | None", chosen: str | None = None) -> "tuple[list[Told], dict[str, Any]]":
    """What the ledger says, and the same signed."""
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.erasure import ROLES, read_ledger
    from backupd.jobs.erasurereport import Kept, report_document, tell
    from backupd.repo.statements import sign_statement

    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        history = repo.history()
        told = tell(repo, history, read_ledger(repo, history), kept or Kept(), now())
        told = [one for one in told if chosen is None or one.id.startswith(chosen.lower())]
        signer = repo.keyring.signer(sorted(ROLES))
        assert signer is not None
        return told, sign_statement(report_document(told, now()), [signer], repository=repo.id)


def _write(path: Path, signed: dict[str, Any]) -> None:
    """Write the report; an existing file is not touched.

    Raises:
        SafetyRefused, Failed: see `write_new`.
    """
    from backupd.jobs.erasurereport import report_html

    data = json.dumps(signed, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    write_new(path, report_html(signed, data) if path.suffix.lower() in {".html", ".htm"} else data)
