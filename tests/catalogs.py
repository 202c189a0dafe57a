"""Catalogs for tests: in a file, and on a real PostgreSQL server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.catalog.opening import Catalog
from backupd.wiring import open_catalog
from tests.servers.postgres import PostgresServer

_TABLES = ("jobs", "runs", "snapshots", "verifications", "drills", "alerts", "notifications", "audit", "heartbeats")
Fresh = Callable[[], tuple[Catalog, str]]
"""Gives a catalog that holds nothing, and its URL."""


def server_url(server: PostgresServer, database: str) -> str:
    return f"postgresql://{server.superuser}@{server.host}:{server.port}/{database}"


@contextmanager
def on_server(server: PostgresServer) -> Iterator[Fresh]:
    """One catalog in a database of its own; each call empties it."""
    name = server.create_database()
    url = server_url(server, name)
    with open_catalog(Path("unused"), url) as catalog:

        def fresh() -> tuple[Catalog, str]:
            server.psql(name, f"truncate {', '.join(f'backupd.{table}' for table in _TABLES)} restart identity")
            server.psql(name, "delete from backupd.meta where key <> 'id'")
            return catalog, url

        yield fresh
    server.drop_database(name)
