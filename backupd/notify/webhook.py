"""A webhook: the notice as JSON, signed if the policy names a secret.

The receiver recomputes the signature over the body as it arrived, before it parses anything, and refuses old times:

    parts = dict(part.split("=", 1) for part in headers["Backupd-Signature"].split(","))
    signed = parts["t"].encode() + b"." + body
    expected = hmac.new(secret, signed, hashlib.sha256).hexdigest()
    genuine = hmac.compare_digest(expected, parts["v1"]) and abs(time.time() - int(parts["t"])) < 300
    new = genuine and headers["Backupd-Id"] == json.loads(body)["id"] and remember(headers["Backupd-Id"])

A notice that is tried again has the same id and a new time. The secret is the reference's bytes, without one trailing newline.
"""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backupd.notify.base import Notice, Secret
from backupd.notify.http import Door, address_of

LEAST_SECRET = 16


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts notices to a URL.

    Attributes:
        name: as the policy calls it.
        url: leads to the address.
        secret: leads to the bytes that sign; None for no signature.
        door: the way out.
        clock: the time of a signature.
    """

    name: str
    url: Secret
    secret: Secret | None
    door: Door
    clock: Callable[[], datetime]
    kind = "webhook"

    def send(self, notice: Notice) -> None:
        """Post the notice."""
        body = _body(notice)
        headers = {"Content-Type": "application/json", "Backupd-Id": notice.id}
        if self.secret is not None:
            headers["Backupd-Signature"] = signature(self._key(self.secret), int(self.clock().timestamp()), body)
        self.door.request("POST", address_of(self.url), body, headers)

    def _key(self, secret: Secret) -> bytes:
        key = secret.data()
        if len(key) < LEAST_SECRET:
            raise secret.problem(f"has fewer than {LEAST_SECRET} bytes", "make one: openssl rand -hex 32")
        return key

    def preview(self, notice: Notice) -> str:
        """The body."""
        return json.dumps(values(notice), indent=2, ensure_ascii=False)

    def close(self) -> None:
        """Nothing is held."""


def values(notice: Notice) -> dict[str, Any]:
    """The document of a notice."""
    return {
        "schema": "backupd/notice/1",
        "id": notice.id,
        "event": notice.event,
        "level": notice.level,
        "resolved": notice.resolved,
        "started": notice.started,
        "policy": notice.policy,
        "source": notice.source,
        "title": notice.title,
        "text": notice.text,
        "at": notice.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "key": notice.key,
        "run": notice.run or None,
        "exit": notice.exit,
        "url": notice.url,
    }


def _body(notice: Notice) -> bytes:
    return json.dumps(values(notice), separators=(",", ":")).encode()


def signature(key: bytes, seconds: int, body: bytes) -> str:
    """The header's value: HMAC-SHA256 (RFC 2104) over the decimal Unix time, a dot, and the body."""
    code = hmac.new(key, str(seconds).encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={code}"
