"""What systemd wants to hear of a service (sd_notify): ready, reloading, stopping, alive, and how things stand.

Datagrams to a local socket, as `sd_notify(3)` describes them. Where nobody listens, nothing is said; a message that cannot be
delivered never stops the daemon. For those on which its fate hangs it waits a moment, if the socket is full.
"""

import contextlib
import socket
import time
from dataclasses import dataclass

_MOMENT = 2.0


@dataclass(frozen=True, slots=True)
class Systemd:
    """The service manager, if there is one.

    Attributes:
        address: NOTIFY_SOCKET; None if nobody wants to know.
        watchdog: seconds within which it wants a sign of life; None for never.
    """

    address: str | None = None
    watchdog: float | None = None

    def ready(self, status: str) -> None:
        """Everything is up, or a reload is done."""
        self._say(f"READY=1\nSTATUS={_line(status)}", _MOMENT)

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", _MOMENT)

    def stopping(self, status: str) -> None:
        """The end begins."""
        self._say(f"STOPPING=1\nSTATUS={_line(status)}", _MOMENT)

    def status(self, text: str) -> None:
        """How things stand, in one line."""
        self._say(f"STATUS={_line(text)}")

    def alive(self) -> None:
        """The main loop goes round."""
        self._say("WATCHDOG=1")

    def _say(self, text: str, patience: float = 0.0) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(patience)  # 0 does not wait
            sock.sendto(text.encode(), address)


def service_manager(address: str | None, watchdog_usec: str | None, watchdog_pid: str | None, pid: int) -> Systemd:
    """From the variables NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; what is no number counts as nothing."""
    watchdog = None
    if watchdog_usec and watchdog_usec.isdigit() and int(watchdog_usec) and watchdog_pid in {None, "", str(pid)}:
        watchdog = int(watchdog_usec) / 1e6
    return Systemd(address or None, watchdog)


def _line(text: str) -> str:
    """One line: a second one would be a message of its own."""
    return "".join(c if c.isprintable() else " " for c in text)[:500]
