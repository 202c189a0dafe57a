"""Health, metrics and the status document without the extra `web`: the standard library's server, behind the same gate.

A bounded number of connections, each with a bounded time. It never serves the page: it says how to install it.
"""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from backupd.daemon.answers import Answers
from backupd.daemon.gate import Answer, Gate, said
from backupd.daemon.overview import Overview

CONNECTIONS = 32
HEAD_BYTES = 16_384
SECONDS, WHOLE_SECONDS = 5.0, 60.0
INSTALL = "pip install 'backupd[web]'"


def no_page(_overview: Overview, _query: str) -> Answer:
    """What stands where the page would be."""
    return said(
        501, f"The status page needs {INSTALL}; /api/status, /metrics, /health and /ready are there without it."
    )


class PlainServer(ThreadingMixIn, TCPServer):
    """Serves on a socket that listens already."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, answers: Answers, gate: Gate) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.answers, self.gate = answers, gate
        self._room = threading.BoundedSemaphore(CONNECTIONS)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Until `shutdown`; the socket is closed then."""
        try:
            super().serve_forever(poll_interval)
        finally:
            self.server_close()

    def shutdown(self) -> None:
        """Stop, and wait until nothing is taken any more."""
        _cut(self.socket)  # wakes the loop, or it would sleep on for half a second
        super().shutdown()

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, if there is room for one more."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, whatever becomes of it; cut off when its time is over, though it may still drip."""
        over = threading.Timer(WHOLE_SECONDS, _cut, [request])
        over.daemon = True
        over.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            over.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that broke off or was too slow is no news; what goes wrong in an answer is logged where it is made."""


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class _Bounded:
    """The lines of one request, up to a length."""

    def __init__(self, inner: BufferedIOBase) -> None:
        self._inner, self._left = inner, HEAD_BYTES
        self.close = inner.close

    def readline(self, size: int) -> bytes:
        """The next line.

        Raises:
            ConnectionAbortedError: it would be too much.
        """
        line = self._inner.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise ConnectionAbortedError("the head of the request is too long")
        return line

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._inner.closed


class _Handler(BaseHTTPRequestHandler):
    """One request a connection (HTTP/1.0)."""

    server: PlainServer
    timeout = SECONDS
    server_version, sys_version = "backupd", ""

    def setup(self) -> None:
        """Reads no more than a head may have."""
        super().setup()
        self.rfile = _Bounded(self.rfile)  # type: ignore[assignment]  # of it only readline and close are used

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as its base calls it
        """There is no access log."""

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        found = self.server.gate.refusal(self.command, self.path, headers)
        if found is None:
            path, _, query = self.path.partition("?")
            found = self.server.answers.to(path, query)
        self.send_response(found.status)
        for name, value in found.headers():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(found.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(found.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer  # noqa: N815
