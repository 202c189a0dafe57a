"""When runs are due: over clock changes, leap days and years."""

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from backupd.policy.schedule import Timing, check_cron, fire_times, longest_gap
from backupd.policy.words import parse_duration, written


def times(cron: str, zone: str, after: str, count: int) -> list[str]:
    moments = fire_times(cron, None, zone, datetime.fromisoformat(after).replace(tzinfo=UTC))
    return [moment.strftime("%Y-%m-%dT%H:%M") for moment in islice(moments, count)]


def test_the_night_that_lacks_an_hour() -> None:
    """On 2026-03-29 there is no 02:30 in Berlin; the run is due once, when the clock has gone on."""
    found = times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", 3)
    assert found == ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]


def test_the_night_that_has_an_hour_twice() -> None:
    """On 2026-10-25 there are two 02:30 in Berlin; the run is due once."""
    found = times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2)
    assert [t[:10] for t in found] == ["2026-10-25", "2026-10-26"]
    assert found[1] == "2026-10-26T01:30"


def test_every_hour_goes_on_through_a_clock_change() -> None:
    found = times("0 * * * *", "Europe/Berlin", "2026-10-24T22:30", 5)
    assert len(set(found)) == 5


def test_sunday_is_zero_and_seven() -> None:
    for day in ("0", "7", "sun"):
        assert times(f"0 3 * * {day}", "UTC", "2026-11-23T00:00", 1) == ["2026-11-29T03:00"]


def test_a_leap_day() -> None:
    assert times("0 0 29 2 *", "UTC", "2026-01-01T00:00", 2) == ["2028-02-29T00:00", "2032-02-29T00:00"]


@pytest.mark.parametrize("cron", ["", "x", "* * * *", "* * * * * *", "60 * * * *", "0 0 31 2 *", "0 0 * * 8", "@daily"])
def test_what_is_no_schedule(cron: str) -> None:
    with pytest.raises(ValueError, match=r"cron|never"):
        check_cron(cron)


def test_every_so_often_does_not_move_with_a_restart() -> None:
    after = datetime(2026, 11, 23, 8, 7, tzinfo=UTC)
    found = list(islice(fire_times(None, timedelta(minutes=15), "UTC", after), 2))
    assert [f"{t:%H:%M}" for t in found] == ["08:15", "08:30"]
    assert list(fire_times(None, None, "UTC", after)) == []


def test_the_longest_gap() -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert longest_gap(Timing("", "0 2 * * 1-5"), after) == timedelta(days=3)
    assert longest_gap(Timing("", every=timedelta(minutes=10)), after) == timedelta(minutes=10)
    assert longest_gap(Timing(""), after) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("36h", 129600), ("2 d", 172800), ("1w", 604800)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds
    assert parse_duration(written(parse_duration(text))) == parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "m", "1.5h", "-1h", "1y", "1h30m", "١h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        parse_duration(text)
