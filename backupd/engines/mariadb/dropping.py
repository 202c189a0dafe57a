"""Drops the database of a drill from a MariaDB or MySQL server that is not ours; no other name is ever dropped."""

from contextlib import suppress

import pymysql

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import Connection, connect, discard, quote_name, run, server_errors
from backupd.engines.throwaway import of_drill, require_name

_USERS = "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s AND ID <> CONNECTION_ID()"
_LOCK_SECONDS = 60


def drop(place: ServerPlace, *, timeout: float) -> tuple[str, ...]:
    """Drop the place's database, and what its restore made on the way; the names of what was there.

    Sessions that this account may end are ended, others are waited for.

    Raises:
        SafetyRefused: it has not the name of a drill's database.
        Unreachable, TryAgain, Failed.
    """
    require_name(place.database)
    link = connect(place, timeout=timeout, read_timeout=timeout + _LOCK_SECONDS)
    try:
        with server_errors(place, "listing the databases"):
            run(link, f"SET SESSION lock_wait_timeout = {_LOCK_SECONDS}")
            names = of_drill(place.database, [str(name) for (name,) in run(link, "SHOW DATABASES")])
        for name in names:
            _end_sessions(link, name)
            with server_errors(place, f"dropping database {name}", subject=name):
                run(link, f"DROP DATABASE IF EXISTS {quote_name(name)}")
        return tuple(names)
    finally:
        discard(link)


def _end_sessions(link: Connection, name: str) -> None:
    for (number,) in run(link, _USERS, (name,)):
        with suppress(pymysql.Error):  # it has ended by itself, or is another's: then the server says so at the end
            run(link, f"KILL CONNECTION {int(str(number))}")
