"""What a run has stored and not yet listed, on this machine's disk: a run that is cut off leaves it to the next one.

A pack is entered once the storage has it, and is struck out when a signed segment lists it. The next run lists what a dead
run left, in a segment of its own, and so does not upload it again. The dead run's session key is never met again: each pack
carries it sealed to those who may read. Entries are sealed under the write key's cache secret; what does not open is nothing.
"""

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from backupd.crypto.chunks import open_part, seal_part
from backupd.errors import BackupdError
from backupd.repo.format import Cursor
from backupd.repo.pack import decode_entries, encode_entries
from backupd.repo.segments import IndexedPack

_LENGTH = struct.Struct("<I")
_MOST = 16 * 1024 * 1024


class Journal:
    """One run's journal; the file is locked as long as the run lives.

    Args:
        folder: of all journals of a write key and epoch.
        secret: the write key's cache secret.
        session: the run's session id.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, secret: bytes, session: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / session.hex()
        self._secret, self._label = secret, session
        self._lock = threading.Lock()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        flock(self._fd, LOCK_EX)
        self._broken = False

    def enter(self, pack: IndexedPack) -> None:
        """A pack is stored. Safe for several threads; a disk that refuses costs an upload after a crash, and nothing else."""
        plain = pack.digest + _LENGTH.pack(pack.size) + encode_entries(pack.entries)
        sealed = seal_part(self._secret, "journal", self._label, plain)
        with self._lock:
            if self._broken:
                return
            try:
                data = memoryview(_LENGTH.pack(len(sealed)) + sealed)
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                self._broken = True

    def clear(self) -> None:
        """Everything that was entered is in a segment now."""
        with self._lock, contextlib.suppress(OSError):
            os.truncate(self._fd, 0)

    def close(self, *, done: bool) -> None:
        """The run ends; if it is `done`, or nothing was entered, nothing is left to the next one."""
        with contextlib.suppress(OSError):
            if done or os.fstat(self._fd).st_size == 0:
                self._path.unlink()
        os.close(self._fd)


def left_behind(folder: Path, secret: bytes) -> Iterator[tuple[Path, list[IndexedPack]]]:
    """The journals of runs that are dead, and what they had stored; damaged entries and what follows them are left out."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            with contextlib.suppress(OSError, ValueError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    flock(fd, LOCK_EX | LOCK_NB)  # held by a run that lives: its packs are its own affair
                    packs = list(_entries(fd, secret, bytes.fromhex(path.name)))
                finally:
                    os.close(fd)
                yield path, packs


def _entries(fd: int, secret: bytes, session: bytes) -> Iterator[IndexedPack]:
    with contextlib.suppress(BackupdError, struct.error, ValueError):
        while head := os.read(fd, _LENGTH.size):
            (length,) = _LENGTH.unpack(head)
            if length > _MOST:
                return
            cursor = Cursor(open_part(secret, "journal", session, os.read(fd, length)), "journal", 0)
            yield IndexedPack(cursor.take(32), cursor.u32(), tuple(decode_entries(cursor)))
