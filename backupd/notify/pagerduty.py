"""PagerDuty, by the Events API v2: notices open incidents, their resolutions and successes close them.

The integration key is a secret that travels in the body: the body is shown to nobody.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from urllib.parse import parse_qs, urlsplit

from backupd.notify.base import TEST, Notice, Secret, key_of
from backupd.notify.http import Door, address_of

ENDPOINT = "https://events.pagerduty.com/v2/enqueue"
_KEY = re.compile(r"[A-Za-z0-9]{16,64}")
_MOST_KEY = 255
_SEVERITIES = {"ok": "info", "warn": "error", "breach": "critical"}
_HINT = (
    "store the integration key of an Events API v2 integration, or for another region a URL such as "
    "https://events.eu.pagerduty.com/v2/enqueue?routing_key=KEY"
)


@dataclass(frozen=True, slots=True)
class PagerDuty:
    """Sends events.

    Attributes:
        name: as the policy calls it.
        key: leads to the integration key, or to a URL with it.
        door: the way out.
    """

    name: str
    key: Secret
    door: Door
    kind = "pagerduty"

    def send(self, notice: Notice) -> None:
        """Trigger or resolve; starts are passed over."""
        if notice.started:
            return
        endpoint, key = self._endpoint()
        body = json.dumps({"routing_key": key, **event(notice)}).encode()
        self.door.request("POST", address_of(self.key, endpoint), body, {"Content-Type": "application/json"})

    def _endpoint(self) -> tuple[str, str]:
        text = self.key.line("integration key")
        endpoint, key = ENDPOINT, text
        if "://" in text:
            try:
                parts = urlsplit(text)
            except ValueError:
                raise self.key.problem("is no URL", _HINT) from None
            key = parse_qs(parts.query).get("routing_key", [""])[0]
            endpoint = parts._replace(query="", fragment="").geturl()
        if not _KEY.fullmatch(key):
            raise self.key.problem("is no integration key", _HINT)
        return endpoint, key

    def preview(self, notice: Notice) -> str:
        """The event, without the integration key."""
        if notice.started:
            return "nothing: PagerDuty hears of no starts"
        return json.dumps(event(notice), indent=2, ensure_ascii=False)

    def close(self) -> None:
        """Nothing is held."""


def event(notice: Notice) -> dict[str, Any]:
    """The event, but for the key. A success resolves the failure of the same policy and source."""
    if notice.resolved or (notice.level == "ok" and notice.event != TEST):
        key = notice.key if notice.resolved else key_of("failure", notice.policy, notice.source)
        return {"event_action": "resolve", "dedup_key": dedup_key(key)}
    found: dict[str, Any] = {
        "event_action": "trigger",
        "dedup_key": dedup_key(notice.key),
        "client": "backupd",
        "payload": {
            "summary": notice.title,
            "source": notice.place,
            "severity": _SEVERITIES[notice.level],
            "timestamp": notice.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": notice.policy,
            "class": notice.event,
            "custom_details": {"text": notice.text, "run": notice.run or None, "exit": notice.exit},
        },
    }
    if notice.url is not None:
        found["client_url"] = notice.url
    return found


def dedup_key(key: str) -> str:
    """A notice's key as PagerDuty takes it: at most 255 characters."""
    whole = f"backupd/{key}"
    return whole if len(whole) <= _MOST_KEY else "backupd/" + hashlib.sha256(whole.encode()).hexdigest()
