"""What becomes of a verification that has ended: its alert, who hears of it, and when it is tried again.

Damage that was found stays the alert's subject until a verification finds nothing, though the storage be away meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from backupd.catalog.checks import Verification
from backupd.catalog.opening import Catalog
from backupd.catalog.queue import JobSpec
from backupd.catalog.runs import RunEnd
from backupd.daemon import endings
from backupd.daemon.tries import Tries
from backupd.errors import Exit
from backupd.jobs import notices
from backupd.notify.base import Notice
from backupd.policy.model import Policy
from backupd.policy.proving import again_name, verifications
from backupd.policy.retrying import worth


@dataclass(frozen=True, slots=True)
class Found:
    """A verification that has ended for good: its job, how it ended, and how many problems it told of."""

    spec: JobSpec
    job: str
    end: RunEnd
    problems: int = 0

    @property
    def level(self) -> str:
        """Of the verification."""
        return str(self.spec.payload.get("level", ""))

    @property
    def about(self) -> str:
        """What its alert is about."""
        return f"level {self.level}"

    @property
    def damage(self) -> int:
        """How many problems there are: at least one if it says that what is stored is damaged or forged."""
        return max(self.problems, 1) if self.end.error_exit == Exit.INTEGRITY else self.problems


class Proofs:
    """For the main thread.

    Args:
        catalog: where it is written down.
        tell: has a policy's people told.
    """

    def __init__(self, catalog: Catalog, tell: Callable[[Policy, Notice], None]) -> None:
        self._catalog, self._tries = catalog, Tries("verify_failed", catalog, tell)

    def ended(self, policy: Policy, found: Found, now: datetime) -> None:
        """It has ended, and is not tried again but as a new job."""
        done = found.end.outcome == "done"
        begun = endings.moment(found.spec.payload.get("due")) or now
        # what an end that is written down for the second time, after an error, has said of itself does not count
        before = None if done else self._catalog.verifications.damage(policy.policy, found.level, now)
        self._catalog.verifications.add(
            Verification(policy.policy, found.level, min(begun, now), now, done, found.damage)
        )
        if not done:
            self._failed(policy, found, now, before)
            return
        self._catalog.plans.forget(again_name("verify", policy.policy, found.level))
        notice = notices.verify_passed(policy.policy, found.job, now, level=found.level)
        self._tries.passed(policy, found.about, notice, now)

    def lost(self, policy: Policy, spec: JobSpec, job: str, now: datetime, why: str) -> None:
        """It is over, and nobody wrote down how."""
        found = Found(spec, job, RunEnd("lost", "lost", int(Exit.FAILED), why))
        self._failed(policy, found, now, self._catalog.verifications.damage(policy.policy, found.level))

    def _failed(self, policy: Policy, found: Found, now: datetime, before: Verification | None) -> None:
        code, again = found.end.error_exit or int(Exit.FAILED), bool(found.spec.payload.get("again"))
        promise, name = verifications(policy).get(found.level), again_name("verify", policy.policy, found.level)
        following = self._tries.again(promise, name, now, passes=worth(code).again, again=again)
        problems = found.damage or (before.problems if before else 0)
        notice = notices.verify_failed(
            policy.policy, found.job, now, level=found.level, problems=problems, again=following
        )
        worse = bool(found.damage) and before is None
        self._tries.failed(policy, found.about, _said(found, before), notice, now, known=again and not worse)


def _said(found: Found, before: Verification | None) -> str:
    """The sentence of its alert."""
    why = found.end.error_message or "it could not be done"
    if found.problems:
        return f"it found {found.problems} problem" + ("" if found.problems == 1 else "s")
    if before is None or found.damage:
        return why
    many = f"{before.problems} problem" + ("" if before.problems == 1 else "s")
    return f"it found {many} at {notices.when(before.ended)}, and could not be done since: {why}"
