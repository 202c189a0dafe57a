"""The numbers of a source's nights, and what of them is usual: values and the arithmetic of losses. `sudden` judges by them.

A loss is measured on a logarithmic scale, as what was there at most within the last week over what is there tonight: so
growth is no loss, what happens every week has been seen, and half of a table is the same however large it is. Nothing here
holds a name or a record.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

Kind = Literal["table_missing", "table_shrunk", "rows_gone", "bytes_gone", "all_new", "entropy_up"]
KINDS: tuple[Kind, ...] = ("table_missing", "table_shrunk", "rows_gone", "bytes_gone", "all_new", "entropy_up")
WEEK = timedelta(days=7)
Series = Sequence[tuple[datetime, int]]
"""Counts of nights, oldest first."""

_TWICE = 2.0
"""A loss this many times the greatest one known is sudden."""
_NOISE = 4.0
"""Over the square root of a count: what a small count may lose by chance."""


@dataclass(frozen=True, slots=True)
class Night:
    """The numbers of one snapshot.

    Attributes:
        taken_at: when, aware.
        rows: of all tables; None where the engine does not tell.
        read_bytes: what was read.
        stored_bytes: what was stored.
        chunks: total, full, delta, reused.
        tables: rows of each table by an opaque label, None for one that is there and was not counted. A label with a `/` is
            of a family of tables (log_2026_01, log_2026_02, ...), which is what stands before it; one without is a family of
            its own. None where the tables of that night are not known.
        fresh_plain: plain bytes of what was stored in full; `fresh_payload` what they became compressed.
        cause: what is known to make a run store more than changed, or None.
    """

    taken_at: datetime
    rows: int | None
    read_bytes: int
    stored_bytes: int
    chunks: Mapping[str, int]
    tables: Mapping[str, int | None] | None = field(default=None, repr=False)
    fresh_plain: int = 0
    fresh_payload: int = 0
    cause: str | None = None

    @property
    def full_share(self) -> float:
        """The share of chunks that were stored in full."""
        return self.chunks.get("full", 0) / max(1, self.chunks.get("total", 0))

    @property
    def density(self) -> float:
        """How little of what was stored in full could be compressed: 1 is as good as random."""
        return self.fresh_payload / max(1, self.fresh_plain)

    def families(self) -> dict[str, int | None]:
        """The rows of each family of tables; None where one of them was not counted."""
        sums: dict[str, int | None] = {}
        for label, rows in (self.tables or {}).items():
            so_far = sums.get(family := family_of(label), 0)
            sums[family] = None if rows is None or so_far is None else so_far + rows
        return sums


def family_of(label: str) -> str:
    """The family of a table."""
    return label.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Stage:
    """What counts as noise while a source has been known for so long: shares that may go.

    Attributes:
        days, nights: from when on.
        rows: of all rows; `table` of one table's; `of_all` the least share of all rows that such a table must have lost.
        missing: the least share of all rows that a missing table must have had.
        size: of what is read.
        density: how much worse than usual what is new may compress.
    """

    days: int
    nights: int
    rows: float
    table: float
    of_all: float
    missing: float
    size: float
    density: float


MATURE = Stage(40, 20, 0.03, 0.03, 0.0, 0.0, 0.30, 0.12)
"""From here on a source's own history is what counts: it has seen a month end."""
_STAGES = (
    MATURE,
    Stage(14, 7, 0.25, 0.30, 0.05, 0.0, 0.40, 0.20),
    Stage(0, 0, 0.30, 0.50, 0.20, 0.05, 0.50, 0.25),
)


def stage_of(nights: Sequence[Night], now: datetime) -> Stage:
    """How well a source is known."""
    known = now - nights[0].taken_at if nights else timedelta(0)
    return next(s for s in _STAGES if known >= timedelta(days=s.days) and len(nights) >= s.nights)


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss that is sudden: what there was, what is left, from where on it is, and the greatest one known (shares)."""

    was: int
    now: int
    bound: float
    peak: float

    @property
    def numbers(self) -> dict[str, float]:
        """As an alarm tells them."""
        return {"before": self.was, "now": self.now, "lost": self.was - self.now, "bound": round(self.bound, 6)}


def is_noise(was: int, now: int, floor: float) -> bool:
    """Whether so little is gone that the history need not be asked."""
    return _loss(was, now) <= max(-math.log1p(-floor), _NOISE / math.sqrt(max(1, was)))


def sudden_loss(was: int, now: int, floor: float, series: Series) -> Loss | None:
    """A loss that is no noise, and at least twice as great as any that the series knows; otherwise None."""
    if is_noise(was, now, floor):
        return None
    peak = _greatest(series)
    bound = max(-math.log1p(-floor), _TWICE * peak, _NOISE / math.sqrt(max(1, was)))
    return Loss(was, now, -math.expm1(-bound), -math.expm1(-peak)) if _loss(was, now) > bound else None


def _loss(was: int, now: int) -> float:
    """What is gone, logarithmic: ln 2 for half of it, and never below 0."""
    return max(0.0, math.log((was + 1) / (now + 1)))


def _greatest(series: Series) -> float:
    """The greatest loss of any night since the most within a week before it.

    The last week teaches only what went in one night of it: what goes bit by bit must not raise its own bound.
    """
    most: deque[tuple[datetime, int]] = deque()
    lately = series[-1][0] - WEEK if series else None
    greatest = 0.0
    for at, (taken, value) in enumerate(series):
        if at:
            before, count = series[at - 1]
            while most[0][0] < min(taken - WEEK, before):
                most.popleft()
            old = lately is not None and taken <= lately
            greatest = max(greatest, _loss(most[0][1] if old else count, value))
        while most and most[-1][1] <= value:
            most.pop()
        most.append((taken, value))
    return greatest


def percent(share: float) -> str:
    """A share for people: two digits that say something."""
    value = share * 100
    if value in {0, 100} or 10 <= value < 99:
        return f"{value:.0f} %"
    return f"{math.floor(value * 100) / 100:g} %" if value > 99 else f"{value:.2g} %"


def plural(n: int, word: str) -> str:
    """A number and its word."""
    return f"{n:,} {word}" + ("" if n == 1 else "s")
