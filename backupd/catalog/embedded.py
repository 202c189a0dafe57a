"""The queue as a table of the catalog, for SQLite and PostgreSQL alike.

Every change is one transaction, and at most one writes at a time, so a claim sees all others. That no two jobs of one lock
run is also an index of the table: a mistake here could not get past it. Must never change a job whose claim was taken over.
"""

import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, Select, and_, func, or_, select, type_coerce, update
from sqlalchemy.sql.dml import Update
from sqlalchemy.sql.elements import ColumnElement

from backupd.catalog.database import Database
from backupd.catalog.documents import canonical, parsed
from backupd.catalog.queue import ENDED, Claim, Job, JobOutcome, JobSpec, JobState, Lost
from backupd.catalog.tables import jobs, microseconds

_STATES: tuple[JobState, ...] = ("queued", "running", *ENDED)
_holders = jobs.alias("holders")


class EmbeddedQueue:
    """Implements `Queue`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, spec: JobSpec, now: datetime) -> str | None:
        """See `Queue.submit`."""
        with self._database.write() as connection:
            new = self._database.insert_new(
                connection,
                jobs,
                key=spec.key,
                kind=spec.kind,
                policy=spec.policy,
                source=spec.source,
                lock=spec.lock,
                rank=-spec.priority,
                payload=canonical(spec.payload),
                not_before=spec.not_before,
                max_attempts=spec.max_attempts,
                max_seconds=spec.max_seconds,
                state="queued",
                attempt=1,
                submitted=now,
                queued=now,
                due=spec.not_before or now,
                lease_microseconds=0,
                cancelling=False,
                detail="",
            )
            if not new:
                return None
            return str(connection.execute(select(jobs.c.n).where(jobs.c.key == spec.key)).scalar_one())

    def claim(
        self, worker: str, now: datetime, lease_seconds: float, kinds: Collection[str] | None = None
    ) -> Claim | None:
        """See `Queue.claim`."""
        query = _next(now, kinds)
        with self._database.read() as connection:  # most often there is nothing: that must not keep writers waiting
            if connection.execute(query).first() is None:
                return None
        lease, token = timedelta(seconds=lease_seconds), secrets.token_hex(16)
        with self._database.write() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None
            connection.execute(
                update(jobs)
                .where(jobs.c.n == row.n)
                .values(
                    state="running",
                    started=now,
                    worker=worker,
                    token=token,
                    lease_until=now + lease,
                    lease_microseconds=lease // timedelta(microseconds=1),
                )
            )
        return Claim(str(row.n), _spec(row), row.attempt, now + lease, token)

    def heartbeat(self, claim: Claim, now: datetime, lease_seconds: float) -> bool:
        """See `Queue.heartbeat`."""
        lease = timedelta(seconds=lease_seconds)
        renewed = {"lease_until": now + lease, "lease_microseconds": lease // timedelta(microseconds=1)}
        return self._change(update(jobs).where(_held(claim), ~jobs.c.cancelling).values(**renewed))

    def finish(self, claim: Claim, now: datetime, outcome: JobOutcome, detail: str = "") -> bool:
        """See `Queue.finish`."""
        return self._change(update(jobs).where(_held(claim)).values(**_ended(now, outcome), detail=detail))

    def fail(self, claim: Claim, now: datetime, detail: str = "", retry_at: datetime | None = None) -> bool:
        """See `Queue.fail`."""
        with self._database.write() as connection:
            row = connection.execute(select(jobs).where(_held(claim))).first()
            if row is None:
                return False
            if row.cancelling:
                values = _ended(now, "cancelled")
            elif retry_at is None or row.attempt >= row.max_attempts:
                values = _ended(now, "failed")
            else:
                values = _queued_again(row, now, retry_at)
            connection.execute(update(jobs).where(jobs.c.n == row.n).values(**values, detail=detail))
        return True

    def cancel(self, job: str, now: datetime) -> bool:
        """See `Queue.cancel`."""
        if not job.isdecimal():
            return False
        with self._database.write() as connection:
            this = jobs.c.n == int(job)
            state = connection.execute(select(jobs.c.state).where(this)).scalar()
            if state not in {"queued", "running"}:
                return False
            values = _ended(now, "cancelled") if state == "queued" else {"cancelling": True}
            connection.execute(update(jobs).where(this).values(**values))
        return True

    def disown(self, worker: str, now: datetime) -> int:
        """See `Queue.disown`."""
        theirs = and_(jobs.c.state == "running", jobs.c.worker == worker)
        with self._database.write() as connection:
            return connection.execute(update(jobs).where(theirs).values(lease_until=now)).rowcount

    def recover(self, now: datetime) -> Sequence[Lost]:
        """See `Queue.recover`."""
        with self._database.read() as connection:
            if connection.execute(select(jobs.c.n).where(or_(_expired(now), *_ahead(now))).limit(1)).first() is None:
                return []
        with self._database.write() as connection:
            _undo_jump(connection, now)
            rows = connection.execute(select(jobs).where(_expired(now)).order_by(jobs.c.n)).all()
            return [_take(connection, row, now) for row in rows]

    def list(self, states: Collection[JobState] | None = None, limit: int = 100) -> Sequence[Job]:
        """See `Queue.list`."""
        query = select(jobs).order_by(jobs.c.n.desc()).limit(limit)
        if states is not None:
            query = query.where(jobs.c.state.in_(states))
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def counts(self) -> dict[JobState, int]:
        """See `Queue.counts`."""
        with self._database.read() as connection:
            rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        found = {state: int(count) for state, count in rows}
        return {state: found.get(state, 0) for state in _STATES}

    def oldest_due(self, now: datetime) -> datetime | None:
        """See `Queue.oldest_due`."""
        query = select(func.min(jobs.c.due)).where(jobs.c.state == "queued", jobs.c.due <= now)
        with self._database.read() as connection:
            return connection.execute(query).scalar()

    def purge(self, before: datetime) -> int:
        """See `Queue.purge`."""
        with self._database.write() as connection:
            return connection.execute(jobs.delete().where(jobs.c.ended < before)).rowcount

    def _change(self, statement: Update) -> bool:
        with self._database.write() as connection:
            return connection.execute(statement).rowcount == 1


def _next(now: datetime, kinds: Collection[str] | None) -> Select[Any]:
    """The job that is to run next."""
    held = select(_holders.c.n).where(_holders.c.state == "running", _holders.c.lock == jobs.c.lock)
    query = select(jobs).where(jobs.c.state == "queued", jobs.c.due <= now, ~held.exists())
    if kinds is not None:
        query = query.where(jobs.c.kind.in_(kinds))
    return query.order_by(jobs.c.rank, jobs.c.due, jobs.c.n).limit(1)


def _held(claim: Claim) -> ColumnElement[bool]:
    """The claim's job, as long as it is the claim's."""
    mine = and_(jobs.c.token == claim.token, jobs.c.attempt == claim.attempt)
    return and_(jobs.c.n == int(claim.id), jobs.c.state == "running", mine)


def _ended(now: datetime, outcome: JobOutcome) -> dict[str, Any]:
    return {"state": outcome, "ended": now, "token": None, "lease_until": None, "cancelling": False}


def _queued_again(row: Row[Any], now: datetime, due: datetime) -> dict[str, Any]:
    return {
        "state": "queued",
        "attempt": row.attempt + 1,
        "queued": now,
        "due": due,
        "token": None,
        "lease_until": None,
    }


def _expired(now: datetime) -> ColumnElement[bool]:
    return and_(jobs.c.state == "running", jobs.c.lease_until <= now)


def _ahead(now: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Leases that reach further than they were given for, and jobs that were queued after now: the clock has jumped back.

    A first attempt that waits for a time of its own still waits for that.
    """
    longest = jobs.c.lease_microseconds + microseconds(now)
    lease = and_(jobs.c.state == "running", _number(jobs.c.lease_until) > longest)
    no_appointment = or_(jobs.c.attempt > 1, jobs.c.not_before.is_(None))
    return lease, and_(jobs.c.state == "queued", jobs.c.queued > now, no_appointment)


def _undo_jump(connection: Connection, now: datetime) -> None:
    lease, queued = _ahead(now)
    here = microseconds(now)
    connection.execute(update(jobs).where(lease).values(lease_until=jobs.c.lease_microseconds + here))
    waits = _number(jobs.c.due) - _number(jobs.c.queued)
    connection.execute(update(jobs).where(queued).values(due=waits + here, queued=now))


def _take(connection: Connection, row: Row[Any], now: datetime) -> Lost:
    """Take a job whose lease has run out from its worker."""
    outcome: JobOutcome | None = "cancelled" if row.cancelling else "lost" if row.attempt >= row.max_attempts else None
    values = _queued_again(row, now, now) if outcome is None else _ended(now, outcome)
    connection.execute(update(jobs).where(jobs.c.n == row.n).values(**values))
    return Lost(str(row.n), _spec(row), row.attempt, row.worker, outcome)


def _number(column: ColumnElement[Any]) -> ColumnElement[int]:
    """A time as the number that it is in the table."""
    return type_coerce(column, BigInteger)


def _spec(row: Row[Any]) -> JobSpec:
    return JobSpec(
        row.kind,
        row.policy,
        row.source,
        row.key,
        row.lock,
        -row.rank,
        parsed(row.payload, f"a payload of job {row.n}"),
        row.not_before,
        row.max_attempts,
        row.max_seconds,
    )


def _job(row: Row[Any]) -> Job:
    return Job(
        str(row.n),
        _spec(row),
        row.state,
        row.attempt,
        row.submitted,
        row.due,
        row.started,
        row.ended,
        row.worker,
        row.lease_until,
        row.cancelling,
        row.detail,
    )
