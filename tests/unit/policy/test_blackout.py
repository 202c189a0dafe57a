"""Maintenance windows: what they say, when they end, and that clock changes neither open nor stretch them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.policy.blackout import Blackout, Window, covers_everything, parse_window

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
LORD_HOWE, KOLKATA = ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Kolkata")
ZONES = [BERLIN, NEW_YORK, LORD_HOWE, KOLKATA, ZoneInfo("Africa/Cairo"), ZoneInfo("UTC")]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def blackout(*windows: str, zone: ZoneInfo = BERLIN) -> Blackout:
    return Blackout([parse_window(window) for window in windows], zone)


@pytest.mark.parametrize(
    ("text", "days", "begins", "ends"),
    [
        ("22:00-04:00", "0123456", 1320, 1680),
        ("Mon-Fri 08:00-18:00", "01234", 480, 1080),
        ("Sun 23:00-01:00", "6", 1380, 1500),
        ("Sat,Sun 00:00-24:00", "56", 0, 1440),
        ("Fri-Mon 12:00-12:01", "0456", 720, 721),
        ("Mon,Wed-Thu 00:00-00:30", "023", 0, 30),
    ],
)
def test_what_a_window_says(text: str, days: str, begins: int, ends: int) -> None:
    assert parse_window(text) == Window(frozenset(map(int, days)), begins, ends)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8-18",
        "08:00",
        "24:00-25:00",
        "08:60-09:00",
        "Mon",
        "mon 08:00-09:00",
        "Mon- 08:00-09:00",
        "Mon-Tue-Wed 1:00-2:00",
        "08:00-08:00",
        "24:00-08:00",
        "Mon 08:00 - 09:00",
        "Mon,  Tue 08:00-09:00",
        "Mon\t08:00-09:00",
        "08:00-09:00\n",
        "٠8:00-09:00",
    ],
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|whole day|days are"):
        parse_window(text)


def test_the_first_moment_is_inside_and_the_last_is_not() -> None:
    closed = blackout("Mon-Fri 08:00-18:00")  # in November Berlin is an hour ahead
    assert closed.free_from(utc("2026-11-23T06:59:59")) == utc("2026-11-23T06:59:59")
    assert closed.free_from(utc("2026-11-23T07:00")) == utc("2026-11-23T17:00")
    assert closed.free_from(utc("2026-11-23T17:00")) == utc("2026-11-23T17:00")
    assert closed.free_from(utc("2026-11-28T12:00")) == utc("2026-11-28T12:00")
    assert closed.closed_since(utc("2026-11-23T16:59")) == utc("2026-11-23T07:00")
    assert closed.closed_since(utc("2026-11-23T17:00")) is None


def test_over_midnight_and_from_one_window_into_the_next() -> None:
    """Sunday's late window, Monday's early one and the working day are one stretch of time."""
    closed = blackout("Sun 23:00-01:00", "Mon 01:00-09:00", "Mon-Fri 08:00-18:00")
    assert closed.free_from(utc("2026-11-22T22:30")) == utc("2026-11-23T17:00")
    assert closed.closed_since(utc("2026-11-23T16:00")) == utc("2026-11-22T22:00")
    assert closed.closes_within(utc("2026-11-22T21:00"), timedelta(hours=2)) == utc("2026-11-22T22:00")
    assert closed.closes_within(utc("2026-11-22T21:00"), timedelta(hours=1)) is None


@pytest.mark.parametrize(
    ("zone", "window", "inside", "until"),
    [
        (BERLIN, "01:00-02:30", "2026-10-24T23:00", "2026-10-25T01:30"),  # until the second half past two
        (BERLIN, "02:30-05:00", "2026-10-25T00:30", "2026-10-25T04:00"),  # from the first one
        (BERLIN, "02:30-05:00", "2026-03-29T01:00", "2026-03-29T03:00"),  # there is none: from three, which it is then
        (BERLIN, "00:00-02:30", "2026-03-28T23:00", "2026-03-29T01:00"),
        (NEW_YORK, "01:00-01:30", "2026-11-01T05:00", "2026-11-01T06:30"),
        (NEW_YORK, "00:00-02:30", "2026-03-08T05:00", "2026-03-08T07:00"),
        (LORD_HOWE, "01:00-01:45", "2026-04-04T14:00", "2026-04-04T15:15"),  # half an hour comes twice
        (LORD_HOWE, "00:00-02:15", "2026-10-03T13:30", "2026-10-03T15:30"),  # and is left out
        (KOLKATA, "22:00-23:30", "2026-10-25T16:30", "2026-10-25T18:00"),
        (ZoneInfo("Africa/Cairo"), "00:00-00:30", "2026-04-24T00:00", None),  # a midnight that is not there
    ],
)
def test_clock_changes(zone: ZoneInfo, window: str, inside: str, until: str | None) -> None:
    """From the earliest moment of the beginning to the latest of the end; what does not come closes nothing."""
    closed = blackout(window, zone=zone)
    assert closed.free_from(utc(inside)) == utc(until or inside)
    if until:
        assert closed.free_from(utc(inside) - timedelta(seconds=1)) == utc(inside) - timedelta(seconds=1)


def test_a_week_without_a_free_minute() -> None:
    assert covers_everything([parse_window("00:00-24:00")])
    assert covers_everything(
        map(parse_window, ["Mon-Fri 00:00-24:00", "Sat 00:00-12:00", "Sat 12:00-06:00", "Sun 06:00-24:00"])
    )
    assert not covers_everything(map(parse_window, ["Mon-Sat 00:00-24:00", "Sun 00:00-23:59"]))
    assert not covers_everything([])


def test_the_one_free_hour_that_a_week_lacks() -> None:
    """Where the only free hour is the one that the spring leaves out, it is waited for a week more."""
    closed = blackout("Mon-Sat 00:00-24:00", "Sun 00:00-02:00", "Sun 03:00-24:00")
    assert closed.free_from(utc("2026-03-24T12:00")) == utc("2026-04-05T00:00")
    assert closed.closed_since(utc("2026-04-04T23:59")) == utc("2026-03-22T02:00")


MOMENTS = st.builds(lambda minutes: utc("2026-01-01") + timedelta(minutes=minutes), st.integers(0, 3 * 366 * 24 * 60))
TEXTS = st.builds(
    lambda day, begins, minutes: Window(frozenset(day), begins, begins + minutes),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1439),
)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from(ZONES), MOMENTS, MOMENTS)
def test_what_holds_for_any_windows(windows: list[Window], zone: ZoneInfo, one: datetime, other: datetime) -> None:
    """The end of a closed time is free, the time before it is not, and later moments never end up earlier."""
    if covers_everything(windows):
        return
    closed = Blackout(windows, zone)
    end, since = closed.free_from(one), closed.closed_since(one)
    assert closed.free_from(end) == end
    assert closed.closed_since(end) is None
    assert (since is None) == (end == one)
    if since is not None:
        assert since <= one < end
        assert closed.free_from(since) == end
        assert closed.free_from(end - timedelta(seconds=1)) == end
        before = since - timedelta(seconds=1)
        assert closed.closed_since(before) is None
        assert closed.closes_within(before, timedelta(seconds=2)) == since
    early, late = sorted([one, other])
    assert closed.free_from(early) <= closed.free_from(late)
