"""How the verifications that policies promise stand, as the catalog knows: when they passed, what failed, what is next."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from backupd.catalog.alerts import Alert
from backupd.catalog.checks import Verification
from backupd.catalog.opening import Catalog
from backupd.config.clock import stamp
from backupd.jobs.status import Level, SourceStatus
from backupd.policy.model import Policy, Verify
from backupd.policy.proving import OVERDUE, Promise, can_verify, verification
from backupd.policy.words import written

_MOST = 5000


@dataclass(frozen=True, slots=True)
class Proof:
    """One level at which a policy has its repository verified.

    Attributes:
        last_ok: when it was last found whole.
        overdue: that is too long ago, or never was.
        failed: what its open alert says; empty if there is none.
        damage: whether something was found that is not mended.
        next_at: when it is verified next, or tried again.
    """

    verify: Verify
    last_ok: datetime | None
    overdue: bool
    failed: str = ""
    damage: bool = False
    next_at: datetime | None = None

    def told(self, now: datetime) -> str:
        """What is wrong, in a sentence; empty if nothing is."""
        level = self.verify.level
        if self.failed:
            return f"its verification (level {level}) failed: {self.failed}; {following(self.next_at, now)}"
        if self.overdue:
            since = f"since {stamp(self.last_ok)}" if self.last_ok else "yet"
            return f"no verification (level {level}) has passed {since}, promised every {written(self.verify.every)}"
        return ""


def following(next_at: datetime | None, now: datetime) -> str:
    """When the next one is, in words; None: nobody here knows."""
    if next_at is None:
        return "the next one is on another host"
    return f"the next one is at {stamp(next_at)}" if next_at > now else "the next one is due now"


class Ahead:
    """When proofs come next, as the catalog knows, read once."""

    def __init__(self, catalog: Catalog, now: datetime) -> None:
        self.now, self.planned = now, catalog.plans.planned()
        self._waiting: dict[tuple[str, str, str], datetime] = {}
        for job in catalog.queue.list(["queued"], limit=_MOST):
            if job.spec.kind in {"verify", "drill"}:
                about = job.spec.source if job.spec.kind == "drill" else job.spec.payload.get("level")
                place = (job.spec.kind, job.spec.policy, str(about or ""))
                self._waiting[place] = min(job.due, self._waiting.get(place, job.due))

    def next(self, promise: Promise) -> datetime | None:
        """When a job of this kind is to begin; a time that has passed if it is due."""
        waiting = self._waiting.get((promise.kind, promise.policy, promise.about))
        return min((at for at in (waiting, promise.next_start(self.planned, self.now)) if at is not None), default=None)


class Proofs:
    """What the catalog knows of verifications, read once; `alerts` are those that are open."""

    def __init__(self, catalog: Catalog, alerts: Iterable[Alert], ahead: Ahead) -> None:
        self._now, self._planned, self._ahead = ahead.now, ahead.planned, ahead
        self._good: Mapping[tuple[str, str], Verification] = catalog.verifications.newest(ok_only=True)
        alerts = [alert for alert in alerts if alert.event == "verify_failed"]
        self._failed = {(alert.policy, alert.source): alert.sentence for alert in alerts}
        levels = [(alert.policy, (alert.source or "").removeprefix("level ")) for alert in alerts]
        self._damaged = {place for place in levels if catalog.verifications.damage(*place)}

    def of(self, policy: Policy) -> Iterator[Proof]:
        """Of each level that a policy promises, but for those that are left to a host of which nothing is known here."""
        begun = min(
            (at for name, at in self._planned.items() if name.startswith(f"since:{policy.policy}/")), default=self._now
        )
        for verify in policy.verify:
            place = (policy.policy, verify.level)
            good, mine = self._good.get(place), can_verify(policy, verify.level)
            failed = self._failed.get((policy.policy, f"level {verify.level}"), "")
            if good is None and not mine and not failed:
                continue
            last = good.ended if good else None
            late = self._now - (last or begun) > verify.every * OVERDUE
            next_at = self._ahead.next(verification(policy, verify)) if mine else None
            yield Proof(verify, last, late, failed, place in self._damaged, next_at)

    def tell(self, policy: Policy, sources: list[SourceStatus]) -> None:
        """Say of each source of a policy what is wrong with its verifications."""
        for proof in self.of(policy):
            told = proof.told(self._now)
            missed = proof.overdue or (proof.damage and proof.failed)
            for status in sources if told else []:
                status.worse(Level.BREACH if missed else Level.WARN, told)
