"""Files that only this process and its children can reach: without a name in any folder where the system allows it.

On Linux such a file lives in memory and is gone with the last process that holds it, however that ends.
"""

import os
import tempfile
from contextlib import suppress
from types import TracebackType

_WRITE = 1024 * 1024


class PrivateFile:
    """A private file with a path for child programs.

    Attributes:
        path: what a child program opens; each opening begins at the start of the file.
        inherited: the descriptors that a child must inherit for that.
    """

    def __init__(self) -> None:
        self.inherited: tuple[int, ...] = ()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("backupd", os.MFD_CLOEXEC)
            os.fchmod(self._descriptor, 0o600)
            self.path = f"/proc/self/fd/{self._descriptor}"
            self.inherited = (self._descriptor,)
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="backupd-")
            self.path = os.path.join(self._folder.name, "file")
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @property
    def size(self) -> int:
        """Bytes in it."""
        return os.fstat(self._descriptor).st_size

    def write(self, data: bytes | bytearray) -> None:
        """Append."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest[:_WRITE]) :]

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`."""
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        """Let go of it; without a child that holds it, it is gone."""
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> "PrivateFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
