"""Which rows belong to a subject: down from its row along references, whatever refers to a row that was reached.

A row that would only lose its reference (ON DELETE SET NULL) stays, and is not followed; what it refers by is told. Nothing
here knows where rows come from. Must never put a cell into a message.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backupd.errors import Failed
from backupd.model import Cells, Reference

MOST_ROWS = 2_000_000
"""So many rows of one subject at most: it is probably not what was meant."""
Look = Callable[[Reference, Collection[Cells]], Iterable[Cells]]
"""The rows that refer to one of some values along a reference, however they spell it."""
_EMPTYING = frozenset({"set null", "set default"})


@dataclass(frozen=True, slots=True)
class Belongings:
    """What belongs to a subject.

    Attributes:
        rows: of each table, its rows; those that are equal in everything stand there once.
        deleting: of each reference along which rows go, the values that lead to rows that go, in all spellings that were met.
        emptying: the same of references that would become NULL.
    """

    rows: Mapping[str, Collection[Cells]] = field(repr=False)
    deleting: Mapping[Reference, set[Cells]] = field(repr=False)
    emptying: Mapping[Reference, set[Cells]] = field(repr=False)


def follow_down(
    table: str,
    rows: Iterable[Cells],
    columns: Mapping[str, Sequence[str]],
    references: Iterable[Reference],
    look: Look,
    is_plain: Callable[[Reference], bool] = lambda _reference: True,
    is_own: Callable[[Reference], bool] = lambda _reference: False,
) -> Belongings:
    """Everything that belongs to some rows of a table, themselves included.

    Args:
        table: their table.
        rows: where to begin.
        columns: of each table that there is, in its rows' order.
        references: what refers to what; those of tables or columns that are not there are passed over.
        look: finds rows.
        is_plain: whether a reference's values are spelled in one way only.
        is_own: whether its table spells them in a way of its own, so that the parents' spellings mean nothing there.

    Raises:
        Failed: far too many rows were reached.
    """
    down: dict[str, list[Reference]] = {}
    for reference in references:
        if _fits(reference, columns):
            down.setdefault(reference.parent, []).append(reference)
    met: dict[str, dict[object, Cells]] = {}
    deleting: dict[Reference, set[Cells]] = {}
    emptying: dict[Reference, set[Cells]] = {}
    waiting = [(table, list(rows))]
    count = 0
    while waiting:
        name, found = waiting.pop()
        known = met.setdefault(name, {})
        fresh = {key: row for row in found if (key := _identity(row)) not in known}
        known.update(fresh)
        count += len(fresh)
        if count > MOST_ROWS:
            raise Failed(f"more than {MOST_ROWS:,} rows belong to it, or are referred to from them: that is no one's")
        for reference in down.get(name, []) if fresh else ():
            places = [columns[name].index(column) for column in reference.parent_columns]
            values = {tuple(row[at] for at in places) for row in fresh.values()}
            values = {value for value in values if None not in value}
            stays = reference.on_delete in _EMPTYING
            leading = (emptying if stays else deleting).setdefault(reference, set())
            if not is_own(reference):
                leading.update(values)
            if not values or (stays and is_plain(reference)):
                continue
            below = list(look(reference, values))
            if not is_plain(reference):
                places = [columns[reference.table].index(column) for column in reference.columns]
                leading.update(tuple(row[at] for at in places) for row in below)
            if not stays:
                waiting.append((reference.table, below))
    return Belongings({name: list(known.values()) for name, known in met.items() if known}, deleting, emptying)


def _fits(reference: Reference, columns: Mapping[str, Sequence[str]]) -> bool:
    sides = (reference.table, reference.columns), (reference.parent, reference.parent_columns)
    return all(name in columns and set(wanted) <= set(columns[name]) for name, wanted in sides)


def _identity(row: Cells) -> object:
    """What tells rows apart: 1 and 1.0 are two."""
    return tuple((type(cell), cell) for cell in row)
