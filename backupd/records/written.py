"""What changes come to in a live database: what stood there before them, and what their rows are afterwards in all columns.

The plan knows the snapshot's columns only. A live table may have more of them, and triggers may write what they like. So that
an undo takes back all that came, and nothing that it does not know, changes are told once more from the rows as they stand.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from backupd.errors import SafetyRefused
from backupd.model import Cell, Cells, Change, LiveSchema, LiveTable
from backupd.records.cells import Exact, exact, same
from backupd.records.liverows import LiveRows, look_up

_Row = Mapping[str, Cell]
_Told = tuple[tuple[Change, ...], tuple[int | None, ...]]


def writable(table: LiveTable) -> tuple[str, ...]:
    """The columns whose values are somebody's, and not the database's own."""
    return tuple(column.name for column in table.columns if not column.generated)


def is_keyed(table: LiveTable, change: Change) -> bool:
    """Whether a change's row is known by its key, and not as a whole."""
    return bool(table.key) and {*change.key} == {*table.key}


def _before(change: Change) -> _Row:
    return {} if change.kind == "insert" else {**change.key, **change.old}


def _after(change: Change) -> _Row:
    return {} if change.kind == "delete" else {**change.key, **change.old, **change.new}


class Written:
    """Changes that are going to be carried out.

    Args:
        changes: in their order.
        schema: of the live database.
        live: its rows, before anything is changed.
        triggers: whether triggers run.
    """

    def __init__(self, changes: Sequence[Change], schema: LiveSchema, live: LiveRows, *, triggers: bool = True) -> None:
        self._schema = schema
        self._triggers = triggers
        by_table: dict[str, list[int]] = {}
        for place, change in enumerate(changes):
            by_table.setdefault(change.table, []).append(place)
        self._changes = tuple(changes)
        self._keyed: dict[str, list[int]] = {}
        self._whole: dict[str, list[int]] = {}
        self._open = set()
        # a trigger may write to any of the others
        has_triggers = any(schema.tables[name].triggers for name in by_table)
        for name, places in by_table.items():
            table = schema.tables[name]
            keyed = [place for place in places if is_keyed(table, changes[place])]
            self._keyed[name] = keyed
            if len(keyed) < len(places):
                self._whole[name] = [place for place in places if not is_keyed(table, changes[place])]
            if has_triggers or any(not self._says_all(changes[place]) for place in places):
                self._open.add(name)
        self._rows = {name: self._read(name, live) for name in self._open}
        self._wholes = {name: self._read_wholes(name, live) for name in self._whole}
        self.standing = self._count()
        """Of each row without a key that comes or goes, how many equal ones stand there before; of all other changes None."""

    def _says_all(self, change: Change) -> bool:
        """Whether a change itself says all that becomes of its row."""
        table = self._schema.tables[change.table]
        known = {**change.key, **change.old, **change.new}
        return (change.kind == "update" and is_keyed(table, change)) or {*writable(table)} <= {*known}

    def _read(self, name: str, live: LiveRows) -> dict[Cells, _Row]:
        """The rows of a table that changes are about, by their keys, as they are now."""
        table, columns = self._schema.tables[name], writable(self._schema.tables[name])
        keys = set()
        for place in self._keyed[name]:
            change = self._changes[place]
            keys |= {_key(table, change.key), _key(table, {**change.key, **change.new})}
        found = look_up(live, name, columns, table.key, keys) if keys else {}
        return {key: dict(zip(columns, rows[0], strict=True)) for key, rows in found.items()}

    def _read_wholes(self, name: str, live: LiveRows) -> "_Wholes":
        table = self._schema.tables[name]
        changes = [self._changes[place] for place in self._whole[name]]
        return _Wholes.read(table, None if self._triggers and table.triggers else changes, live)

    def _count(self) -> tuple[int | None, ...]:
        found: list[int | None] = [None] * len(self._changes)
        for name, places in self._whole.items():
            moved: Counter[tuple[tuple[str, ...], Exact]] = Counter()
            for place in places:
                change = self._changes[place]
                if change.kind == "update":
                    continue
                cells = _before(change) or _after(change)
                columns = tuple(sorted(cells))
                row = exact(cells[c] for c in columns)
                found[place] = self._wholes[name].count(columns, row) + moved[columns, row]
                moved[columns, row] += 1 if change.kind == "insert" else -1
        return tuple(found)

    def told(self, live: LiveRows) -> _Told | None:
        """The changes as they came about, and how many equal rows stood there; None if all is as it was planned.

        Args:
            live: the rows, now that everything was carried out.

        Raises:
            SafetyRefused: a row is not there as it was written, so that nobody could find it again.
        """
        changes, standing = list(self._changes), list(self.standing)
        for name in sorted({*self._open, *self._whole}):
            now = self._read(name, live) if name in self._open else {}
            for place, change in self._told_keyed(name, now) if name in self._open else ():
                changes[place] = change
            if name not in self._whole:
                continue
            places = self._whole[name]
            again = self._wholes[name].told([changes[n] for n in places], self._read_wholes(name, live))
            for place, (change, count) in zip(places, again, strict=True):
                changes[place] = change
                standing[place] = standing[place] if count is None else count
        return (tuple(changes), tuple(standing)) if self._open else None

    def _told_keyed(self, name: str, now: Mapping[Cells, _Row]) -> Iterator[tuple[int, Change]]:
        table, before = self._schema.tables[name], self._rows[name]
        by_key: dict[Cells, list[int]] = {}
        for place in self._keyed[name]:
            by_key.setdefault(_key(table, self._changes[place].key), []).append(place)
        for key, places in by_key.items():
            for place in places:
                change = self._changes[place]
                # what another change of the same row writes is that one's to tell
                others = {column for n in places if n != place for column in self._changes[n].new}
                was, there = before.get(key), now.get(_key(table, {**change.key, **change.new}))
                if there is None and change.kind != "delete" and place == places[-1]:
                    raise _lost(name)
                yield place, _retold(change, was, there, others)


def _lost(table: str) -> SafetyRefused:
    return SafetyRefused(
        f"{table}: a row would not be there as it was written: nothing was written",
        object_name=table,
        hint="a trigger makes another row of it, or a column's type another value: see --triggers, and compare the types",
    )


def _cells_of(cells: _Row) -> tuple[tuple[str, ...], Exact]:
    names = tuple(sorted(cells))
    return names, exact(cells[name] for name in names)


def _key(table: LiveTable, cells: _Row) -> Cells:
    return tuple(cells[name] for name in table.key)


def _retold(change: Change, was: _Row | None, now: _Row | None, others: Collection[str]) -> Change:
    """A change of a row with a key, in all columns."""
    if change.kind == "insert" and now is not None:
        return replace(change, new={c: change.new.get(c) if c in others else v for c, v in now.items()})
    if change.kind == "delete" and was is not None and not others:
        return replace(change, old=dict(was))
    if change.kind == "update" and was is not None and now is not None and not others:
        return _apart(change, change.key, was, now)
    return change


def _apart(change: Change, key: _Row, was: _Row, now: _Row) -> Change:
    names = [c for c in now if c in change.new or not same(was[c], now[c])]
    return replace(change, key=key, old={c: was[c] for c in names}, new={c: now[c] for c in names})


class _Wholes:
    """Rows of a table, as wholes, that changes may be about, each with how often it stands there.

    Args:
        columns: of the rows.
        rows: the rows.
        table: whose they are.
    """

    def __init__(self, columns: tuple[str, ...], rows: Counter[Exact], table: str = "") -> None:
        self.columns, self.rows, self._table = columns, rows, table
        self._places: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._indexed: dict[tuple[str, ...], dict[Exact, list[Exact]]] = {}

    @classmethod
    def read(cls, table: LiveTable, changes: Iterable[Change] | None, live: LiveRows) -> "_Wholes":
        """Those that are what a change says in all columns that it names, before or after; None for all that there are.

        Reads all of the table.
        """
        columns = writable(table)
        wanted: dict[tuple[int, ...], set[Exact]] = {}
        for change in changes or ():
            for cells in filter(None, (_before(change), _after(change))):
                places = tuple(at for at, name in enumerate(columns) if name in cells)
                wanted.setdefault(places, set()).add(exact(cells[columns[at]] for at in places))
        found: Counter[Exact] = Counter()
        for row in live.rows(table.name, columns):
            if changes is None or any(exact(row[at] for at in places) in some for places, some in wanted.items()):
                found[exact(row)] += 1
        return cls(columns, found, table.name)

    def having(self, names: tuple[str, ...], row: Exact) -> list[Exact]:
        """The rows that have these cells in some columns."""
        if names not in self._indexed:
            index = self._indexed[names] = {}
            places = [self.columns.index(name) for name in names]
            for one in self.rows:
                index.setdefault(tuple(one[at] for at in places), []).append(one)
        return self._indexed[names].get(row, [])

    def count(self, names: tuple[str, ...], row: Exact) -> int:
        """How many rows have these cells in some columns."""
        return sum(self.rows[one] for one in self.having(names, row))

    def told(self, changes: Sequence[Change], now: "_Wholes") -> Iterator[tuple[Change, int | None]]:
        """Changes with all columns of the rows that came and went, and how many equal ones stood there before each.

        Raises:
            SafetyRefused: a row that was written is not among those that came.
        """
        standing = Counter(self.rows)
        for change, old, new in self._paired(changes, now):
            if (_before(change) and old is None) or (_after(change) and new is None):
                yield change, None
                continue
            count = standing[old or new or ()]
            standing[old or ()] -= 1
            standing[new or ()] += 1
            was, now_ = self._cells(old), self._cells(new)
            if change.kind == "insert":
                yield replace(change, key=now_, new=now_), count
            elif change.kind == "delete":
                yield replace(change, key=was, old=was), count
            else:
                yield _apart(change, was, was, now_), None

    def _paired(self, changes: Sequence[Change], now: "_Wholes") -> Sequence[tuple[Change, Exact | None, Exact | None]]:
        """Changes with the rows that went and came for them: what triggers made of rows are those that are left.

        Somebody else's new row may be among those: then it is not known which are meant.
        """
        went = _Wholes(self.columns, self.rows - now.rows)
        came = _Wholes(self.columns, now.rows - self.rows)
        passed = {_cells_of(_before(change)) for change in changes}  # what others change again need not be there
        pairs: list[tuple[Change, Exact | None, Exact | None]] = []
        for change in changes:
            before, after = _before(change), _after(change)
            old = went.taken(before) if before else None
            pairs.append((change, old, came.taken(after, old, change.new) if after else None))
        without = [
            place
            for place, (change, _, new) in enumerate(pairs)
            if new is None and (after := _after(change)) and _cells_of(after) not in passed
        ]
        if without and len(without) != came.rows.total():
            raise _lost(self._table)
        for place in without:
            pairs[place] = *pairs[place][:2], came.taken({})
        return pairs

    def _cells(self, row: Exact | None) -> _Row:
        return {} if row is None else dict(zip(self.columns, (cell for _, cell in row), strict=True))

    def taken(self, cells: _Row, like: Exact | None = None, but: Collection[str] = ()) -> Exact | None:
        """Take one of the rows that have these cells, if possible one that is like another in all columns but some."""
        names = tuple(name for name in self.columns if name in cells)
        fitting = [row for row in self.having(names, exact(cells[name] for name in names)) if self.rows[row] > 0]
        rest = [at for at, name in enumerate(self.columns) if name not in but]
        alike = (row for row in fitting if like is not None and all(row[at] == like[at] for at in rest))
        found = next(alike, fitting[0] if fitting else None)
        if found is not None:
            self.rows[found] -= 1
        return found
