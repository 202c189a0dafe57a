"""How sources stand, by what the catalog knows: fast, and as new as the last run and the last look at the repositories."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from backupd.catalog.opening import Catalog
from backupd.catalog.repositories import Seen
from backupd.config.clock import stamp
from backupd.jobs.drilled import Drilled
from backupd.jobs.proven import Ahead, Proofs
from backupd.jobs.status import (
    DAYS,
    Braked,
    Known,
    Level,
    SourceStatus,
    Troubled,
    of_known,
    tell_incidents,
    unseen,
)
from backupd.policy.model import Policy

_ABOUT_REPOSITORY = ("prune", "refresh")
"""Kinds of jobs whose failure is told under their own names."""
LOOKED_AT = timedelta(days=3)
"""A repository at which nobody looked for longer is not called well."""


class Standings:
    """What the catalog knows, read once.

    Args:
        catalog: the catalog.
        now: the time.
        strips: whether the snapshots of each of the last days are counted too.
    """

    def __init__(self, catalog: Catalog, now: datetime, *, strips: bool = True) -> None:
        self._now = now
        self.seen: Mapping[str, Seen] = catalog.repositories.all()
        self.alerts = catalog.alerts.list_open()
        ahead = Ahead(catalog, now)
        self.proofs, self.drills = Proofs(catalog, self.alerts, ahead), Drilled(catalog, self.alerts, ahead)
        self.counts: dict[tuple[str, str], int] = {}
        self._known: dict[str, dict[str, Known]] = {}
        for (repository, source), one in catalog.snapshots.standing().items():
            self._known.setdefault(repository, {})[source] = Known(one.newest, one.oldest, one.drilled_at)
            self.counts[repository, source] = one.count
        if strips:
            self._fill_strips(catalog)

    def _fill_strips(self, catalog: Catalog) -> None:
        today = self._now.astimezone(UTC).date()
        since = self._now - timedelta(days=DAYS)
        for (repository, source), days in catalog.snapshots.days(since).items():
            known = self._known.get(repository, {}).get(source)
            if known is None:
                continue  # its first snapshot was written down between the two readings
            strip = known.strip
            for day, count in days.items():
                back = (today - day).days
                if 0 <= back < DAYS:
                    strip[DAYS - 1 - back] += count

    def of(self, policy: Policy) -> list[SourceStatus]:
        """The sources of a policy; of a repository that was never looked at nothing is known to be well."""
        seen = self.seen.get(policy.policy)
        if seen is None:
            return unseen(policy, "its repository was not looked at yet")
        brakes = [Braked(b.source, stamp(b.since) if b.since else "some day", b.reason) for b in seen.brakes]
        found = of_known(policy, self.drills.learn(policy, self._known.get(seen.repository, {})), brakes, self._now)
        told = [Troubled(i.id, i.sources, stamp(i.since) if i.since else "some day", i.message) for i in seen.incidents]
        tell_incidents(found, told)
        trouble = list(seen.problems)
        if seen.vanished:
            trouble.append(f"{seen.vanished} snapshots that were there are gone, and no record says why")
        if self._now - seen.at > LOOKED_AT:
            trouble.append(f"nobody looked at it since {stamp(seen.at)}")
        for status in found:
            status.locked_until = seen.locked_until
            if seen.lock_short and policy.retention and policy.retention.lock:
                status.worse(Level.WARN, _short(policy.retention.lock.days, seen))
        for status in found if trouble else []:
            more = f" (and {len(trouble) - 1} more)" if len(trouble) > 1 else ""
            status.worse(Level.WARN, f"its repository is not whole: {trouble[0]}{more}")
        self.drills.tell(policy, found)
        self.proofs.tell(policy, found)
        for said in self._failing(policy):
            for status in found:
                status.worse(Level.WARN, said)
        return found

    def _failing(self, policy: Policy) -> Iterator[str]:
        """What fails besides runs, each of which is told of by its snapshot that is missing."""
        names = {source.name for source in policy.sources}
        for alert in self.alerts:
            if alert.policy != policy.policy:
                continue
            if alert.event == "failure" and alert.source in _ABOUT_REPOSITORY and alert.source not in names:
                yield f"its job {alert.source} fails since {stamp(alert.opened)}: {alert.sentence}"
            elif alert.event == "notify_failed":
                yield f"the notifier {alert.source} fails since {stamp(alert.opened)}, and whoever it tells hears of nothing"


def _short(days: int, seen: Seen) -> str:
    until = f"until {stamp(seen.locked_until)} only" if seen.locked_until else "not at all, in part"
    return f"what it needs is locked {until}, promised are {days} days after each snapshot"
