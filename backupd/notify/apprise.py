"""Whatever Apprise can reach, if the extra `apprise` is installed.

Apprise runs in a child process (`apprise_child`): it can be ended, what it logs is thrown away, and its memory is not
the daemon's. The addresses go there by standard input, never as arguments.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from backupd.errors import UsageError
from backupd.notify.apprise_child import MISSING, NO_ADDRESS
from backupd.notify.base import Notice, NotifyLater, NotifyUnreachable, Secret
from backupd.notify.http import PATIENT, Limits


@dataclass(frozen=True, slots=True)
class Apprise:
    """Hands notices to Apprise.

    Attributes:
        name: as the policy calls it.
        urls: leads to one or more of Apprise's URLs, separated by white space.
        who: the notifier, as messages name it.
        environment: the child's; proxies stand in it, if Apprise shall use any.
        limits: how long it may take.
    """

    name: str
    urls: Secret
    who: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: Limits = PATIENT
    kind = "apprise"

    def send(self, notice: Notice) -> None:
        """Hand the notice over; starts are passed over."""
        if notice.started:
            return
        urls = self.urls.data().decode("utf-8", errors="replace").split()
        asked = {"urls": urls, **_said(notice)}
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "backupd.notify.apprise_child"],
                input=json.dumps(asked).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(self.environment),
                timeout=self.limits.all,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotifyUnreachable(f"{self.who} was not done within {self.limits.all:g} s", retry=True) from None
        except OSError:
            raise NotifyLater(f"{self.who}: no process could be started", retry=True) from None
        if done.returncode == MISSING:
            hint = "install it: pip install 'backupd[apprise]'"
            raise UsageError(f"{self.who} needs Apprise, which is not installed", hint=hint)
        if done.returncode == NO_ADDRESS:
            raise self.urls.problem("is nothing that Apprise knows", "store URLs as Apprise documents them")
        if done.returncode:
            hint = "Apprise does not say why: try the same URL with its own command, apprise -vv"
            raise NotifyUnreachable(f"{self.who} was not delivered by Apprise", retry=True, hint=hint)

    def preview(self, notice: Notice) -> str:
        """Title and text."""
        if notice.started:
            return "nothing: Apprise hears of no starts"
        said = _said(notice)
        return f"{said['title']}\n\n{said['body']}"

    def close(self) -> None:
        """Nothing is held."""


def _said(notice: Notice) -> dict[str, str]:
    level = "success" if notice.resolved else {"ok": "success", "warn": "warning", "breach": "failure"}[notice.level]
    when = notice.at.strftime("%Y-%m-%d %H:%M %Z")
    more = f"\n{notice.url}" if notice.url is not None else ""
    sign = "Resolved: " if notice.resolved else ""
    return {"title": sign + notice.title, "body": f"{notice.text}\n{notice.place}, {when}{more}", "type": level}
