"""The status page, health and metrics over HTTP: FastAPI carries the answers, the gate stands before it. Read only.

There is no documentation endpoint, no cookie, no form, no cross-origin permission and no access log. Needs the extra `web`;
without it `plainweb` gives the same answers, all but the page.
"""

from collections.abc import Callable, Iterable

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backupd.daemon.answers import PATHS, Answers, Fresh
from backupd.daemon.gate import OPEN, Answer, Gate
from backupd.daemon.overview import Health, Overview
from backupd.daemon.page import answer as page


def make_app(
    overview: Callable[[], Overview],
    health: Callable[[], Health],
    *,
    token: str | None,
    metrics_token: str | None = None,
    names: Iterable[str] = (),
) -> FastAPI:
    """The application.

    Args:
        overview: makes a new one; called from other threads, one call at a time, and at most once a second.
        health: the state of the daemon itself; called from other threads, must not wait for anything.
        token: see `Gate`.
        metrics_token: opens `/metrics` only.
        names: further host names under which it is asked without a token.

    Raises:
        UsageError: a token is no good.
    """
    answers = Answers(Fresh(overview), health, page)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    def reply(request: Request) -> Response:
        # not request.url: that is put together with the Host header, which may hold another path than the gate has seen
        return _response(answers.to(request.scope["path"], request.scope["query_string"].decode("latin-1")))

    async def reply_at_once(request: Request) -> Response:
        return reply(request)

    for path in PATHS:  # in threads: an overview may take its time
        app.add_api_route(path, reply, methods=["GET", "HEAD"], response_model=None)
    for path in OPEN:  # in none, for all of them may be waiting for an overview
        app.add_api_route(path, reply_at_once, methods=["GET", "HEAD"], response_model=None)
    app.add_middleware(_Gated, gate=Gate(token, metrics_token, frozenset(names)))
    return app


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers()))


class _Gated:
    """Lets a request in or answers it itself, and sees to it that every answer carries the headers that all must have."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        target = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
        if refused := self._gate.refusal(scope["method"], target, headers):
            await _response(refused)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                usual = [(n.lower().encode(), v.encode()) for n, v in Answer(200, b"").headers()]
                message["headers"] = [*message["headers"], *(pair for pair in usual if pair[0] not in there)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
