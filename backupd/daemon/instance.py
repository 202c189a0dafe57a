"""One daemon for each state folder and role: two would run everything twice."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backupd.errors import Busy, Failed


@contextmanager
def only_one(folder: Path, roles: Iterable[str]) -> Iterator[None]:
    """Hold the locks of these roles; the kernel lets them go when the process ends, however it ends.

    Raises:
        Busy: another daemon has one of them.
        Failed: the folder cannot be written.
    """
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
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
        yield


def _lock(fd: int, path: Path, role: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 32).decode("ascii", "replace").strip()
        raise Busy(
            f"another backupd (process {pid or 'unknown'}) is at work here as {role}",
            object_name=str(path),
            hint="stop it first, or give this one a state folder of its own with --state",
        ) from None
