"""What ran, when, and how it ended. Messages are sentences without data."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, delete, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from backupd.catalog.database import Database
from backupd.catalog.newest import fields_of, newest_few, newest_of
from backupd.catalog.tables import runs
from backupd.catalog.totals import remember

_SOURCE = ("policy", "source")


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended.

    Attributes:
        outcome: done, failed, incomplete, cancelled or lost.
        error_code: the error's word, as in the JSON documents.
        error_exit: its exit code.
        error_message: its sentence.
        snapshot: the id of the snapshot that it made.
        seconds: how long the work took.
        warnings: how many there were.
    """

    outcome: str
    error_code: str | None = None
    error_exit: int | None = None
    error_message: str | None = None
    snapshot: str | None = None
    read_bytes: int | None = None
    stored_bytes: int | None = None
    rows: int | None = None
    seconds: float | None = None
    warnings: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at one job; `ended` and `end` are None while it runs."""

    id: int
    policy: str
    source: str | None
    kind: str
    job: str | None
    attempt: int
    started: datetime
    ended: datetime | None
    end: RunEnd | None


class Runs:
    """The table of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self, policy: str, source: str | None, kind: str, now: datetime, *, job: str | None = None, attempt: int = 1
    ) -> int:
        """A run begins; returns its id. The same attempt of the same job is one run, however often it is told."""
        values = {"policy": policy, "source": source or "", "kind": kind, "job": job, "attempt": attempt}
        with self._database.write() as connection:
            if job is not None:
                same = select(runs.c.id).where(runs.c.job == job, runs.c.attempt == attempt)
                if (known := connection.execute(same).scalar()) is not None:
                    return int(known)
            made = connection.execute(insert(runs).values(**values, started=now, warnings=0))
            assert made.inserted_primary_key is not None
            return int(made.inserted_primary_key[0])

    def finish(self, run: int, now: datetime, end: RunEnd) -> bool:
        """A run ends; False if it had ended already (then nothing changes) or is not known."""
        return self._end(runs.c.id == run, now, end)

    def lose(self, job: str, attempt: int, now: datetime) -> bool:
        """The run of an attempt whose worker is gone ends as lost; False if it had ended, or never began."""
        return self._end(and_(runs.c.job == job, runs.c.attempt == attempt), now, RunEnd("lost"))

    def get(self, run: int) -> Run | None:
        """One run."""
        with self._database.read() as connection:
            row = connection.execute(select(runs).where(runs.c.id == run)).first()
        return None if row is None else _run(row)

    def list(
        self,
        *,
        policy: str | None = None,
        source: str | None = None,
        kinds: Collection[str] | None = None,
        outcomes: Collection[str] | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[Run]:
        """Runs, those that began last first."""
        query = select(runs).order_by(runs.c.started.desc(), runs.c.id.desc()).limit(limit)
        if policy is not None:
            query = query.where(runs.c.policy == policy)
        if source is not None:
            query = query.where(runs.c.source == source)
        if kinds is not None:
            query = query.where(runs.c.kind.in_(kinds))
        if outcomes is not None:
            query = query.where(runs.c.outcome.in_(outcomes))
        if since is not None:
            query = query.where(runs.c.started >= since)
        return self._runs(query)

    def last_good(self, kind: str = "run") -> dict[tuple[str, str | None], Run]:
        """Of each policy and source the newest run of this kind that is done."""
        query = newest_of(runs, _SOURCE, "started", {"kind": kind, "outcome": "done"})
        return {(run.policy, run.source): run for run in self._runs(query)}

    def last(self, count: int, kind: str = "run") -> Mapping[tuple[str, str | None], Sequence[Run]]:
        """Of each policy and source the newest runs of this kind, newest first; at most so many each."""
        found: dict[tuple[str, str | None], list[Run]] = {}
        for run in self._runs(newest_few(runs, _SOURCE, "started", count, {"kind": kind})):
            found.setdefault((run.policy, run.source), []).append(run)
        return found

    def unfinished(self) -> Sequence[Run]:
        """Runs that have not ended: those at work, and those whose worker is gone."""
        return self._runs(select(runs).where(runs.c.ended.is_(None)).order_by(runs.c.started, runs.c.id))

    def purge(self, before: datetime) -> int:
        """Forget runs that ended before then, but not the newest good one of each policy, source and kind, nor their sums."""
        good = newest_of(runs, ("kind", *_SOURCE), "started", {"outcome": "done"}).subquery()
        with self._database.write() as connection:
            old = and_(runs.c.ended < before, runs.c.id.not_in(select(good.c.id)))
            remember(self._database, connection, old)
            return connection.execute(delete(runs).where(old)).rowcount

    def _end(self, which: ColumnElement[bool], now: datetime, end: RunEnd) -> bool:
        with self._database.write() as connection:
            ending = update(runs).where(which, runs.c.ended.is_(None)).values(ended=now, **fields_of(end))
            return connection.execute(ending).rowcount == 1

    def _runs(self, query: Select[Any]) -> Sequence[Run]:
        with self._database.read() as connection:
            return [_run(row) for row in connection.execute(query)]


def _run(row: Row[Any]) -> Run:
    end = None
    if row.ended is not None:
        end = RunEnd(
            row.outcome,
            row.error_code,
            row.error_exit,
            row.error_message,
            row.snapshot,
            row.read_bytes,
            row.stored_bytes,
            row.rows,
            row.seconds,
            row.warnings,
        )
    return Run(row.id, row.policy, row.source or None, row.kind, row.job, row.attempt, row.started, row.ended, end)
