"""How the drills that policies promise stand, as the catalog knows: what the newest one came to, what failed, what is next."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from backupd.catalog.alerts import Alert
from backupd.catalog.checks import Drill
from backupd.catalog.opening import Catalog
from backupd.jobs.proven import Ahead, following
from backupd.jobs.status import Known, Level, SourceStatus, age
from backupd.policy.model import Policy
from backupd.policy.proving import can_drill, drills


@dataclass(frozen=True, slots=True)
class Restored:
    """What is known of a source's restores.

    Attributes:
        failed_at: when the newest drill ended, if it did not pass and none has since.
        seconds: how long the restore of the newest drill took that had one.
    """

    failed_at: datetime | None
    seconds: float | None


class Drilled:
    """What the catalog knows of drills, read once; `alerts` are those that are open."""

    def __init__(self, catalog: Catalog, alerts: Iterable[Alert], ahead: Ahead) -> None:
        self._ahead = ahead
        self._newest: Mapping[tuple[str, str], Drill] = catalog.drills.newest()
        self._passed: Mapping[tuple[str, str], Drill] = catalog.drills.newest(passed_only=True)
        self._alerts = {(a.policy, a.source or ""): a for a in alerts if a.event == "drill_failed"}

    def learn(self, policy: Policy, known: Mapping[str, Known]) -> dict[str, Known]:
        """What is known of snapshots, with the drills since the repository was looked at."""
        found = dict(known)
        for name, mine in known.items():
            passed = self._passed.get((policy.policy, name))
            if passed is not None:
                found[name] = replace(mine, drilled_at=max(passed.ended, mine.drilled_at or passed.ended))
        return found

    def of(self, policy: Policy, status: SourceStatus) -> Restored:
        """What is known of one source's restores."""
        place = (policy.policy, status.name)
        newest, passed = self._newest.get(place), self._passed.get(place)
        last = [drill.restore_seconds for drill in (newest, passed) if drill and drill.restore_seconds is not None]
        bad = newest is not None and not newest.passed and not _since(status, newest)
        return Restored(newest.ended if newest and bad else None, last[0] if last else None)

    def tell(self, policy: Policy, sources: list[SourceStatus]) -> None:
        """Say of each source of a policy what is wrong with its drills, but for those that are overdue."""
        promised, mine = drills(policy), can_drill(policy)
        for status in sources if promised else []:
            source, failed_at = policy.source_of(status.name), self.of(policy, status).failed_at
            alert = self._alerts.get((policy.policy, status.name)) or self._alerts.get((policy.policy, source))
            newest = self._newest.get((policy.policy, status.name))
            if alert is not None and newest is not None and not newest.passed and _since(status, newest):
                continue  # somebody drilled it by hand, and it passed
            if alert is not None:
                said = alert.sentence
            elif failed_at is not None:
                said = f"{age(self._ahead.now - failed_at)} ago"
            else:
                continue
            next_at = self._ahead.next(promised[source]) if mine and source in promised else None
            level = Level.BREACH if failed_at else Level.WARN
            status.worse(level, f"its drill failed: {said}; {following(next_at, self._ahead.now)}")


def _since(status: SourceStatus, drill: Drill) -> bool:
    """Whether a drill has passed after this one."""
    return status.drilled_at is not None and status.drilled_at > drill.ended
