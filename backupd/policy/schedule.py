"""When a policy's runs are due: cron in a time zone (Sunday is 0, a clock change fires once), or every so often."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError


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
    """The moments after `after` at which a run is due, in UTC, without jitter; none without a schedule.

    `every` counts from midnight, UTC, of 1970, so that a restart does not move it.
    """
    if cron is not None:
        yield from (moment.astimezone(UTC) for moment in CronSim(cron, after.astimezone(ZoneInfo(zone))))
    elif every is not None:
        step = int(every.total_seconds())
        at = int(after.timestamp()) // step * step
        while True:
            at += step
            yield datetime.fromtimestamp(at, UTC)


def longest_gap(cron: str | None, every: timedelta | None, zone: str, after: datetime) -> timedelta | None:
    """The longest time between two runs within the next hundred; None without a schedule."""
    times: list[datetime] = []
    for moment in fire_times(cron, every, zone, after):
        times.append(moment)
        if len(times) > 100 or (moment - after).days > 800:
            break
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return max(gaps, default=None)
