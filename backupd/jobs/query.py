"""SQL over snapshots: their tables as an engine of SQL reads them. Nothing is restored, and no server is asked.

Whole numbers are numbers, bytes are bytes, everything else is text as the server wrote it; a file's values are what they are.
DuckDB knows more types, see `columnar`.
Rows that are hidden because somebody was erased are not there for any statement. Must never put a row into a message.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from operator import le

from backupd.errors import IntegrityError, UsageError
from backupd.jobs.columnar import as_it_stands, file_type, server_type
from backupd.jobs.keyranges import Span
from backupd.jobs.stored import Erased
from backupd.jobs.storedfile import OpenFile, StoredFileTable
from backupd.jobs.storedrows import StoredRows
from backupd.jobs.storedtables import opened_tables
from backupd.model import Answered, Cell, Cells, Look
from backupd.records.values import hexadecimal, integer
from backupd.repo.codecs import split_rows
from backupd.repo.repository import Repository, SnapshotView

RunSql = Callable[[Mapping[str, Sequence["Table"]], str], AbstractContextManager[Answered]]
"""Runs a statement over tables; the engine's."""
_EXACT = 2**63
_INEXACT = 2**53
"""From here on a REAL may stand for several whole numbers."""
_PIECE = 2_000_000
"""Bytes of rows that are handed on together."""


class RowTable:
    """A server's table."""

    def __init__(self, table: StoredRows) -> None:
        self._table, self.name, self.count = table, table.name, table.count
        self._decoders = table.decoders
        self.columns = [
            (n, "INTEGER" if d is integer else "BLOB" if d is hexadecimal else "TEXT")
            for (n, _), d in zip(table.columns, self._decoders, strict=True)
        ]
        at = self._places = {name: place for place, (name, _) in enumerate(table.columns)}
        self.quick = [tuple(at[name] for name in by) for by in table.quick]
        self.orders = [tuple(at[name] for name in table.order.sorted)] if table.order.sorted else []

    @property
    def sorts(self) -> bool:
        """See `Queried`."""
        return not self._table.hides and self._table.in_order

    def batches(self, look: Look) -> Iterator[Sequence[Cells]]:
        """See `Queried`."""
        names = [self.columns[at][0] for at in look.by]
        cells = [self._cell(name, value) for name, value in zip(names, look.values, strict=True)]
        if None in cells:
            names, cells = [], []
        sought = [tuple(cells)] if names else []
        known = dict(zip(look.by, cells, strict=True)) if names else {}
        lines = self._table.lines(names, sought, self._span(look, known), down=look.down)
        if look.order is None:
            return (self.taken(some, look.used) for some in lines)
        return self._checked(lines, look, self.orders[look.order])

    def _span(self, look: Look, known: Mapping[int, Cell]) -> Span | None:
        """Which keys a range means, if its column stands in the key behind those that are known."""
        head: list[Cell] = []
        for column in self._table.order.columns:
            at = self._places[column.name]
            if at not in known:
                ends = column.part(look.low), column.part(look.high)
                return Span(tuple(head), *ends) if at == look.column and column.sql else None
            head.append(known[at])
        return None

    def _checked(self, lines: Iterator[Sequence[bytes]], look: Look, order: Sequence[int]) -> Iterator[Sequence[Cells]]:
        """Rows that the snapshot says are sorted: that they are is never taken on trust."""
        before: list[Cells] = []
        for some in lines:
            keys = [*before, *self.taken(some, order)]
            ahead, behind = (keys[1:], keys) if look.down else (keys, keys[1:])
            try:
                sound = all(map(le, ahead, behind))
            except TypeError:
                sound = False
            if not sound:
                raise IntegrityError(
                    f"the rows of {self.name} do not stand in the order that the snapshot says",
                    object_name=self.name,
                    hint="sort by an expression, such as ORDER BY +id",
                )
            before = keys[-1:]
            yield self.taken(some, look.used)

    def _cell(self, name: str, value: object) -> Cell:
        """The cell that SQL's value is in a column; None where that cannot be said."""
        kind = self.columns[self._places[name]][1]
        if isinstance(value, float):  # as a text it would be SQL's, and not the server's
            exact = kind == "INTEGER" and value.is_integer() and abs(value) < _INEXACT
            value = int(value) if exact else None
        if isinstance(value, bytes):
            value = "\\x" + value.hex() if kind == "BLOB" else None
        if value is None or (kind == "TEXT" and not self._table.utf8 and "\\" in str(value)):
            return None
        try:
            return self._table.cell(name, str(value))
        except UsageError:
            return None

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """See `Columnar`."""
        ways = self._table.ways
        pairs = zip(self._table.columns, self._decoders, strict=True)
        return [
            (n, server_type(kind, ways.get(n, ""), whole=d is integer, raw=d is hexadecimal)) for (n, kind), d in pairs
        ]

    def columnar(self, used: Sequence[int]) -> Iterator[str | Sequence[Sequence[Cell]]]:
        """See `Columnar`."""
        for data in self._table.pieces(_PIECE):
            text = None if self._table.hides or self._table.codec != "utf-8" else as_it_stands(data)
            if text is None:
                rows = self.taken(split_rows(data), used)
                if rows:
                    yield list(zip(*rows, strict=True))
            else:
                yield text

    def taken(self, lines: Sequence[bytes], used: Sequence[int]) -> Sequence[Cells]:
        """The columns wanted of rows."""
        return self.shown(self._table.seen(lines), used) if self._table.hides else self._taken(lines, used)

    def shown(self, rows: Sequence[Cells], used: Sequence[int]) -> Sequence[Cells]:
        """The same of cells."""
        return [self._shown([row[at] for at in used], used) for row in rows]

    def _taken(self, lines: Sequence[bytes], used: Sequence[int]) -> Sequence[Cells]:
        """The columns wanted of rows: column by column where no cell is written in a special way."""
        if not used or not lines:
            return [()] * len(lines)
        last = used[-1] + 1
        if not any(b"\\" in line for line in lines):
            try:
                split = [line[:-1].split(b"\t", last) for line in lines]
                return list(zip(*[self._column(split, at) for at in used], strict=True))
            except (ValueError, IndexError):
                pass  # some row is not as the others are: they are taken one by one
        return [self._shown([row[at] for at in used], used) for row in map(self._table.cells, lines)]

    def _column(self, split: Sequence[Sequence[bytes]], at: int) -> Sequence[Cell]:
        decode = self._decoders[at]
        if decode is integer:
            numbers = [int(fields[at]) for fields in split]
            if max(numbers) >= _EXACT or min(numbers) < -_EXACT:
                raise ValueError
            return numbers
        cells = [fields[at] for fields in split]
        if decode is hexadecimal or self._table.codec != "utf-8":
            return list(map(decode, cells))
        return b"\n".join(cells).decode("utf-8", "backslashreplace").split("\n")  # no cell has a line's end in it

    def _shown(self, cells: Sequence[Cell], used: Sequence[int]) -> Cells:
        return tuple(
            fitting(self._decoders[at](c)) if isinstance(c, bytes) else c for c, at in zip(cells, used, strict=True)
        )


def fitting(value: Cell) -> Cell:
    """A whole number that SQLite cannot hold becomes text."""
    return str(value) if isinstance(value, int) and not -_EXACT <= value < _EXACT else value


class FileTable:
    """A table of a database file."""

    count = 100_000

    def __init__(self, table: StoredFileTable) -> None:
        self._table, self.name = table, table.name
        self.columns = table.affinities
        at = {name: place for place, (name, _) in enumerate(table.columns)}
        self.quick = [tuple(at[name] for name in by) for by in table.quick if set(by) <= at.keys()]
        self.orders = [tuple(at[name] for name in by) for by in table.orders if set(by) <= at.keys()]

    @property
    def sorts(self) -> bool:
        """See `Queried`."""
        return not self._table.hides

    def batches(self, look: Look) -> Iterator[Sequence[Cells]]:
        """See `Queried`."""
        names = [name for name, _ in self.columns]
        for rows in self._table.looked(
            [(names[at], _plain(value)) for at, value in zip(look.by, look.values, strict=True)],
            None if look.column is None else (names[look.column], _plain(look.low), _plain(look.high)),
            [] if look.order is None else [names[at] for at in self.orders[look.order]],
            down=look.down,
        ):
            yield [tuple([row[at] for at in look.used]) for row in rows]

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """See `Columnar`."""
        pairs = zip(self._table.columns, self.columns, strict=True)
        return [(name, file_type(kind, affinity)) for (name, kind), (_, affinity) in pairs]

    def columnar(self, used: Sequence[int]) -> Iterator[Sequence[Sequence[Cell]]]:
        """See `Columnar`."""
        for rows in self.batches(Look(tuple(used))):
            yield list(zip(*rows, strict=True))


def _plain(value: object) -> Cell:
    return value if isinstance(value, int | float | str | bytes) else None


Table = RowTable | FileTable


@dataclass(slots=True)
class Answer:
    """What a statement gives; `rows` can be read once, and `fetched_bytes` grows meanwhile."""

    columns: tuple[str, ...]
    rows: Iterator[Cells]
    fetched: Callable[[], int]
    left_out: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@contextmanager
def query(
    repo: Repository,
    views: Mapping[str, SnapshotView],
    statement: str,
    *,
    run_sql: RunSql,
    open_file: OpenFile,
    erased: Callable[[SnapshotView], Erased | None],
) -> Iterator[Answer]:
    """Run a statement over snapshots.

    Args:
        repo: the repository, with the read right.
        views: verified snapshots by the name of their schema: `main`, and those that are attached.
        statement: one statement that reads.
        run_sql, open_file: the engine's (`wiring.run_sql` or `wiring.run_duckdb`, `wiring.open_file_database`).
        erased: what the erasure ledger hides of a snapshot's source.

    Raises:
        UsageError: the statement is refused, or there is nothing that it could read.
        IntegrityError: an object that is needed is missing, damaged or forged.
    """
    with ExitStack() as stack:
        opened = {
            schema: stack.enter_context(opened_tables(repo, view, open_file=open_file, erased=erased(view)))
            for schema, view in views.items()
        }
        tables: dict[str, Sequence[Table]] = {
            schema: [RowTable(t) if isinstance(t, StoredRows) else FileTable(t) for t in found.rows.values()]
            for schema, found in opened.items()
        }
        said = stack.enter_context(run_sql(tables, statement))
        left_out = tuple(name for found in opened.values() for name in found.left_out)

        def fetched() -> int:
            return sum(found.fetched_bytes for found in opened.values())

        yield Answer(said.columns, said.rows, fetched, left_out, said.remarks)
