"""Clocks, policies and processes that do as they are told, for the tests of the daemon's parts."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from backupd.catalog.opening import Catalog
from backupd.catalog.queue import Claim, JobSpec
from backupd.daemon.books import Books
from backupd.daemon.child import Ended
from backupd.daemon.logs import Logger, configure
from backupd.daemon.workers import Command
from backupd.errors import BackupdError
from backupd.notify.base import Notice
from backupd.policy.model import Policy

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
REPOSITORY, WRITER = "aa" * 16, "bb" * 16


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def policy(name: str = "crm", *sources: str, **more: Any) -> Policy:
    """A policy with these sources (one called `db` if none is named), which a host with all keys has."""
    values: dict[str, Any] = {
        "policy": name,
        "sources": [{"name": source, "url": f"/data/{n}.db"} for n, source in enumerate(sources or ("db",))],
        "repository": {"url": "/backup/repo"},
        "keys": {role: f"file:/keys/{role}.key" for role in ("write", "check", "prune", "read")},
        "schedule": {"cron": "30 2 * * *"},
    }
    return Policy.model_validate({**values, **more})


def spec(key: str = "job", **values: Any) -> JobSpec:
    """A job; its lock is its own unless one is given."""
    return JobSpec(**{"kind": "run", "policy": "crm", "source": "db", "lock": key, **values}, key=key)


def document(**values: Any) -> dict[str, Any]:
    """What a run prints."""
    return {
        "schema": "backupctl/run/1",
        "ok": True,
        "snapshot": "cc" * 32,
        "source": "db",
        "writer": WRITER,
        "seq": 7,
        "taken_at": "2026-03-01T02:30:05Z",
        "repository": REPOSITORY,
        "read_bytes": 1000,
        "stored_bytes": 100,
        "rows": 42,
        "seconds": 3.5,
        "warnings": [],
        "dry_run": False,
        "brake": [],
        **values,
    }


class Ticks:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def quiet() -> tuple[Logger, io.StringIO]:
    """A logger, and what it wrote."""
    out = io.StringIO()
    return configure(verbose=True, journal=False, out=out), out


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    """The events of a log."""
    return [json.loads(line) for line in out.getvalue().splitlines()]


@dataclass
class FakeChild:
    """A process that ends when it is told to, or as `ending` says once it is stopped."""

    command: Command
    pid: int = 4711
    end: Ended | None = None
    said: list[str] = field(default_factory=list)
    stops: list[bool] = field(default_factory=list)
    obeys: bool = True
    closed: bool = False

    @property
    def messages(self) -> int | None:
        return None

    def read_messages(self) -> list[str]:
        said, self.said = self.said, []
        return said

    def ended(self) -> Ended | None:
        return self.end

    def stop(self, *, hard: bool = False) -> None:
        self.stops.append(hard)
        if hard or self.obeys:
            self.end = self.end or Ended(137 if hard else 143, None)

    def close(self) -> list[str]:
        self.closed = True
        return self.read_messages()


@dataclass
class FakeBooks:
    """Remembers what it was told; raises `trouble` instead, while there is any."""

    queue: Any
    log: list[tuple[str, str, int, str]] = field(default_factory=list)
    trouble: BackupdError | None = None

    def begun(self, claim: Claim, now: datetime) -> None:
        self.log.append(("begun", claim.spec.key, 0, ""))

    def ended(self, claim: Claim, ended: Ended, now: datetime, why: str) -> None:
        if self.trouble:
            raise self.trouble
        self.log.append(("ended", claim.spec.key, ended.code, why))
        self.queue.finish(claim, now, "done" if ended.code == 0 else "failed")

    def refused(self, claim: Claim, error: BackupdError, now: datetime) -> None:
        self.log.append(("refused", claim.spec.key, int(error.exit), error.message))
        self.queue.fail(claim, now, error.message)


@dataclass
class Told:
    """Notices that were told, with their policies."""

    notices: list[tuple[str, Notice]] = field(default_factory=list)

    def __call__(self, about: Policy, notice: Notice) -> None:
        self.notices.append((about.policy, notice))

    def take(self) -> list[tuple[str, bool]]:
        """The events since the last call, and whether each is resolved; starts are left out."""
        found = [(notice.event, notice.resolved) for _, notice in self.notices if not notice.started]
        self.notices.clear()
        return found


def command_of(arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Command:
    return Command(arguments, environment or {})


class Office:
    """Books over a real catalog, with one policy in force."""

    def __init__(self, catalog: Catalog, **more: Any) -> None:
        self.catalog, self.told, self.ending = catalog, Told(), False
        self.policy: Policy | None = policy("crm", "db", **more)
        self.books = Books(catalog, lambda name: self.policy, self.told, lambda: self.ending)

    def claim(self, key: str = "job", **values: Any) -> Claim:
        assert self.catalog.queue.submit(spec(key, **values), NOW)
        return self.again()

    def again(self, seconds: float = 0) -> Claim:
        claim = self.catalog.queue.claim("w", later(seconds), 120)
        assert claim is not None
        self.books.begun(claim, later(seconds))
        return claim

    def end(
        self, claim: Claim, code: int, printed: dict[str, Any] | None = None, seconds: float = 5, why: str = ""
    ) -> None:
        self.books.ended(claim, Ended(code, printed), later(seconds), why)

    def state(self) -> str:
        (job,) = self.catalog.queue.list()
        return job.state

    def outcome(self) -> str:
        run = self.catalog.runs.list()[0]
        assert run.end is not None
        return run.end.outcome

    def alerts(self) -> list[tuple[str, str | None]]:
        return [(alert.event, alert.source) for alert in self.catalog.alerts.list_open()]

    def everything(self) -> str:
        """All that the catalog holds and people were told, as text."""
        c = self.catalog
        rows = [c.queue.list(), c.runs.list(), c.snapshots.list(), c.alerts.list(), c.outbox.list(), c.audit.newest()]
        return f"{rows} {self.told.notices}"
