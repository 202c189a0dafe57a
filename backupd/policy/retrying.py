"""Whether and when a run that failed is tried again: a pure function of how it ended, how often, and the time.

What would end the same way however often it is tried is for people, not for the clock. Must never try again what a safety rule
or a forged object stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.errors import Exit
from backupd.policy.schedule import Timing, share

LONGEST = timedelta(hours=6)
"""No wait is longer, but for the backoff itself."""
_SPREAD = 0.25


@dataclass(frozen=True, slots=True)
class Worth:
    """Whether an ending is worth another try, and why."""

    again: bool
    why: str


ENDINGS: Mapping[Exit, Worth] = {
    Exit.DONE: Worth(False, "it is done"),
    Exit.FAILED: Worth(
        True, "what failed is not known to last: a hook, a full disk of this machine, a process that was killed"
    ),
    Exit.USAGE: Worth(False, "the policy or the configuration has to be changed first"),
    Exit.INCOMPLETE: Worth(
        True, "what could not be read may be there again: a table that was being rebuilt, a lost connection"
    ),
    Exit.INTEGRITY: Worth(False, "damaged or forged objects do not heal, and somebody has to look"),
    Exit.OBJECTIVE_MISSED: Worth(False, "this is a finding and no failure"),
    Exit.NO_REPOSITORY: Worth(True, "a disk may not be mounted yet"),
    Exit.BUSY: Worth(True, "whoever is at work here will be done"),
    Exit.WRONG_KEY: Worth(False, "the right key has to be put there first"),
    Exit.STORAGE_REFUSED: Worth(True, "credentials are renewed and quotas freed, and a backup must not miss it"),
    Exit.UNREACHABLE: Worth(True, "a server that restarts will be back"),
    Exit.SAFETY: Worth(False, "a safety rule asks for a person"),
    Exit.TRY_AGAIN: Worth(True, "it says so itself"),
    Exit.INTERRUPTED: Worth(False, "somebody asked for the end"),
    Exit.TERMINATED: Worth(False, "somebody asked for the end"),
}
_DIED = Worth(True, "the process died, and did not say of what")


def worth(code: int) -> Worth:
    """Whether a run that ended with this exit code is worth another try; a code that is none of ours, or a signal's, is."""
    try:
        return ENDINGS[Exit(code)]
    except ValueError:
        return _DIED


@dataclass(frozen=True, slots=True)
class Retries:
    """What a policy says of it.

    Attributes:
        attempts: how often a run is tried altogether.
        backoff: the wait after the first failure; it doubles each time.
    """

    attempts: int = 3
    backoff: timedelta = timedelta(minutes=5)


def retry_at(attempt: int, code: int, failed_at: datetime, retries: Retries, timing: Timing) -> datetime | None:
    """When to try again; None if not at all, or if the next planned run comes before it.

    Waits are spread by up to a quarter, the same for the same source and moment, so that sources that failed together do not
    come back together. A retry inside a maintenance window is put off to its end.

    Args:
        attempt: the one that failed, 1 for the first.
        code: its exit code.
        failed_at: when it ended.
        retries: what the policy says.
        timing: the source's schedule.
    """
    if attempt >= retries.attempts or not worth(code).again:
        return None
    wait = max(retries.backoff, min(retries.backoff * 2 ** min(attempt - 1, 20), LONGEST))
    at = failed_at + wait * (1 + _SPREAD * share(timing.key, failed_at))
    if timing.blackout:
        at = timing.blackout.free_from(at)
    following = next(timing.upcoming(failed_at), None)
    return at if following is None or at < following.start else None
