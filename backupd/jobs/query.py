"""SQL over snapshots: their tables as an engine of SQL reads them. Nothing is restored, and no server is asked.

Whole numbers are numbers, bytes are bytes, everything else is text as the server wrote it; a file's values are what they are.
Rows that are hidden because somebody was erased are not there for any statement. Must never put a row into a message.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from backupd.errors import UsageError
from backupd.jobs.stored import Erased
from backupd.jobs.storedfile import OpenFile, StoredFileTable
from backupd.jobs.storedrows import StoredRows
from backupd.jobs.storedtables import opened_tables
from backupd.model import Cell, Cells, Queried
from backupd.records.values import hexadecimal, integer
from backupd.repo.repository import Repository, SnapshotView

RunSql = Callable[
    [Mapping[str, Sequence[Queried]], str], AbstractContextManager[tuple[tuple[str, ...], Iterator[Cells]]]
]
"""Runs a statement over tables; the engine's."""
_EXACT = 2**63
_AFFINITIES = (
    ("INTEGER", ("INT",)),
    ("TEXT", ("CHAR", "CLOB", "TEXT")),
    ("BLOB", ("BLOB",)),
    ("REAL", ("REAL", "FLOA", "DOUB")),
)


class _RowTable:
    """A server's table."""

    def __init__(self, table: StoredRows) -> None:
        self._table, self.name, self.count = table, table.name, table.count
        self._decoders = table.decoders
        self.columns = [
            (n, "INTEGER" if d is integer else "BLOB" if d is hexadecimal else "TEXT")
            for (n, _), d in zip(table.columns, self._decoders, strict=True)
        ]
        at = {name: place for place, (name, _) in enumerate(table.columns)}
        self.quick = [tuple(at[name] for name in by) for by in table.quick]

    def batches(self, by: Sequence[int], values: Sequence[object], used: Sequence[int]) -> Iterator[Sequence[Cells]]:
        """See `Queried`."""
        names = [self.columns[at][0] for at in by]
        cells = [self._cell(name, value) for name, value in zip(names, values, strict=True)]
        if None in values:
            return
        if None in cells:
            names, cells = [], []
        sought = [tuple(cells)] if names else []
        if self._table.hides:
            for rows in self._table.batches(names, sought):
                yield [self._shown([row[at] for at in used], used) for row in rows]
            return
        for lines in self._table.lines(names, sought):
            yield self._taken(lines, used)

    def _cell(self, name: str, value: object) -> Cell:
        """The cell that SQL's value is in a column; None where that cannot be said."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int | str):
            return None
        try:
            return self._table.cell(name, str(value))
        except UsageError:
            return None

    def _taken(self, lines: Sequence[bytes], used: Sequence[int]) -> Sequence[Cells]:
        """The columns wanted of rows: column by column where no cell is written in a special way."""
        if not used:
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
            _fitting(self._decoders[at](c)) if isinstance(c, bytes) else c for c, at in zip(cells, used, strict=True)
        )


def _fitting(value: Cell) -> Cell:
    """A whole number that SQLite cannot hold becomes text."""
    return str(value) if isinstance(value, int) and not -_EXACT <= value < _EXACT else value


class _FileTable:
    """A table of a database file."""

    count = 100_000

    def __init__(self, table: StoredFileTable) -> None:
        self._table, self.name = table, table.name
        self.columns = [(name, _affinity(kind)) for name, kind in table.columns]
        at = {name: place for place, (name, _) in enumerate(table.columns)}
        self.quick = [tuple(at[name] for name in by) for by in table.quick if set(by) <= at.keys()]

    def batches(self, by: Sequence[int], values: Sequence[object], used: Sequence[int]) -> Iterator[Sequence[Cells]]:
        """See `Queried`."""
        names = [self.columns[at][0] for at in by]
        sought = [tuple(v if isinstance(v, int | float | str | bytes) else None for v in values)] if names else []
        for rows in self._table.batches(names, sought):
            yield [tuple([row[at] for at in used]) for row in rows]


def _affinity(kind: str) -> str:
    word = kind.upper()
    for name, parts in _AFFINITIES:
        if any(part in word for part in parts):
            return name
    return "NUMERIC" if word else ""


@dataclass(slots=True)
class Answer:
    """What a statement gives; `rows` can be read once, and `fetched_bytes` grows meanwhile."""

    columns: tuple[str, ...]
    rows: Iterator[Cells]
    fetched: Callable[[], int]
    left_out: tuple[str, ...]


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
        run_sql, open_file: the engine's (`wiring.run_sql`, `wiring.open_file_database`).
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
        tables: dict[str, Sequence[Queried]] = {
            schema: [_RowTable(t) if isinstance(t, StoredRows) else _FileTable(t) for t in found.rows.values()]
            for schema, found in opened.items()
        }
        columns, rows = stack.enter_context(run_sql(tables, statement))
        left_out = tuple(name for found in opened.values() for name in found.left_out)
        yield Answer(columns, rows, lambda: sum(found.fetched_bytes for found in opened.values()), left_out)
