"""Who may ask the daemon what: decided from method, address and headers alone, whichever server carries the answers.

Nothing is ever changed by a request. Without a token only this machine may ask, and only under a name of this machine, so that
a page of somebody else's cannot ask through a browser here (DNS rebinding). With one, everything but `/health` and `/ready`
needs it. A token is never logged, echoed or taken from an address: addresses end up in logs and histories.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from backupd.errors import UsageError

OPEN = ("/health", "/ready")
METRICS = "/metrics"
LONGEST_TARGET = 2048
SHORTEST_TOKEN = 16
HEADERS = (
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)
"""What every answer carries, refusals too."""
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The content security policy of what is no page."""
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes = field(repr=False)
    media: str = "text/plain; charset=utf-8"
    policy: str = NOTHING
    extra: tuple[tuple[str, str], ...] = ()

    def headers(self) -> list[tuple[str, str]]:
        """All but the length."""
        return [("Content-Type", self.media), ("Content-Security-Policy", self.policy), *HEADERS, *self.extra]


def said(status: int, text: str, *extra: tuple[str, str]) -> Answer:
    """A line of text."""
    return Answer(status, f"{text}\n".encode(), extra=extra)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Gate:
    """The rules of one daemon.

    Attributes:
        token: opens everything; None where only this machine can ask.
        metrics_token: opens `/metrics` and nothing else.
        names: further names under which this machine is asked without a token (a proxy's).

    Raises:
        UsageError: a token is too short or cannot be sent in a header, or there is a token for the metrics alone.
    """

    token: str | None = field(default=None, repr=False)
    metrics_token: str | None = field(default=None, repr=False)
    names: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for token in (self.token, self.metrics_token):
            if token is not None and (len(token) < SHORTEST_TOKEN or not _sendable(token)):
                raise UsageError(
                    f"a token of the status page must be at least {SHORTEST_TOKEN} printable ASCII characters without spaces",
                    hint="make one: openssl rand -hex 32",
                )
        if self.metrics_token is not None and self.token is None:
            raise UsageError("a token for /metrics protects nothing while the page needs none", hint="give both tokens")

    def refusal(self, method: str, target: str, headers: Mapping[str, str]) -> Answer | None:
        """Why a request is not answered, or None.

        Args:
            target: path and query, as sent.
            headers: with names in lower case.
        """
        path = target.partition("?")[0]
        if method not in ("GET", "HEAD"):
            return said(405, "this is read only", ("Allow", "GET, HEAD"))
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return said(413, "no body is taken", ("Connection", "close"))
        if len(target) > LONGEST_TARGET:
            return said(414, "the address is too long")
        if self.token is None:
            if _name(headers.get("host", "")) in _LOCAL | self.names:
                return None
            return said(421, "this name is not served here")
        if path in OPEN or self._allowed(path, headers.get("authorization", "")):
            return None
        return said(401, "a token is needed", ("WWW-Authenticate", 'Basic realm="backupd", charset="UTF-8"'))

    def _allowed(self, path: str, header: str) -> bool:
        given = _token(header)
        allowed = [self.token] + ([self.metrics_token] if path == METRICS else [])
        return any(hmac.compare_digest(given, token.encode()) for token in allowed if token is not None)


def _sendable(token: str) -> bool:
    return all("!" <= letter <= "~" for letter in token)


def _token(header: str) -> bytes:
    """What an Authorization header brings: after `Bearer`, or as the password of `Basic` (any user name)."""
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value.encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.encode("latin-1", "replace"), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _name(host: str) -> str:
    """The name of a Host header, without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
