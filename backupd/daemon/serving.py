"""Listening: an address or a Unix socket, in a thread of its own, so that the main thread keeps the signals.

Away from this machine nothing is served without a token. A port that cannot be had is an error before anything else starts.
"""

import asyncio
import errno
import socket
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from backupd.daemon.answers import Answers, Fresh
from backupd.daemon.gate import Gate, is_loopback
from backupd.daemon.overview import Health, Overview
from backupd.daemon.plainweb import INSTALL, PlainServer, no_page
from backupd.errors import Failed, UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 64
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen, and who may ask.

    Attributes:
        port: 0 takes any that is free.
        unix: a Unix socket instead of host and port; only this user may connect to it.
        token: needed where others than this machine can ask.
        metrics_token: opens `/metrics` only.
        names: further host names under which it is asked without a token (a proxy's).
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix: Path | None = None
    token: str | None = field(default=None, repr=False)
    metrics_token: str | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()


class _Server(Protocol):
    def serve_forever(self) -> None: ...

    def shutdown(self) -> None: ...


@dataclass(slots=True)
class Served:
    """A server at work.

    Attributes:
        url: where it is, as a browser takes it (for a Unix socket its path).
        page: the status page is served, and not only what needs no extra.
    """

    url: str
    page: bool
    _server: _Server
    _thread: threading.Thread
    _unix: Path | None = None

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop serving; requests under way get a moment to end."""
        self._server.shutdown()
        self._thread.join(_END_SECONDS)
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)


def serve(
    overview: Callable[[], Overview],
    health: Callable[[], Health],
    place: Place,
    *,
    carrier: Literal["auto", "page", "plain"] = "auto",
) -> Served:
    """Begin to serve.

    Args:
        overview: see `web.make_app`.
        health: the same.
        carrier: "page" insists on the extra `web`; "plain" goes without it; "auto" takes what there is.

    Raises:
        UsageError: no token where one is needed, a token or port that is no good, or no extra where it is insisted on.
        Failed: the address cannot be had.
    """
    if place.unix is None and place.token is None and not is_loopback(place.host):
        raise UsageError(
            f"a status page on {place.host} can be read by others: it needs a token",
            hint="give a token, or listen on 127.0.0.1",
        )
    if not 0 <= place.port <= 65535:  # the system's resolver would take 99999 for 34463
        raise UsageError(f"there is no port {place.port}", hint="0 takes any that is free; the last is 65535")
    gate = Gate(place.token, place.metrics_token, frozenset(place.names))
    app = None if carrier == "plain" else _app(overview, health, place, insist=carrier == "page")
    listening = _listen(place)
    try:
        server: _Server
        if app is None:
            server = PlainServer(listening, Answers(Fresh(overview), health, no_page), gate)
        else:
            server = _Uvicorn(app, listening)
        thread = threading.Thread(target=server.serve_forever, name="web", daemon=True)
        thread.start()
    except BaseException:
        listening.close()
        raise
    return Served(_url(listening, place), app is not None, server, thread, place.unix)


def _app(
    overview: Callable[[], Overview], health: Callable[[], Health], place: Place, *, insist: bool
) -> "FastAPI | None":
    try:
        import uvicorn  # noqa: F401  # its absence must be known before the port is taken

        from backupd.daemon.web import make_app
    except ImportError as error:
        if insist:
            raise UsageError(f"the status page needs {error.name or 'a library'}", hint=INSTALL) from None
        return None
    return make_app(overview, health, token=place.token, metrics_token=place.metrics_token, names=place.names)


def _listen(place: Place) -> socket.socket:
    try:
        return _listen_unix(place.unix) if place.unix is not None else _listen_inet(place.host, place.port)
    except OSError as error:
        where = str(place.unix) if place.unix is not None else f"{place.host}:{place.port}"
        taken = error.errno == errno.EADDRINUSE
        raise Failed(
            f"the status page cannot listen: {error.strerror or error}",
            object_name=where,
            hint="another program has this port: take another, or 0 for any"
            if taken
            else "check the address and the rights",
        ) from error


def _listen_inet(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _listen_unix(path: Path) -> socket.socket:
    if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
        path.unlink()  # left by a daemon that was killed: two of one state folder cannot run
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)  # before listen: nobody is let in earlier
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _url(listening: socket.socket, place: Place) -> str:
    if place.unix is not None:
        return str(place.unix)
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Uvicorn:
    """uvicorn on a socket that listens already, in any thread, with nothing that ticks while nobody asks."""

    def __init__(self, app: "FastAPI", listening: socket.socket) -> None:
        self._app, self._listening = app, listening
        self._loop: asyncio.AbstractEventLoop | None = None
        self._up = threading.Event()
        self._over: asyncio.Event | None = None

    def serve_forever(self) -> None:
        """Until `shutdown`."""
        try:
            asyncio.run(self._serve())
        finally:
            self._up.set()

    async def _serve(self) -> None:
        from backupd.daemon.patience import quiet_server

        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._up.set()
        await quiet_server(self._app, self._over).serve(sockets=[self._listening])

    def shutdown(self) -> None:
        """Have it end; does not wait."""
        self._up.wait(_END_SECONDS)
        if self._loop is not None and self._over is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._over.set)
