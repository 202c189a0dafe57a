"""Which changes of a list depend on later ones: inserts that refer to rows behind them, deletes of rows that later ones refer to;
and which of the others one statement can do together.

Pure: knows references and cells, and no database.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise

from backupd.model import Cells, Change, LiveTable, Reference

_ROWS, _SIZE = {"insert": 200, "delete": 50}, 1 << 18
"""One statement does so many changes at most, of so many bytes: a delete compares each row that it finds with each it means."""


def dependencies(run: Sequence[Change], references: Iterable[Reference]) -> list[list[int]]:
    """Of each change, the places of those that must not come after it; all of them are inserts, or all deletes."""
    found: list[list[int]] = [[] for _ in run]
    tables = {change.table for change in run}
    for reference in references:
        if not {reference.table, reference.parent} <= tables:
            continue
        parents = {
            cells_of(change, reference.parent_columns): place
            for place, change in enumerate(run)
            if change.table == reference.parent
        }
        for child, change in enumerate(run):
            cells = cells_of(change, reference.columns)
            if change.table != reference.table or None in cells or (parent := parents.get(cells)) in (None, child):
                continue
            assert parent is not None
            first, then = (parent, child) if change.kind == "insert" else (child, parent)
            found[then].append(first)
    return found


def runs(changes: Sequence[Change]) -> Iterable[Sequence[Change]]:
    """The changes parted where their kind changes; each update by itself."""
    start = 0
    while start < len(changes):
        end = start + 1
        kind = changes[start].kind
        while kind != "update" and end < len(changes) and changes[end].kind == kind:
            end += 1
        yield changes[start:end]
        start = end


def parts(needed: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Beginnings and ends of parts so that no change depends on one of a later part."""
    cuts, reach = [0], 0
    for place, others in enumerate(needed):
        if place > reach:
            cuts.append(place)
        reach = max((reach, place, *others))
    return list(pairwise([*cuts, len(needed)])) if needed else []


def bundles(
    run: Sequence[Change], of: Sequence[tuple[int, int]], alike: Callable[[Change], object]
) -> Iterator[tuple[int, int, bool]]:
    """Parts, neighbours of one change each put together as far as one statement can do them; says which were put together.

    Args:
        run: the changes.
        of: their parts, as `parts` gives them.
        alike: the same for changes that can be put together; None for one that stands by itself.
    """
    at = 0
    while at < len(of):
        first, last = of[at]
        at += 1
        name = alike(run[first]) if last == first + 1 else None
        size = _size(run[first])
        while name is not None and at < len(of) and last - first < _ROWS[run[first].kind] and of[at][1] == last + 1:
            size += _size(run[last])
            if size > _SIZE or alike(run[last]) != name:
                break
            last, at = last + 1, at + 1
        yield first, last, last > first + 1 and name is not None


def bundled(change: Change, table: LiveTable, references: Iterable[Reference]) -> object:
    """What `alike` of `bundles` may say of a change: inserts of the same columns, and deletes by key of rows of one table.

    A table that refers to itself loses its rows one by one: what a database does by itself at a delete would be in their midst.
    """
    if change.kind == "insert" and change.new:
        return change.table, frozenset(change.new)
    itself = any(change.table == r.table == r.parent for r in references)
    by_key = bool(table.key) and {*change.key} == {*table.key}
    return change.table if change.kind == "delete" and by_key and not itself else None


def _size(change: Change) -> int:
    cells = (*change.new.values(), *change.old.values())
    return sum(len(cell) if isinstance(cell, bytes) else 8 for cell in cells)


def cells_of(change: Change, names: Sequence[str]) -> Cells:
    """The cells of some columns; of a column that is not named, NULL."""
    cells = change.new if change.kind != "delete" else {**change.key, **change.old}
    return tuple(cells.get(name) for name in names)


def key_after(change: Change, key: Sequence[str]) -> Cells | None:
    """The key's cells when the change was made; None if they are not all known, or the row is gone."""
    cells = {**change.key, **change.new}
    found = tuple(cells.get(name) for name in key)
    return None if change.kind == "delete" or not found or None in found else found


def batches(values: Collection[Cells], count: int, size: int) -> Iterator[list[Cells]]:
    """The values, so many or of so many bytes at a time."""
    batch: list[Cells] = []
    taken = 0
    for value in values:
        batch.append(value)
        taken += sum(len(cell) for cell in value if isinstance(cell, bytes))
        if len(batch) >= count or taken >= size:
            yield batch
            batch, taken = [], 0
    if batch:
        yield batch
