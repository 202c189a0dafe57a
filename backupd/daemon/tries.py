"""A proof that failed: when it is tried again, and who hears of it meanwhile. Of verifications and of drills.

Tries are not told one by one: people hear of what is new, once a day of what lasts, and of its end.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from backupd.catalog.alerts import Alert
from backupd.catalog.opening import Catalog
from backupd.notify.base import Notice
from backupd.policy.model import Policy
from backupd.policy.proving import Promise

_DAY = timedelta(days=1)


class Tries:
    """Alerts of one event. For the main thread.

    Args:
        event: as policies name it.
        catalog: where it is written down.
        tell: has a policy's people told.
    """

    def __init__(self, event: str, catalog: Catalog, tell: Callable[[Policy, Notice], None]) -> None:
        self._event, self._catalog, self._tell = event, catalog, tell

    def again(self, promise: Promise | None, name: str, now: datetime, *, passes: bool, again: bool) -> datetime | None:
        """When it is tried again, after it failed for good; remembered for the planner.

        Args:
            promise: the proof; None if nobody promises it any more.
            name: under which it is remembered.
            now: when it failed.
            passes: whether what was in the way may pass by itself.
            again: whether it was such a try already.
        """
        at = promise.again_at(now, passes=passes, again=again) if promise is not None else None
        if at is None:
            self._catalog.plans.forget(name)
        else:
            self._catalog.plans.remember({name: at})
        return at

    def failed(
        self, policy: Policy, about: str, sentence: str, notice: Notice, now: datetime, *, known: bool = False
    ) -> None:
        """Open its alert, and have people told.

        Args:
            policy: whose.
            about: what the alert is about.
            sentence: what it says.
            notice: what people are told.
            now: the time.
            known: it is another try that found nothing new: people hear of it once a day.
        """
        opened = self._catalog.alerts.open(self._event, policy.policy, about, sentence, now)
        if known and not opened.new and _told_lately(opened.alert, now):
            return
        self._tell(policy, notice)
        self._catalog.alerts.mark_told(opened.alert.id, now)

    def passed(self, policy: Policy, about: str, notice: Notice, now: datetime) -> None:
        """Close its alert, and have people told if there was one."""
        if self._catalog.alerts.close(self._event, policy.policy, about, now):
            self._tell(policy, notice)


def _told_lately(alert: Alert, now: datetime) -> bool:
    """Within a day, whichever way the clock was put meanwhile."""
    return alert.told_at is not None and abs(now - alert.told_at) < _DAY
