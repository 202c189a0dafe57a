"""Writing an object's bytes to a new file; large ones go past the system's page cache (`backupd.disk`)."""

import threading

from backupd.disk import ALIGNED, BUFFER, DirectFile, aligned_buffer
from backupd.store.files import Files

LARGE = 1 << 20
"""From this size on a write goes past the cache."""
__all__ = ["ALIGNED", "BUFFER", "LARGE", "ObjectWriter"]


class ObjectWriter:
    """Writes to fresh files, in any thread; each thread keeps one buffer that the disk can take a write from."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._local = threading.local()

    def write(self, fd: int, data: memoryview) -> None:
        """Write all of `data` to an empty file.

        Raises:
            OSError: as the system says.
        """
        if len(data) < LARGE:
            while data:
                data = data[self._files.write(fd, data) :]
            return
        file = DirectFile(fd, write=self._files.write, switch=self._files.set_direct, buffer=self._buffer())
        file.write(data)
        file.finish()

    def _buffer(self) -> memoryview:
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = aligned_buffer()
        return buffer
