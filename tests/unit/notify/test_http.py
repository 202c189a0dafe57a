"""The way out: what succeeds, what is tried again, what is refused, and what is never seen."""

import http.client
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.config.proxies import proxy_for
from backupd.errors import UsageError
from backupd.notify.base import NotifyFailed, NotifyLater, NotifyRefused, NotifyUnreachable
from backupd.notify.http import address_of, retry_after
from tests.servers.listening import ELSEWHERE, certificate, listening, raw, server_context
from tests.unit.notify.kit import CANARY, notice, opened, said

HOOK = {"webhook": "env:URL"}


def failing(url: str, **more: object) -> NotifyFailed:
    """How a webhook to that URL fails."""
    with pytest.raises(NotifyFailed) as caught:
        opened(url, **HOOK).send(notice(**more))
    assert CANARY not in said(caught.value)
    return caught.value


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    """Whatever else the answer says."""
    with listening() as server:
        server.status = status
        opened(server.url(), **HOOK).send(notice())
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_to_be_tried_again(status: int) -> None:
    """Trouble of the server's own, with the wait that it asks for."""
    with listening() as server:
        server.status, server.headers, server.body = status, {"Retry-After": "17"}, CANARY.encode()
        error = failing(server.url(f"/{CANARY}"))
    assert isinstance(error, NotifyLater)
    assert (error.retry, error.after, int(error.exit)) == (True, 17.0, 75)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
def test_what_is_refused_is_refused_for_good(status: int) -> None:
    """The same would be refused again; the number is told, the answer is not."""
    with listening() as server:
        server.status, server.body = status, CANARY.encode()
        error = failing(server.url(f"/{CANARY}"))
    assert isinstance(error, NotifyRefused)
    assert (error.retry, int(error.exit)) == (False, 13)
    assert str(status) in error.message
    assert "the notifier ops (webhook)" in error.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_refused(status: int) -> None:
    """The body goes nowhere else."""
    with listening() as elsewhere, listening() as server:
        server.status, server.headers = status, {"Location": elsewhere.url("/there")}
        error = failing(server.url())
    assert isinstance(error, NotifyRefused)
    assert "redirect" in error.message
    assert elsewhere.asked == []


def test_retry_after_is_seconds_or_a_time_by_the_answers_clock() -> None:
    """Nonsense counts as nothing."""
    date = "Wed, 04 Mar 2026 05:06:07 GMT"
    assert retry_after({"Retry-After": "Wed, 04 Mar 2026 05:08:07 GMT", "Date": date}) == 120
    assert retry_after({"Retry-After": "Wed, 04 Mar 2026 05:00:07 GMT", "Date": date}) == 0
    for text in ("", "soon", "-5", "1e9", "٣", "Wed, 04 Mar 2026 05:08:07 GMT"):
        assert retry_after({"Retry-After": text}) is None
    assert retry_after({}) is None


def test_a_closed_port_and_an_unknown_host_are_unreachable() -> None:
    """Both may pass."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/{CANARY}", f"https://{CANARY}.invalid/", f"https://{'a' * 70}.invalid/"):
        error = failing(url)
        assert isinstance(error, NotifyUnreachable)
        assert (error.retry, int(error.exit)) == (True, 14)


def _silent(connected: socket.socket) -> None:
    while connected.recv(65536):
        pass


def _drip(connected: socket.socket) -> None:
    connected.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connected.sendall(b"a")
        time.sleep(0.05)


def _continue(connected: socket.socket) -> None:
    while True:
        connected.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def _headers(connected: socket.socket) -> None:
    connected.recv(65536)
    connected.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connected.sendall(b"X: " + b"y" * 60_000 + b"\r\n")


def _garbage(connected: socket.socket) -> None:
    connected.recv(65536)
    connected.sendall(bytes(range(256)) * 100)


def _hang_up(connected: socket.socket) -> None:
    connected.recv(65536)


@pytest.mark.parametrize("talk", [_silent, _drip, _continue, _headers, _garbage, _hang_up])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_server_keeps_a_notifier_waiting_for_ever(talk: Callable[[socket.socket], None], scheme: str) -> None:
    """Silence, single bytes, endless headers, garbage and hang-ups end as unreachable; in TLS's greeting too."""
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    with raw(talk) as port:
        error = failing(f"{scheme}://127.0.0.1:{port}/{CANARY}")
    assert isinstance(error, NotifyUnreachable)
    assert error.retry
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_an_answers_body_is_not_read() -> None:
    """One that never ends does not matter."""

    def endless(connected: socket.socket) -> None:
        connected.recv(65536)
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        while True:
            connected.sendall(b"x" * 65536)

    with raw(endless) as port:
        opened(f"http://127.0.0.1:{port}/", **HOOK).send(notice())


def test_a_self_signed_certificate_is_refused_until_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a trusted one for another name is refused as well."""
    pem = certificate(tmp_path)
    with listening(server_context(pem)) as server:
        error = failing(server.url(f"/{CANARY}", "localhost"))
        assert isinstance(error, NotifyUnreachable)
        assert "certificate" in error.message
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        opened(server.url("/", "localhost"), **HOOK).send(notice())
        opened(server.url("/", ELSEWHERE), **HOOK).send(notice())
        assert "certificate" in failing(server.url("/", "127.0.0.1")).message
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "url",
    [
        f"http://ops.example.com/{CANARY}",
        f"http://{ELSEWHERE}/{CANARY}",
        f"ftp://127.0.0.1/{CANARY}",
        f"https:///{CANARY}",
        f"https://127.0.0.1:port/{CANARY}",
        f"https://[{CANARY}",
        f"https://a/{CANARY} b",
        f"https://a/{CANARY}\nHost: b",
        f"https://a/{CANARY}ü",
        CANARY,
        "",
    ],
)
def test_only_https_urls_are_taken(url: str) -> None:
    """Plain HTTP is for this machine; nothing of the secret is quoted."""
    for kind in ("webhook", "slack", "ping"):
        with pytest.raises(UsageError) as caught:
            opened(url, **{kind: "env:URL"}).send(notice())
        assert CANARY not in said(caught.value)
        assert "env:URL" in caught.value.message


def test_credentials_in_a_url_become_a_header() -> None:
    """And do not stay in the path."""
    with listening() as server:
        opened(f"http://us%40er:p%3Aw@127.0.0.1:{server.port}/x?a=1#f", **HOOK).send(notice())
    assert server.asked[0].headers["Authorization"] == "Basic dXNAZXI6cDp3"
    assert server.asked[0].path == "/x?a=1"


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Also where the headers of an answer cannot be read, which urllib3 would tell together with the URL."""

    def odd(connected: socket.socket) -> None:
        connected.recv(65536)
        connected.sendall(b"HTTP/1.1 200 OK\r\n: nameless\r\nContent-Length: 0\r\n\r\n")

    caplog.set_level(logging.DEBUG)
    with raw(odd) as port, listening() as server:
        opened(f"http://127.0.0.1:{port}/{CANARY}", **HOOK).send(notice())
        notifier = opened(server.url(f"/{CANARY}"), **HOOK)
        notifier.send(notice())
    assert CANARY not in caplog.text + repr(notifier)
    assert CANARY not in repr(address_of(notifier.url))  # type: ignore[attr-defined]


def test_a_proxy_is_used_where_the_environment_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By CONNECT, with its login; never for this machine's own addresses nor for names that are excepted."""
    pem = certificate(tmp_path)
    asked: list[bytes] = []
    with listening(server_context(pem)) as server:

        def tunnel(connected: socket.socket) -> None:
            asked.append(connected.recv(65536))
            with socket.create_connection(("127.0.0.1", server.port)) as there:
                connected.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                back = threading.Thread(target=_pass_on, args=(there, connected))
                back.start()
                _pass_on(connected, there)
                back.join()

        with raw(tunnel) as port:
            monkeypatch.setenv("SSL_CERT_FILE", str(pem))
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:{CANARY}@127.0.0.1:{port}")
            opened("https://ops.example.com/x", **HOOK).send(notice())
            opened(server.url("/y", "localhost"), **HOOK).send(notice())
            monkeypatch.setenv("NO_PROXY", "ops.example.com")
            assert proxy_for("ops.example.com") is None
            monkeypatch.setenv("NO_PROXY", "")
            monkeypatch.setenv("HTTPS_PROXY", f"socks5://{CANARY}")
            with pytest.raises(UsageError) as caught:
                opened("https://ops.example.com/x", **HOOK).send(notice())
    assert CANARY not in said(caught.value)
    assert [request.path for request in server.asked] == ["/x", "/y"]
    assert len(asked) == 1
    assert asked[0].startswith(b"CONNECT ops.example.com:443 HTTP/1.")
    assert b"Proxy-Authorization: Basic " in asked[0]


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_a_refusing_proxy_is_unreachable_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer may hold anything."""

    def refuse(connected: socket.socket) -> None:
        connected.recv(65536)
        connected.sendall(f"HTTP/1.0 407 {CANARY}\r\n\r\n".encode())

    with raw(refuse) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        assert isinstance(failing("https://ops.example.com/x"), NotifyUnreachable)


def test_the_limits_of_the_library_hold() -> None:
    """What the bounds lean on: http.client's own on headers and their lines, and verification in a default context."""
    assert http.client._MAXLINE == 65536
    assert http.client._MAXHEADERS == 100
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
