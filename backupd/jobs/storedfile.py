"""The tables of a database file in a snapshot as something to look records up in: pages are read as its engine asks.

Must never write a page anywhere. The file may be anybody's: its engine's module opens it hardened and quotes every name.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from backupd.errors import UsageError
from backupd.jobs.compare import StoredSide
from backupd.jobs.pagefile import Groups, PageFile
from backupd.jobs.stored import Erased, StoredTable, shown_of
from backupd.model import Bytes, Cell, Cells, PagedSchema, PagedTable
from backupd.records.values import Value

_BATCH = 1000
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BYTES = re.compile(r"[xX]'((?:[0-9a-fA-F]{2})*)'")


class FileDatabase(Protocol):
    """A database file that is open for reading. Not safe for several threads."""

    def schema(self) -> PagedSchema:
        """What tables it has."""

    def indexed(self, table: str) -> tuple[tuple[str, ...], ...]:
        """Sets of columns by whose values rows are found without a scan."""

    def rows(self, table: PagedTable, by: Sequence[str], values: Collection[Cells]) -> Iterator[Cells]:
        """Rows whose columns `by` equal one of `values`, as the database compares them; all rows if `by` is empty."""

    def orders(self, table: str) -> tuple[tuple[str, ...], ...]:
        """Orders in which rows can come, and in which ranges are found without a scan."""

    def looked(
        self,
        table: PagedTable,
        equal: Sequence[tuple[str, Cell]],
        within: tuple[str, Cell, Cell] | None,
        order: Sequence[str],
        *,
        down: bool,
    ) -> Iterator[Cells]:
        """Rows by the values of columns, and a column that lies between two ends (None where there is none), in an order."""

    def close(self) -> None:
        """End the connection."""


OpenFile = Callable[[Bytes], FileDatabase]
"""Opens a database file; the engine's."""


class StoredFileTable:
    """A table of a database file.

    Args:
        database: the open file.
        table: what it says of the table.
        erased: what is hidden.
        pages: what it is read from.
        owner: under equal owners, equal pages have equal names.
    """

    def __init__(
        self, database: FileDatabase, table: PagedTable, erased: Erased | None, pages: PageFile, owner: object
    ) -> None:
        self._database, self._table, self._pages = database, table, pages
        self.erased, self.owner = erased, owner
        self.name = table.name
        self.columns: tuple[tuple[str, str], ...] = tuple((column.name, column.type) for column in table.columns)
        self.affinities = [(column.name, column.affinity) for column in table.columns]
        """Names of the columns, and what SQLite compares them as."""
        self.key = table.key
        names = [column.name for column in table.columns]
        self._hidden = erased.hidden(table.name, names, table.key) if erased else None

    @property
    def hides(self) -> bool:
        """Whether rows are hidden."""
        return self._hidden is not None

    def reads_as(self, earlier: "StoredFileTable") -> bool:
        """Whether whoever asks it what an earlier version was asked reads the same, whatever else changed in the file."""
        return self.owner == earlier.owner and self._pages.reads_as(earlier._pages)

    @property
    def quick(self) -> tuple[tuple[str, ...], ...]:
        """Sets of columns by whose values rows are found without a scan."""
        alias = self._table.alias
        own = () if alias is None else ((self.columns[alias][0],),)
        return own + self._database.indexed(self.name)

    @property
    def orders(self) -> tuple[tuple[str, ...], ...]:
        """Orders in which rows can come, and in which ranges are found without a scan."""
        alias = self._table.alias
        own = () if alias is None else ((self.columns[alias][0],),)
        return own + self._database.orders(self.name)

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        """See `StoredTable`."""
        return self._seen(self._database.rows(self._table, by, values), by)

    def _seen(self, found: Iterator[Cells], by: Sequence[str]) -> Iterator[Cells]:
        hidden = self._hidden
        if hidden is None:
            return found
        names = [name for name, _ in self.columns]
        places = [names.index(name) for name in by]
        return (seen for row in found if (seen := shown_of(row, hidden, places)) is not None)

    def looked(
        self,
        equal: Sequence[tuple[str, Cell]],
        within: tuple[str, Cell, Cell] | None,
        order: Sequence[str],
        *,
        down: bool,
    ) -> Iterator[list[Cells]]:
        """Rows by the values of columns, and a column that lies between two ends, in an order, many together."""
        by = [name for name, _ in equal] + ([within[0]] if within else [])
        rows = self._seen(self._database.looked(self._table, equal, within, order, down=down), by)
        while batch := list(islice(rows, _BATCH)):
            yield batch

    def chosen(self, by: Sequence[str], fits: Callable[[Cells], bool]) -> Iterator[Cells]:
        """See `StoredTable`."""
        names = [name for name, _ in self.columns]
        places = [names.index(name) for name in by]
        return (row for row in self.rows() if fits(tuple(row[at] for at in places)))

    def shown(self, row: Cells) -> tuple[Value, ...]:
        """See `StoredTable`."""
        return tuple(row)

    def cell(self, column: str, text: str) -> Cell:
        """See `StoredTable`."""
        found = next((at for at, (name, _) in enumerate(self.columns) if name == column), None)
        if found is None:
            raise UsageError(f"table {self.name} has no column {column}", object_name=self.name)
        if (given := _BYTES.fullmatch(text)) is not None:
            return bytes.fromhex(given[1])
        kind, affinity = self.columns[found][1], self.affinities[found][1]
        # in a column of any value a number means the number; SQL says which one is meant
        cell = _with_affinity(text, "NUMERIC" if kind.upper() == "ANY" else affinity)
        if found == self._table.alias and not isinstance(cell, int):
            raise UsageError(f"the column {column} of {self.name} holds whole numbers only", object_name=self.name)
        return cell


def _with_affinity(text: str, affinity: str) -> Cell:
    """What a column of an affinity holds for a text, by SQLite's rules ("Datatypes In SQLite", section 3)."""
    if affinity in ("TEXT", "BLOB") or not _NUMBER.fullmatch(text):
        return text
    real = affinity == "REAL"
    if _WHOLE.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return float(text) if real else int(text)
    number = float(text)
    return int(number) if not real and number.is_integer() and abs(number) < 2**53 else number


class StoredFileTables:
    """The tables of a database file. Tables without pages of their own (full-text and other modules') are not among them."""

    engine = "sqlite"

    def __init__(self, side: StoredSide, open_file: OpenFile, erased: Erased | None, kept: Groups) -> None:
        self._side = side
        self._database: FileDatabase | None = None
        self.rows: Mapping[str, StoredFileTable] = {}
        self.left_out: tuple[str, ...] = ()
        if side.view.structure.streams[0].size == 0:
            return
        pages = side.file(kept)
        database = self._database = open_file(pages)
        try:
            schema = database.schema()
        except BaseException:
            database.close()
            raise
        self.left_out = schema.virtual
        self.rows = {table.name: StoredFileTable(database, table, erased, pages, side.owner) for table in schema.tables}

    @property
    def tables(self) -> Mapping[str, StoredTable]:
        """See `StoredTables`."""
        return self.rows

    @property
    def fetched_bytes(self) -> int:
        """See `StoredTables`."""
        return self._side.cache.fetched_bytes

    def close(self) -> None:
        """End the connection."""
        if self._database is not None:
            self._database.close()
