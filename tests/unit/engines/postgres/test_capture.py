"""A capture is one moment and whole, or it fails by name: writers, schema changes, missing rights, broken connections."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from backupd.engines.postgres import preflight
from backupd.errors import Failed, SourceIncomplete, SourceMoved, TryAgain, Unreachable, UsageError
from tests.servers.postgres import PostgresServer
from tests.unit.engines.postgres import kit

pytestmark = pytest.mark.slow
ACCOUNTS, OPENING = 200, 1000
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock'"


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """A fresh database."""
    name = postgres.create_database()
    yield name
    postgres.drop_database(name)


newest = pytest.mark.parametrize("postgres", [18], indirect=True)


def connect(server: PostgresServer, database: str, **words: object) -> "psycopg.Connection[tuple[object, ...]]":
    """A session of a test's own."""
    return psycopg.connect(server.url(database), autocommit=True, **words)  # type: ignore[arg-type]


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@contextmanager
def in_thread(work: Callable[[], None]) -> Iterator[None]:
    """Do something meanwhile; it must succeed."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
    assert failures == []


def test_the_sum_of_all_accounts_never_differs(postgres: PostgresServer, database: str) -> None:
    """Transfers and bookings go on all the time; each snapshot is one moment of all tables and of all parts of them."""
    postgres.psql(
        database,
        f"""CREATE TABLE accounts(id int PRIMARY KEY, balance int, filler text);
            CREATE TABLE others(id int PRIMARY KEY, balance int);
            CREATE TABLE bookings(id int PRIMARY KEY); CREATE TABLE lines(booking int, n int, PRIMARY KEY (booking, n));
            INSERT INTO accounts SELECT g, {OPENING}, repeat('x', 200) FROM generate_series(1, {ACCOUNTS}) g;
            INSERT INTO others SELECT g, {OPENING} FROM generate_series(1, {ACCOUNTS}) g;""",
    )
    stop = threading.Event()

    def write() -> None:
        with connect(postgres, database) as session:
            number = 0
            while not stop.is_set():
                number += 1
                one = 1 + number % ACCOUNTS
                session.execute(
                    f"""BEGIN; UPDATE accounts SET balance = balance - 7 WHERE id = {one};
                        UPDATE others SET balance = balance + 7 WHERE id = {ACCOUNTS + 1 - one};
                        INSERT INTO bookings VALUES ({number}); INSERT INTO lines VALUES ({number}, 1), ({number}, 2); COMMIT"""
                )

    with in_thread(write):
        try:
            for _ in range(8):
                snapshot = kit.capture(kit.source(postgres, database), threads=2)
                rows = [row.split(b"\t") for row in (snapshot.rows("accounts") + snapshot.rows("others")).splitlines()]
                assert sum(int(row[1]) for row in rows) == 2 * ACCOUNTS * OPENING
                assert snapshot.rows("lines").count(b"\n") == 2 * snapshot.rows("bookings").count(b"\n")
        finally:
            stop.set()


@newest
def test_a_row_inserted_after_the_locks_is_seen(postgres: PostgresServer, database: str) -> None:
    """The snapshot is taken after the locks: what is committed while they are waited for belongs to it."""
    postgres.psql(database, "CREATE TABLE t(a int)")
    with connect(postgres, database) as blocker:
        blocker.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; INSERT INTO t VALUES (1)")

        def release() -> None:
            eventually(lambda: postgres.psql(database, WAITING) == "1")
            blocker.execute("COMMIT")

        with in_thread(release):
            snapshot = kit.capture(kit.source(postgres, database))
    assert snapshot.rows("t") == b"1\n"


@newest
@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ("TRUNCATE t; INSERT INTO t VALUES (2)", b"2\n"),
        ("ALTER TABLE t ALTER a TYPE bigint", b"1\n"),
        ("ALTER TABLE t ADD b int DEFAULT random() * 0", b"1\t0\n"),
        ("CREATE TABLE another(x int); INSERT INTO another VALUES (5)", b"1\n"),
        ("DROP TABLE second", b"1\n"),
        ("ALTER TABLE second RENAME TO renamed", b"1\n"),
    ],
)
def test_a_change_between_the_list_and_the_locks_is_noticed(
    postgres: PostgresServer, database: str, change: str, rows: bytes
) -> None:
    """The list is read again under the snapshot; the second try has the database after the change."""
    postgres.psql(database, "CREATE TABLE t(a int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE second(a int)")
    with connect(postgres, database) as blocker:
        blocker.execute(f"BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; {change}")

        def release() -> None:
            eventually(lambda: postgres.psql(database, WAITING) == "1")
            blocker.execute("COMMIT")

        with in_thread(release):
            snapshot = kit.capture(kit.source(postgres, database))
    assert snapshot.rows("t") == rows
    kit.restore(postgres, "back_moved", snapshot)
    assert kit.dump(postgres, "back_moved") == kit.dump(postgres, database)
    postgres.drop_database("back_moved")


@newest
def test_tables_that_never_stop_changing_are_given_up_by_name(postgres: PostgresServer, database: str) -> None:
    """Three tries; then the error names one of them."""
    postgres.psql(database, "CREATE TABLE t(a int)")
    done = threading.Event()

    def migrate(first: bool) -> None:
        with connect(postgres, database) as session:
            for number in range(10):
                session.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
                if first and number == 0:
                    started.set()
                if not done.is_set():
                    eventually(lambda: done.is_set() or int(postgres.psql(database, WAITING)) >= 1)
                session.execute(f"CREATE TABLE n{int(first)}_{number}(); COMMIT")

    started = threading.Event()
    with in_thread(lambda: migrate(True)):
        started.wait(10)
        with in_thread(lambda: migrate(False)):
            eventually(lambda: postgres.psql(database, "SELECT count(*) FROM pg_locks WHERE NOT granted") == "1")
            try:
                with pytest.raises(SourceMoved, match=r"tables kept being created.* n[01]_\d"):
                    kit.capture(kit.source(postgres, database))
            finally:
                done.set()


@newest
def test_a_lock_that_is_held_too_long_is_named(postgres: PostgresServer, database: str) -> None:
    """Exit 75, not a wait without end."""
    postgres.psql(database, "CREATE TABLE busy_one(a int); CREATE TABLE free_one(a int)")
    with connect(postgres, database) as blocker:
        blocker.execute("BEGIN; LOCK TABLE busy_one IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TryAgain, match=r"busy_one was locked for longer than 0\.5 s"):
            kit.capture(kit.source(postgres, database, timeout=0.5))


@newest
def test_a_change_that_waits_for_us_disturbs_nothing(postgres: PostgresServer, database: str) -> None:
    """An ALTER that queues behind the locks would block a worker that came later; ours have theirs by then."""
    postgres.psql(
        database, "CREATE TABLE t(a int); INSERT INTO t VALUES (1); CREATE TABLE u(a int); INSERT INTO u VALUES (2)"
    )
    with connect(postgres, database) as other, kit.source(postgres, database).view() as view:

        def alter() -> None:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("SET lock_timeout = '3s'; ALTER TABLE u ADD b int")

        with in_thread(alter):
            eventually(lambda: postgres.psql(database, "SELECT count(*) FROM pg_locks WHERE NOT granted") == "1")
            rows = {
                i.name: d
                for i, d in [(s, b"".join(map(bytes, view.read(s)))) for s in view.streams if s.kind == "rows"]
            }
        view.finish()
    assert rows == {"t": b"1\n", "u": b"2\n"}


def test_a_role_without_a_right_is_told_what_is_missing(postgres: PostgresServer, database: str) -> None:
    """Before anything is read; the table, the sequence and the schema by name."""
    postgres.psql(
        database,
        """CREATE SCHEMA s; CREATE TABLE s.hidden(a int); CREATE TABLE shown(a int); CREATE SEQUENCE q; SELECT lo_create(77);
           CREATE ROLE reader LOGIN; GRANT SELECT ON shown TO reader;""",
    )
    try:
        with pytest.raises(SourceIncomplete) as caught:
            kit.capture(kit.source(postgres, database, "reader"))
        for words in ("table s.hidden: SELECT is missing", "sequence q", "1 large objects may not be read"):
            assert words in caught.value.message
        assert "GRANT" in str(caught.value.hint)
        found = preflight(kit.place(postgres, database, "reader"), bin_folders=[str(postgres.bin)])
        assert {finding.object for finding in found if finding.level == "error"} == {"s.hidden", "q", "large object 77"}
        postgres.psql(database, "GRANT pg_read_all_data TO reader; GRANT SELECT ON LARGE OBJECT 77 TO reader")
        assert kit.capture(kit.source(postgres, database, "reader")).rows("s.hidden") == b""
    finally:
        postgres.psql(database, "DROP OWNED BY reader; DROP ROLE reader")


@newest
def test_row_level_security_is_an_error_and_never_a_part_of_the_rows(postgres: PostgresServer, database: str) -> None:
    """The owner of a forced policy, and everybody without BYPASSRLS."""
    postgres.psql(
        database,
        """CREATE ROLE walled LOGIN IN ROLE pg_read_all_data; CREATE TABLE safe(a int); INSERT INTO safe VALUES (1), (2);
           ALTER TABLE safe ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON safe USING (a = 1);""",
    )
    try:
        with pytest.raises(SourceIncomplete, match="row-level security would hide rows of safe"):
            kit.capture(kit.source(postgres, database, "walled"))
        postgres.psql(database, "ALTER ROLE walled BYPASSRLS")
        assert kit.capture(kit.source(postgres, database, "walled")).rows("safe") == b"1\n2\n"
    finally:
        postgres.psql(database, "DROP ROLE walled")


@newest
def test_only_the_users_rows_of_an_extension_are_captured(postgres: PostgresServer, database: str) -> None:
    """Tables of extensions are theirs, but for the rows that they declare as configuration."""
    postgres.psql(
        database,
        """CREATE EXTENSION hstore; CREATE TABLE config(a int, b text); CREATE TABLE internal(a int);
           INSERT INTO config VALUES (1, 'shipped'), (2, 'user'); INSERT INTO internal VALUES (1);
           ALTER EXTENSION hstore ADD TABLE config; ALTER EXTENSION hstore ADD TABLE internal;
           UPDATE pg_extension SET extconfig = ARRAY['config'::regclass::oid], extcondition = ARRAY['WHERE a > 1']
            WHERE extname = 'hstore';""",
    )
    snapshot = kit.capture(kit.source(postgres, database))
    assert [table.name for table in snapshot.tables] == ["config"]
    assert snapshot.rows("config") == b"2\tuser\n"


@newest
def test_what_is_left_out_is_said(postgres: PostgresServer, database: str) -> None:
    """Foreign tables have their rows elsewhere; excluded ones are named; unlogged ones are a warning."""
    postgres.psql(
        database,
        """CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far(a int) SERVER s;
           CREATE TABLE keep(a int); CREATE TABLE log_1(a int); INSERT INTO log_1 VALUES (1);
           CREATE UNLOGGED TABLE cache(a int);""",
    )
    snapshot = kit.capture(kit.source(postgres, database, exclude=["log_*"]))
    assert [table.name for table in snapshot.tables] == ["cache", "keep"]
    assert snapshot.facts["excluded"] == ["log_1"]
    assert snapshot.facts["skipped"] == ["far"]
    assert sorted(warning.split(" is ")[0] for warning in snapshot.warnings) == [
        "cache",
        "log_1",
        "the foreign table far",
    ]
    assert b"CREATE TABLE public.log_1" in snapshot.stream("schema.sql")


@newest
@pytest.mark.parametrize("victim", ["worker", "main"])
def test_a_killed_backend_is_an_error(postgres: PostgresServer, database: str, victim: str) -> None:
    """Of a worker in the middle of a table, or of the session that holds the snapshot: never a good-looking snapshot."""
    postgres.psql(database, "CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 60000) g")
    which = "query LIKE 'COPY%'" if victim == "worker" else "state = 'idle in transaction' AND query NOT LIKE 'COPY%'"
    with kit.source(postgres, database, jobs=1).view() as view:
        (stream,) = [stream for stream in view.streams if stream.kind == "rows"]
        rows = view.read(stream)
        next(iter(rows))
        found = postgres.psql(
            "postgres",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND {which}",
        )
        assert found == "t"

        def rest() -> None:
            for _ in rows:
                pass
            view.finish()

        with pytest.raises(SourceIncomplete):
            rest()


@newest
def test_a_reader_that_leaves_ends_its_worker(postgres: PostgresServer, database: str) -> None:
    """Nothing of a view is left running, however it ends."""
    postgres.psql(database, "CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 60000) g")
    with kit.source(postgres, database).view() as view:
        (stream,) = [stream for stream in view.streams if stream.kind == "rows"]
        rows = iter(view.read(stream))
        next(rows)
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    eventually(lambda: postgres.psql("postgres", sessions) == "0")
    with pytest.raises(SourceIncomplete):
        next(rows)


@newest
def test_large_tables_are_split_and_whole(postgres: PostgresServer, database: str) -> None:
    """By the key where its order is that of the heap, by places in the heap where it is not: no row twice, none lost."""
    postgres.psql(
        database,
        """CREATE TABLE keyed(id int PRIMARY KEY, filler text);
           INSERT INTO keyed SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 420000) g;
           CREATE TABLE heap(id uuid PRIMARY KEY, filler text);
           INSERT INTO heap SELECT md5(g::text)::uuid, repeat(md5(g::text), 20) FROM generate_series(1, 420000) g; ANALYZE;""",
    )
    with kit.source(postgres, database).view() as view:
        names = [stream.name for stream in view.streams if stream.kind == "rows"]
        streams = kit.drain(view, threads=2)
        view.finish()
        ordered = {table.name: table.ordered for table in view.tables}
    assert names.count("keyed") > 1
    assert names.count("heap") > 1
    assert ordered == {"keyed": True, "heap": False}
    keys = [int(row.split(b"\t", 1)[0]) for info, data in streams if info.name == "keyed" for row in data.splitlines()]
    assert keys == list(range(1, 420001))
    heap = {row.split(b"\t", 1)[0] for info, data in streams if info.name == "heap" for row in data.splitlines()}
    assert len(heap) == 420000


@newest
def test_a_password_reaches_the_children_unseen(postgres: PostgresServer, database: str) -> None:
    """Not in their arguments and not in their environment; and it is used."""
    postgres.psql(database, f"CREATE TABLE t(a int); GRANT SELECT ON t TO {postgres.scram_user}")
    taken = kit.source(postgres, database, postgres.scram_user)
    with pytest.raises(Unreachable, match="password"):
        kit.capture(taken)
    known = kit.open_source(
        kit.place(postgres, database, postgres.scram_user, password=postgres.scram_password),
        bin_folders=[str(postgres.bin)],
    )
    assert postgres.scram_password not in repr(known.__dict__)
    with known.view() as view:
        said = b""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(_me()):
                    said += (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
        assert b"psql" in said
        assert postgres.scram_password.encode() not in said
        assert kit.drain(view)
        view.finish()
    postgres.psql(database, f"DROP OWNED BY {postgres.scram_user}")


def _me() -> int:
    import os

    return os.getpid()


def test_a_standby_can_be_captured(postgres_servers: Callable[[int], PostgresServer]) -> None:
    """All but its unlogged tables, which a standby has not."""
    from tests.servers.postgres import standby_of

    primary = postgres_servers(18)
    name = primary.create_database()
    primary.psql(
        name,
        "CREATE TABLE t(a serial); INSERT INTO t DEFAULT VALUES; CREATE UNLOGGED TABLE u(a int); SELECT lo_from_bytea(9, 'x')",
    )
    with standby_of(primary) as standby:
        standby.catch_up(primary)
        snapshot = kit.capture(kit.source(standby, name), threads=2)
    assert snapshot.rows("t") == b"1\n"
    assert snapshot.rows("pg_largeobject") == b"9\t0\t78\n"
    assert snapshot.facts["standby"] is True
    assert snapshot.facts["skipped"] == ["u"]
    kit.restore(primary, "back_standby", snapshot)
    primary.drop_database("back_standby")
    primary.drop_database(name)


@newest
def test_programs_that_are_too_old_are_refused(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    """pg_dump must be at least as new as the server; the hint says what to install."""
    from backupd.engines.postgres.tools import find_tools

    with pytest.raises(Failed, match="of version 99 or newer are needed"):
        find_tools([str(postgres.bin)], at_least=99, nearest=99)
    assert find_tools([str(postgres.bin)], at_least=18, nearest=18).version == postgres.version
    assert re.match(r"\d+\.\d+", find_tools([str(postgres.bin)], at_least=14, nearest=18).version)


@newest
def test_a_place_that_is_not_there_is_named(postgres: PostgresServer) -> None:
    """A database that does not exist, and an option that no PostgreSQL knows."""
    with pytest.raises(Unreachable, match="there is no such database or user"):
        kit.capture(kit.source(postgres, "nowhere"))
    with pytest.raises(UsageError, match="does not know"):
        kit.capture(kit.open_source(kit.place(postgres, "postgres", options={"bogus": "1"})))
    with pytest.raises(UsageError, match="refused"):
        kit.capture(kit.open_source(kit.place(postgres, "postgres", options={"password": "secret"})))
