"""One attempt to deliver a notice, and when the next one is due.

Nothing here keeps anything: what a caller must remember between two attempts are the numbers that it gets back. It must never try
again what was refused for good, and never sooner than it was asked to wait.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from backupd.errors import UsageError
from backupd.notify.base import Notice, Notifier, NotifyFailed

Outcome = Literal["sent", "later", "failed"]
ALARM_ATTEMPTS, ALARM_TIME = 5, timedelta(hours=1)
"""From so many failed attempts on, or where the next one is later than that, a delivery is worth an alarm of its own."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one notice is tried.

    Attributes:
        first: the wait after the first attempt; doubled each time.
        longest: the longest wait by doubling.
        attempts: in all.
        life: after the first attempt nothing is tried any more when so much time has passed.
        asked: the longest Retry-After that is honoured; one beyond it counts as this.
    """

    first: timedelta = timedelta(seconds=30)
    longest: timedelta = timedelta(hours=2)
    attempts: int = 24
    life: timedelta = timedelta(hours=24)
    asked: timedelta = timedelta(hours=6)


ORDINARY = Patience()
"""About a day: 30 s, 1 min, ... 64 min, then every two hours."""
START = Patience(attempts=3, life=timedelta(minutes=2), asked=timedelta(minutes=2))
"""Two minutes: the news that a run began is worth nothing later, and wrong once it ended."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended.

    Attributes:
        outcome: sent; later: to be tried again at `next_try`; failed: given up.
        attempts: how many there were with this one.
        next_try: when the next one is due.
        error: what failed, in a sentence that may be shown.
        code: the error's word.
        alarm: people should now be told, by another way, that this notifier fails.
    """

    outcome: Outcome
    attempts: int
    next_try: datetime | None = None
    error: str | None = None
    code: str | None = None
    alarm: bool = False


def patience_for(notice: Notice) -> Patience:
    """How long a notice is worth trying."""
    return START if notice.started else ORDINARY


def next_wait(attempts: int, after: float | None, patience: Patience, draw: Callable[[], float]) -> timedelta:
    """How long to wait after so many attempts.

    Args:
        attempts: that were made, at least one.
        after: seconds that the other side asked for.
        patience: the bounds.
        draw: gives a number from 0 up to 1: waits differ by a quarter either way, so that many do not come back together.
    """
    doubled: timedelta = min(patience.first * 2 ** min(attempts - 1, 30), patience.longest)
    wait: timedelta = doubled * (0.75 + 0.5 * draw())
    if after is None:
        return wait
    return max(wait, min(timedelta(seconds=min(max(after, 0.0), 1e9)), patience.asked))


def deliver(
    notice: Notice,
    notifier: Notifier,
    now: Callable[[], datetime],
    *,
    attempts: int,
    since: datetime,
    alarmed: bool = False,
    draw: Callable[[], float],
    patience: Patience | None = None,
) -> Attempt:
    """Try once.

    A secret that cannot be had, or is not what the notifier needs, is tried again too: it may be mended while the notice waits.

    Args:
        notice, notifier: what, and by which way.
        now: the clock; asked when the attempt has ended.
        attempts: that were made before.
        since: when the first one was made; now, if this is it.
        alarmed: whether an attempt at this notice asked for the alarm already: it is asked for once.
        draw: random numbers from 0 up to 1.
        patience: the bounds; None for those that suit the notice.
    """
    patience = patience or patience_for(notice)
    try:
        notifier.send(notice)
    except (NotifyFailed, UsageError) as error:
        retry, after = (error.retry, error.after) if isinstance(error, NotifyFailed) else (True, None)
        made = attempts + 1
        due = now() + next_wait(made, after, patience, draw)
        quiet = alarmed or notice.started  # a start that was not told is nothing to worry about
        if retry and made < patience.attempts and due <= since + patience.life:
            long = made >= ALARM_ATTEMPTS or due > since + ALARM_TIME
            return Attempt("later", made, due, error.message, error.code, alarm=long and not quiet)
        return Attempt("failed", made, None, error.message, error.code, alarm=not quiet)
    return Attempt("sent", attempts + 1)


def supersedes(new: Notice, old: Notice, kind: str) -> bool:
    """Whether an older notice that still waits is needless, or would be wrong, once the same notifier is given `new`.

    Late news must not overtake newer: an incident would be opened again that was resolved, a heartbeat would turn back.
    """
    if new.id == old.id or new.at < old.at:
        return False
    if kind == "ping":
        return (new.policy, new.source) == (old.policy, old.source) and not new.resolved
    return new.key == old.key
