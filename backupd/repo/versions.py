"""What the run before this one read: for each stream its chunks in order, as sealed blocks on this machine's disk.

A block tells of each chunk where it is in the repository, with all that it leans on, and where its version is held. Blocks
are sealed under the write key's cache secret and bound to their place; one that does not open counts as absent.
"""

import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from backupd.crypto.chunks import Kind, open_part, seal_part
from backupd.errors import IntegrityError
from backupd.repo.blobs import NO_FILE, RECORD_OVERHEAD, Held, held_in_repository
from backupd.repo.compression import compress, decompress
from backupd.repo.nodes import STRUCTURE, ChunkRef, Entry, closure, decode_node, encode_node

BLOCK = 256
_NONE = 0xFFFF
_LENGTH = struct.Struct("<I")
_COUNTS = struct.Struct("<III")
_PLACE = struct.Struct("<Q")
_ANCHORS = struct.Struct("<QQ")
_KEY_BYTES = 44
MAX_BLOCK = 16 * 1024 * 1024
_NEAR = 3
_RECENT = 16


@dataclass(slots=True, eq=False)
class Version:
    """A chunk as the run before read it; never changed, and not frozen because so many are made.

    Attributes:
        ref: where it is in the repository.
        held: where its version is held here, if it is.
        seen: the hour (since 1970) in which the oldest full chunk that it leans on was last seen in the source; of a chunk
            stored in full, the hour of the run that read it.
        rows: of a chunk of rows, how many end in it.
        sums: of these, the sums of their hashes.
        flags: whether it begins or ends inside a row.
    """

    ref: ChunkRef
    held: Held | None
    seen: int
    rows: int = 0
    sums: tuple[int, int] = (0, 0)
    flags: int = 0

    def same(self, held: Held | None, marks: "Anchors | None") -> bool:
        """Whether it is held there, and is what those marks say."""
        if held is not self.held:
            return False
        return marks is None or (marks.rows, marks.sums, marks.flags) == (self.rows, self.sums, self.flags)


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a chunk of rows is known by: marks of the row at which it begins and of that at which it ends, rows and sums."""

    first: int
    last: int
    rows: int = 0
    sums: tuple[int, int] = (0, 0)
    flags: int = 0


def encode_block(versions: Sequence[Version]) -> bytes:
    """The plaintext of a block; all packs must be complete."""
    node = encode_node(STRUCTURE, 0, [Entry(version.ref) for version in versions])
    held, number = closure([version.held for version in versions if version.held is not None])
    stored = closure([version.ref for version in versions])[1]
    n, count = len(held), len(versions)
    bases = [
        (*[number[b.spot] for b in item.bases], _NONE, _NONE)[:2] if item.bases else (_NONE, _NONE) for item in held
    ]
    offsets = [stored[item.ref.spot] if item.ref else item.offset for item in held]
    return b"".join(
        [
            _COUNTS.pack(count, len(node), n),
            node,
            struct.pack(f"<{n}I", *[item.file for item in held]),
            struct.pack(f"<{n}I", *offsets),
            struct.pack(f"<{n}I", *[item.length for item in held]),
            struct.pack(f"<{n}I", *[item.plain for item in held]),
            struct.pack(f"<{n}H", *[first for first, _ in bases]),
            struct.pack(f"<{n}H", *[second for _, second in bases]),
            bytes([item.codec for item in held]),
            struct.pack(f"<{count}H", *[_NONE if v.held is None else number[v.held.spot] for v in versions]),
            struct.pack(f"<{count}I", *[v.seen if v.ref.bases else 0 for v in versions]),
            struct.pack(f"<{count}I", *[v.rows for v in versions]),
            struct.pack(f"<{count}Q", *[v.sums[0] for v in versions]),
            struct.pack(f"<{count}Q", *[v.sums[1] for v in versions]),
            bytes([v.flags for v in versions]),
            *[item.key for item in held],
        ]
    )


def decode_block(data: bytes, kind: Kind, seen: int) -> list[Version]:
    """Parse a block's plaintext.

    Args:
        data: the plaintext.
        kind: of the stream.
        seen: the hour of the list, for chunks stored in full.

    Raises:
        IntegrityError, ValueError, struct.error, IndexError, TypeError: it is no such block.
    """
    count, length, n = _COUNTS.unpack_from(data)
    at = _COUNTS.size
    entries = decode_node(data[at : at + length], STRUCTURE, kind).entries
    at += length

    def column(size: int, code: str) -> tuple[int, ...]:
        nonlocal at
        found = struct.unpack_from(f"<{size}{code}", data, at)
        at += struct.calcsize(f"<{size}{code}")
        return found

    files, offsets, lengths, plains = (column(n, "I") for _ in range(4))
    first, second, codecs = column(n, "H"), column(n, "H"), column(n, "B")
    numbers, hours, rows = column(count, "H"), column(count, "I"), column(count, "I")
    sums = zip(column(count, "Q"), column(count, "Q"), strict=True)
    flags = column(count, "B")
    stored = [entry.ref for entry in entries]
    if any(ref.bases for ref in stored):
        stored = closure(stored)[0]
    keys = [at + _KEY_BYTES * k for k in accumulate(int(file == NO_FILE) for file in files)]
    held: list[Held | None] = [None] * n

    def build(k: int, depth: int = 0) -> Held:
        ready = held[k]
        if ready is None:
            if depth > 16:
                raise IntegrityError("a chain of held versions turns on itself")
            bases: tuple[Held, ...] = ()
            if not first[k] == second[k] == _NONE:
                bases = tuple(build(b, depth + 1) for b in (first[k], second[k]) if b != _NONE)
            if files[k] == NO_FILE:
                ready = held_in_repository(stored[offsets[k]], data[keys[k] - _KEY_BYTES : keys[k]], bases)
            else:
                ready = Held(files[k], offsets[k], lengths[k], plains[k], codecs[k], bases)
            held[k] = ready
        return ready

    return [
        Version(entry.ref, None if k == _NONE else build(k), hour if entry.ref.bases else seen, r, s, f)
        for entry, k, hour, r, s, f in zip(entries, numbers, hours, rows, sums, flags, strict=True)
    ]


class Recent:
    """The blocks that were read last, as they were: what comes back whole and in order is written without looking into it.

    For several threads.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[list[Version], bytes]] = {}
        self._lock = threading.Lock()

    def keep(self, versions: list[Version], framed: bytes) -> None:
        """Remember a block that was read."""
        with self._lock:
            while len(self._blocks) >= _RECENT:
                del self._blocks[next(iter(self._blocks))]
            if versions:
                self._blocks[id(versions[0])] = versions, framed

    def find(self, versions: Sequence[Version]) -> bytes | None:
        """The framed plaintext of a block of exactly these versions."""
        with self._lock:
            found, framed = self._blocks.get(id(versions[0]), ((), None))
        return framed if found == versions else None


class ListWriter:
    """Writes one stream's list. A block waits until the packs of its chunks are complete.

    Args:
        folder: where lists are written.
        number: the stream's place among the snapshot's streams.
        secret: the cache secret.
        label: what binds blocks to this source and list.
        recent: what was read last of the lists before.
    """

    def __init__(self, folder: Path, number: int, secret: bytes, label: bytes, recent: Recent) -> None:
        self._recent = recent
        self._secret, self._label = secret, label + struct.pack("<I", number)
        self._folder, self._number = folder, number
        self._marks, self._places = bytearray(), bytearray()
        self._open: list[Version] = []
        self._line: list[list[Version]] = []
        self._at = self._blocks = 0
        self.chunks = 0
        self.live: dict[int, int] = {}
        self.oldest: int | None = None

    @property
    def waiting(self) -> int:
        """How many blocks wait for packs."""
        return len(self._line)

    def extend(self, versions: Sequence[Version], anchors: Sequence[Anchors] | None) -> None:
        """Append chunks; of rows, with their marks.

        Raises:
            OSError: as the disk says.
        """
        if anchors is not None:
            self._marks += b"".join([_ANCHORS.pack(marks.first, marks.last) for marks in anchors])
        for version in versions:
            if version.ref.bases and (self.oldest is None or version.seen < self.oldest):
                self.oldest = version.seen
        self.chunks += len(versions)
        self._open += versions
        while len(self._open) >= BLOCK:
            self._line.append(self._open[:BLOCK])
            del self._open[:BLOCK]
            self.drain()

    def drain(self) -> None:
        """Write what can be written.

        Raises:
            OSError: as the disk says.
        """
        done = 0
        for versions in self._line:
            if not all(_complete(v.ref) for v in versions):
                break
            self._write(versions)
            done += 1
        del self._line[:done]

    def _write(self, versions: Sequence[Version]) -> None:
        held = [v.held for v in versions if v.held is not None and (v.held.file != NO_FILE or v.held.bases)]
        for item in closure(held)[0]:
            if item.file != NO_FILE:
                self.live[item.file] = self.live.get(item.file, 0) + item.length + RECORD_OVERHEAD
        framed = self._recent.find(versions)
        if framed is None:
            plain = encode_block(versions)
            framed = _LENGTH.pack(len(plain)) + compress(plain, 1)
        sealed = seal_part(self._secret, "versions", self._label + _LENGTH.pack(self._blocks), framed)
        self._append("list", _LENGTH.pack(len(sealed)) + sealed)
        self._places += _PLACE.pack(self._at)
        if self._marks:
            marks, self._marks = self._marks, bytearray()
            self._append("anchors", marks)
        self._at += len(sealed) + _LENGTH.size
        self._blocks += 1

    def _append(self, suffix: str, data: bytes | bytearray) -> None:
        """Opened for each block: there may be a thousand streams under way."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._folder / f"{self._number}.{suffix}", flags, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Write the rest, with every pack complete.

        Raises:
            OSError: as the disk says.
        """
        if self._open:
            self._line.append(self._open)
            self._open = []
        self.drain()
        self._append("places", self._places)


def _complete(ref: ChunkRef) -> bool:
    return ref.place.digest is not None and (not ref.bases or all(_complete(base) for base in ref.bases))


class ListReader:
    """Reads one stream's list of the run before. For one thread.

    Args:
        folder: where the lists are.
        number: the stream's place then.
        secret: the cache secret.
        label: as when it was written.
        kind: of the stream.
        chunks: how many it had.
        seen: the hour of that run.
        recent: is told what was read.
    """

    def __init__(
        self, folder: Path, number: int, secret: bytes, label: bytes, kind: Kind, chunks: int, seen: int, recent: Recent
    ) -> None:
        self._recent = recent
        self._folder, self._number = folder, number
        self._secret, self._label = secret, label + struct.pack("<I", number)
        self._kind, self._seen = kind, seen
        self.chunks = chunks
        self._fds: dict[str, int] = {}
        self._near: dict[int, list[Version]] = {}

    def _fd(self, suffix: str) -> int:
        if suffix not in self._fds:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fds[suffix] = os.open(self._folder / f"{self._number}.{suffix}", flags)
        return self._fds[suffix]

    def block(self, n: int) -> list[Version]:
        """A block's chunks; none if it is damaged or gone. The last few are kept."""
        found = self._near.get(n)
        if found is None:
            try:
                found = self._load(n)
            except (OSError, IntegrityError, ValueError, struct.error, IndexError, TypeError):
                found = []
            if len(self._near) >= _NEAR:
                del self._near[next(iter(self._near))]
            self._near[n] = found
        return found

    def _load(self, n: int) -> list[Version]:
        (at,) = _PLACE.unpack(os.pread(self._fd("places"), _PLACE.size, n * _PLACE.size))
        (length,) = _LENGTH.unpack(os.pread(self._fd("list"), _LENGTH.size, at))
        if length > MAX_BLOCK:
            raise IntegrityError("a block is too long")
        sealed = os.pread(self._fd("list"), length, at + _LENGTH.size)
        framed = open_part(self._secret, "versions", self._label + _LENGTH.pack(n), sealed)
        (size,) = _LENGTH.unpack_from(framed)
        plain = decompress(framed[_LENGTH.size :], limit=MAX_BLOCK, exact=size)
        versions = decode_block(plain, self._kind, self._seen)
        self._recent.keep(versions, framed)
        return versions

    def version(self, n: int) -> Version | None:
        """The chunk at a place."""
        if not 0 <= n < self.chunks:
            return None
        block = self.block(n // BLOCK)
        return block[n % BLOCK] if n % BLOCK < len(block) else None

    def anchors(self, start: int, count: int) -> list[tuple[int, int]]:
        """The marks of some chunks, first and last; fewer if there are no more."""
        return list(_ANCHORS.iter_unpack(self.raw_anchors(start, count)))

    def raw_anchors(self, start: int, count: int) -> bytes:
        """The same as 16 bytes for each."""
        try:
            data = os.pread(self._fd("anchors"), count * _ANCHORS.size, start * _ANCHORS.size)
        except OSError:
            return b""
        return data[: len(data) - len(data) % _ANCHORS.size]

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
