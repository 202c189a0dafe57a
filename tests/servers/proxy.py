"""What sits between a client and a real server, and at some moment speaks instead of it."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Turn = Callable[[socket.socket], None]
"""Speaks to the client in the server's place."""


def _unchanged(data: bytes) -> bytes:
    return data


@contextmanager
def between(
    host: str, port: int, turn: Turn, *, after: int, change: Callable[[bytes], bytes] = _unchanged
) -> Iterator[int]:
    """A port that leads to the server, until a connection has brought more than `after` bytes: then `turn` speaks.

    Args:
        change: what is done to the server's words on their way.
    """

    def pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        seen = 0
        with suppress(OSError):
            while data := source.recv(65_536):
                seen += len(data)
                if limit is not None and seen > limit:
                    turn(sink)
                    break
                sink.sendall(data if limit is None else change(data))
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                lines.append(near)
                lines.append(socket.create_connection((host, port)))
                for source, sink, limit in ((near, lines[-1], None), (lines[-1], near, after)):
                    pumps.append(threading.Thread(target=pump, args=(source, sink, limit)))
                    pumps[-1].start()

    lines: list[socket.socket] = []
    pumps: list[threading.Thread] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(20)
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            server.join()
            for line in lines:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
            for one in pumps:
                one.join()
            for line in lines:
                line.close()


def garbage(line: socket.socket) -> None:
    """Random bytes."""
    line.sendall(os.urandom(300_000))


def closes(line: socket.socket) -> None:
    """Nothing more."""
    del line


def silent(line: socket.socket) -> None:
    """Says nothing for eight seconds, and keeps the line."""
    del line
    threading.Event().wait(8)
