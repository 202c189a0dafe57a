"""Which foreign keys rows break that were just written, or that refer to what was just taken away: asked row by row.

Only rows that changes are of are looked up, and rows that refer to them, both by columns that databases have indexes for.
Rows that were without a parent before, and of which nothing was written, are nobody's business here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from backupd.model import Cell, Cells, Change, LiveSchema, LiveTable, Reference
from backupd.records.leading import Leading
from backupd.records.liverows import LiveRows, children_of, parents_there


@dataclass(slots=True)
class _Row:
    """What all changes of a row did to it together.

    Attributes:
        key: by which it is found now; empty in a table without one, where each change is of another row.
        old: what stood in its columns, as far as they were written or known; None if it was not there.
        new: what stands in those that were written, or known; None if it is gone.
    """

    key: Cells
    old: Mapping[str, Cell] | None
    new: Mapping[str, Cell] | None
    written: Set[str] = frozenset()

    def add(self, change: Change) -> None:
        """One change more."""
        if self.old is not None:
            is_all = not self.old and change.old.keys() >= change.key.keys()
            self.old = change.old if is_all else {**change.key, **change.old, **self.old}
        self.written = self.written | change.new.keys() if self.written else change.new.keys()
        if change.kind == "insert":
            self.new = change.new
        else:
            self.new = (
                {**(self.new or {}), **change.key, **change.old, **change.new} if change.kind == "update" else None
            )


def without_parent(changes: Sequence[Change], schema: LiveSchema, live: LiveRows, leading: Leading) -> list[str]:
    """Names of the foreign keys that are broken now, after these changes.

    Args:
        changes: what was done.
        schema: of the live database; only what it checks itself counts.
        live: its rows, as they are now.
        leading: how values are compared along references.
    """
    by_table: dict[str, list[Change]] = {}
    for change in changes:
        by_table.setdefault(change.table, []).append(change)
    rows = {name: _together(by_table.get(name, ()), table) for name, table in schema.tables.items()}
    groups: dict[object, list[Reference]] = {}
    for r in schema.references:  # one to a partitioned table is one to each of its partitions
        if r.declared and {r.parent, r.table} <= rows.keys():
            groups.setdefault((r.table, r.name, r.columns, r.parent_columns), []).append(r)
    broken = []
    for same in groups.values():
        first, parents = same[0], [r.parent for r in same]
        wanted = set(_led(first, rows[first.table], schema.tables[first.table], live))
        left = {v for parent in parents for v in _left(first, rows[parent], schema.tables[parent], live)}
        if left:
            children = children_of(live, leading, first, first.columns, left)
            wanted |= {value for some in children.values() for value in some}
        for reference in same:
            wanted -= parents_there(live, leading, reference, wanted)
        if wanted:
            broken.append(f"{first.name} of {first.table}")
    return broken


def _together(changes: Iterable[Change], table: LiveTable) -> list[_Row]:
    """The rows of a table, by the changes of that table."""
    found: dict[object, _Row] = {}
    for place, change in enumerate(changes):
        key = tuple(change.key.get(column) for column in table.key)
        row = found.get(key or place)
        if row is None:
            row = found[key or place] = _Row(key, None if change.kind == "insert" else {}, {})
        row.add(change)
    return list(found.values())


def _led(reference: Reference, rows: Iterable[_Row], table: LiveTable, live: LiveRows) -> Iterator[Cells]:
    """Where rows lead now of which a part of the reference was written."""
    keys: set[Cells] = set()
    for row in rows:
        if row.new is None or row.written.isdisjoint(reference.columns):
            continue
        if row.old is None or set(reference.columns) <= row.new.keys():
            value = tuple(row.new.get(column) for column in reference.columns)
            if None not in value:
                yield value
        else:  # the rest of the reference stands in the row
            keys.add(row.key)
    if keys:
        for value in live.rows(table.name, reference.columns, table.key, keys):
            if None not in value:
                yield value


def _left(reference: Reference, rows: Iterable[_Row], parent: LiveTable, live: LiveRows) -> Iterator[Cells]:
    """What rows may have led to that is not there any more, or is another one."""
    columns = reference.parent_columns
    for row in rows:
        was = row.old
        if was is None or (row.new is not None and row.written.isdisjoint(columns)):
            continue
        if not set(columns) <= was.keys():  # the rest of it was not written, and stands in the row
            for rest in live.rows(parent.name, columns, parent.key, [row.key]):
                was = {**dict(zip(columns, rest, strict=True)), **was}
        value = tuple(was.get(column) for column in columns)
        if None not in value:
            yield value
