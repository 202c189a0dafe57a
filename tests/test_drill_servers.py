"""Servers of our own, each for one drill: a snapshot goes into one, is asked, and nothing of it stays, whatever happens."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pymysql
import pytest

from backupd.config.urls import DatabaseUrl
from backupd.drilling import StartedServer, ask_database, check_references, drop_scratch, start_server
from backupd.engines.asking import LONGEST
from backupd.engines.base import LoadOptions, ServerPlace
from backupd.engines.mariadb import installation
from backupd.engines.postgres import throwaway
from backupd.errors import BackupdError, Exit, Failed, SafetyRefused, Unreachable, UsageError
from backupd.model import Answer
from backupd.wiring import ServerOptions, place_of
from tests.servers import postgres as postgres_programs
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import wrapped
from tests.unit.engines.mariadb import kit as maria_kit
from tests.unit.engines.postgres import kit as postgres_kit

pytestmark = pytest.mark.slow
NAME = "backupd_drill_0123456789abcdef"
DAY, MOMENT = datetime.fromisoformat("1990-05-01"), datetime.fromisoformat("2026-01-01T08:00")

SHOP = """
CREATE TABLE customers(id serial PRIMARY KEY, name text, born date, seen timestamptz, hours interval, score numeric(10,2),
  key uuid DEFAULT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', data jsonb DEFAULT '{"a": 1}', photo bytea DEFAULT 'x');
INSERT INTO customers(name, born, seen, hours, score) VALUES ('Ada', '1990-05-01', '2026-01-01 10:00+02', '1 day 01:30', 1.50);
CREATE TABLE orders(id int PRIMARY KEY, customer int REFERENCES customers);
INSERT INTO orders SELECT n, 1 FROM generate_series(1, 100) n;
ALTER TABLE orders ADD CONSTRAINT loose FOREIGN KEY (id) REFERENCES customers NOT VALID;
CREATE TABLE walled(a int); INSERT INTO walled VALUES (1), (2);
ALTER TABLE walled ENABLE ROW LEVEL SECURITY; ALTER TABLE walled FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON walled USING (a = 1);
CREATE ROLE drill_gone; CREATE POLICY "to" ON walled FOR UPDATE TO postgres, drill_gone USING (a = 2) WITH CHECK (a > 1);
COMMENT ON POLICY "to" ON walled IS 'of another'; CREATE PUBLICATION everything FOR ALL TABLES;
SELECT lo_from_bytea(4242, 'abc'); GRANT SELECT ON LARGE OBJECT 4242 TO drill_gone;
CREATE VIEW latest AS SELECT max(id) AS id FROM orders;
CREATE FUNCTION run_it() RETURNS int SECURITY DEFINER LANGUAGE plpgsql AS
  $$ BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch CANARY'''; RETURN 1; END $$;
CREATE FUNCTION stay() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;
CREATE FUNCTION put() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO walled VALUES (3); RETURN 1; END $$;
CREATE VIEW hostile AS SELECT run_it() AS a;
CREATE VIEW reading AS SELECT pg_read_file('/etc/hostname') AS a;
"""
MARIA_SHOP = """
CREATE TABLE customers(id int PRIMARY KEY AUTO_INCREMENT, name varchar(60), born date, seen timestamp NULL, made datetime,
  hours time, score decimal(10,2), photo blob);
INSERT INTO customers VALUES (1, 'Ada', '1990-05-01', '2026-01-01 08:00:00', '2026-01-01 08:00:00', '25:30:00', 1.50, 'x');
CREATE TABLE orders(id int PRIMARY KEY, customer int, CONSTRAINT of_customer FOREIGN KEY (customer) REFERENCES customers(id));
INSERT INTO orders VALUES (1, 1), (2, NULL);
SET foreign_key_checks = 0;
INSERT INTO orders VALUES (3, 77), (4, 77), (5, 78);
CREATE SEQUENCE numbers;
CREATE VIEW latest AS SELECT max(id) AS id FROM orders;
CREATE TRIGGER touched BEFORE INSERT ON customers FOR EACH ROW SET NEW.name = 'touched';
DELIMITER ;;
CREATE FUNCTION put() RETURNS int READS SQL DATA BEGIN INSERT INTO orders VALUES (9, 1); RETURN 1; END;;
CREATE PROCEDURE leave_it() BEGIN COMMIT; INSERT INTO orders VALUES (9, 1); SELECT 1; END;;
"""


@dataclass(frozen=True)
class Drilled:
    """A restored database on a server of our own."""

    started: StartedServer
    folder: Path
    canary: Path
    warnings: Sequence[str] = ()

    def ask(self, statement: str, timeout: float = 30.0) -> Answer:
        """The answer to a statement."""
        return ask_database(self.started.url, statement, timeout=timeout, options=self.started.options)

    @property
    def place(self) -> ServerPlace:
        """Where it is."""
        return place_of(self.started.url, self.started.options)


@contextmanager
def empty_folder(*below: str) -> Iterator[Path]:
    """An empty folder of ours, at whose end it must be empty again; what is above it may be passed by everybody."""
    with tempfile.TemporaryDirectory(prefix="drill-") as top:
        Path(top).chmod(0o711)
        folder = Path(top, *below, "server")
        folder.mkdir(0o700, parents=True)
        for one in folder.relative_to(top).parents:
            (top / one).chmod(0o711)
        yield folder
        left = [path.name for path in folder.iterdir()]
        status = folder.stat()
        assert (left, oct(status.st_mode)[-3:], status.st_uid) == ([], "700", os.geteuid())


def processes_in(folder: Path) -> list[int]:
    """The processes whose command names something below a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def shop(postgres_servers: Callable[[int], PostgresServer]) -> Iterator[Drilled]:
    """A shop of PostgreSQL 15, restored to a server of our own by a role that is no superuser."""
    server = postgres_servers(15)
    with tempfile.TemporaryDirectory(prefix="canary-") as public, empty_folder() as folder:
        Path(public).chmod(0o777)
        canary = Path(public, "canary")
        source = server.create_database()
        server.psql(source, SHOP.replace("CANARY", str(canary)))
        server.psql(source, "SELECT run_it()")
        assert canary.exists(), "the payload does nothing, so the tests say nothing"
        snapshot = postgres_kit.capture(postgres_kit.source(server, source))
        server.drop_database(source)
        server.psql("postgres", "DROP ROLE drill_gone")
        canary.unlink()
        options = ServerOptions(tools=(str(server.daemon_bin),))
        with start_server("postgresql", snapshot.facts, folder, NAME, options=options) as started:
            allowed = LoadOptions(allow=frozenset({"missing-roles"}))
            place = place_of(started.url, started.options)
            compared: list[str] = []
            result = postgres_kit.restore(server, NAME, snapshot, allowed, where=place, compared=compared)
            assert set(compared) == {"customers", "orders", "walled", "pg_largeobject"}
            drilled = Drilled(started, folder, canary, result.warnings)
            yield drilled
            assert drilled.ask("SELECT count(*) FROM walled") == 2
        assert processes_in(folder) == []


@pytest.fixture(scope="module")
def maria_shop(mariadb_server: MariaServer) -> Iterator[Drilled]:
    """A shop of MariaDB's, restored to a server of our own whose folder is too deep for a socket, by a restricted account."""
    source = mariadb_server.create_database()
    mariadb_server.sql(MARIA_SHOP, source)
    kept = maria_kit.capture(mariadb_server, maria_kit.place(mariadb_server, source))
    mariadb_server.drop_database(source)
    options = ServerOptions(tools=(str(mariadb_server.daemon_bin),))
    with empty_folder("deep" * 20, "deeper" * 5) as folder:
        with start_server("mariadb", kept.facts, folder, NAME, options=options) as started:
            place = place_of(started.url, started.options)
            maria_kit.restore(mariadb_server, kept, place, allow=frozenset({"definer"}))
            drilled = Drilled(started, folder, folder)
            yield drilled
            assert drilled.ask("SELECT count(*) FROM orders") == 5
        assert processes_in(folder) == []
        assert not Path(started.url.host).exists()


# ---- the servers


def test_the_server_is_reached_by_us_alone(shop: Drilled) -> None:
    """No port; a socket in a private folder; an unprivileged user without groups where we are root; a role with few rights."""
    assert shop.started.version.startswith("PostgreSQL 15.")
    assert shop.ask("SELECT current_setting('listen_addresses')") == ""
    assert (
        shop.ask("SELECT rolsuper OR rolcreaterole OR rolreplication FROM pg_roles WHERE rolname = current_user")
        is False
    )
    assert shop.ask(
        "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE pg_has_role(rolname, 'USAGE')"
    ) == ("backupd_drill pg_database_owner")
    assert shop.ask("SELECT current_setting('fsync') || current_setting('autovacuum')") == "onon"
    _is_private(shop)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=shop.started.url.host, user="backupd_first", dbname="postgres", password="")


def test_the_other_server_is_reached_by_us_alone(maria_shop: Drilled) -> None:
    """The same of MariaDB, whose socket is elsewhere because its folder is too deep."""
    host = Path(maria_shop.started.url.host)
    assert host.is_relative_to("/tmp")
    assert not host.is_relative_to(maria_shop.folder)
    assert maria_shop.started.version.startswith("MariaDB ")
    assert maria_shop.ask("SELECT @@skip_networking AND NOT @@log_bin AND @@event_scheduler = 'OFF'") == 1
    with pytest.raises(UsageError, match="error 1142"):
        maria_shop.ask("SELECT count(*) FROM mysql.global_priv")
    with closing(_maria(maria_shop)) as link:
        for statement in ("CREATE DATABASE another", "SELECT 1 INTO OUTFILE '/tmp/x'", "SET GLOBAL general_log = ON"):
            with pytest.raises(pymysql.Error, match=r"10(44|45)|1227"):
                link.query(statement)
    assert maria_shop.ask("SELECT LOAD_FILE('/etc/hostname')") is None
    with pytest.raises(pymysql.OperationalError, match="1045"):
        pymysql.connect(unix_socket=str(host / "mysqld.sock"), user="root")
    _is_private(maria_shop)


def _maria(drilled: Drilled) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    place = drilled.place
    return pymysql.connect(unix_socket=f"{place.host}/mysqld.sock", user=place.user, password=place.password or "")


def _is_private(drilled: Drilled) -> None:
    host = Path(drilled.started.url.host)
    assert oct(host.stat().st_mode)[-3:] == "700"
    assert oct(drilled.folder.stat().st_mode)[-3:] == ("710" if os.geteuid() == 0 else "700")
    (pid, *_) = processes_in(drilled.folder / "data")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    owner = (drilled.folder / "data").stat()
    assert {int(one) for one in status["Uid"].split()} == {owner.st_uid}
    if os.geteuid() == 0:
        assert owner.st_uid != 0
        assert status["Groups"].split() in ([], [str(owner.st_gid)])
    assert "password" not in [path.name for path in drilled.folder.iterdir()]


CHILD = """
import sys, time
from pathlib import Path
from backupd.drilling import ask_database, start_server
from backupd.wiring import ServerOptions
engine, folder, tools, question = sys.argv[1:]
facts = {"server_version_num": 150000, "vendor": "mariadb", "version": [10, 5, 0]}
with start_server(engine, facts, Path(folder), "postgres", superuser=True, options=ServerOptions(tools=(tools,))) as server:
    print(ask_database(server.url, question, options=server.options) if engine == "postgresql" else "", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_server_dies_with_us(engine: str, request: pytest.FixtureRequest) -> None:
    """Killed without a chance to clean up: no process stays. The server was a superuser's, so it ran as `nobody`."""
    server = (
        request.getfixturevalue("postgres_servers")(15)
        if engine == "postgresql"
        else request.getfixturevalue("mariadb_server")
    )
    with tempfile.TemporaryDirectory(prefix="drill-") as top:
        Path(top).chmod(0o711)
        folder = Path(top, "server")
        folder.mkdir(0o700)
        words = [
            engine,
            str(folder),
            str(server.daemon_bin),
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
        ]
        with subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == ("True" if engine == "postgresql" else "")
            running = [pid for pid in processes_in(folder / "data") if pid != child.pid]
            assert running
            if os.geteuid() == 0:
                assert Path(f"/proc/{running[0]}").stat().st_uid == (folder / "data").stat().st_uid != 0
            child.kill()
        until = time.monotonic() + 20
        while [pid for pid in running if Path(f"/proc/{pid}").exists()] and time.monotonic() < until:
            time.sleep(0.02)
        assert [pid for pid in running if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize("how", ["fails", "stays", "interrupted"])
def test_a_start_that_fails_leaves_nothing(
    postgres_servers: Callable[[int], PostgresServer], tmp_path: Path, how: str
) -> None:
    """The programs' last words are told, there is a time limit, and a folder with something in it is not touched."""
    script = {
        "fails": "echo secret >&9; echo some words >&2; exit 3",
        "stays": "sleep 600",
        "interrupted": "sleep 600",
    }[how]
    with empty_folder() as folder:
        tools = wrapped(postgres_servers(15).daemon_bin, folder.parent / "bin", "initdb", script)
        tools.chmod(0o755)
        options = ServerOptions(tools=(str(tools),))
        start = start_server("postgresql", {"server_version_num": 150000}, folder, NAME, options=options, timeout=0.5)
        if how == "interrupted":
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
            try:
                with pytest.raises(KeyboardInterrupt), start:
                    raise AssertionError
            finally:
                signal.signal(signal.SIGALRM, previous)
        else:
            with pytest.raises(Unreachable, match=r"some words|took too long") as caught, start:
                raise AssertionError
            assert caught.value.exit == Exit.UNREACHABLE
        assert processes_in(folder) == []
        (folder / "precious").touch()
        refused = start_server("postgresql", {"server_version_num": 150000}, folder, NAME, options=options)
        with pytest.raises(SafetyRefused), refused:
            raise AssertionError
        (folder / "precious").unlink()


def test_what_the_role_cannot_make_is_left_out_and_told(shop: Drilled) -> None:
    """Owners, grants, policies for other roles, publications of everything; all rows and large objects are there."""
    told = "; ".join(shop.warnings)
    assert "there is no role drill_gone, postgres" in told
    assert "policies were left out, because they are for roles that are not there: walled to" in told
    assert "publications were left out, because only a superuser can make them: everything" in told
    assert shop.ask("SELECT string_agg(polname, ' ') FROM pg_policy") == "few"
    assert shop.ask("SELECT lo_get(4242) = 'abc'::bytea") is True


# ---- which programs


def test_the_programs_are_of_the_same_version_or_the_next() -> None:
    """The snapshot's own major version, else the lowest newer one; never an older one, however near."""
    folders = [str(postgres_programs.programs(major)) for major in (18, 14, 15)]
    assert [throwaway.choose(folders, major, None).major for major in (14, 15)] == [14, 15]
    assert throwaway.choose([folders[0], folders[1]], 17, None).major in (17, 18)


@pytest.mark.parametrize(
    ("engine", "facts"),
    [
        ("postgresql", {"server_version_num": 990000}),
        ("mariadb", {"vendor": "mariadb", "version": [99, 1, 0]}),
        ("mariadb", {"vendor": "mysql", "version": [99, 1, 0]}),
    ],
)
def test_no_programs_are_told_with_both_ways_out(engine: str, facts: Mapping[str, object], tmp_path: Path) -> None:
    """Only older ones, or none: exit 14, what to install, and how to name a server."""
    with pytest.raises(Unreachable, match="here") as caught, start_server(engine, facts, tmp_path, NAME):
        raise AssertionError
    assert caught.value.exit == Exit.UNREACHABLE
    hint = str(caught.value.hint)
    assert "apt-get install" in hint
    assert "`scratch`" in hint
    assert "--into" in hint


@pytest.mark.skipif(os.geteuid() != 0, reason="changing owners takes root")
def test_programs_and_folders_that_the_servers_user_cannot_reach(
    postgres_servers: Callable[[int], PostgresServer], mariadb_server: MariaServer, tmp_path: Path
) -> None:
    """In a home that is closed to others: an error that says so, not one of the program's."""
    hidden = wrapped(postgres_programs.programs(18), tmp_path / "bin", "none", "")
    tmp_path.chmod(0o700)
    closed = tmp_path / "server"
    closed.mkdir(0o700)
    with pytest.raises(Unreachable, match="cannot be run by the user"):
        throwaway.choose([str(hidden)], 18, throwaway.owner_among(("postgres",)))
    maria = wrapped(mariadb_server.bin, tmp_path / "maria", "none", "")
    with pytest.raises(Unreachable, match="cannot be run by the user"):
        installation.choose("mariadb", (10, 5), [maria], throwaway.owner_among(()))
    options = ServerOptions(tools=(str(postgres_servers(15).daemon_bin),))
    facts = {"server_version_num": 150000}
    with (
        pytest.raises(Unreachable, match="cannot get to") as caught,
        start_server("postgresql", facts, closed, NAME, options=options),
    ):
        raise AssertionError
    assert "/var/tmp" in str(caught.value.hint)
    assert list(closed.iterdir()) == []


# ---- asking


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("SELECT count(*) FROM orders;", 100),
        ("WITH o AS (SELECT * FROM orders) SELECT id > 3 FROM o ORDER BY id DESC -- the last", True),
        ("SELECT id FROM latest", 100),
        ("VALUES (NULL::int), (2)", None),
        ("SELECT sum(score) FROM customers", 1.5),
        ("SELECT sum(score) * 2 FROM customers", 3),
        ("SELECT 2::float8", 2.0),
        ("SELECT 1e400::numeric", float("inf")),
        ("SELECT name FROM customers", "Ada"),
        ("SELECT key FROM customers", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("SELECT born FROM customers", DAY),
        ("SELECT seen FROM customers", MOMENT.replace(tzinfo=UTC)),
        ("SELECT seen::timestamp FROM customers", MOMENT),
        ("SELECT hours FROM customers", 91_800),
        ("SELECT data::text || '%s' FROM customers", '{"a": 1}%s'),
        ("SELECT count(*) FROM walled", 2),
    ],
)
def test_answers_are_plain_values(shop: Drilled, statement: str, answer: Answer) -> None:
    """The first value of the first row, with the type that it has."""
    got = shop.ask(statement)
    assert (got, type(got)) == (answer, type(answer))


@pytest.mark.parametrize(
    ("statement", "kind", "said"),
    [
        ("SELECT 1; DROP TABLE orders", UsageError, "SQLSTATE 42601"),
        ("SELECT * FROM nothing", UsageError, "SQLSTATE 42P01"),
        ("DELETE FROM orders", UsageError, "SQLSTATE 42601"),
        ("WITH d AS (DELETE FROM orders RETURNING 1) SELECT 1 FROM d", UsageError, "SQLSTATE 0A000"),
        ("COMMIT", UsageError, "SQLSTATE 42601"),
        ("", UsageError, "SQLSTATE 42601"),
        ("SELECT '\0'", UsageError, "text"),
        ("SELECT set_config('transaction_read_only', 'off', false)", UsageError, "more than to read"),
        ("SELECT put()", UsageError, "more than to read"),
        ("SELECT * FROM walled FOR UPDATE", UsageError, "more than to read"),
        ("SELECT 1 WHERE false", UsageError, "no row"),
        ("SELECT id, name FROM customers", UsageError, "2 columns"),
        ("SELECT FROM customers", UsageError, "0 columns"),
        ("SELECT photo FROM customers", UsageError, "bytes"),
        ("SELECT 'infinity'::timestamptz", UsageError, "nothing can be compared"),
        ("SELECT array[1]", UsageError, "nothing can be compared"),
        ("SELECT (repeat('[', 6000) || repeat(']', 6000))::json", UsageError, "nothing can be compared"),
        ("SELECT repeat('1', 5000)::json", UsageError, "nothing can be compared"),
        (f"SELECT repeat('x', {LONGEST + 1})", UsageError, "a text of over"),
        ("SELECT 1 / (id - 1) FROM customers", Failed, "SQLSTATE 22012"),
        ("SELECT name::int FROM customers", Failed, "SQLSTATE 22P02"),
        ("SELECT pg_sleep(60)", Failed, "stopped after"),
        ("SELECT a FROM hostile", UsageError, "SQLSTATE 42501"),
        ("SELECT a FROM reading", UsageError, "SQLSTATE 42501"),
    ],
)
def test_what_is_no_question_is_refused(shop: Drilled, statement: str, kind: type[BackupdError], said: str) -> None:
    """By a message without a value; and what a hostile database runs can do no more than a role with no rights."""
    with pytest.raises(kind, match=said) as caught:
        shop.ask(statement, timeout=0.3 if "sleep" in statement else 30.0)
    assert "Ada" not in f"{caught.value} {caught.value.hint}"
    assert not shop.canary.exists()


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("SELECT count(*) FROM orders;", 5),
        ("/* a */ (SELECT id FROM orders ORDER BY id DESC) -- the last", 5),
        ("SELECT id FROM latest", 5),
        ("SELECT customer FROM orders WHERE id = 2", None),
        ("SELECT sum(score) FROM customers", 1.5),
        ("SELECT sum(score) * 2 FROM customers", 3),
        ("SELECT 2e0", 2.0),
        ("SELECT concat(name, '%s') FROM customers", "Ada%s"),
        ("SELECT born FROM customers", DAY),
        ("SELECT seen FROM customers", MOMENT.replace(tzinfo=UTC)),
        ("SELECT made FROM customers", MOMENT),
        ("SELECT hours FROM customers", 91_800),
    ],
)
def test_answers_of_mariadb_are_plain_values(maria_shop: Drilled, statement: str, answer: Answer) -> None:
    """The same."""
    got = maria_shop.ask(statement)
    assert (got, type(got)) == (answer, type(answer))


@pytest.mark.parametrize(
    ("statement", "kind", "said"),
    [
        ("SELECT 1; DROP TABLE orders", UsageError, "error 1064"),
        ("SELECT * FROM nothing", UsageError, "error 1146"),
        ("CALL leave_it()", UsageError, "none that reads"),
        ("/*! CALL leave_it() -- */ SELECT 1", UsageError, "none that reads"),
        ("SET @@session.tx_read_only = 0", UsageError, "none that reads"),
        ("WITH a AS (SELECT 1) DELETE FROM orders", UsageError, "error 1064"),
        ("SELECT put()", UsageError, "more than to read"),
        ("SELECT nextval(numbers)", UsageError, "more than to read"),
        ("SELECT 1 INTO @a", UsageError, "gives no rows"),
        ("SELECT 1 FROM orders WHERE 0", UsageError, "no row"),
        ("SELECT 1, 2", UsageError, "2 columns"),
        ("SELECT photo FROM customers", UsageError, "bytes"),
        ("SELECT sum(a.seq + b.seq) FROM seq_1_to_1000000 a, seq_1_to_1000000 b", Failed, "stopped after"),
        ("SELECT id FROM orders WHERE id = (SELECT id FROM orders)", UsageError, "error 1242"),
    ],
)
def test_what_is_no_question_of_mariadb_is_refused(
    maria_shop: Drilled, statement: str, kind: type[BackupdError], said: str
) -> None:
    """The same."""
    with pytest.raises(kind, match=said):
        maria_shop.ask(statement, timeout=0.3 if "1000000" in statement else 30.0)


def test_what_the_account_may_not_make_is_the_snapshots_fault(maria_shop: Drilled, mariadb_server: MariaServer) -> None:
    """A view of the server's own tables: no restore of it is one, and the server was there."""
    source = mariadb_server.create_database()
    mariadb_server.sql("CREATE VIEW accounts AS SELECT count(*) AS c FROM mysql.global_priv", source)
    kept = maria_kit.capture(mariadb_server, maria_kit.place(mariadb_server, source))
    mariadb_server.drop_database(source)
    place = replace(maria_shop.place, database=NAME[:-2] + "00")
    with pytest.raises(Failed, match=r"refused creating view accounts \(error 1142\)"):
        maria_kit.restore(mariadb_server, kept, place, allow=frozenset({"definer"}))


def test_broken_references_are_counted(maria_shop: Drilled, shop: Drilled) -> None:
    """MariaDB loads without checking them; PostgreSQL has checked them itself, but for those that the source had not."""
    assert check_references(maria_shop.started.url, options=maria_shop.started.options) == [
        "constraint of_customer of table orders: 3 rows refer to rows of customers that are not there"
    ]
    assert check_references(shop.started.url, options=shop.started.options) == [
        "constraint loose of table public.orders is not valid: its rows may lead nowhere"
    ]


# ---- dropping


def test_only_the_databases_of_a_drill_are_dropped(postgres_servers: Callable[[int], PostgresServer]) -> None:
    """By its exact name, with what an interrupted restore made of it, whoever is connected; any other name is refused."""
    server = postgres_servers(15)
    others = [f"{NAME}x", f"{NAME}_backupd_1234567"]
    wanted = [NAME, f"{NAME}_backupd_12345678"]
    for name in (*others, *wanted):
        server.create_database(name)
    url = DatabaseUrl("postgresql", host=server.host, port=server.port, user=server.superuser, database=NAME)
    try:
        with closing(psycopg.connect(server.url(NAME))):
            assert sorted(drop_scratch(url)) == wanted
        assert drop_scratch(url) == ()
        assert postgres_kit.databases(server) >= set(others)
        _refuses_other_names(url)
    finally:
        for name in others:
            server.drop_database(name)


def test_only_the_databases_of_a_drill_are_dropped_of_mariadb(maria_shop: Drilled, mariadb_server: MariaServer) -> None:
    """The same, with a session that holds a lock."""
    s = mariadb_server
    others = [f"{NAME}x", f"{NAME}_backupd_1234567"]
    wanted = [NAME, f"{NAME}_backupd_12345678"]
    for name in (*others, *wanted):
        s.create_database(name)
    s.sql("CREATE TABLE t(a int)", NAME)
    url = DatabaseUrl("mariadb", host=s.host, port=s.port, user=s.root, database=NAME)
    options = ServerOptions(password=s.root_password)
    link = pymysql.connect(host=s.host, port=s.port, user=s.root, password=s.root_password, database=NAME)
    try:
        link.query("LOCK TABLES t WRITE")
        assert sorted(drop_scratch(url, options=options)) == wanted
        assert drop_scratch(url, options=options) == ()
        assert set(maria_kit.databases(s)) >= set(others)
        _refuses_other_names(url)
    finally:
        link.close()
        for name in others:
            s.drop_database(name)


def _refuses_other_names(url: DatabaseUrl) -> None:
    for name in ("postgres", "mysql", "backupd_drill_", f"{NAME}0", NAME.upper(), f"{NAME}\n", f"x{NAME}"):
        with pytest.raises(SafetyRefused, match="not the name of a drill's database"):
            drop_scratch(DatabaseUrl(url.engine, host=url.host, port=url.port, user=url.user, database=name))
