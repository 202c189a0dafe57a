"""Sums over what ran, made by the database: of each source how its runs ended, how long they took, what each day came to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import BigInteger, Float, case, func, literal, select, type_coerce

from backupd.catalog.calendar import date_of, day_of
from backupd.catalog.database import Database
from backupd.catalog.tables import runs


@dataclass(frozen=True, slots=True)
class Totals:
    """All runs of a source that ended in one way and took about as long.

    Attributes:
        place: how many of the bounds asked for a run of this group took longer than.
    """

    policy: str
    source: str
    outcome: str
    place: int
    count: int
    read_bytes: int
    stored_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Day:
    """What the runs of a source came to on one day, UTC."""

    policy: str
    source: str
    day: date
    good: int
    bad: int


def totals(database: Database, bounds: Sequence[float], kind: str = "run") -> list[Totals]:
    """Sums of all runs of a kind that have ended.

    Args:
        database: the catalog's.
        bounds: seconds, rising: runs are told apart by the number of bounds that they took longer than.
        kind: which.
    """
    took = type_coerce(runs.c.ended, BigInteger) - type_coerce(runs.c.started, BigInteger)
    lasted = func.coalesce(runs.c.seconds, took / literal(1e6, Float))
    classes = [(lasted <= bound, n) for n, bound in enumerate(bounds)]
    place = case(*classes, else_=len(bounds)) if classes else literal(0)
    by = (runs.c.policy, runs.c.source, runs.c.outcome, place.label("place"))
    query = (
        select(
            *by,
            func.count(),
            func.coalesce(func.sum(runs.c.read_bytes), 0),
            func.coalesce(func.sum(runs.c.stored_bytes), 0),
            func.coalesce(func.sum(lasted), 0.0),
        )
        .where(runs.c.kind == kind, runs.c.ended.is_not(None))
        .group_by(*by)
    )
    with database.read() as connection:
        return [
            Totals(p, s, o, int(c), int(n), int(read), int(stored), float(seconds))
            for p, s, o, c, n, read, stored, seconds in connection.execute(query).tuples()
        ]


def days(database: Database, since: datetime, kind: str = "run") -> list[Day]:
    """Of each source and day since then how many runs were good, and how many failed."""
    day = day_of(runs.c.ended)
    good = func.sum(case((runs.c.outcome == "done", 1), else_=0))
    query = (
        select(runs.c.policy, runs.c.source, day, good, func.count())
        .where(runs.c.kind == kind, runs.c.ended >= since)
        .group_by(runs.c.policy, runs.c.source, day)
    )
    with database.read() as connection:
        return [
            Day(p, s, date_of(n), int(fine), int(all_ - fine))
            for p, s, n, fine, all_ in connection.execute(query).tuples()
        ]
