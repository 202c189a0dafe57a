"""Bring records of a snapshot back into a live database, and take that back again.

A plan is made without writing anything. Carrying it out is one transaction: the plan is made once more from rows that are
locked, and must come out the same; the undo file is on the disk before the first change; foreign keys are checked at the end.
Whatever fails leaves the database as it was. Must never overwrite what is newer unless somebody said so by name.
"""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from backupd.config.clock import stamp
from backupd.engines.live import Live
from backupd.errors import SafetyRefused, TryAgain, UsageError
from backupd.jobs.computed import ComputedTable, with_computed
from backupd.jobs.recoverroots import Wanted, find_roots
from backupd.jobs.recoverscript import replace_private, write_private
from backupd.jobs.stored import StoredTables
from backupd.jobs.undofiles import FOLDER, kept_as_long
from backupd.model import Cells, Change, LiveSchema, Reference
from backupd.records.closure import Rows, Table, down
from backupd.records.judging import make_plan
from backupd.records.leading import Leading
from backupd.records.parents import without_parent
from backupd.records.plan import Plan, Rules
from backupd.records.undo import Undo, UndoPlan, make_undo_plan, parse_undo, undo_lines
from backupd.records.written import Written
from backupd.report import Reporter

_SHOWN = 5


@dataclass(slots=True)
class Recovery:
    """What was asked for, as far as it does not depend on the live rows: the plan can be made from it again.

    Attributes:
        rows: the records that are asked for, and what belongs to them.
        leading: how values are compared along references.
        references: the database's own and those that somebody says there are.
        plan: as it came out first.
    """

    tables: Mapping[str, Table]
    schema: LiveSchema
    references: tuple[Reference, ...]
    rows: Rows
    rules: Rules = field(repr=False)
    leading: Leading = field(repr=False)
    plan: Plan


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done: where the undo file is, and which counters were raised."""

    undo: Path
    raised: tuple[str, ...] = ()


def prepare(
    stored: StoredTables,
    live: Live,
    wanted: Wanted,
    rules: Rules,
    report: Reporter,
    *,
    virtual: Sequence[Reference] = (),
    children: bool = True,
) -> Recovery:
    """Find what belongs together, and make the plan; nothing is written.

    Args:
        stored: the snapshot's tables.
        live: the database that records are brought back into.
        wanted: the records that are meant.
        rules: what happens to conflicts.
        report: progress.
        virtual: references that the database does not know.
        children: whether what refers to the records comes with them.

    Raises:
        SafetyRefused: the two are of different engines.
        UsageError: something is named that is not there.
        Failed: there is no such record, or there are too many.
    """
    if stored.engine != live.engine:
        raise SafetyRefused(
            f"the snapshot is of a {stored.engine} database and the live one is {live.engine}",
            hint="records go back into a database of their own kind",
        )
    schema = live.schema()
    _check_names(rules, schema, stored)
    references = (*schema.references, *_checked(virtual, schema))
    # what was computed of the stored columns stands in no snapshot, and references may lead by it
    found = with_computed(stored.tables, live.across, schema, references)
    tables = {n: Table.of(n, t, schema.tables[n]) for n, t in found.items() if n in schema.tables}
    roots = {
        name: list(table.widened(rows)) if isinstance(table := found[name], ComputedTable) else rows
        for name, rows in find_roots(stored, tables, live, wanted, report).items()
    }
    told = _progress(report)
    report.phase("following references")
    leading = _leading(live, schema)
    rows = down(tables, references, roots, leading, children=children, told=told)
    report.phase("comparing with the live database")
    plan = make_plan(rows, schema, references, live, rules, leading, told)
    return Recovery(tables, schema, references, rows, rules, leading, plan)


def _leading(live: Live, schema: LiveSchema) -> Leading:
    return Leading.of(schema, live.alike, wide=live.engine == "sqlite", across=live.across)


def _progress(report: Reporter) -> Callable[[str, Collection[Cells]], None]:
    def told(_table: str, rows: Collection[Cells]) -> None:
        report.advance(sum(len(cell) if isinstance(cell, str | bytes) else 8 for row in rows for cell in row))

    return told


def _check_names(rules: Rules, schema: LiveSchema, stored: StoredTables) -> None:
    named = [*((table, None) for table in rules.tables), *rules.columns, *rules.values]
    for table, column in named:
        known = schema.tables.get(table)
        if known is None or (column is not None and column not in {c.name for c in known.columns}):
            what = table if column is None or known is None else f"{table}.{column}"
            raise UsageError(f"the live database has no {what}", object_name=what)
    for table, column in rules.values:
        if table in stored.tables and column in dict(stored.tables[table].columns):
            raise UsageError(f"the snapshot has values of {table}.{column} itself", object_name=f"{table}.{column}")


def _checked(virtual: Sequence[Reference], schema: LiveSchema) -> list[Reference]:
    """References that somebody says there are, without those that the database knows.

    Raises:
        UsageError: a table or a column is not there.
    """
    known = {(r.table, r.columns, r.parent, r.parent_columns) for r in schema.references}
    for reference in virtual:
        for table, columns in ((reference.table, reference.columns), (reference.parent, reference.parent_columns)):
            there = {c.name for c in schema.tables[table].columns} if table in schema.tables else set()
            if missing := [column for column in columns if column not in there]:
                what = f"{table}.{missing[0]}" if there else f"table {table}"
                raise UsageError(f"the reference {reference.name} is none: there is no {what}", object_name=table)
    return [r for r in virtual if (r.table, r.columns, r.parent, r.parent_columns) not in known]


# ---- carrying out


def refuse_unsafe(plan: Plan, triggers: bool | None) -> None:
    """Refuse a plan that must not be carried out as it stands.

    Raises:
        SafetyRefused: it has conflicts, lacks a column's value, or nobody said whether triggers run.
    """
    if plan.obstacles:
        raise SafetyRefused("; ".join(plan.obstacles[:_SHOWN]), hint="give it with --set TABLE.COLUMN=VALUE")
    if count := plan.counts["conflict"]:
        tables = sorted({entry.table for entry in plan.entries if entry.op == "conflict"})
        raise SafetyRefused(
            f"{count:,} {'record is' if count == 1 else 'records are'} in conflict in {', '.join(tables[:_SHOWN])}:"
            " nothing was written",
            hint="look at the plan, then decide with --on-conflict TABLE=skip or TABLE=overwrite",
        )
    _refuse_triggers(plan.triggers, triggers)


def _refuse_triggers(found: Mapping[str, Sequence[str]], triggers: bool | None) -> None:
    if found and triggers is None:
        names = ", ".join(f"{name} on {table}" for table, some in sorted(found.items()) for name in some)
        raise SafetyRefused(
            f"tables that are written have triggers: {names}",
            hint="say whether they run with --triggers on or --triggers off",
        )


def carry_out(
    recovery: Recovery,
    live: Live,
    snapshot: str,
    undo: Path,
    now: datetime,
    report: Reporter,
    *,
    triggers: bool | None,
    until: str = "",
) -> Applied:
    """Carry a plan out.

    Args:
        recovery: from `prepare`.
        live: the same database.
        snapshot: the snapshot's id.
        undo: where the undo file goes; it must not be there.
        now: the time.
        report: progress.
        triggers: whether they run; None where there are none.
        until: until when the undo file is kept.

    Raises:
        SafetyRefused: it must not be carried out, or broke what belongs together.
        TryAgain: the database has changed since the plan was made, or is locked.
        Failed: the database refused. Whatever is raised, nothing was changed.
    """
    plan = recovery.plan
    refuse_unsafe(plan, triggers)
    report.phase("locking and comparing once more")

    def again() -> Sequence[Change]:
        if live.schema() != recovery.schema:
            raise _stale()
        known = recovery.rows, recovery.schema, recovery.references
        return make_plan(*known, live, recovery.rules, recovery.leading).changes

    kept = Undo(live.engine, live.identity, stamp(now), snapshot, triggers, tuple(plan.changes), until=until)
    return _carry_out(live, plan.changes, again, kept, undo, report)


def _stale() -> TryAgain:
    return TryAgain(
        "the database has changed since the plan was made: nothing was written",
        hint="run again; the plan is made anew",
    )


def _carry_out(
    live: Live,
    carried: Sequence[Change],
    again: Callable[[], Sequence[Change]],
    told: Undo,
    undo: Path,
    report: Reporter,
) -> Applied:
    changes, triggers = told.changes, told.triggers
    written = sorted({change.table for change in changes})
    # A PostgreSQL that keeps triggers from running checks no foreign key of any kind: only then are all rows looked at.
    unchecked = live.engine == "postgresql" and triggers is False
    ready = False
    try:
        deletes = any(change.kind == "delete" for change in changes)
        with live.transaction(triggers=triggers is not False, deletes=deletes):
            if tuple(again()) != changes:
                raise _stale()
            schema = live.schema()
            before = set(live.orphans(written)) if unchecked else set()
            work = Written(changes, schema, live, triggers=triggers is not False)
            kept = replace(told, standing=work.standing)
            write_private(undo, undo_lines(kept))
            ready = True
            report.phase("writing")
            live.apply(carried)
            raised = live.raise_counters(written)
            report.phase("checking foreign keys")
            broken = (
                live.orphans(written) if unchecked else without_parent(changes, schema, live, _leading(live, schema))
            )
            if new := [name for name in broken if name not in before]:
                raise SafetyRefused(
                    f"rows would break {', '.join(new[:_SHOWN])}: nothing was written",
                    hint="the parents that they refer to are not in the snapshot",
                )
            if (after := work.told(live)) is not None:
                replace_private(undo, undo_lines(replace(kept, changes=after[0], standing=after[1])))
            ready = False  # from here on the end of the transaction decides, and the file has to stay
    except BaseException:
        if ready:
            with suppress(OSError):
                undo.unlink()
        raise
    for name in broken:
        report.warning(f"rows broke {name} before, and still do")
    return Applied(undo, tuple(raised))


def undo_place(state: Path, now: datetime) -> Path:
    """A new file for an undo in the state folder."""
    return state / FOLDER / f"{now.strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(4)}.jsonl"


# ---- taking back


def read_undo(path: Path) -> Undo:
    """Read an undo file.

    Raises:
        UsageError: it cannot be read.
        IntegrityError: it is cut or damaged.
    """
    try:
        with path.open("rb") as file:
            return parse_undo(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", object_name=str(path)) from None


def prepare_undo(undo: Undo, live: Live, virtual: Sequence[Reference] = ()) -> UndoPlan:
    """See what of an undo file can be taken back; nothing is written.

    Raises:
        SafetyRefused: it is of another database.
        IntegrityError: it names tables or columns that are not there.
    """
    if (undo.engine, undo.identity) != (live.engine, live.identity):
        raise SafetyRefused(
            f"the undo file is of {undo.identity}, and this is {live.identity}", hint="name that one with --into"
        )
    schema = live.schema()
    references = (*schema.references, *_checked(virtual, schema))
    return make_undo_plan(undo, schema, references, live, _leading(live, schema))


def take_back(
    undo: Undo,
    live: Live,
    place: Path,
    now: datetime,
    report: Reporter,
    *,
    triggers: bool | None,
    virtual: Sequence[Reference] = (),
    plan: UndoPlan | None = None,
) -> tuple[UndoPlan, Applied]:
    """Take a recovery back, in one transaction with an undo file of its own; `plan` is what was planned before, if it was.

    Raises:
        SafetyRefused: rows were changed since, or nobody said whether triggers run.
        TryAgain, Failed: as of `carry_out`.
    """
    plan = plan or prepare_undo(undo, live, virtual)
    if count := plan.counts["conflict"]:
        raise SafetyRefused(
            f"{count:,} of the rows were changed since by somebody else: nothing was written",
            hint="look at the plan without --apply, and undo by hand what may be",
        )
    _refuse_triggers(plan.triggers, triggers)

    def again() -> Sequence[Change]:
        found = prepare_undo(undo, live, virtual)
        if found.counts["conflict"]:
            raise _stale()
        return found.changes

    # A PostgreSQL that keeps triggers from running cascades nothing, either.
    carried = plan.changes if live.engine == "postgresql" and triggers is False else plan.carried
    until = kept_as_long(undo, now)
    told = Undo(live.engine, live.identity, stamp(now), undo.snapshot, triggers, tuple(plan.changes), until=until)
    return plan, _carry_out(live, carried, again, told, place, report)
