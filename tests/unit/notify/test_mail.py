"""E-mail: what the server gets, and under which conditions it gets anything."""

import email
import email.policy
import socket
import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from backupd.errors import UsageError
from backupd.notify.base import NotifyFailed, NotifyLater, NotifyRefused, NotifyUnreachable
from tests.servers.listening import ELSEWHERE, certificate, mail_server, raw, server_context
from tests.unit.notify.kit import CANARY, NASTY, notice, opened, said

TO = {"email": "ops@example.com", "smtp": "env:SMTP"}


def parsed(content: bytes) -> EmailMessage:
    """A mail."""
    found = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


def failing(url: str) -> NotifyFailed:
    """How a mail by that server fails."""
    with pytest.raises(NotifyFailed) as caught:
        opened(url, **TO).send(notice())
    assert CANARY not in said(caught.value)
    return caught.value


def test_a_mail_says_what_happened() -> None:
    """In plain text, with a stable id, to one address; a server on this machine needs no TLS."""
    with mail_server() as box:
        notifier = opened(f"smtp://127.0.0.1:{box.port}?from=backupd@example.org", **TO)
        notifier.send(notice(title="Backup of nightly/Kündé failed", url="https://status.example.com/"))
        notifier.send(notice(title="Backup of nightly/Kündé failed", resolved=True, level="ok"))
    first, second = map(parsed, box.mails)
    assert first["Subject"] == "[backupd] WARNING: Backup of nightly/Kündé failed"
    assert second["Subject"] == "[backupd] RESOLVED: Backup of nightly/Kündé failed"
    assert (first["From"], first["To"]) == ("backupd@example.org", "ops@example.com")
    assert first["Message-ID"].endswith("@example.org>")
    assert first["Message-ID"] != second["Message-ID"]
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["Date"] == "Wed, 04 Mar 2026 05:06:07 +0000"
    assert "It failed." in first.get_content()
    assert "nightly/crm, 2026-03-04 05:06:07 UTC" in first.get_content()
    assert "More: https://status.example.com/" in first.get_content()
    assert socket.gethostname().encode() not in b"".join(box.mails)


def test_no_name_can_start_a_header_or_end_the_mail() -> None:
    """Newlines in names are spelled out, lines of one dot stay in the text."""
    with mail_server() as box:
        made = notice(
            title=NASTY + "x" * 300, policy=NASTY, text=f"a\n.\nRCPT TO:<evil@example.com>\n{NASTY}", run=NASTY
        )
        opened(f"smtp://127.0.0.1:{box.port}", **TO).send(made)
    (mail,) = map(parsed, box.mails)
    assert mail["Bcc"] is None
    assert "\nRCPT TO" in mail.get_content()
    assert set(mail.keys()) == {
        "Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "Backupd-Key", "Content-Type",
        "Content-Transfer-Encoding", "MIME-Version",
    } | ({"X-Peer"} & set(mail.keys()))  # fmt: skip


def test_elsewhere_nothing_is_said_without_starttls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that offers none is refused before any login; one whose certificate is not trusted as well."""
    with mail_server(password=b"pw") as box:
        error = failing(f"smtp://me:{CANARY}@{ELSEWHERE}:{box.port}")
        assert isinstance(error, NotifyRefused)
        assert not error.retry
        assert "STARTTLS" in error.message
        assert box.logins == []
    pem = certificate(tmp_path)
    with mail_server(server_context(pem), password=b"p:@w") as box:
        url = f"smtp://me:p%3A%40w@{ELSEWHERE}:{box.port}?from=backupd@example.org"
        error = failing(url)
        assert isinstance(error, NotifyUnreachable)
        assert "certificate" in error.message
        assert (box.logins, box.mails) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        opened(url, **TO).send(notice())
        assert box.logins == [(b"me", b"p:@w", True)]
        assert len(box.mails) == 1


def test_smtps_is_tls_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a trusted certificate only."""
    pem = certificate(tmp_path)
    with mail_server(server_context(pem), implicit=True) as box:
        # aiosmtpd's own check that it is there speaks no TLS to a stranger: the server is up when this is reached
        url = f"smtps://{ELSEWHERE}:{box.port}"
        assert "certificate" in failing(url).message
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        opened(url, **TO).send(notice())
    assert parsed(box.mails[0])["From"] == "ops@example.com"


def test_a_wrong_password_is_refused_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And neither it nor the server's words are told."""
    pem = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with mail_server(server_context(pem), password=b"right") as box:
        error = failing(f"smtp://me:{CANARY}@{ELSEWHERE}:{box.port}")
    assert isinstance(error, NotifyRefused)
    assert "login" in error.message
    assert box.mails == []
    with mail_server() as box:
        assert isinstance(failing(f"smtp://me:{CANARY}@127.0.0.1:{box.port}"), NotifyRefused)


@pytest.mark.parametrize(
    ("answer", "kind", "retry"),
    [
        (f"451 {CANARY}", NotifyLater, True),
        (f"554 {CANARY}", NotifyRefused, False),
        (f"452 {CANARY}", NotifyLater, True),
    ],
)
def test_a_servers_no_is_for_now_or_for_good(answer: str, kind: type[NotifyFailed], retry: bool) -> None:
    """As its number says."""
    with mail_server() as box:
        box.reject = answer
        error = failing(f"smtp://127.0.0.1:{box.port}")
    assert isinstance(error, kind)
    assert error.retry is retry
    assert answer[:3] in error.message


def _silent(connected: socket.socket) -> None:
    while connected.recv(65536):
        pass


def _drip(connected: socket.socket) -> None:
    while True:
        connected.sendall(b"2")
        time.sleep(0.05)


def _endless(connected: socket.socket) -> None:
    while True:
        connected.sendall(b"220-" + b"x" * 1000 + b"\r\n")


def _garbage(connected: socket.socket) -> None:
    connected.sendall(bytes(range(256)) * 10 + b"\r\n")


def _hang_up(_connected: socket.socket) -> None:
    return


@pytest.mark.parametrize("talk", [_silent, _drip, _endless, _garbage, _hang_up])
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_no_mail_server_keeps_a_notifier_waiting_for_ever(talk: Callable[[socket.socket], None], scheme: str) -> None:
    """Nor fills the memory; it may be better later."""
    with raw(talk) as port:
        error = failing(f"{scheme}://127.0.0.1:{port}")
    assert error.retry
    assert isinstance(error, NotifyUnreachable | NotifyLater)


def test_a_mail_that_was_taken_is_delivered_however_the_server_parts() -> None:
    """Otherwise it would be sent twice."""

    def rude(connected: socket.socket) -> None:
        connected.sendall(b"220 x\r\n")
        for line in connected.makefile("rb"):
            if line.upper() == b"QUIT\r\n":
                return
            if line.upper().startswith((b"EHLO", b"MAIL", b"RCPT")) or line == b".\r\n":
                connected.sendall(b"250 x\r\n")
            elif line.upper() == b"DATA\r\n":
                connected.sendall(b"354 x\r\n")

    with raw(rude) as port:
        opened(f"smtp://127.0.0.1:{port}", **TO).send(notice())


@pytest.mark.parametrize(
    "secret",
    [
        f"mail.example.com/{CANARY}", f"http://{CANARY}", f"smtp://{CANARY}@host", f"smtp://me:{CANARY}@", "smtp://[",
        f"smtp://me:{CANARY}@host:port", f"smtp://host/?form={CANARY}", f"smtp://host/?from={CANARY}", f"smtp://host/{CANARY}",
        f"smtp://me:{CANARY}%C3%BC@host", f"smtp://host?from=a@b%0d%0aBcc:{CANARY}@x",
    ],
)  # fmt: skip
def test_what_names_no_mail_server_is_refused_unseen(secret: str) -> None:
    """Before anything is sent."""
    with pytest.raises(UsageError) as caught:
        opened(secret, **TO).send(notice())
    assert CANARY not in said(caught.value)


@pytest.mark.parametrize(
    "to", ["", "ops", "a@b, c@d", "a@b\nBcc: c@d", "Ops <a@b>", "ü@example.com", "@b", "a@", '"a b"@c']
)
def test_only_one_plain_address_is_written_to(to: str) -> None:
    """It is refused when the policy is read into a notifier."""
    from backupd.notify.mail import address

    with pytest.raises(UsageError, match="no e-mail address"):
        address(to)


def test_a_preview_of_a_mail_reads_no_secret() -> None:
    """It shows the mail without its sender."""
    shown = opened("nothing", **TO).preview(notice(title="Kündé"))
    assert "Subject: [backupd] WARNING: Kündé" in shown
    assert "From" not in shown
    assert "It failed." in shown
