"""Finding a catalog that is there: never made, never upgraded, and the same one that a daemon writes."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.errors import BackupdError, IntegrityError, SafetyRefused, Unreachable
from backupd.wiring import find_catalog, open_catalog
from tests.catalogs import server_url
from tests.servers.postgres import PostgresServer

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)


def test_what_a_daemon_writes_is_found(tmp_path: Path) -> None:
    """Also while the daemon has it open, and under a name that a URL would have to quote."""
    place = tmp_path / "state of 100 % & more?#"
    with open_catalog(place) as catalog:
        catalog.heartbeats.beat("host:1", NOW)
        found = find_catalog(place)
        assert found is not None
        with found:
            assert (found.id, found.heartbeats.all()) == (catalog.id, {"host:1": NOW})


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Neither the folder, nor a file, nor tables in an empty one."""
    assert find_catalog(tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "catalog.sqlite").touch(0o640)
    assert find_catalog(tmp_path) is None
    assert (tmp_path / "catalog.sqlite").stat().st_size == 0
    assert (tmp_path / "catalog.sqlite").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("statement", "error"),
    [("UPDATE alembic_version SET version_num = '9999'", SafetyRefused), ("DROP TABLE runs", IntegrityError)],
)
def test_one_of_another_shape_is_refused_as_it_is(tmp_path: Path, statement: str, error: type[BackupdError]) -> None:
    open_catalog(tmp_path).close()
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        connection.execute(statement)
    with pytest.raises(error):
        find_catalog(tmp_path)


def test_on_a_server_nothing_is_made_either(postgres_servers: Callable[[int], PostgresServer]) -> None:
    """No schema in a database without one; the catalog once there is one; an error where there is no database."""
    server = postgres_servers(18)
    name = server.create_database()
    url = server_url(server, name)
    assert find_catalog(Path("unused"), url) is None
    assert server.psql(name, "SELECT count(*) FROM pg_namespace WHERE nspname = 'backupd'").strip() == "0"
    with open_catalog(Path("unused"), url) as catalog:
        found = find_catalog(Path("unused"), url)
        assert found is not None
        with found:
            assert found.id == catalog.id
    server.drop_database(name)
    with pytest.raises(Unreachable):
        find_catalog(Path("unused"), url)
