"""When a policy's runs are due: cron in a time zone (Sunday is 0, a clock change fires once), or every so often.

A run is planned for its fire time, put off to the end of a maintenance window, and started up to the jitter later. All of that is
a function of the schedule, the source's name and the times: a restart neither moves a run nor repeats one. Must never read a
clock: whoever asks says what time it is.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise, takewhile
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from backupd.policy.blackout import Blackout

PROMPT = timedelta(minutes=5)
"""How late a run may start and still not count as missed."""
BACK = timedelta(hours=1)
"""How far a clock may be put back without what was planned being forgotten."""
_INSTANT = timedelta(seconds=1)
_AT_ONCE = 4
_LOOK_BACK = tuple(timedelta(days=days) for days in (1 / 24, 1, 8, 400, 9 * 366))


def check_cron(text: str) -> None:
    """Whether a cron expression can be read, and ever fires.

    Raises:
        ValueError: it cannot, or does not.
    """
    if len(text.split()) != 5:
        raise ValueError("a cron expression has five fields: minute, hour, day, month, weekday")
    try:
        next(CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"this is no cron expression: {error}") from None
    except StopIteration:
        raise ValueError("this never comes: there is no such day") from None


def fire_times(cron: str | None, every: timedelta | None, zone: str, after: datetime) -> Iterator[datetime]:
    """The moments after `after` that a schedule names, in UTC, each later than the one before; none without a schedule.

    Neither windows nor jitter are looked at: see `Timing`. `every` counts from midnight, UTC, of 1970, so that a restart does
    not move it.
    """
    if cron is not None:
        fires = _some(cron, zone, after.astimezone(UTC).replace(minute=0, second=0, microsecond=0))
        while fires:
            yield from (at for at in fires if at > after)
            fires = _some(cron, zone, fires[-1])
    elif every is not None:
        step = int(every.total_seconds())
        at_second = int(after.timestamp()) // step * step
        while True:
            at_second += step
            yield datetime.fromtimestamp(at_second, UTC)


@lru_cache(maxsize=4096)
def _some(cron: str, zone: str, after: datetime) -> tuple[datetime, ...]:
    """The first moments after `after` that an expression names; remembered, for many sources have one schedule."""
    found: list[datetime] = []
    for moment in CronSim(cron, after.astimezone(ZoneInfo(zone))):
        at = moment.astimezone(UTC)
        if at > (found[-1] if found else after):  # in an hour that comes twice, cronsim begins with the first again
            found.append(at)
        if len(found) == _AT_ONCE:
            break
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Planned:
    """A run of one source.

    Attributes:
        at: its fire time, after the window that it may have been put off by: what it is remembered by.
        start: when it is to start: `at` with jitter.
        postponed: whether a maintenance window put it off.
    """

    at: datetime
    start: datetime
    postponed: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    """The schedule of one source.

    Attributes:
        key: the policy's and the source's name: sources of one schedule do not start at the same moment.
        cron, every, zone: one of cron and every; neither is no schedule.
        jitter: starts are spread over so much time after the fire time, but never into the next one or into a window.
        catch_up: what becomes of runs that were missed: one of them is made up for, or none.
        blackout: when no run starts.
    """

    key: str
    cron: str | None = None
    every: timedelta | None = None
    zone: str = "UTC"
    jitter: timedelta = timedelta(0)
    catch_up: Literal["once", "never"] = "once"
    blackout: Blackout | None = None

    def upcoming(self, after: datetime) -> Iterator[Planned]:
        """The runs whose fire times, put off by windows if need be, come after `after`; what a window joins is one run."""
        since = self.blackout.closed_since(after) if self.blackout else None
        waiting: datetime | None = None
        late = False
        for fire in fire_times(self.cron, self.every, self.zone, since - _INSTANT if since else after):
            at = self.blackout.free_from(fire) if self.blackout else fire
            if at <= after:
                continue
            if waiting is not None and at > waiting:
                yield Planned(waiting, self._start(waiting, at), late)
                late = False
            waiting, late = at, late or at > fire

    def _start(self, at: datetime, following: datetime) -> datetime:
        """When a run starts: the same for the same source and fire time, whoever asks and how often."""
        span = min(self.jitter, following - at)
        if self.blackout and span:
            closing = self.blackout.closes_within(at, span)
            span = closing - at if closing else span
        return at + timedelta(seconds=int(share(self.key, at) * span.total_seconds()))

    def due(self, last_planned: datetime | None, now: datetime) -> list[Planned]:
        """The run that should start now, if there is one: the newest whose time has come, in place of all that were missed.

        Args:
            last_planned: `at` of the run planned last; before the first one, when the policy was first seen. None means now. If
                it is in the future the clock was put back: by an hour or less, it is believed, and nothing runs
                twice; by more, it is not, and the newest fire time before `now` is due.
            now: the time.

        Returns:
            nothing, or one run; its `at` is the next `last_planned`. Nothing inside a window: what came due in it, or was
            missed, is due at its end.
        """
        if last_planned is None or (self.blackout and self.blackout.closed_since(now)):
            return []
        if last_planned > now:
            if self._believed(last_planned, now):
                return []
            last_planned = now - _LOOK_BACK[-1]
        newest = self.newest(now, last_planned)
        if newest is None or newest.start > now or (self.catch_up == "never" and now - newest.start > PROMPT):
            return []
        return [newest]

    def newest(self, now: datetime, after: datetime | None = None) -> Planned | None:
        """The newest run whose fire time has come, and comes after `after` if that is given.

        It is looked for near `now` first, as it may be one of very many.
        """
        for back in _LOOK_BACK:
            since = max(after, now - back) if after else now - back
            newest = None
            for planned in takewhile(lambda planned: planned.at <= now, self.upcoming(since)):
                newest = planned
            if newest or since == after:
                return newest
        return None

    def next_start(self, now: datetime) -> datetime | None:
        """When the next run starts: one whose fire time has come may still wait for its jitter."""
        last = self.newest(now, now - self.jitter) if self.jitter else None
        following = last if last and last.start > now else next(self.upcoming(now), None)
        return following.start if following else None

    def _believed(self, last_planned: datetime, now: datetime) -> bool:
        """Whether a run that was planned for later than now is one that the clock, put back a little, comes to again."""
        between = sum(planned.at <= last_planned for planned in islice(self.upcoming(now), 2))
        return last_planned - now <= BACK and between < 2


def share(key: str, at: datetime) -> float:
    """A number from 0 to below 1 that looks random and is always the same for the same key and moment."""
    digest = hashlib.sha256(f"{key}\0{int(at.timestamp())}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def longest_gap(timing: Timing, after: datetime) -> timedelta | None:
    """The longest time between two runs within the next hundred, without jitter; None without a schedule."""
    times: list[datetime] = []
    for planned in timing.upcoming(after):
        times.append(planned.at)
        if len(times) > 100 or (planned.at - after).days > 800:
            break
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return max(gaps, default=None)
