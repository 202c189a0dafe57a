"""Writing large files past the system's page cache, files without a name, and what files take.

What is written once and not read soon should not push out pages that a database needs, and the copy of every byte into
memory that the system must find first can cost more than the disk does. Must never let a file look complete that is not:
what cannot go past the cache goes through it, and every other error is the caller's.
"""

import contextlib
import errno
import mmap
import os
from collections.abc import Callable
from fcntl import F_GETFL, F_SETFL, fcntl
from pathlib import Path
from typing import IO

BUFFER = 4 << 20
ALIGNED = 4096
"""Offsets, lengths and addresses of writes past the cache are multiples of this."""
_NOT_HERE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
_DIRECT: int = getattr(os, "O_DIRECT", 0)


def set_direct(fd: int, *, direct: bool) -> bool:
    """Have writes to an open file go past the page cache, or not; False where the system has no such thing."""
    if not _DIRECT:
        return False
    flags = fcntl(fd, F_GETFL)
    fcntl(fd, F_SETFL, flags | _DIRECT if direct else flags & ~_DIRECT)
    return True


def aligned_buffer() -> memoryview:
    """Memory that a disk can take a write from."""
    return memoryview(mmap.mmap(-1, BUFFER, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class DirectFile:
    """Fills an empty file from its beginning, in blocks of `BUFFER` bytes. Not for several threads.

    Args:
        fd: open for writing, at its beginning; stays the caller's.
        write: writes some bytes and says how many.
        switch: turns writing past the cache on and off.
        buffer: from `aligned_buffer`, if the caller has one to spare.
        past: False for a file that will be read at once.
    """

    def __init__(
        self,
        fd: int,
        *,
        write: Callable[[int, memoryview], int] = os.write,
        switch: Callable[..., bool] = set_direct,
        buffer: memoryview | None = None,
        past: bool = True,
    ) -> None:
        self._fd, self._put, self._switch = fd, write, switch
        self.direct = past and self._begin()
        self._buffer = memoryview(b"") if not self.direct else aligned_buffer() if buffer is None else buffer
        self._held = 0

    def _begin(self) -> bool:
        try:
            return self._switch(self._fd, direct=True)
        except OSError as error:
            if error.errno in _NOT_HERE:
                return False
            raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append; written whenever a block is full.

        Raises:
            OSError: as the system says.
        """
        rest = memoryview(data)
        while rest:
            if not self.direct:
                rest = rest[self._put(self._fd, rest) :]
                continue
            n = min(len(rest), BUFFER - self._held)
            self._buffer[self._held : self._held + n] = rest[:n]
            self._held += n
            rest = rest[n:]
            if self._held == BUFFER:
                self._drain(BUFFER)

    def finish(self) -> None:
        """Write what is held; from here on writes to the file go through the cache.

        Raises:
            OSError: as the system says.
        """
        if self.direct:
            self._drain(self._held & -ALIGNED)
            self._leave()
        self._buffer = memoryview(b"")

    def _drain(self, upto: int) -> None:
        """Write the first bytes of the buffer past the cache; all that is held if the cache is needed after all."""
        at = 0
        while self.direct and at < upto:
            try:
                at += self._put(self._fd, self._buffer[at:upto])
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                self._leave(at)
                return
            if at % ALIGNED:  # a full disk, mostly: the next write tells
                self._leave(at)
                return
        left = self._held - at
        self._buffer[:left] = bytes(self._buffer[at : self._held])
        self._held = left

    def _leave(self, at: int = 0) -> None:
        if self.direct:
            self._switch(self._fd, direct=False)
            self.direct = False
        rest, self._held = self._buffer[at : self._held], 0
        while rest:
            rest = rest[self._put(self._fd, rest) :]


def folder_bytes(base: Path) -> int:
    """What the files below a folder take, in bytes; 0 if there is no such folder."""
    return sum(path.stat().st_size for path in base.rglob("*") if path.is_file()) if base.is_dir() else 0


def unnamed_file(folder: Path, prefix: str) -> IO[bytes]:
    """A file without a name in `folder`, or where that cannot be written, where the system keeps temporary files."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.TemporaryFile(dir=folder, prefix=prefix)
    except OSError:
        return tempfile.TemporaryFile(prefix=prefix)


def remove_files(folder: Path) -> None:
    """Remove a folder that holds files only; whatever cannot be removed stays."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
