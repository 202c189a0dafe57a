"""Asks a restored MariaDB or MySQL database one statement, in a session that cannot write.

The driver sends one statement and no more, and its first word says that it is a query: a procedure, which could end the
transaction, cannot be called by one. Must never put what the server says into a message: it may quote rows.
"""

from datetime import UTC, datetime

import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.cursors import SSCursor

from backupd.engines.asking import Answer, no_row, not_plain, plain, refused, require_reading, require_single, too_late
from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import (
    DENIED,
    LOST,
    MOVED,
    Connection,
    connect,
    discard,
    error_number,
    inner,
    run,
    server_errors,
)
from backupd.engines.mariadb.mysql import INTERRUPTED, Alarm
from backupd.errors import BackupdError, Failed, UsageError

_CONNECT_SECONDS = 30.0
_GRACE = 5.0
_READ_ONLY = frozenset({1290, 1792, 1836})
_SYNTAX = frozenset(
    {1052, 1055, 1056, 1060, 1064, 1065, 1066, 1140, 1222, 1235, 1241, 1242, 1248, 1305, 1318, 1582, 4161}
)


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
    require_reading(statement)
    link = connect(place, timeout=_CONNECT_SECONDS, database=place.database, read_timeout=timeout + _GRACE)
    try:
        with server_errors(place, "beginning to read"):
            run(link, "SET SESSION TRANSACTION READ ONLY")
            run(link, "START TRANSACTION READ ONLY")
        alarm = Alarm(place, link, _CONNECT_SECONDS)
        try:
            with alarm.after(timeout):
                return _first(link, statement)
        finally:
            alarm.close()
    except pymysql.Error as error:
        raise _meaning(error, timeout) from None
    except UnicodeEncodeError:
        raise refused("is no text") from None
    except (UnicodeDecodeError, OverflowError):
        raise not_plain() from None
    finally:
        discard(link)


def _first(link: Connection, statement: str) -> Answer:
    cursor = link.cursor(SSCursor)
    try:
        cursor.execute(statement)
        if cursor.description is None:
            raise refused("gives no rows")
        require_single(len(cursor.description))
        row = cursor.fetchone()
        if row is None:
            raise no_row()
        value, kind = row[0], int(cursor.description[0][1])
    finally:
        if (result := inner(cursor)._result) is not None:
            result.unbuffered_active = False  # or the driver would take all other rows at the end
    if kind == FIELD_TYPE.TIMESTAMP and isinstance(value, datetime):
        value = value.replace(tzinfo=UTC)  # the session's zone
    return plain(value)


def _meaning(error: pymysql.Error, timeout: float) -> BackupdError:
    number = error_number(error)
    if number in (INTERRUPTED, 1969, 3024):
        return too_late(timeout)
    if number in LOST or number == 0:
        hint = f"the server ended, or the statement took over {timeout + _GRACE:g} s and could not be stopped"
        return Failed(f"the connection broke while the statement ran (error {number})", hint=hint)
    if number in _READ_ONLY:
        return refused(f"does more than to read (error {number})")
    if number in MOVED | _SYNTAX | DENIED:
        return UsageError(
            f"the statement cannot be asked of this database (error {number})",
            hint="check its words and the names of tables and columns; see the server's manual for the number",
        )
    return Failed(f"the statement failed (error {number})", hint="ask it of the source's own server to see why")
