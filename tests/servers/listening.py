"""Servers that notices are sent to: they record what arrives and answer as they are told."""

import datetime
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ELSEWHERE = "127.1"
"""A name of this machine that does not look like one: what must hold for other hosts holds for it."""


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Listener:
    """An HTTP server and what it was asked."""

    port: int = 0
    tls: bool = False
    asked: list[Asked] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """A URL of it."""
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[Listener]:
    """An HTTP server on a free port of this machine."""
    found = Listener(tls=context is not None)

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.asked.append(Asked(self.command, self.path, dict(self.headers.items()), body))
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        do_POST = do_GET = do_PUT = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Clients that hang up are part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def raw(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server whose every connection is given to `talk`; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def one(connected: socket.socket) -> None:
        with connected:
            connected.settimeout(3)  # a peer that went away may leave a full window behind
            try:
                talk(connected)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(connected,), daemon=True))
            threads[-1].start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for each in threads:
            each.join(20)


def certificate(folder: Path, name: str = "server") -> Path:
    """A self-signed certificate for names of this machine (not for 127.0.0.1), with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    names = [x509.DNSName("localhost"), x509.DNSName(ELSEWHERE), x509.DNSName("ops.example.com")]
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return path


def server_context(pem: Path) -> ssl.SSLContext:
    """The server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@dataclass
class Mailbox:
    """A mail server and what it took."""

    port: int
    mails: list[bytes] = field(default_factory=list)
    logins: list[tuple[bytes, bytes, bool]] = field(default_factory=list)
    reject: str | None = None

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        """Take a mail, or answer as told."""
        if self.reject:
            return self.reject
        self.mails.append(envelope.content)
        return "250 taken"


@contextmanager
def mail_server(
    context: ssl.SSLContext | None = None, *, implicit: bool = False, password: bytes | None = None
) -> Iterator[Mailbox]:
    """A mail server; with a context it offers STARTTLS, or speaks TLS from the first byte; with a password it wants a login."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    box = Mailbox(port)

    def authenticate(_server: Any, session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
        assert isinstance(given, LoginPassword)
        box.logins.append((given.login, given.password, session.ssl is not None))
        return AuthResult(success=given.password == password, handled=False)

    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        ssl_context=context if implicit else None,
        tls_context=None if implicit else context,
        authenticator=authenticate if password is not None else None,
        auth_required=password is not None,
        auth_require_tls=not implicit and context is not None,
    )
    controller.start()
    try:
        yield box
    finally:
        controller.stop()
