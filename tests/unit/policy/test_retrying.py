"""What is tried again, when, and what never."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.errors import Exit
from backupd.policy.blackout import Blackout, parse_window
from backupd.policy.retrying import ENDINGS, LONGEST, Retries, retry_at, worth
from backupd.policy.schedule import Timing

NOW = datetime(2026, 11, 2, 2, 35, tzinfo=UTC)
NIGHTLY = Timing("p/s", "30 2 * * *")
MINUTE = timedelta(minutes=1)


def test_which_endings_are_worth_another_try() -> None:
    """Each code has its reason; what a person has to mend is never tried again, and a process that was killed is."""
    assert set(ENDINGS) == set(Exit)
    assert {code for code in Exit if worth(code).again} == {
        Exit.FAILED, Exit.INCOMPLETE, Exit.NO_REPOSITORY, Exit.BUSY, Exit.STORAGE_REFUSED, Exit.UNREACHABLE, Exit.TRY_AGAIN,
    }  # fmt: skip
    assert all(worth(code).why for code in Exit)
    assert worth(-9).again
    assert worth(137).again


def test_waits_double_and_attempts_end() -> None:
    retries = Retries(attempts=4, backoff=5 * MINUTE)
    waits = [retry_at(n, Exit.TRY_AGAIN, NOW, retries, NIGHTLY) for n in (1, 2, 3)]
    for wait, least in zip(waits, (5, 10, 20), strict=True):
        assert wait is not None
        assert least * MINUTE <= wait - NOW < least * MINUTE * 1.25
    assert retry_at(4, Exit.TRY_AGAIN, NOW, retries, NIGHTLY) is None
    assert retry_at(1, Exit.TRY_AGAIN, NOW, Retries(attempts=1), NIGHTLY) is None


@pytest.mark.parametrize("code", [Exit.USAGE, Exit.INTEGRITY, Exit.WRONG_KEY, Exit.SAFETY, Exit.DONE, Exit.TERMINATED])
def test_never(code: Exit) -> None:
    assert retry_at(1, code, NOW, Retries(), NIGHTLY) is None


def test_the_next_run_is_the_better_retry() -> None:
    often = Timing("p/s", every=10 * MINUTE)
    assert retry_at(1, Exit.BUSY, NOW, Retries(backoff=10 * MINUTE), often) is None
    assert retry_at(1, Exit.BUSY, NOW, Retries(backoff=MINUTE), often) is not None
    assert retry_at(1, Exit.BUSY, NOW, Retries(), Timing("p/s")) is not None


def test_a_retry_waits_for_the_end_of_a_window() -> None:
    windows = Blackout([parse_window("02:37-06:00")], ZoneInfo("UTC"))
    assert retry_at(1, Exit.BUSY, NOW, Retries(), Timing("p/s", "30 2 * * *", blackout=windows)) == NOW.replace(
        hour=6, minute=0
    )


@given(st.integers(1, 30), st.sampled_from(sorted(Exit)), st.integers(1, 20), st.integers(1, 86400))
def test_waits_are_bounded_and_the_same_whoever_asks(attempt: int, code: Exit, attempts: int, seconds: int) -> None:
    retries = Retries(attempts, timedelta(seconds=seconds))
    never = Timing("p/s")
    at = retry_at(attempt, code, NOW, retries, never)
    assert at == retry_at(attempt, code, NOW, retries, never)
    assert (at is not None) == (attempt < attempts and worth(code).again)
    if at is not None:
        assert retries.backoff <= at - NOW < max(retries.backoff, LONGEST) * 1.25
