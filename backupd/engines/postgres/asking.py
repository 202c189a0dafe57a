"""Asks a restored PostgreSQL database one statement, in a transaction that cannot write and is never committed.

The statement is the query of a cursor, so nothing but one query can be that. What it calls runs with the rights of who asks,
which should be a role with few. Must never put what the server says into a message: it may quote rows.
"""

from contextlib import closing

import psycopg

from backupd.engines.asking import no_row, not_plain, plain, refused, require_single, shown, too_late
from backupd.engines.base import ServerPlace
from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.client import open_connection, patience
from backupd.engines.postgres.problems import meaning
from backupd.errors import BackupdError, Failed, UsageError
from backupd.model import Answer

_CONNECT_SECONDS = 30.0
_GRACE = 5.0
_STOPPED = "57014"
_WRITES = frozenset({"25001", "25006"})
_UNCHECKED = b"""
SELECT k.conname, n.nspname || '.' || c.relname FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'f' AND NOT k.convalidated ORDER BY 2, 1
"""


def ask(place: ServerPlace, statement: str, *, timeout: float) -> Answer:
    """The first value of the first row.

    Args:
        place: the database.
        statement: one query.
        timeout: seconds that it may take.

    Raises:
        UsageError: it is no such query, or gives something else than one value.
        Failed: it was stopped, or failed while it ran.
        Unreachable, TryAgain: no connection.
    """
    try:
        query = b"DECLARE backupd NO SCROLL CURSOR FOR\n" + statement.encode()
    except UnicodeEncodeError:
        raise refused("is no text") from None
    if b"\0" in query:  # where the driver would end it
        raise refused("is no text")
    session, _ = open_connection(place, timeout=_CONNECT_SECONDS)
    with closing(session):
        try:
            # A function can catch its own cancellation, and go on: the line is cut some seconds later.
            with patience(session, timeout + _GRACE):
                return plain(_first(session, query, timeout))
        except psycopg.DataError as error:
            if error.sqlstate is None:  # the driver's own: a moment that Python has no value for
                raise not_plain() from None
            raise _meaning(error, timeout) from None
        except psycopg.Error as error:
            raise _meaning(error, timeout) from None
        except (ValueError, RecursionError, OverflowError):  # JSON, numbers or characters beyond what Python reads
            raise not_plain() from None


def _first(session: Session, query: bytes, timeout: float) -> object:
    # Names are looked up where the database itself says.
    session.execute(b"SET search_path TO DEFAULT")
    session.execute(b"BEGIN READ ONLY")
    session.execute(b"SET LOCAL cursor_tuple_fraction = 1")
    session.execute(f"SET LOCAL statement_timeout = {max(1, round(timeout * 1000))}".encode())
    # Prepared, because then the server itself takes one statement only.
    session.execute(query, prepare=True)
    with session.cursor() as cursor:
        cursor.execute(b"FETCH FORWARD 1 FROM backupd")
        require_single(len(cursor.description or ()))
        row = cursor.fetchone()
    if row is None:
        raise no_row()
    return row[0]


def check_references(place: ServerPlace, *, timeout: float) -> list[str]:
    """Which foreign keys the server has not checked, because the source had not either, in sentences of names.

    Raises:
        Unreachable, TryAgain, Failed.
    """
    session, _ = open_connection(place, timeout=_CONNECT_SECONDS)
    with closing(session):
        try:
            with patience(session, timeout + _GRACE):
                rows = session.execute(_UNCHECKED).fetchall()
        except psycopg.Error as error:
            raise _meaning(error, timeout) from None
    return [shown(f"constraint {key} of table {table} is not valid: its rows may lead nowhere") for key, table in rows]


def _meaning(error: psycopg.Error, timeout: float) -> BackupdError:
    state = error.sqlstate
    if state == _STOPPED:
        return too_late(timeout)
    if state is None or state.startswith(("08", "57")):
        hint = f"the server ended, or the statement took over {timeout + _GRACE:g} s and could not be stopped"
        return Failed("the connection broke while the statement ran", hint=hint)
    if state in _WRITES:
        return refused("does more than to read")
    if state.startswith(("0A", "42", "34")):
        message = f"the statement cannot be asked of this database: {meaning(state)}"
        return UsageError(message, hint="check its words and the names of tables and columns")
    return Failed(f"the statement failed: {meaning(state)}", hint="ask it of the source's own server to see why")
