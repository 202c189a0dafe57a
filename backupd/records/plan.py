"""The plan of a recovery: what becomes of each record, and the changes that do it. Pure: it reads both sides and writes nothing.

A record is brought back (insert), is there already (same), is there and was changed since (conflict, unless somebody said
what shall win), or is there and has only lost a reference when its parent was deleted (repair). What is not known to be older
is never overwritten. One plan is shown, written as a script, carried out and undone.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backupd.model import Cell, Cells, Change, LiveSchema, NamedCells, Reference
from backupd.records.cells import cells_document
from backupd.records.closure import Present, Rows, Table
from backupd.records.leading import Leading
from backupd.records.planorder import CellsOf, ordered, written_cells

CHANGED = "it was changed since"
Op = Literal["insert", "update", "repair", "conflict", "same", "skip"]
OPS: tuple[Op, ...] = ("insert", "update", "repair", "conflict", "same", "skip")
OnConflict = Literal["fail", "skip", "overwrite"]
_NOTHING: Mapping[str, Cell] = {}
"""What stood where a row is inserted; one for all of them."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What somebody said of conflicts, and of columns that the snapshot does not have.

    Attributes:
        default: for tables of which nothing is said.
        tables: by name.
        columns: table and column: those that the snapshot's value always wins in.
        values: table and column: what is written into columns that only the live database has.
    """

    default: OnConflict = "fail"
    tables: Mapping[str, OnConflict] = field(default_factory=dict)
    columns: frozenset[tuple[str, str]] = frozenset()
    values: Mapping[tuple[str, str], Cell] = field(default_factory=dict, repr=False)

    def of(self, table: str) -> OnConflict:
        """What happens to a conflict in a table."""
        return self.tables.get(table, self.default)

    def added(self, table: str) -> dict[str, Cell]:
        """What is written beside the snapshot's values."""
        return {column: value for (name, column), value in self.values.items() if name == table}


@dataclass(slots=True)
class Entry:
    """A record, and what becomes of it.

    Attributes:
        row: as the snapshot has it.
        keyed: whether it is known by its table's key, and not as a whole.
        reason: of a conflict or of what is skipped, in words without values.
        columns: those that differ, or are written.
        change: what is done, if anything.
    """

    op: Op
    table: str
    row: Cells = field(repr=False)
    keyed: bool
    reason: str = ""
    columns: tuple[str, ...] = ()
    change: Change | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done.

    Attributes:
        changes: in the order in which they are carried out.
        circles: tables whose rows refer to each other so that they have to be written at once.
        obstacles: what keeps the plan from being carried out besides conflicts, in sentences.
        warnings: what should be known.
        triggers: of tables that are written.
    """

    entries: tuple[Entry, ...] = field(repr=False)
    changes: tuple[Change, ...] = field(repr=False)
    circles: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    triggers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many records of each kind; all kinds are there."""
        found = Counter(entry.op for entry in self.entries)
        return {op: found[op] for op in OPS}

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the tables that are changed."""
        return tuple(sorted({change.table for change in self.changes}))

    @property
    def digest(self) -> str:
        """What tells these changes from others."""
        digest = hashlib.sha256()
        for c in self.changes:
            whole = [c.kind, c.table, cells_document(c.key), cells_document(c.old), cells_document(c.new)]
            digest.update(json.dumps(whole, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()[:16]


def write_plan(
    entries: Sequence[Entry],
    tables: Mapping[str, Table],
    schema: LiveSchema,
    references: Sequence[Reference],
    rules: Rules,
    leading: Leading,
    warnings: Sequence[str] = (),
) -> Plan:
    """Put the changes of judged records in order, and see what stands against them."""
    inserts = [e.change for e in entries if e.change is not None and e.change.kind == "insert"]
    updates = [e.change for e in entries if e.change is not None and e.change.kind == "update"]
    order = ordered(inserts, schema.tables, references, leading, _cells_of(entries, tables))
    filled = sorted({change.table for change in inserts})
    obstacles = [text for name in filled for text in _obstacles(tables[name], rules)]
    written = sorted({*filled, *(change.table for change in updates)})
    told = [*warnings, *_below_others(entries, tables, references, leading)]
    told += [text for name in written for text in _drift(tables[name])]
    return Plan(
        tuple(entries),
        (*order.changes, *updates),
        order.circles,
        tuple(obstacles),
        tuple(told),
        {name: schema.tables[name].triggers for name in written if schema.tables[name].triggers},
    )


def _cells_of(entries: Sequence[Entry], tables: Mapping[str, Table]) -> CellsOf:
    """What inserted rows have in columns: what is written, and what is known of those that are computed."""
    rows = {id(entry.change): entry.row for entry in entries if entry.change is not None}

    def found(change: Change, columns: Sequence[str]) -> Cells:
        table = tables[change.table]
        if {*columns} <= change.new.keys() or not table.has(columns):
            return written_cells(change, columns)
        return table.cells(rows[id(change)], columns)

    return found


def _below_others(
    entries: Sequence[Entry], tables: Mapping[str, Table], references: Sequence[Reference], leading: Leading
) -> Iterator[str]:
    """Sentences about records that would come back below one that is left as it is now: it may be somebody else's by now."""
    kept: dict[str, list[Cells]] = {}
    coming: dict[str, list[Cells]] = {}
    for entry in entries:
        if entry.op == "skip" and entry.reason == CHANGED:
            kept.setdefault(entry.table, []).append(entry.row)
        elif entry.change is not None:
            coming.setdefault(entry.table, []).append(entry.row)
    for r in references:
        if r.parent not in kept or r.table not in coming:
            continue
        child, parent = tables[r.table], tables[r.parent]
        if not child.has(r.columns) or not parent.has(r.parent_columns):
            continue
        values = child.values(coming[r.table], r.columns)
        names, parents = leading.sides(r, values, parent.values(kept[r.parent], r.parent_columns))
        others = set(parents.values())
        rows = (child.cells(row, r.columns) for row in coming[r.table])
        if count := sum(1 for value in rows if value in names and names[value] in others):
            yield (
                f"{count:,} of {r.table} would come back below records of {r.parent} that were changed since and are left as"
                " they are: see that these are still the same"
            )


def _obstacles(table: Table, rules: Rules) -> list[str]:
    """Columns that need a value which the snapshot does not have."""
    given = rules.added(table.name)
    return [
        f"column {table.name}.{column.name} must have a value, and the snapshot has none"
        for column in table.live.columns
        if column.required and not column.default and not column.generated
        if column.name not in table.places and column.name not in given
    ]


def _drift(table: Table) -> Iterator[str]:
    """What of the snapshot's rows is left out, or was of another type."""
    there = {column.name: column.type for column in table.live.columns}
    for name, kind in table.stored.columns:
        if name not in there:
            yield f"column {table.name}.{name} is in the snapshot only: its values are left out"
        elif kind != there[name] and name in table.compared:
            yield f"column {table.name}.{name} was {kind or 'untyped'} and is {there[name] or 'untyped'} now"
    if not table.key:
        yield f"{table.name} has no key: rows that were changed since cannot be told from rows that are gone"


def insert_of(table: Table, row: Cells, rules: Rules) -> Change:
    """The change that brings a row back."""
    brought, added = NamedCells(table.compared_places, row), rules.added(table.name)
    new: Mapping[str, Cell] = {**brought, **added} if added else brought
    known = NamedCells(table.key_places, row) if table.identity(row) is not None else new
    return Change("insert", table.name, known, _NOTHING, new)


def _leads(reference: Reference, change: Change) -> bool:
    """Whether a change writes where its row refers to; of an inserted row that may be computed."""
    return change.kind == "insert" or not change.new.keys().isdisjoint(reference.columns)


class Settling:
    """Takes back what cannot be written since the parent that it refers to will not be there.

    Args:
        rows: everything that was found.
        present: looks parents up in the live database.
        leading: how values are compared along references.
    """

    def __init__(self, rows: Rows, references: Sequence[Reference], present: Present, leading: Leading) -> None:
        self._tables, self._present, self._leading = rows.tables, present, leading
        self._references = [
            r for r in references if (child := rows.tables.get(r.table)) is not None and child.has(r.columns)
        ]
        groups: dict[object, list[int]] = {}
        for at, r in enumerate(self._references):  # one to a partitioned table is one to each of its partitions
            groups.setdefault((r.table, r.name, r.columns, r.parent_columns, r.declared), []).append(at)
        self._groups = list(groups.values())
        self._known: list[tuple[set[Cells], set[Cells]]] = [(set(), set()) for _ in self._references]

    def settle(self, entries: Sequence[Entry], rules: Rules) -> list[str]:
        """Until nothing changes any more; returns warnings of what no database checks."""
        changed = True
        while changed:
            changed = False
            for group in self._groups:
                reference = self._references[group[0]]
                for entry in self._orphaned(group, entries) if reference.declared else ():
                    entry.op = "skip" if rules.of(entry.table) == "skip" else "conflict"
                    entry.reason = f"its parent in {reference.parent} is neither there nor brought back"
                    entry.columns, entry.change, changed = reference.columns, None, True
        return [
            f"{count:,} of {r.table} refer to a parent in {r.parent} that is neither there nor brought back"
            for group in self._groups
            if not (r := self._references[group[0]]).declared and (count := len(self._orphaned(group, entries)))
        ]

    def _orphaned(self, group: Sequence[int], entries: Sequence[Entry]) -> list[Entry]:
        """Those whose parent is in none of the tables in which it may be."""
        first, *others = (self._without_parent(at, entries) for at in group)
        lacking = [{id(entry) for entry in some} for some in others]
        return [entry for entry in first if all(id(entry) in some for some in lacking)]

    def _without_parent(self, at: int, entries: Sequence[Entry]) -> list[Entry]:
        reference = self._references[at]
        parent, child = self._tables.get(reference.parent), self._tables[reference.table]
        leading: list[tuple[Cells, Entry]] = []
        for entry in entries:
            if entry.table == child.name and entry.change is not None and _leads(reference, entry.change):
                value = child.cells(entry.row, reference.columns)
                if None not in value:
                    leading.append((value, entry))
        brought: set[Cells] = set()
        if leading and parent is not None and parent.has(reference.parent_columns):
            inserts = (e.row for e in entries if e.table == parent.name and e.change and e.change.kind == "insert")
            brought = parent.values(inserts, reference.parent_columns)
        there, absent = self._known[at]
        lacking = self._leading.without(reference, {value for value, _ in leading}, brought)
        asked = lacking - there - absent
        if asked:
            there |= set(self._present(reference, asked))
            absent |= asked - there
        return [entry for value, entry in leading if value in lacking and value not in there]
