"""Which changes of a list depend on later ones: inserts that refer to rows behind them, deletes of rows that later ones refer to.

Pure: knows references and cells, and no database.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

from backupd.model import Cells, Change, Reference


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
