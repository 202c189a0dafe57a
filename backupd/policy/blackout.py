"""Maintenance windows: times of the week, on the clock of the policy's zone, in which no run starts.

`22:00-04:00` is every day, `Mon-Fri 08:00-18:00` some days, `Sun 23:00-01:00` goes on into the next day, `Sat,Sun 00:00-24:00` is
whole days. The first moment is inside, the last is not. When a clock changes, a window lasts from the earliest moment of its
beginning to the latest of its end, and what a day does not have is not waited for. Must never read a clock.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
PATTERN = r"^((Mon|Tue|Wed|Thu|Fri|Sat|Sun)([-,](Mon|Tue|Wed|Thu|Fri|Sat|Sun))* )?[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$"
WEEK, DAY = 7 * 24 * 60, 24 * 60
_HOW = 'write "22:00-04:00", "Mon-Fri 08:00-18:00" or "Sat,Sun 00:00-24:00"'
_ONE_DAY = timedelta(days=1)
_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
        days: on which it begins, 0 for Monday.
        begins: minutes after midnight, 0 to 1439.
        ends: minutes after the same midnight, 1 to 2880; over 1440 on the next day.
    """

    days: frozenset[int]
    begins: int
    ends: int

    def minutes(self) -> Iterator[int]:
        """The minutes of a week that it covers, from Monday's midnight on."""
        for day in self.days:
            for minute in range(day * DAY + self.begins, day * DAY + self.ends):
                yield minute % WEEK


def parse_window(text: str) -> Window:
    """One window, as a policy writes it.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(?:([A-Za-z,-]+) )?([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})", text)
    if match is None:
        raise ValueError(_HOW)
    begins, ends = (int(match[n]) * 60 + int(match[n + 1]) for n in (2, 4))
    if int(match[3]) > 59 or int(match[5]) > 59 or begins >= DAY or ends > DAY:
        raise ValueError(f"there is no such time of day; {_HOW}")
    if begins == ends:
        raise ValueError("it ends when it begins; a whole day is 00:00-24:00")
    return Window(_days(match[1]), begins, ends if ends > begins else ends + DAY)


def _days(text: str | None) -> frozenset[int]:
    """The days of `Mon-Fri`, `Sat,Sun` and the like; all of them without a text."""
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or any(end not in DAYS for end in ends):
            raise ValueError(f"days are {', '.join(DAYS)}; {_HOW}")
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        found |= {(first + n) % 7 for n in range((last - first) % 7 + 1)}
    return frozenset(found)


def covers_everything(windows: Iterable[Window]) -> bool:
    """Whether no minute of the week is left."""
    return len({minute for window in windows for minute in window.minutes()}) == WEEK


@dataclass(frozen=True, slots=True)
class Blackout:
    """The windows of a policy in its zone; they must leave a minute of the week."""

    windows: Sequence[Window]
    zone: tzinfo

    def free_from(self, moment: datetime) -> datetime:
        """The first moment, `moment` or later, at which a run may start."""
        for _ in range(_ROUNDS):
            ends = [end for begin, end in self._around(moment) if begin <= moment < end]
            if not ends:
                return moment
            moment = max(ends)
        raise ValueError("the windows leave no time for a run")

    def closed_since(self, moment: datetime) -> datetime | None:
        """Since when no run may start, if none may at `moment`."""
        since = None
        for _ in range(_ROUNDS):
            at = since or moment
            begins = [b for b, end in self._around(at) if b <= at < end or (since is not None and b < at <= end)]
            if not begins or min(begins) == since:
                return since
            since = min(begins)
        raise ValueError("the windows leave no time for a run")

    def closes_within(self, moment: datetime, span: timedelta) -> datetime | None:
        """When the next window after `moment` begins, if that is less than `span` later."""
        days = range(span.days + 2)
        near = [begin for n in days for begin, _ in self._around(moment + n * _ONE_DAY)]
        return min((begin for begin in near if moment < begin < moment + span), default=None)

    def _around(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The stretches of time, in UTC, of windows that begin about the day of a moment."""
        today = moment.astimezone(self.zone).date()
        for n in range(-2, 2):
            day = today + n * _ONE_DAY
            for window in self.windows:
                if day.weekday() in window.days:
                    begin, end = self._at(day, window.begins, False), self._at(day, window.ends, True)
                    if begin < end:
                        yield begin, end

    def _at(self, day: date, minutes: int, late: bool) -> datetime:
        """When a clock of the zone shows a time: the first or the last such moment, in UTC.

        If it never does, since clocks were put forward over it: the moment when they were.
        """
        day += minutes // DAY * _ONE_DAY
        shown = datetime.combine(day, time(minutes % DAY // 60, minutes % 60), self.zone)
        first, second = shown.replace(fold=0).astimezone(UTC), shown.replace(fold=1).astimezone(UTC)
        if first <= second:
            return second if late else first
        return _change_between(second, first, self.zone)


def _change_between(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The second at which the clocks of a zone were changed, between two moments in UTC."""
    old = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after
