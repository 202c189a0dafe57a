"""Writing an object's bytes to a new file; large ones go past the system's page cache.

A backup is written once and hardly ever read again. Through the cache it would push out pages that the database needs,
and cost a copy of every byte into memory that the system has to find first. Must never let a file look complete that is
not: what cannot go past the cache goes through it, and every other error is the caller's.
"""

import errno
import mmap
import threading

from backupd.store.files import Files

LARGE = 1 << 20
"""From this size on a write goes past the cache."""
BUFFER = 4 << 20
ALIGNED = 4096
"""Offsets, lengths and addresses of writes past the cache are multiples of this."""
_NOT_HERE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


class ObjectWriter:
    """Writes to fresh files, in any thread; each thread keeps one buffer that starts where the disk can take it from."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._local = threading.local()

    def write(self, fd: int, data: memoryview) -> None:
        """Write all of `data` to an empty file.

        Raises:
            OSError: as the system says.
        """
        if len(data) >= LARGE and self._set_direct(fd, direct=True):
            try:
                data = data[self._write_direct(fd, data) :]
            finally:
                self._set_direct(fd, direct=False)
        while data:
            data = data[self._files.write(fd, data) :]

    def _set_direct(self, fd: int, *, direct: bool) -> bool:
        try:
            return self._files.set_direct(fd, direct=direct)
        except OSError as error:
            if direct and error.errno in _NOT_HERE:
                return False
            raise

    def _write_direct(self, fd: int, data: memoryview) -> int:
        """Write what can be written past the cache; returns how many bytes that were."""
        buffer = self._buffer()
        at = 0
        while (length := min(BUFFER, len(data) - at) & -ALIGNED) > 0:
            buffer[:length] = data[at : at + length]
            try:
                written = self._files.write(fd, buffer[:length])
            except OSError as error:
                if error.errno in _NOT_HERE:
                    break
                raise
            at += written
            if written % ALIGNED:  # a full disk, mostly: the next write tells
                break
        return at

    def _buffer(self) -> memoryview:
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(mmap.mmap(-1, BUFFER, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        return buffer
