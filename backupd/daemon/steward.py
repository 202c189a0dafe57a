"""Looks whether what was promised is kept, opens and closes alerts, and has people told: once, and daily while it lasts."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

from backupd.catalog.alerts import Alert
from backupd.catalog.opening import Catalog
from backupd.config.clock import stamp
from backupd.jobs import notices
from backupd.jobs.status import SourceStatus, age, sentence, worst_first
from backupd.notify.base import Notice
from backupd.policy.model import Policy
from backupd.policy.words import written

AGAIN = timedelta(days=1)


def promised_names(policies: Iterable[Policy]) -> frozenset[str]:
    """Under these it is remembered since when each source is promised to be protected."""
    return frozenset(_since(policy, source.name) for policy in policies for source in policy.sources)


def _since(policy: Policy, source: str) -> str:
    return f"since:{policy.policy}/{source}"


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
        there = {policy.policy: policy for policy in policies}
        known = self._catalog.plans.planned()
        new = promised_names(there.values()).difference(known)
        self._catalog.plans.remember(dict.fromkeys(sorted(new), now))
        self._catalog.repositories.keep(sorted(there))
        for alert in self._catalog.alerts.list_open():
            if not _concerns(alert, there.get(alert.policy)):
                self._catalog.alerts.close(alert.event, alert.policy, alert.source, now)

    def look(self, policies: Iterable[Policy], now: datetime) -> str:
        """See to everything; returns how things stand, in a sentence."""
        since = self._catalog.plans.planned()
        opened = {(a.event, a.policy, a.source): a for a in self._catalog.alerts.list_open()}
        everything: list[SourceStatus] = []
        for policy, statuses in self._statuses(list(policies), now):
            everything += statuses
            for status in statuses:
                begun = since.get(_since(policy, status.name), now)
                alert = opened.get(("rpo_breach", policy.policy, status.name))
                self._objective(policy, status, begun, alert, now)
            self._forget_names(policy, {status.name for status in statuses}, opened.values(), now)
            self._brakes(policy, [a for a in opened.values() if (a.event, a.policy) == ("brake", policy.policy)], now)
            self._lock(policy, opened.get(("lock_short", policy.policy, None)), now)
        return sentence(worst_first(everything, now), now)

    def _forget_names(self, policy: Policy, there: set[str], alerts: Iterable[Alert], now: datetime) -> None:
        """A server's source gives way to its databases once they are known, and its own objective with it."""
        for alert in alerts:
            if (alert.event, alert.policy) == ("rpo_breach", policy.policy) and alert.source not in there:
                self._catalog.alerts.close(alert.event, alert.policy, alert.source, now)

    def _objective(
        self, policy: Policy, status: SourceStatus, begun: datetime, alert: Alert | None, now: datetime
    ) -> None:
        rpo = policy.objectives.rpo
        if rpo is None:
            if alert is not None:  # nothing is promised any more
                self._catalog.alerts.close("rpo_breach", policy.policy, status.name, now)
            return
        # of a source that was never backed up, the time counts from when it was promised
        newest = status.last_good
        late = now - (newest or begun) > rpo
        if late:
            old = f"its newest snapshot is {age(now - newest)} old" if newest else "there is no snapshot of it"
            said = f"{old}, promised are {written(rpo)}"
            self._raise(policy, "rpo_breach", status.name, said, alert, now, self._breach(policy, status, rpo))
        elif alert is not None:
            self._catalog.alerts.close("rpo_breach", policy.policy, status.name, now)
            if newest is not None:
                self._tell(policy, notices.rpo_kept(policy.policy, status.name, now, rpo=rpo, last_good=newest))

    @staticmethod
    def _breach(policy: Policy, status: SourceStatus, rpo: timedelta) -> Callable[[datetime], Notice]:
        return lambda at: notices.rpo_breach(policy.policy, status.name, at, rpo=rpo, last_good=status.last_good)

    def _raise(
        self,
        policy: Policy,
        event: str,
        source: str | None,
        said: str,
        alert: Alert | None,
        now: datetime,
        notice: Callable[[datetime], Notice],
    ) -> None:
        if alert is not None and not _to_tell(alert, now):
            return
        opened = self._catalog.alerts.open(event, policy.policy, source, said, now)
        self._tell(policy, notice(now))
        self._catalog.alerts.mark_told(opened.alert.id, now)

    def _lock(self, policy: Policy, alert: Alert | None, now: datetime) -> None:
        """Whether the storage locks what it was promised to; of a look that could not tell, nothing follows."""
        lock = policy.retention.lock if policy.retention else None
        seen = self._catalog.repositories.all().get(policy.policy)
        if lock is None:
            if alert is not None:  # nothing is promised any more
                self._catalog.alerts.close("lock_short", policy.policy, None, now)
            return
        if seen is None or seen.lock_short is None:
            return
        until = seen.locked_until
        if seen.lock_short:
            promised = timedelta(days=lock.days)
            said = f"locked until {stamp(until) if until else 'no time at all'}, promised are {written(promised)}"
            notice = partial(notices.lock_short, policy.policy, promised=promised, locked_until=until)
            self._raise(policy, "lock_short", None, said, alert, now, notice)
        elif alert is not None and until is not None:
            self._catalog.alerts.close("lock_short", policy.policy, None, now)
            self._tell(policy, notices.lock_kept(policy.policy, now, locked_until=until))

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
            elif _to_tell(alert, now):
                self._tell(policy, notices.brake_set(policy.policy, source, "", now, signs=1))
                self._catalog.alerts.mark_told(alert.id, now)


def _to_tell(alert: Alert, now: datetime) -> bool:
    """Whether people are to hear of it again; a day after the last time, whichever way the clock was put meanwhile."""
    return alert.told_at is None or abs(now - alert.told_at) >= AGAIN


def _concerns(alert: Alert, policy: Policy | None) -> bool:
    """Whether an alert is about something that is still there."""
    if policy is None:
        return False
    name = alert.source or ""
    mine = any(name == source.name or source.covers(name) for source in policy.sources)
    if alert.event in {"rpo_breach", "brake"}:
        return mine
    if alert.event == "failure":
        # without this host's keys it may still be another's work, which shares the catalog
        return mine or name == "refresh" or (name == "prune" and policy.retention is not None)
    if alert.event == "notify_failed":
        return alert.source in policy.notifiers
    if alert.event == "verify_failed":
        return alert.source in {f"level {verify.level}" for verify in policy.verify}
    if alert.event == "drill_failed":
        return mine and policy.drill is not None
    return True
