"""Whatever breaks, no capture looks good and no restore leaves half a database."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
import pytest

from backupd.engines import mariadb
from backupd.engines.base import LoadOptions, ServerPlace, StoredStream
from backupd.engines.mariadb import client, load, schema
from backupd.engines.mariadb.tools import Tools, find_program, open_tools, option_file, run_dump
from backupd.engines.mariadb.worker import Worker
from backupd.errors import (
    BackupdError,
    Failed,
    IntegrityError,
    SafetyRefused,
    SourceIncomplete,
    SourceMoved,
    Unreachable,
    UsageError,
)
from tests.servers.mariadb import MariaServer
from tests.unit.engines.mariadb import kit

pytestmark = pytest.mark.slow
ROWS = "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)); INSERT INTO t SELECT seq, REPEAT(MD5(seq), 5) FROM seq_1_to_100000;"


def compare(table: str, rows: Iterator[bytes | bytearray]) -> None:
    """Take everything."""
    for _ in rows:
        pass


def readers(server: MariaServer, database: str) -> list[int]:
    """The server's numbers of the connections of the reading children."""
    query = f"SELECT ID FROM information_schema.PROCESSLIST WHERE DB = '{database}' AND COMMAND <> 'Daemon' ORDER BY ID"
    return [int(line) for line in server.sql(query).split()]


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_killed_connection_is_no_end(mariadb_server: MariaServer, make: Callable[..., str], moment: str) -> None:
    """Neither before nor in the middle of a table; nothing connects again by itself."""
    name = make(ROWS)
    where = kit.place(mariadb_server, name)
    with mariadb.open_source(where, jobs=1, bin_folders=[mariadb_server.bin]).view() as view:
        rows = view.read(next(stream for stream in view.streams if stream.name == "t"))
        if moment == "during":
            next(rows)
        for number in readers(mariadb_server, name):
            mariadb_server.sql(f"KILL CONNECTION {number}", check=False)
        with pytest.raises((Unreachable, SourceIncomplete)) as raised:
            list(rows)
        assert not isinstance(raised.value, SourceMoved)
        with pytest.raises(BackupdError):
            view.finish()
        with pytest.raises(BackupdError):
            list(view.read(view.streams[1]))


def test_a_killed_child_is_no_end(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """However whole its output looks."""
    with mariadb.open_source(
        kit.place(mariadb_server, make(ROWS)), jobs=1, bin_folders=[mariadb_server.bin]
    ).view() as view:
        rows = view.read(view.streams[1])
        next(rows)
        os.kill(view._opened.workers[0]._child.pid, signal.SIGKILL)
        with pytest.raises(Unreachable):
            list(rows)


def test_a_killed_server_is_no_end(start_mariadb: Callable[..., MariaServer]) -> None:
    """Unreachable, by name."""
    server = start_mariadb("--max-connections=61")
    name = server.create_database()
    server.sql(ROWS, name)
    with mariadb.open_source(kit.place(server, name), jobs=1, bin_folders=[server.bin]).view() as view:
        rows = view.read(view.streams[1])
        next(rows)
        server.kill()
        try:
            with pytest.raises(Unreachable):
                list(rows)
            with pytest.raises(BackupdError):
                list(view.read(view.streams[0]))
        finally:
            server.start()
    with pytest.raises(Unreachable):
        kit.capture(server, ServerPlace("mariadb", server.host, 1, "root", name, password="x"))


def test_a_view_that_is_left_early_leaves_no_child_and_no_file(
    mariadb_server: MariaServer, make: Callable[..., str], tmp_path: Path
) -> None:
    """Nor the private file with the password."""
    name = make(ROWS)
    with mariadb.open_source(kit.place(mariadb_server, name), bin_folders=[mariadb_server.bin]).view() as view:
        folder = view._opened.tools.options.parent
        assert view._opened.tools.options.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        children = [worker._child for worker in view._opened.workers]
        rows = view.read(view.streams[1])
        next(rows)
    assert not folder.exists()
    assert all(child.poll() is not None for child in children)
    with pytest.raises(BackupdError):
        list(rows)
    deadline = time.monotonic() + 10
    while readers(mariadb_server, name):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def fake_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that is none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        stop = threading.Event()

        def serve() -> None:
            listener.settimeout(0.1)
            while not stop.is_set():
                try:
                    link, _ = listener.accept()
                except TimeoutError:
                    continue
                with link:
                    link.settimeout(10)
                    try:
                        talk(link)
                        stop.wait(20)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def packet(number: int, payload: bytes) -> bytes:
    """One packet of the protocol."""
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


GREETING = packet(
    0,
    b"\x0a10.11.0-MariaDB\x00" + b"\x01\x00\x00\x00" + b"12345678\x00" + b"\xff\xf7" + b"\x2d" + b"\x02\x00" + b"\xff\x81"
    + b"\x15" + b"\x00" * 10 + b"123456789012\x00" + b"mysql_native_password\x00",
)  # fmt: skip
OK = packet(2, b"\x00\x00\x00\x02\x00\x00\x00")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20,
        b"\xff" * 4096,
        b"\x00" * 4096,
        GREETING[:20],
        GREETING + packet(2, b"\xff" * 300),
        GREETING + OK + packet(1, b"\xfe" * 9) * 50,
        GREETING + OK + packet(1, b"\x00\x00\x00\x02\x00\x00\x00") * 10,
        GREETING + OK + packet(1, b"\xfb/etc/passwd"),
        bytes(range(256)) * 100,
    ],
)
def test_garbage_neither_hangs_nor_passes(mariadb_server: MariaServer, said: bytes) -> None:
    """It is unreachable, in time, and nothing of it is repeated."""
    began = time.monotonic()
    with fake_server(lambda link: link.sendall(said)) as port:
        place = ServerPlace("mariadb", "127.0.0.1", port, "root", "x", password="secret-word")
        with pytest.raises(BackupdError) as raised:
            kit.capture(mariadb_server, place, timeout=1.0)
        with pytest.raises(BackupdError):
            mariadb.open_target(place, timeout=1.0).prepare(LoadOptions(), {})
    assert "secret-word" not in str(raised.value)
    assert time.monotonic() - began < 30


def test_a_hostile_server_gets_no_file(tmp_path: Path) -> None:
    """Whatever statement it answers with a request for a file, and whatever file it asks for (H68)."""
    secret = tmp_path / "secret"
    secret.write_text("do not send me")
    received = bytearray()

    def talk(link: socket.socket, local: bool) -> None:
        link.sendall(GREETING)
        link.recv(4096)
        link.sendall(OK)
        ask = packet(1, b"\xfb" + os.fsencode(secret))
        while data := link.recv(1 << 16):
            received.extend(data)
            if b"LOAD DATA" in data or not local:
                link.sendall(ask)
            elif len(data) > 4 and data[4] == 3:
                link.sendall(packet(1, b"\x00\x00\x00\x02\x00\x00\x00"))

    def place_of(port: int) -> ServerPlace:
        return ServerPlace("mariadb", "127.0.0.1", port, "root", "x", password="p")

    with fake_server(lambda link: talk(link, False)) as port, pytest.raises(Unreachable):
        client.connect(place_of(port), timeout=2.0, local_infile=True)
    with fake_server(lambda link: talk(link, True)) as port:
        link = client.connect(place_of(port), timeout=2.0, local_infile=True)
        with pytest.raises((BackupdError, OSError, pymysql.Error)):
            load.send_rows(link, "LOAD DATA", iter([b"our own rows\n"]))
        client.discard(link)
    assert b"our own rows" in received
    assert b"do not send me" not in received


@pytest.mark.parametrize("local", ["ON", "OFF"])
@pytest.mark.parametrize("fault", ["raises", "short", "half a row", "nothing"])
def test_a_stream_that_breaks_leaves_nothing(
    mariadb_server: MariaServer, make: Callable[..., str], fault: str, local: str
) -> None:
    """The loader is cut, the scratch database dropped, and the target is not there (H72)."""
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, make(ROWS)))
    name = make() + "_new"

    def broken(stream: StoredStream) -> StoredStream:
        def opened() -> Iterator[bytes]:
            whole = b"".join(stream.open())
            if fault == "raises":
                yield whole[: len(whole) * 99 // 100]
                raise IntegrityError("a chunk is damaged")
            if fault == "short":
                yield whole[: whole.rindex(b"\n", 0, len(whole) // 2) + 1]
            if fault == "half a row":
                yield whole[:-3]

        return StoredStream(stream.info, stream.size, opened)

    streams = [broken(stream) if stream.info.kind == "rows" else stream for stream in kept.stored()]
    mariadb_server.sql(f"SET GLOBAL local_infile = {local}")
    try:
        target = mariadb.open_target(kit.place(mariadb_server, name), bin_folders=[mariadb_server.bin])
        target.prepare(LoadOptions(), kept.facts)
        with pytest.raises(IntegrityError):
            target.load(streams, kept.tables, facts=kept.facts, check="none", compare=compare)
    finally:
        mariadb_server.sql("SET GLOBAL local_infile = ON")
    assert not [one for one in kit.databases(mariadb_server) if one.startswith(name)]


def test_values_that_are_not_taken_as_they_are_fail(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """A duplicate key, a value too long: LOAD DATA would go on with a warning. No value is quoted."""
    kept = kit.capture(
        mariadb_server,
        kit.place(
            mariadb_server, make("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(3)); INSERT INTO t VALUES (1, 'abc')")
        ),
    )
    for rows in (b"1\tsecret\n", b"1\ta\n1\tsec\n", b"x\tsec\n", b"1\n", b"1\ta\tb\n", b"\\N\tsec\n", b"1\t\xff\xfe\n"):
        forged = kit.Kept(
            [(info, rows if info.name == "t" else data) for info, data in kept.streams], kept.facts, kept.tables, ()
        )
        for local in ("ON", "OFF"):
            mariadb_server.sql(f"SET GLOBAL local_infile = {local}")
            name = make() + "_new"
            try:
                with pytest.raises(Failed) as raised:
                    kit.restore(mariadb_server, forged, kit.place(mariadb_server, name), check="none")
            finally:
                mariadb_server.sql("SET GLOBAL local_infile = ON")
            assert raised.value.object_name == "t"
            assert "sec" not in f"{raised.value} {raised.value.hint}"
            assert not [one for one in kit.databases(mariadb_server) if one.startswith(name)]


@pytest.mark.parametrize(
    ("schema_text", "word"),
    [
        (b"\\! touch {canary}\n", None),
        (b"system touch {canary};\n", None),
        (b"CREATE TABLE `t` (`id` int) ENGINE=InnoDB;\n\\! touch {canary}\n", None),
        (b"INSTALL SONAME 'x';\n", None),
        (b"CREATE FUNCTION `f` RETURNS INTEGER SONAME 'lib.so';\n", None),
        (b"CREATE DEFINER=`root`@`localhost` EVENT `e` ON SCHEDULE EVERY 1 SECOND DO CREATE USER owned;\n", "definer"),
        (b"CREATE DEFINER=`other`@`%` PROCEDURE `p`() SELECT 1;\n", "definer"),
        (b"CREATE TABLE `x` (`id` int) ENGINE=FEDERATED CONNECTION='mysql://a@b/c/d';\n", "foreign-server"),
        (b"CREATE TABLE `x` (`id` int) ENGINE=InnoDB DATA DIRECTORY='/tmp';\n", "directory"),
    ],
)  # fmt: skip
def test_a_hostile_schema_is_refused_before_anything_is_made(
    mariadb_server: MariaServer, make: Callable[..., str], tmp_path: Path, schema_text: bytes, word: str | None
) -> None:
    """By its own text, listed; and what can be allowed says how (H68)."""
    canary = tmp_path / "owned"
    kept = kit.capture(
        mariadb_server, kit.place(mariadb_server, make("CREATE TABLE t (id INT); INSERT INTO t VALUES (1)"))
    )
    name = make() + "_new"
    forged = kept.with_schema(kept.schema + schema_text.replace(b"{canary}", os.fsencode(canary)))
    with pytest.raises(SafetyRefused) as raised:
        kit.restore(mariadb_server, forged, kit.place(mariadb_server, name))
    assert word is None or f"--allow {word}" in str(raised.value.hint)
    assert not [one for one in kit.databases(mariadb_server) if one.startswith(name)]
    assert not canary.exists()
    assert "owned" not in mariadb_server.sql("SELECT User FROM mysql.user")


def test_what_another_owns_needs_a_word(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Without the right to name another, the objects become ours, and it is said."""
    source = make(
        "CREATE TABLE t (id INT); CREATE DEFINER=`ghost`@`%` TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET @x = 1;"
        "CREATE DEFINER=`ghost`@`%` SQL SECURITY INVOKER VIEW v AS SELECT 1;"
    )
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    name = make()
    with pytest.raises(SafetyRefused, match=r"definer: trigger g$"):
        kit.restore(mariadb_server, kept, kit.place(mariadb_server, name + "_new"))
    user, password = mariadb_server.create_user(f"ALL ON `{name}%`.*")
    where = kit.place(mariadb_server, name + "_new", user, password)
    with pytest.raises(SafetyRefused, match=r"definer: trigger g, view v$"):
        kit.restore(mariadb_server, kept, where)
    mariadb_server.sql("SET GLOBAL log_bin_trust_function_creators = ON")
    try:
        result = kit.restore(mariadb_server, kept, where, allow=frozenset({"definer"}))
    finally:
        mariadb_server.sql("SET GLOBAL log_bin_trust_function_creators = OFF")
    assert f"trigger g runs as {user}@% now, not as ghost@%" in result.warnings
    assert f"`{user}`@`%`" in mariadb_server.sql("SHOW CREATE VIEW v", name + "_new")


def test_an_object_that_cannot_be_made_takes_all_back(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """The tables had been moved already; nothing is left, and an empty target is empty again."""
    source = make(
        "CREATE TABLE t (id INT PRIMARY KEY); CREATE TABLE c (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES t (id));"
        "CREATE PROCEDURE p() SELECT 1; CREATE VIEW v AS SELECT 1; CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET @x = 1;"
    )
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    forged = kept.with_schema(
        kept.schema + b"CREATE DEFINER=`root`@`127.0.0.1` SQL SECURITY INVOKER VIEW `w` AS SELECT * FROM nowhere;\n"
    )
    name = make()
    for database in (name + "_new", name):
        with pytest.raises(Failed, match="view w"):
            kit.restore(mariadb_server, forged, kit.place(mariadb_server, database), allow=frozenset({"all"}))
    assert [one for one in kit.databases(mariadb_server) if one.startswith(name)] == [name]
    assert mariadb_server.sql("SHOW TABLES", name) == ""
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, name), allow=frozenset({"all"}))
    assert kit.dump(mariadb_server, name) == kit.dump(mariadb_server, source)


def script(folder: Path, text: str) -> Path:
    """A program of the test's own for mariadb-dump."""
    program = folder / "mariadb-dump"
    program.write_text("#!/bin/sh\n" + text)
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    "text",
    [
        "echo 'CREATE TABLE `a` ('",
        "echo 'SET SQL_NOTES=@OLD_SQL_NOTES */;'; exit 2",
        "echo 'mariadb-dump: Got error: 1045: secret' >&2; echo '/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;'",
        "kill -9 $$",
        ":",
    ],
)
def test_a_dump_that_did_not_end_well_is_none(mariadb_server: MariaServer, tmp_path: Path, text: str) -> None:
    """Exit 0 and the last line and nothing on standard error, or it failed."""
    place = kit.place(mariadb_server, "x")
    script(tmp_path, text)
    with (
        open_tools(place, [tmp_path, mariadb_server.bin], timeout=5) as tools,
        pytest.raises(SourceIncomplete) as raised,
    ):
        schema.dump(tools, place, client.Server("mariadb", (10, 11, 0), ""), ())
    assert "secret" not in raised.value.message


def test_an_endless_dump_is_cut_off(mariadb_server: MariaServer, tmp_path: Path) -> None:
    """Memory is bounded."""
    script(tmp_path, "exec yes")
    with (
        open_tools(kit.place(mariadb_server, "x"), [tmp_path, mariadb_server.bin], timeout=5) as tools,
        pytest.raises(SourceIncomplete, match="is over"),
    ):
        run_dump(tools, [], limit=1 << 20, subject="x")


def test_a_silent_child_is_not_waited_for(tmp_path: Path) -> None:
    """It counts as lost after its time."""
    program = tmp_path / "mariadb"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    tools = Tools(str(program), None, tmp_path / "none.cnf", {"PATH": "/usr/bin:/bin"})
    worker = Worker(tools, ServerPlace("mariadb", "", 0, "", "x"), timeout=0.3, stall=0.3)
    with pytest.raises(Unreachable, match="said nothing"):
        worker.ask("SELECT 1")
    assert worker.is_broken
    with pytest.raises(Unreachable):
        worker.ask("SELECT 1")
    with pytest.raises(Failed, match="mariadb-dump was not found"):
        tools.dump_command()
    assert find_program({"mariadb": ("no-such-program",)}, "mariadb", [tmp_path]) is None


def test_url_parameters(tmp_path: Path) -> None:
    """TLS and the socket reach both clients; an unknown one is refused."""
    options = {"ssl_ca": "/ca.pem", "ssl_verify_cert": "true", "unix_socket": "/run/x.sock"}
    text = option_file(ServerPlace("mariadb", "", 0, "me", "x", options, password='a"b\\c#\n'), 5)
    assert 'ssl-ca = "/ca.pem"' in text
    assert "ssl-verify-server-cert" in text
    assert 'socket = "/run/x.sock"' in text
    assert 'password = "a\\"b\\\\c#\\n"' in text
    with pytest.raises(UsageError, match="init_command"):
        option_file(ServerPlace("mariadb", "", 0, "me", "x", {"init_command": "x"}), 5)
    with pytest.raises(Unreachable, match="has no server's socket"):
        option_file(ServerPlace("mariadb", str(tmp_path), 0, "me", "x"), 5)


def test_the_socket_works(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """A host that is a path, as a file and as a folder."""
    name = make("CREATE TABLE t (id INT); INSERT INTO t VALUES (1)")
    for host in (mariadb_server.socket, mariadb_server.socket.parent):
        where = ServerPlace("mariadb", str(host), 0, "root", name, password=mariadb_server.root_password)
        assert kit.capture(mariadb_server, where).rows("t") == b"1\n"
