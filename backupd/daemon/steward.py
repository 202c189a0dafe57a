"""Looks whether what was promised is kept, opens and closes alerts, and has people told: once, and daily while it lasts."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from backupd.catalog.alerts import Alert
from backupd.catalog.opening import Catalog
from backupd.jobs import notices
from backupd.jobs.status import SourceStatus, age
from backupd.notify.base import Notice
from backupd.policy.model import Policy
from backupd.policy.words import written

AGAIN = timedelta(days=1)


class Steward:
    """For the main thread.

    Args:
        catalog: with the alerts.
        statuses: how the sources of policies stand.
        tell: has a policy's people told.
    """

    def __init__(
        self,
        catalog: Catalog,
        statuses: Callable[[list[Policy], datetime], Sequence[tuple[Policy, Sequence[SourceStatus]]]],
        tell: Callable[[Policy, Notice], None],
    ) -> None:
        self._catalog, self._statuses, self._tell = catalog, statuses, tell

    def adopt(self, policies: Iterable[Policy], now: datetime) -> None:
        """New policies are in force: what was promised from now on; what nobody promises any more is no alert."""
        policies = list(policies)
        known = self._catalog.plans.planned()
        names = [f"since:{policy.policy}/{source.name}" for policy in policies for source in policy.sources]
        self._catalog.plans.remember({name: now for name in names if name not in known})
        there = {policy.policy for policy in policies}
        self._catalog.repositories.keep(sorted(there))
        for alert in self._catalog.alerts.list_open():
            if alert.policy not in there:
                self._catalog.alerts.close(alert.event, alert.policy, alert.source, now)

    def look(self, policies: Iterable[Policy], now: datetime) -> None:
        """See to everything."""
        since = self._catalog.plans.planned()
        opened = {(a.event, a.policy, a.source): a for a in self._catalog.alerts.list_open()}
        for policy, statuses in self._statuses(list(policies), now):
            for status in statuses:
                begun = since.get(f"since:{policy.policy}/{status.name}", now)
                alert = opened.get(("rpo_breach", policy.policy, status.name))
                self._objective(policy, status, begun, alert, now)
            self._brakes(policy, [a for a in opened.values() if (a.event, a.policy) == ("brake", policy.policy)], now)

    def _objective(
        self, policy: Policy, status: SourceStatus, begun: datetime, alert: Alert | None, now: datetime
    ) -> None:
        rpo = policy.objectives.rpo
        if rpo is None:
            return
        # of a source that was never backed up, the time counts from when it was promised
        newest = status.last_good
        late = now - (newest or begun) > rpo
        if late:
            old = f"its newest snapshot is {age(now - newest)} old" if newest else "there is no snapshot of it"
            said = f"{old}, promised are {written(rpo)}"
            self._raise(policy, "rpo_breach", status.name, said, alert, now, self._breach(policy, status, rpo))
        elif alert is not None and newest is not None:
            self._catalog.alerts.close("rpo_breach", policy.policy, status.name, now)
            self._tell(policy, notices.rpo_kept(policy.policy, status.name, now, rpo=rpo, last_good=newest))

    @staticmethod
    def _breach(policy: Policy, status: SourceStatus, rpo: timedelta) -> Callable[[datetime], Notice]:
        return lambda at: notices.rpo_breach(policy.policy, status.name, at, rpo=rpo, last_good=status.last_good)

    def _raise(
        self,
        policy: Policy,
        event: str,
        source: str,
        said: str,
        alert: Alert | None,
        now: datetime,
        notice: Callable[[datetime], Notice],
    ) -> None:
        if alert is not None and alert.told_at is not None and now - alert.told_at < AGAIN:
            return
        opened = self._catalog.alerts.open(event, policy.policy, source, said, now)
        self._catalog.alerts.mark_told(opened.alert.id, now)
        self._tell(policy, notice(now))

    def _brakes(self, policy: Policy, alerts: Sequence[Alert], now: datetime) -> None:
        """A brake that is not in force any more was released; as long as it is, people hear of it each day."""
        if not alerts:
            return
        seen = self._catalog.repositories.all().get(policy.policy)
        for alert in alerts:
            source = alert.source or ""
            if seen is not None and seen.at > alert.opened and source not in {brake.source for brake in seen.brakes}:
                self._catalog.alerts.close("brake", policy.policy, alert.source, now)
                self._tell(policy, notices.brake_released(policy.policy, source, now))
            elif alert.told_at is None or now - alert.told_at >= AGAIN:
                self._catalog.alerts.mark_told(alert.id, now)
                self._tell(policy, notices.brake_set(policy.policy, source, "", now, signs=1))
