"""Asks a restored database file one statement, and looks whether its foreign keys hold.

The file is one that nobody writes to. It is opened for reading, takes no lock and makes no file beside it; and whatever a
statement or a view in the file would do besides reading tables is denied before it runs.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import apsw

from backupd.engines.asking import Answer, no_row, not_plain, plain, require_single, too_late
from backupd.engines.sqlite_database import quoted
from backupd.engines.sqlite_open import harden, require_regular, source_errors
from backupd.engines.sqlite_query import ALLOWED, FORBIDDEN, MEMORY, checked, explained
from backupd.errors import BackupdError, Failed, Unreachable

_LONGEST = 64 * 1024 * 1024
_STEPS = 10_000
_TABLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name"
# What full-text search asks when it reads its own tables.
_OF_SEARCH = "data_version"


@contextmanager
def still(path: str | os.PathLike[str]) -> Iterator[apsw.Connection]:
    """A hardened connection to a file that nobody writes to: it takes no lock, and looks at no journal.

    Raises:
        Unreachable: there is no such file, or it is no database.
        SourceIncomplete: it is damaged.
    """
    place = Path(path).absolute()
    require_regular(place)
    with source_errors(place, 0.0):
        link = apsw.Connection(
            f"file:{quote(os.fsencode(place))}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        )
        try:
            harden(link)
            yield link
        finally:
            link.close(True)


def ask(path: str | os.PathLike[str], statement: str, *, timeout: float) -> Answer:
    """The first value of the first row.

    Args:
        path: of the file.
        statement: one query.
        timeout: seconds that it may take.

    Raises:
        UsageError: it is no such query, or gives something else than one value.
        Failed: it was stopped, or failed while it ran.
        Unreachable: there is no such file, or it is no database.
    """
    until = time.monotonic() + timeout
    apsw.hard_heap_limit(MEMORY)
    try:
        with still(path) as link:
            link.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST)
            link.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
            link.execute("SELECT count(*) FROM main.sqlite_schema").fetchall()  # or it is no database
            link.authorizer = _authorize
            link.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
            with explained():
                columns = checked(link, statement)
            require_single(len(columns))
            return _first(link, statement, timeout)
    finally:
        apsw.hard_heap_limit(0)


def _first(link: apsw.Connection, statement: str, timeout: float) -> Answer:
    try:
        for (value,) in link.execute(statement):
            return plain(value)
    except apsw.InterruptError:
        raise too_late(timeout) from None
    except (apsw.NoMemError, MemoryError, apsw.TooBigError):
        raise Failed(f"the statement needs more than {MEMORY // 1024**2} MiB of memory", hint="ask for less") from None
    except apsw.Error as error:  # its words may have a value in them
        raise _failed(error) from None
    except UnicodeError:
        raise not_plain() from None
    raise no_row()


def _failed(error: apsw.Error) -> BackupdError:
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.IOError):
        return Unreachable(f"the database could not be read ({type(error).__name__})", hint="verify the snapshot")
    return Failed(f"the statement failed ({type(error).__name__})", hint="try it with `backupctl query`")


def _authorize(action: int, one: str | None, two: str | None, _schema: str | None, _inner: str | None) -> int:
    allowed = action in ALLOWED
    allowed |= action == apsw.SQLITE_FUNCTION and (two or "").lower() not in FORBIDDEN
    allowed |= action == apsw.SQLITE_PRAGMA and one == _OF_SEARCH and two is None
    return int(apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY)


def check_references(path: str | os.PathLike[str]) -> list[str]:
    """Which foreign keys of a file do not hold, by the names of their tables, and how many rows break each.

    Raises:
        Unreachable: there is no such file, or it is no database.
        SourceIncomplete: it is damaged.
    """
    found: list[str] = []
    with still(path) as link:
        for (table,) in link.execute(_TABLES).fetchall():
            broken: Counter[tuple[str, int]] = Counter()
            try:
                for _, _, parent, key in link.execute(f"PRAGMA main.foreign_key_check({quoted(str(table))})"):
                    broken[str(parent), int(str(key))] += 1
            except apsw.SQLError:  # the key and what it refers to do not fit each other
                found.append(f"a foreign key of table {table} cannot be checked: what it refers to is no key")
                continue
            found += [
                f"foreign key {key} of table {table}: {count} rows refer to rows of {parent} that are not there"
                for (parent, key), count in sorted(broken.items())
            ]
    return found
