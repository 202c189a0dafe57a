"""A heartbeat, in the manner of healthchecks.io: a GET of a URL says that a run began, succeeded or failed.

A service that waits for the next one raises the alarm when this machine cannot. No word of a notice is sent, only the run's id.
It must never report a success that was none: the end of a breach, or a released brake, is not a run.
"""

import uuid
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from backupd.notify.base import TEST, Notice, Secret
from backupd.notify.http import Door, address_of

_RUNS = uuid.UUID("4c0b4e0e-7a52-5d0f-9f0a-6f4f5b3f0d2b")
"""The namespace in which ids of runs become UUIDs."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Pings a URL, with /start and /fail behind it; /log for a test, which changes nothing there."""

    name: str
    url: Secret
    door: Door
    kind = "ping"

    def send(self, notice: Notice) -> None:
        """Ping; resolutions are passed over."""
        suffix = suffix_of(notice)
        if suffix is None:
            return
        try:
            url = joined(self.url.line("URL"), suffix, rid_of(notice.run))
        except ValueError:
            raise self.url.problem("is no URL") from None
        self.door.request("GET", address_of(self.url, url), None, {})

    def preview(self, notice: Notice) -> str:
        """The request, without the address."""
        suffix = suffix_of(notice)
        if suffix is None:
            return "nothing: a heartbeat is for runs"
        rid = rid_of(notice.run)
        return f"GET (the stored address){suffix}" + (f"?rid={rid}" if rid else "")

    def close(self) -> None:
        """Nothing is held."""


def suffix_of(notice: Notice) -> str | None:
    """What is put behind the URL's path; None if the notice is nothing for a heartbeat."""
    if notice.event == TEST:
        return "/log"
    if notice.started:
        return "/start"
    if notice.resolved:
        return None
    return "" if notice.event == "success" else "/fail"


def rid_of(run: str) -> str | None:
    """The run's id as a UUID, which such services want: as it is if it is one, otherwise one that is made of it."""
    if not run:
        return None
    try:
        return str(uuid.UUID(run))
    except ValueError:
        return str(uuid.uuid5(_RUNS, run))


def joined(url: str, suffix: str, rid: str | None) -> str:
    """The URL with the suffix behind its path and the run's id behind its query; slashes at the path's end count as none.

    Raises:
        ValueError: it is no URL.
    """
    parts = urlsplit(url)
    query = "&".join(part for part in (parts.query, f"rid={quote(rid, safe='')}" if rid else "") if part)
    return parts._replace(path=parts.path.rstrip("/") + suffix, query=query, fragment="").geturl()
