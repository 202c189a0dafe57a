"""A database file whose bytes lie somewhere else, asked for rows: every name in a statement is quoted, every value bound.

Nothing of the file is run but its tables' own collations and indexes; nothing is written.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice

import apsw

from backupd.engines.sqlite_lazy import lazy_connection, schema_of
from backupd.errors import BackupdError, Failed, IntegrityError
from backupd.model import Bytes, Cell, Cells, PagedSchema, PagedTable

_BOUND = 20_000
_TERMS = 200
_INDEXES = "SELECT name FROM pragma_index_list(?, 'main') WHERE partial = 0"
_INDEXED = "SELECT name, coll FROM pragma_index_xinfo(?, 'main') WHERE key = 1 ORDER BY seqno"
_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})
"""SQLite's own; any other one is known only to the program that made the file."""


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


class LazyDatabase:
    """An open database file."""

    def __init__(self, data: Bytes) -> None:
        self._stack = ExitStack()
        self._link = self._stack.enter_context(lazy_connection(data))

    def schema(self) -> PagedSchema:
        """What tables it has."""
        with self._sound():
            return schema_of(self._link)

    def indexed(self, table: str) -> tuple[tuple[str, ...], ...]:
        """Sets of columns by whose values rows are found without a scan."""
        with self._sound():
            found: list[tuple[str, ...]] = []
            for (index,) in self._link.execute(_INDEXES, (table,)).fetchall():
                parts = self._link.execute(_INDEXED, (index,)).fetchall()
                names = [name if str(collation).upper() in _COLLATIONS else None for name, collation in parts]
                upto = names.index(None) if None in names else len(names)
                found += [tuple(map(str, names[: n + 1])) for n in range(upto)]
            return tuple(dict.fromkeys(found))

    def orders(self, table: str) -> tuple[tuple[str, ...], ...]:
        """Orders in which rows can come, and in which ranges are found without a scan."""
        with self._sound():
            found: list[tuple[str, ...]] = []
            for (index,) in self._link.execute(_INDEXES, (table,)).fetchall():
                parts = self._link.execute(_INDEXED, (index,)).fetchall()
                upto = next((n for n, (name, how) in enumerate(parts) if name is None or how != "BINARY"), len(parts))
                found += [tuple(str(name) for name, _ in parts[:upto])] if upto else []
            return tuple(dict.fromkeys(found))

    def rows(self, table: PagedTable, by: Sequence[str], values: Collection[Cells]) -> Iterator[Cells]:
        """Rows whose columns `by` equal one of `values`, as the database compares them; all rows if `by` is empty.

        Raises:
            IntegrityError: the file is not sound.
        """
        columns = ", ".join(quoted(column.name) for column in table.columns)
        select = f"SELECT {columns} FROM main.{quoted(table.name)}"  # noqa: S608 - every name is quoted
        if not by:
            yield from self._run(select, ())
            return
        sound = iter({value for value in values if None not in value})
        names = [quoted(name) for name in by]
        while batch := list(islice(sound, _BOUND if len(by) == 1 else _TERMS)):
            if len(by) == 1:
                condition = f"{names[0]} IN ({', '.join('?' * len(batch))})"
            else:
                term = "(" + " AND ".join(f"{name} = ?" for name in names) + ")"
                condition = " OR ".join([term] * len(batch))
            yield from self._run(f"{select} WHERE {condition}", [cell for value in batch for cell in value])

    def looked(
        self,
        table: PagedTable,
        equal: Sequence[tuple[str, Cell]],
        within: tuple[str, Cell, Cell] | None,
        order: Sequence[str],
        *,
        down: bool,
    ) -> Iterator[Cells]:
        """Rows by the values of columns, and a column that lies between two ends (None where there is none), in an order.

        Raises:
            IntegrityError: the file is not sound.
        """
        columns = ", ".join(quoted(column.name) for column in table.columns)
        terms = [(f"{quoted(name)} = ?", cell) for name, cell in equal]
        if within is not None:
            name = f"{quoted(within[0])} COLLATE BINARY"
            terms += [
                (f"{name} {op} ?", end) for op, end in zip((">=", "<="), within[1:], strict=True) if end is not None
            ]
        statement = f"SELECT {columns} FROM main.{quoted(table.name)}"  # noqa: S608 - every name is quoted
        if terms:
            statement += " WHERE " + " AND ".join(term for term, _ in terms)
        if order:
            way = "DESC" if down else "ASC"
            statement += " ORDER BY " + ", ".join(f"{quoted(name)} COLLATE BINARY {way}" for name in order)
        return self._run(statement, [cell for _, cell in terms])

    def _run(self, statement: str, bindings: Sequence[object]) -> Iterator[Cells]:
        with self._sound():
            yield from self._link.execute(statement, bindings)

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """What SQLite cannot read is damage, or what reading it raised."""
        try:
            yield
        except UnicodeDecodeError:
            raise Failed(
                "a text in the database is not written in its character set",
                hint="restore the snapshot and read it with sqlite3",
            ) from None
        except apsw.Error as error:
            if isinstance(error, apsw.SQLError) and "no such collation sequence" in str(error):
                raise Failed(
                    "the database compares this column by rules of its own program, which are not known here",
                    hint="look for another column, or restore the snapshot and ask that program",
                ) from None
            cause = error.__cause__ or error.__context__
            while cause is not None and not isinstance(cause, BackupdError):
                cause = cause.__cause__ or cause.__context__
            if isinstance(cause, BackupdError):
                raise cause from None
            raise IntegrityError(
                f"the pages are not those of a sound SQLite database ({type(error).__name__})",
                hint="restore the snapshot and run PRAGMA integrity_check on it",
            ) from None

    def close(self) -> None:
        """End the connection."""
        self._stack.close()
