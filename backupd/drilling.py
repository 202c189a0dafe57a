"""The doors of a drill: beside wiring.py the one place that names concrete engines.

A server of our own to restore to, questions to what was restored, and the end of a database on somebody's server.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from backupd.config.urls import DatabaseUrl
from backupd.model import Answer
from backupd.wiring import ServerOptions, place_of


@dataclass(frozen=True, slots=True)
class StartedServer:
    """A server of our own, for one drill.

    Attributes:
        url: of the database that is to be restored; it is not there yet.
        options: with the password, and the folders of the server's programs.
        version: product and version, e.g. "PostgreSQL 18.1".
        programs: the folder of the server's own programs.
    """

    url: DatabaseUrl
    options: ServerOptions
    version: str
    programs: str


@contextmanager
def start_server(
    engine: str,
    facts: Mapping[str, object],
    folder: Path,
    database: str,
    *,
    superuser: bool = False,
    options: ServerOptions | None = None,
    timeout: float = 120.0,
) -> Iterator[StartedServer]:
    """Start a server of our own for a snapshot. It ends with the context, and with the thread that started it.

    Args:
        engine: "postgresql" or "mariadb", as in the manifest.
        facts: of the snapshot.
        folder: empty and ours. All of the server is below it; at the end it is empty again.
        database: the name that will be restored to, `backupd_drill_` and 16 hexadecimal digits.
        superuser: whether whoever restores and asks may do everything there.
        options: the folders to look for its programs first, and the jobs.
        timeout: seconds that the start may take.

    Raises:
        Unreachable: no programs of the snapshot's version or a newer one, or they do not start.
        IntegrityError: the snapshot does not say of which version it is.
    """
    options = options or ServerOptions()
    if engine == "postgresql":
        from backupd.engines.postgres import start_server as postgres_server

        started = postgres_server(
            facts, folder, database, superuser=superuser, bin_folders=options.tools, timeout=timeout
        )
    else:
        from backupd.engines.mariadb import start_server as mariadb_server

        folders = [Path(one) for one in options.tools]
        started = mariadb_server(facts, folder, database, superuser=superuser, bin_folders=folders, timeout=timeout)
    with started as server:
        place = server.place
        url = DatabaseUrl(place.engine, Path(), place.host, place.port, place.user, place.database, place.options)
        tools = (*options.tools, str(server.programs))
        yield StartedServer(
            url, replace(options, password=place.password, tools=tools), server.version, str(server.programs)
        )


def ask_database(
    url: DatabaseUrl, statement: str, *, timeout: float = 60.0, options: ServerOptions | None = None
) -> Answer:
    """The first value of the first row that a query gives, of a restored database that nobody writes to.

    Args:
        url: the database.
        statement: one query.
        timeout: seconds that it may take.
        options: how to reach a server.

    Raises:
        UsageError: it is no query, or gives something else than one value.
        Failed: it was stopped, or failed while it ran.
        Unreachable: the database is not there, or cannot be connected to.
    """
    if url.engine == "sqlite":
        from backupd.engines.sqlite_asking import ask as ask_file

        return ask_file(url.path, statement, timeout=timeout)
    place = place_of(url, options or ServerOptions())
    if url.engine == "postgresql":
        from backupd.engines.postgres import ask as ask_postgres

        return ask_postgres(place, statement, timeout=timeout)
    from backupd.engines.mariadb import ask as ask_mariadb

    return ask_mariadb(place, statement, timeout=timeout)


def drop_scratch(url: DatabaseUrl, *, timeout: float = 30.0, options: ServerOptions | None = None) -> tuple[str, ...]:
    """Drop the database of a drill from a server, and what its restore made on the way; the names of what was there.

    Raises:
        SafetyRefused: it has not the name of a drill's database.
        Unreachable, TryAgain, Failed: the server refused.
    """
    place = place_of(url, options or ServerOptions())
    if url.engine == "postgresql":
        from backupd.engines.postgres import drop as drop_postgres

        return drop_postgres(place, timeout=timeout)
    from backupd.engines.mariadb import drop as drop_mariadb

    return drop_mariadb(place, timeout=timeout)


def check_references(url: DatabaseUrl, *, timeout: float = 30.0, options: ServerOptions | None = None) -> list[str]:
    """Which foreign keys of a restored database do not hold, in sentences of names and counts.

    Sources may have been like that: MariaDB and SQLite take rows unchecked from whoever asks for it. PostgreSQL has checked
    every key when it made it, all but those that are not valid, which are so in the source as well; it is asked for these.

    Raises:
        Unreachable, TryAgain, Failed: the database could not be asked.
    """
    if url.engine == "sqlite":
        from backupd.engines.sqlite_asking import check_references as check_file

        return check_file(url.path)
    place = place_of(url, options or ServerOptions())
    if url.engine == "postgresql":
        from backupd.engines.postgres import check_references as check_postgres

        return check_postgres(place, timeout=timeout)
    from backupd.engines.mariadb import check_references as check_mariadb

    return check_mariadb(place, timeout=timeout)
