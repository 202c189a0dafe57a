"""What a live database has of the rows that a plan is about: looked up by key, by other columns, or counted as wholes."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from backupd.model import Cell, Cells, Reference
from backupd.records.cells import Exact, exact
from backupd.records.closure import Table
from backupd.records.leading import Leading, Name


class LiveRows(Protocol):
    """The rows of a live database."""

    def rows(
        self, table: str, columns: Sequence[str], by: Sequence[str] = (), values: Collection[Cells] = ()
    ) -> Iterator[Cells]:
        """Rows whose columns `by` equal one of `values`; all rows if `by` is empty."""


def look_up(
    live: LiveRows, table: str, columns: Sequence[str], by: Sequence[str], values: Collection[Cells]
) -> dict[Cells, list[Cells]]:
    """Rows by the value asked for, as the database itself compares: its equality may be wider than that of cells.

    Rows that come back under another spelling (of another case, say) are asked for once more, value by value.
    """
    wanted, width = set(values), len(by)
    found: dict[Cells, list[Cells]] = {}
    others: set[Cells] = set()
    if not wanted:
        return found
    for row in live.rows(table, (*by, *columns), by, wanted):
        value = row[:width]
        if value in wanted:
            found.setdefault(value, []).append(row[width:])
        else:
            others.add(value)
    folded = {_folded(value) for value in found}
    again = {value for value in wanted - found.keys() if others or _folded(value) in folded}
    for value in again | _spelled_otherwise(others, wanted):
        rows = [row[width:] for row in live.rows(table, (*by, *columns), by, [value])]
        if rows:
            found[value] = rows
    return found


def children_of(
    live: LiveRows, leading: Leading, reference: Reference, columns: Sequence[str], values: Collection[Cells]
) -> dict[Cells, list[Cells]]:
    """Some columns of the live rows that belong to parents, by the parents' values."""
    if leading.is_column(reference):
        return look_up(live, reference.table, columns, reference.columns, values)
    # a column that compares in another way than its parent's cannot be asked for what belongs to that
    fits, width = leading.fitting(reference, values), len(reference.columns)
    rows = live.rows(reference.table, (*reference.columns, *columns))
    found = [row for row in rows if None not in row[:width] and fits(row[:width])]
    names, parents = leading.sides(reference, {row[:width] for row in found}, values)
    by_name: dict[Name, list[Cells]] = {}
    for row in found:
        if row[:width] in names:
            by_name.setdefault(names[row[:width]], []).append(row[width:])
    return {value: by_name[name] for value, name in parents.items() if name in by_name}


def parents_there(live: LiveRows, leading: Leading, reference: Reference, values: Collection[Cells]) -> set[Cells]:
    """Which of the referring side's values have a parent in the live database."""
    led = leading.led(reference, values)
    found = look_up(live, reference.parent, (), reference.parent_columns, set(led.values()))
    return {value for value, parent in led.items() if parent in found}


def _spelled_otherwise(others: Collection[Cells], wanted: Collection[Cells]) -> set[Cells]:
    """The values that rows with these other ones may have been found by; all of them, where it is no matter of case."""
    spellings = {_folded(other) for other in others}
    alike = {value for value in wanted if _folded(value) in spellings}
    return alike if spellings <= {_folded(value) for value in alike} else set(wanted)


def _folded(cells: Cells) -> tuple[object, ...]:
    def fold(cell: Cell) -> object:
        text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
        return text.casefold().rstrip() if isinstance(text, str) else text

    return tuple(map(fold, cells))


def count_wholes(live: LiveRows, table: Table, wanted: Collection[Exact]) -> Counter[Exact]:
    """How often the live table has rows, by all compared columns; reads all of it, for NULL cannot be looked up."""
    found: Counter[Exact] = Counter()
    if wanted:
        for row in live.rows(table.name, table.compared):
            cells = exact(row)
            if cells in wanted:
                found[cells] += 1
    return found
