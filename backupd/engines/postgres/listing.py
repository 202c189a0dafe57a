"""The databases of a server, for whoever protects all of them. Templates are left out by nature: they serve no one."""

import psycopg

from backupd.engines.base import Listed, Listing, ServerPlace
from backupd.engines.postgres.client import open_connection, patience
from backupd.engines.postgres.problems import connect_error
from backupd.errors import Unreachable

_ASK = """
SELECT datname, datallowconn, pg_catalog.has_database_privilege(oid, 'CONNECT')
FROM pg_catalog.pg_database WHERE NOT datistemplate ORDER BY datname
"""
_DOORS = ("postgres", "template1")


def databases(place: ServerPlace, *, timeout: float) -> Listing:
    """List the databases, with a reason for each that this role cannot connect to.

    Raises:
        Unreachable: no connection to either of the databases that every server has.
    """
    first: Unreachable | None = None
    for door in _DOORS:
        try:
            connection, _ = open_connection(place, timeout=timeout, database=door)
        except Unreachable as error:
            first = first or error
            continue
        try:
            with connection, patience(connection, timeout):
                rows = connection.execute(_ASK.encode()).fetchall()
        except (psycopg.Error, UnicodeError) as error:
            raise connect_error(error, str(place)) from error
        return Listing(tuple(Listed(str(name), _why(allowed, granted)) for name, allowed, granted in rows))
    assert first is not None
    raise first


def _why(allowed: bool, granted: bool) -> str | None:
    if not allowed:
        return "it allows no connections"
    return None if granted else "this role may not connect to it"
