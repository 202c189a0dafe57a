"""SQL over tables that lie somewhere else: each is a virtual table of SQLite's, in a database in memory that has nothing else.

A statement can only read, and only these tables: everything else is denied, before it runs. Nothing goes to a disk: what
does not fit in the memory allowed is an error. Errors carry SQLite's words about the statement, which its writer wrote.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import apsw
import apsw.ext

from backupd.engines.sqlite_database import quoted
from backupd.engines.sqlite_open import harden
from backupd.errors import Failed, UsageError
from backupd.model import Cells, Queried

MEMORY = 256 * 1024 * 1024
_LONGEST = 64 * 1024 * 1024
_STEPS = 50_000
_FORBIDDEN = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
_ALLOWED = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE})
_MODULE = "snapshot"
_MOST_NUMBERED = 2_000_000
"""Rows that a statement may tell apart by a number, of one look at a table."""


class _Cursor:
    """Walks the rows of one look at a table, a batch at a time."""

    __slots__ = ("_at", "_batch", "_batches", "_count", "_met", "_numbered", "_places", "_row", "_seen", "_table")

    def __init__(self, table: Queried) -> None:
        self._table = table
        self._batches: Iterator[Sequence[Cells]] = iter(())
        self._places: dict[int, int] = {}
        self._batch: Sequence[Cells] = ()
        self._at = self._count = self._seen = 0
        self._row: Cells = ()
        self._met: dict[int, int] = {}
        self._numbered = -1, 0

    def Filter(self, _number: int, plan: str, values: tuple[object, ...]) -> None:  # noqa: N802
        by, used = (list(map(int, part.split(","))) if part else [] for part in plan.split(";"))
        self._places = {column: place for place, column in enumerate(used)}
        self._batches = iter(self._table.batches(by, values, used))
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
        if not self._table.quick:  # then every look is a scan, in one order
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


class _Table:
    def __init__(self, table: Queried) -> None:
        self._table = table

    def BestIndexObject(self, index: apsw.IndexInfo) -> bool:  # noqa: N802
        usable: dict[int, int] = {}
        for n in range(index.nConstraint):
            equal = index.get_aConstraint_op(n) == apsw.SQLITE_INDEX_CONSTRAINT_EQ
            if equal and index.get_aConstraint_usable(n) and index.get_aConstraint_collation(n) == "BINARY":
                usable.setdefault(index.get_aConstraint_iColumn(n), n)
        fitting = [by for by in self._table.quick if all(column in usable for column in by)]
        by = max(fitting, key=len, default=())
        for place, column in enumerate(by):
            index.set_aConstraintUsage_argvIndex(usable[column], place + 1)
        used = sorted(column for column in index.colUsed if column < len(self._table.columns))
        if 63 in index.colUsed:  # stands for all from there on
            used = sorted({*used, *range(63, len(self._table.columns))})
        index.idxStr = ",".join(map(str, by)) + ";" + ",".join(map(str, used))
        rows = max(1, self._table.count)
        index.estimatedRows = max(1, rows // 1000 ** len(by)) if by else rows
        index.estimatedCost = 100.0 if by else float(rows) + 1000.0
        return True

    def Open(self) -> _Cursor:  # noqa: N802
        return _Cursor(self._table)

    def Disconnect(self) -> None:  # noqa: N802
        """Nothing is held."""

    Destroy = Disconnect


class _Module:
    def __init__(self) -> None:
        self.tables: list[Queried] = []

    def Create(self, _db: apsw.Connection, _module: str, _schema: str, _name: str, number: str) -> tuple[str, _Table]:  # noqa: N802
        table = self.tables[int(number)]
        columns = [f"{quoted(name)} {kind}" for name, kind in _distinct(table.columns)]
        return f"CREATE TABLE x({', '.join(columns) or quoted('')})", _Table(table)

    Connect = Create


def _distinct(columns: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Names that differ for SQLite, to which upper and lower case are one."""
    met: set[str] = set()
    for name, kind in columns:
        plain = name.replace("\0", "")
        number, chosen = 2, plain
        while chosen.lower() in met:
            chosen, number = f"{plain}_{number}", number + 1
        met.add(chosen.lower())
        yield chosen, kind


def _authorize(action: int, _one: str | None, two: str | None, _schema: str | None, _inner: str | None) -> int:
    if action == apsw.SQLITE_READ and two == "ROWID":  # SQLite's word for the number of a row, which nothing here has
        return int(apsw.SQLITE_DENY)
    if action in _ALLOWED:
        return int(apsw.SQLITE_OK)
    if action == apsw.SQLITE_FUNCTION and (two or "").lower() not in _FORBIDDEN:
        return int(apsw.SQLITE_OK)
    return int(apsw.SQLITE_DENY)


@contextmanager
def queried(
    schemas: Mapping[str, Sequence[Queried]], statement: str
) -> Iterator[tuple[tuple[str, ...], Iterator[Cells]]]:
    """Run one statement.

    Args:
        schemas: the tables by the name of their schema; those of `main` need none.
        statement: SQL.

    Yields:
        the names of the columns, and the rows.

    Raises:
        UsageError: it is no such statement, or SQLite refuses it.
        Failed: it needs more memory than is allowed.
    """
    apsw.hard_heap_limit(MEMORY)
    link = apsw.Connection(":memory:")
    try:
        with _explained():
            _make(link, schemas)
            columns = _check(link, statement)
            cursor = link.execute(statement)
        yield columns, _rows(cursor)
    finally:
        link.close(True)
        apsw.hard_heap_limit(0)


def _make(link: apsw.Connection, schemas: Mapping[str, Sequence[Queried]]) -> None:
    module = _Module()
    link.create_module(_MODULE, module, use_bestindex_object=True)  # type: ignore[arg-type]
    for schema, tables in schemas.items():
        if schema != "main":
            link.execute(f"ATTACH ':memory:' AS {quoted(schema)}").fetchall()
        for name, table in _named(tables):
            module.tables.append(table)
            place = f"{quoted(schema)}.{quoted(name)}"
            link.execute(f"CREATE VIRTUAL TABLE {place} USING {_MODULE}({len(module.tables) - 1})").fetchall()
    harden(link)
    link.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST)
    link.limit(apsw.SQLITE_LIMIT_ATTACHED, len(schemas) - 1)
    link.authorizer = _authorize
    link.set_progress_handler(lambda: False, _STEPS)  # where Python hears of a signal


def _named(tables: Sequence[Queried]) -> Iterator[tuple[str, Queried]]:
    names = [("_" if t.name.lower().startswith("sqlite_") else "") + t.name for t in tables]
    for (name, _), table in zip(_distinct([(name, "") for name in names]), tables, strict=True):
        yield name, table


def _check(link: apsw.Connection, statement: str) -> tuple[str, ...]:
    """See that it is one statement that gives rows; returns the names of its columns."""
    info = apsw.ext.query_info(link, statement)
    rest = info.query_remaining
    while rest:
        after = apsw.ext.query_info(link, rest)
        if after.has_vdbe:
            raise UsageError("only one statement is run at a time")
        rest = after.query_remaining
    if not info.has_vdbe or not info.is_readonly or not info.description:
        raise UsageError("only statements that read rows are run", hint="begin with SELECT, WITH or VALUES")
    return tuple(str(name) for name, *_ in info.description)


def _rows(cursor: apsw.Cursor) -> Iterator[Cells]:
    with _explained():
        yield from cursor


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (apsw.NoMemError, MemoryError):
        raise Failed(
            f"the statement needs more than {MEMORY // 1024**2} MiB of memory",
            hint="nothing is sorted or grouped on disk: ask for fewer rows or columns",
        ) from None
    except (apsw.AuthError, apsw.ReadOnlyError):
        raise UsageError(
            "the statement does more than to read the tables of the snapshot",
            hint="begin with SELECT, WITH or VALUES; `backupctl show` lists the tables",
        ) from None
    except apsw.Error as error:
        raise UsageError(f"SQLite refuses the statement: {error}", hint="`backupctl show` lists the tables") from None
    except (ValueError, UnicodeError):
        raise UsageError("the statement holds what is no text of SQL") from None
