"""The tests' own MariaDB servers do what tests rely on."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import mariadb as servers
from tests.servers.mariadb import MariaServer, SqlError
from tests.servers.packages import Unavailable

pytestmark = pytest.mark.slow


def test_a_server_answers(mariadb_server: MariaServer) -> None:
    assert mariadb_server.sql("SELECT version()").startswith(mariadb_server.version)
    names = "@@log_bin, @@binlog_format, @@server_id, @@time_zone, @@character_set_server, @@event_scheduler, @@local_infile"
    shown = mariadb_server.sql(f"SELECT {names}").split("\t")
    assert shown == ["1", "ROW", "1", "+00:00", "utf8mb4", "OFF", "1"]


def test_it_runs_unprivileged(mariadb_server: MariaServer) -> None:
    assert Path(f"/proc/{mariadb_server.pid}").stat().st_uid != 0


def test_databases_are_fresh(mariadb_server: MariaServer) -> None:
    first, second = mariadb_server.create_database(), mariadb_server.create_database(options="CHARACTER SET latin1")
    mariadb_server.sql("CREATE SEQUENCE s; SELECT NEXTVAL(s)", first)
    assert mariadb_server.sql("SELECT @@character_set_database", second) == "latin1"
    for name in (first, second, mariadb_server.create_database("an `odd` name")):
        mariadb_server.drop_database(name)


def test_an_error_ends_the_statements(mariadb_server: MariaServer) -> None:
    database = mariadb_server.create_database()
    with pytest.raises(SqlError, match="doesn't exist"):
        mariadb_server.sql("CREATE TABLE a (x int); SELECT * FROM b; DROP TABLE a", database)
    assert "doesn't exist" in mariadb_server.sql("SELECT * FROM b", database, check=False)
    assert mariadb_server.sql("SELECT count(*) FROM a", database) == "0"


def test_users_have_what_they_were_given(mariadb_server: MariaServer) -> None:
    database = mariadb_server.create_database()
    mariadb_server.sql("CREATE TABLE a (x int)", database)
    name, password = mariadb_server.create_user(
        f"SELECT, LOCK TABLES ON {database}.*", "RELOAD ON *.*", password="p'\\ #\";"
    )
    assert mariadb_server.sql("SELECT count(*) FROM a", database, user=name, password=password) == "0"
    with pytest.raises(SqlError, match="command denied"):
        mariadb_server.sql("DROP TABLE a", database, user=name, password=password)
    with pytest.raises(SqlError, match="Access denied"):
        mariadb_server.sql("SELECT 1", user=name, password="wrong")
    with pytest.raises(SqlError, match="Access denied"):
        mariadb_server.sql("SELECT 1", password="wrong")


def test_the_programs_run_with_an_empty_environment(mariadb_server: MariaServer) -> None:
    for program in ("mariadb", "mariadb-dump", "mariadb-admin", "mariadb-check", "mariadb-binlog", "mariadbd"):
        said = subprocess.run(
            [mariadb_server.bin / program, "--version"], env={}, capture_output=True, text=True, check=True
        )
        assert "for debian-linux-gnu" in said.stdout
    database = mariadb_server.create_database()
    mariadb_server.sql("CREATE TABLE a (x int)", database)
    words = ["--no-defaults", f"--socket={mariadb_server.socket}", "-u", "root", database]
    dump = [str(mariadb_server.bin / "mariadb-dump"), *words]
    env = {"MYSQL_PWD": mariadb_server.root_password_file.read_text().removesuffix("\n")}
    assert "CREATE TABLE `a`" in subprocess.run(dump, env=env, capture_output=True, text=True, check=True).stdout


def test_special_servers(start_mariadb: Callable[..., MariaServer], mariadb_server: MariaServer) -> None:
    special = start_mariadb("--local-infile=OFF", "--skip-log-bin")
    assert special.sql("SELECT @@local_infile, @@log_bin") == "0\t0"
    assert start_mariadb("--local-infile=OFF", "--skip-log-bin") is special
    assert special.port != mariadb_server.port


def test_it_survives_being_killed(mariadb_server: MariaServer) -> None:
    with servers.running() as server:
        database = server.create_database()
        server.sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1), (2)", database)
        port, pid = server.port, server.pid
        server.kill()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        server.start()
        assert server.port == port
        assert server.sql("SELECT count(*) FROM kept", database) == "2"
        server.stop()
        server.start()
        assert server.sql("SELECT count(*) FROM kept", database) == "2"


def test_a_server_that_does_not_start_says_why(mariadb_server: MariaServer) -> None:
    with pytest.raises(Unavailable, match="no-such-option"), servers.running("--no-such-option=1"):
        pass
