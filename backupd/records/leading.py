"""To which rows the values of references lead, where a database takes different spellings for one value.

A foreign key compares as the parent's columns do: without case, without spaces at the end, as numbers, or by rules that only
the database itself knows. So values get names here, and equal names are equal values. What cannot be told from the values
the live database is asked; where there is none, nothing is taken for equal that may not be, and what was left is told.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from backupd.model import CELLS, Cells, Equality, LiveSchema, Reference
from backupd.records.equality import Candidates, folds
from backupd.records.spelling import Across, Respelling

_TOGETHER = 1000
_UNKNOWN = Equality("asked")
Name = object
"""Of equal values the same, and of others another one."""
Ask = Callable[[str, Sequence[str], Collection[Cells]], Mapping[Cells, int]]
"""For values of some columns of a table numbers: equal ones for values that the database takes for one."""
_Side = tuple[Equality, ...]


class Looked(Protocol):
    """A table of a snapshot."""

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Names and types."""

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        """Rows whose columns `by` equal one of `values`."""

    def chosen(self, by: Sequence[str], fits: Callable[[Cells], bool]) -> Iterator[Cells]:
        """Rows by what stands in some columns; all of them are looked at."""


class Leading:
    """How values are compared along references.

    Args:
        known: which values of a column, by its table's name and its own, are one.
        ask: asks the live database; None where there is none.
        wide: whether look-ups in snapshots compare as the column does that is looked at (SQLite's), or as cells.
        across: knows how values of referring columns become those of parents of another type; None where nobody does.
    """

    def __init__(
        self,
        known: Mapping[tuple[str, str], Equality],
        ask: Ask | None = None,
        *,
        wide: bool = False,
        across: Across | None = None,
    ) -> None:
        self._known, self._ask, self._wide = known, ask, wide
        self._spelled = Respelling(across)
        self._named: dict[tuple[str, tuple[str, ...]], _Names] = {}
        self.doubts: set[tuple[str, Cells]] = set()
        """Values that may lead to what was looked for, with their table: nobody could be asked, and they were left out."""

    @classmethod
    def of(cls, schema: LiveSchema, ask: Ask, *, wide: bool, across: Across | None = None) -> "Leading":
        """By what a live database says of its columns."""
        known = {(t.name, c.name): c.equality for t in schema.tables.values() for c in t.columns}
        return cls(known, ask, wide=wide, across=across)

    def _sides(self, reference: Reference) -> tuple[_Side, _Side]:
        def side(table: str, columns: Sequence[str]) -> _Side:
            return tuple(self._known.get((table, column), CELLS) for column in columns)

        return side(reference.table, reference.columns), side(reference.parent, reference.parent_columns)

    def alike(self, reference: Reference) -> tuple[Equality, ...]:
        """How a reference compares: as its parent's columns do, if their rule can be asked about the child's values."""
        child, parent = self._sides(reference)
        if self._spelled.of(reference):
            return parent
        return tuple(
            CELLS if (p.kind == "cells" and c == p) or (p.kind == "asked" and c.rule != p.rule) else p
            for c, p in zip(child, parent, strict=True)
        )

    def is_column(self, reference: Reference) -> bool:
        """Whether the referring columns, asked by themselves, compare as the reference does."""
        child, parent = self._sides(reference)
        return child == parent and not self.is_own(reference)

    def is_own(self, reference: Reference) -> bool:
        """Whether the referring side spells values in a way of its own, so that equal cells may be different values."""
        return self._spelled.is_own(reference)

    def is_plain(self, reference: Reference) -> bool:
        """Whether each value is spelled in one way only, and on both sides in the same."""
        return all(equality == CELLS for equality in self.alike(reference)) and not self.is_own(reference)

    def led(self, reference: Reference, values: Collection[Cells]) -> Mapping[Cells, Cells]:
        """Values of the referring side as the parent's side spells them; without those that equal nothing there."""
        return self._spelled.led(reference, values)

    def remarks(self) -> Iterator[str]:
        """Sentences about references that were followed as not everybody would."""
        return self._spelled.remarks()

    # ---- names

    def sides(
        self, reference: Reference, children: Collection[Cells], parents: Collection[Cells]
    ) -> tuple[Mapping[Cells, Name], Mapping[Cells, Name]]:
        """The names of values of both sides; a child's that equals nothing on the parent's side has none."""
        led = self.led(reference, children)
        names = self.names(reference, {*led.values(), *parents})
        return {value: names[found] for value, found in led.items()}, {value: names[value] for value in parents}

    def names(self, reference: Reference, values: Collection[Cells]) -> Mapping[Cells, Name]:
        """The names of values, spelled as the parent's side does. A value's name stays the same."""
        equalities = self.alike(reference)
        if all(equality == CELLS for equality in equalities):
            return {value: value for value in values}
        place = reference.parent, reference.parent_columns
        named = self._named.setdefault(place, _Names(equalities))
        ask = self._ask
        named.add(values, None if ask is None else lambda some: ask(*place, some))
        return {value: named.known[value] for value in values}

    def without(self, reference: Reference, values: set[Cells], others: set[Cells]) -> set[Cells]:
        """The values of the referring side that are equal to none of the others, which are parents'."""
        rest = set(values) if self.is_own(reference) else values - others
        if not rest or not others or self.is_plain(reference):
            return rest
        names, parents = self.sides(reference, rest, others)
        there = set(parents.values())
        return {value for value in rest if value not in names or names[value] not in there}

    # ---- rows of snapshots

    def children(self, reference: Reference, stored: Looked, values: Collection[Cells]) -> Iterator[Cells]:
        """The rows of a snapshot's referring table that belong to one of the parents' values."""
        if self.is_own(reference):
            return self._respelled(reference, stored, values) if values else iter(())
        return self._rows(reference, stored, reference.columns, values, wide=self._wide and self.is_column(reference))

    def parents(self, reference: Reference, stored: Looked, values: Collection[Cells]) -> Iterator[Cells]:
        """The rows of a snapshot's table to which one of the children's values leads."""
        led = set(self.led(reference, values).values())
        return self._rows(reference, stored, reference.parent_columns, led, wide=self._wide)

    def fitting(self, reference: Reference, values: Collection[Cells]) -> Callable[[Cells], bool]:
        """What tells which values of the referring side may be equal to one of the parents', without asking anybody."""
        asked = self._spelled.asked(reference)
        equalities = self.alike(reference)
        if not self.is_own(reference):
            return Candidates(equalities, values).fits
        near = Candidates([_UNKNOWN if ask else e for ask, e in zip(asked, equalities, strict=True)], values)
        become = self._spelled.near(reference)

        def fits(cells: Cells) -> bool:
            found = become(cells)
            return found is not None and near.fits(found)

        return fits

    def _respelled(self, reference: Reference, stored: Looked, values: Collection[Cells]) -> Iterator[Cells]:
        """The rows of a snapshot's referring table whose values, as the parent's side spells them, are among the parents'."""
        near = Candidates(self.alike(reference), values)
        names = [name for name, _ in stored.columns]
        places = [names.index(name) for name in reference.columns]
        found = stored.chosen(reference.columns, self.fitting(reference, values))
        while batch := list(islice(found, _TOGETHER)):
            cells = [tuple(row[at] for at in places) for row in batch]
            led = self.led(reference, set(cells))
            there = self._equal(reference, near, values, set(led.values()))
            yield from (row for row, cell in zip(batch, cells, strict=True) if led.get(cell) in there)

    def _rows(
        self, reference: Reference, stored: Looked, by: Sequence[str], values: Collection[Cells], *, wide: bool
    ) -> Iterator[Cells]:
        equalities = self.alike(reference)
        if not values or wide or all(equality == CELLS for equality in equalities):
            yield from stored.rows(by, values) if values else ()
            return
        near = Candidates(equalities, values)
        names = [name for name, _ in stored.columns]
        places = [names.index(name) for name in by]
        found = self._near(stored, by, values, equalities, near)
        while batch := list(islice(found, _TOGETHER)):
            cells = [tuple(row[at] for at in places) for row in batch]
            there = self._equal(reference, near, values, set(cells))
            yield from (row for row, cell in zip(batch, cells, strict=True) if cell in there)

    def _near(
        self,
        stored: Looked,
        by: Sequence[str],
        values: Collection[Cells],
        equalities: Sequence[Equality],
        near: Candidates,
    ) -> Iterator[Cells]:
        """The rows that may be meant: by the columns of which only equal cells are equal, if there are such, or all looked at."""
        plain = [] if self._wide else [at for at, equality in enumerate(equalities) if equality == CELLS]
        if not plain:
            yield from stored.chosen(by, near.fits)
            return
        names = [name for name, _ in stored.columns]
        places = [names.index(name) for name in by]
        some = {tuple(value[at] for at in plain) for value in values}
        for row in stored.rows([by[at] for at in plain], some):
            if near.fits(tuple(row[at] for at in places)):
                yield row

    def _equal(
        self, reference: Reference, near: Candidates, values: Collection[Cells], cells: Iterable[Cells]
    ) -> Collection[Cells]:
        """Which cells equal one of the values."""
        found: set[Cells] = set()
        open_: set[Cells] = set()
        for cell in cells:
            settled = True if cell in values else near.settled(cell)
            if settled is not False:
                (found if settled else open_).add(cell)
        if open_ and self._ask is None:
            self.doubts |= {(reference.table, cell) for cell in open_}
        elif open_ and self._ask is not None:
            numbers = self._ask(reference.parent, reference.parent_columns, {*open_, *values})
            wanted = {numbers[value] for value in values}
            found |= {cell for cell in open_ if numbers[cell] in wanted}
        return found


class _Names:
    """The names of values that are compared in one way."""

    def __init__(self, equalities: Sequence[Equality]) -> None:
        self._equalities = tuple(equalities)
        self.known: dict[Cells, Name] = {}
        self._doubtful: set[Cells] = set()

    def add(self, values: Collection[Cells], ask: Callable[[Collection[Cells]], Mapping[Cells, int]] | None) -> None:
        """Name values that have none yet."""
        new = [value for value in values if value not in self.known]
        before = set(self._doubtful)
        for value in new:
            found = folds(value, self._equalities)
            sure = all(one.sure for one in found)
            self.known[value] = found if sure else value
            if not sure:
                self._doubtful.add(value)
        if ask is None or not new or not self._doubtful:
            return
        # whatever is doubtful was compared with what was known when it came: only pairs with a new value are open
        fresh = self._doubtful - before
        near = Candidates(self._equalities, fresh or self._doubtful)
        some = {value for value in (self.known if fresh else new) if near.fits(value)}
        if fresh and before:
            rest = Candidates(self._equalities, before)
            some |= {value for value in new if rest.fits(value)}
        self._merge(ask(some | self._doubtful), set(new))

    def _merge(self, numbers: Mapping[Cells, int], new: Collection[Cells]) -> None:
        classes: dict[int, list[Cells]] = {}
        for value, number in numbers.items():
            classes.setdefault(number, []).append(value)
        for alike in classes.values():
            old = [value for value in alike if value not in new]
            sure = [value for value in alike if value not in self._doubtful]
            name = self.known[(old or sure or alike)[0]]
            for value in alike:
                self.known[value] = name
