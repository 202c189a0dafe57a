"""Rows without a key that lost a reference to a default that is an expression: what stands there now nobody can say before.

Such a row is found by all that it says otherwise: of rows that are equal in everything but what references lose, those that
the snapshot has and the live table has not are gone, and those that only the live table has came. Where as many came as went
of those that differ in nothing but references whose parents are gone, and either side is one row over again, those that came
are those that went. Anything else is told. No message holds a value.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from backupd.model import Cells, Change, Reference
from backupd.records.cells import Exact, exact, same
from backupd.records.closure import Table
from backupd.records.leading import Leading
from backupd.records.liverows import LiveRows, parents_there
from backupd.records.plan import Entry

_ByRest = dict[Exact, Counter[Exact]]
_MOST_PAIRS = 1_000_000


class Defaulted:
    """Finds such rows.

    Args:
        tables: all of them.
        references: all of them.
        live: the live database's rows.
        leading: how values are compared along references.
    """

    def __init__(
        self, tables: Mapping[str, Table], references: Sequence[Reference], live: LiveRows, leading: Leading
    ) -> None:
        self._tables, self._references, self._live, self._leading = tables, references, live, leading

    def settle(self, entries: Sequence[Entry]) -> list[str]:
        """Turn what would come back beside itself into repairs; returns warnings of what only may."""
        by_table: dict[str, list[Entry]] = {}
        for entry in entries:
            if not entry.keyed and entry.op in ("insert", "repair"):
                by_table.setdefault(entry.table, []).append(entry)
        brought = [entry for entry in entries if entry.op == "insert"]
        warnings: list[str] = []
        for name, some in by_table.items():
            losing = [r for r in self._references if r.table == name and {*r.losing} & _varying(self._tables[name])]
            open_ = [e for e in some if e.op == "insert"]
            led = [e for r in losing for e in self._led(r, open_, brought)]
            if led:
                warnings += self._settle(self._tables[name], led, [e for e in some if e.op == "repair"])
        return warnings

    def _led(self, reference: Reference, entries: Sequence[Entry], brought: Iterable[Entry]) -> Iterator[Entry]:
        """Those that refer to a row that is brought back."""
        child, parent = self._tables[reference.table], self._tables.get(reference.parent)
        if parent is None or not child.has(reference.columns) or not parent.has(reference.parent_columns):
            return
        parents = parent.values((e.row for e in brought if e.table == parent.name), reference.parent_columns)
        values = child.values((e.row for e in entries), reference.columns)
        left = self._leading.without(reference, values, parents)
        for entry in entries:
            value = child.cells(entry.row, reference.columns)
            if value in values and value not in left:
                yield entry

    def _settle(self, table: Table, entries: Sequence[Entry], repaired: Sequence[Entry]) -> Iterator[str]:
        ours = [r for r in self._references if r.table == table.name and r.losing and {*r.columns} <= {*table.compared}]
        lost = {column for r in ours for column in r.losing}
        rest = [at for at, column in enumerate(table.compared) if column not in lost]
        by_rest: dict[Exact, list[Entry]] = {}
        for entry in {id(entry): entry for entry in entries}.values():
            by_rest.setdefault(exact(table.cells(entry.row, [table.compared[at] for at in rest])), []).append(entry)
        stored, there = self._both(table, rest, by_rest.keys(), repaired)
        sides = [(stored[said] - there[said], there[said] - stored[said], some) for said, some in by_rest.items()]
        losses = _Losses(table, ours, [_cells(row) for gone, _, _ in sides for row in gone], self._live, self._leading)
        doubtful = sum(_paired(table, losses, *side) for side in sides)
        if doubtful:
            columns = ", ".join(sorted(_varying(table) & lost))
            yield (
                f"{doubtful:,} of {table.name} may be there already with another {columns}: the default there is an expression,"
                " and which rows it was written to cannot be told"
            )

    def _both(
        self, table: Table, rest: Sequence[int], wanted: Iterable[Exact], repaired: Sequence[Entry]
    ) -> tuple[_ByRest, _ByRest]:
        """The rows of both sides that say the same otherwise, without those that are known to be each other's."""
        sides: tuple[_ByRest, _ByRest] = {said: Counter() for said in wanted}, {said: Counter() for said in wanted}

        def is_meant(cells: Cells) -> bool:
            return exact(cells[at] for at in rest) in sides[0]

        def count(side: _ByRest, cells: Cells, times: int) -> None:
            said = exact(cells[at] for at in rest)
            if said in side:
                side[said][exact(cells)] += times

        for row in table.stored.chosen(table.compared, is_meant):
            if table.identity(row) is None:
                count(sides[0], table.cells(row, table.compared), 1)
        for cells in self._live.rows(table.name, table.compared):
            count(sides[1], cells, 1)
        for entry in repaired:
            assert entry.change is not None
            count(sides[0], table.cells(entry.row, table.compared), -1)
            count(sides[1], tuple(entry.change.key[column] for column in table.compared), -1)
        return sides


class _Losses:
    """What rows of the snapshot may have lost: references whose parents are not in the live database now."""

    def __init__(
        self,
        table: Table,
        references: Sequence[Reference],
        rows: Sequence[Cells],
        live: LiveRows,
        leading: Leading,
    ) -> None:
        self._places = {column: at for at, column in enumerate(table.compared)}
        self._columns = {column.name: column for column in table.live.columns}
        self._led: dict[Reference, tuple[list[int], set[Cells]]] = {}
        for r in references:
            places = [self._places[column] for column in r.columns]
            values = {v for row in rows if None not in (v := tuple(row[at] for at in places))}
            self._led[r] = places, values - parents_there(live, leading, r, values)

    def fits(self, gone: Cells, came: Cells) -> bool:
        """Whether all in which a row differs is what a reference of it left behind that was lost."""
        lost: set[int] = set()
        for r, (places, absent) in self._led.items():
            if tuple(gone[at] for at in places) in absent:
                lost |= {self._places[column] for column in r.losing if self._leaves(r, column, came)}
        return all(at in lost or same(gone[at], came[at]) for at in range(len(gone)))

    def _leaves(self, reference: Reference, column: str, came: Cells) -> bool:
        found, told = came[self._places[column]], self._columns[column]
        if reference.on_delete == "set null":
            return found is None
        return told.varying or same(found, told.fallback)


def _paired(table: Table, losses: _Losses, gone: Counter[Exact], came: Counter[Exact], entries: Sequence[Entry]) -> int:
    """Repair what is the same row without doubt; returns how many entries may be there, and it cannot be told as which."""
    if len(gone) * len(came) > _MOST_PAIRS:
        return len(entries)
    fitting = {row: {one for one in came if losses.fits(_cells(row), _cells(one))} for row in gone}
    doubtful = 0
    left = Counter(came)
    for entry in entries:
        row = exact(table.cells(entry.row, table.compared))
        rows, others = _component(row, fitting)
        if not others:
            continue
        if sum(gone[one] for one in rows) != sum(came[one] for one in others) or 1 not in (len(rows), len(others)):
            doubtful += 1
            continue
        taken = next(one for one in others if left[one] > 0)
        left[taken] -= 1
        _repair(table, entry, _cells(taken))
    return doubtful


def _component(row: Exact, fitting: Mapping[Exact, set[Exact]]) -> tuple[set[Exact], list[Exact]]:
    """The rows that may be each other's with this one, directly or by way of others."""
    rows, others = {row}, set(fitting.get(row, ()))
    while new := {one for one, some in fitting.items() if one not in rows and some & others}:
        rows |= new
        others |= {one for some in map(fitting.__getitem__, new) for one in some}
    return rows, sorted(others, key=repr)


def _repair(table: Table, entry: Entry, came: Cells) -> None:
    old = dict(zip(table.compared, came, strict=True))
    wanted = zip(table.compared, table.cells(entry.row, table.compared), strict=True)
    new = {column: cell for column, cell in wanted if not same(cell, old[column])}
    entry.op, entry.columns = "repair", tuple(new)
    entry.change = Change("update", table.name, old, {column: old[column] for column in new}, new)


def _cells(row: Exact) -> Cells:
    return tuple(cell for _, cell in row)


def _varying(table: Table) -> set[str]:
    return {column.name for column in table.live.columns if column.varying}
