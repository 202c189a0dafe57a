"""E-mail, by a server that takes it for delivery.

The way there is encrypted: from the first byte (smtps://) or by STARTTLS, which a server must then offer; only a server on this
machine is spoken to in the clear. Credentials never travel before TLS does. Answers of the server are never quoted.
"""

import contextlib
import email.errors
import email.policy
import hashlib
import smtplib
import socket
import ssl
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from backupd.errors import UsageError
from backupd.notify.base import Notice, NotifyFailed, NotifyLater, NotifyRefused, NotifyUnreachable, Secret
from backupd.notify.deadline import Deadline
from backupd.notify.http import PATIENT, Limits, is_loopback

_HINT = "store a URL such as smtp://user:password@host:587?from=backupd@example.com, or smtps://"
_SIGNS = {"ok": "OK", "warn": "WARNING", "breach": "BREACH"}
_MOST_ANSWER = 65_536
_SELF = "[127.0.0.1]"
"""How this machine introduces itself: its real name is nobody's business, and looking it up may take long."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server and who sends, as the secret says."""

    tls: bool
    host: str
    port: int
    sender: str | None
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(self.host)


LOCAL = Server(False, "localhost", 25, None)


def address(text: str) -> str:
    """An e-mail address.

    Raises:
        UsageError: it is none, or one that needs more than plain characters.
    """
    try:
        found = Address(addr_spec=text)
        plain = text.isascii() and text.isprintable() and bool(found.username and found.domain)
    except (ValueError, IndexError, email.errors.MessageError):  # the library's parser gives up in all these ways
        plain = False
    if not plain or any(mark in text for mark in ' ,;<>"'):
        raise UsageError("that is no e-mail address", hint="write one, such as ops@example.com, in plain characters")
    return text


def server_of(secret: Secret) -> Server:
    """The server that a secret names.

    Raises:
        UsageError: it names none. It is not quoted.
    """
    try:
        parts = urlsplit(secret.line("URL of a mail server"))
        port = parts.port
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise secret.problem("is no URL of a mail server", _HINT) from None
    host = parts.hostname or ""
    if parts.scheme not in {"smtp", "smtps"} or not host or parts.path.strip("/") or options.keys() - {"from"}:
        raise secret.problem("is no URL of a mail server", _HINT)
    user, password = _login(parts)
    if bool(user) != bool(password) or not (user + password).isascii():
        raise secret.problem("needs a user and a password, both in plain characters, or neither", _HINT)
    sender = options.get("from") or (user if "@" in user else None)
    try:
        sender = address(sender) if sender else None
    except UsageError:
        raise secret.problem("names a sender that is no e-mail address", _HINT) from None
    default = 465 if parts.scheme == "smtps" else 25 if is_loopback(host) else 587
    return Server(parts.scheme == "smtps", host, port or default, sender, user, password)


def _login(parts: SplitResult) -> tuple[str, str]:
    return unquote(parts.username or ""), unquote(parts.password or "")


@dataclass(frozen=True, slots=True)
class Mail:
    """Sends notices to one address.

    Attributes:
        name: as the policy calls it.
        to: the address.
        server: leads to the server's URL; None for a server on this machine.
        who: the notifier, as messages name it.
        limits: how long anything may take.
    """

    name: str
    to: str
    server: Secret | None
    who: str
    limits: Limits = PATIENT
    kind = "email"

    def __post_init__(self) -> None:
        address(self.to)

    def send(self, notice: Notice) -> None:
        """Hand the message over."""
        server = LOCAL if self.server is None else server_of(self.server)
        message = _message(notice, server.sender or self.to, self.to)
        with Deadline(self.limits.all) as deadline:
            try:
                self._deliver(server, message, deadline)
            except (smtplib.SMTPException, OSError) as error:
                raise self._failure(error, deadline) from None

    def _deliver(self, server: Server, message: EmailMessage, deadline: Deadline) -> None:
        context = ssl.create_default_context()
        connection: smtplib.SMTP = (
            _Tls(server.host, server.port, deadline, self.limits, context)
            if server.tls
            else _Plain(server.host, server.port, deadline, self.limits)
        )
        try:
            if not server.tls and not server.local:
                connection.starttls(context=context)
            if server.user:
                connection.login(server.user, server.password)
            connection.send_message(message, str(message["From"]), [self.to])
            with contextlib.suppress(
                smtplib.SMTPException, OSError
            ):  # it has the message: a bad parting changes nothing
                connection.quit()
        finally:
            connection.close()

    def _failure(self, error: Exception, deadline: Deadline) -> NotifyFailed:
        if deadline.passed:
            return NotifyUnreachable(f"{self.who} was not done within {self.limits.all:g} s", retry=True)
        # the plain class is raised where a server offers no way to log in that is known here
        if isinstance(error, smtplib.SMTPNotSupportedError) or type(error) is smtplib.SMTPException:
            hint = "use a server, or a port, that offers STARTTLS and a login; or smtps://"
            said = f"{self.who} cannot be used safely: the server offers no STARTTLS, or no login"
            return NotifyRefused(said, retry=False, hint=hint)
        match error:
            case smtplib.SMTPAuthenticationError() if error.smtp_code >= 500:
                hint = "store a user and a password that the mail server takes"
                return NotifyRefused(f"{self.who} refused the login ({error.smtp_code})", retry=False, hint=hint)
            case smtplib.SMTPRecipientsRefused() | smtplib.SMTPResponseException():
                return self._answered(error)
            case ssl.SSLCertVerificationError():
                return NotifyUnreachable(
                    f"{self.who} shows a certificate that cannot be trusted",
                    retry=True,
                    hint="a private authority's certificate belongs to the system's, or into SSL_CERT_FILE",
                )
            case TimeoutError():
                return NotifyUnreachable(f"{self.who} gave no answer in time", retry=True)
        return NotifyUnreachable(
            f"{self.who} cannot be reached, or broke the connection",
            retry=True,
            hint="check the stored host and port, and whether smtp:// (STARTTLS) or smtps:// is meant",
        )

    def _answered(self, error: smtplib.SMTPRecipientsRefused | smtplib.SMTPResponseException) -> NotifyFailed:
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            code = next((code for code, _ in error.recipients.values()), 0)
        else:
            code = error.smtp_code
        if 500 <= code < 600:
            hint = "the sender or the recipient is not welcome there: check both addresses"
            return NotifyRefused(f"{self.who} refused the message ({code})", retry=False, hint=hint)
        return NotifyLater(f"{self.who} has trouble ({code})", retry=True)

    def preview(self, notice: Notice) -> str:
        """The message, without its sender, which the secret knows."""
        message = _message(notice, self.to, self.to)
        del message["From"], message["Message-ID"]
        head = "\n".join(f"{name}: {value}" for name, value in message.items())
        return f"{head}\n\n{message.get_content()}"

    def close(self) -> None:
        """Nothing is held."""


def _message(notice: Notice, sender: str, to: str) -> EmailMessage:
    sign = "RESOLVED" if notice.resolved else _SIGNS[notice.level]
    message = EmailMessage(policy=email.policy.SMTP)
    message["Subject"] = f"[backupd] {sign}: {notice.title}"
    message["From"] = sender
    message["To"] = to
    message["Date"] = format_datetime(notice.at)
    # an attempt whose answer was lost is repeated under the same id, so that a reader may show it once
    message["Message-ID"] = f"<{notice.id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message["Backupd-Key"] = hashlib.sha256(notice.key.encode()).hexdigest()[:32]
    when = notice.at.strftime("%Y-%m-%d %H:%M:%S %Z")
    lines = [notice.title, "", notice.text, "", f"{notice.place}, {when}"]
    lines += [f"Run {notice.run}"] if notice.run else []
    lines += [f"More: {notice.url}"] if notice.url is not None else []
    message.set_content("\n".join(lines) + "\n", charset="utf-8", cte="quoted-printable")
    return message


class _Bounded:
    """An answer's bytes, up to a number that no honest server reaches."""

    def __init__(self, inner: "_Lines") -> None:
        self._inner = inner
        self._left = _MOST_ANSWER

    def readline(self, size: int = -1) -> bytes:
        line = self._inner.readline(size)
        self._left -= len(line)
        if self._left < 0:
            raise smtplib.SMTPServerDisconnected("too long an answer")
        return line

    def renew(self) -> None:
        """A new answer begins."""
        self._left = _MOST_ANSWER

    def close(self) -> None:
        self._inner.close()


class _Lines(Protocol):
    """What is read from."""

    def readline(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class _Plain(smtplib.SMTP):
    """A conversation under a deadline, with answers of bounded length."""

    def __init__(self, host: str, port: int, deadline: Deadline, limits: Limits) -> None:
        self._deadline = deadline
        super().__init__(host, port, local_hostname=_SELF, timeout=limits.wait)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connected = socket.create_connection((host, port), timeout)
        self._deadline.hold(connected)
        return connected

    def getreply(self) -> tuple[int, bytes]:
        """One answer."""
        _renew(self)
        return super().getreply()


class _Tls(smtplib.SMTP_SSL):
    """The same with TLS from the first byte."""

    def __init__(self, host: str, port: int, deadline: Deadline, limits: Limits, context: ssl.SSLContext) -> None:
        self._deadline = deadline
        super().__init__(host, port, local_hostname=_SELF, timeout=limits.wait, context=context)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connected = socket.create_connection((host, port), timeout)
        self._deadline.hold(connected)
        return self.context.wrap_socket(connected, server_hostname=host)

    def getreply(self) -> tuple[int, bytes]:
        """One answer."""
        _renew(self)
        return super().getreply()


def _renew(connection: smtplib.SMTP) -> None:
    """Put the bound between the conversation and its socket, where the library would open a file of its own."""
    if connection.sock is None:
        return
    if connection.file is None:
        connection.file = _Bounded(connection.sock.makefile("rb"))
    elif isinstance(connection.file, _Bounded):
        connection.file.renew()
