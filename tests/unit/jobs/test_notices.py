"""Notices of what happened: their keys and levels, their sentences, and who hears of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backupd.errors import Exit
from backupd.jobs import notices
from backupd.jobs.incident import State
from backupd.notify.base import Notice
from backupd.policy.model import Event, Policy

AT = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
GOOD = AT - timedelta(hours=30)
DAY = timedelta(hours=24)

PAIRS: list[tuple[str, str, Callable[[], Notice], Callable[[], Notice]]] = [
    (
        "failure", "warn",
        lambda: notices.run_failed("p", "s", "r", AT, exit_code=14, code="unreachable", last_good=GOOD),
        lambda: notices.run_done("p", "s", "r2", AT, seconds=5, failed_before=True)[1],
    ),
    (
        "rpo_breach", "breach",
        lambda: notices.rpo_breach("p", "s", AT, rpo=DAY, last_good=GOOD),
        lambda: notices.rpo_kept("p", "s", AT, rpo=DAY, last_good=AT),
    ),
    (
        "verify_failed", "breach",
        lambda: notices.verify_failed("p", "r", AT, level="content", problems=2),
        lambda: notices.verify_passed("p", "r2", AT, level="content"),
    ),
    ("brake", "breach", lambda: notices.brake_set("p", "s", "r", AT, signs=1), lambda: notices.brake_released("p", "s", AT)),
    (
        "lock_short", "breach",
        lambda: notices.lock_short("p", AT, promised=30 * DAY, locked_until=AT + DAY),
        lambda: notices.lock_kept("p", AT, locked_until=AT + 30 * DAY),
    ),
    (
        "drill_failed", "breach",
        lambda: notices.drill_failed("p", "s", "r", AT, failed=1, checks=3),
        lambda: notices.drill_passed("p", "s", "r2", AT),
    ),
    (
        "drill_failed", "breach",
        lambda: notices.drill_slow("p", "s", "r", AT, took=2 * DAY, rto=DAY, again=AT + DAY),
        lambda: notices.drill_passed("p", "s", "r2", AT),
    ),
    (
        "drill_failed", "warn",
        lambda: notices.drill_untried("p", "s", "r", AT, exit_code=14, code="unreachable"),
        lambda: notices.drill_passed("p", "s", "r2", AT),
    ),
    (
        "notify_failed", "warn",
        lambda: notices.notify_failed("p", "ops", AT, since=GOOD, attempts=5, code="notify_refused"),
        lambda: notices.notify_works("p", "ops", AT),
    ),
    (
        "incident", "breach",
        lambda: notices.incident_state("p", "s", "ab" * 8, AT, state=State("orders are gone", rate=5_000_000, left=10_000_000)),
        lambda: notices.incident_over("p", "s", "ab" * 8, AT, summary="all came back"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("event", "level", "made", "over"), PAIRS)
def test_each_matter_has_a_notice_and_its_end(
    event: str, level: str, made: Callable[[], Notice], over: Callable[[], Notice]
) -> None:
    """Both have one key; the first says what to do, and both name the policy and a time."""
    first, last = made(), over()
    assert (first.event, first.level, first.resolved) == (event, level, False)
    assert (last.event, last.level, last.resolved) == (event, "ok", True)
    assert first.key == last.key
    assert first.id != last.id
    assert " UTC" in first.text + first.title
    assert "p" in first.title
    assert len(first.text.split("\n")) >= 2


def test_every_event_of_a_policy_has_a_notice() -> None:
    """And no notice has an event that a policy cannot name."""
    assert {event for event, *_ in PAIRS} | {"success"} == set(Event.__args__)  # type: ignore[attr-defined]


def test_a_failure_says_when_it_was_well_and_what_to_do() -> None:
    """By its exit code; damage is a breach at once."""
    made = notices.run_failed("p", "s", "r", AT, exit_code=14, code="unreachable", last_good=GOOD, next_run=AT + DAY)
    assert made.text.split("\n") == [
        "It failed at 2026-03-04 05:06 UTC: unreachable (exit 14).",
        "The newest good snapshot was taken: 2026-03-02 23:06 UTC.",
        "The next run is at 2026-03-05 05:06 UTC.",
        "The source cannot be reached: see whether it runs, and run `backupctl doctor`.",
    ]
    assert (made.exit, made.run) == (14, "r")
    never = notices.run_failed("p", "s", "r", AT, exit_code=4, code="integrity", last_good=None)
    assert "taken: never." in never.text
    assert never.level == "breach"
    for code in [*Exit, 9, -9, 255]:
        made = notices.run_failed("p", "s", "r", AT, exit_code=int(code), code="x", last_good=None)
        assert made.text.split("\n")[-1].endswith((".", "?"))


def test_a_success_is_one_notice_unless_something_was_wrong() -> None:
    """Its warnings are counted."""
    (made,) = notices.run_done("p", "s", "r", AT, seconds=3725.4, warnings=2)
    assert (made.event, made.exit, made.started) == ("success", 0, False)
    assert "after 3725s" in made.text
    assert "2 warnings" in made.text
    assert "none" not in notices.verify_failed("p", "r", AT, level="bytes", problems=0).text
    assert notices.verify_failed("p", "r", AT, level="bytes", problems=0).level == "warn"
    assert "the restore itself" in notices.drill_failed("p", "s", "r", AT, failed=0, checks=3).text


def policy(**changes: Any) -> Policy:
    """A policy with a heartbeat, a chat and a pager."""
    values: dict[str, Any] = {
        "policy": "p",
        "sources": [{"name": "s", "url": "sqlite:////a.db"}],
        "repository": {"url": "/b"},
        "notify": [
            {"on": ["success"], "to": "heartbeat"},
            {"on": ["failure", "rpo_breach"], "to": "pager"},
            {"on": ["failure", "success"], "to": "chat"},
            {"on": ["success"], "to": "chat"},
        ],
        "notifiers": {
            "heartbeat": {"ping": "env:A"},
            "pager": {"pagerduty": "env:B"},
            "chat": {"slack": "env:C"},
            "mail": {"email": "a@b.example"},
        },
    }
    return Policy(**{**values, **changes})


def test_a_notice_goes_to_those_that_its_policy_names() -> None:
    """Each once; starts go to heartbeats only."""
    done, over = notices.run_done("p", "s", "r", AT, seconds=1, failed_before=True)
    assert notices.recipients(policy(), done) == ("heartbeat", "chat")
    assert notices.recipients(policy(), over) == ("pager", "chat")
    assert notices.recipients(policy(), notices.run_started("p", "s", "r", AT)) == ("heartbeat",)
    assert notices.recipients(policy(), notices.brake_set("p", "s", "r", AT, signs=1)) == ()
    assert notices.kind_of(policy().notifiers["mail"]) == "email"


def test_a_failing_notifier_is_told_by_the_others() -> None:
    """By those that hear of it; if there is none, by those that hear of failures; never by itself."""
    made = notices.notify_failed("p", "chat", AT, since=GOOD, attempts=5, code="notify_refused")
    assert notices.recipients(policy(), made, "chat") == ("pager",)
    assert notices.recipients(policy(), made, "pager") == ("chat",)
    named = policy(notify=[{"on": ["notify_failed"], "to": "mail"}, {"on": ["failure"], "to": "chat"}])
    assert notices.recipients(named, made, "chat") == ("mail",)
    assert notices.recipients(named, made, "mail") == ("chat",)
    assert notices.recipients(policy(notify=[{"on": ["failure"], "to": "chat"}]), made, "chat") == ()


def test_notices_of_one_policy_and_another_notifier_differ() -> None:
    """That something was held back, or is a test, is a matter of its own."""
    made = notices.held_back("p", "ops", AT, held=37)
    assert made.title == "37 notices of p were held back"
    assert notices.held_back("p", "ops", AT, held=1).title == "1 notice of p was held back"
    trial = notices.trial_notice("p", "ops", AT)
    assert trial.event == "test"
    assert "TEST" in trial.title
    keys = {made.key, trial.key, *(each().key for _, _, each, _ in PAIRS)}
    assert len(keys) == 2 + len({event for event, *_ in PAIRS})
