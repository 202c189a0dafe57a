"""One daemon for each state folder and role: two would run everything twice.

The file of a role's lock holds its owner's name, and keeps it: whoever has the lock next knows whose unfinished work is there.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backupd.errors import Busy, Failed

_LONGEST = 512


@contextmanager
def only_one(folder: Path, roles: Iterable[str], name: str) -> Iterator[dict[str, str]]:
    """Hold the locks of these roles; the kernel lets them go when the process ends, however it ends.

    Args:
        folder: the state folder.
        roles: what this process does.
        name: of this process.

    Yields:
        of each role the name of who had it before, and is gone; without those that nobody had.

    Raises:
        Busy: another daemon has one of them.
        Failed: the folder cannot be written.
    """
    held: dict[str, int] = {}
    with ExitStack() as stack:
        for role in sorted(roles):
            path = folder / f"backupd-{role}.lock"
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise Failed(
                    f"the state folder {folder} cannot be written: {error.strerror}",
                    object_name=str(folder),
                    hint="name another one with --state",
                ) from None
            stack.callback(os.close, fd)
            _lock(fd, path, role)
            held[role] = fd
        before = {role: owner for role, fd in held.items() if (owner := _owner(fd))}
        for fd in held.values():  # not before all are held: who is refused leaves no trace
            _write(fd, folder, name)
        yield before


def _lock(fd: int, path: Path, role: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(
            f"another backupd ({_owner(fd) or 'that has just begun'}) is at work here as {role}",
            object_name=str(path),
            hint="stop it first, or give this one a state folder of its own with --state",
        ) from None
    except OSError as error:
        raise Failed(f"{path} cannot be locked: {error.strerror}", object_name=str(path)) from None


def _owner(fd: int) -> str:
    text = os.pread(fd, _LONGEST, 0).decode("utf-8", "replace").strip()
    return text if text.isprintable() else ""


def _write(fd: int, folder: Path, name: str) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{name}\n".encode(), 0)
    except OSError as error:
        raise Failed(
            f"the state folder {folder} cannot be written: {error.strerror}", object_name=str(folder)
        ) from None
