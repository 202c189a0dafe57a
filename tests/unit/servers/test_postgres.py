"""The tests' own PostgreSQL servers do what tests rely on."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import postgres as servers
from tests.servers.packages import Unavailable
from tests.servers.postgres import PostgresServer, SqlError

pytestmark = pytest.mark.slow


def test_a_server_answers(postgres: PostgresServer) -> None:
    assert postgres.version.startswith(f"{postgres.major}.")
    assert postgres.psql("postgres", "SHOW server_version").startswith(postgres.version)
    shown = postgres.psql("postgres", "SHOW server_encoding; SHOW timezone; SHOW wal_level; SELECT current_user")
    assert shown.split() == ["UTF8", "UTC", "logical", "postgres"]


def test_it_runs_unprivileged(postgres: PostgresServer) -> None:
    assert Path(f"/proc/{postgres.pid}").stat().st_uid != 0


def test_databases_are_fresh(postgres: PostgresServer) -> None:
    first, second = (
        postgres.create_database(),
        postgres.create_database(encoding="LATIN1", locale="C", template="template0"),
    )
    assert first != second
    assert postgres.psql(second, "SHOW server_encoding") == "LATIN1"
    named = postgres.create_database('an "odd" name', connection_limit=5)
    assert named == 'an "odd" name'
    for name in (first, second, named):
        postgres.drop_database(name)


def test_an_error_ends_the_statements(postgres: PostgresServer) -> None:
    database = postgres.create_database()
    with pytest.raises(SqlError, match="division by zero"):
        postgres.psql(database, "CREATE TABLE a (x int); SELECT 1/0; DROP TABLE a")
    assert "division by zero" in postgres.psql(database, "SELECT 1/0", check=False)
    assert postgres.psql(database, "SELECT count(*) FROM a") == "0"


def test_one_role_needs_its_password(postgres: PostgresServer) -> None:
    user, password = postgres.scram_user, postgres.scram_password
    assert postgres.psql("postgres", "SELECT current_user", user=user, password=password) == user
    with pytest.raises(SqlError, match="password authentication failed"):
        postgres.psql("postgres", "SELECT 1", user=user, password="wrong")
    assert postgres.scram_password_file.read_text() == password + "\n"
    assert postgres.scram_password_file.stat().st_mode & 0o777 == 0o600


def test_the_programs_run_with_an_empty_environment(postgres: PostgresServer) -> None:
    database = postgres.create_database()
    postgres.psql(database, "CREATE EXTENSION pg_trgm; CREATE TABLE a AS SELECT generate_series(1, 10) AS n")
    for program in ("psql", "pg_dump", "pg_restore", "pgbench", "pg_dumpall", "pg_basebackup"):
        said = subprocess.run([postgres.bin / program, "--version"], env={}, capture_output=True, text=True, check=True)
        assert f"(PostgreSQL) {postgres.version}" in said.stdout
    dump = [str(postgres.bin / "pg_dump"), "--dbname", postgres.url(database)]
    assert "COPY public.a" in subprocess.run(dump, env={}, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("major", servers.MAJORS)
def test_it_survives_being_killed(major: int, postgres_servers: Callable[[int], PostgresServer]) -> None:
    postgres_servers(major)  # skips where there is none
    with servers.running(major, checkpoint_timeout="1h") as server:
        server.psql("postgres", "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        port, pid = server.port, server.pid
        server.kill()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        server.start()
        assert server.port == port
        assert server.psql("postgres", "SELECT count(*) FROM kept; SHOW checkpoint_timeout").split() == ["1000", "1h"]
        server.stop()
        server.start()
        assert server.psql("postgres", "SELECT count(*) FROM kept") == "1000"


def test_a_standby_follows(postgres: PostgresServer) -> None:
    database = postgres.create_database()
    with servers.standby_of(postgres, max_standby_streaming_delay="1s") as standby:
        postgres.psql(database, "CREATE TABLE a AS SELECT generate_series(1, 1000) AS n")
        standby.catch_up(postgres)
        rows = standby.psql(
            database, "SELECT count(*) FROM a; SELECT pg_is_in_recovery(); SHOW max_standby_streaming_delay"
        )
        assert rows.split() == ["1000", "t", "1s"]
        with pytest.raises(SqlError, match="read-only"):
            standby.psql(database, "DROP TABLE a")
        standby.kill()
        standby.start()
        standby.promote()
        standby.psql(database, "DROP TABLE a")
    assert postgres.psql(database, "SELECT count(*) FROM a") == "1000"


def test_a_server_that_does_not_start_says_why(postgres_servers: Callable[[int], PostgresServer]) -> None:
    postgres_servers(18)
    with (
        pytest.raises(Unavailable, match="unrecognized configuration parameter"),
        servers.running(18, no_such_setting="1"),
    ):
        pass
