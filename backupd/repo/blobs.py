"""Sealed blobs on this machine's disk: the payloads of the version cache.

Each run appends to files of its own, front to back; nothing is changed afterwards, and a file goes when no list names a
blob of it. A blob is sealed under a key that the write key and a random number at the file's beginning give, so each file
has a key of its own and blobs are numbered. What does not open counts as absent: must never be needed for a snapshot.
"""

import contextlib
import itertools
import os
import re
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from backupd.crypto.primitives import expand, gcm_open, gcm_seal, random_bytes
from backupd.disk import DirectFile
from backupd.errors import IntegrityError
from backupd.repo.compression import Bytes
from backupd.repo.nodes import ChunkRef

FILE_BYTES = 1 << 30
NO_FILE = 0
FILES_OPEN = 64
UNDER_WAY = 64 << 20
"""More than this is never on its way from a thread that seals to the file: then no record comes for the file before."""
_ID_BYTES = 32
_NUMBER = struct.Struct("<Q")
_NAME = re.compile("blobs-([0-9]{6})")
RECORD_OVERHEAD = _NUMBER.size + 16
_Key = TypeVar("_Key")


@dataclass(slots=True, eq=False)
class Held:
    """Where a version is held: its payload's place and length, and what it leans on, as in the repository's chunks.

    Of one that is held in the repository itself (a folder of this machine) `ref` is its place there, and `key` what opens
    that one chunk; it has no blob file.
    """

    file: int
    offset: int
    length: int
    plain: int
    codec: int
    bases: tuple["Held", ...] = ()
    key: bytes = field(default=b"", repr=False)
    ref: ChunkRef | None = None

    @property
    def spot(self) -> tuple[object, ...]:
        """Its file and its offset there, or its place in the repository."""
        return self.ref.spot if self.ref else (self.file, self.offset)


def held_in_repository(ref: ChunkRef, key: bytes, bases: tuple[Held, ...]) -> Held:
    """A chunk that was just stored, as a held version."""
    return Held(NO_FILE, 0, ref.payload_length, ref.plain_length, ref.codec, bases, key, ref)


class OpenFiles(Generic[_Key]):
    """Files that are read, a limited number of them open; for several threads.

    Args:
        opener: gives a descriptor.
    """

    def __init__(self, opener: Callable[[_Key], int]) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._open: dict[_Key, OpenedFile] = {}

    def get(self, key: _Key) -> "OpenedFile":
        """A file; of those that are open, the one that was opened first goes when there are many.

        Raises:
            whatever the opener does.
        """
        with self._lock:
            found = self._open.get(key)
            if found is None:
                while len(self._open) >= FILES_OPEN:
                    del self._open[next(iter(self._open))]
                found = self._open[key] = OpenedFile(self._opener(key))
            return found

    def close(self) -> None:
        """Let all go; each is closed once nobody reads it any more."""
        self._open.clear()


class OpenedFile:
    """A file that is read; closed once nobody reads it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.key = b""

    def __del__(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Record:
    """A sealed payload on its way into a file."""

    data: bytes
    length: int
    plain: int
    codec: int
    bases: tuple[Held, ...]
    file: "_Growing"


class BlobFiles:
    """The blob files of one source. Reading and sealing may happen in several threads, appending in one.

    Args:
        folder: where they are.
        secret: the write key's cache secret.
    """

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._folder = folder
        self._secret = secret
        self._lock = threading.Lock()
        self._open = OpenFiles(self._open_number)
        self._numbers = sorted(self.sizes())
        self._writing: list[_Growing] = []

    def sizes(self) -> dict[int, int]:
        """Every file's number and bytes."""
        found = ((_NAME.fullmatch(path.name), path) for path in self._folder.iterdir())
        return {int(match[1]): path.stat().st_size for match, path in found if match and path.is_file()}

    def _path(self, number: int) -> Path:
        return self._folder / f"blobs-{number:06d}"

    def _key(self, file_id: bytes) -> bytes:
        return expand(self._secret, b"backupd/v1/version-blobs" + file_id, 32)

    def seal(self, payload: Bytes, plain: int, codec: int, bases: tuple[Held, ...] = ()) -> Record:
        """Seal a payload for the file that is being written."""
        with self._lock:
            if not self._writing or self._writing[-1].at >= FILE_BYTES:
                self._writing.append(self._begin())
            file = self._writing[-1]
        number = _NUMBER.pack(next(file.numbers))
        data = number + gcm_seal(file.key + number + bytes(4), payload, b"")
        return Record(data, len(payload), plain, codec, bases, file)

    def append(self, record: Record) -> Held:
        """Write a record; returns where it is.

        Raises:
            OSError: as the disk says.
        """
        file = record.file
        at = file.at
        file.direct.write(record.data)
        file.at += len(record.data)
        if file is self._writing[-1] and file.at > UNDER_WAY:
            for old in self._writing[:-1]:
                old.end()
        return Held(file.number, at, record.length, record.plain, record.codec, record.bases)

    def _begin(self) -> "_Growing":
        number = (self._numbers[-1] if self._numbers else 0) + 1
        self._numbers.append(number)
        fd = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            file_id = random_bytes(_ID_BYTES)
            direct = DirectFile(fd)
            direct.write(file_id)
            return _Growing(number, fd, self._key(file_id), direct)
        except BaseException:
            os.close(fd)
            raise

    def read(self, held: Held) -> bytes:
        """A payload.

        Raises:
            OSError, IntegrityError: it is not there, or does not open.
        """
        file = self._open.get(held.file)
        file.key = file.key or self._key(os.pread(file.fd, _ID_BYTES, 0))
        data = os.pread(file.fd, held.length + RECORD_OVERHEAD, held.offset)
        if len(data) != held.length + RECORD_OVERHEAD:
            raise IntegrityError("a blob file is truncated")
        return gcm_open(file.key + data[: _NUMBER.size] + bytes(4), memoryview(data)[_NUMBER.size :], b"")

    def _open_number(self, number: int) -> int:
        return os.open(self._path(number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def finish(self) -> None:
        """Write out what was appended.

        Raises:
            OSError: as the disk says.
        """
        for file in self._writing:
            file.end()

    def keep_only(self, live: Mapping[int, int]) -> None:
        """Delete the files in which nothing is live."""
        for number in self.sizes():
            if not live.get(number):
                with contextlib.suppress(OSError):
                    self._path(number).unlink()

    def discard(self) -> None:
        """Delete the files of this run: nothing will name them."""
        for file in self._writing:
            with contextlib.suppress(OSError):
                self._path(file.number).unlink()

    @property
    def fresh(self) -> list[int]:
        """Numbers of the files of this run."""
        return [file.number for file in self._writing]

    def close(self) -> None:
        """Close all files."""
        self._open.close()
        for file in self._writing:
            file.close()
        self._writing.clear()


@dataclass(frozen=True, slots=True)
class ChunkKey:
    """Of a chunk that is about to be stored in the repository: what opens it, and what it leans on."""

    key: bytes = field(repr=False)
    bases: tuple[Held, ...]


@dataclass(slots=True, eq=False)
class _Growing:
    """A file of this run."""

    number: int
    fd: int
    key: bytes = field(repr=False)
    direct: DirectFile
    at: int = _ID_BYTES
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    ended: bool = False

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.direct.finish()
            self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
