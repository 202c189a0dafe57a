"""When a verification that failed is tried again."""

from datetime import UTC, datetime, timedelta

import pytest

from backupd.errors import Exit
from backupd.policy.model import Policy, Verify
from backupd.policy.proving import again_at, again_name, awaited, can_verify, next_start, regular, verify_timing
from backupd.policy.retrying import ENDINGS

NOW = datetime(2026, 3, 1, 2, 30, 0, 123456, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEEKLY = Verify.model_validate({"level": "bytes", "every": "7d"})
CRM = Policy.model_validate(
    {
        "policy": "crm",
        "sources": [{"name": "db", "url": "/x.db"}],
        "repository": {"url": "/r"},
        "keys": {"check": "file:/k"},
    }
)


@pytest.mark.parametrize("code", [*(int(code) for code in ENDINGS if code is not Exit.DONE), 137, 255])
def test_what_may_pass_is_tried_after_an_hour_and_all_else_daily(code: int) -> None:
    """A process that died may have died of anything; damage, a wrong key and a policy that is not valid wait for people."""
    passes = code not in set(Exit) or ENDINGS[Exit(code)].again
    timing, second = verify_timing(CRM, WEEKLY), NOW.replace(microsecond=0)
    assert again_at(code, NOW, timing, again=False) == second + (HOUR if passes else DAY)
    assert again_at(code, NOW, timing, again=True) == second + DAY
    assert code != Exit.INTEGRITY or not passes


def test_its_own_time_comes_first() -> None:
    """By its fire time, whatever its jitter."""
    timing = regular("k", HOUR)
    assert again_at(1, NOW, timing, again=False) is None
    weekly = verify_timing(CRM, WEEKLY)
    fire = next(weekly.upcoming(NOW)).at
    assert again_at(1, fire - HOUR - timedelta(seconds=1), weekly, again=False) == fire - timedelta(seconds=1)
    assert again_at(1, fire - HOUR, weekly, again=False) is None


def test_it_is_awaited_until_it_or_something_later_is_planned() -> None:
    again, own = again_name("crm", "bytes"), verify_timing(CRM, WEEKLY).key
    assert awaited(CRM, WEEKLY, {}) is None
    assert awaited(CRM, WEEKLY, {again: NOW}) == NOW
    assert awaited(CRM, WEEKLY, {again: NOW, own: NOW - DAY}) == NOW
    assert awaited(CRM, WEEKLY, {again: NOW, own: NOW}) is None
    assert next_start(CRM, WEEKLY, {again: NOW + HOUR, own: NOW - DAY}, NOW) == NOW + HOUR
    assert next_start(CRM, WEEKLY, {own: NOW}, NOW) == verify_timing(CRM, WEEKLY).next_start(NOW)


def test_a_level_needs_its_key() -> None:
    assert can_verify(CRM, "bytes")
    assert not can_verify(CRM, "content")
