"""When stored data is verified and restores are drilled, and when again after that failed: functions of policies and times.

A proof that could not be had, though that may pass, is tried again after an hour and then daily, until it is had or its next
time comes; it has had the tries that the policy gives it before. Damage does not heal by itself, nor does a wrong key: what
cannot pass is looked at once a day, so that its alert closes soon after somebody has mended it. Must never read a clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from backupd.policy.model import Policy, Verify
from backupd.policy.schedule import Timing

SOON, DAILY = timedelta(hours=1), timedelta(days=1)
OVERDUE = 1.5
"""A proof is overdue after so many times the time within which it was promised."""
KEY_OF_LEVEL = {"structure": ("check", "read"), "bytes": ("check", "read"), "content": ("read",)}
"""Of each level the keys of which a policy must name one for it to be this host's work."""
Kind = Literal["verify", "drill"]
_SPREAD = timedelta(hours=2)
"""Over so much time what comes every so often is spread, so that two hundred policies do not come at midnight together."""


def regular(key: str, every: timedelta) -> Timing:
    """What comes every so often, at a time of its own."""
    return Timing(key, every=every, jitter=min(_SPREAD, every / 2))


@dataclass(frozen=True, slots=True)
class Promise:
    """A proof that a policy promises again and again.

    Attributes:
        kind: of the jobs that bring it.
        policy: whose.
        about: the level of a verification, the source of a drill.
        timing: its own times; its key is the name under which it is planned.
    """

    kind: Kind
    policy: str
    about: str
    timing: Timing

    @property
    def again_name(self) -> str:
        """Under this name it is remembered when it is tried again, after it failed."""
        return again_name(self.kind, self.policy, self.about)

    def again_at(self, failed_at: datetime, *, passes: bool, again: bool) -> datetime | None:
        """When it is tried again, after it failed for good; None if its next time comes before.

        Args:
            failed_at: when it ended.
            passes: whether what was in the way may pass by itself.
            again: whether it was such a try already.
        """
        at = (failed_at + (SOON if passes and not again else DAILY)).replace(microsecond=0)
        following = next(self.timing.upcoming(failed_at), None)
        return at if following is None or at < following.at else None

    def awaited(self, planned: Mapping[str, datetime]) -> datetime | None:
        """When it is tried again after it failed, as long as that has not been planned, and nothing later has.

        Args:
            planned: for when everything was planned last, by its name.
        """
        at, last = planned.get(self.again_name), planned.get(self.timing.key)
        return at if at is not None and (last is None or at > last) else None

    def next_start(self, planned: Mapping[str, datetime], now: datetime) -> datetime | None:
        """When it starts next; a time that has passed if it is due and not planned yet."""
        found = (self.awaited(planned), self.timing.next_start(now))
        return min((at for at in found if at is not None), default=None)


def again_name(kind: Kind, policy: str, about: str) -> str:
    """The same of a proof that may not be promised any more."""
    return f"again:{'drill:' if kind == 'drill' else ''}{policy}:{about}"


def verification(policy: Policy, verify: Verify) -> Promise:
    """That a policy's repository is verified."""
    timing = regular(f"verify:{policy.policy}:{verify.level}:{verify.sample:g}", verify.every)
    return Promise("verify", policy.policy, verify.level, timing)


def verifications(policy: Policy) -> dict[str, Promise]:
    """Those that a policy promises, by their level."""
    return {verify.level: verification(policy, verify) for verify in policy.verify}


def drills(policy: Policy) -> dict[str, Promise]:
    """The drills that a policy promises, by their source's name."""
    if policy.drill is None:
        return {}
    name, every = policy.policy, policy.drill.every
    return {
        source.name: Promise("drill", name, source.name, regular(f"drill:{name}:{source.name}", every))
        for source in policy.sources
    }


def can_verify(policy: Policy, level: str) -> bool:
    """Whether this host has a key with which it can verify at that level."""
    return any(getattr(policy.keys, role) for role in KEY_OF_LEVEL[level])


def can_drill(policy: Policy) -> bool:
    """Whether this host has a key with which it can restore."""
    return policy.keys.read is not None
