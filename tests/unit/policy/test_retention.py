"""Retention rules: golden cases, and what must hold for any of them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.policy.retention import Candidate, Rule, Verdict, plan

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, **more: object) -> Candidate:
    """A snapshot stored at that time (UTC), called by it."""
    return Candidate(text, ("host", "crm"), datetime.fromisoformat(text).replace(tzinfo=UTC), **more)  # type: ignore[arg-type]


def kept(verdicts: list[Verdict]) -> dict[str, list[str]]:
    return {v.snapshot.id: v.reasons for v in verdicts if v.keep}


def nightly(days: int) -> list[Candidate]:
    """One each night at half past two, the last one this morning."""
    first = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
    return [at((first - timedelta(days=n)).strftime("%Y-%m-%dT%H:%M")) for n in range(days)]


def test_last() -> None:
    found = kept(plan(nightly(5), Rule(last=2), NOW))
    assert found == {"2026-11-23T02:30": ["last"], "2026-11-22T02:30": ["last"]}


def test_grandfather_father_son() -> None:
    """Fourteen days, eight weeks, twelve months and three years of nightly snapshots over two years."""
    found = kept(plan(nightly(800), Rule(last=3, daily=14, weekly=8, monthly=12, yearly=3), NOW))
    assert found["2026-11-23T02:30"] == [
        "last",
        "daily 2026-11-23",
        "weekly 2026-W48",
        "monthly 2026-11",
        "yearly 2026",
    ]
    assert found["2026-11-10T02:30"] == ["daily 2026-11-10"]
    assert found["2026-11-22T02:30"] == ["last", "daily 2026-11-22", "weekly 2026-W47"]
    assert found["2025-12-31T02:30"] == ["monthly 2025-12", "yearly 2025"]
    assert found["2024-12-31T02:30"] == ["yearly 2024"]
    assert len(found) == 14 + 5 + 11 + 1  # weeks and months that no day keeps already, and the year before the last


def test_buckets_that_nobody_filled_are_skipped() -> None:
    """Two weeks without a run do not cost two weeks of history."""
    some = [at("2026-11-23T02:30"), at("2026-11-01T02:30"), at("2026-10-31T02:30"), at("2026-10-30T02:30")]
    assert list(kept(plan(some, Rule(daily=3), NOW))) == ["2026-11-23T02:30", "2026-11-01T02:30", "2026-10-31T02:30"]


def test_the_newest_of_a_bucket_stays() -> None:
    day = [at("2026-11-22T02:00"), at("2026-11-22T23:59"), at("2026-11-23T00:01")]
    assert list(kept(plan(day, Rule(daily=2), NOW))) == ["2026-11-23T00:01", "2026-11-22T23:59"]


def test_days_begin_where_the_policy_says() -> None:
    """Half past eleven in the evening, UTC, is the next day in Berlin."""
    pair = [at("2026-11-21T23:30"), at("2026-11-22T02:30")]
    assert len(kept(plan(pair, Rule(daily=5), NOW))) == 2
    assert list(kept(plan(pair, Rule(daily=5), NOW, BERLIN))) == ["2026-11-22T02:30"]


def test_the_hour_that_comes_twice() -> None:
    """On the night of the clock change 02:30 local is two hours, and both have a bucket."""
    both = [at("2026-10-25T00:30"), at("2026-10-25T01:30")]
    assert len(kept(plan(both, Rule(hourly=5), NOW, BERLIN))) == 2
    assert len(kept(plan(both, Rule(hourly=1), NOW, BERLIN))) == 1


def test_within_counts_from_the_newest() -> None:
    """If nothing was backed up for a year, `within` does not take what is left."""
    old = [at("2025-11-20T02:30"), at("2025-11-19T02:30"), at("2025-10-01T02:30")]
    assert list(kept(plan(old, Rule(within=timedelta(days=2)), NOW))) == ["2025-11-20T02:30", "2025-11-19T02:30"]


def test_two_sources_never_share_a_bucket() -> None:
    one = nightly(3)
    two = [Candidate("x" + s.id, ("host", "shop"), s.stored_at) for s in one]
    assert len(kept(plan([*one, *two], Rule(last=1), NOW))) == 2


def test_holds_and_drills_stay() -> None:
    """What is held stays, and of what drills proved the newest."""
    some = [
        at("2026-11-23T02:30"),
        at("2026-11-20T02:30", drilled=True),
        at("2026-11-10T02:30", drilled=True),
        at("2026-11-09T02:30", holds=("case 4711", "audit")),
    ]
    assert kept(plan(some, Rule(last=1), NOW)) == {
        "2026-11-23T02:30": ["last"],
        "2026-11-20T02:30": ["the newest that a drill proved"],
        "2026-11-09T02:30": ["held: case 4711", "held: audit"],
    }


def test_a_clock_that_is_ahead_takes_no_place() -> None:
    """A snapshot from next year stays, and good ones are not pushed out by it."""
    some = [at("2027-11-23T02:30"), *nightly(3)]
    found = kept(plan(some, Rule(last=1), NOW))
    assert found == {"2027-11-23T02:30": ["it is from the future"], "2026-11-23T02:30": ["last"]}


def test_a_checkpoint_stays_until_a_snapshot_follows() -> None:
    some = [at("2026-11-21T02:30", checkpoint=True), at("2026-11-22T02:30", checkpoint=True)]
    assert len(kept(plan(some, Rule(last=1), NOW))) == 2
    assert list(kept(plan([*some, at("2026-11-23T02:30")], Rule(last=1), NOW))) == ["2026-11-23T02:30"]


def test_floors() -> None:
    """Nothing younger than the least age goes, and never fewer than the least number stay."""
    found = plan(nightly(10), Rule(yearly=1, min_age=timedelta(days=3), min_keep=5), NOW)
    assert len(kept(found)) == 5
    assert found[1].reasons == ["younger than the least age"]
    assert found[4].reasons == ["one of the 5 that always stay"]


def test_an_empty_rule_keeps_everything() -> None:
    assert len(kept(plan(nightly(10), Rule(), NOW))) == 10
    assert plan([], Rule(last=1), NOW) == []


snapshots = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        source=st.sampled_from([("a", "x"), ("a", "y"), ("b", "x")]),
        stored_at=st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
        order=st.integers(1, 1000),
        holds=st.sampled_from([(), (), (), ("case",)]),
        drilled=st.booleans(),
        checkpoint=st.sampled_from([False, False, False, True]),
    ),
    unique_by=lambda s: s.id,
    max_size=60,
)
few = st.integers(0, 6)
rules = st.builds(
    Rule, few, few, few, few, few, few, st.none() | st.timedeltas(timedelta(0), timedelta(days=90)), st.integers(1, 9),
    st.timedeltas(timedelta(0), timedelta(days=30)),
)  # fmt: skip


@given(snapshots, rules, st.sampled_from([UTC, BERLIN]))
def test_what_holds_for_any_rule(some: list[Candidate], rule: Rule, zone: ZoneInfo) -> None:
    """Never fewer than the least number, never younger than the least age, never held, never the newest drilled one."""
    verdicts = plan(some, rule, NOW, zone)
    assert sorted(v.snapshot.id for v in verdicts) == sorted(s.id for s in some)
    assert plan(list(reversed(some)), rule, NOW, zone) == verdicts
    for source in {s.source for s in some}:
        mine = [v for v in verdicts if v.snapshot.source == source]
        assert [v.reasons for v in plan([s for s in some if s.source == source], rule, NOW, zone)] == [
            v.reasons for v in mine
        ]
        whole = [v for v in mine if not v.snapshot.checkpoint]
        assert sum(v.keep for v in whole) >= min(rule.min_keep, sum(v.snapshot.stored_at <= NOW for v in whole))
        drilled = [v for v in mine if v.snapshot.drilled]
        assert not drilled or drilled[0].keep
    for verdict in verdicts:
        s = verdict.snapshot
        if s.holds or (rule.min_age and NOW - s.stored_at < rule.min_age):
            assert verdict.keep


@given(snapshots, rules)
def test_what_a_rule_forgot_it_forgets_again(some: list[Candidate], rule: Rule) -> None:
    """Applied to what it has left, a rule takes nothing more."""
    left = [v.snapshot for v in plan(some, rule, NOW) if v.keep]
    assert all(v.keep for v in plan(left, rule, NOW))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(last=3, daily=7), "last 3, daily 7, at least 1"),
        (Rule(within=timedelta(hours=1), min_keep=2), "within 3600 s, at least 2"),
    ],
)
def test_a_rule_as_it_is_recorded(rule: Rule, text: str) -> None:
    assert str(rule) == text
