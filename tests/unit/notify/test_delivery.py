"""Trying again, giving up, and holding back: properties of plain values."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.errors import UsageError
from backupd.notify.base import Notice, NotifyFailed, NotifyLater, NotifyRefused
from backupd.notify.delivery import (
    ALARM_ATTEMPTS,
    ORDINARY,
    START,
    Attempt,
    deliver,
    next_wait,
    patience_for,
    supersedes,
)
from backupd.notify.rate import Bucket, Rate, admit, leftover
from tests.unit.notify.kit import AT, notice

DRAWS = st.floats(0, 1, exclude_max=True)


@dataclass
class Failing:
    """A notifier that fails as it is told, in order; then it delivers."""

    failures: list[Exception]
    sent: list[Notice] = field(default_factory=list)
    name = "ops"
    kind = "webhook"

    def send(self, told: Notice) -> None:
        """Fail, or deliver."""
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(told)

    def preview(self, told: Notice) -> str:
        """Not asked here."""
        return told.title

    def close(self) -> None:
        """Nothing is held."""


def whole_life(failures: list[Exception], draw: float = 0.5, **changes: object) -> list[Attempt]:
    """All attempts at one notice, each made when it is due."""
    notifier, now, made = Failing(failures), AT, list[Attempt]()
    while not made or made[-1].outcome == "later":
        alarmed = any(each.alarm for each in made)
        clock = iter([now])
        made.append(
            deliver(
                notice(**changes),
                notifier,
                clock.__next__,
                attempts=len(made),
                since=AT,
                alarmed=alarmed,
                draw=lambda: draw,
            )
        )
        now = made[-1].next_try or now
    return made


def passing(after: float | None = None) -> NotifyFailed:
    """A failure that may pass."""
    return NotifyLater("trouble", retry=True, after=after)


def test_a_delivery_goes_on_for_about_a_day() -> None:
    """Then it is given up; the alarm comes once, and long before."""
    made = whole_life([passing() for _ in range(99)])
    assert made[-1].outcome == "failed"
    assert 15 <= len(made) <= ORDINARY.attempts
    last = made[-2].next_try
    assert last is not None
    assert timedelta(hours=20) < last - AT <= timedelta(hours=24)
    assert [n for n, each in enumerate(made, 1) if each.alarm] == [ALARM_ATTEMPTS]
    alarmed = made[ALARM_ATTEMPTS - 1].next_try
    assert alarmed is not None
    assert alarmed - AT < timedelta(hours=1)


def test_a_refusal_is_final_and_alarms_at_once() -> None:
    """It is not tried again."""
    assert whole_life([passing(7200), passing()])[0].alarm  # so is one that cannot be tried again within an hour
    (made,) = whole_life([NotifyRefused("no", retry=False)])
    assert made == Attempt("failed", 1, None, "no", "notify_refused", alarm=True)


def test_a_secret_that_cannot_be_had_may_be_mended() -> None:
    """The notice waits for it."""
    made = whole_life([UsageError("env:URL is not set"), passing()])
    assert [each.outcome for each in made] == ["later", "later", "sent"]
    assert made[0].code == "usage"
    assert made[-1] == Attempt("sent", 3)


def test_a_start_is_told_soon_or_never() -> None:
    """It is wrong once the run has ended; that it was not told alarms nobody."""
    made = whole_life([passing(3600) for _ in range(9)], started=True)
    assert [each.outcome for each in made] == ["later", "failed"]
    made = whole_life([passing() for _ in range(9)], started=True)
    assert len(made) <= START.attempts
    assert not any(each.alarm for each in made)
    assert patience_for(notice(started=True)) is START
    assert patience_for(notice()) is ORDINARY


def test_a_bug_is_not_taken_for_a_failed_delivery() -> None:
    """What is no expected failure goes on to whoever called."""
    with pytest.raises(ZeroDivisionError):
        whole_life([ZeroDivisionError()])


@settings(deadline=None)  # the machine may be busy
@given(attempts=st.integers(1, 10_000), after=st.none() | st.floats(allow_nan=False), draw=DRAWS)
def test_waits_are_bounded_and_never_shorter_than_asked(attempts: int, after: float | None, draw: float) -> None:
    """Retry-After is honoured up to its bound; without it waits lie a quarter around the doubled first one."""
    wait = next_wait(attempts, after, ORDINARY, lambda: draw)
    doubled = min(ORDINARY.first * 2 ** min(attempts - 1, 12), ORDINARY.longest)
    asked = min(timedelta(seconds=min(max(after or 0.0, 0.0), 1e6)), ORDINARY.asked)
    assert wait >= max(doubled * 0.75, asked)
    assert wait <= max(doubled * 1.25, asked)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.none() | st.floats(0, 1e6), max_size=60), DRAWS)
def test_no_delivery_outlives_its_bounds(afters: list[float | None], draw: float) -> None:
    """However often it fails and whatever is asked, attempts are bounded, in order, and end in one outcome."""
    made = whole_life([passing(after) for after in afters], draw)
    assert len(made) <= ORDINARY.attempts
    times = [each.next_try for each in made if each.next_try]
    assert times == sorted(set(times))
    assert all(AT < moment <= AT + ORDINARY.life for moment in times)
    assert [each.attempts for each in made] == list(range(1, len(made) + 1))
    assert sum(each.alarm for each in made) <= 1
    if made[-1].outcome == "failed":
        assert any(each.alarm for each in made)


def test_newer_news_replaces_older_of_the_same_matter() -> None:
    """A heartbeat knows one matter for each source; elsewhere it is the key."""
    old = notice()
    later = AT + timedelta(minutes=1)
    over = notice(resolved=True, level="ok", at=later)
    start = notice(event="success", started=True, at=later)
    assert supersedes(over, old, "pagerduty")
    assert not supersedes(old, over, "pagerduty")
    assert not supersedes(old, old, "pagerduty")
    assert not supersedes(notice(source="other", at=later), old, "slack")
    assert not supersedes(start, old, "slack")
    assert supersedes(start, old, "ping")
    assert not supersedes(over, old, "ping")


STEPS = st.lists(
    st.tuples(st.integers(-3600, 7200), st.sampled_from(["ok", "warn", "breach"]), st.booleans(), st.booleans()),
    max_size=120,
)


@settings(deadline=None)  # the machine may be busy
@given(STEPS)
def test_the_bucket_holds_what_it_promises(steps: list[tuple[int, str, bool, bool]]) -> None:
    """Resolutions and heartbeats always pass; the others within the rate; each held-back one is told of exactly once."""
    rate = Rate(burst=5, every=timedelta(minutes=2), reserve=2)
    bucket, now, passed, held, told = Bucket(), AT, 0, 0, 0
    newest = AT
    for seconds, level, resolved, heartbeat in steps:
        now += timedelta(seconds=seconds)
        newest = max(newest, now)
        given_notice = notice(level=level, resolved=resolved)
        before = bucket
        bucket, out = admit(bucket, given_notice, "ping" if heartbeat else "slack", now, rate)
        if resolved or heartbeat:
            assert (bucket, out) == (before, given_notice)
        elif out is None:
            held += 1
            assert bucket.held == before.held + 1
        else:
            passed += 1
            told += before.held
            assert bucket.held == 0
            assert (f"And {before.held} more" in out.text) is bool(before.held)
            assert replace(out, text=given_notice.text) == given_notice
        assert 0 <= (bucket.tokens or 0) <= rate.burst
    assert told + bucket.held == held
    assert passed <= rate.burst + (newest - AT) / rate.every


def test_a_flood_of_good_news_leaves_room_for_bad() -> None:
    """`ok` may not use the reserve; what was held back is told by the next one that passes, or by one of its own."""
    rate, bucket = Rate(burst=4, reserve=2), Bucket()
    outs = []
    for level in ["ok"] * 5 + ["breach"] * 3:
        bucket, out = admit(bucket, notice(level=level), "slack", AT, rate)
        outs.append(out)
    assert [out is not None for out in outs] == [True, True, False, False, False, True, True, False]
    assert outs[5] is not None
    assert outs[5].text.startswith("And 3 more")
    assert outs[6] is not None
    assert "more" not in outs[6].text
    assert bucket.held == 1
    assert leftover(bucket, AT + timedelta(minutes=1), rate) == 0
    assert leftover(bucket, AT + timedelta(minutes=8), rate) == 1
    assert leftover(Bucket(), AT, rate) == 0


def test_a_clock_that_is_set_back_gives_no_tokens() -> None:
    """Nor does it take any."""
    rate, bucket = Rate(burst=1, reserve=0), Bucket()
    bucket, _ = admit(bucket, notice(), "slack", AT, rate)
    for moment in (AT - timedelta(days=1), AT, AT + rate.every / 2):
        bucket, out = admit(bucket, notice(), "slack", moment, rate)
        assert out is None
    _, out = admit(bucket, notice(), "slack", AT + rate.every, rate)
    assert out is not None


def test_the_clock_is_asked_after_the_attempt() -> None:
    """A slow failure is not tried again at once."""
    moments = [AT + timedelta(minutes=10)]
    done = deliver(
        notice(), Failing([passing()]), lambda: moments.pop(), attempts=0, since=AT, draw=lambda: 0.5, patience=ORDINARY
    )
    assert isinstance(done.next_try, datetime)
    assert done.next_try == AT + timedelta(minutes=10, seconds=30)
