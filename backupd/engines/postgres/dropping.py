"""Drops the database of a drill from a PostgreSQL server that is not ours; no other name is ever dropped."""

import psycopg

from backupd.engines.base import ServerPlace
from backupd.engines.postgres.problems import target_error
from backupd.engines.postgres.scratch import Databases, open_maintenance
from backupd.engines.throwaway import of_drill, require_name


def drop(place: ServerPlace, *, timeout: float) -> tuple[str, ...]:
    """Drop the place's database, and what its restore made on the way, whoever uses them; the names of what was there.

    Raises:
        SafetyRefused: it has not the name of a drill's database.
        Unreachable, TryAgain, Failed.
    """
    require_name(place.database)
    session, server = open_maintenance(place, timeout=timeout)
    with session:
        try:
            rows = session.execute(b"SELECT datname FROM pg_catalog.pg_database").fetchall()
        except psycopg.Error as error:
            raise target_error(error, f"{place}: the databases could not be listed", place.database) from None
        databases = Databases(session, server, place)
        names = of_drill(place.database, [str(row[0]) for row in rows])
        for name in names:
            databases.drop(name, force=True)
        return tuple(names)
