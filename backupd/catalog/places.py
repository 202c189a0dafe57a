"""Where a catalog is: a file, or a database on a PostgreSQL server; connections to either.

The file is for its owner only, and nothing but SQLite may open it: closing any other descriptor of it would drop the
locks that this process holds on it.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event

from backupd.catalog.database import Database
from backupd.errors import SafetyRefused, StorageRefused, TryAgain

_SCHEMA = "backupd"
"""All tables are in a schema of their own, so that the database may have others."""
_CONNECTIONS = 4
"""Kept open; more are made and closed again while they are needed."""
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL database; its password comes from the file that PGPASSFILE names, or ~/.pgpass."""

    host: str
    port: int
    user: str
    database: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"postgresql://{user}{self.host}{port}/{self.database}"


def open_file(path: Path, timeout: float) -> Database:
    """A catalog in a file; one that is not there is made, empty and for its owner only.

    Raises:
        StorageRefused: it cannot be made.
        SafetyRefused: it is gone, and left something behind.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_leftovers(path)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise StorageRefused(
            f"the catalog {path} cannot be made: {error.strerror}",
            object_name=str(path),
            hint="look at its folder, or name another with --state",
        ) from None
    return open_file_there(path, timeout)


def open_file_there(path: Path, timeout: float) -> Database:
    """A catalog in a file that is there; neither the file nor its folder is made or changed.

    That it is gone is told by the first use.
    """
    # isolation_level: the driver begins no transactions of its own accord, so tables are made in ours
    driver: dict[str, Any] = {"timeout": timeout, "isolation_level": None, "check_same_thread": False}
    # mode=rw: a file that is gone later is not made again, empty, by the next connection
    url = URL.create("sqlite", database=f"file:{quote(str(path.absolute()))}", query={"mode": "rw", "uri": "true"})
    engine = _engine(url, driver)
    event.listen(engine, "connect", _prepare)
    return Database(engine, str(path))


def _refuse_leftovers(path: Path) -> None:
    """Refuse to make a file beside the write-ahead log of one that is gone: SQLite would take the log for its own."""
    left = [beside for beside in (path.with_name(path.name + end) for end in ("-wal", "-journal")) if beside.exists()]
    if left and not path.exists():
        raise SafetyRefused(
            f"the catalog {path} is not there, but what it had not yet taken in is: {left[0].name}",
            object_name=str(left[0]),
            hint="bring the catalog back if it was moved by mistake, or move that away too",
        )


def open_server(server: Server, timeout: float) -> Database:
    """A catalog on a server; a schema that is not there is made.

    Raises:
        Unreachable: it cannot be reached, or refuses.
    """
    database = open_server_there(server, timeout)
    try:
        _make_schema(database)
    except BaseException:
        database.close()
        raise
    return database


def open_server_there(server: Server, timeout: float) -> Database:
    """A catalog on a server; nothing is made. That it cannot be reached is told by the first use."""
    url = URL.create(
        "postgresql+psycopg",
        username=server.user or None,
        host=server.host or None,
        port=server.port or None,
        database=server.database,
        query=dict(server.options),
    )
    wait = int(timeout * 1000)
    words = f"-c search_path={_SCHEMA} -c lock_timeout={wait} -c client_min_messages=warning"
    driver = {"connect_timeout": max(2, int(timeout)), "application_name": "backupd", "options": words}
    return Database(_engine(url, driver), str(server))


def _engine(url: URL, driver: dict[str, Any]) -> Engine:
    return create_engine(
        url,
        connect_args=driver,
        pool_size=_CONNECTIONS,
        max_overflow=-1,
        pool_pre_ping=url.get_backend_name() == "postgresql",  # a server may have been started again meanwhile
        hide_parameters=True,
    )


def _prepare(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")


def share(database: Database, timeout: float) -> None:
    """Have readers and the writer of a file not wait for each other; this stays in the file.

    SQLite does not wait for other processes here, as it does everywhere else.

    Raises:
        StorageRefused: its disk does not suit.
        TryAgain: another process kept it locked for too long.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            mode = database.outside("PRAGMA journal_mode = WAL")
            break
        except TryAgain:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
    if mode != "wal":
        raise StorageRefused(
            f"the catalog {database.name} is on a disk that SQLite cannot share between processes",
            object_name=database.name,
            hint="name a state folder on a local disk with --state, or a catalog on a server",
        )


def _make_schema(database: Database) -> None:
    with database.read() as connection:
        found = connection.exec_driver_sql("SELECT 1 FROM pg_namespace WHERE nspname = %s", (_SCHEMA,)).first()
    if found is None:
        with database.write() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
