"""Runs one command at a time and says what it cost: wall time, CPU time and memory, as the kernel counted them.

The kernel's numbers come from wait4(2): CPU time is the sum over the command and the children it waited for, and
`peak` is the memory of the largest single process among them, not a sum. The kernel carries a parent's peak over into
what it starts, so this module must stay small: nothing below its own few megabytes can be measured.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000
_BLOCK = 1 << 20


class CommandFailed(Exception):
    """A command ended with an error; the text quotes the end of what it said."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one command cost. `peak` in bytes, times in seconds."""

    wall: float
    user: float
    system: float
    peak: int
    output: str

    @property
    def cpu(self) -> float:
        """User and system time together."""
        return self.user + self.system


def compile_sources() -> None:
    """Compile this checkout as an installer does, so that no measured command spends its start on that."""
    import compileall

    for folder in ("backupd", "cli"):
        compileall.compile_dir(Path(__file__).resolve().parents[2] / folder, quiet=1)


def pin(count: int = 2) -> list[int]:
    """Pin this process, and so everything it starts, to the first `count` cores it may use; returns them."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    return cores


def run(argv: Sequence[str], *, env: Mapping[str, str], folder: Path) -> Usage:
    """Run a command in `folder` to its end.

    What is written but not yet on the disk goes there first, so that no command pays for the one before it.

    Raises:
        CommandFailed: it ended with another code than 0.
    """
    os.sync()
    with tempfile.TemporaryFile(dir=folder) as out, tempfile.TemporaryFile(dir=folder) as err:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
        ]
        here = Path.cwd()
        os.chdir(folder)
        try:
            began = time.monotonic()
            child = os.posix_spawnp(argv[0], list(argv), dict(env), file_actions=actions)
        finally:
            os.chdir(here)
        _, status, used = os.wait4(child, 0)
        wall = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        text, said = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if status:
        words = " ".join(argv[:3])
        raise CommandFailed(f"{words} ... ended with {os.waitstatus_to_exitcode(status)}: {(said or text)[-600:]}")
    return Usage(wall, used.ru_utime, used.ru_stime, used.ru_maxrss * 1024, text)


def level(*paths: Path) -> None:
    """The same start for every step: nothing is left to be written, and the page cache holds these files or folders.

    Some machines take cold pages back within seconds, and reading gigabytes again then costs more than the step. What is
    read for the second time costs the kernel more than what follows, so each is read twice.
    """
    os.sync()
    for path in (*paths, *paths):
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if each.is_file():
                with each.open("rb", buffering=0) as file:
                    while file.read(_BLOCK):
                        pass


def same(one: Path, other: Path) -> bool:
    """Whether two files have the same content."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while block := a.read(_BLOCK):
            if block != b.read(_BLOCK):
                return False
    return True


def to_disk(path: Path) -> float:
    """Put a file and its folder on the disk for certain; returns the seconds it took."""
    began = time.monotonic()
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return time.monotonic() - began


def stored(folder: Path) -> int:
    """Bytes of all files below a folder, by their lengths."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _split(report: str, arguments: list[str]) -> None:
    """Run `backupctl` in this process, then tell its own peak apart from that of the processes it started."""
    from backupctl.__main__ import main

    sys.argv = ["backupctl", *arguments]
    try:
        main()
    finally:
        peaks = {
            "own": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        }
        Path(report).write_text(json.dumps(peaks))


if __name__ == "__main__":
    _split(sys.argv[1], sys.argv[2:])
