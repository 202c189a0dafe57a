"""Whether rows of a live table are what changes say of them, asked for many rows at once.

A No only means that it has to be asked row by row: whoever does that says what is wrong. Must never take what a database
holds to be equal for the same: cells are compared to the last letter.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from backupd.engines import grouping
from backupd.model import Cell, Cells, Change, LiveTable

Rows = Callable[[str, Sequence[str], Sequence[str], Collection[Cells]], Iterator[Cells]]
"""As `Live.rows`."""


def are_as_before(rows: Rows, table: LiveTable, changes: Sequence[Change]) -> bool:
    """Whether the rows of several deletes are what those expect."""
    if len(changes) < 2 or any(one.kind != "delete" or {*one.key} != {*table.key} for one in changes):
        return False
    return _have(rows, table, {tuple(one.key[name] for name in table.key): one.old for one in changes})


def are_written(rows: Rows, table: LiveTable, changes: Sequence[Change]) -> bool:
    """Whether the rows of several inserts have become what they should."""
    generated = {column.name for column in table.columns if column.generated}
    wanted: dict[Cells, Mapping[str, Cell]] = {}
    for one in changes:
        key = grouping.key_after(one, table.key)
        if key is None or one.kind != "insert" or one.table != table.name:
            return False
        wanted[key] = {name: cell for name, cell in one.new.items() if name not in generated}
    return len(wanted) == len(changes) > 1 and _have(rows, table, wanted)


def _have(rows: Rows, table: LiveTable, wanted: Mapping[Cells, Mapping[str, Cell]]) -> bool:
    """Whether the table's rows of these keys, and no others, hold just these cells."""
    names = tuple(next(iter(wanted.values())))
    if any({*cells} != {*names} for cells in wanted.values()):
        return False
    width, count = len(table.key), 0
    for row in rows(table.name, (*table.key, *names), table.key, wanted):
        cells = wanted.get(row[:width])
        if cells is None or tuple(cells[name] for name in names) != row[width:]:
            return False
        count += 1
    return count == len(wanted)
