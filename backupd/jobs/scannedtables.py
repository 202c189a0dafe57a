"""The tables of a snapshot, read from beginning to end whatever is looked for: right for everything, quick for nothing.

Must never keep more rows than were asked for.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backupd.errors import UsageError
from backupd.jobs.compare import StoredSide
from backupd.jobs.comparepages import Groups, PageFile, ReadSchema
from backupd.jobs.tableshapes import moment_of
from backupd.model import Cell, Cells, PagedTable
from backupd.records.btree import LARGEST, TooLarge, cells, chain, tree
from backupd.records.rowtext import cell_of, fields_of
from backupd.records.sqliterecords import RecordShape
from backupd.records.values import Value
from backupd.repo.comparing import units

_INTEGER, _REAL = ("INT",), ("REAL", "FLOA", "DOUB")


@dataclass(frozen=True, slots=True)
class ScannedTable:
    """A table of a snapshot (`stored.StoredTable`)."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    scan: Callable[[], Iterator[Cells]]
    reading: Callable[[str, str], Cell]

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        """See `stored.StoredTable`."""
        names = [name for name, _ in self.columns]
        places = [names.index(name) for name in by]
        wanted = {_typed(value) for value in values}
        for row in self.scan():
            if not by or _typed(tuple([row[at] for at in places])) in wanted:
                yield row

    def shown(self, row: Cells) -> tuple[Value, ...]:
        """See `stored.StoredTable`."""
        return row

    def cell(self, column: str, text: str) -> Cell:
        """See `stored.StoredTable`."""
        return self.reading(dict(self.columns)[column], text)


class ScannedTables:
    """The tables of one snapshot (`stored.StoredTables`)."""

    def __init__(self, side: StoredSide, read_schema: ReadSchema) -> None:
        self._side = side
        self.engine = str(side.content["engine"])
        self.tables: Mapping[str, ScannedTable]
        if self.engine == "sqlite":
            file = side.file(Groups(), side.refs())
            schema = read_schema(file)
            self.tables = {t.name: _of_file(t, schema.encoding, file) for t in schema.tables}
        else:
            self.tables = {name: self._of_rows(name, t) for name, t in moment_of(side.content).tables.items()}

    @property
    def fetched_bytes(self) -> int:
        """See `stored.StoredTables`."""
        return self._side.cache.fetched_bytes

    def _of_rows(self, name: str, table: Mapping[str, Any]) -> ScannedTable:
        def scan() -> Iterator[Cells]:
            for rows in self._side.rows(name, units(self._side.streams(name))):
                for row in rows:
                    yield tuple(map(cell_of, fields_of(row)))

        columns = tuple((str(column), str(kind)) for column, kind in table["columns"])
        return ScannedTable(name, columns, tuple(table["key"]), scan, lambda _, text: text.encode())


def _of_file(table: PagedTable, encoding: str, file: PageFile) -> ScannedTable:
    shape = RecordShape(table, encoding, ())

    def scan() -> Iterator[Cells]:
        for page in tree(file, table.root):
            for cell in cells(file, page):
                if cell.size > LARGEST:
                    raise TooLarge(f"a record of {table.name} is too long to be read")
                rest = [part for _, part in chain(file, cell)] if cell.overflow else []
                yield shape.values(shape.row(cell.rowid, b"".join([cell.local, *rest])))

    columns = tuple((column.name, column.type) for column in table.columns)
    return ScannedTable(table.name, columns, table.key, scan, _of_type)


def _of_type(kind: str, text: str) -> Cell:
    """What a column of a declared type would hold for a text, by SQLite's rules of affinity.

    Raises:
        UsageError: a number that is none.
    """
    word = kind.upper()
    try:
        if any(part in word for part in _INTEGER):
            return int(text)
        if any(part in word for part in _REAL):
            return float(text)
    except ValueError:
        raise UsageError(f"a key of type {kind} is a number") from None
    if any(part in word for part in ("CHAR", "CLOB", "TEXT")) or not text.lstrip("-").isdigit():
        return text
    return text if not word or "BLOB" in word else int(text)


def _typed(value: Cells) -> tuple[object, ...]:
    return tuple([(type(cell), cell) for cell in value])
