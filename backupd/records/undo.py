"""Takes back what a recovery did: the inverse changes, what of them still can be done, and the text that they are kept as.

A change is taken back only where its row is as the change left it. What is already as it was before counts as the same, so
that a file whose changes never came about undoes nothing.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, cast

from backupd.errors import IntegrityError
from backupd.model import Cell, Cells, Change, ChangeKind, LiveSchema, LiveTable, NamedCells, Reference
from backupd.records.cells import Exact, cells_document, exact, parse_cells, same
from backupd.records.leading import Leading
from backupd.records.liverows import LiveRows, children_of, look_up
from backupd.records.written import writable

FORMAT = "backupd-undo/1"
UndoOp = Literal["insert", "update", "delete", "conflict", "same"]
_NEWER = "it has values in columns that came later"
_KINDS = ("insert", "update", "delete")
_NOTHING: Mapping[str, Cell] = {}
"""What stands where a row comes, or is left where one goes; one for all of them."""
_TOGETHER = 1000
"""So many rows are asked for at once: what is known of them in all columns need not be known of all at a time."""


@dataclass(frozen=True, slots=True)
class Undo:
    """What was done, and to what.

    Attributes:
        engine, identity: of the database.
        time: when (RFC 3339).
        snapshot: the id of the snapshot that the rows came from; empty for what an undo did.
        triggers: whether triggers ran; None where no table had any.
        changes: in the order in which they were carried out.
        standing: of each change, how many equal rows stood there before, where that matters.
        until: until when the file is kept (RFC 3339); empty if nobody said.
    """

    engine: str
    identity: str
    time: str
    snapshot: str
    triggers: bool | None
    changes: tuple[Change, ...] = field(repr=False)
    standing: tuple[int | None, ...] = ()
    until: str = ""


def undo_lines(undo: Undo) -> Iterator[bytes]:
    """The lines of an undo file; the last one tells that it is whole."""
    digest = hashlib.sha256()
    head: dict[str, object] = {
        "format": FORMAT,
        "engine": undo.engine,
        "database": undo.identity,
        "time": undo.time,
        "snapshot": undo.snapshot,
        "triggers": undo.triggers,
        **({"until": undo.until} if undo.until else {}),
    }
    standing = undo.standing or (None,) * len(undo.changes)
    for values in chain([head], map(_document, undo.changes, standing)):  # never all of them at once
        line = json.dumps(values, separators=(",", ":")).encode() + b"\n"
        digest.update(line)
        yield line
    yield json.dumps({"changes": len(undo.changes), "sha256": digest.hexdigest()}).encode() + b"\n"


def _document(change: Change, standing: int | None) -> dict[str, object]:
    return {
        "kind": change.kind,
        "table": change.table,
        "key": cells_document(change.key),
        "old": cells_document(change.old),
        "new": cells_document(change.new),
        **({} if standing is None else {"standing": standing}),
    }


def parse_undo(lines: Iterable[bytes]) -> Undo:
    """Read an undo file.

    Raises:
        IntegrityError: it is cut, damaged, or no such file.
    """
    digest, reading = hashlib.sha256(), _Reading()
    held = b""
    try:
        for line in lines:
            if held:
                digest.update(held)
                reading.take(_object(held))
            held = line
        end = _object(held)
        if end.get("sha256") != digest.hexdigest() or end.get("changes") != len(reading.changes):
            raise ValueError("cut")
        return reading.undo()
    except (ValueError, KeyError, RecursionError):
        raise IntegrityError(
            "that is no whole undo file: it is cut, damaged, or something else",
            hint="nothing was changed; use the file that `backupctl recover --apply` named",
        ) from None


def _object(line: bytes) -> dict[str, object]:
    value = json.loads(line)
    if not line.endswith(b"\n") or not isinstance(value, dict):
        raise ValueError("no line")
    return value


class _Reading:
    """Makes an undo of documents; rows of the same columns share their names."""

    def __init__(self) -> None:
        self._head: Mapping[str, object] | None = None
        self._places: dict[tuple[str, ...], dict[str, int]] = {}
        self._standing: list[int | None] = []
        self.changes: list[Change] = []

    def take(self, value: Mapping[str, object]) -> None:
        """The next line: the first one says what the file is, each other one is a change."""
        if self._head is None:
            if value.get("format") != FORMAT:
                raise ValueError("another format")
            self._head = value
            return
        kind, table = value["kind"], value["table"]
        if kind not in _KINDS or not isinstance(table, str):
            raise ValueError("no change")
        cells = (self._cells(value[name]) for name in ("key", "old", "new"))
        self.changes.append(Change(cast(ChangeKind, kind), sys.intern(table), *cells))
        count = value.get("standing")
        self._standing.append(count if isinstance(count, int) else None)

    def _cells(self, value: object) -> Mapping[str, Cell]:
        found = parse_cells(value)
        names = tuple(found)
        places = self._places.setdefault(names, {name: at for at, name in enumerate(names)})
        return NamedCells(places, tuple(found.values())) if names else _NOTHING

    def undo(self) -> Undo:
        """All of it."""
        head = self._head
        if head is None:
            raise ValueError("empty")
        standing = () if all(n is None for n in self._standing) else tuple(self._standing)
        triggers = head["triggers"] if isinstance(head["triggers"], bool) else None
        engine, identity, time, snapshot = (str(head[name]) for name in ("engine", "database", "time", "snapshot"))
        until = str(head.get("until", ""))
        return Undo(engine, identity, time, snapshot, triggers, tuple(self.changes), standing, until)


def inverse(changes: Sequence[Change]) -> tuple[Change, ...]:
    """The changes that take changes back, in their order."""
    return tuple(_inverse(change) for change in reversed(changes))


def _inverse(change: Change) -> Change:
    match change.kind:
        case "insert":
            return Change("delete", change.table, change.key, change.new, _NOTHING)
        case "delete":
            return Change("insert", change.table, change.key, _NOTHING, change.old)
        case "update":
            key = {column: change.new.get(column, value) for column, value in change.key.items()}
            return Change("update", change.table, key, change.new, change.old)


@dataclass(slots=True)
class UndoEntry:
    """What becomes of one row, and the changes that make it up.

    Attributes:
        kind: what all changes come to.
        key: by which it is found now.
        old: what must stand there now.
        new: what stands there afterwards.
    """

    op: UndoOp
    kind: ChangeKind
    table: str
    key: Mapping[str, Cell] = field(repr=False)
    old: Mapping[str, Cell] = field(repr=False)
    new: Mapping[str, Cell] = field(repr=False)
    places: tuple[int, ...] = ()
    reason: str = ""
    standing: int | None = None


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """What would be taken back.

    Attributes:
        changes: all of it.
        carried: what has to be carried out for that: the rest goes with rows that it refers to.
    """

    entries: tuple[UndoEntry, ...] = field(repr=False)
    changes: tuple[Change, ...] = field(repr=False)
    carried: tuple[Change, ...] = field(repr=False)
    triggers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows of each kind."""
        found = Counter(entry.op for entry in self.entries)
        ops: tuple[UndoOp, ...] = ("insert", "update", "delete", "conflict", "same")
        return {op: found[op] for op in ops}


def make_undo_plan(
    undo: Undo, schema: LiveSchema, references: Sequence[Reference], live: LiveRows, leading: Leading
) -> UndoPlan:
    """See what of an undo file can be taken back now.

    Raises:
        IntegrityError: it names a table or column that is not there.
    """
    changes = inverse(undo.changes)
    for change in changes:
        _check_names(change, schema)
    entries = _rows(changes)
    for entry in entries if undo.standing else ():
        entry.standing = undo.standing[-1 - entry.places[0]]
    by_table: dict[str, list[UndoEntry]] = {}
    for entry in entries:
        by_table.setdefault(entry.table, []).append(entry)
    for name, some in by_table.items():
        table = schema.tables[name]
        keyed = [e for e in some if table.key and {*e.key} == {*table.key}]
        for at in range(0, len(keyed), _TOGETHER):
            _judge_keyed(table, keyed[at : at + _TOGETHER], live)
        _judge_wholes(table, [e for e in some if not (table.key and {*e.key} == {*table.key})], live)
    for reference in references:
        _guard_children(reference, by_table, schema, live, leading)
    done = sorted(place for entry in entries if entry.op not in ("conflict", "same") for place in entry.places)
    written = sorted({changes[place].table for place in done})
    triggers = {name: schema.tables[name].triggers for name in written if schema.tables[name].triggers}
    chosen = tuple(changes[place] for place in done)
    return UndoPlan(tuple(entries), chosen, tuple(_without_cascaded(chosen, references)), triggers)


def _without_cascaded(changes: Sequence[Change], references: Sequence[Reference]) -> Iterator[Change]:
    """Leave out what the database deletes by itself with a row before it: rows of a circle, for otherwise children go first."""
    deletes: dict[str, list[int]] = {}
    for at, change in enumerate(changes):
        if change.kind == "delete":
            deletes.setdefault(change.table, []).append(at)
    children: dict[Reference, dict[Exact, list[int]]] = {}
    for r in references:
        below, above = deletes.get(r.table, ()), deletes.get(r.parent, ())
        if r.declared and r.on_delete == "cascade" and below and above and below[-1] > above[0]:
            found = children[r] = {}
            for at in below:
                found.setdefault(exact(changes[at].old.get(c) for c in r.columns), []).append(at)
    gone: set[int] = set()
    for at, change in enumerate(changes):
        if at in gone:
            continue
        yield change
        waiting = [change] if change.kind == "delete" else []
        while waiting:
            parent = waiting.pop()
            for r, found in children.items():
                value = exact({**parent.key, **parent.old}.get(c) for c in r.parent_columns)
                places = found.get(value, ()) if r.parent == parent.table else ()
                new = [n for n in places if n > at and n not in gone]
                gone.update(new)
                waiting += [changes[n] for n in new]


def _check_names(change: Change, schema: LiveSchema) -> None:
    table = schema.tables.get(change.table)
    known = {column.name for column in table.columns} if table else set()
    if not {*change.key, *change.old, *change.new} <= known or not change.key:
        raise IntegrityError(
            f"table {change.table} is not what it was when the undo file was written", object_name=change.table
        )


def _rows(changes: Sequence[Change]) -> list[UndoEntry]:
    """Changes by the row that they are about."""
    entries: list[UndoEntry] = []
    current: dict[tuple[str, Exact], list[UndoEntry]] = {}
    for place, change in enumerate(changes):
        waiting = current.get((change.table, _named(change.key)))
        entry = waiting.pop() if waiting and change.kind != "insert" else None
        if entry is None:
            entry = UndoEntry(change.kind, change.kind, change.table, change.key, change.old, change.new)
            entries.append(entry)
        elif change.kind == "delete":
            entry.old = {**change.old, **entry.old}
            entry.op = entry.kind = "delete"
            entry.new = _NOTHING
        else:
            entry.old = {**{c: v for c, v in change.old.items() if c not in entry.new}, **entry.old}
            entry.new = {**entry.new, **change.new}
            if entry.kind == "insert":
                entry.old = _NOTHING
                entry.key = {c: change.new.get(c, v) for c, v in entry.key.items()}
        entry.places = (*entry.places, place)
        if change.kind == "delete":
            continue
        now = {column: change.new.get(column, value) for column, value in change.key.items()}
        current.setdefault((change.table, _named(now)), []).append(entry)
    return entries


def _named(cells: Mapping[str, Cell]) -> Exact:
    return exact(cells[name] for name in sorted(cells))


def _matches(row: Mapping[str, Cell], wanted: Mapping[str, Cell]) -> bool:
    return all(same(row[column], value) for column, value in wanted.items())


def _judge_keyed(table: LiveTable, entries: Sequence[UndoEntry], live: LiveRows) -> None:
    columns = tuple(dict.fromkeys((*(c for e in entries for c in (*e.old, *e.new)), *writable(table))))
    keys = {tuple(entry.key[c] for c in table.key) for entry in entries}
    found = look_up(live, table.name, columns, table.key, keys) if keys else {}
    for entry in entries:
        rows = found.get(tuple(entry.key[c] for c in table.key))
        row = None if rows is None else dict(zip(columns, rows[0], strict=True))
        entry.op, entry.reason = _verdict(entry, row)
        if entry.op == "delete" and row is not None and _has_newer(table, entry, row):
            entry.op, entry.reason = "conflict", _NEWER


def _has_newer(table: LiveTable, entry: UndoEntry, row: Mapping[str, Cell]) -> bool:
    """Whether a row that would be deleted has something in columns that the undo file does not know."""
    known = {**entry.key, **entry.old}
    unknown = [c for c in table.columns if not c.generated and c.name not in known]
    return any(row[c.name] is not None and not same(row[c.name], c.fallback) for c in unknown)


def _verdict(entry: UndoEntry, row: Mapping[str, Cell] | None) -> tuple[UndoOp, str]:
    if row is None:
        before: UndoOp = {"insert": "insert", "delete": "same", "update": "conflict"}[entry.kind]  # type: ignore[assignment]
        return before, "it is gone" if before == "conflict" else ""
    if entry.kind == "insert":
        return ("same", "") if _matches(row, entry.new) else ("conflict", "another row is there now")
    if _matches(row, entry.old):
        return entry.kind, ""
    if entry.kind == "update" and _matches(row, entry.new):
        return "same", ""
    return "conflict", "it was changed since"


def _judge_wholes(table: LiveTable, entries: Sequence[UndoEntry], live: LiveRows) -> None:
    """Rows without a key are told by all their columns, and counted."""
    groups: dict[tuple[str, ...], list[UndoEntry]] = {}
    for entry in entries:
        groups.setdefault(tuple(sorted({*entry.key, *entry.old, *entry.new})), []).append(entry)
    for columns, some in groups.items():
        names = (*columns, *(name for name in writable(table) if name not in columns))
        counts: Counter[Exact] = Counter()
        newer: set[Exact] = set()
        for row in live.rows(table.name, names):
            cells = exact(row[: len(columns)])
            counts[cells] += 1
            if any(cell is not None for cell in row[len(columns) :]):
                newer.add(cells)
        for entry in some:
            was = exact({**entry.key, **entry.old}[c] for c in columns if c in {**entry.key, **entry.old})
            becomes = exact({**entry.key, **entry.old, **entry.new}[c] for c in columns)
            if entry.kind == "insert":
                least = 1 if entry.standing is None else entry.standing
                entry.op = "same" if counts[becomes] >= least else "insert"
                counts[becomes] += 1 if entry.op == "insert" else -(entry.standing is None)
            elif counts[was] > (entry.standing or 0):
                entry.op = entry.kind
                counts[was] -= 1
                if entry.kind == "delete" and was in newer:
                    entry.op, entry.reason = "conflict", _NEWER
            elif entry.kind == "delete" or counts[becomes]:
                entry.op = "same"
            else:
                entry.op, entry.reason = "conflict", "it was changed since"


def _deleted(reference: Reference, entries: Sequence[UndoEntry], live: LiveRows) -> dict[Cells, UndoEntry]:
    """Rows that would be deleted, by what others refer to them by."""
    found: dict[Cells, UndoEntry] = {}
    computed: dict[tuple[str, ...], dict[Cells, UndoEntry]] = {}
    for entry in entries:
        known = {**entry.key, **entry.old}
        value = tuple(known.get(column) for column in reference.parent_columns)
        if not {*reference.parent_columns} <= known.keys():  # no undo file has what the database computes
            said = {column: cell for column, cell in known.items() if cell is not None}
            computed.setdefault(tuple(said), {})[tuple(said.values())] = entry
        elif None not in value:
            found[value] = entry
    for by, some in computed.items():
        for value, rows in look_up(live, reference.parent, reference.parent_columns, by, some).items():
            found |= {row: some[value] for row in rows if None not in row}
    return found


def _guard_children(
    reference: Reference,
    by_table: Mapping[str, Sequence[UndoEntry]],
    schema: LiveSchema,
    live: LiveRows,
    leading: Leading,
) -> None:
    """Rows that somebody else has hung below a row meanwhile keep it from being deleted."""
    deleted = _deleted(reference, [e for e in by_table.get(reference.parent, ()) if e.op == "delete"], live)
    child = schema.tables.get(reference.table)
    if not deleted or child is None:
        return
    leaving = [
        e
        for e in by_table.get(child.name, ())
        if e.op == "delete" or (e.op == "update" and {*reference.columns} & {*e.new})
    ]
    columns = child.key or tuple(c.name for c in child.columns if not c.generated)
    expected = Counter(exact({**e.key, **e.old}.get(c) for c in columns) for e in leaving)
    values = list(deleted)
    together = _TOGETHER if leading.is_column(reference) else len(values)  # where all rows are read, they are read once
    for at in range(0, len(values), together):
        found = children_of(live, leading, reference, columns, values[at : at + together])
        for value, row in ((value, row) for value, rows in found.items() for row in rows):
            if expected[exact(row)] > 0:
                expected[exact(row)] -= 1
            else:
                deleted[value].op = "conflict"
                deleted[value].reason = f"rows of {child.name} belong to it that were not brought back"
