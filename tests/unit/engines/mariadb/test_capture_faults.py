"""What a MariaDB capture must not lose, must not hold up, and must not leave behind."""

import re
import signal
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pymysql
import pytest

from backupd.engines import mariadb
from backupd.engines.mariadb import barrier, locker, schema
from backupd.engines.mariadb.barrier import open_together
from backupd.engines.mariadb.capture import MariaView
from backupd.engines.mariadb.client import Row, Server, connect, discard, run
from backupd.engines.mariadb.tools import Tools, open_tools, run_dump
from backupd.engines.mariadb.worker import Worker, settle_all
from backupd.errors import BackupdError, SourceIncomplete
from tests.servers.mariadb import MariaServer
from tests.unit.engines.mariadb import kit

pytestmark = pytest.mark.slow


def read(view: MariaView, name: str) -> bytes:
    """All of a stream."""
    return b"".join(b"".join(view.read(stream)) for stream in view.streams if stream.name == name)


def test_a_global_limit_of_rows_cuts_nothing(start_mariadb: Callable[..., MariaServer]) -> None:
    """sql_select_limit holds for new sessions; what the dump program leaves out because of it is missed."""
    server = start_mariadb("--max-connections=63")
    name = server.create_database()
    server.sql("CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t SELECT seq FROM seq_1_to_500", name)
    server.sql("SET GLOBAL sql_select_limit = 10")
    kept = kit.capture(server, kit.place(server, name))
    assert kept.rows("t").count(b"\n") == 500
    kit.restore(server, kept, kit.place(server, name + "_new"))
    assert int(server.sql("SELECT COUNT(*) FROM t LIMIT 1", name + "_new")) == 500
    with pytest.raises(SourceIncomplete, match="sql_select_limit"):
        kit.capture(server, kit.place(server, name), globals=True)
    server.sql("SET GLOBAL sql_select_limit = 1; CREATE TABLE u (id INT PRIMARY KEY)", name)
    with pytest.raises(SourceIncomplete, match="left out table u"):
        kit.capture(server, kit.place(server, name))


def test_what_the_dump_leaves_out_is_missed(
    mariadb_server: MariaServer, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of object, by name; and triggers in the text of their own as well."""
    name = make(
        "CREATE TABLE t (id INT PRIMARY KEY); CREATE TABLE u (id INT); CREATE SEQUENCE s; CREATE VIEW v AS SELECT id FROM t;"
        "CREATE PROCEDURE p() SELECT 1; CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1;"
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET @x = 1; CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1;"
    )
    real, real_triggers = schema.dump, schema.dump_triggers
    kit.capture(mariadb_server, kit.place(mariadb_server, name))
    for word, label in (
        ("TABLE `u`", "table u"),
        ("SEQUENCE `s`", "sequence s"),
        ("PROCEDURE `p`", "procedure p"),
        ("FUNCTION `f`", "function f"),
        ("TRIGGER g", "trigger g"),
        ("EVENT `e`", "event e"),
        ("VIEW `v`", "view v"),
    ):

        def less(*arguments: object, word: str = word) -> bytes:
            text = real(*arguments).decode()  # type: ignore[arg-type]
            assert word in text
            return text.replace(word, re.sub(r"(\w+)(`?)$", r"other_\1\2", word)).encode()

        monkeypatch.setattr(schema, "dump", less)
        with pytest.raises(SourceIncomplete, match=rf"left out {label}\b"):
            kit.capture(mariadb_server, kit.place(mariadb_server, name))
    monkeypatch.setattr(schema, "dump", real)
    monkeypatch.setattr(schema, "dump_triggers", lambda *a: real_triggers(*a).replace(b"TRIGGER g", b"TRIGGER x"))
    with pytest.raises(SourceIncomplete, match=r"left out trigger g\b"):
        kit.capture(mariadb_server, kit.place(mariadb_server, name))


def test_definitions_that_a_restore_would_refuse_are_warned_of(
    mariadb_server: MariaServer, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The capture goes on, and what is missing is still missed."""
    where = kit.place(mariadb_server, make("CREATE TABLE t (id INT PRIMARY KEY)"))
    real = schema.dump
    monkeypatch.setattr(schema, "dump", lambda *a: real(*a) + b"\nINSTALL SONAME 'x';\n")
    kept = kit.capture(mariadb_server, where)
    assert any("a restore would refuse the definitions" in warning for warning in kept.warnings)
    monkeypatch.setattr(schema, "dump", lambda *a: real(*a).replace(b"`t`", b"`x`") + b"\nINSTALL SONAME 'x';\n")
    with pytest.raises(SourceIncomplete, match="left out table t"):
        kit.capture(mariadb_server, where)


def test_a_set_of_sixty_four_members_with_an_empty_one(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """The last member is the sign of a signed number."""
    members = ",".join(["''", *(f"'m{number}'" for number in range(63))])
    name = make(
        f"CREATE TABLE t (id INT PRIMARY KEY, s SET({members}), n SET({members}) NOT NULL, e ENUM('', 'x'));"
        "INSERT INTO t VALUES (1, 'm62', 'm62,m0', 'x'), (2, NULL, '', ''), (3, 18446744073709551615, 1, NULL);"
    )
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, name))
    assert b"-" not in kept.rows("t")
    assert str(1 << 63).encode() in kept.rows("t")
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, name + "_new"))
    query = "SELECT id, HEX(s), HEX(n), s + 0, n + 0, e + 0 FROM t ORDER BY id"
    assert mariadb_server.sql(query, name + "_new") == mariadb_server.sql(query, name)


def test_a_dump_that_hangs_or_floods_is_ended(tmp_path: Path) -> None:
    """Silence for too long, and complaints that nobody reads while rows are printed."""
    program = tmp_path / "dump"

    def fake(script: str) -> Tools:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return Tools("none", str(program), tmp_path / "client.cnf", {"PATH": "/usr/bin:/bin"})

    began = time.monotonic()
    with pytest.raises(SourceIncomplete, match="printed nothing for"):
        run_dump(fake("echo begun; exec sleep 60"), [], limit=1 << 20, subject="x", stall=0.5)
    flood = "head -c 1000000 /dev/zero | tr '\\0' 'e' >&2; echo 'Got error: 1356: no' >&2; exit 2"
    with pytest.raises(SourceIncomplete, match="exit 2"):
        run_dump(fake(flood), [], limit=1 << 20, subject="x", stall=5.0)
    assert run_dump(fake("echo whole"), [], limit=1 << 20, subject="x", stall=5.0) == b"whole\n"
    assert time.monotonic() - began < 20


def test_a_dump_does_not_outlive_its_view(
    mariadb_server: MariaServer, make: Callable[..., str], tmp_path: Path
) -> None:
    """A dump that another thread waits for is killed with the view."""
    program = tmp_path / "mariadb-dump"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    (tmp_path / "mariadb").write_text(f'#!/bin/sh\nexec {mariadb_server.bin / "mariadb"} "$@"\n')
    (tmp_path / "mariadb").chmod(0o700)
    where = kit.place(mariadb_server, make("CREATE TABLE t (id INT PRIMARY KEY)"))
    raised: list[BaseException] = []

    def dump(view: MariaView) -> None:
        try:
            read(view, "schema.sql")
        except SourceIncomplete as error:
            raised.append(error)

    began = time.monotonic()
    with mariadb.open_source(where, bin_folders=[tmp_path]).view() as view:
        thread = threading.Thread(target=dump, args=(view,))
        thread.start()
        while not view._opened.tools.running:
            time.sleep(0.01)
    thread.join(20)
    assert raised
    assert time.monotonic() - began < 20


def test_a_child_that_stalls_holds_no_commit_up(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """The barrier is lifted within a second, and the child replaced."""
    name = make("CREATE TABLE t (id INT PRIMARY KEY)")
    place = kit.place(mariadb_server, name)
    link = connect(place, timeout=10, database=name)
    slowest, stop = [0.0], threading.Event()

    def write() -> None:
        with connect(place, timeout=20, database=name) as other:
            turn = 0
            while not stop.is_set():
                turn += 1
                began = time.monotonic()
                run(other, "INSERT INTO t VALUES (%s)", (turn,))
                slowest[0] = max(slowest[0], time.monotonic() - began)

    with open_tools(place, [mariadb_server.bin], timeout=10) as tools:

        def renew() -> Worker:
            made = Worker(tools, place, timeout=10, stall=10)
            made.settle()
            return made

        workers = [renew() for _ in range(3)]
        stalled = workers[1]
        stalled._child.send_signal(signal.SIGSTOP)
        thread = threading.Thread(target=write)
        thread.start()
        try:
            moment = open_together(place, link, Server("mariadb", (10, 11, 0), ""), workers, ["t"], 10, renew)
        finally:
            stop.set()
            thread.join()
        assert moment.barrier == "backup_stage"
        assert stalled.is_broken
        assert stalled not in workers
        assert len({worker.ask("SELECT COUNT(*) FROM t") for worker in workers}) == 1
        for worker in workers:
            worker.close()
    discard(link)
    assert slowest[0] < 2


def test_the_server_lifts_the_barrier_of_a_host_that_died(
    mariadb_server: MariaServer, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is not closed: nothing of it is heard any more."""
    name = make("CREATE TABLE t (id INT PRIMARY KEY)")
    place = kit.place(mariadb_server, name)
    link = connect(place, timeout=10, database=name)
    waited: list[float] = []
    real = barrier._open

    def silent(workers: Sequence[Worker], timeout: float) -> list[Row]:
        if not waited:
            began = time.monotonic()
            mariadb_server.sql("INSERT INTO t VALUES (1)", name)
            waited.append(time.monotonic() - began)
        return real(workers, timeout)

    monkeypatch.setattr(barrier, "_open", silent)
    with open_tools(place, [mariadb_server.bin], timeout=10) as tools:
        workers = [Worker(tools, place, timeout=20, stall=10) for _ in range(2)]
        settle_all(workers)
        with pytest.raises((BackupdError, pymysql.Error)):
            open_together(place, link, Server("mariadb", (10, 11, 0), ""), workers, ["t"], 10)
        for worker in workers:
            worker.close()
    discard(link)
    assert 3 < waited[0] < 9


def test_the_barriers_connection_is_patient_again(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """After the barrier was lifted, the connection may be silent for as long as the rows take."""
    name = make("CREATE TABLE t (id INT PRIMARY KEY)")
    with mariadb.open_source(kit.place(mariadb_server, name), jobs=2, bin_folders=[mariadb_server.bin]).view() as view:
        assert view.facts["barrier"]["kind"] == "backup_stage"  # type: ignore[index]
        assert run(view._opened.link, "SELECT @@wait_timeout") == [(2000000,)]


def test_the_locks_of_a_host_that_died_are_given_up(
    mariadb_server: MariaServer, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that says nothing loses its locks; one whose capture is alive keeps them, however long nothing is read."""
    name = make("CREATE TABLE m (id INT) ENGINE=MyISAM; INSERT INTO m VALUES (1); CREATE TABLE i (id INT PRIMARY KEY);")
    monkeypatch.setattr(locker, "SILENCE", 2)
    monkeypatch.setattr(locker, "_WORD_EVERY", 0.5)
    where = kit.place(mariadb_server, name)
    with mariadb.open_source(where, bin_folders=[mariadb_server.bin]).view() as view:
        time.sleep(4)
        assert "Lock wait timeout" in mariadb_server.sql(
            "SET lock_wait_timeout = 1; INSERT INTO m VALUES (2)", name, check=False
        )
        assert read(view, "m") == b"1\n"
    monkeypatch.setattr(locker, "_WORD_EVERY", 60.0)
    with mariadb.open_source(where, bin_folders=[mariadb_server.bin]).view() as view:
        held = view._opened.locker
        assert held is not None
        held._worker._child.send_signal(signal.SIGSTOP)
        mariadb_server.sql("SET lock_wait_timeout = 10; INSERT INTO m VALUES (3)", name)


def test_a_change_after_the_last_row_does_no_harm(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """The scripts lean on what was read with the definitions."""
    name = make(
        "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1);"
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET @x = 1;"
    )
    with mariadb.open_source(kit.place(mariadb_server, name), bin_folders=[mariadb_server.bin]).view() as view:
        read(view, "schema.sql")
        read(view, "t")
        mariadb_server.sql("DROP TRIGGER g; ALTER TABLE t ADD COLUMN x INT; CREATE TABLE later (id INT)", name)
        assert b"TRIGGER g" in read(view, "after.sql")
        read(view, "load.sql")
        view.finish()


def test_a_broken_view_is_named(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """It can be left out."""
    name = make(
        "CREATE TABLE t (id INT); CREATE VIEW sound AS SELECT 1; CREATE VIEW gone AS SELECT id FROM t; DROP TABLE t"
    )
    with pytest.raises(SourceIncomplete, match="view gone: it refers to") as raised:
        kit.capture(mariadb_server, kit.place(mariadb_server, name))
    assert raised.value.object_name == "view gone"
    assert "sound" not in raised.value.message
    kit.capture(mariadb_server, kit.place(mariadb_server, name), exclude=("gone",))


def test_a_name_that_looks_like_an_option(mariadb_server: MariaServer) -> None:
    """The programs take it for a database."""
    name = mariadb_server.create_database("--help")
    try:
        mariadb_server.sql(f"CREATE TABLE `{name}`.t (id INT PRIMARY KEY); INSERT INTO `{name}`.t VALUES (7)")
        kept = kit.capture(mariadb_server, kit.place(mariadb_server, name))
        assert kept.rows("t") == b"7\n"
        assert b"CREATE TABLE `t`" in kept.schema
    finally:
        mariadb_server.drop_database(name)


def test_the_scripts_leave_events_of_replicas_alone(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Only events that were at work are put aside and brought back."""
    name = make(
        "CREATE TABLE t (id INT PRIMARY KEY); CREATE EVENT at_work ON SCHEDULE EVERY 1 DAY DO SELECT 1;"
        "CREATE EVENT asleep ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1;"
        "CREATE EVENT replicas ON SCHEDULE EVERY 1 DAY DISABLE ON SLAVE DO SELECT 1;"
    )
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, name))
    scripts = {info.name: data for info, data in kept.streams}
    assert re.findall(rb"ALTER EVENT `(\w+)` (\w+);", scripts["load.sql"]) == [(b"at_work", b"DISABLE")]
    assert re.findall(rb"ALTER EVENT `(\w+)` (\w+);", scripts["after.sql"]) == [(b"at_work", b"ENABLE")]
