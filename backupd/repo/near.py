"""Copies of small objects that never change, snapshots and records, so that a machine fetches each of them once.

A copy counts only while the storage lists an object of its name, size and time. What is copied is what the storage holds,
sealed and signed, and whoever reads a copy verifies it as if it came from there. The folder may be deleted at any moment; a
disk that refuses costs requests and nothing else. Must never be asked by who says what the storage holds now: verify and prune.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from backupd.crypto.primitives import sha256
from backupd.store.base import ObjectInfo

FOLDER = "objects"
_LARGEST = 1 << 20
_DIGEST = 32


class NearCopies:
    """The copies of one repository. Safe for several threads, and for several processes.

    Args:
        folder: where they are; it is made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, info: ObjectInfo) -> bytes | None:
        """The copy of an object, if there is a whole one of just this object."""
        try:
            with self._path(info.name).open("rb") as file:
                found = file.read(_LARGEST + _DIGEST + 1)
        except OSError:
            return None
        data = found[_DIGEST:]
        return data if found[:_DIGEST] == _digest(info, data) else None

    def put(self, info: ObjectInfo, data: bytes) -> None:
        """Keep a copy of an object that was verified."""
        if len(data) != info.size or len(data) > _LARGEST:
            return
        path = self._path(info.name)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(fresh, "xb", opener=_private) as file:
                file.write(_digest(info, data) + data)
            fresh.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()

    def keep(self, prefix: str, listed: Iterable[ObjectInfo]) -> None:
        """Drop the copies of what the storage does not list any more below `prefix`: `snapshots/` or `records/`."""
        names = {self._path(info.name).name for info in listed}
        with contextlib.suppress(OSError):
            for path in (self._folder / prefix).iterdir():
                if path.name not in names and not path.name.startswith("."):
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        kind, _, rest = name.partition("/")
        return self._folder / kind / rest.replace("/", "-")


def _digest(info: ObjectInfo, data: bytes) -> bytes:
    """Of an object as it is listed, and its content."""
    return sha256(f"{info.name}\n{info.size}\n{info.modified.timestamp()!r}\n".encode() + data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
