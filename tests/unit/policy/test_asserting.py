"""What a restored database answers is judged as a person would, and a text that it answers is never repeated."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from backupd.model import Answer
from backupd.policy.asserting import judge, number_in
from backupd.policy.model import Assertion

TAKEN = datetime(2026, 11, 28, 2, 30, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))


def judged(answer: Answer, before: float | None = None, **wanted: Any) -> tuple[bool, str]:
    return judge(Assertion(sql="select 1", **wanted), answer, before=before, taken_at=TAKEN)


@pytest.mark.parametrize(
    ("answer", "wanted", "passed"),
    [
        (1, {"min": 1}, True),
        (0, {"min": 1}, False),
        (1.5, {"min": 1, "max": 2}, True),
        (3, {"min": 1, "max": 2}, False),
        (None, {"min": 0}, False),
        ("12", {"min": 1}, False),
        (True, {"min": 1}, False),
        (float("nan"), {"min": 0}, False),
        (float("inf"), {"min": 0}, False),
        (2, {"equals": 2}, True),
        (2.0, {"equals": 2}, True),
        (2, {"equals": "2"}, True),
        ("ok", {"equals": "ok"}, True),
        ("OK", {"equals": "ok"}, False),
        (None, {"equals": "None"}, False),
        (True, {"equals": 1}, True),
        (True, {"equals": "true"}, True),
        (False, {"equals": 1}, False),
        (TAKEN - timedelta(hours=1), {"within": "2h"}, True),
        (TAKEN - timedelta(hours=3), {"within": "2h"}, False),
        ((TAKEN - timedelta(hours=1)).astimezone(INDIA), {"within": "2h"}, True),
        ((TAKEN - timedelta(hours=1)).replace(tzinfo=None), {"within": "2h"}, True),
        ("2026-11-28T01:30:00Z", {"within": "2h"}, True),
        ("2026-11-27 01:30:00", {"within": "2h"}, False),
        ("yesterday", {"within": "2h"}, False),
        (TAKEN + timedelta(hours=1), {"within": "2h"}, True),
        (TAKEN + timedelta(hours=3), {"within": "2h"}, False),
        ("9999-12-31", {"within": "2h"}, False),
        (10**400, {"min": 0}, False),
        (None, {"within": "2h"}, False),
    ],
)
def test_answers(answer: Answer, wanted: dict[str, Any], passed: bool) -> None:
    """Numbers are compared as numbers, and what is none has no bound that it keeps."""
    assert judged(answer, **wanted)[0] is passed


@pytest.mark.parametrize(
    ("answer", "before", "passed"),
    [(100, None, True), (95, 100, True), (94, 100, False), (200, 100, True), (0, 0, True), (None, 100, False)],
)
def test_a_fall_is_one_since_the_drill_before(answer: Answer, before: float | None, passed: bool) -> None:
    """In per cent of what was answered then; the first time there is nothing to compare with."""
    assert judged(answer, before, max_drop="5%")[0] is passed


def test_what_is_said() -> None:
    """Numbers and bounds are; a text is a customer's, and is not."""
    assert judged(12_000, 12_500, min=1, max_drop="5%") == (
        True,
        "12,000, at least 1 wanted, 4.0 % fewer than 12,500 at the drill before, at most 5 % fewer wanted",
    )
    passed, said = judged("canary@x", equals="other")
    assert (passed, said) == (False, "a text, not the value that is wanted")
    assert judged(None, min=1)[1] == "NULL, at least 1 wanted"


def test_numbers_that_can_be_kept() -> None:
    """Finite numbers, and no truth values."""
    assert [number_in(value) for value in (1, 2.5, True, None, "3", float("nan"), 10**400)] == [1, 2.5, *[None] * 5]
