"""When a verification or a drill that failed is tried again."""

from datetime import UTC, datetime, timedelta

import pytest

from backupd.policy.model import Policy
from backupd.policy.proving import Promise, again_name, can_drill, can_verify, drills, regular, verifications

NOW = datetime(2026, 3, 1, 2, 30, 0, 123456, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CRM = Policy.model_validate(
    {
        "policy": "crm",
        "sources": [{"name": "db", "url": "/x.db"}],
        "repository": {"url": "/r"},
        "keys": {"check": "file:/k"},
        "verify": [{"level": "bytes", "every": "7d"}],
        "drill": {"every": "7d"},
    }
)
WEEKLY = (verifications(CRM)["bytes"], drills(CRM)["db"])


@pytest.mark.parametrize("promise", WEEKLY, ids=lambda promise: promise.kind)
def test_what_may_pass_is_tried_after_an_hour_and_all_else_daily(promise: Promise) -> None:
    second = NOW.replace(microsecond=0)
    for passes, wait in ((True, HOUR), (False, DAY)):
        assert promise.again_at(NOW, passes=passes, again=False) == second + wait
        assert promise.again_at(NOW, passes=passes, again=True) == second + DAY


@pytest.mark.parametrize("promise", WEEKLY, ids=lambda promise: promise.kind)
def test_its_own_time_comes_first(promise: Promise) -> None:
    """By its fire time, whatever its jitter."""
    hourly = Promise("verify", "crm", "bytes", regular("k", HOUR))
    assert hourly.again_at(NOW, passes=True, again=False) is None
    fire = next(promise.timing.upcoming(NOW)).at
    early = fire - HOUR - timedelta(seconds=1)
    assert promise.again_at(early, passes=True, again=False) == fire - timedelta(seconds=1)
    assert promise.again_at(fire - HOUR, passes=True, again=False) is None


@pytest.mark.parametrize("promise", WEEKLY, ids=lambda promise: promise.kind)
def test_it_is_awaited_until_it_or_something_later_is_planned(promise: Promise) -> None:
    again, own = promise.again_name, promise.timing.key
    assert promise.awaited({}) is None
    assert promise.awaited({again: NOW}) == NOW
    assert promise.awaited({again: NOW, own: NOW - DAY}) == NOW
    assert promise.awaited({again: NOW, own: NOW}) is None
    assert promise.next_start({again: NOW + HOUR, own: NOW - DAY}, NOW) == NOW + HOUR
    assert promise.next_start({own: NOW}, NOW) == promise.timing.next_start(NOW)


def test_nothing_is_remembered_under_the_name_of_another() -> None:
    """Whatever policies are called."""
    assert again_name("verify", "drill", "bytes") != again_name("drill", "drill", "bytes")
    assert drills(CRM.model_copy(update={"drill": None})) == {}


def test_a_proof_needs_its_key() -> None:
    assert can_verify(CRM, "bytes")
    assert not can_verify(CRM, "content")
    assert not can_drill(CRM)
