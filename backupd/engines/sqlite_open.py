"""How SQLite files are opened here, and what SQLite's errors mean to an operator.

Every connection to a foreign file is hardened first, because its schema was written by somebody else. This module must
never let a file's schema run code, load an extension, or put a record's content into a message.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from backupd.errors import BackupdError, SourceIncomplete, TryAgain, Unreachable

LEFTOVERS = ("-wal", "-shm", "-journal")

_HARDENING = (
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA mmap_size=0",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA query_only=ON",
)
_LATER = frozenset({apsw.SQLITE_BUSY, apsw.SQLITE_LOCKED, apsw.SQLITE_PROTOCOL})
_NO_ACCESS = frozenset({apsw.SQLITE_CANTOPEN, apsw.SQLITE_PERM, apsw.SQLITE_AUTH, apsw.SQLITE_READONLY})
_ROWID = re.compile(r"rowid -?\d+", re.IGNORECASE)


def harden(connection: apsw.Connection) -> None:
    """Make a connection safe for a file of unknown origin: no extensions, no trusted schema, no mmap, no writes."""
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    for pragma in _HARDENING:
        connection.execute(pragma).fetchall()


def result_code(error: apsw.Error) -> int:
    """The primary SQLite result code of an error, or -1 for an error of the driver itself."""
    code = getattr(error, "result", -1)
    return code & 0xFF if isinstance(code, int) and code >= 0 else -1


@contextmanager
def source_errors(path: Path, timeout: float) -> Iterator[None]:
    """Turn SQLite's errors on a source into the errors of this project.

    Raises:
        Unreachable: not a database, encrypted, or no access.
        TryAgain: locked for longer than `timeout` seconds.
        SourceIncomplete: corrupt, or a read failed.
    """
    try:
        yield
    except apsw.Error as error:
        raise _meaning(error, path, timeout) from error


def _meaning(error: apsw.Error, path: Path, timeout: float) -> BackupdError:
    code = result_code(error)
    name = str(path)
    if code in _LATER:
        return TryAgain(
            f"{name} stayed locked for {timeout:g} s",
            object_name=name,
            hint="run again when its writer is done, or allow a longer wait",
        )
    if code == apsw.SQLITE_NOTADB:
        return Unreachable(
            f"{name} is not an SQLite database, or it is encrypted",
            object_name=name,
            hint="check the path; an encrypted database must be exported by the program that holds its key",
        )
    if code in _NO_ACCESS:
        return Unreachable(
            f"{name} cannot be opened ({type(error).__name__})",
            object_name=name,
            hint="check the permissions of the file and of its folder, which must be writable for -wal and -shm files",
        )
    return SourceIncomplete(
        f"{name} could not be read completely ({type(error).__name__})",
        object_name=name,
        hint="run PRAGMA integrity_check on it; restore an older snapshot if it is damaged",
    )


def require_regular(path: Path) -> None:
    """Refuse what is not a readable regular file, without opening it.

    Raises:
        Unreachable.
    """
    name = str(path)
    try:
        mode = path.stat().st_mode
        name.encode("utf-8")
    except FileNotFoundError as error:
        raise Unreachable(f"{name} does not exist", object_name=name, hint="check the path of the source") from error
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"{name!a} cannot be reached ({type(error).__name__})",
            hint="check the path and the permissions of its folders",
        ) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise Unreachable(f"{name} is {kind}", object_name=name, hint="name the database file itself")
    if not os.access(path, os.R_OK):
        raise Unreachable(f"{name} is not readable", object_name=name, hint="give this user read permission")


def first_fault(connection: apsw.Connection, *, full: bool) -> str | None:
    """Run the engine's own check and return its first message, or None if all is well.

    Messages name tables, indexes and pages; row ids, which may be customers' numbers, are taken out.
    """
    check = "PRAGMA integrity_check(1)" if full else "PRAGMA quick_check(1)"
    for row in connection.execute(check):
        message = str(row[0])
        return None if message == "ok" else _ROWID.sub("a rowid", message).strip()
    return "the check gave no answer"
