"""A MariaDB capture is one moment, whatever runs beside it; and what it cannot read fails by name."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pymysql
import pytest

from backupd.engines import mariadb
from backupd.engines.base import StreamInfo
from backupd.engines.mariadb.barrier import open_together
from backupd.engines.mariadb.capture import MariaView
from backupd.engines.mariadb.client import Server, connect, discard
from backupd.engines.mariadb.tools import open_tools
from backupd.engines.mariadb.worker import Worker, settle_all
from backupd.errors import SourceIncomplete, SourceMoved, TryAgain, Unreachable
from tests.servers.mariadb import MariaServer
from tests.unit.engines.mariadb import kit

pytestmark = pytest.mark.slow
BANK = (
    "CREATE TABLE account_a (id INT PRIMARY KEY, balance INT NOT NULL); CREATE TABLE account_b LIKE account_a;"
    "CREATE TABLE parent (id INT AUTO_INCREMENT PRIMARY KEY); CREATE TABLE child (id INT AUTO_INCREMENT PRIMARY KEY, parent INT);"
    "INSERT INTO account_a SELECT seq, 100 FROM seq_1_to_500; INSERT INTO account_b SELECT seq, 100 FROM seq_1_to_500;"
)


def connection(server: MariaServer, database: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    """A connection of an application."""
    return pymysql.connect(
        host=server.host, port=server.port, user="root", password=server.root_password, database=database
    )


@contextmanager
def writers(server: MariaServer, database: str, count: int = 3, *, unlogged: bool = False) -> Iterator[list[float]]:
    """Transfer between the two tables, and add children with their parents, until the context ends; the longest waits."""
    stop = threading.Event()
    slowest = [0.0] * count

    def write(number: int) -> None:
        link = connection(server, database)
        with link, link.cursor() as cursor:
            turn = number
            cursor.execute(f"SET SESSION sql_log_bin = {int(not unlogged)}")
            while not stop.is_set():
                turn += count
                began = time.monotonic()
                cursor.execute("UPDATE account_a SET balance = balance - 1 WHERE id = %s", (1 + turn % 500,))
                cursor.execute("UPDATE account_b SET balance = balance + 1 WHERE id = %s", (1 + turn * 7 % 500,))
                cursor.execute("INSERT INTO parent VALUES ()")
                cursor.execute("INSERT INTO child (parent) VALUES (LAST_INSERT_ID())")
                link.commit()
                slowest[number] = max(slowest[number], time.monotonic() - began)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield slowest
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def require_one_moment(kept: kit.Kept) -> None:
    """The sum never differs, and every child has its parent."""
    balances = [
        int(line.split(b"\t")[1]) for name in ("account_a", "account_b") for line in kept.rows(name).splitlines()
    ]
    assert sum(balances) == 100_000
    parents = set(kept.rows("parent").splitlines())
    children = [line.split(b"\t")[1] for line in kept.rows("child").splitlines()]
    assert set(children) == parents
    assert len(children) == len(parents)


def test_writers_are_seen_at_one_moment_and_hardly_wait(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Ten captures with four connections beside three writers; the binary log's place proves each."""
    name = make(BANK)
    with writers(mariadb_server, name):
        for _ in range(10):
            kept = kit.capture(mariadb_server, kit.place(mariadb_server, name), jobs=4)
            require_one_moment(kept)
            assert kept.facts["barrier"]["kind"] == "backup_stage"  # type: ignore[index]
            assert kept.facts["barrier"]["proven"]  # type: ignore[index]
            assert kept.facts["binlog"]["gtid"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("grants", "kinds", "jobs"),
    [
        (("SELECT, TRIGGER, EVENT, SHOW VIEW, EXECUTE, LOCK TABLES ON {}.*",), ("lock_tables",), 3),
        (("SELECT, TRIGGER, EVENT, SHOW VIEW, EXECUTE ON {}.*",), ("one_connection",), 1),
    ],
)
def test_without_reload(
    mariadb_server: MariaServer, make: Callable[..., str], grants: tuple[str, ...], kinds: tuple[str, ...], jobs: int
) -> None:
    """Table locks, or one connection: each is one moment."""
    name = make(BANK)
    user, password = mariadb_server.create_user(*(grant.format(name) for grant in grants))
    where = kit.place(mariadb_server, name, user, password)
    with writers(mariadb_server, name, 1):
        for _ in range(5):
            kept = kit.capture(mariadb_server, where, jobs=jobs)
            require_one_moment(kept)
            assert kept.facts["barrier"]["kind"] in kinds  # type: ignore[index]
    assert any("without the privilege RELOAD" in warning for warning in kept.warnings)


def test_without_any_barrier_one_connection_reads_everything(
    mariadb_server: MariaServer, make: Callable[..., str]
) -> None:
    """Equal places in the binary log prove nothing about commits that are not written to it."""
    name = make(BANK)
    user, password = mariadb_server.create_user(f"SELECT, TRIGGER, EVENT, SHOW VIEW, EXECUTE ON {name}.*")
    where = kit.place(mariadb_server, name, user, password)
    kept = kit.capture(mariadb_server, where, jobs=3)
    assert kept.facts["barrier"]["kind"] == "one_connection"  # type: ignore[index]
    assert kept.facts["connections"] == 1
    assert any("no barrier could be had" in warning for warning in kept.warnings)
    with writers(mariadb_server, name, unlogged=True):
        for _ in range(5):
            require_one_moment(kit.capture(mariadb_server, where, jobs=6))


def test_without_a_binary_log_the_barrier_is_the_proof(start_mariadb: Callable[..., MariaServer]) -> None:
    """It is said in the facts and in a warning; without a barrier, one connection reads everything."""
    server = start_mariadb("--skip-log-bin")
    name = server.create_database()
    server.sql(BANK, name)
    with writers(server, name):
        kept = kit.capture(server, kit.place(server, name), jobs=3)
    require_one_moment(kept)
    assert kept.facts["barrier"]["kind"] == "backup_stage"  # type: ignore[index]
    assert not kept.facts["barrier"]["proven"]  # type: ignore[index]
    assert any("does not prove the moment" in warning for warning in kept.warnings)
    user, password = server.create_user(f"SELECT, TRIGGER, EVENT, SHOW VIEW, EXECUTE ON {name}.*")
    where = kit.place(server, name, user, password)
    assert kit.capture(server, where, jobs=2).facts["barrier"]["kind"] == "one_connection"  # type: ignore[index]


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (Server("mariadb", (10, 11, 0), ""), "backup_stage"),
        (Server("mariadb", (10, 3, 0), ""), "flush_tables"),
    ],
)
def test_each_barrier_holds(mariadb_server: MariaServer, make: Callable[..., str], server: Server, kind: str) -> None:
    """Twenty moments beside three writers, each proven and each whole; no writer waits for long."""
    name = make(BANK)
    place = kit.place(mariadb_server, name)
    link = connect(place, timeout=10, database=name)
    held = []
    with open_tools(place, [mariadb_server.bin], timeout=10) as tools, writers(mariadb_server, name):
        workers = [Worker(tools, place, timeout=10, stall=10) for _ in range(4)]
        settle_all(workers)
        for _ in range(20):
            moment = open_together(place, link, server, workers, ["account_a", "account_b"], 10)
            assert (moment.barrier, moment.proven) == (kind, True)
            held.append(moment.held)
            sums = {
                worker.ask("SELECT (SELECT SUM(balance) FROM account_a) - (SELECT COUNT(*) FROM child)")
                for worker in workers
            }
            assert len(sums) == 1
        for worker in workers:
            worker.close()
    discard(link)
    assert sorted(held)[10] < 0.1


def test_another_backup_beside_it(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Its barrier is in use: the next kind that can be had is taken."""
    name = make(BANK)
    link = connection(mariadb_server, name)
    with link, link.cursor() as cursor, writers(mariadb_server, name, 1):
        cursor.execute("BACKUP STAGE START")
        kept = kit.capture(mariadb_server, kit.place(mariadb_server, name), jobs=2, timeout=6.0)
        cursor.execute("BACKUP STAGE END")
    require_one_moment(kept)
    assert kept.facts["barrier"]["kind"] != "backup_stage"  # type: ignore[index]


@contextmanager
def opened(server: MariaServer, name: str, **options: object) -> Iterator[MariaView]:
    """A view."""
    with mariadb.open_source(kit.place(server, name), bin_folders=[server.bin], **options).view() as view:  # type: ignore[arg-type]
        yield view


def stream(view: MariaView, name: str) -> StreamInfo:
    """A stream by its name."""
    return next(stream for stream in view.streams if stream.name == name)


@pytest.mark.parametrize(
    "ddl",
    [
        "TRUNCATE TABLE t",
        "ALTER TABLE t ADD COLUMN x INT",
        "ALTER TABLE t DROP COLUMN v, ALGORITHM=COPY",
        "ALTER TABLE t MODIFY v VARCHAR(99)",
        "ALTER TABLE t ADD KEY (v)",
        "DROP TABLE t",
        "RENAME TABLE t TO t2",
        "RENAME TABLE t TO t2, u TO t, t2 TO u",
        "CREATE OR REPLACE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))",
        "ALTER TABLE p EXCHANGE PARTITION p0 WITH TABLE t",
    ],
)
def test_a_table_that_changes_before_it_is_read_fails_by_name(
    mariadb_server: MariaServer, make: Callable[..., str], ddl: str
) -> None:
    """TRUNCATE, ALTER, DROP, RENAME between the moment and the reading."""
    name = make(
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20)); CREATE TABLE u LIKE t;"
        "INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (2, 'b');"
        "CREATE TABLE p (id INT PRIMARY KEY, v VARCHAR(20)) PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10));"
    )
    time.sleep(1.1)  # the server tells the time of a change in whole seconds
    with opened(mariadb_server, name) as view:
        b"".join(view.read(stream(view, "schema.sql")))
        mariadb_server.sql(ddl, name)
        with pytest.raises(SourceMoved, match=r"\bt\b") as raised:
            list(view.read(stream(view, "t")))
    assert raised.value.object_name == "t"


def test_a_table_that_changes_after_it_was_read_does_no_harm(
    mariadb_server: MariaServer, make: Callable[..., str]
) -> None:
    """Nobody waits for the rest of the capture: what was read is let go of."""
    name = make(
        "CREATE TABLE t (id INT PRIMARY KEY); CREATE TABLE u LIKE t; INSERT INTO t VALUES (1); INSERT INTO u VALUES (2);"
    )
    with opened(mariadb_server, name, jobs=1) as view:
        list(view.read(stream(view, "schema.sql")))
        assert b"".join(view.read(stream(view, "t"))) == b"1\n"
        began = time.monotonic()
        mariadb_server.sql(
            "SET lock_wait_timeout = 2; ALTER TABLE t ADD COLUMN x INT; TRUNCATE t; CREATE TABLE later (id INT); DROP TABLE t",
            name,
        )
        assert time.monotonic() - began < 2
        assert b"".join(view.read(stream(view, "u"))) == b"2\n"
        view.finish()


@pytest.mark.parametrize(
    ("ddl", "what"),
    [
        ("CREATE TABLE fresh (id INT)", "table fresh"),
        ("ALTER TABLE t ADD COLUMN x INT", "table t"),
        ("CREATE VIEW w AS SELECT 1", "view w"),
        ("CREATE OR REPLACE VIEW v AS SELECT 2", "view v"),
        ("CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET @x = 1", "trigger g"),
        ("CREATE PROCEDURE r() SELECT 1", "procedure r"),
        ("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1", "event e"),
        ("CREATE SEQUENCE s", "table s"),
    ],
)
def test_definitions_that_change_before_they_are_read_fail_by_name(
    mariadb_server: MariaServer, make: Callable[..., str], ddl: str, what: str
) -> None:
    """The definitions are those of the moment, or the capture fails."""
    name = make("CREATE TABLE t (id INT PRIMARY KEY); CREATE VIEW v AS SELECT 1;")
    with opened(mariadb_server, name) as view:
        mariadb_server.sql(ddl, name)
        with pytest.raises(SourceMoved, match=what):
            list(view.read(stream(view, "schema.sql")))


def test_tables_without_transactions_are_read_at_the_moment(
    mariadb_server: MariaServer, make: Callable[..., str]
) -> None:
    """Their writers wait until they are read; those of other tables do not."""
    name = make("CREATE TABLE m (id INT) ENGINE=MyISAM; INSERT INTO m VALUES (1); CREATE TABLE i (id INT PRIMARY KEY);")
    with opened(mariadb_server, name) as view:
        assert any("not transactional" in warning for warning in view.warnings)
        refused = mariadb_server.sql("SET lock_wait_timeout = 1; INSERT INTO m VALUES (2)", name, check=False)
        assert "Lock wait timeout" in refused
        mariadb_server.sql("SET lock_wait_timeout = 1; INSERT INTO i VALUES (2)", name)
        assert b"".join(view.read(stream(view, "m"))) == b"1\n"
        mariadb_server.sql("SET lock_wait_timeout = 1; INSERT INTO m VALUES (2)", name)
        assert b"".join(view.read(stream(view, "i"))) == b""


def test_a_writer_that_does_not_end_is_not_waited_for(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """A long statement on a table without transactions: the capture gives up, and nobody queues behind it for long."""
    name = make("CREATE TABLE m (id INT) ENGINE=MyISAM; INSERT INTO m VALUES (1); CREATE TABLE i (id INT PRIMARY KEY);")
    link = connection(mariadb_server, name)
    holder = threading.Thread(target=lambda: link.cursor().execute("UPDATE m SET id = id + SLEEP(4)"))
    holder.start()
    time.sleep(0.3)
    with pytest.raises(TryAgain):
        kit.capture(mariadb_server, kit.place(mariadb_server, name), timeout=1.0)
    mariadb_server.sql("SET lock_wait_timeout = 1; INSERT INTO i VALUES (2)", name)
    holder.join()
    link.close()


def test_what_a_role_may_not_read_is_named(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """A table, triggers, events, views, routines: each missing privilege is an error that says what to grant."""
    name = make(
        "CREATE TABLE a (id INT PRIMARY KEY); CREATE TABLE b (id INT PRIMARY KEY) ENGINE=MyISAM; CREATE VIEW v AS SELECT 1;"
        "CREATE PROCEDURE p() SELECT 1;"
    )
    every = ["SELECT", "TRIGGER", "EVENT", "SHOW VIEW", "LOCK TABLES"]
    for missing, said in (
        ("TRIGGER", "its triggers are hidden"),
        ("EVENT", "its events are hidden"),
        ("SHOW VIEW", "views cannot be captured"),
        ("LOCK TABLES", "b: not transactional"),
    ):
        rest = ", ".join(word for word in every if word != missing)
        user, password = mariadb_server.create_user(f"{rest} ON {name}.*", "SELECT ON mysql.proc")
        with pytest.raises(SourceIncomplete, match=said):
            kit.capture(mariadb_server, kit.place(mariadb_server, name, user, password))
    user, password = mariadb_server.create_user(f"{', '.join(every)} ON {name}.*")
    with pytest.raises(SourceIncomplete, match="procedures and functions are hidden"):
        kit.capture(mariadb_server, kit.place(mariadb_server, name, user, password))
    user, password = mariadb_server.create_user(f"{', '.join(every)}, EXECUTE ON {name}.*")
    with pytest.raises(SourceIncomplete, match="procedure p: its body is hidden"):
        kit.capture(mariadb_server, kit.place(mariadb_server, name, user, password))
    user, password = mariadb_server.create_user(f"SELECT ON {name}.a", f"INSERT ON {name}.b", "SELECT ON mysql.proc")
    with pytest.raises(SourceIncomplete, match="b: the backup user may not read this table") as raised:
        kit.capture(mariadb_server, kit.place(mariadb_server, name, user, password))
    assert "tables that the backup user cannot even see" in raised.value.message
    assert f"grant SELECT on {name}.*" in str(raised.value.hint)
    user, password = mariadb_server.create_user(f"{', '.join(every)} ON {name}.*", "SELECT ON mysql.proc")
    kit.capture(mariadb_server, kit.place(mariadb_server, name, user, password))


def test_a_grant_by_pattern_counts(mariadb_server: MariaServer) -> None:
    """`shop\\_%` in a grant means databases that begin so; an underscore without a backslash any character."""
    name = mariadb_server.create_database("odd_name%x")
    try:
        user, password = mariadb_server.create_user("SELECT, TRIGGER, EVENT, SHOW VIEW, EXECUTE ON `odd\\_n%`.*")
        kit.capture(mariadb_server, kit.place(mariadb_server, name, user, password))
        user, password = mariadb_server.create_user("SELECT, TRIGGER, EVENT, SHOW VIEW, EXECUTE ON `odd\\_nam`.*")
        with pytest.raises((SourceIncomplete, Unreachable)):
            kit.capture(mariadb_server, kit.place(mariadb_server, name, user, password))
    finally:
        mariadb_server.drop_database(name)


def test_excluded_tables_are_left_out_and_named(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Neither rows nor definition nor triggers of theirs."""
    name = make(
        "CREATE TABLE a (id INT PRIMARY KEY); CREATE TABLE b (id INT);"
        "CREATE TRIGGER g BEFORE INSERT ON b FOR EACH ROW SET @x = 1;"
    )
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, name), exclude=("b",))
    assert [table.name for table in kept.tables] == ["a"]
    assert b"`b`" not in kept.schema
    assert b"@x" not in kept.schema
    assert "table b is excluded" in kept.warnings


def test_a_database_that_is_not_there(mariadb_server: MariaServer) -> None:
    """It is named."""
    with pytest.raises(Unreachable, match="nowhere does not exist"):
        kit.capture(mariadb_server, kit.place(mariadb_server, "nowhere"))
    with pytest.raises(SourceIncomplete, match="mysql: is a database of the server's own"):
        kit.capture(mariadb_server, kit.place(mariadb_server, "mysql"))


def test_the_servers_own_check(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """CHECK TABLE runs over every table when it is asked for."""
    name = make("CREATE TABLE a (id INT PRIMARY KEY); CREATE TABLE b (id INT) ENGINE=MyISAM;")
    with mariadb.open_source(kit.place(mariadb_server, name), bin_folders=[mariadb_server.bin]).view(
        check=True
    ) as view:
        kit.drain(view)


def test_no_secret_is_shown(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """No password among the arguments of the children, in errors or in what objects say of themselves."""
    name = make("CREATE TABLE a (id INT PRIMARY KEY);")
    where = kit.place(mariadb_server, name)
    with opened(mariadb_server, name) as view:
        shown = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert "client.cnf" in shown
        assert mariadb_server.root_password not in shown
        assert "word;%" not in repr(view) + repr(where) + str(view.facts)
    user, _ = mariadb_server.create_user(f"SELECT ON {name}.*")
    with pytest.raises(Unreachable) as raised:
        kit.capture(mariadb_server, kit.place(mariadb_server, name, user, "wr0ng-secret"))
    assert "wr0ng-secret" not in f"{raised.value} {raised.value.hint} {raised.value!r}"
