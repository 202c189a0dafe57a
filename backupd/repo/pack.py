"""Packs: many sealed chunks in one object. FORMAT.md, section 7.

A pack is built in memory, decoded again before it may be uploaded, and never changed. Everything that tells how many
chunks there are, and how long, is encrypted; the object's own length is padded.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from backupd.crypto.chunks import BLOB_OVERHEAD, ChunkHead, ChunkSealer, Kind, open_part, seal_part
from backupd.crypto.envelope import MAX_ENVELOPE_BYTES, Envelope, parse_envelope
from backupd.crypto.primitives import Unauthentic, random_bytes, sha256
from backupd.errors import IntegrityError
from backupd.repo.codecs import check_shape
from backupd.repo.format import FRAME_BYTES, PACK, Cursor, block, check_frame, frame, pack_name
from backupd.repo.nodes import PackPlace

PACK_BYTES = 16 * 1024 * 1024
MAX_PACK_BYTES = 32 * 1024 * 1024
MAX_BLOBS = 131_072
_ENTRY = struct.Struct("<32sBBBBIII")
_TRAILER = struct.Struct("<IIII")
TRAILER_BYTES = _TRAILER.size + BLOB_OVERHEAD
MAX_HEAD = FRAME_BYTES + 4 + MAX_ENVELOPE_BYTES


def padme(length: int) -> int:
    """The Padme length for `length` (Nikitin et al., 2019): at most 12 % more, so that lengths tell little."""
    if length < 2:
        return length
    e = length.bit_length() - 1
    s = e.bit_length()
    mask = (1 << (e - s)) - 1 if e > s else 0
    return (length + mask) & ~mask


@dataclass(frozen=True, slots=True)
class PackEntry:
    """A blob as a pack's footer lists it."""

    id: bytes
    kind: Kind
    codec: int
    offset: int
    payload_length: int
    plain_length: int
    bases: tuple[bytes, ...] = ()

    def head(self, repository: bytes) -> ChunkHead:
        """What is bound to the blob."""
        return ChunkHead(repository, self.kind, self.codec, self.id, self.payload_length, self.plain_length, self.bases)


def encode_entries(entries: Iterable[PackEntry]) -> bytes:
    """A footer."""
    out = bytearray(4)
    count = 0
    for e in entries:
        out += _ENTRY.pack(e.id, e.kind, e.codec, len(e.bases), 0, e.offset, e.payload_length, e.plain_length)
        out += b"".join(e.bases)
        count += 1
    out[:4] = struct.pack("<I", count)
    return bytes(out)


def decode_entries(cursor: Cursor) -> list[PackEntry]:
    """Parse a footer.

    Raises:
        IntegrityError: impossible counts, kinds, codecs or lengths.
    """
    count = cursor.u32()
    if count > MAX_BLOBS:
        raise IntegrityError("a pack lists too many blobs")
    entries = []
    for _ in range(count):
        chunk_id, kind, codec, bases, zero, offset, payload, plain = _ENTRY.unpack(cursor.take(_ENTRY.size))
        if zero:
            raise IntegrityError("a pack lists a blob with reserved bits set")
        try:
            named = Kind(kind)
        except ValueError:
            raise IntegrityError(f"a pack lists a chunk of unknown kind {kind}") from None
        check_shape(named, codec, bases, payload, plain)
        base_ids = tuple(cursor.take(32) for _ in range(bases))
        entries.append(PackEntry(chunk_id, named, codec, offset, payload, plain, base_ids))
    return entries


def pack_header(repository: bytes, envelope: Envelope) -> bytes:
    """The clear beginning of every pack of a session."""
    return frame(PACK, repository) + block(envelope.raw)


class PackBuilder:
    """A pack being filled. Not for several threads; `finish` may run in another one once nothing more is added."""

    def __init__(self, repository: bytes, envelope: Envelope, structure_key: bytes, limit: int = PACK_BYTES) -> None:
        self._repository = repository
        self._structure_key = structure_key
        header = pack_header(repository, envelope)
        self._parts = [header]
        self._length = len(header)
        self._header_hash = sha256(header)
        self._limit = limit
        self.entries: list[PackEntry] = []
        self._footer_bytes = 4
        self.place = PackPlace()

    def fits(self, payload_length: int, bases: int = 0) -> bool:
        """Whether one more blob leaves the pack within its size."""
        more = payload_length + BLOB_OVERHEAD + _ENTRY.size + 32 * bases
        full = self._length + self._footer_bytes + BLOB_OVERHEAD + TRAILER_BYTES + more
        return not self.entries or (full <= self._limit and len(self.entries) < MAX_BLOBS)

    def add(self, head: ChunkHead, blob: bytes) -> PackEntry:
        """Append a blob; returns its entry."""
        entry = PackEntry(
            head.id, head.kind, head.codec, self._length, head.payload_length, head.plain_length, head.bases
        )
        self._parts.append(blob)
        self._length += len(blob)
        self.entries.append(entry)
        self._footer_bytes += _ENTRY.size + 32 * len(head.bases)
        return entry

    def finish(self, session: ChunkSealer, structure: ChunkSealer) -> tuple[bytes, bytes]:
        """Pad, seal the footer, and decode everything again as a reader would.

        Returns:
            The pack's digest and its bytes. `place` gets its digest from the caller.

        Raises:
            IntegrityError: what was built does not read back: a fault of this machine, and nothing to upload.
        """
        footer = seal_part(self._structure_key, "pack-footer", self._header_hash, encode_entries(self.entries))
        bare = self._length + len(footer) + TRAILER_BYTES
        padding = random_bytes(padme(bare) - bare)
        offset = self._length + len(padding)
        trailer = _TRAILER.pack(offset, len(footer), len(self.entries), offset + len(footer) + TRAILER_BYTES)
        sealed = seal_part(self._structure_key, "pack-trailer", self._header_hash, trailer)
        data = b"".join([*self._parts, padding, footer, sealed])  # one copy, made while other threads go on
        self._parts.clear()
        digest = sha256(data)
        pack = parse_pack(data, pack_name(digest), self._repository, check_hash=False)
        if pack.read_entries(self._structure_key) != self.entries:
            raise IntegrityError("a pack does not read back as it was built; check this machine's memory")
        for entry in self.entries:
            sealer = structure if entry.kind is Kind.STRUCTURE else session
            sealer.open(entry.head(self._repository), pack.blob(entry))
        return digest, data


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack's bytes with its clear beginning parsed; its name vouches for the bytes once the hash was checked."""

    name: str
    envelope: Envelope
    header_hash: bytes
    header_bytes: int
    data: memoryview = field(repr=False)

    def blob(self, entry: PackEntry) -> memoryview:
        """The sealed bytes of an entry."""
        return self.data[entry.offset : entry.offset + entry.payload_length + BLOB_OVERHEAD]

    def read_entries(self, structure_key: bytes) -> list[PackEntry]:
        """Open the trailer and the footer.

        Raises:
            IntegrityError: either is not as it was sealed, or blobs lie outside or on each other.
        """
        if len(self.data) < self.header_bytes + TRAILER_BYTES:
            raise IntegrityError(f"{self.name} is truncated", object_name=self.name)
        try:
            trailer = open_part(structure_key, "pack-trailer", self.header_hash, self.data[-TRAILER_BYTES:])
            offset, length, count, total = _TRAILER.unpack(trailer)
            if total != len(self.data) or offset + length + TRAILER_BYTES != total or offset < self.header_bytes:
                raise IntegrityError("its length is not the one it was sealed with")
            plain = open_part(structure_key, "pack-footer", self.header_hash, self.data[offset : offset + length])
        except Unauthentic:
            raise IntegrityError(f"the footer of {self.name} does not open", object_name=self.name) from None
        except IntegrityError as error:
            raise IntegrityError(f"{self.name}: {error.message}", object_name=self.name) from None
        cursor = Cursor(plain, self.name, 0)
        entries = decode_entries(cursor)
        cursor.end()
        if len(entries) != count:
            raise IntegrityError(f"the footer of {self.name} lists another number of blobs", object_name=self.name)
        self._check_places(entries, offset)
        return entries

    def _check_places(self, entries: list[PackEntry], end: int) -> None:
        at = self.header_bytes
        for entry in sorted(entries, key=lambda e: e.offset):
            if entry.offset < at or entry.offset + entry.payload_length + BLOB_OVERHEAD > end:
                raise IntegrityError(f"{self.name} lists blobs outside or on each other", object_name=self.name)
            at = entry.offset + entry.payload_length + BLOB_OVERHEAD


def parse_pack(data: bytes | bytearray, name: str, repository: bytes, *, check_hash: bool = True) -> Pack:
    """Take a pack's clear beginning apart.

    Raises:
        IntegrityError: another hash than its name says, or no pack of this repository and version.
    """
    if len(data) > MAX_PACK_BYTES:
        raise IntegrityError(f"{name} is larger than any pack", object_name=name)
    if check_hash and sha256(data).hex() != name.rsplit("/", 1)[-1]:
        raise IntegrityError(f"{name} is damaged: its content has another hash", object_name=name)
    envelope, header = parse_head(bytes(data[:MAX_HEAD]), name, repository)
    return Pack(name, envelope, sha256(header), len(header), memoryview(data))


def parse_head(data: bytes, name: str, repository: bytes) -> tuple[Envelope, bytes]:
    """The envelope at a pack's beginning, and the whole clear header.

    Args:
        data: the pack's first `MAX_HEAD` bytes, or all of it.
        name: the pack's name.
        repository: whose it must be.

    Raises:
        IntegrityError: no pack of this repository and version.
    """
    check_frame(memoryview(data)[:FRAME_BYTES], name, repository)
    cursor = Cursor(data, name)
    raw = cursor.block()
    try:
        envelope = parse_envelope(raw)
    except IntegrityError as error:
        raise IntegrityError(f"{name}: {error.message}", object_name=name) from None
    if envelope.repository != repository:
        raise IntegrityError(f"{name} belongs to another repository", object_name=name)
    return envelope, data[: cursor.at]
