"""A small S3 look-alike on loopback whose next answers a test can script: errors, resets, short bodies, redirects.

What is not scripted is answered as a well-behaved server would, from memory. It checks no signature.
"""

import contextlib
import email.utils
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Action = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: "ScriptedS3"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Says nothing."""

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.requests.append((self.command, self.path, dict(self.headers)))
            action = self.server.script.pop(0) if self.server.script else None
        (action or ordinary)(self)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815

    @property
    def key(self) -> str:
        """Bucket and key."""
        return urlsplit(self.path).path

    def answer(self, status: int, body: bytes = b"", announced: int | None = None, **headers: str) -> None:
        """Answer with a body; `announced` is a Content-Length that lies."""
        self.send_response_only(status)
        self.send_header("Date", email.utils.formatdate(usegmt=True))
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if announced is not None:
            self.close_connection = True

    def reset(self) -> None:
        """Break the connection without a goodbye."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def ordinary(handler: Handler) -> None:
    """What a well-behaved server answers."""
    objects = handler.server.objects
    held = objects.get(handler.key)
    if handler.command == "PUT":
        if held is not None and handler.headers.get("If-None-Match") == "*":
            return error("PreconditionFailed", 412)(handler)
        objects[handler.key] = handler.body
        return handler.answer(200, ETag=f'"{hashlib.sha256(handler.body).hexdigest()}"')
    if handler.command == "DELETE":
        objects.pop(handler.key, None)
        return handler.answer(204)
    if held is None:
        return error("NoSuchKey", 404)(handler)
    modified = email.utils.formatdate(usegmt=True)
    wanted = handler.headers.get("Range", "").removeprefix("bytes=")
    if not wanted:
        return handler.answer(200, held, len(held) if handler.command == "HEAD" else None, Last_Modified=modified)
    first, _, last = wanted.partition("-")
    start, end = int(first), min(int(last or len(held)), len(held) - 1)
    if start >= len(held):
        return error("InvalidRange", 416)(handler)
    part = held[start : end + 1]
    return handler.answer(206, part, Content_Range=f"bytes {start}-{end}/{len(held)}", Last_Modified=modified)


def error(code: str, status: int, **headers: str) -> Action:
    """Answer with an S3 error."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
    return lambda handler: handler.answer(status, b"" if handler.command == "HEAD" else body, None, **headers)


def reset(handler: Handler) -> None:
    """Break the connection before any answer."""
    handler.reset()


def reset_mid_body(handler: Handler) -> None:
    """Announce 1,000 bytes, send 10, break."""
    handler.answer(200, b"0123456789", 1000)
    handler.wfile.flush()
    handler.reset()


def lose_answer(handler: Handler) -> None:
    """Do it, and break the connection before the answer."""
    handler.server.objects[handler.key] = handler.body
    handler.reset()


def answering(status: int, body: bytes, announced: int | None = None, **headers: str) -> Action:
    """Answer so, whatever was asked."""
    return lambda handler: handler.answer(status, body, announced, **headers)


class ScriptedS3(ThreadingHTTPServer):
    """The server: `script` holds what the next requests meet, `requests` what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.objects: dict[str, bytes] = {}
        self.script: list[Action] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.scheme = "http"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is what tests ask for."""

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def count(self, method: str) -> int:
        """How many requests of this method came."""
        return sum(1 for seen, _, _ in self.requests if seen == method)


@contextlib.contextmanager
def running(certificate: Path | None = None) -> Iterator[ScriptedS3]:
    """A server for the length of the context; with a certificate (and key, one PEM file) it talks TLS."""
    server = ScriptedS3()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
