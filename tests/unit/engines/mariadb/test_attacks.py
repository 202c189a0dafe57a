"""Servers that turn on us half-way, client programs that lie, disks that fill."""

import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from backupd.engines import mariadb
from backupd.engines.base import ServerPlace
from backupd.errors import BackupdError, StorageRefused
from tests.servers.mariadb import MariaServer, running
from tests.servers.processes import short_files, wrapped
from tests.servers.proxy import Turn, between, closes, garbage, silent
from tests.unit.engines.mariadb import kit

pytestmark = pytest.mark.slow

TABLE = """CREATE TABLE t (id INT PRIMARY KEY, filler VARCHAR(600));
INSERT INTO t SELECT seq, REPEAT('x', 500) FROM seq_1_to_{}"""


def _endless_row(line: socket.socket) -> None:
    """Packets of the largest length, one after the other, as one row of many gigabytes would come."""
    for number in range(8):
        line.sendall(struct.pack("<I", 0xFFFFFF | number << 24) + b"x" * 0xFFFFFF)


def _error(line: socket.socket) -> None:
    """A packet of the server's that tells of an error; its number is off, as nobody knows where in the stream this is."""
    body = b"\xff" + struct.pack("<H", 1317) + b"#70100row-canary"
    line.sendall(struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize("turn", [garbage, _endless_row, closes, _error, silent])
def test_a_server_that_turns_hostile_half_way(
    mariadb_server: MariaServer, make: Callable[..., str], turn: Turn
) -> None:
    """In the middle of a table: the capture fails soon, and no row is shown (H75)."""
    name = make(TABLE.format(20_000))
    with between(mariadb_server.host, mariadb_server.port, turn, after=2_000_000) as port:
        place = ServerPlace("mariadb", "127.0.0.1", port, "root", name, password=mariadb_server.root_password)
        with pytest.raises(BackupdError) as caught:
            kit.capture(mariadb_server, place, timeout=3.0)
    said = f"{caught.value} {caught.value.hint}"
    assert "row-canary" not in said
    assert "xxxx" not in said


@pytest.mark.parametrize("script", ['"$REAL" "$@"; exit 1', "exit 0"])
def test_programs_that_end_badly_make_no_snapshot(
    mariadb_server: MariaServer, make: Callable[..., str], tmp_path: Path, script: str
) -> None:
    """Nothing and exit 0, or a dump that fails after all of its words (H76)."""
    name = make(TABLE.format(20_000))
    program = "mariadb-dump" if script.endswith("exit 1") else "mariadb"
    tools = wrapped(mariadb_server.bin, tmp_path / "bin", program, script)
    source = mariadb.open_source(kit.place(mariadb_server, name), bin_folders=[tools], timeout=5.0)
    with pytest.raises(BackupdError), source.view() as view:
        kit.drain(view)


def test_a_full_disk_leaves_nothing(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """The server can write no more in the middle of a restore: it fails, says so, and leaves no database behind."""
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, make(TABLE.format(150_000))))
    with ExitStack() as stack:
        with short_files(50_000_000):
            full = stack.enter_context(running("--skip-log-bin"))
        before = kit.databases(full)
        with pytest.raises(StorageRefused) as caught:
            kit.restore(full, kept, kit.place(full, "back_full"))
        assert "xxx" not in f"{caught.value} {caught.value.hint}"
        assert kit.databases(full) == before
