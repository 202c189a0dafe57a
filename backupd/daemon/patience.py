"""uvicorn as a daemon needs it: it sleeps while nobody asks, and has no patience with connections that only wait.

It installs no signal handlers (it never runs in the main thread) and leaves the logging of the process alone.
"""

import asyncio
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from fastapi import FastAPI

CONNECTIONS = 128
HEAD_BYTES = 16_384
FIRST_SECONDS, WHOLE_SECONDS, IDLE_SECONDS, END_SECONDS = 10.0, 60.0, 5, 2


class Impatient(H11Protocol):
    """A connection that must ask soon, and end some time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base has it
        """The clock starts."""
        super().connection_made(transport)
        self._timers = [
            self.loop.call_later(FIRST_SECONDS, self._nothing_yet),
            self.loop.call_later(WHOLE_SECONDS, transport.abort),
        ]

    def connection_lost(self, exc: Exception | None) -> None:
        """The clock stops."""
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def _nothing_yet(self) -> None:
        if self.cycle is None:
            self.transport.abort()


class QuietServer(uvicorn.Server):
    """Waits for an event instead of looking ten times a second whether it should end."""

    def __init__(self, config: uvicorn.Config, over: asyncio.Event) -> None:
        super().__init__(config)
        self._over = over

    async def main_loop(self) -> None:
        """Until the event."""
        await self._over.wait()


def quiet_server(app: "FastAPI", over: asyncio.Event) -> QuietServer:
    """A server for one application, which ends when the event is set."""
    return QuietServer(
        uvicorn.Config(
            app,
            http=Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=END_SECONDS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        ),
        over,
    )
