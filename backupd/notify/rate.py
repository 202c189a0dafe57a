"""How many notices a notifier is given: a token bucket, whose state is a plain value that the caller keeps.

What is held back is counted and told with the next notice. It must never hold back what a state hangs on: resolutions, and
heartbeats, whose absence is an alarm.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from backupd.notify.base import Notice


@dataclass(frozen=True, slots=True)
class Rate:
    """The bounds.

    Attributes:
        burst: notices at once.
        every: after so long one more.
        reserve: of the burst, so many are left for notices that are not `ok`.
    """

    burst: int = 20
    every: timedelta = timedelta(minutes=2)
    reserve: int = 10


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left.

    Attributes:
        tokens: at `at`; None stands for a bucket that was never used, which is full.
        at: when that was.
        held: notices held back and not told of yet.
    """

    tokens: float | None = None
    at: datetime | None = None
    held: int = 0


def admit(bucket: Bucket, notice: Notice, kind: str, now: datetime, rate: Rate) -> tuple[Bucket, Notice | None]:
    """The bucket afterwards, and the notice to deliver, with what was held back before it; None if it is held back itself."""
    if kind == "ping" or notice.resolved:
        return bucket, notice
    filled = _filled(bucket, now, rate)
    left = rate.reserve if notice.level == "ok" else 0
    tokens = filled.tokens or 0.0
    if tokens < 1 + left:
        return replace(filled, held=filled.held + 1), None
    return replace(filled, tokens=tokens - 1, held=0), told(notice, filled.held)


def leftover(bucket: Bucket, now: datetime, rate: Rate) -> int:
    """How many held-back notices deserve a notice of their own now: none came that could have told of them."""
    full = (_filled(bucket, now, rate).tokens or 0.0) >= rate.burst
    return bucket.held if full else 0


def told(notice: Notice, held: int) -> Notice:
    """The notice with a sentence on how many were held back."""
    if not held:
        return notice
    sentence = f"And {held} more: so many notices were held back, because there were too many at once."
    return replace(notice, text=f"{sentence}\n{notice.text}")


def _filled(bucket: Bucket, now: datetime, rate: Rate) -> Bucket:
    if bucket.tokens is None or bucket.at is None:
        return replace(bucket, tokens=float(rate.burst), at=now)
    passed = max(now - bucket.at, timedelta(0))  # a clock that was set back gives nothing, and takes nothing
    return replace(bucket, tokens=min(float(rate.burst), bucket.tokens + passed / rate.every), at=max(now, bucket.at))
