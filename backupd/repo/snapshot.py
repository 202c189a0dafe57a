"""Snapshot objects: what a snapshot is, signed and chained. FORMAT.md, section 10.

The structure part is for everybody who may check; the content part opens only with the session's key.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backupd.crypto.chunks import Kind, open_part, seal_part
from backupd.crypto.envelope import Envelope, parse_envelope
from backupd.crypto.keyring import Signer
from backupd.crypto.primitives import Unauthentic, sha256
from backupd.errors import IntegrityError
from backupd.repo.content import check_content
from backupd.repo.format import (
    SNAPSHOT,
    Cursor,
    Signed,
    block,
    check_frame,
    dump_json,
    frame,
    label,
    natural,
    pack_json,
    parse_json,
    sign_object,
    snapshot_name,
    split_signed,
    unpack_json,
)


@dataclass(frozen=True, slots=True)
class StreamRoot:
    """A stream as the structure part lists it."""

    kind: Kind
    size_class: int
    chunks: int
    size: int
    top: bytes = field(repr=False)

    @property
    def totals(self) -> tuple[int, int]:
        """Chunks and bytes."""
        return self.chunks, self.size


@dataclass(frozen=True, slots=True)
class Structure:
    """What everybody with a structure key may know of a snapshot."""

    seq: int
    previous: bytes | None
    trust: int
    source: str
    taken_at: str
    stored_at: str
    kind: str
    streams: tuple[StreamRoot, ...]
    rows: int | None
    read_bytes: int
    stored_bytes: int
    chunks: Mapping[str, int]
    segments: tuple[bytes, ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()
    tags: tuple[str, ...] = ()
    hold: str | None = None

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {
            "seq": self.seq,
            "previous": self.previous.hex() if self.previous else None,
            "trust": self.trust,
            "source": self.source,
            "taken_at": self.taken_at,
            "stored_at": self.stored_at,
            "kind": self.kind,
            "streams": [
                {
                    "kind": int(s.kind),
                    "class": s.size_class,
                    "chunks": s.chunks,
                    "bytes": s.size,
                    "top": base64.b64encode(s.top).decode(),
                }
                for s in self.streams
            ],
            "rows": self.rows,
            "read_bytes": self.read_bytes,
            "stored_bytes": self.stored_bytes,
            "chunks": dict(self.chunks),
            "segments": [digest.hex() for digest in self.segments],
            "skipped": [list(pair) for pair in self.skipped],
            "tags": list(self.tags),
            "hold": self.hold,
        }


_STREAM_KINDS = frozenset({Kind.ROWS, Kind.PAGES, Kind.SCHEMA, Kind.CONTENT})
_SNAPSHOT_KINDS = frozenset({"snapshot", "checkpoint"})


def _hash(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != 32:
        raise ValueError("no hash")
    return digest


def _stream(document: dict[str, Any]) -> StreamRoot:
    kind = Kind(natural(document["kind"]))
    if kind not in _STREAM_KINDS:
        raise ValueError("no kind of stream")
    top = base64.b64decode(document["top"], validate=True)
    return StreamRoot(kind, natural(document["class"]), natural(document["chunks"]), natural(document["bytes"]), top)


def _structure(document: dict[str, Any], name: str) -> Structure:
    try:
        previous = _hash(document["previous"]) if document["previous"] else None
        if document["kind"] not in _SNAPSHOT_KINDS:
            raise ValueError("no kind of snapshot")
        return Structure(
            natural(document["seq"]),
            previous,
            natural(document["trust"]),
            label(document["source"]),
            label(document["taken_at"]),
            label(document["stored_at"]),
            document["kind"],
            tuple(_stream(s) for s in document["streams"]),
            None if document["rows"] is None else natural(document["rows"]),
            natural(document["read_bytes"]),
            natural(document["stored_bytes"]),
            {label(k): natural(v) for k, v in document["chunks"].items()},
            tuple(_hash(text) for text in document["segments"]),
            tuple((natural(first), natural(last)) for first, last in document["skipped"]),
            tuple(label(t) for t in document["tags"]),
            None if document["hold"] is None else label(document["hold"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError, binascii.Error):
        raise IntegrityError(f"{name} holds a document that cannot be read", object_name=name) from None


@dataclass(frozen=True, slots=True)
class SnapshotObject:
    """A snapshot object taken apart; believed only once `signed` was verified."""

    name: str
    id: bytes
    writer: bytes
    seq: int
    envelope: Envelope = field(repr=False)
    signed: Signed = field(repr=False)
    sealed_structure: bytes = field(repr=False)
    sealed_content: bytes = field(repr=False)
    size: int = 0

    def _aad(self) -> bytes:
        return self.name.encode() + sha256(self.envelope.raw)

    def structure(self, key: bytes) -> Structure:
        """Open the structure part.

        Raises:
            IntegrityError: damaged, of another writer or number, or not readable.
        """
        try:
            plain = open_part(key, "snapshot-structure", self._aad(), self.sealed_structure)
        except Unauthentic:
            raise IntegrityError(f"the structure of {self.name} does not open", object_name=self.name) from None
        structure = _structure(unpack_json(plain, self.name), self.name)
        if structure.seq != self.seq:
            raise IntegrityError(f"{self.name} says that it is another number", object_name=self.name)
        return structure

    def content(self, session_key: bytes, kinds: Sequence[Kind]) -> dict[str, Any]:
        """Open the content part, and check that it is what such a part is.

        Args:
            session_key: of the snapshot.
            kinds: of its streams, as the structure part lists them.

        Raises:
            IntegrityError: damaged, or not readable.
        """
        try:
            plain = open_part(session_key, "snapshot-content", self._aad(), self.sealed_content)
        except Unauthentic:
            raise IntegrityError(f"the content of {self.name} does not open", object_name=self.name) from None
        document = unpack_json(plain, self.name)
        try:
            check_content(document, kinds)
        except (KeyError, ValueError, TypeError):
            raise IntegrityError(f"the content of {self.name} is not what it must be", object_name=self.name) from None
        return document


def parse_snapshot(data: bytes, name: str, repository: bytes) -> SnapshotObject:
    """Take a snapshot object apart; nothing is verified or opened yet.

    Raises:
        IntegrityError: it is no snapshot of this repository, writer and version.
    """
    check_frame(data, name, repository)
    signed = split_signed(name, data)
    cursor = Cursor(signed.body, name)
    raw, structure, content = cursor.block(), cursor.block(), cursor.block()
    cursor.end()
    _, writer, seq = name.split("/")
    try:
        envelope = parse_envelope(raw)
    except IntegrityError as error:
        raise IntegrityError(f"{name}: {error.message}", object_name=name) from None
    if (envelope.writer.hex(), envelope.repository) != (writer, repository):
        raise IntegrityError(f"{name} was written by another writer", object_name=name)
    return SnapshotObject(
        name, sha256(data), envelope.writer, int(seq), envelope, signed, structure, content, len(data)
    )


def encode_snapshot(
    structure: Structure,
    content: Mapping[str, object],
    *,
    envelope: Envelope,
    structure_key: bytes,
    session_key: bytes,
    signer: Signer,
    stored_overhead: bool = True,
) -> tuple[str, bytes]:
    """Seal, join and sign a snapshot; returns its name and bytes.

    With `stored_overhead`, the object's own length is added to `stored_bytes`, as near as it can be known beforehand.
    """
    name = snapshot_name(envelope.writer, structure.seq)
    aad = name.encode() + sha256(envelope.raw)
    sealed_content = seal_part(session_key, "snapshot-content", aad, pack_json(content))
    head = frame(SNAPSHOT, envelope.repository) + block(envelope.raw)
    if stored_overhead:
        guess = len(head) + len(sealed_content) + len(pack_json(structure.document())) + 40 + 8 + 81
        structure = replace(structure, stored_bytes=structure.stored_bytes + guess)
    if _structure(parse_json(dump_json(structure.document()), name), name) != structure:
        raise IntegrityError(f"{name} would not read back as it was meant", object_name=name)
    sealed_structure = seal_part(structure_key, "snapshot-structure", aad, pack_json(structure.document()))
    return name, sign_object(name, head + block(sealed_structure) + block(sealed_content), [signer])
