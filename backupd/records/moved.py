"""Records that are not there under their key, but under another one: where a key moves, what refers to it moves along.

ON UPDATE CASCADE changes referring rows with the key that they refer to. A record whose key moved so would come back beside
itself. That it moved is taken for proven where a row that referred to it refers now to a row that the snapshot does not have
and that says the same otherwise; where only that row is there, it is told. Never reads a whole table but one whose keys people
give themselves. No message holds a value.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from backupd.model import Cell, Cells, LiveTable, Reference
from backupd.records.cells import same
from backupd.records.closure import Name, Rows, Table
from backupd.records.leading import Leading
from backupd.records.liverows import LiveRows, look_up
from backupd.records.plan import Entry, Rules

MOVED = "it is there under another key: what referred to it refers to a row now that is the same otherwise"
_SIBLINGS = 10_000
"""So many rows that refer to records of one table are looked at: one is enough."""
_FEW = 100
"""So many records at most are looked for by what they say: databases have no index for that."""


class Moving:
    """Finds such records.

    Args:
        down: the rows that are asked for.
        references: all of them.
        live: the live database's rows.
        leading: how values are compared along references.
    """

    def __init__(self, down: Rows, references: Sequence[Reference], live: LiveRows, leading: Leading) -> None:
        self._down, self._live, self._leading = down, live, leading
        self._moving = [r for r in references if r.moving and r.declared]
        self._gone: dict[str, set[Name]] = {}

    def settle(self, entries: Sequence[Entry], rules: Rules) -> list[str]:
        """Turn what would come back beside itself into conflicts; returns warnings of what only may."""
        gone: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.op == "insert" and entry.keyed:
                gone.setdefault(entry.table, []).append(entry)
        self._gone = {name: {self._down.name(name, e.row) for e in some} for name, some in gone.items()}
        return [text for name, some in gone.items() for text in self._settle(self._down.tables[name], some, rules)]

    def _settle(self, table: Table, entries: Sequence[Entry], rules: Rules) -> Iterator[str]:
        along = [
            r
            for r in self._moving
            if r.parent == table.name and {*r.parent_columns} & {*table.key} and table.has(r.parent_columns)
        ]
        if not along or rules.of(table.name) == "overwrite":
            return
        kept = {column for r in self._moving if r.table == table.name for column in r.columns} | {*table.key}
        proven = [
            e for r in along for e in self._proven(table, r, entries, [c for c in table.compared if c not in kept])
        ]
        for entry in proven:
            entry.op = "skip" if rules.of(table.name) == "skip" else "conflict"
            entry.reason, entry.columns, entry.change = MOVED, table.key, None
        rest = [entry for entry in entries if entry.change is not None] if _is_given(table.live) else []
        if count := sum(1 for _ in self._alike(table, rest[:_FEW])):
            yield (
                f"{count:,} of {table.name} may be there under another key already: a row that the snapshot does not have is the"
                " same in all other columns"
            )
        if len(rest) > _FEW:
            yield f"{len(rest) - _FEW:,} of {table.name} were not looked for under other keys: see that none of these changed"

    # ---- by what refers

    def _proven(
        self, table: Table, reference: Reference, entries: Sequence[Entry], others: Sequence[str]
    ) -> Iterator[Entry]:
        child = self._down.tables.get(reference.table)
        if child is None or not child.has(reference.columns) or not child.key or {*child.key} & {*reference.columns}:
            return
        by_value = {v: e for e in entries if None not in (v := table.cells(e.row, reference.parent_columns))}
        led = self._led_elsewhere(child, reference, by_value)
        columns = (*table.key, *others)
        found = look_up(
            self._live, table.name, columns, reference.parent_columns, {v for some in led.values() for v in some}
        )
        met = {value: row for value, rows in found.items() for row in rows}
        new = self._unknown(table, (row[: len(table.key)] for row in met.values()))
        for value, there in led.items():
            wanted = table.cells(by_value[value].row, others)
            rows = (met[one] for one in there if one in met)
            if any(row[: len(table.key)] in new and _equal(row[len(table.key) :], wanted) for row in rows):
                yield by_value[value]

    def _led_elsewhere(
        self, child: Table, reference: Reference, wanted: Mapping[Cells, Entry]
    ) -> dict[Cells, set[Cells]]:
        """By the parents' values, where rows that referred to them refer now."""
        gone = self._gone.get(child.name, set())
        rows = (r for r in self._siblings(child, reference, wanted) if self._down.name(child.name, r) not in gone)
        siblings = {key: row for row in rows if (key := child.identity(row))}
        led = {key: child.cells(row, reference.columns) for key, row in siblings.items()}
        names, parents = self._leading.sides(reference, {*led.values()}, {*wanted})
        of = {name: value for value, name in parents.items()}
        found: dict[Cells, set[Cells]] = {}
        there = look_up(self._live, child.name, reference.columns, child.key, led)
        now = {key: rows[0] for key, rows in there.items() if None not in rows[0]}
        become = self._leading.led(reference, {*now.values()})
        for key, value in now.items():
            was = of.get(names.get(led[key]))
            if was is not None and value in become and not _equal(value, led[key]):
                found.setdefault(was, set()).add(become[value])
        return found

    def _siblings(self, child: Table, reference: Reference, wanted: Mapping[Cells, Entry]) -> Iterable[Cells]:
        """Rows of the snapshot that refer to records."""
        known = self._down.found.get(reference.parent, {})
        if self._down.whole and all(self._down.name(reference.parent, e.row) in known for e in wanted.values()):
            return self._down.of(child.name)
        return islice(self._leading.children(reference, child.stored, {*wanted}), _SIBLINGS)

    # ---- by what they say

    def _alike(self, table: Table, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Those of which a row with a key that the snapshot does not have is the same in all other columns."""
        others = [c for c in table.compared if c not in table.key]
        groups: dict[tuple[str, ...], dict[Cells, list[Entry]]] = {}
        for entry in entries:
            said = {c: cell for c, cell in zip(others, table.cells(entry.row, others), strict=True) if cell is not None}
            if said:
                groups.setdefault(tuple(said), {}).setdefault(tuple(said.values()), []).append(entry)
        for by, wanted in groups.items():
            found = look_up(self._live, table.name, (*table.key, *others), by, wanted)
            new = self._unknown(table, (row[: len(table.key)] for rows in found.values() for row in rows))
            for value, rows in found.items():
                for entry in wanted[value]:
                    cells = table.cells(entry.row, others)
                    if any(row[: len(table.key)] in new and _equal(row[len(table.key) :], cells) for row in rows):
                        yield entry

    def _unknown(self, table: Table, keys: Iterable[Cells]) -> set[Cells]:
        """The keys that the snapshot does not have."""
        wanted = {*keys}
        itself = Reference("", table.name, table.key, table.name, table.key)
        there = {table.cells(row, table.key) for row in self._leading.parents(itself, table.stored, wanted)}
        return self._leading.without(itself, wanted, there)


def _is_given(table: LiveTable) -> bool:
    """Whether people give the table's keys, and not the database."""
    return not any(c.default or c.counter or c.identity for c in table.columns if c.name in table.key)


def _equal(one: Sequence[Cell], other: Sequence[Cell]) -> bool:
    return all(map(same, one, other))
