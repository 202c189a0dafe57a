"""SQL over tables that lie somewhere else: each is a virtual table of SQLite's, in a database in memory that has nothing else.

A statement can only read, and only these tables: everything else is denied, before it runs. Nothing goes to a disk: what
does not fit in the memory allowed is an error. Errors carry SQLite's words about the statement, which its writer wrote.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import apsw
import apsw.ext

from backupd.engines.sqlite_database import quoted
from backupd.engines.sqlite_index import Indexes
from backupd.engines.sqlite_open import harden
from backupd.engines.sqlite_virtual import MODULE, Module, distinct
from backupd.errors import Failed, UsageError
from backupd.model import Answered, Cells, Queried

MEMORY = 256 * 1024 * 1024
_LONGEST = 64 * 1024 * 1024
_STEPS = 50_000
FORBIDDEN = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
ALLOWED = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE})
"""What a statement that only reads does; of functions, all but those that are forbidden."""


def _authorize(action: int, _one: str | None, two: str | None, _schema: str | None, _inner: str | None) -> int:
    if action == apsw.SQLITE_READ and two == "ROWID":  # SQLite's word for the number of a row, which nothing here has
        return int(apsw.SQLITE_DENY)
    if action in ALLOWED:
        return int(apsw.SQLITE_OK)
    if action == apsw.SQLITE_FUNCTION and (two or "").lower() not in FORBIDDEN:
        return int(apsw.SQLITE_OK)
    return int(apsw.SQLITE_DENY)


@contextmanager
def queried(schemas: Mapping[str, Sequence[Queried]], statement: str) -> Iterator[Answered]:
    """Run one statement.

    Args:
        schemas: the tables by the name of their schema; those of `main` need none.
        statement: SQL.

    Raises:
        UsageError: it is no such statement, or SQLite refuses it.
        Failed: it needs more memory than is allowed.
    """
    apsw.hard_heap_limit(MEMORY)
    link, indexes = apsw.Connection(":memory:"), Indexes()
    try:
        with explained():
            made(link, schemas, indexes)
            columns = checked(link, statement)
            cursor = link.execute(statement)
        yield Answered(columns, _rows(cursor))
    finally:
        link.close(True)
        indexes.close()
        apsw.hard_heap_limit(0)


def made(link: apsw.Connection, schemas: Mapping[str, Sequence[Queried]], indexes: Indexes | None) -> Sequence[str]:
    """Make tables in an empty database, and close it for all but reading them; their names, as SQL writes them."""
    module, places = Module(indexes), []
    link.create_module(MODULE, module, use_bestindex_object=True)  # type: ignore[arg-type]
    for schema, tables in schemas.items():
        if schema != "main":
            link.execute(f"ATTACH ':memory:' AS {quoted(schema)}").fetchall()
        for name, table in _named(tables):
            module.tables.append(table)
            places.append(f"{quoted(schema)}.{quoted(name)}")
            number = len(module.tables) - 1
            link.execute(f"CREATE VIRTUAL TABLE {places[-1]} USING {MODULE}({number})").fetchall()
    harden(link)
    link.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST)
    link.limit(apsw.SQLITE_LIMIT_ATTACHED, len(schemas) - 1)
    link.authorizer = _authorize
    link.set_progress_handler(lambda: False, _STEPS)  # where Python hears of a signal
    return places


def _named(tables: Sequence[Queried]) -> Iterator[tuple[str, Queried]]:
    names = [("_" if t.name.lower().startswith("sqlite_") else "") + t.name for t in tables]
    for (name, _), table in zip(distinct([(name, "") for name in names]), tables, strict=True):
        yield name, table


def checked(link: apsw.Connection, statement: str) -> tuple[str, ...]:
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
    if info.bindings_count:
        raise UsageError("the statement has parameters, which nothing gives a value", hint="write the values into it")
    return tuple(str(name) for name, *_ in info.description)


def _rows(cursor: apsw.Cursor) -> Iterator[Cells]:
    with explained():
        yield from cursor


@contextmanager
def explained() -> Iterator[None]:
    """What SQLite says of a statement, as an error of this project."""
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
