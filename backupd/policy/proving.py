"""When stored data is verified, and when again after that failed: pure functions of policies and times.

A verification that could not be done, though that may pass, is tried again after an hour and then daily, until it is done or its
next time comes; it has had the tries that the policy gives it before. Damage does not heal by itself, nor does a wrong key: what
cannot pass is looked at once a day, so that its alert closes soon after somebody has mended it. Must never read a clock.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from backupd.policy.model import Policy, Verify
from backupd.policy.retrying import worth
from backupd.policy.schedule import Timing

SOON, DAILY = timedelta(hours=1), timedelta(days=1)
OVERDUE = 1.5
"""A proof is overdue after so many times the time within which it was promised."""
KEY_OF_LEVEL = {"structure": ("check", "read"), "bytes": ("check", "read"), "content": ("read",)}
"""Of each level the keys of which a policy must name one for it to be this host's work."""
_SPREAD = timedelta(hours=2)
"""Over so much time what comes every so often is spread, so that two hundred policies do not come at midnight together."""


def regular(key: str, every: timedelta) -> Timing:
    """What comes every so often, at a time of its own."""
    return Timing(key, every=every, jitter=min(_SPREAD, every / 2))


def verify_timing(policy: Policy, verify: Verify) -> Timing:
    """When a policy's repository is verified; its key is the name under which it is planned."""
    return regular(f"verify:{policy.policy}:{verify.level}:{verify.sample:g}", verify.every)


def can_verify(policy: Policy, level: str) -> bool:
    """Whether this host has a key with which it can verify at that level."""
    return any(getattr(policy.keys, role) for role in KEY_OF_LEVEL[level])


def again_name(policy: str, level: str) -> str:
    """Under this name it is remembered when a verification that failed is tried again."""
    return f"again:{policy}:{level}"


def again_at(code: int, failed_at: datetime, timing: Timing, *, again: bool) -> datetime | None:
    """When a verification that failed for good is tried again; None if its next time comes before.

    Args:
        code: its exit code.
        failed_at: when it ended.
        timing: its own times.
        again: whether it was such a try already.
    """
    wait = SOON if worth(code).again and not again else DAILY
    at = (failed_at + wait).replace(microsecond=0)
    following = next(timing.upcoming(failed_at), None)
    return at if following is None or at < following.at else None


def awaited(policy: Policy, verify: Verify, planned: Mapping[str, datetime]) -> datetime | None:
    """When a verification that failed is tried again, as long as that has not been planned, and nothing later has.

    Args:
        policy, verify: which.
        planned: for when everything was planned last, by its name.
    """
    at = planned.get(again_name(policy.policy, verify.level))
    last = planned.get(verify_timing(policy, verify).key)
    return at if at is not None and (last is None or at > last) else None


def next_start(policy: Policy, verify: Verify, planned: Mapping[str, datetime], now: datetime) -> datetime | None:
    """When a verification starts next; a time that has passed if it is due and not planned yet."""
    again, own = awaited(policy, verify, planned), verify_timing(policy, verify).next_start(now)
    return min((at for at in (again, own) if at is not None), default=None)
