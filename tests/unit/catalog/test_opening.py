"""Opening a catalog: made, found again, refused when it is not what this program made."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from backupd.catalog import migration
from backupd.catalog.database import Database
from backupd.catalog.opening import open_catalog as open_place
from backupd.catalog.places import Server, open_file, open_server
from backupd.catalog.tables import metadata
from backupd.errors import BackupdError, IntegrityError, SafetyRefused, StorageRefused, TryAgain, Unreachable
from backupd.wiring import open_catalog
from tests.catalogs import server_url
from tests.servers.postgres import PostgresServer

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
AS_ROOT = os.geteuid() == 0


def test_a_catalog_is_made_with_its_folder_and_found_again(tmp_path: Path) -> None:
    """The file is for its owner only, and has the same id when it is opened again."""
    state = tmp_path / "some/state"
    with open_catalog(state) as catalog:
        made = catalog.id
        catalog.heartbeats.beat("daemon", NOW)
        for path in state.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert sorted(path.name for path in state.iterdir()) == ["catalog.sqlite"]
    with open_catalog(state) as catalog:
        assert (catalog.id, catalog.heartbeats.all()) == (made, {"daemon": NOW})


def test_a_file_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    open_catalog(tmp_path).close()
    (tmp_path / "catalog.sqlite").chmod(0o644)
    open_catalog(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "catalog.sqlite").stat().st_mode) == 0o600


def test_the_file_is_shared_as_it_must_be(tmp_path: Path) -> None:
    """A write-ahead log, foreign keys that are enforced, and a writer that does not wait for the disk at each commit."""
    open_catalog(tmp_path).close()
    database = open_file(tmp_path / "catalog.sqlite", 1)
    with database.read() as connection:
        found = [
            connection.exec_driver_sql(f"pragma {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        ]
    database.close()
    assert found == ["wal", 1, 1]


def differences(database: Database) -> list[object]:
    try:
        with database.read() as connection:
            return list(compare_metadata(MigrationContext.configure(connection), metadata))
    finally:
        database.close()


def test_the_migrations_make_the_tables_of_the_model(
    tmp_path: Path, postgres_servers: Callable[[int], PostgresServer]
) -> None:
    """On SQLite and on PostgreSQL: every table, column, index and constraint."""
    open_catalog(tmp_path).close()
    assert differences(open_file(tmp_path / "catalog.sqlite", 5)) == []
    server = postgres_servers(18)
    name = server.create_database()
    open_catalog(tmp_path, server_url(server, name)).close()
    place = Server(server.host, server.port, server.superuser, name)
    assert differences(open_server(place, 5)) == []
    assert server.psql(name, "select count(*) from pg_tables where schemaname = 'public'") == "0"
    server.drop_database(name)


def spoil(state: Path, *statements: str) -> Path:
    """Make a catalog and change it behind its back."""
    open_catalog(state).close()
    path = state / "catalog.sqlite"
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()
    return path


def refused(state: Path, kind: type[BackupdError], words: str) -> None:
    """The catalog is refused, says so with a hint, and stays byte for byte as it is."""
    path = state / "catalog.sqlite"
    before = path.read_bytes()
    with pytest.raises(kind, match=words) as caught:
        open_catalog(state, timeout=1)
    assert caught.value.object_name == str(path)
    assert caught.value.hint
    assert path.read_bytes() == before


def test_a_newer_catalog_is_refused(tmp_path: Path) -> None:
    spoil(tmp_path, "update alembic_version set version_num = '9999'", "create table later(x)")
    refused(tmp_path, SafetyRefused, "newer version")


@pytest.mark.parametrize(
    "statement",
    [
        "drop table alerts",
        "alter table runs drop column warnings",
        "alter table runs add column later",
        "create table _alembic_tmp_runs(x)",
        "delete from alembic_version",
        "insert into alembic_version values('0000')",
        "delete from meta",
    ],
)
def test_a_half_migrated_catalog_is_refused(tmp_path: Path, statement: str) -> None:
    """Tables that are not those of the version, leftovers of a change, and a version that says nothing."""
    spoil(tmp_path, statement)
    refused(tmp_path, BackupdError, "half-migrated|newer version")


def test_a_database_of_somebody_else_is_no_catalog(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "catalog.sqlite")
    db.execute("create table customers(x)")
    db.close()
    refused(tmp_path, IntegrityError, "is no catalog")


def test_a_file_of_something_else_is_no_catalog(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(os.urandom(50_000))
    refused(tmp_path, IntegrityError, "damaged, or is no catalog")


def test_a_damaged_page_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Also when it is met after the catalog was opened."""
    with open_catalog(tmp_path) as catalog:
        for n in range(300):
            catalog.audit.append("somebody", "run", "x" * 200, NOW, {"n": n})
    path = tmp_path / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    data[-40960:] = os.urandom(40960)
    path.write_bytes(data)
    with open_catalog(tmp_path) as catalog, pytest.raises(IntegrityError, match="damaged") as caught:
        catalog.audit.verify()
    assert "catalog rebuild" in str(caught.value.hint)


def test_the_log_of_a_catalog_that_is_gone_is_not_taken_in(tmp_path: Path) -> None:
    """A new file beside an old write-ahead log would get its pages."""
    open_catalog(tmp_path).close()
    (tmp_path / "catalog.sqlite").unlink()
    (tmp_path / "catalog.sqlite-wal").write_bytes(b"old")
    with pytest.raises(SafetyRefused, match="sqlite-wal"):
        open_catalog(tmp_path)
    assert not (tmp_path / "catalog.sqlite").exists()


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageRefused, match="the catalog"):
        open_catalog(tmp_path)


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StorageRefused, match="state"):
        open_catalog(tmp_path / "state")
    (tmp_path / "catalog.sqlite").mkdir()
    with pytest.raises(BackupdError, match="the catalog"):
        open_catalog(tmp_path)


def test_a_locked_catalog_is_tried_again(tmp_path: Path) -> None:
    """A process that holds the right to write for too long is an error with a name, not a traceback."""
    with open_catalog(tmp_path, timeout=0.1) as catalog:
        other = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None)
        other.execute("begin immediate")
        with pytest.raises(TryAgain, match="locked for too long"):
            catalog.heartbeats.beat("daemon", NOW)
        assert catalog.heartbeats.all() == {}, "readers do not wait"
        other.execute("rollback")
        other.close()
        catalog.heartbeats.beat("daemon", NOW)


def test_a_server_that_is_not_there_is_unreachable(postgres_servers: Callable[[int], PostgresServer]) -> None:
    """So is a database that does not exist, and a role that the server does not let in."""
    server = postgres_servers(18)
    for url in (
        "postgresql://u@127.0.0.1:1/db",
        server_url(server, "no_such_database"),
        f"postgresql://{server.scram_user}@{server.host}:{server.port}/postgres",
        server_url(server, "postgres") + "?no_such_option=1",
    ):
        with pytest.raises(Unreachable, match="cannot be reached") as caught:
            open_catalog(Path("unused"), url, timeout=2)
        assert "PGPASSFILE" in str(caught.value.hint)


def test_a_newer_catalog_on_a_server_is_refused(postgres_servers: Callable[[int], PostgresServer]) -> None:
    server = postgres_servers(18)
    name = server.create_database()
    url = server_url(server, name)
    open_catalog(Path("unused"), url).close()
    server.psql(name, "alter table backupd.runs drop column warnings")
    with pytest.raises(IntegrityError, match="half-migrated"):
        open_catalog(Path("unused"), url)
    server.psql(name, "update backupd.alembic_version set version_num = '9999'")
    with pytest.raises(SafetyRefused, match="newer version"):
        open_catalog(Path("unused"), url)
    server.drop_database(name)


def test_a_locked_catalog_on_a_server_is_tried_again(postgres_servers: Callable[[int], PostgresServer]) -> None:
    """A process that keeps the right to write makes others wait for so long and no longer; readers do not wait."""
    server = postgres_servers(18)
    name = server.create_database()
    url = server_url(server, name)
    holder = open_server(Server(server.host, server.port, server.superuser, name), 5)
    with open_catalog(Path("unused"), url, timeout=0.2) as catalog:
        with holder.write(), pytest.raises(TryAgain, match="locked for too long"):
            catalog.heartbeats.beat("daemon", NOW)
        catalog.heartbeats.beat("daemon", NOW)
        with holder.write():
            assert catalog.heartbeats.all() == {"daemon": NOW}
    holder.close()
    server.drop_database(name)


def test_a_server_that_was_started_again_is_found_again(postgres_servers: Callable[[int], PostgresServer]) -> None:
    """Connections that died with it are replaced."""
    server = postgres_servers(18)
    name = server.create_database()
    with open_catalog(Path("unused"), server_url(server, name)) as catalog:
        catalog.heartbeats.beat("daemon", NOW)
        server.psql("postgres", f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
        assert catalog.heartbeats.all() == {"daemon": NOW}
    server.drop_database(name)


def two_versions(folder: Path, *lines: str) -> Path:
    """This program's migrations, and one more that does what the lines say."""
    shutil.copytree(Path(migration.__file__).parent / "migrations", folder)
    head = "import os\n\nfrom alembic import op\n\nrevision = '0002'\ndown_revision = '0001'\n\n\ndef upgrade():\n"
    (folder / "v0002.py").write_text(head + "".join(f"    {line}\n" for line in lines))
    return folder


def upgraded(path: Path, versions: Path) -> None:
    database = open_file(path, 5)
    try:
        migration.bring_up(database, versions=versions, newest="0002")
    finally:
        database.close()


CHANGE = "op.execute('create table later(x)'); op.execute('alter table runs add column later')"


@pytest.mark.parametrize("last", ["op.execute('create table jobs(x)')", "raise RuntimeError", "pass"])
def test_an_upgrade_that_fails_leaves_the_catalog_as_it_was(tmp_path: Path, last: str) -> None:
    """Whether the database, the migration or the look at its result ends it: wholly or not at all."""
    with open_catalog(tmp_path / "state") as catalog:
        catalog.heartbeats.beat("daemon", NOW)
    with pytest.raises((IntegrityError, RuntimeError)):
        upgraded(tmp_path / "state/catalog.sqlite", two_versions(tmp_path / "versions", CHANGE, last))
    with open_catalog(tmp_path / "state") as catalog:
        assert catalog.heartbeats.all() == {"daemon": NOW}


def run_to_its_death(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


def test_a_process_killed_while_it_upgrades_leaves_the_catalog_as_it_was(tmp_path: Path) -> None:
    """kill -9 in the middle of a migration, with tables changed already: the next one opens the old catalog, whole."""
    with open_catalog(tmp_path / "state") as catalog:
        made = catalog.id
    versions = two_versions(tmp_path / "versions", CHANGE, "os.kill(os.getpid(), 9)")
    run_to_its_death(
        "from pathlib import Path\nfrom tests.unit.catalog.test_opening import upgraded\n"
        f"upgraded(Path({str(tmp_path / 'state/catalog.sqlite')!r}), Path({str(versions)!r}))"
    )
    with open_catalog(tmp_path / "state") as catalog:
        assert catalog.id == made


def test_a_process_killed_while_it_makes_a_catalog_leaves_none(tmp_path: Path) -> None:
    """The next one makes it."""
    path = tmp_path / "catalog.sqlite"
    run_to_its_death(
        "import os\nfrom pathlib import Path\nfrom backupd.catalog import migration, places\n"
        f"database = places.open_file(Path({str(path)!r}), 5)\n"
        "with database.write() as connection:\n"
        "    migration._upgrade(connection, database, migration._VERSIONS, migration.NEWEST)\n"
        "    os.kill(os.getpid(), 9)"
    )
    assert path.exists()
    with open_place(path) as catalog:
        assert catalog.runs.list() == []


def test_many_open_a_new_catalog_at_once(tmp_path: Path) -> None:
    """One makes it; all find the same."""
    code = f"from backupd.wiring import open_catalog\nfrom pathlib import Path\nprint(open_catalog(Path({str(tmp_path)!r})).id)"
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    found = {child.communicate(timeout=120)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0] * 4
    assert len(found) == 1

    def opened(_: int) -> str:
        with open_catalog(tmp_path / "threads") as catalog:
            return catalog.id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(opened, range(6)))) == 1
