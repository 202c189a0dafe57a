"""Slack, by an incoming webhook.

Names are a stranger's text to Slack: they stand in plain-text blocks, and escaped where Slack would read its own markup, so that
no name of a policy or source can mention a channel or draw a link.
"""

import json
from dataclasses import dataclass
from typing import Any

from backupd.notify.base import Notice, Secret
from backupd.notify.http import Door, address_of

_SIGNS = {"ok": "OK", "warn": "WARNING", "breach": "BREACH"}
_MOST_HEADER = 150
_MOST_SECTION = 2900


@dataclass(frozen=True, slots=True)
class Slack:
    """Posts notices to a channel."""

    name: str
    url: Secret
    door: Door
    kind = "slack"

    def send(self, notice: Notice) -> None:
        """Post the notice."""
        body = json.dumps(message(notice)).encode()
        self.door.request("POST", address_of(self.url), body, {"Content-Type": "application/json"})

    def preview(self, notice: Notice) -> str:
        """The message."""
        return json.dumps(message(notice), indent=2, ensure_ascii=False)

    def close(self) -> None:
        """Nothing is held."""


def escaped(text: str) -> str:
    """Text in which Slack finds no markup of its own: the three characters that it gives a meaning are written as entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def message(notice: Notice) -> dict[str, Any]:
    """The message: blocks, and the line that stands in notifications."""
    sign = "RESOLVED" if notice.resolved else _SIGNS[notice.level]
    headline = f"{sign}: {notice.title}"
    when = notice.at.strftime("%Y-%m-%d %H:%M %Z")
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": _plain(headline, _MOST_HEADER)},
        {"type": "section", "text": _plain(notice.text or notice.title, _MOST_SECTION)},
        {"type": "context", "elements": [_plain(f"{notice.place}, {when}", _MOST_SECTION)]},
    ]
    if notice.url is not None:
        link = {"type": "mrkdwn", "text": f"<{escaped(notice.url)}|More>"}
        blocks.append({"type": "section", "text": link})
    return {"text": escaped(headline), "mrkdwn": False, "unfurl_links": False, "blocks": blocks}


def _plain(text: str, most: int) -> dict[str, Any]:
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return {"type": "plain_text", "text": shown, "emoji": False}
