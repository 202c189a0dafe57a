"""Compares the records of a snapshot with those of a live database, one by one; see `plan`.

Nothing here writes, and no message holds a value.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from backupd.model import Cell, Cells, Change, LiveSchema, Reference
from backupd.records.cells import Exact, exact, same
from backupd.records.closure import Name, Rows, Table, Told, unfollowed, up
from backupd.records.defaulted import Defaulted
from backupd.records.leading import Leading
from backupd.records.liverows import LiveRows, count_wholes, look_up, parents_there
from backupd.records.moved import Moving
from backupd.records.plan import CHANGED, Entry, Plan, Rules, Settling, insert_of, write_plan

_TOGETHER = 1000


def make_plan(
    down: Rows,
    schema: LiveSchema,
    references: Sequence[Reference],
    live: LiveRows,
    rules: Rules,
    leading: Leading,
    told: Told = lambda _table, _rows: None,
) -> Plan:
    """The plan that brings rows back, with the parents that they need.

    Args:
        down: the rows that are asked for, from `closure.down`.
        schema: of the live database.
        references: its own, and those that somebody says there are.
        live: its rows, as they are now.
        rules: what somebody said of conflicts.
        leading: how values are compared along references.
        told: told of parents that are found.

    Raises:
        Failed: there are too many rows.
        UsageError, SafetyRefused, BackupdError: as reading raises.
    """
    work = _Judging(down, schema, references, live, rules, leading)
    parents = up(down, references, work.judge, work.present, leading, told=told)
    entries = [*work.entries(down), *work.entries(parents)]
    defaulted = Defaulted(down.tables, references, live, leading).settle(entries)
    moved = Moving(down, references, live, leading).settle(entries, rules)
    work.check_uniques(entries)
    warnings = [
        *unfollowed(down, references),
        *leading.remarks(),
        *defaulted,
        *moved,
        *Settling(down, references, work.present, leading).settle(entries, rules),
    ]
    return write_plan(entries, down.tables, schema, references, rules, leading, warnings)


class _Judging:
    """Everything that is known of the rows so far."""

    def __init__(
        self,
        down: Rows,
        schema: LiveSchema,
        references: Sequence[Reference],
        live: LiveRows,
        rules: Rules,
        leading: Leading,
    ) -> None:
        self._tables, self._schema, self._references = down.tables, schema, references
        self._live, self._rules = live, rules
        self._down, self._leads = down, leading
        self._found: dict[str, dict[Cells, Cells]] = {}
        self._wholes: dict[str, Counter[Exact]] = {}
        self._inserted: dict[str, list[Cells]] = {}
        self._judged: dict[str, dict[Name, list[Entry]]] = {}
        self._exactly: dict[tuple[str, Exact], int] = {}
        self._leading: dict[Reference, set[Cells]] = {}

    def judge(self, rows: Mapping[str, Sequence[Cells]]) -> Mapping[str, Sequence[Cells]]:
        """Compare rows; returns those that will be written."""
        for name, some in rows.items():
            self._look(self._tables[name], some)
        written: dict[str, list[Cells]] = {}
        # whatever is inserted is known before it is asked which references were lost with it
        for name, some in rows.items():
            for row in some:
                if not self._is_there(name, row):
                    self._inserted.setdefault(name, []).append(row)
        self._leading.clear()
        for name, some in rows.items():
            for reference in self._losing(self._tables[name]):  # asked for all of them, and not row by row
                self._leads.led(reference, self._tables[name].values(some, reference.columns))
            for row in some:
                entries = self._entries(self._tables[name], row)
                self._judged.setdefault(name, {})[self._down.name(name, row)] = entries
                if any(entry.change is not None for entry in entries):
                    written.setdefault(name, []).append(row)
        self._found.clear()  # each row is judged once
        return written

    def present(self, reference: Reference, wanted: Collection[Cells]) -> Collection[Cells]:
        """Values of a reference whose parents are in the live database."""
        if reference.parent not in self._schema.tables:
            return ()
        return parents_there(self._live, self._leads, reference, wanted)

    def entries(self, rows: Rows) -> Iterator[Entry]:
        """What becomes of rows, table by table."""
        for table, some in rows.found.items():
            judged = self._judged.get(table, {})
            for name in some:
                yield from judged.get(name, ())

    # ---- one table

    def _look(self, table: Table, rows: Sequence[Cells]) -> None:
        keys = {key: row for row in rows if (key := table.identity(row)) is not None}
        names = list(keys)
        for at in range(0, len(names), _TOGETHER):
            some = names[at : at + _TOGETHER]
            found = look_up(self._live, table.name, table.compared, table.key, some)
            self._found.setdefault(table.name, {}).update((key, rows[0]) for key, rows in found.items())
        wholes = [row for row in rows if table.identity(row) is None]
        if not wholes:
            return
        losing = self._losing(table)
        wanted = {exact(cells) for row in wholes for cells in self._variants(table, row, losing)}
        counts = count_wholes(self._live, table, wanted)
        self._wholes[table.name] = counts
        for row in wholes:  # what is there as it was, before anything is taken for a row that lost a reference
            cells = exact(table.cells(row, table.compared))
            there = self._exactly[table.name, exact(row)] = min(self._times(table, row), counts[cells])
            counts[cells] -= there

    def _variants(self, table: Table, row: Cells, losing: Sequence[Reference]) -> Iterator[Cells]:
        """A row as it is, and as it would be after a parent, or all of them, were deleted."""
        cells = table.cells(row, table.compared)
        yield cells
        lost = [self._lost(table, reference) for reference in losing]
        whole = {column: value for one in lost for column, value in one.items()}
        for one in [whole, *lost] if len(lost) > 1 else lost:
            yield tuple(one.get(c, v) for c, v in zip(table.compared, cells, strict=True))

    def _is_there(self, name: str, row: Cells) -> bool:
        key = self._tables[name].identity(row)
        return self._exactly[name, exact(row)] > 0 if key is None else key in self._found.get(name, {})

    def _entries(self, table: Table, row: Cells) -> list[Entry]:
        key = table.identity(row)
        if key is None:
            return list(self._whole(table, row))
        live = self._found.get(table.name, {}).get(key)
        if live is None:
            return [Entry("insert", table.name, row, True, change=insert_of(table, row, self._rules))]
        return [self._met(table, row, dict(zip(table.compared, live, strict=True)))]

    def _whole(self, table: Table, row: Cells) -> Iterator[Entry]:
        """A row without a key, as often as the snapshot has it."""
        times, there = self._times(table, row), self._exactly[table.name, exact(row)]
        yield from (Entry("same", table.name, row, False) for _ in range(there))
        counts = self._wholes[table.name]
        cells = table.cells(row, table.compared)
        losing = [r for r in self._losing(table) if self._is_brought(table.cells(row, r.columns), r)]
        for variant in list(self._variants(table, row, losing))[1:]:
            found = min(times - there, counts[exact(variant)])
            counts[exact(variant)] -= found
            there += found
            old = dict(zip(table.compared, variant, strict=True))
            new = {c: v for c, v in zip(table.compared, cells, strict=True) if not same(v, old[c])}
            change = Change("update", table.name, old, {column: old[column] for column in new}, new)
            yield from (
                Entry("repair", table.name, row, False, columns=tuple(new), change=change) for _ in range(found)
            )
        change = insert_of(table, row, self._rules)
        yield from (Entry("insert", table.name, row, False, change=change) for _ in range(times - there))

    def _times(self, table: Table, row: Cells) -> int:
        found = self._down.found.get(table.name, {}).get((False, exact(row)))
        return found[1] if found else 1

    def _met(self, table: Table, row: Cells, live: Mapping[str, Cell]) -> Entry:
        """A row that is there under its key."""
        wanted = dict(zip(table.compared, table.cells(row, table.compared), strict=True))
        differing = [column for column in table.compared if not same(wanted[column], live[column])]
        if not differing:
            return Entry("same", table.name, row, True)
        repaired = self._repaired(table, wanted, live)
        policy = self._rules.of(table.name)
        forced = {c for c in differing if (table.name, c) in self._rules.columns or policy == "overwrite"}
        forced -= {*repaired, *table.key}
        rest = tuple(c for c in differing if c not in repaired and c not in forced)
        if rest and (policy != "skip" or set(rest) & set(table.key)):
            return Entry("conflict", table.name, row, True, CHANGED, rest)
        chosen = tuple(c for c in differing if c in repaired or c in forced)
        if not chosen:
            return Entry("skip", table.name, row, True, CHANGED, rest)
        key = dict(zip(table.key, table.cells(row, table.key), strict=True))
        change = Change("update", table.name, key, {c: live[c] for c in chosen}, {c: wanted[c] for c in chosen})
        return Entry("update" if forced else "repair", table.name, row, True, columns=chosen, change=change)

    # ---- references that were lost

    def _losing(self, table: Table) -> list[Reference]:
        """References of a table that a database takes away when their parent is deleted, and leaves what is known in them."""
        varying = {column.name for column in table.live.columns if column.varying}
        return [
            r
            for r in self._references
            if r.table == table.name and r.losing and set(r.columns) <= {*table.compared}
            if r.on_delete == "set null" or varying.isdisjoint(r.losing)
        ]

    def _lost(self, table: Table, reference: Reference) -> dict[str, Cell]:
        """What stands in the columns that a reference loses when its parent is deleted."""
        if reference.on_delete == "set null":
            return dict.fromkeys(reference.losing)
        return {c.name: c.fallback for c in table.live.columns if c.name in reference.losing}

    def _is_brought(self, value: Cells, reference: Reference) -> bool:
        """Whether the parent that a reference leads to is among the rows that are brought back."""
        parent = self._tables.get(reference.parent)
        if None in value or parent is None or not parent.has(reference.parent_columns):
            return False
        if reference not in self._leading:
            rows = self._inserted.get(parent.name, ())
            self._leading[reference] = parent.values(rows, reference.parent_columns)
        return not self._leads.without(reference, {value}, self._leading[reference])

    def _repaired(self, table: Table, wanted: Mapping[str, Cell], live: Mapping[str, Cell]) -> set[str]:
        """Columns that differ only since the parent that is brought back was deleted."""
        found: set[str] = set()
        for reference in self._losing(table):
            if not self._is_brought(tuple(wanted[column] for column in reference.columns), reference):
                continue
            lost = self._lost(table, reference)
            apart = {c for c in reference.losing if not same(wanted[c], live[c])}
            if all(same(live[c], lost[c]) for c in apart):
                found |= apart
        return found

    # ---- what may stand there once only

    def check_uniques(self, entries: Sequence[Entry]) -> None:
        """Turn what would meet another row's unique columns into conflicts."""
        by_table: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.change is not None:
                by_table.setdefault(entry.table, []).append(entry)
        for name, some in by_table.items():
            table = self._tables[name]
            for columns in dict.fromkeys((*table.live.uniques, *((table.live.key,) if table.live.key else ()))):
                self._unique(table, columns, some)

    def _unique(self, table: Table, columns: tuple[str, ...], entries: Iterable[Entry]) -> None:
        if columns == table.key:
            return
        taking: dict[Cells, list[Entry]] = {}
        for entry in entries:
            value = _taken(table, entry, columns)
            if value is not None:
                taking.setdefault(value, []).append(entry)
        there = look_up(self._live, table.name, table.key, columns, taking) if taking else {}
        for value, some in taking.items():
            others = [
                key for key in there.get(value, []) if not table.key or key != table.cells(some[0].row, table.key)
            ]
            for entry in some[1:] if not others else some:
                policy = self._rules.of(table.name)
                entry.op = "skip" if policy == "skip" else "conflict"
                entry.reason = f"another row has the same {', '.join(columns)}"
                entry.columns, entry.change = columns, None


def _taken(table: Table, entry: Entry, columns: Sequence[str]) -> Cells | None:
    """What a record would have in unique columns; None where it writes none of them, or NULL."""
    assert entry.change is not None
    new = entry.change.new
    if not set(columns) & set(new):
        return None
    value = tuple(new[c] if c in new else entry.row[table.places[c]] if c in table.places else None for c in columns)
    return None if None in value else value
