"""What is served: the same answers, refusals and headers by both servers, over real sockets."""

import base64
import http.client
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from fastapi.testclient import TestClient

from backupd.daemon.answers import Fresh
from backupd.daemon.gate import Gate, is_loopback
from backupd.daemon.metrics import exposition
from backupd.daemon.overview import Health, Overview
from backupd.daemon.serving import Place, Served, serve
from backupd.daemon.web import make_app
from backupd.errors import Exit, Failed, StorageRefused, TryAgain, UsageError
from tests.unit.daemon import samples

TOKEN = "correct-horse-battery"
SCRAPE = "only-for-the-metrics"
WELL = Health(alive=True, ready=True)
Carrier = Literal["page", "plain"]


@pytest.fixture(params=["page", "plain"])
def carrier(request: pytest.FixtureRequest) -> Carrier:
    found: Carrier = request.param
    return found


@contextmanager
def served(
    carrier: Carrier,
    place: Place | None = None,
    overview: Callable[[], Overview] = samples.well,
    health: Callable[[], Health] = lambda: WELL,
) -> Iterator[Served]:
    """A server on a free port, or where it is said."""
    server = serve(overview, health, place or Place(), carrier=carrier)
    try:
        yield server
    finally:
        server.close()
        assert not server.alive


class Reply:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.body = response.status, response.read()
        self.headers = {name.lower(): value for name, value in response.getheaders()}


def ask(server: Served, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
    host, port = server.url.removeprefix("http://").removesuffix("/").rsplit(":", 1)
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers)
        return Reply(connection.getresponse())
    finally:
        connection.close()


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_each_address_answers(carrier: Carrier) -> None:
    """Health, readiness, metrics, the document, and the page where the extra is there."""
    with served(carrier) as server:
        assert (ask(server, "/health").status, ask(server, "/health").body) == (200, b"ok\n")
        assert (ask(server, "/ready").status, ask(server, "/ready").body) == (200, b"ok\n")
        metrics = ask(server, "/metrics")
        assert metrics.body == exposition(samples.well())
        assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        document = json.loads(ask(server, "/api/status").body)
        assert (document["verdict"], document["sentence"]) == ("ok", samples.well().sentence)
        assert set(document["sources"][0]) >= {
            *("name", "policy", "verdict", "rpo_seconds", "rpo_used", "last_good", "next_run", "drilled_at"),
            *("locked_until", "days", "why"),
        }
        assert document["sources"][0]["last_good"] == "2026-11-27T15:42:12Z"
        assert document["sources"][0]["days"] == [1] * 30
        page = ask(server, "/")
        if carrier == "page":
            assert page.status == 200
            assert b"All is well: 3 sources" in page.body
        else:
            assert page.status == 501
            assert b"pip install 'backupd[web]'" in page.body
        assert ask(server, "/nothing").status == 404
        for path in ("/docs", "/redoc", "/openapi.json", "/health/"):
            assert ask(server, path).status == 404


@pytest.mark.parametrize(
    ("health", "alive", "ready", "word"),
    [
        (Health(alive=True, ready=False, word="starting"), 200, 503, b"starting\n"),
        (Health(alive=True, ready=False, word="draining"), 200, 503, b"draining\n"),
        (Health(alive=False, ready=True, word="stalled"), 503, 503, b"stalled\n"),
    ],
)
def test_health_and_readiness_say_why_not(
    carrier: Carrier, health: Health, alive: int, ready: int, word: bytes
) -> None:
    """Also when there is no overview to be had."""

    def broken() -> Overview:
        raise StorageRefused("the catalog is gone")

    with served(carrier, overview=broken, health=lambda: health) as server:
        assert ask(server, "/health").status == alive
        assert (ask(server, "/ready").status, ask(server, "/ready").body) == (ready, word)


def test_health_comes_while_everybody_waits_for_the_catalog(carrier: Carrier) -> None:
    """More requests than there are threads hang on an overview; the daemon's own state is told all the same."""
    hanging, go = threading.Event(), threading.Event()

    def slow() -> Overview:
        hanging.set()
        assert go.wait(60)
        return samples.well()

    count = 60 if carrier == "page" else 20
    statuses: list[int] = []
    with served(carrier, overview=slow) as server:
        askers = [
            threading.Thread(target=lambda: statuses.append(ask(server, "/metrics").status)) for _ in range(count)
        ]
        for asker in askers:
            asker.start()
        assert hanging.wait(30)
        assert ask(server, "/health").status == 200
        go.set()
        for asker in askers:
            asker.join()
    assert statuses == [200] * count


def test_a_catalog_that_hangs_is_told_after_a_while() -> None:
    """Those behind the first do not wait for ever."""
    go = threading.Event()
    fresh = Fresh(lambda: samples.well() if go.wait(60) else samples.empty(), patience=0.01)
    first = threading.Thread(target=fresh)
    first.start()
    while not fresh._lock.locked():
        pass
    with pytest.raises(TryAgain, match="does not answer"):
        fresh()
    go.set()
    first.join()
    assert fresh().verdict == "ok"


def test_what_goes_wrong_is_said_without_its_details(carrier: Carrier, caplog: pytest.LogCaptureFixture) -> None:
    """An expected failure by its sentence, an unexpected one by its place in the log, never by a driver's words."""
    errors: list[Exception] = [StorageRefused("the catalog is locked"), ValueError("secret-row-4711")]

    def broken() -> Overview:
        raise errors.pop(0)

    with caplog.at_level(logging.WARNING), served(carrier, overview=broken) as server:
        first, second = ask(server, "/metrics"), ask(server, "/metrics")
    assert (first.status, first.body) == (503, b"The status cannot be told: the catalog is locked.\n")
    assert second.status == 500
    assert b"secret-row" not in second.body
    assert second.headers["content-security-policy"]
    assert "ValueError" in caplog.text
    assert "secret-row" not in caplog.text


def test_nothing_but_reading_is_taken(carrier: Carrier) -> None:
    """Other methods and bodies are refused; HEAD has the headers and no body."""
    with served(carrier) as server:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            reply = ask(server, "/", method)
            assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert ask(server, "/health", body=b"x").status == 413
        head = ask(server, "/metrics", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) == len(exposition(samples.well()))
        assert ask(server, "/health?" + "x" * 3000).status == 414


def test_every_answer_carries_the_headers_that_protect(carrier: Carrier) -> None:
    """Answers and refusals alike; none allows another origin, and none names the server's software."""
    with served(carrier) as server:
        replies = [ask(server, path) for path in ("/", "/health", "/metrics", "/api/status", "/nothing")]
        replies += [ask(server, "/", "POST"), ask(server, "/", Host="evil.example")]
    for reply in replies:
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["x-frame-options"] == "DENY"
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "set-cookie" not in reply.headers
        assert not any(name.startswith("access-control") for name in reply.headers)
        assert "uvicorn" not in str(reply.headers).lower()
        assert "python" not in str(reply.headers).lower()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9999", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:80", 200),
        ("backup.example", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_without_a_token_only_names_of_this_machine_are_served(carrier: Carrier, host: str, status: int) -> None:
    """A page of somebody else's that points its own name at 127.0.0.1 reads nothing."""
    with served(carrier, Place(names=("backup.example",))) as server:
        assert ask(server, "/api/status", Host=host).status == status


def test_a_token_opens_as_bearer_and_as_password(carrier: Carrier) -> None:
    """Everything but health and readiness needs it, and the address is no place for it."""
    with served(carrier, Place(token=TOKEN)) as server:
        for path in ("/health", "/ready"):
            assert ask(server, path, Host="10.0.0.7:8080").status == 200
        for path in ("/", "/metrics", "/api/status", "/nothing", f"/?token={TOKEN}"):
            refused = ask(server, path)
            assert refused.status == 401
            assert refused.headers["www-authenticate"].startswith("Basic ")
            assert b"3 sources" not in refused.body
        for header in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(TOKEN)):
            assert ask(server, "/api/status", Authorization=header, Host="backup.example").status == 200
        wrong = (
            TOKEN,
            "Bearer",
            "Bearer ",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            basic("no"),
            basic(""),
            "Basic !!",
        )
        for header in (*wrong, "Basic " + base64.b64encode(TOKEN.encode()).decode(), "Bearer \xff"):
            assert ask(server, "/api/status", Authorization=header).status == 401


def test_the_token_for_metrics_opens_nothing_else(carrier: Carrier) -> None:
    """So that a scraper's configuration does not hold the key of the page."""
    with served(carrier, Place(token=TOKEN, metrics_token=SCRAPE)) as server:
        assert ask(server, "/metrics", Authorization=f"Bearer {SCRAPE}").status == 200
        assert ask(server, "/metrics", Authorization=f"Bearer {TOKEN}").status == 200
        assert ask(server, "/", Authorization=f"Bearer {SCRAPE}").status == 401


@pytest.mark.parametrize("host", ["x/api/status?", "x/metrics#", "x/metrics?a="])
def test_a_host_header_cannot_smuggle_another_path_past_the_gate(carrier: Carrier, host: str) -> None:
    """What is open stays itself, whatever address the header makes of it."""
    with served(carrier, Place(token=TOKEN)) as server:
        reply = ask(server, "/health", Host=host)
        assert (reply.status == 400) or (reply.body == b"ok\n")
        assert ask(server, "/metrics", Host="x/health?").status in (400, 401)


def test_encoded_and_absolute_addresses_pass_the_same_gate(carrier: Carrier) -> None:
    """No spelling of a closed address is open."""
    with served(carrier, Place(token=TOKEN)) as server:
        for path in (
            "/%6detrics",
            "/health/../metrics",
            "/health/%2e%2e/metrics",
            "/metrics?/health",
            "/health%2f..%2fmetrics",
        ):
            assert ask(server, path).status in (401, 404)
        assert ask(server, "http://localhost/metrics").status in (400, 401, 404)


def test_heads_beyond_bounds_are_cut_off(carrier: Carrier) -> None:
    """A hundred kilobytes of headers are not read to their end."""
    with served(carrier) as server:
        try:
            assert ask(server, "/health", **{f"X-{n}": "y" * 4000 for n in range(40)}).status in (400, 431)
        except (ConnectionError, http.client.HTTPException):
            assert ask(server, "/health").status == 200


def test_garbage_does_not_end_the_server(carrier: Carrier) -> None:
    """It answers the next one."""
    with served(carrier) as server:
        host, port = server.url.removeprefix("http://").removesuffix("/").rsplit(":", 1)
        for garbage in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b""):
            with socket.create_connection((host, int(port)), timeout=10) as raw:
                raw.sendall(garbage)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(4096):
                    pass
        assert ask(server, "/health").status == 200


def test_a_unix_socket_serves_its_owner_only(carrier: Carrier, tmp_path: Path) -> None:
    """Its file is private, and it takes the place of one that a killed daemon left behind."""
    path = tmp_path / "web"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with served(carrier, Place(unix=path)) as server:
        assert server.url == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(10)
            raw.connect(str(path))
            raw.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            data = b""
            while more := raw.recv(4096):
                data += more
        assert data.split()[1] == b"200"
    assert not path.exists()


def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    """It is not ours."""
    path = tmp_path / "web"
    path.write_text("precious")
    with pytest.raises(Failed, match="cannot listen"):
        serve(samples.well, lambda: WELL, Place(unix=path))
    assert path.read_text() == "precious"


def test_a_port_that_is_taken_is_a_clear_error(carrier: Carrier) -> None:
    """With the address, and another way."""
    with served(carrier) as server:
        port = int(server.url.removesuffix("/").rsplit(":", 1)[1])
        with pytest.raises(Failed, match="cannot listen") as caught:
            serve(samples.well, lambda: WELL, Place(port=port), carrier=carrier)
    assert caught.value.object_name == f"127.0.0.1:{port}"
    assert "0 for any" in str(caught.value.hint)


def test_an_address_that_is_none_is_a_clear_error() -> None:
    """Names that resolve to nothing, and ports past the last."""
    with pytest.raises(Failed, match="cannot listen"):
        serve(samples.well, lambda: WELL, Place(host="no.such.host.invalid", token=TOKEN))
    for port in (-1, 65_536, 99_999):
        with pytest.raises(UsageError, match="there is no port"):
            serve(samples.well, lambda: WELL, Place(port=port))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "backup.example", "", "127.0.0.1.example"])
def test_away_from_this_machine_a_token_is_needed(host: str) -> None:
    """Refused before anything listens."""
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="needs a token"):
        serve(samples.well, lambda: WELL, Place(host=host))


def test_everywhere_with_a_token_is_served(carrier: Carrier) -> None:
    """On all addresses of a machine, one of which is its own."""
    with served(carrier, Place(host="0.0.0.0", token=TOKEN)) as server:
        port = server.url.removesuffix("/").rsplit(":", 1)[1]
        local = Served(f"http://127.0.0.1:{port}/", server.page, server._server, server._thread)
        assert ask(local, "/", Authorization=basic(TOKEN)).status == (200 if carrier == "page" else 501)


def test_tokens_that_protect_nothing_are_refused_and_never_shown() -> None:
    """Short ones, ones that no header can carry, and one for the metrics alone; a gate's text holds none."""
    for token in ("", "short", "with spaces in the token", "ünïcödé-ünïcödé-ünïcödé"):
        with pytest.raises(UsageError) as caught:
            Gate(token)
        assert not token or token not in str(caught.value)
    with pytest.raises(UsageError):
        Gate(None, SCRAPE)
    shown = repr(Gate(TOKEN, SCRAPE)) + repr(Place(token=TOKEN, metrics_token=SCRAPE))
    assert TOKEN not in shown
    assert SCRAPE not in shown


def test_nothing_is_logged_about_requests(
    carrier: Carrier, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither addresses nor tokens, in a log or on a terminal."""
    with caplog.at_level(logging.DEBUG), served(carrier, Place(token=TOKEN)) as server:
        ask(server, "/?canary-address", Authorization=f"Bearer {TOKEN}")
        ask(server, "/canary-address", Authorization="Bearer canary-wrong-token")
    out = "".join(capfd.readouterr()) + caplog.text
    assert "canary" not in out
    assert TOKEN not in out


def test_many_askers_share_one_overview() -> None:
    """However many ask within its time, it is made once; later anew."""
    made: list[int] = []

    def make() -> Overview:
        made.append(1)
        return samples.well()

    fresh = Fresh(make, seconds=3600)
    threads = [threading.Thread(target=fresh) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    fresh.seconds = 0
    fresh()
    assert len(made) == 2


def test_the_style_sheet_is_the_one_that_the_policy_names() -> None:
    """A browser computes the hash of what stands between the tags."""
    import hashlib
    import re

    with TestClient(make_app(samples.well, lambda: WELL, token=None), base_url="http://localhost") as client:
        reply = client.get("/")
    style = re.search(r"<style>(.*?)</style>", reply.text, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in reply.headers["content-security-policy"]


def test_an_application_refuses_as_the_server_does() -> None:
    """The factory alone has the gate in it."""
    with TestClient(make_app(samples.well, lambda: WELL, token=TOKEN), base_url="http://localhost") as client:
        assert client.get("/").status_code == 401
        assert client.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


CHILD = """
import signal, sys
if sys.argv[1] == "bare":
    class Gone:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {"fastapi", "starlette", "uvicorn", "jinja2"}:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Gone())
from backupd.daemon.overview import Health
from backupd.daemon.serving import Place, serve
from backupd.errors import UsageError
from tests.unit.daemon import samples
before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
if sys.argv[1] == "bare":
    try:
        serve(samples.well, lambda: Health(True, True), Place(), carrier="page")
    except UsageError as error:
        print(error.exit, error.hint, flush=True)
server = serve(samples.well, lambda: Health(True, True), Place())
assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
def end(*_):
    server.close()
    print("closed", server.alive, flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
print(server.url, server.page, flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("extra", ["bare", "full"])
def test_signals_stay_the_main_threads_and_the_extra_is_optional(extra: str) -> None:
    """A process of its own, with and without the libraries of the extra: it serves, and ends by its own handler."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", CHILD, extra], stdout=subprocess.PIPE, env=env, text=True) as child:
        assert child.stdout
        if extra == "bare":
            assert child.stdout.readline() == f"{Exit.USAGE} pip install 'backupd[web]'\n"
        url, page = child.stdout.readline().split()
        assert page == str(extra == "full")
        server = Served(url, True, None, threading.current_thread())  # type: ignore[arg-type]
        assert ask(server, "/metrics").status == 200
        assert ask(server, "/").status == (200 if extra == "full" else 501)
        child.send_signal(signal.SIGTERM)
        assert child.stdout.read() == "closed False\n"
        assert child.wait(30) == 7
