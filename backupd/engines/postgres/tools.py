"""PostgreSQL's own programs: finding them, and running them as children that die with the thread that started them."""

import fcntl
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from backupd.engines.children import die_with_us
from backupd.errors import Failed

PIPE_BYTES = 1024 * 1024
_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/usr/local/pgsql/bin",
)
CLIENT = ("pg_dump", "psql", "pg_dumpall", "pg_restore")
SERVER = ("postgres", "initdb")
"""What an installation must have; the first one is asked for the version."""
_VERSION = re.compile(rb"\(PostgreSQL\) (\d+)(?:\.(\d+))?")
# The first minor releases without CVE-2025-8714 and CVE-2025-8715.
_SOUND = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
_F_SETPIPE_SZ = 1031
_SAID = 16 * 1024
_PIECE, _PLENTY = 4096, 128 * 1024
# Seconds for which a dump tool may say nothing: it reads the catalogs of a large database, or waits for a lock.
SILENCE = 1800.0
_PAUSE = 0.001


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs of one installation."""

    folder: Path
    major: int
    minor: int

    @property
    def version(self) -> str:
        """Their version, e.g. "15.18"."""
        return f"{self.major}.{self.minor}"

    @property
    def vulnerable(self) -> bool:
        """Whether their plain text can be made to run programs by the owner of an object (CVE-2025-8714, -8715)."""
        return self.minor < _SOUND.get(self.major, 0) or self.major < min(_SOUND)

    def program(self, name: str) -> str:
        """The path of one program."""
        return str(self.folder / name)


def installed(bin_folders: Sequence[str], programs: Sequence[str] = CLIENT) -> list[Tools]:
    """Every installation at hand that has all of these programs: of the folders given, of the usual places, of the path."""
    folders = [Path(folder) for folder in bin_folders]
    for pattern in _FOLDERS:
        folders += sorted(Path("/").glob(pattern[1:]))
    if (found := shutil.which(programs[0])) is not None:
        folders.append(Path(found).parent)
    seen: dict[Path, Tools] = {}
    for folder in folders:
        if folder not in seen and (tools := _examine(folder, programs)) is not None:
            seen[folder] = tools
    return list(seen.values())


def _examine(folder: Path, programs: Sequence[str]) -> Tools | None:
    if not all((folder / name).exists() for name in programs):
        return None
    try:
        done = subprocess.run(
            [folder / programs[0], "--version"],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(done.stdout)
    return Tools(folder, int(found[1]), int(found[2] or 0)) if found else None


def find_tools(bin_folders: Sequence[str], *, at_least: int, nearest: int) -> Tools:
    """The installation whose version is at least `at_least` and nearest to `nearest`.

    Raises:
        Failed: there is none.
    """
    found = installed(bin_folders)
    fit = [tools for tools in found if tools.major >= at_least]
    if not fit:
        newest = max((tools.major for tools in found), default=0)
        have = f"the newest here is {newest}" if newest else "there is none here"
        raise Failed(
            f"PostgreSQL's client programs (pg_dump, psql) of version {at_least} or newer are needed; {have}",
            object_name="pg_dump",
            hint=f"install them (Debian: apt-get install postgresql-client-{at_least})",
        )
    return min(fit, key=lambda tools: (abs(tools.major - nearest), -tools.minor))


def _ready(pipe: IO[bytes], event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pipe.fileno(), event)
    return bool(poll.poll(seconds * 1000))


class Child:
    """A running program. What it says on standard error is drained, and the last 16 KiB of it kept.

    Args:
        arguments: the program and its arguments; never a secret.
        environment: all of its environment.
        inherited: descriptors it needs.
        feed: whether something will be written to its standard input.
        hear: given all that it says on standard error, piece by piece, in another thread.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        inherited: Iterable[int] = (),
        *,
        feed: bool = False,
        hear: Callable[[bytes], None] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            arguments,
            bufsize=0,
            env=environment,
            cwd="/",
            pass_fds=tuple(inherited),
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_us(),  # noqa: PLW1509 (one system call, no lock)
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.output: IO[bytes] = self._process.stdout
        self.input = self._process.stdin
        self._said = bytearray()
        self._hear = hear
        for pipe in (self.output, self.input):
            if pipe is not None and sys.platform.startswith("linux"):
                try:
                    fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, PIPE_BYTES)
                except OSError:
                    break  # over this user's limit: it works with smaller pipes too
        self._drain = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._drain.start()

    def _listen(self, errors: IO[bytes]) -> None:
        with errors:
            while said := errors.read(4096):
                self._said = (self._said + said)[-_SAID:]
                if self._hear is not None:
                    self._hear(said)

    @property
    def said(self) -> str:
        """What it said on standard error; complete once it has ended."""
        return self._said.decode("utf-8", "replace")

    def read_into(self, view: memoryview) -> int:
        """Read what is there into a buffer; 0 at the end.

        Writers fill a pipe in pieces of 4 KiB. Reading each of them alone costs more than all else that is done here, so
        after a short read the pipe is given a millisecond to fill.
        """
        count: int = self.output.readinto(view)  # type: ignore[attr-defined]
        if _PIECE <= count < _PLENTY:
            time.sleep(_PAUSE)
        return count

    def readable(self, seconds: float) -> bool:
        """Wait until there is something to read, or its output has ended; false if that takes longer than `seconds`."""
        return _ready(self.output, select.POLLIN, seconds)

    def write(self, data: bytes | memoryview, silence: float = SILENCE) -> None:
        """Write to its standard input.

        Raises:
            TimeoutError: for `silence` seconds it took nothing.
            BrokenPipeError: it has ended.
        """
        assert self.input is not None
        rest = memoryview(data)
        while rest:
            if not _ready(self.input, select.POLLOUT, silence):
                raise TimeoutError
            # So much fits in without waiting, if anything does.
            rest = rest[self.input.write(rest[: select.PIPE_BUF]) or 0 :]

    def blocks(self, size: int, silence: float = SILENCE) -> Iterator[bytearray]:
        """All that it writes, in blocks of `size` bytes, the last one shorter.

        Raises:
            TimeoutError: for `silence` seconds it wrote nothing.
        """
        while True:
            block = bytearray(size)
            filled, count = 0, 1
            while count and filled < size:
                if not self.readable(silence):
                    raise TimeoutError
                with memoryview(block) as view, view[filled:] as rest:
                    count = self.read_into(rest)
                filled += count
            del block[filled:]
            if block:
                yield block
            if not count:
                return

    def wait(self, seconds: float | None = None) -> int:
        """Wait for its end and return its exit status; killed if it takes longer than `seconds`."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._drain.join(5)
        return status

    def kill(self) -> None:
        """End it at once; for a child that is broken or not needed any more."""
        self._process.kill()
        self._process.wait()
        self._drain.join(5)
        self.output.close()
        if self.input is not None:
            try:
                self.input.close()
            except OSError:
                return
