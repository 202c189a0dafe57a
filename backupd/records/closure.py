"""Which records belong together: down from some rows along references, and up to the parents that a live database lacks.

Down means all rows that refer to a row that was reached; up means the row that a reference leads to, and never down again
from there: both ways at once would reach most of a database from any row. Rows are cells of snapshots; nothing here knows
where they come from. Must never put a cell into a message.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backupd.errors import Failed
from backupd.model import Cells, LiveTable, Reference
from backupd.records.cells import Exact, exact
from backupd.records.leading import Leading

MOST_ROWS = 1_000_000
"""So many rows at most: what is brought back record by record is held in memory."""


class StoredRows(Protocol):
    """A table of a snapshot, as far as it is followed."""

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Names and types."""

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the key's columns."""

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        """Rows whose columns `by` equal one of `values`."""

    def chosen(self, by: Sequence[str], fits: Callable[[Cells], bool]) -> Iterator[Cells]:
        """Rows by what stands in some columns; all of them are looked at."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a snapshot and a live database both have; columns are matched by their names.

    Attributes:
        key: columns by which a row is the same row in both; empty if there are none.
        compared: columns that both have and that may be written, in the live table's order.
    """

    name: str
    stored: StoredRows
    live: LiveTable
    key: tuple[str, ...]
    compared: tuple[str, ...]
    places: Mapping[str, int] = field(repr=False)
    key_places: Mapping[str, int] = field(repr=False)
    compared_places: Mapping[str, int] = field(repr=False)

    @classmethod
    def of(cls, name: str, stored: StoredRows, live: LiveTable) -> "Table":
        """Match the two."""
        places = {column: at for at, (column, _) in enumerate(stored.columns)}
        compared = tuple(c.name for c in live.columns if c.name in places and not c.generated)
        there = {c.name for c in live.columns}
        key = next((key for key in (live.key, stored.key) if key and set(key) <= set(places) & there), ())
        of_key, of_compared = ({column: places[column] for column in some} for some in (key, compared))
        return cls(name, stored, live, key, compared, places, of_key, of_compared)

    def has(self, columns: Iterable[str]) -> bool:
        """Whether the snapshot's rows have all these columns."""
        return all(column in self.places for column in columns)

    def cells(self, row: Cells, columns: Iterable[str]) -> Cells:
        """Some of a row's cells."""
        return tuple(row[self.places[column]] for column in columns)

    def identity(self, row: Cells) -> Cells | None:
        """The key's cells; None for a row that can be told from others by nothing but all of it."""
        key = self.cells(row, self.key)
        return key if key and None not in key else None

    def values(self, rows: Iterable[Cells], columns: Sequence[str]) -> set[Cells]:
        """What rows have in some columns, where none of it is NULL: what a reference leads by."""
        found = {self.cells(row, columns) for row in rows}
        return {value for value in found if None not in value}


Name = tuple[bool, Cells | Exact]
"""How a row is known among those of its table: by its key, or (False) as a whole."""


@dataclass(slots=True)
class Rows:
    """Rows by table, each once, with how often it stands there: rows without a key may be equal.

    Attributes:
        whole: whether everything that refers to them is among them.
    """

    tables: Mapping[str, Table]
    found: dict[str, dict[Name, tuple[Cells, int]]] = field(default_factory=dict, repr=False)
    count: int = 0
    whole: bool = False

    def name(self, table: str, row: Cells) -> Name:
        """How a row is known."""
        key = self.tables[table].identity(row)
        return (False, exact(row)) if key is None else (True, key)

    def add(self, table: str, rows: Iterable[Cells]) -> list[Cells]:
        """Add what was found in one look-up, which finds all rows that are equal; returns those that are new.

        Raises:
            Failed: they are too many.
        """
        there = self.found.setdefault(table, {})
        counted: Counter[Name] = Counter()
        first: dict[Name, Cells] = {}
        for row in rows:
            name = self.name(table, row)
            if name in there:
                continue
            counted[name] += 1
            first.setdefault(name, row)
            if self.count + len(first) > MOST_ROWS:
                raise Failed(
                    f"more than {MOST_ROWS:,} records belong together here, too many to be brought back one by one",
                    object_name=table,
                    hint="restore the snapshot, or whole tables of it, beside the live database",
                )
        for name, row in first.items():
            there[name] = row, 1 if name[0] else counted[name]
        self.count += len(first)
        return list(first.values())

    def of(self, table: str) -> Iterator[Cells]:
        """The rows of a table."""
        return (row for row, _ in self.found.get(table, {}).values())


Told = Callable[[str, Collection[Cells]], None]
"""Told of rows that were found, with their table."""
Judge = Callable[[Mapping[str, Sequence[Cells]]], Mapping[str, Sequence[Cells]]]
"""Which of these rows will be written: only those need parents."""
Present = Callable[[Reference, Collection[Cells]], Collection[Cells]]
"""Which of the values that a reference leads by are there in the live database."""


def down(
    tables: Mapping[str, Table],
    references: Sequence[Reference],
    roots: Mapping[str, Iterable[Cells]],
    leading: Leading,
    *,
    children: bool = True,
    told: Told = lambda _table, _rows: None,
) -> Rows:
    """The roots, and everything that refers to them, and to that.

    Raises:
        Failed: too many.
    """
    found = Rows(tables)
    frontier = {name: new for name, rows in roots.items() if (new := found.add(name, rows))}
    while frontier and children:
        following: dict[str, list[Cells]] = {}
        for reference in references:
            child, parent = tables.get(reference.table), tables.get(reference.parent)
            if child is None or parent is None or reference.parent not in frontier:
                continue
            if not child.has(reference.columns) or not parent.has(reference.parent_columns):
                continue
            values = parent.values(frontier[reference.parent], reference.parent_columns)
            if values and (new := found.add(child.name, leading.children(reference, child.stored, values))):
                following.setdefault(child.name, []).extend(new)
                told(child.name, new)
        frontier = following
    found.whole = children
    return found


def unfollowed(found: Rows, references: Sequence[Reference]) -> Iterator[str]:
    """Sentences about references that lead to what was found, and that could not be followed: a column has no stored values."""
    for reference in references:
        child, parent = found.tables.get(reference.table), found.tables.get(reference.parent)
        if child is None or parent is None or not found.found.get(reference.parent):
            continue
        for table, columns in ((child, reference.columns), (parent, reference.parent_columns)):
            if missing := [column for column in columns if column not in table.places]:
                yield (
                    f"rows of {child.name} that belong to those of {parent.name} were not looked for:"
                    f" the snapshot has no values of {table.name}.{missing[0]}"
                )


def up(
    found: Rows,
    references: Sequence[Reference],
    judge: Judge,
    present: Present,
    leading: Leading,
    *,
    told: Told = lambda _t, _r: None,
) -> Rows:
    """The parents that rows to be written need and that are neither among them nor in the live database.

    Args:
        found: what was found so far.
        references: all of them.
        judge: compares rows with the live ones.
        present: looks parents up in the live database.
        leading: how values are compared along references.
        told: told of what is found.

    Returns:
        Parents only, as far as the snapshot has them.
    """
    tables = found.tables
    parents = Rows(tables)
    frontier = judge({name: list(found.of(name)) for name in found.found})
    while frontier:
        following: dict[str, list[Cells]] = {}
        for reference in references:
            child, parent = tables.get(reference.table), tables.get(reference.parent)
            if child is None or reference.table not in frontier or not child.has(reference.columns):
                continue
            wanted = child.values(frontier[reference.table], reference.columns)
            if parent is not None and parent.has(reference.parent_columns):
                for some in (found, parents):
                    wanted = leading.without(
                        reference, wanted, parent.values(some.of(parent.name), reference.parent_columns)
                    )
            wanted -= set(present(reference, wanted)) if wanted else set()
            if not wanted or parent is None or not parent.has(reference.parent_columns):
                continue
            known = found.found.get(parent.name, {})
            rows = leading.parents(reference, parent.stored, wanted)
            new = parents.add(parent.name, [row for row in rows if found.name(parent.name, row) not in known])
            following.setdefault(parent.name, []).extend(new)
            told(parent.name, new)
        frontier = judge({name: rows for name, rows in following.items() if rows})
    return parents
