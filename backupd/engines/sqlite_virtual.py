"""Tables that lie somewhere else as virtual tables of SQLite's: what a statement looks at is handed on to them.

Equal values, ranges and an order are handed on; SQLite checks the rows that come itself, but for their order.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import apsw

from backupd.engines.sqlite_database import quoted
from backupd.engines.sqlite_index import Index, Indexes
from backupd.errors import UsageError
from backupd.model import Cells, Look, Queried

MODULE = "snapshot"
_MOST_NUMBERED = 2_000_000
"""Rows that a statement may tell apart by a number, of one look at a table."""
_LOW = frozenset({apsw.SQLITE_INDEX_CONSTRAINT_GT, apsw.SQLITE_INDEX_CONSTRAINT_GE})
_HIGH = frozenset({apsw.SQLITE_INDEX_CONSTRAINT_LT, apsw.SQLITE_INDEX_CONSTRAINT_LE})
_NUMERIC = frozenset({"INTEGER", "REAL", "NUMERIC"})
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)


def _is_exact(kind: str, value: object) -> bool:
    """Whether what equals a value is what holds it.

    A text and a number are compared as numbers or as texts, by what stands on the other side, and nobody tells what that is.
    """
    if kind in _NUMERIC:
        return True
    if kind == "TEXT":
        return isinstance(value, str | bytes)
    return isinstance(value, bytes) or (isinstance(value, str) and not _NUMBER.fullmatch(value))


def _is_end(kind: str, constant: object) -> bool:
    """Whether a range that ends at a value, if it is known, is one of what is held."""
    return kind in _NUMERIC or isinstance(constant, str if kind == "TEXT" else bytes)


class _Cursor:
    """Walks the rows of one look at a table, a batch at a time."""

    __slots__ = (
        "_at",
        "_batch",
        "_batches",
        "_count",
        "_met",
        "_numbered",
        "_places",
        "_plans",
        "_row",
        "_seen",
        "_table",
    )

    def __init__(self, table: "_Table") -> None:
        self._table = table
        self._batches: Iterator[Sequence[Cells]] = iter(())
        self._plans: dict[str, _Plan] = {}
        self._places: dict[int, int] = {}
        self._batch: Sequence[Cells] = ()
        self._at = self._count = self._seen = 0
        self._row: Cells = ()
        self._met: dict[int, int] = {}
        self._numbered = -1, 0

    def Filter(self, _number: int, text: str, values: tuple[object, ...]) -> None:  # noqa: N802
        plan = self._plans.get(text)
        if plan is None:
            plan = self._plans[text] = _Plan.read(text)
        self._places = plan.places
        self._batches = self._table.look(plan, values)
        self._seen = self._count = 0
        self._met, self._numbered = {}, (-1, 0)
        self._more()

    def _more(self) -> None:
        self._seen += self._count
        self._at = self._count = 0
        for batch in self._batches:
            if batch:
                self._batch, self._count, self._row = batch, len(batch), batch[0]
                return

    def Eof(self) -> bool:  # noqa: N802
        return not self._count

    def Next(self) -> None:  # noqa: N802
        self._at += 1
        if self._at < self._count:
            self._row = self._batch[self._at]
        else:
            self._more()

    def Column(self, number: int) -> object:  # noqa: N802
        return self.Rowid() if number < 0 else self._row[self._places[number]]

    def Rowid(self) -> int:  # noqa: N802
        """The same for a row whichever look finds it: by it SQLite joins the looks of OR, and knows what a RIGHT JOIN has met.

        Rows that are equal in all that is wanted are told apart by their order; each look finds all of them.
        """
        place = self._seen + self._at
        if not self._table.chosen:  # then every look is a scan, in one order
            return place
        if self._numbered[0] != place:
            number = hash(repr(self._row))
            again = self._met.get(number, 0)
            if len(self._met) >= _MOST_NUMBERED:
                raise MemoryError
            self._met[number] = again + 1
            self._numbered = place, hash(f"{number} {again}") if again else number
        return self._numbered[1]

    def Close(self) -> None:  # noqa: N802
        self._batches = iter(())


class _Plan:
    """How a table is looked at: what BestIndex has chosen, as text that SQLite hands on."""

    def __init__(
        self, by: tuple[int, ...], column: int, ends: str, order: int, used: tuple[int, ...], listed: tuple[int, ...]
    ) -> None:
        self.by, self.column, self.ends, self.order, self.used, self.listed = by, column, ends, order, used, listed
        self.places = {column: place for place, column in enumerate(used)}
        self.index: Index | None = None

    @classmethod
    def read(cls, text: str) -> "_Plan":
        """From its text."""
        by, column, ends, order, used, listed = text.split(";")
        return cls(_numbers(by), int(column), ends, int(order), _numbers(used), _numbers(listed))

    def __str__(self) -> str:
        by, used, listed = (",".join(map(str, part)) for part in (self.by, self.used, self.listed))
        return f"{by};{self.column};{self.ends};{self.order};{used};{listed}"

    def look(self, values: tuple[object, ...]) -> Look | None:
        """With the values that SQLite gives; None if no row can fit."""
        if None in values:
            return None
        known = dict(zip(self.ends, values[len(self.by) :], strict=True))
        return Look(
            self.used,
            self.by,
            values[: len(self.by)],
            None if self.column < 0 else self.column,
            known.get("l"),
            known.get("h"),
            None if not self.order else abs(self.order) - 1,
            self.order < 0,
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()


class _Terms:
    """What a statement says of a table's columns, as far as it can be handed on."""

    def __init__(self, index: apsw.IndexInfo, kinds: Sequence[str]) -> None:
        self.sure: set[int] = set()
        self.listed: set[int] = set()
        self.equal: dict[int, int] = {}
        self.low: dict[int, int] = {}
        self.high: dict[int, int] = {}
        for n in range(index.nConstraint):
            if not index.get_aConstraint_usable(n) or index.get_aConstraint_collation(n) != "BINARY":
                continue
            op, column = index.get_aConstraint_op(n), index.get_aConstraint_iColumn(n)
            if column < 0:
                continue
            kind, constant = kinds[column], index.get_aConstraint_rhs(n)
            if op == apsw.SQLITE_INDEX_CONSTRAINT_EQ:
                # of the values of an IN, one by one, SQLite forgets as what they are compared
                is_listed = index.get_aConstraintUsage_in(n) and kind not in _NUMERIC
                if (is_listed and kind != "TEXT") or self.equal.setdefault(column, n) != n:
                    continue
                if is_listed:
                    self.listed.add(column)
                if _is_exact(kind, constant):
                    self.sure.add(column)
            elif op in _LOW and _is_end(kind, constant):
                self.low.setdefault(column, n)
            elif op in _HIGH and _is_end(kind, constant):
                self.high.setdefault(column, n)
        self.sorted = [(index.get_aOrderBy_iColumn(n), index.get_aOrderBy_desc(n)) for n in range(index.nOrderBy)]

    def ends(self, column: int) -> str:
        """Which ends of a column's range are known."""
        return ("l" if column in self.low else "") + ("h" if column in self.high else "")

    def direction(self, order: Sequence[int], handed: Sequence[int]) -> int:
        """1 or -1 if rows in that order, or backwards, are sorted as the statement wants them; 0 if not.

        Only columns whose value is handed on have one value for each look: what SQLite keeps for itself may be one of an IN.
        """
        if not self.sure.issuperset(handed):
            return 0
        wanted = [(column, down) for column, down in self.sorted if column not in handed]
        columns = [column for column in order if column not in handed]
        if not wanted or [column for column, _ in wanted] != columns[: len(wanted)] or len({d for _, d in wanted}) > 1:
            return 0
        return -1 if wanted[0][1] else 1


class _Table:
    def __init__(self, table: Queried, indexes: Indexes | None) -> None:
        self._table, self._indexes = table, indexes
        self.chosen = False

    def BestIndexObject(self, index: apsw.IndexInfo) -> bool:  # noqa: N802
        terms = _Terms(index, [kind for _, kind in self._table.columns])
        by, column, order = self._best(terms)
        ends = terms.ends(column) if column >= 0 else ""
        sides = {"l": terms.low, "h": terms.high}
        given = [*(terms.equal[at] for at in by), *(sides[end][column] for end in ends)]
        for number, place in enumerate(given, 1):
            index.set_aConstraintUsage_argvIndex(place, number)
        index.orderByConsumed = bool(order)
        used = {at for at in index.colUsed if at < len(self._table.columns)}
        if 63 in index.colUsed:  # stands for all from there on
            used.update(range(63, len(self._table.columns)))
        listed = tuple(at for at in by if at in terms.listed)
        index.idxStr = str(_Plan(by, column, ends, order, tuple(sorted(used.union(by))), listed))
        self.chosen = self.chosen or bool(by or ends or order)
        rows = max(1, self._table.count)
        quick = by in {tuple(known) for known in self._table.quick}
        found = rows // 1000 ** len(by) if quick else rows // 100 if by else rows
        index.estimatedRows = max(1, found // 4 ** len(ends))
        # an index that is made costs a scan once, not for each look
        index.estimatedCost = 100.0 if quick and by else 200.0 + index.estimatedRows if by or ends else rows + 1000.0
        return True

    def _best(self, terms: _Terms) -> tuple[tuple[int, ...], int, int]:
        """The columns whose values are looked for, one whose range is, and the order: number from 1, negative backwards."""
        best: tuple[tuple[int, ...], int, int] = (), -1, 0
        score = (0, 0, 0)
        for known in self._table.quick:
            if all(column in terms.equal for column in known) and (len(known), 0, 0) > score:
                best, score = (tuple(known), -1, 0), (len(known), 0, 0)
        for n, order in enumerate(self._table.orders):
            upto = next((at for at, column in enumerate(order) if column not in terms.equal), len(order))
            column = order[upto] if upto < len(order) and terms.ends(order[upto]) else -1
            direction = terms.direction(order, order[:upto]) if self._table.sorts else 0
            mine = upto, len(terms.ends(column)), abs(direction)
            if mine > score:
                best, score = (tuple(order[:upto]), column, direction * (n + 1)), mine
        if not best[0] and terms.equal and self._indexes is not None:
            best = tuple(sorted(terms.equal)), best[1], best[2]
        return best

    def look(self, plan: _Plan, values: tuple[object, ...]) -> Iterator[Sequence[Cells]]:
        """The rows of a look.

        Raises:
            UsageError: texts are looked for among numbers.
        """
        for at, value in zip(plan.by, values, strict=False) if plan.listed else ():
            if at in plan.listed and isinstance(value, int | float):
                column = self._table.columns[at][0]
                raise UsageError(
                    f"the texts of {self._table.name}.{column} are looked for among numbers",
                    hint=f"write +{quoted(column)} IN (...), or CAST the numbers to TEXT",
                )
        if plan.index is not None:  # as often as an outer table has rows: no step too many
            return iter((plan.index.rows(values),))
        look = plan.look(values)
        if look is None:
            return iter(())
        exact = all(
            _is_exact(self._table.columns[at][1], value) for at, value in zip(look.by, look.values, strict=True)
        )
        alone = look.by and look.order is None and look.column is None
        if self._indexes is not None and alone and not (exact and look.by in map(tuple, self._table.quick)):
            plan.index = self._indexes.made(self._table, look)
            if plan.index is not None:
                return iter((plan.index.rows(values),))
        return self._table.batches(look if exact else replace(look, by=(), values=(), column=None, low=None, high=None))

    def Open(self) -> _Cursor:  # noqa: N802
        return _Cursor(self)

    def Disconnect(self) -> None:  # noqa: N802
        """Nothing is held."""

    Destroy = Disconnect


class Module:
    """Makes the virtual tables.

    Args:
        indexes: where indexes are kept that are made on the way; None if none may be.
    """

    def __init__(self, indexes: Indexes | None = None) -> None:
        self.tables: list[Queried] = []
        self._indexes = indexes

    def Create(self, _db: apsw.Connection, _module: str, _schema: str, _name: str, number: str) -> tuple[str, _Table]:  # noqa: N802
        """SQLite makes a table: the one with that number."""
        table = self.tables[int(number)]
        columns = [f"{quoted(name)} {kind}" for name, kind in distinct(table.columns)]
        return f"CREATE TABLE x({', '.join(columns) or quoted('')})", _Table(table, self._indexes)

    Connect = Create


def distinct(columns: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Names that differ for SQLite, to which upper and lower case are one."""
    met: set[str] = set()
    for name, kind in columns:
        plain = name.replace("\0", "")
        number, chosen = 2, plain
        while chosen.lower() in met:
            chosen, number = f"{plain}_{number}", number + 1
        met.add(chosen.lower())
        yield chosen, kind
