"""What is due, over clock changes, sleep, restarts and clocks that jump: once each time, never twice, put off and not lost."""

from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.policy.blackout import Blackout, parse_window
from backupd.policy.schedule import BACK, PROMPT, Planned, Timing, share

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Cairo", "UTC"]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def closed(*windows: str, zone: str = "UTC") -> Blackout:
    return Blackout([parse_window(window) for window in windows], ZoneInfo(zone))


def ats(timing: Timing, after: datetime, count: int) -> list[datetime]:
    return [planned.at for planned in islice(timing.upcoming(after), count)]


def daemon(timing: Timing, since: datetime, moments: list[datetime]) -> list[Planned]:
    """What a daemon runs that asks at these moments, one after the other."""
    last, found = since, []
    for now in moments:
        for planned in timing.due(last, now):
            assert planned.start <= now
            last = planned.at
            found.append(planned)
    return found


def every_minute(since: datetime, until: datetime, step: timedelta = MINUTE) -> list[datetime]:
    return [since + n * step for n in range(int((until - since) / step) + 1)]


# ---- each time once


@pytest.mark.parametrize("zone", ZONES)
@settings(deadline=None, max_examples=20)
@given(hour=st.integers(0, 23), minute=st.integers(0, 59), year=st.sampled_from([2026, 2027, 2028]))
def test_a_daily_run_comes_once_on_each_day(zone: str, hour: int, minute: int, year: int) -> None:
    """Of a whole year, both clock changes and a leap day in it: one fire time on each date of the zone."""
    timing, first = Timing("p/s", f"{minute} {hour} * * *", zone=zone), datetime(year, 1, 1, tzinfo=ZoneInfo(zone))
    days = (date(year + 1, 1, 1) - date(year, 1, 1)).days
    found = ats(timing, first - timedelta(seconds=1), days)
    assert [at.astimezone(ZoneInfo(zone)).date() for at in found] == [date(year, 1, 1) + n * DAY for n in range(days)]


CRONS = st.sampled_from(
    ["30 2 * * *", "15 2,3 * * 0", "*/20 1-3 * * *", "0 * * * *", "30 0 * * 7", "0 0 29 2 *", "45 1 1,15 * *"]
)
CHANGES = [utc("2026-03-29T01:00"), utc("2026-10-25T01:00"), utc("2026-03-08T07:00"), utc("2026-11-01T06:00")]
CHANGES += [utc("2026-04-04T15:00"), utc("2026-10-03T15:30"), utc("2026-04-23T22:00"), utc("2028-02-29T00:00")]
NEAR = st.builds(lambda change, minutes: change + minutes * MINUTE, st.sampled_from(CHANGES), st.integers(-3000, 3000))
WINDOWS = st.sampled_from(
    [(), ("01:00-02:30",), ("Sat-Sun 22:00-04:00",), ("Mon-Fri 08:00-18:00", "00:30-03:15"), ("02:00-03:00",)]
)
TIMINGS = st.builds(
    lambda cron, every, zone, windows, jitter: Timing(
        "p/s", None if every else cron, every, zone, jitter, "once", closed(*windows, zone=zone) if windows else None
    ),
    CRONS,
    st.sampled_from([None, None, 10 * MINUTE, 7 * HOUR]),
    st.sampled_from(ZONES),
    WINDOWS,
    st.sampled_from([timedelta(0), 10 * MINUTE, 3 * HOUR]),
)


@settings(deadline=None)
@given(TIMINGS, NEAR, st.integers(0, 4000))
def test_what_comes_does_not_depend_on_since_when_one_asks(timing: Timing, since: datetime, minutes: int) -> None:
    """So that a restart, at any moment, neither moves a run nor repeats one."""
    later = since + minutes * MINUTE
    until = later + 3 * DAY
    from_first = [p for p in _until(timing, since, until) if p.at > later]
    assert _until(timing, later, until) == from_first


def _until(timing: Timing, since: datetime, until: datetime) -> list[Planned]:
    found = []
    for planned in timing.upcoming(since):
        if planned.at > until:
            return found
        found.append(planned)
    return found


@settings(deadline=None)
@given(TIMINGS, NEAR)
def test_starts_are_in_order_and_outside_windows(timing: Timing, since: datetime) -> None:
    """Jitter never reaches the next fire time, nor a window; what a window puts off is not lost."""
    found = list(islice(timing.upcoming(since), 30))
    for one, following in pairwise(found):
        assert since < one.at <= one.start < following.at
        assert one.start - one.at <= timing.jitter
    plain = Timing(timing.key, timing.cron, timing.every, timing.zone)
    if timing.blackout is None:
        assert [p.at for p in found] == ats(plain, since, 30)
        return
    for planned in found:
        assert timing.blackout.closed_since(planned.start) is None
    for fire in ats(plain, since, 30):
        at = timing.blackout.free_from(fire)
        assert at > found[-1].at or at in {p.at for p in found}
        assert at == fire or next(p for p in timing.upcoming(at - timedelta(seconds=1))).postponed


@settings(deadline=None)
@given(TIMINGS, NEAR, st.lists(st.integers(1, 2000), max_size=60))
def test_each_due_run_is_run_once_however_rarely_one_asks(timing: Timing, since: datetime, pauses: list[int]) -> None:
    """Never twice, never before its time, never inside a window; and at the end the newest that has come was run."""
    moments = [since]
    for minutes in pauses:
        moments.append(moments[-1] + minutes * MINUTE)
    found = daemon(timing, since, moments)
    assert [p.at for p in found] == sorted({p.at for p in found})
    now = moments[-1]
    newest = timing.newest(now, since)
    if newest and newest.start <= now and not (timing.blackout and timing.blackout.closed_since(now)):
        assert found[-1].at == newest.at


# ---- catching up


NIGHTLY = Timing("p/s", "30 2 * * *", zone="Europe/Berlin")


def test_a_week_of_sleep_is_made_up_for_by_one_run() -> None:
    slept = every_minute(utc("2026-11-01T00:00"), utc("2026-11-02T00:00")) + every_minute(
        utc("2026-11-09T08:00"), utc("2026-11-10T12:00")
    )
    found = daemon(NIGHTLY, slept[0], slept)
    assert [p.at for p in found] == [utc("2026-11-01T01:30"), utc("2026-11-09T01:30"), utc("2026-11-10T01:30")]


def test_or_by_none() -> None:
    never = Timing("p/s", "30 2 * * *", zone="Europe/Berlin", catch_up="never")
    slept = [utc("2026-11-01T00:00"), *every_minute(utc("2026-11-09T08:00"), utc("2026-11-10T12:00"))]
    assert [p.at for p in daemon(never, slept[0], slept)] == [utc("2026-11-10T01:30")]
    assert never.due(slept[0], utc("2026-11-09T01:30") + PROMPT) != []
    assert never.due(slept[0], utc("2026-11-09T01:30") + PROMPT + MINUTE) == []


def test_rare_runs_are_made_up_for_after_long_sleep() -> None:
    """Monthly after ten days, yearly after three years, the leap day's after five; every minute's after a year, and quickly."""
    for cron, since, now, at in [
        ("0 3 1 * *", "2026-10-25T00:00", "2026-11-09T00:00", "2026-11-01T03:00"),
        ("0 3 1 1 *", "2024-06-01T00:00", "2027-06-01T00:00", "2027-01-01T03:00"),
        ("0 3 29 2 *", "2027-06-01T00:00", "2032-02-01T00:00", "2028-02-29T03:00"),
        ("* * * * *", "2026-01-01T00:00", "2027-01-01T00:00", "2027-01-01T00:00"),
    ]:
        assert [p.at for p in Timing("p/s", cron).due(utc(since), utc(now))] == [utc(at)]


def test_nothing_is_due_before_the_first_time() -> None:
    assert NIGHTLY.due(None, utc("2026-11-01T05:00")) == []
    assert NIGHTLY.due(utc("2026-11-01T05:00"), utc("2026-11-01T05:00")) == []
    assert Timing("p/s").due(utc("2026-11-01T05:00"), utc("2026-12-01T05:00")) == []
    assert Timing("p/s").next_start(utc("2026-11-01T05:00")) is None


def test_what_was_missed_waits_for_the_end_of_a_window() -> None:
    """A host that wakes up in the working day does not begin in it."""
    timing = Timing("p/s", "30 2 * * *", blackout=closed("08:00-18:00"))
    since = utc("2026-11-01T05:00")
    assert timing.due(since, utc("2026-11-02T09:00")) == []
    assert [p.at for p in timing.due(since, utc("2026-11-02T18:00"))] == [utc("2026-11-02T02:30")]


def test_all_that_comes_inside_a_window_is_one_run_at_its_end() -> None:
    timing = Timing("p/s", every=10 * MINUTE, blackout=closed("08:00-18:00"))
    found = daemon(timing, utc("2026-11-02T07:45"), every_minute(utc("2026-11-02T07:45"), utc("2026-11-02T18:25")))
    assert [f"{p.at:%H:%M}" for p in found] == ["07:50", "18:00", "18:10", "18:20"]
    assert [p.postponed for p in found] == [False, True, False, False]


def test_every_so_often_goes_on_evenly_through_clock_changes() -> None:
    for zone in ZONES:
        for change in CHANGES:
            found = ats(Timing("p/s", every=10 * MINUTE, zone=zone), change - HOUR, 12)
            assert {later - earlier for earlier, later in pairwise(found)} == {10 * MINUTE}


# ---- clocks that jump


def test_a_clock_put_back_a_little_repeats_nothing() -> None:
    ran = utc("2026-11-02T01:30")
    moments = [ran, ran - HOUR + MINUTE, ran - MINUTE, ran, ran + MINUTE, ran + DAY]
    assert [p.at for p in daemon(NIGHTLY, ran - HOUR, moments)] == [ran, ran + DAY]
    often = Timing("p/s", every=10 * MINUTE)
    assert often.due(utc("2026-11-02T02:00"), utc("2026-11-02T01:55")) == []


def test_a_clock_that_was_years_ahead_does_not_stop_backups() -> None:
    """What was planned then is not believed: the newest fire time is made up for at once, and all goes on from it."""
    now = utc("2026-11-02T12:00")
    moments = [now, now + MINUTE, *every_minute(now + HOUR, now + DAY, HOUR)]
    found = daemon(NIGHTLY, utc("2036-01-01T01:30"), moments)
    assert [p.at for p in found] == [utc("2026-11-02T01:30"), utc("2026-11-03T01:30")]
    assert NIGHTLY.due(now + BACK + MINUTE, now) != []
    assert Timing("p/s", every=10 * MINUTE).due(utc("2026-11-02T02:30"), utc("2026-11-02T01:55")) != []


# ---- jitter


def test_jitter_is_the_same_after_a_restart_and_different_for_each_source() -> None:
    at = utc("2026-11-02T02:30")
    starts = []
    for n in range(200):
        timing = Timing(f"p/{n}", "30 2 * * *", jitter=10 * MINUTE)
        (one,) = islice(timing.upcoming(at - DAY + MINUTE), 1)
        (again,) = islice(timing.upcoming(at - MINUTE), 1)
        assert one == again
        starts.append((one.start - at).total_seconds())
    assert min(starts) < 60
    assert max(starts) > 540
    assert 250 < sum(starts) / 200 < 350
    assert share("a", at) == share("a", at)
    assert len({share("a", at + n * DAY) for n in range(50)}) == 50


def test_jitter_waits_and_is_told_meanwhile() -> None:
    timing = Timing("p/s", "30 2 * * *", jitter=HOUR)
    (planned,) = islice(timing.upcoming(utc("2026-11-02T02:00")), 1)
    assert planned.start > planned.at + MINUTE
    assert timing.due(utc("2026-11-01T02:30"), planned.at + MINUTE) == []
    assert timing.next_start(planned.at + MINUTE) == planned.start
    assert timing.due(utc("2026-11-01T02:30"), planned.start) == [planned]
    assert timing.next_start(planned.start) == next(timing.upcoming(planned.at)).start


def test_a_missed_run_gives_way_to_one_that_waits_for_its_jitter() -> None:
    """Two runs within minutes would be one too many."""
    timing = Timing("p/s", "30 2 * * *", jitter=HOUR)
    (planned,) = islice(timing.upcoming(utc("2026-11-05T02:00")), 1)
    assert timing.due(utc("2026-11-01T02:30"), planned.start - MINUTE) == []
    assert timing.due(utc("2026-11-01T02:30"), planned.start) == [planned]
