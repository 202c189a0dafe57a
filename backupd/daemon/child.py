"""A job at work: a process of its own, with limits, that ends when the daemon ends.

It is `backupctl`, the same program that a person would start. Its document (standard output) is read when it is done; its
messages (standard error) are handed on line by line. Neither may be larger than a bound.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

MOST_OUTPUT = 16 * 1024 * 1024
_LINE = 4096
_PR_SET_PDEATHSIG = 1
_OOM_FIRST = "500"
"""Of the kernel's scale up to 1000: when memory runs out, a job goes and the daemon stays."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job's process ended.

    Attributes:
        code: its exit status; of one that was killed, 128 and the signal's number.
        document: what it printed, if that was one JSON document.
        last_words: the last line of its messages.
    """

    code: int
    document: Mapping[str, Any] | None = field(repr=False)
    last_words: str = ""


class Child(Protocol):
    """A job's process, as the daemon sees it."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def messages(self) -> int | None:
        """The descriptor on which messages arrive; None once there are no more."""

    def read_messages(self) -> list[str]:
        """The lines that have arrived, without waiting."""

    def ended(self) -> Ended | None:
        """How it ended; None while it is at work."""

    def stop(self, *, hard: bool = False) -> None:
        """Ask it to end; `hard` does not ask."""

    def close(self) -> None:
        """Let go of what is held for it."""


class Process:
    """A child process.

    Args:
        arguments: the words behind `backupctl`.
        folder: where its output is kept while it runs; private to this user.
        environment: its variables.
        memory: bytes of data that it may have; None for no limit.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], memory: int | None = None
    ) -> None:
        self._out: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._rest = b""
        self._last = ""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backupctl", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=_end_with_us(),  # noqa: PLW1509 - one prctl, nothing that could wait for another thread
            )
        except BaseException:
            self._out.close()
            raise
        assert self._process.stderr is not None
        self._messages: IO[bytes] | None = self._process.stderr
        os.set_blocking(self._messages.fileno(), False)
        _limit(self._process.pid, memory)

    @property
    def pid(self) -> int:
        """Its number, which is also that of its group."""
        return self._process.pid

    @property
    def messages(self) -> int | None:
        """The descriptor on which messages arrive; None once there are no more."""
        return self._messages.fileno() if self._messages else None

    def read_messages(self) -> list[str]:
        """The lines that have arrived, without waiting; a line without an end is cut at 4 KiB."""
        if self._messages is None:
            return []
        lines: list[str] = []
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._messages.fileno(), 65_536)
            if not data:
                self._messages.close()
                self._messages = None
            *whole, self._rest = (self._rest + data).split(b"\n")
            if not data or len(self._rest) > _LINE:
                whole.append(self._rest)
                self._rest = b""
            lines = [line[:_LINE].decode("utf-8", "replace") for line in whole if line.strip()]
        if lines:
            self._last = lines[-1]
        return lines

    def ended(self) -> Ended | None:
        """How it ended; None while it is at work."""
        code = self._status()
        return None if code is None else Ended(code, self._document(), self._last)

    def _status(self) -> int | None:
        """Its exit status, leaving it a zombie: so its number, which is its group's, is nobody else's until `close`."""
        if self._process.returncode is not None or not hasattr(os, "waitid"):
            code = self._process.poll()
            return code if code is None or code >= 0 else 128 - code
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status

    def _document(self) -> Mapping[str, Any] | None:
        self._out.seek(0)
        data = self._out.read(MOST_OUTPUT + 1)
        if not data or len(data) > MOST_OUTPUT:
            return None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def stop(self, *, hard: bool = False) -> None:
        """Ask it to end, as systemd would; `hard` ends it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            if hard:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                os.kill(self._process.pid, signal.SIGTERM)

    def close(self) -> None:
        """Let go of it; what it left running is ended with it."""
        if self._process.returncode is None:
            self.stop(hard=True)
            self._process.wait()
        if self._messages is not None:
            self._messages.close()
            self._messages = None
        self._out.close()


def _end_with_us() -> Callable[[], None] | None:
    """What has the kernel ask the child to end when the daemon is gone, however it went."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


def _limit(pid: int, memory: int | None) -> None:
    """Limits of a child that has just begun; where the system has no such limit, there is none."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(_OOM_FIRST)
    if memory is not None and hasattr(resource, "prlimit"):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory, memory))
