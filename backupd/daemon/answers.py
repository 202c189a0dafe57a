"""What the daemon answers to each address. Reads the overview and nothing else; starts nothing, changes nothing.

An answer about the daemon itself (`/health`, `/ready`) never needs the overview: it must come when the catalog does not.
"""

import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backupd.config.clock import stamp
from backupd.daemon.gate import OPEN, Answer, said
from backupd.daemon.overview import Health, Overview, SourceView
from backupd.errors import BackupdError, TryAgain

PATHS = ("/", "/api/status", "/metrics")
"""What an overview is made for; `/health` and `/ready` are answered besides."""
FRESH_SECONDS = 1.0
Page = Callable[[Overview, str], Answer]
"""Draws an overview; the string is the query of the address."""
_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Fresh:
    """An overview that is made at most once a second, however many ask."""

    make: Callable[[], Overview]
    seconds: float = FRESH_SECONDS
    patience: float = 10.0
    _last: Overview | None = None
    _made: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> Overview:
        """As new as that.

        Raises:
            TryAgain: another one is being made, and takes too long.
        """
        if not self._lock.acquire(timeout=self.patience):
            raise TryAgain("the catalog does not answer")
        try:
            if self._last is None or time.monotonic() - self._made >= self.seconds:
                self._last = self.make()
                self._made = time.monotonic()
            return self._last
        finally:
            self._lock.release()


@dataclass(frozen=True, slots=True)
class Answers:
    """Every address that is served. For several threads at once."""

    overview: Callable[[], Overview]
    health: Callable[[], Health]
    page: Page

    def to(self, path: str, query: str = "") -> Answer:
        """The answer to a request that was let in.

        Whatever goes wrong on the way is an answer too: a page that is silent looks like a daemon that is gone.
        """
        try:
            return self._to(path, query)
        except BackupdError as error:
            _LOG.warning("%s cannot be answered: %s", path, error.message)
            return said(503, f"The status cannot be told: {error.message}.")
        except Exception as error:  # noqa: BLE001  # a request's edge
            # not the message: what drivers say quotes values
            where = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("%s cannot be answered: %s\n%s", path, type(error).__name__, where)
            return said(500, "The status cannot be told: backupd's log says why.")

    def _to(self, path: str, query: str) -> Answer:
        if path in OPEN:
            health = self.health()
            fine = health.alive and (health.ready or path == "/health")
            return said(200, "ok") if fine else said(503, health.word)
        if path == "/metrics":
            from backupd.daemon.metrics import CONTENT_TYPE, exposition

            return Answer(200, exposition(self.overview()), CONTENT_TYPE)
        if path == "/api/status":
            return Answer(200, json.dumps(document(self.overview())).encode(), "application/json")
        if path == "/":
            return self.page(self.overview(), query)
        return said(404, "nothing is here")


def document(overview: Overview) -> dict[str, Any]:
    """As `backupctl status --json` writes it, with what only a daemon knows."""
    return {
        "schema": "backupctl/status/1",
        "ok": overview.verdict != "breach",
        "at": stamp(overview.at),
        "state": overview.state,
        "verdict": overview.verdict,
        "sentence": overview.sentence,
        "sources": [_source(source) for source in overview.sources],
    }


def _source(source: SourceView) -> dict[str, Any]:
    return {
        "name": source.name,
        "policy": source.policy,
        "verdict": source.verdict,
        "rpo_seconds": int(source.rpo_seconds) if source.rpo_seconds is not None else None,
        "rpo_used": round(source.rpo_used, 4) if source.rpo_used is not None else None,
        "last_good": stamp(source.last_good) if source.last_good else None,
        "next_run": stamp(source.next_run) if source.next_run else None,
        "drilled_at": stamp(source.drilled_at) if source.drilled_at else None,
        "locked_until": stamp(source.locked_until) if source.locked_until else None,
        "days": [day.snapshots for day in source.days],
        "day_states": [day.state for day in source.days],
        "why": list(source.why),
    }
