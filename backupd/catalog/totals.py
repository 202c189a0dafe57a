"""Sums over what ran, made by the database: of each source how its runs ended, how long they took, what each day came to.

Sums of runs that were purged are kept: a counter that falls looks like one that began anew.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import date, datetime

from sqlalchemy import BigInteger, ColumnElement, Connection, Float, case, func, literal, select, type_coerce, update

from backupd.catalog.calendar import date_of, day_of
from backupd.catalog.database import Database
from backupd.catalog.documents import canonical, parsed
from backupd.catalog.tables import meta, runs

DURATION_BOUNDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)
"""Upper bounds, in seconds, of the classes in which run times are counted; one more class counts what is longer."""
_PURGED = "purged_runs"


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
    """Sums of all runs of a kind that have ended; with `DURATION_BOUNDS` those of purged ones stand beside them.

    Args:
        database: the catalog's.
        bounds: seconds, rising: runs are told apart by the number of bounds that they took longer than.
        kind: which.
    """
    with database.read() as connection:
        kept = _purged(connection) if tuple(bounds) == DURATION_BOUNDS and kind == "run" else []
        return [*kept, *_summed(connection, bounds, runs.c.kind == kind)]


def remember(database: Database, connection: Connection, going: ColumnElement[bool]) -> None:
    """Keep the sums of runs that are about to be purged, in the transaction that purges them."""
    sums = {(t.policy, t.source, t.outcome, t.place): t for t in _purged(connection)}
    for new in _summed(connection, DURATION_BOUNDS, runs.c.kind == "run", going):
        place = (new.policy, new.source, new.outcome, new.place)
        old = sums.get(place, Totals(*place, 0, 0, 0, 0.0))
        read, stored = old.read_bytes + new.read_bytes, old.stored_bytes + new.stored_bytes
        sums[place] = Totals(*place, old.count + new.count, read, stored, old.seconds + new.seconds)
    if not sums:
        return
    text = canonical({"totals": [astuple(one) for one in sums.values()]})
    if not database.insert_new(connection, meta, key=_PURGED, value=text):
        connection.execute(update(meta).where(meta.c.key == _PURGED).values(value=text))


def _purged(connection: Connection) -> list[Totals]:
    text = connection.execute(select(meta.c.value).where(meta.c.key == _PURGED)).scalar()
    return [Totals(*one) for one in parsed(text, "the sums of purged runs")["totals"]] if text is not None else []


def _summed(connection: Connection, bounds: Sequence[float], *which: ColumnElement[bool]) -> list[Totals]:
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
        .where(*which, runs.c.ended.is_not(None))
        .group_by(*by)
    )
    return [
        Totals(p, s, o, int(c), int(n), int(read), int(stored), float(seconds))
        for p, s, o, c, n, read, stored, seconds in connection.execute(query)
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
        return [Day(p, s, date_of(n), int(fine), int(all_ - fine)) for p, s, n, fine, all_ in connection.execute(query)]
