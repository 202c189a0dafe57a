"""What a host remembers of its own nights of one source: a small sealed file in the state folder.

It stands beside the version cache, under the same secret, and is as disposable: whatever is missing, damaged or of another
key is nothing, and costs some knowledge of what is usual. Must never keep a run from making its snapshot. SECURITY.md says what
it gives away.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from backupd.crypto.chunks import open_part, seal_part
from backupd.crypto.primitives import b3_derive, b3_keyed, random_bytes
from backupd.errors import IntegrityError
from backupd.repo.format import pack_json, unpack_json

MAX_BYTES = 16 * 1024 * 1024
_SHAPE = 1


class NightBook:
    """The file of one source.

    Args:
        folder: of all such files of a write key and epoch.
        secret: the write key's cache secret.
        source: the source's name.
    """

    def __init__(self, folder: Path, secret: bytes, source: str) -> None:
        self._folder, self._secret = folder, secret
        self._mark_key = b3_derive("backupd/v1/nights", secret)
        self._label = b3_keyed(self._mark_key, b"source " + source.encode())[:16]
        self._path = folder / self._label.hex()

    def opaque(self, name: str) -> str:
        """A keyed label for a name."""
        return b3_keyed(self._mark_key, b"name " + name.encode())[:9].hex()

    def read(self) -> dict[str, Any] | None:
        """The document; None if there is none that can be believed."""
        with contextlib.suppress(OSError, IntegrityError):
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(fd, "rb") as file:
                data = file.read(MAX_BYTES)
            document = unpack_json(open_part(self._secret, "nights", self._label, data), "nights")
            return document if document.get("shape") == _SHAPE else None
        return None

    def write(self, document: dict[str, Any]) -> None:
        """Replace it whole.

        Raises:
            OSError: as the system says.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sealed = seal_part(self._secret, "nights", self._label, pack_json({**document, "shape": _SHAPE}))
        draft = self._path.with_suffix(f".{random_bytes(6).hex()}")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(fd)
            draft.replace(self._path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def sweep_books(books: Path, before: float) -> None:
    """Remove the files of sources, keys and epochs that have not run since a time, and drafts that a crash left."""
    with contextlib.suppress(OSError):
        for path in [path for folder in books.iterdir() for path in folder.iterdir()]:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()
