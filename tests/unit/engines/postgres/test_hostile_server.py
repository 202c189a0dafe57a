"""A server that speaks garbage, or nothing, cannot hang a capture or make it look good."""

import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from backupd.engines.base import LoadOptions, ServerPlace
from backupd.engines.postgres import open_source, open_target, preflight
from backupd.errors import BackupdError, SourceIncomplete, TryAgain, Unreachable

GREETING = b"R" + struct.pack("!ii", 8, 0) + b"Z" + struct.pack("!i", 5) + b"I"


@contextmanager
def serving(speak: Callable[[socket.socket], None]) -> Iterator[ServerPlace]:
    """A fake server on a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(10)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    line, _ = listener.accept()
                    threading.Thread(target=talk, args=(line,), daemon=True).start()

        def talk(line: socket.socket) -> None:
            with line, suppress(OSError):
                speak(line)

        threading.Thread(target=serve, daemon=True).start()
        options = {"sslmode": "disable", "gssencmode": "disable"}
        yield ServerPlace("postgresql", "127.0.0.1", listener.getsockname()[1], "u", "d", options, "secret-canary")


def _silent(line: socket.socket) -> None:
    time.sleep(30)


def _closes(line: socket.socket) -> None:
    line.recv(1024)


def _garbage(line: socket.socket) -> None:
    line.recv(1024)
    line.sendall(secrets.token_bytes(100_000))
    time.sleep(1)


def _other_protocol(line: socket.socket) -> None:
    line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    time.sleep(1)


def _huge_message(line: socket.socket) -> None:
    line.recv(1024)
    line.sendall(GREETING)
    line.recv(65536)
    line.sendall(b"T" + struct.pack("!i", 0x7FFFFFFF) + b"x" * 100_000)
    time.sleep(1)


def _ancient(line: socket.socket) -> None:
    line.recv(1024)
    version = b"server_version\x009.6.1\x00"
    line.sendall(b"R" + struct.pack("!ii", 8, 0) + b"S" + struct.pack("!i", 4 + len(version)) + version + GREETING[9:])
    time.sleep(1)


def _error_with_a_secret(line: socket.socket) -> None:
    line.recv(1024)
    body = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed: row-canary\0\0"
    line.sendall(b"E" + struct.pack("!i", 4 + len(body)) + body)


@pytest.mark.parametrize(
    "speak", [_silent, _closes, _garbage, _other_protocol, _huge_message, _ancient, _error_with_a_secret]
)
def test_a_strange_server_is_unreachable_soon(speak: Callable[[socket.socket], None]) -> None:
    """Source, target and preflight alike; nothing of what it says, and no password, is in the error."""
    with serving(speak) as place:
        for attempt in (
            lambda: open_source(place, timeout=2).view().__enter__(),
            lambda: open_target(place, timeout=2).prepare(LoadOptions(), {}),
            lambda: preflight(place, timeout=2),
        ):
            began = time.monotonic()
            with pytest.raises((Unreachable, SourceIncomplete, TryAgain)) as caught:
                attempt()
            assert time.monotonic() - began < 10
            error: BackupdError = caught.value
            assert "canary" not in f"{error.message} {error.hint} {error.object_name} {place!r}"
