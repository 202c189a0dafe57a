"""One HTTP request to one place, for every notifier that speaks HTTP.

It follows no redirect, reads no body of an answer, quotes no answer, and logs nothing: the address is a secret, and an answer is
a stranger's text. Plain HTTP is for this machine only.
"""

import base64
import email.utils
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

from backupd.errors import UsageError
from backupd.notify.base import NotifyFailed, NotifyLater, NotifyRefused, NotifyUnreachable, Secret
from backupd.notify.deadline import Deadline

PASSING = frozenset({408, 425, 429})
_HINTS = {
    401: "the address or its key is no longer valid: make a new one there, and store it where the policy says",
    403: "the address or its key is no longer valid: make a new one there, and store it where the policy says",
    404: "the address is not known there: compare it with the one that the service shows",
    410: "the address was withdrawn there: make a new one, and store it where the policy says",
}


def no_proxy(_host: str) -> str | None:
    """Every host is reached directly."""
    return None


def is_loopback(host: str) -> bool:
    """Whether this is this machine's own address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: to connect to one address, to wait for the next byte, and for everything together."""

    connect: float = 10.0
    wait: float = 20.0
    all: float = 45.0


PATIENT = Limits()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes. It is a secret, all of it.

    Attributes:
        tls: https.
        host, port: of the server.
        path: with the query.
        login: user and password for the server, if the URL had them.
    """

    tls: bool = field(repr=False)
    host: str = field(repr=False)
    port: int = field(repr=False)
    path: str = field(repr=False)
    login: str | None = field(default=None, repr=False)


def address_of(secret: Secret, url: str | None = None) -> Address:
    """The address that a secret holds.

    Args:
        secret: leads to the URL.
        url: the URL, if it was read already.

    Raises:
        UsageError: it is no URL, or a plain HTTP one to elsewhere. It is not quoted.
    """
    hint = "store a URL that begins with https://, and nothing else"
    try:
        parts = urlsplit(url if url is not None else secret.line("URL"))
        port = parts.port
    except ValueError:
        raise secret.problem("is no URL", hint) from None
    host = parts.hostname or ""
    if parts.scheme not in {"https", "http"} or not host or set(host) & set("[]%"):
        raise secret.problem("is no URL", hint)
    if parts.scheme == "http" and not is_loopback(host):
        raise secret.problem("is a URL without TLS", "use https://; http:// is for this machine's own addresses only")
    login = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.scheme == "https", host, port or {"https": 443, "http": 80}[parts.scheme], path, login)


class _Plain(HTTPConnection):
    """A connection under a deadline."""

    deadline: Deadline

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        self.deadline.hold(connected)
        return connected


class _Tls(HTTPSConnection):
    """The same with TLS."""

    deadline: Deadline

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        self.deadline.hold(connected)
        return connected


@dataclass(frozen=True, slots=True)
class Door:
    """The way out of one notifier.

    Attributes:
        who: the notifier, as messages name it.
        proxy: the proxy for a host, `http://host:port`, or None; this machine's own addresses are never asked about.
        limits: how long anything may take.
    """

    who: str
    proxy: Callable[[str], str | None] = field(default=no_proxy, repr=False)
    limits: Limits = PATIENT

    def request(self, method: str, to: Address, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Make the request; any 2xx is success.

        Raises:
            NotifyFailed: it did not succeed; 5xx, 408, 425, 429 and troubles of the network may pass.
            UsageError: the proxy's URL is none.
        """
        with Deadline(self.limits.all) as deadline:
            connection = self._connection(to, deadline)
            try:
                connection.request(method, to.path, body, self._headers(to, headers), preload_content=False)
                connection.sock.settimeout(self.limits.wait)
                # http.client's own: urllib3's would log the URL of an answer whose headers it cannot read
                answer = http.client.HTTPConnection.getresponse(connection)
                answer.close()
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
                raise self._unreachable(error, deadline) from None
            finally:
                connection.close()
        if deadline.passed:  # what came in looks like an answer's end, because its socket was shut
            raise self._unreachable(TimeoutError(), deadline)
        if not 200 <= answer.status < 300:
            raise _refusal(self.who, answer.status, dict(answer.headers.items()))

    def _headers(self, to: Address, more: Mapping[str, str]) -> dict[str, str]:
        headers = {"User-Agent": "backupd", "Accept": "*/*", "Connection": "close", **more}
        if to.login is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(to.login.encode()).decode("ascii")
        return headers

    def _connection(self, to: Address, deadline: Deadline) -> _Plain | _Tls:
        proxy = None if is_loopback(to.host) else self.proxy(to.host)
        host, port, login = _proxy_parts(proxy) if proxy else (to.host, to.port, None)
        connection: _Plain | _Tls
        if to.tls:
            connection = _Tls(host, port, timeout=self.limits.connect, ssl_context=ssl.create_default_context())
        else:
            connection = _Plain(host, port, timeout=self.limits.connect)
        if proxy:
            token = base64.b64encode(login.encode()).decode("ascii") if login else None
            connection.set_tunnel(
                to.host, to.port, {"Proxy-Authorization": f"Basic {token}"} if token else None, "http"
            )
        connection.deadline = deadline
        return connection

    def _unreachable(self, error: Exception, deadline: Deadline) -> NotifyFailed:
        hint = None
        match error:
            case _ if deadline.passed:
                what = f"gave no answer within {self.limits.all:g} s"
            case urllib3.exceptions.NameResolutionError() | urllib3.exceptions.LocationParseError():
                what, hint = "cannot be found: its host name has no address", "check the stored address and the DNS"
            case ssl.SSLCertVerificationError():
                what = "shows a certificate that cannot be trusted"
                hint = "a private authority's certificate belongs to the system's, or into SSL_CERT_FILE"
            case ssl.SSLError():
                what = "cannot speak TLS with this machine"
            case urllib3.exceptions.TimeoutError() | TimeoutError():
                what, hint = "gave no answer in time", "check the stored address, the firewall and the proxy"
            case urllib3.exceptions.NewConnectionError() | ConnectionRefusedError():
                what, hint = "cannot be reached", "check the stored address, the firewall and the proxy"
            case _:
                what = "broke the connection, or answered with something that is no HTTP"
        return NotifyUnreachable(f"{self.who} {what}", retry=True, hint=hint)


def _proxy_parts(url: str) -> tuple[str, int, str | None]:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme != "http":
        raise UsageError("the proxy's URL is not one of a plain HTTP proxy", hint="write http://host:port")
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username is not None else None
    return host, port or 80, login


def _refusal(who: str, status: int, headers: Mapping[str, str]) -> NotifyFailed:
    if status in PASSING or status >= 500:
        what = "asks for patience" if status == 429 else "has trouble"
        return NotifyLater(f"{who} {what} (HTTP {status})", retry=True, after=retry_after(headers))
    if 300 <= status < 400:
        hint = "redirects are not followed: store the address that it leads to"
        return NotifyRefused(f"{who} answered with a redirect (HTTP {status})", retry=False, hint=hint)
    return NotifyRefused(f"{who} refused the notice (HTTP {status})", retry=False, hint=_HINTS.get(status))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait (RFC 9110, 10.2.3): given as such, or as a time by the answer's own clock."""
    text = (headers.get("Retry-After") or "").strip()[:64]
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        until = email.utils.parsedate_to_datetime(text)
        said = email.utils.parsedate_to_datetime(headers.get("Date") or "")
        return max(0.0, (until - said).total_seconds())
    except (ValueError, TypeError):
        return None
