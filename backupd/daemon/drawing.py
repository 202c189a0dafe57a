"""The small pictures of the page, as shapes for inline SVG: a strip of days, and columns of stored bytes. Pure.

Each state has a shape of its own, so that nothing is told by colour alone; each shape has a title in words.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from backupd.daemon.overview import DayView
from backupd.daemon.wording import size

STEP, HEIGHT = 8, 16
_BOX = "h7v16h-7z"
_SHAPES = {
    "ok": "M{x} 0" + _BOX,
    "failed": "M{x} 0" + _BOX + "M{a} 5l3 3l-3 3l1 1l3 -3l3 3l1 -1l-3 -3l3 -3l-1 -1l-3 3l-3 -3z",
    "missed": "M{x} 0" + _BOX + "M{b} 1.5v13h4v-13z",
    "none": "M{x} 13h7v3h-7z",
}
_WORDS = {"ok": "protected", "failed": "failed", "missed": "missed", "none": "no run was due"}


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: its class, its path, and what it means."""

    kind: str
    path: str
    title: str


def strip(days: tuple[DayView, ...], at: datetime) -> list[Shape]:
    """A shape a day, oldest first; the last is the day of `at` in UTC."""
    last = at.astimezone(UTC).date()
    return [_day(n, day, last - timedelta(days=len(days) - 1 - n)) for n, day in enumerate(days)]


def _day(n: int, day: DayView, when: date) -> Shape:
    x = n * STEP
    path = _SHAPES[day.state].format(x=x, a=x, b=x + 1.5)
    many = f", {day.snapshots} snapshot" + ("s" if day.snapshots != 1 else "") if day.snapshots else ""
    return Shape(day.state, path, f"{when}: {_WORDS[day.state]}{many}")


def strip_words(days: tuple[DayView, ...]) -> str:
    """The strip in words: `28 ok, 1 failed, 1 missed`."""
    counts = {state: sum(day.state == state for day in days) for state in ("failed", "missed", "ok")}
    told = [f"{count} {state}" for state, count in counts.items() if count]
    return ", ".join(told) or "no runs"


def columns(stored: tuple[int, ...]) -> str:
    """One path of columns, as high as each number beside the largest; nothing to see for none."""
    top = max(stored, default=0)
    if top <= 0:
        return ""
    parts = []
    for n, value in enumerate(stored):
        high = max(1, round(max(value, 0) / top * HEIGHT))
        parts.append(f"M{n * STEP} {HEIGHT - high}h{STEP - 1}v{high}h-{STEP - 1}z")
    return "".join(parts)


def columns_words(stored: tuple[int, ...]) -> str:
    """The columns in words."""
    if not stored:
        return ""
    return (
        f"newest {len(stored)} runs stored {size(min(stored))} to {size(max(stored))}, the last one {size(stored[-1])}"
    )
