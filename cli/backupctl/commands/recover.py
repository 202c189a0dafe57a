"""`backupctl recover`: bring records of a snapshot back into a live database, and take that back."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.erased import erasures_of
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.recovering import plan_records, plan_values, say_plan, say_undo, undo_records, undo_values
from backupctl.servers import build_options, server_options
from backupctl.session import Session, opened

if TYPE_CHECKING:
    from backupd.config.urls import DatabaseUrl
    from backupd.engines.live import Live
    from backupd.jobs.erasure import Erasures
    from backupd.jobs.recover import Recovery
    from backupd.jobs.recoverroots import Wanted
    from backupd.jobs.stored import StoredTables
    from backupd.model import Reference
    from backupd.policy.model import Source
    from backupd.records.undo import UndoPlan
    from backupd.repo.repository import SnapshotView
    from backupd.wiring import ServerOptions


@dataclass(frozen=True, slots=True)
class _Asked:
    """The verb's own options."""

    table: tuple[str, ...]
    where: tuple[str, ...]
    removed_since: str | None
    no_children: bool
    on_conflict: tuple[str, ...]
    set_values: tuple[str, ...]
    reference: tuple[str, ...]
    triggers: str | None
    sql: str | None
    apply: bool
    expect: str | None
    undo: str | None
    undo_to: str | None

    @property
    def runs(self) -> bool | None:
        """Whether triggers run; None if nobody said."""
        return None if self.triggers is None else self.triggers == "on"


@click.command(epilog="Example: backupctl recover latest:crm customers:4711 --into postgresql://admin@db1/crm --apply")
@click.argument("snapshot", required=False)
@click.argument("subject", required=False)
@option("--into", required=True, metavar="URL", help="The live database, or the name of a policy's source.")
@option(
    "--table", metavar="NAME", multiple=True, help="Everything of this table that is missing; several times for more."
)
@option(
    "--where",
    metavar="T:CONDITION",
    multiple=True,
    help="Rows of a table: orders:customer_id=4711, or orders: and SQL over its columns, as in `find`.",
)
@option(
    "--removed-since", metavar="SNAPSHOT", help="Everything that was removed since: as `diff SNAPSHOT live` tells it."
)
@option("--no-children", is_flag=True, help="Only what is named (and parents that are missing), not what refers to it.")
@option(
    "--on-conflict",
    metavar="RULE",
    multiple=True,
    help="What happens to records that were changed since: fail (default), skip or overwrite, TABLE=skip,"
    " TABLE=overwrite, or TABLE.COLUMN=overwrite.",
)
@option(
    "--set",
    "set_values",
    envvar="BACKUPCTL_SET",
    metavar="T.C=VALUE",
    multiple=True,
    help="A value for a column that the snapshot does not have.",
)
@option(
    "--reference",
    metavar="TEXT",
    multiple=True,
    help='What belongs together though the database does not know: "orders(customer_id) -> customers(id)".',
)
@option("--source", metavar="NAME", help="The policy's source whose references and subject are used.")
@option("--triggers", type=click.Choice(["on", "off"]), help="Whether triggers run; to be said where there are any.")
@option(
    "--sql", metavar="FILE", help="Write the plan as a script that the engine's own client runs in one transaction."
)
@option("--apply", is_flag=True, help="Carry the plan out, in one transaction.")
@option("--expect", metavar="DIGEST", help="Only if the plan is the one that was shown with this digest.")
@option("--undo", metavar="FILE", help="Take back what an undo file tells of.")
@option(
    "--undo-to",
    metavar="FILE",
    help="Write the undo file here (default: in the state folder, for the undo_days of the repository's policy).",
)
@server_options
@verb
def command(
    settings: Settings,
    snapshot: str | None,
    subject: str | None,
    into: str,
    source: str | None,
    server: dict[str, Any],
    **values: Any,
) -> None:
    """Bring records back: SUBJECT (table:key) as SNAPSHOT has it, with everything that belongs to it.

    Without --apply or --sql the plan is shown and nothing is written. Records that are missing are inserted, references
    that were lost with them are repaired, and what was changed since is never overwritten unless --on-conflict says so.
    --apply makes the plan once more in a transaction (75 if it came out another one) and writes an undo file first, which
    `recover --undo FILE --into URL --apply` takes back. This needs the read right; an undo needs no key, unless it brings
    records back.
    """
    from backupd.errors import UsageError

    asked = _Asked(**values)
    if settings.dry_run and (asked.apply or asked.sql):
        asked = replace(asked, apply=False, sql=None)
    place = _Place.of(settings, into, source, server)
    if asked.undo is not None:
        if snapshot or subject or asked.table or asked.where or asked.removed_since or asked.sql:
            raise UsageError("--undo stands alone: it needs no snapshot and no subject")
        _take_back(settings, asked, place)
        return
    if snapshot is None or not (subject or asked.table or asked.where or asked.removed_since):
        raise UsageError(
            "say which records of which snapshot are meant",
            hint="SNAPSHOT and table:key, or --table, --where or --removed-since",
        )
    _remove_old_undo_files(settings, dry_run=not asked.apply)
    _recover(settings, snapshot, subject, asked, place)


def _remove_old_undo_files(settings: Settings, *, dry_run: bool) -> None:
    """Those whose time is over: they hold records in the clear, and there may be no daemon here that sees to it."""
    from backupd.config.clock import now
    from backupd.config.paths import state_base
    from backupd.jobs.undofiles import remove_old

    gone = remove_old(state_base(settings.state), now(), dry_run=dry_run)
    if gone:
        said = "--apply, or the daemon, removes" if dry_run else "removed"
        output.note(f"{said} {output.plural(len(gone), 'undo file')} whose time is over")


@dataclass(frozen=True, slots=True)
class _Place:
    """The live database, and what a policy says of it."""

    url: "DatabaseUrl"
    options: "ServerOptions"
    timeout: float
    source: "Source | None"

    @classmethod
    def of(cls, settings: Settings, into: str, source: str | None, server: dict[str, Any]) -> "_Place":
        """Where: a URL, a policy's source by its name, or a file of that name."""
        from backupctl.policies import password_of, source_named
        from backupd.config.policies import database_of
        from backupd.config.urls import is_url, parse_database

        options, timeout = build_options(server), server["lock_timeout"]
        hint = "name the live database with --into URL"
        known = source_named(settings, source, hint) if source else None
        if is_url(into) or Path(into).is_file():
            return cls(parse_database(into), options, timeout, known)
        named = source_named(settings, into, hint)
        options = replace(options, password=options.password or password_of(named), jobs=named.jobs)
        return cls(database_of(named), options, timeout, known or named)

    def live(self) -> "Live":
        """An open connection."""
        from backupd.wiring import open_live

        return open_live(self.url, timeout=self.timeout, options=self.options)

    def references(self, texts: Sequence[str]) -> "list[Reference]":
        """Those of the policy, and those of the command line."""
        from backupctl.policies import references_of
        from backupd.records.references import parse_reference

        return [*references_of(self.source), *map(parse_reference, texts)]

    @property
    def keyed_by(self) -> dict[str, str]:
        """By which column the policy's subject is known."""
        subject = self.source.subject if self.source else None
        return {subject.table: subject.key} if subject else {}


def _recover(settings: Settings, snapshot: str, subject: str | None, asked: _Asked, place: _Place) -> None:
    from backupd.crypto.keyring import Right
    from backupd.jobs.recover import prepare
    from backupd.jobs.recoverroots import Wanted, parse_condition
    from backupd.jobs.recoverrules import parse_rules
    from backupd.jobs.select import select_snapshot
    from backupd.jobs.storedtables import opened_tables
    from backupd.records.subject import parse_subject
    from backupd.wiring import ask_rows, open_file_database

    report = TerminalReporter(settings)
    virtual = place.references(asked.reference)
    wanted = Wanted(
        parse_subject(subject) if subject else None,
        place.keyed_by,
        asked.table,
        tuple(map(parse_condition, asked.where)),
        ask_rows=ask_rows,
    )
    with opened(settings, Right.READ) as session:
        history = session.opened.repo.history()
        view = select_snapshot(history, snapshot)
        erased = erasures_of(session.opened.repo, history, [view], None, report)
        if asked.removed_since:
            since = select_snapshot(history, asked.removed_since)
            _add_removed(
                session, since, erasures_of(session.opened.repo, history, [since], None, report), place, wanted, report
            )
        tables = opened_tables(session.opened.repo, view, open_file=open_file_database, erased=erased)
        with tables as stored, closing(place.live()) as live:
            rules = parse_rules(asked.on_conflict, asked.set_values, live.schema(), live.engine)
            recovery = prepare(stored, live, wanted, rules, report, virtual=virtual, children=not asked.no_children)
            _finish(settings, session, view, stored, live, recovery, asked, report)


def _add_removed(
    session: Session,
    since: "SnapshotView",
    erased: "Erasures | None",
    place: _Place,
    wanted: "Wanted",
    report: TerminalReporter,
) -> None:
    """Add what a comparison with the live database says was removed."""
    from backupd.jobs.comparelive import compare_with_live
    from backupd.jobs.comparison import Asked
    from backupd.records.values import Record
    from backupd.wiring import open_source, read_file_schema

    removed: dict[str, list[Record]] = {}

    def take(name: str, record: Record) -> None:
        if record.op == "removed":
            removed.setdefault(name, []).append(record)

    live = open_source(place.url, timeout=place.timeout, options=place.options)
    asked = Asked(session.opened.places.cache, None, take, erased)
    found = compare_with_live(
        session.opened.repo, since, live, asked=asked, read_schema=read_file_schema, report=report
    )
    for table in found.tables:
        if table.reason is not None:
            report.warning(f"{table.name} is left out of what was removed: {table.reason}")
    wanted.removed = removed


def _finish(
    settings: Settings,
    session: Session,
    view: "SnapshotView",
    stored: "StoredTables",
    live: "Live",
    recovery: "Recovery",
    asked: _Asked,
    report: TerminalReporter,
) -> None:
    """Show the plan, or write it as a script, or carry it out."""
    from backupd.config.clock import now
    from backupd.errors import BackupdError, SafetyRefused
    from backupd.jobs.audit import audited, snapshot_facts
    from backupd.jobs.recover import carry_out, refuse_unsafe, undo_place
    from backupd.jobs.undofiles import kept_until

    plan = recovery.plan
    values: dict[str, Any] = {"snapshot": view.id, "source": view.source, "into": live.identity, "applied": False}
    values |= {**plan_values(plan), "undo": None, "sql": None, "fetched_bytes": stored.fetched_bytes}
    facts = {**snapshot_facts(view), "engine": live.engine, "tables": len(plan.written)}
    try:
        if asked.expect is not None and asked.expect != plan.digest:
            raise SafetyRefused("the plan is not the one that was shown: nothing was written", hint="look at it again")
        if asked.sql or asked.apply:
            refuse_unsafe(plan, asked.runs)
            with audited(session.opened.repo, "recover", facts, now, report):
                if asked.sql:
                    values["sql"] = _write_script(live, recovery, asked)
                if asked.apply:
                    moment = now()
                    undo = Path(asked.undo_to) if asked.undo_to else undo_place(session.opened.places.state, moment)
                    until = kept_until(moment, session.opened.repo.trust.policy.undo_days)
                    done = carry_out(
                        recovery, live, view.id, undo.absolute(), moment, report, triggers=asked.runs, until=until
                    )
                    if not asked.undo_to:
                        values["undo_until"] = until
                    values |= {"applied": True, "undo": str(done.undo), "counters": list(done.raised)}
    except BackupdError as error:
        if settings.json:
            values["plan"] = list(plan_records(plan, stored))
        else:
            report.clear()
            say_plan(settings, plan, stored, values)
        error.values = values  # type: ignore[attr-defined]  # the JSON document shows the plan beside the error
        raise
    report.clear()
    values["warnings"] = [*report.warnings, *plan.warnings]
    if settings.json:
        output.long_document("recover", values, "plan", map(output.item, plan_records(plan, stored)))
    else:
        say_plan(settings, plan, stored, values)


def _write_script(live: "Live", recovery: "Recovery", asked: _Asked) -> str:
    from backupd.jobs.recoverscript import script_lines, write_private

    path = Path(asked.sql or "").absolute()
    plan = recovery.plan
    lines = script_lines(live, plan.changes, triggers=asked.runs is not False)
    write_private(path, (line.encode() + b"\n" for line in lines))
    return str(path)


# ---- taking back


def _take_back(settings: Settings, asked: _Asked, place: _Place) -> None:
    from backupd.config.clock import now
    from backupd.config.paths import state_base
    from backupd.errors import BackupdError
    from backupd.jobs.recover import prepare_undo, read_undo, take_back, undo_place

    report = TerminalReporter(settings)
    undo = read_undo(Path(asked.undo or ""))
    virtual = place.references(asked.reference)
    with closing(place.live()) as live:
        plan = prepare_undo(undo, live, virtual)
        values: dict[str, Any] = {"into": live.identity, "applied": False, **undo_values(plan), "undo": None}
        try:
            if asked.apply:
                _refuse_erased(settings, undo.snapshot, plan)
                moment = now()
                to = Path(asked.undo_to) if asked.undo_to else undo_place(state_base(settings.state), moment)
                with _noted(settings, undo.snapshot, live.engine, report):
                    plan, done = take_back(
                        undo, live, to.absolute(), moment, report, triggers=asked.runs, virtual=virtual, plan=plan
                    )
                values |= {**undo_values(plan), "applied": True, "undo": str(done.undo)}
        except BackupdError as error:
            values["plan"] = list(undo_records(plan))
            error.values = values  # type: ignore[attr-defined]  # the JSON document shows the plan beside the error
            raise
    report.clear()
    values["warnings"] = report.warnings
    if settings.json:
        output.long_document("recover", values, "plan", map(output.item, undo_records(plan)))
    else:
        say_undo(settings, plan, values)


def _refuse_erased(settings: Settings, snapshot: str, plan: "UndoPlan") -> None:
    """What is taken back may itself bring records back: nobody who was erased meanwhile may be among them.

    Raises:
        UsageError: the ledger cannot be asked, because no repository or key is named.
        SafetyRefused: somebody who was erased would come back.
    """
    from backupd.crypto.keyring import Right
    from backupd.errors import SafetyRefused, UsageError
    from backupd.jobs.erasure import read_ledger, tells_of_erased

    if not any(change.kind == "insert" for change in plan.changes):
        return
    if not settings.repository or not settings.key:
        raise UsageError(
            "taking this back brings records back, and nobody who was erased may be among them",
            hint="name the repository and read.key, so that the erasure ledger can be asked",
        )
    with opened(settings, Right.READ) as session:
        history = session.opened.repo.history()
        erasures = read_ledger(session.opened.repo, history).of_snapshot_id(snapshot, history.views)
    if erasures is not None and any(tells_of_erased(erasures, change) for change in plan.changes):
        raise SafetyRefused(
            "records of somebody who was erased would come back: nothing was written",
            hint="delete the undo file: it holds what must not come back",
        )


@contextmanager
def _noted(settings: Settings, snapshot: str, engine: str, report: TerminalReporter) -> Iterator[None]:
    """Leave a note in the repository, if one is named and a key of it: an undo must work without both."""
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.audit import audited

    if not settings.repository or not settings.key:
        with nullcontext():
            yield
        return
    with opened(settings, Right.LIST) as session:
        facts = {"snapshot": snapshot, "engine": engine, "undo": True}
        with audited(session.opened.repo, "recover", facts, now, report):
            yield
