"""A job at work: a process of its own, with limits, that ends when the daemon ends.

It is `backupctl`, the same program that a person would start. Its document (standard output) is read when it is done; its
messages (standard error) are handed on line by line. Neither may be larger than a bound: what is over it is thrown away, in
memory and on the disk, and does not stop the job.
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

from backupd.errors import Failed

MOST_OUTPUT = 16 * 1024 * 1024
MOST_LINES = 2000
"""So many lines of one job's messages are handed on."""
TOO_MUCH = "(it says too much: the rest is left out)"
_LINE = 4096
_AT_ONCE = 65_536
_LAST_READS = 64
"""So often the pipe of a job that has ended is read: it holds no more, and a stray process may go on writing into it."""
_PR_SET_PDEATHSIG = 1
_OOM_FIRST = "500"
"""Of the kernel's scale up to 1000: when memory runs out, a job goes and the daemon stays."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job's process ended.

    Attributes:
        code: its exit status; of one that was killed, 128 and the signal's number.
        document: what it printed, if that was one JSON document.
    """

    code: int
    document: Mapping[str, Any] | None = field(repr=False)


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

    def close(self) -> list[str]:
        """Let go of what is held for it, once it has ended or must; returns what it still said."""


class Process:
    """A child process.

    Args:
        arguments: the words behind `backupctl`.
        folder: where its output is kept while it runs; private to this user.
        environment: its variables.
        memory: bytes of data that it may have; None for no limit.

    Raises:
        Failed: it cannot be started.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], memory: int | None = None
    ) -> None:
        self._rest = b""
        self._lines = 0
        self._flooded = False
        try:
            self._out: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _not_started(error, folder) from None
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
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._out.close()
            raise _not_started(error, folder) from None
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
        self._bound_output()
        data = self._read()
        return [] if data is None else self._split(data)

    def _bound_output(self) -> None:
        """Give the disk back what no document of ours is as large as; the process goes on writing behind it."""
        fd = self._out.fileno()
        if os.fstat(fd).st_size > MOST_OUTPUT:
            self._flooded = True
            os.ftruncate(fd, 0)

    def _read(self) -> bytes | None:
        """What has arrived: nothing, as bytes, at the end of all messages; None if there is nothing now."""
        if self._messages is None:
            return None
        try:
            data = os.read(self._messages.fileno(), _AT_ONCE)
        except BlockingIOError:
            return None
        if not data:
            self._messages.close()
            self._messages = None
        return data

    def _split(self, data: bytes) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _LINE:
            whole.append(self._rest)
            self._rest = b""
        lines = [line[:_LINE].decode("utf-8", "replace") for line in whole if line.strip()]
        before, self._lines = self._lines, self._lines + len(lines)
        if self._lines <= MOST_LINES:
            return lines
        return [*lines[: MOST_LINES - before], TOO_MUCH] if before <= MOST_LINES else []

    def ended(self) -> Ended | None:
        """How it ended; None while it is at work."""
        code = self._status()
        return None if code is None else Ended(code, self._document())

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
        self._bound_output()
        if self._flooded:
            return None
        self._out.seek(0)
        data = self._out.read(MOST_OUTPUT + 1)
        try:
            found = json.loads(data) if data else None
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

    def close(self) -> list[str]:
        """Let go of it; what it left running is ended with it. Returns what was still said."""
        if self._process.returncode is None:
            self.stop(hard=True)
            self._process.wait()
        said: list[str] = []
        for _ in range(_LAST_READS):
            if (data := self._read()) is None:
                break
            said += self._split(data)
        said += self._split(b"") if self._rest else []
        if self._messages is not None:
            self._messages.close()
            self._messages = None
        self._out.close()
        return said


def _not_started(error: Exception, folder: Path) -> Failed:
    reason = error.strerror if isinstance(error, OSError) else "its command cannot be passed on"
    return Failed(f"the job cannot be started: {reason}", object_name=str(folder))


def _end_with_us() -> Callable[[], None] | None:
    """What has the kernel ask the child to end when the daemon is gone, however it went."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went in between
            os._exit(128 + signal.SIGTERM)

    return ask


def _limit(pid: int, memory: int | None) -> None:
    """Limits of a child that has just begun; where the system has no such limit, or a lower one, there is none of ours."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(_OOM_FIRST)
    if memory is not None and hasattr(resource, "prlimit"):
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory, memory))
