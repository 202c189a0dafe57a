"""Transactions of the catalog's database, SQLite or PostgreSQL, and what their errors mean.

Both behave alike: at any moment at most one transaction writes, and a reader never waits for it. What a database says about
an error may quote what was written: it is never passed on.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, event
from sqlalchemy.exc import DBAPIError, OperationalError

from backupd.errors import BackupdError, Failed, IntegrityError, StorageRefused, TryAgain, Unreachable

_WRITES = "backupd_writes"
_ONE_WRITER = 0x6261636B75706400
"""The advisory lock that stands for the right to write, on PostgreSQL."""
_WAIT = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_REFUSED = {
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_READONLY: "it may not be written",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "it may not be opened",
    sqlite3.SQLITE_IOERR: "its disk has an error",
}
_OTHER_TABLES = {"42P01", "42703", "42P07", "42701", "42704"}
"""SQLSTATEs of tables, columns and indexes that are not there, or are there already."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
REBUILD = (
    "restore the catalog from a copy, or move it away, with -wal and -shm beside it, and make it anew with"
    " `backupctl catalog rebuild`"
)
"""What to do about a catalog that is of no use any more."""


class Database:
    """One database. For any number of threads, not for a child after a fork.

    Args:
        engine: to it.
        name: as messages call it; without a password.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name
        self.sqlite = engine.dialect.name == "sqlite"
        if self.sqlite:
            event.listen(engine, "begin", _begin)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.errors(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; nobody else writes meanwhile."""
        with self.errors(), self._engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                if not self.sqlite:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_WRITER})")
                yield connection

    def insert_new(self, connection: Connection, table: Table, **values: Any) -> bool:
        """Insert a row; False if there is one that it would collide with."""
        if self.sqlite:  # a dialect takes long to import, and most processes need none of the other one
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
        statement = insert(table).values(**values).on_conflict_do_nothing()
        return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1

    def outside(self, statement: str) -> object:
        """The one answer to a statement that SQLite takes outside of transactions only."""
        with self.errors():
            connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(statement)
                (answer,) = cursor.fetchone() or (None,)
                cursor.close()
            finally:
                connection.close()
        return answer

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What the database says becomes an error of ours; a mistake of this program's stays what it is."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._sqlite_error(error) or error from None
        except DBAPIError as error:
            meant = self._sqlite_error(error.orig) if self.sqlite else self._server_error(error)
            raise meant or error from None

    def has_other_tables(self, error: DBAPIError) -> bool:
        """Whether the database says that a table or column is not there, or is there already."""
        if self.sqlite:
            return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
        return str(getattr(error.orig, "sqlstate", None) or "") in _OTHER_TABLES

    def _sqlite_error(self, error: BaseException | None) -> BackupdError | None:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            return None
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _WAIT:
            return TryAgain(
                f"another process kept the catalog {self.name} locked for too long",
                object_name=self.name,
                hint="try again; if it stays so, look for a process that hangs",
            )
        if code in _REFUSED:
            return StorageRefused(
                f"the catalog {self.name} cannot be used: {_REFUSED[code]}",
                object_name=self.name,
                hint="look at its disk, its folder and their permissions",
            )
        if code in _DAMAGED:
            return damaged(self.name)
        return Failed(f"the catalog {self.name} failed (SQLite's error {code})", object_name=self.name, hint=REBUILD)

    def _server_error(self, error: DBAPIError) -> BackupdError | None:
        state = str(getattr(error.orig, "sqlstate", None) or "")
        if state == "55P03":  # lock_not_available
            return TryAgain(
                f"another process kept the catalog {self.name} locked for too long",
                object_name=self.name,
                hint="try again; if it stays so, look for a process that hangs",
            )
        if state.startswith("53") or state == "42501":  # insufficient resources, insufficient privilege
            return StorageRefused(
                f"the server refuses the catalog {self.name} (SQLSTATE {state})",
                object_name=self.name,
                hint="look at the server's log: its disk, its limits, and what the role may do",
            )
        if self.has_other_tables(error):
            return damaged(self.name)
        if not state or isinstance(error, OperationalError) or error.connection_invalidated:
            return Unreachable(
                f"the catalog {self.name} cannot be reached" + (f" (SQLSTATE {state})" if state else ""),
                object_name=self.name,
                hint="is its URL right, does the server run, and has PGPASSFILE (or ~/.pgpass) the role's password?",
            )
        return None


def damaged(name: str) -> IntegrityError:
    """The error of a catalog that is no database, or not one of ours."""
    return IntegrityError(f"the catalog {name} is damaged, or is no catalog", object_name=name, hint=REBUILD)


def _begin(connection: Connection) -> None:
    """Writers take the lock at once: one that reads first and writes then could find that another one wrote in between."""
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
