"""What the daemon's catalog knows of how sources stand, where it may be believed: faster than asking the repositories.

It is believed while a daemon keeps it up to date and has looked at every repository in question. Nothing is made or upgraded
here, and what is too old is never shown as if it were new: then there is a reason instead of an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from backupctl.options import Settings

if TYPE_CHECKING:
    from backupd.catalog.opening import Catalog
    from backupd.jobs.standings import Standings
    from backupd.jobs.status import SourceStatus
    from backupd.policy.model import Policy

ALIVE = timedelta(minutes=5)
"""A daemon that was not heard of for longer does not keep its catalog up to date."""


@dataclass(frozen=True, slots=True)
class Known:
    """How sources stand.

    Attributes:
        cache_bytes: of the version caches of their repositories on this machine.
        where: who was asked.
        as_of: when that was true: of the catalog, when the repository that was not looked at for longest was looked at.
        why: why the catalog was not asked, where that needs saying.
    """

    sources: "list[SourceStatus]"
    cache_bytes: int
    where: Literal["catalog", "repositories"]
    as_of: datetime
    why: str = ""

    def told(self, now: datetime) -> str:
        """Who was asked, in one line."""
        from backupd.jobs.status import age

        if self.where == "catalog":
            ago = age(max(now - self.as_of, timedelta(0)))
            return f"asked: the daemon's catalog; no repository was looked at longer than {ago} ago; --direct asks them now"
        return "asked: the repositories" + (f" ({self.why})" if self.why else "")


def by_catalog(settings: Settings, url: str | None, policies: "Sequence[Policy]", now: datetime) -> Known | str:
    """What the catalog knows of the sources of these policies, or why it is not to be believed."""
    from backupd.config.paths import state_base
    from backupd.errors import BackupdError
    from backupd.wiring import find_catalog

    try:
        found = find_catalog(state_base(settings.state), url)
        if found is None:
            return "there is no catalog of a daemon"
        with found as catalog:
            return _read(catalog, settings, policies, now)
    except BackupdError as error:
        return error.message


def _read(catalog: "Catalog", settings: Settings, policies: "Sequence[Policy]", now: datetime) -> Known | str:
    from backupd.config.paths import places
    from backupd.disk import folder_bytes
    from backupd.jobs.standings import Standings

    if not alive(catalog, now):
        return "no daemon keeps the catalog up to date"
    standings = Standings(catalog, now)
    if why := next(filter(None, (_doubt(policy, standings, now) for policy in policies)), None):
        return why
    looks = [standings.seen[policy.policy] for policy in policies]
    folders = {places(bytes.fromhex(look.repository), settings.state).state / "versions" for look in looks}
    sources = [status for policy in policies for status in standings.of(policy)]
    as_of = min((look.at for look in looks), default=now)
    return Known(sources, sum(map(folder_bytes, folders)), "catalog", as_of)


def alive(catalog: "Catalog", now: datetime) -> bool:
    """Whether a daemon was heard of lately; from the future is not lately."""
    return any(abs(now - at) <= ALIVE for at in catalog.heartbeats.all().values())


def _doubt(policy: "Policy", standings: "Standings", now: datetime) -> str | None:
    """Why the catalog does not know a policy's repository well enough; None if it does."""
    from backupd.config.policies import repository_of
    from backupd.jobs.standings import LOOKED_AT

    look = standings.seen.get(policy.policy)
    if look is None:
        return f"no daemon has looked at the repository of policy {policy.policy} yet"
    if look.place != str(repository_of(policy)):
        return f"the daemon knows another repository of policy {policy.policy}"
    if not timedelta(0) <= now - look.at + ALIVE <= LOOKED_AT:
        return f"no daemon has looked at the repository of policy {policy.policy} lately"
    if policy.schedule and not policy.keys.write:
        return f"the runs of policy {policy.policy} are another host's: the catalog hears of them once a day"
    return None
