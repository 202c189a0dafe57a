"""Databases for the tests of this engine."""

from collections.abc import Callable, Iterator

import pytest

from tests.servers.mariadb import MariaServer
from tests.unit.engines.mariadb import kit


@pytest.fixture
def make(mariadb_server: MariaServer) -> Iterator[Callable[..., str]]:
    """Makes databases; they and what was restored beside them are dropped at the end."""
    made: list[str] = []

    def create(sql: str = "", options: str = "CHARACTER SET utf8mb4") -> str:
        made.append(mariadb_server.create_database(options=options))
        if sql:
            mariadb_server.sql(sql, made[-1])
        return made[-1]

    yield create
    for name in kit.databases(mariadb_server):
        if any(name.startswith(one) for one in made):
            mariadb_server.drop_database(name)
