"""What all objects share: names, frames, signature blocks, owner blocks, JSON. FORMAT.md, sections 1 and 2.

Parsing here is strict and bounded; nothing behind a frame is looked at before its signature or hash was checked.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backupd.crypto.keyring import Signer
from backupd.crypto.primitives import Unauthentic, check_signature
from backupd.errors import IntegrityError
from backupd.repo.compression import compress, decompress

VERSION = 1
SUITE = 1
FEATURES_KNOWN = 0
FRAME_BYTES = 32
OWNER_BYTES = 36
MAX_OBJECT = 64 * 1024 * 1024
MAX_JSON = 16 * 1024 * 1024
MAX_LEVELS = 16
MAX_SIGNATURES = 16

TRUST, SESSION, PACK, INDEX, SNAPSHOT, RECORD, GC = b"TOPISRG"
_KINDS = {
    "trust": TRUST,
    "sessions": SESSION,
    "packs": PACK,
    "index": INDEX,
    "snapshots": SNAPSHOT,
    "records": RECORD,
    "gc": GC,
}
_FRAME = struct.Struct("<4sBBHII16s")
_HEX16 = "[0-9a-f]{32}"
_NAMES = {
    TRUST: re.compile("trust/[0-9]{12}"),
    SESSION: re.compile(rf"sessions/{_HEX16}/{_HEX16}"),
    PACK: re.compile(r"packs/([0-9a-f]{2})/\1[0-9a-f]{62}"),
    INDEX: re.compile(rf"index/{_HEX16}/{_HEX16}/[0-9]{{6}}"),
    SNAPSHOT: re.compile(rf"snapshots/{_HEX16}/[0-9]{{12}}"),
    RECORD: re.compile(r"records/(write|check|prune|read|root|recovery)/[0-9]{12}"),
    GC: re.compile(r"gc/[0-9]{12}\.(mark|intent|sweep)"),
}


def kind_of(name: str) -> int | None:
    """The kind that an object of this name must have; None if the name is not of this format."""
    kind = _KINDS.get(name.split("/", 1)[0])
    return kind if kind is not None and _NAMES[kind].fullmatch(name) else None


def pack_name(digest: bytes) -> str:
    """`packs/<hh>/<hash>`."""
    text = digest.hex()
    return f"packs/{text[:2]}/{text}"


def snapshot_name(writer: bytes, seq: int) -> str:
    """`snapshots/<writer>/<seq>`."""
    return f"snapshots/{writer.hex()}/{seq:012d}"


def trust_name(version: int) -> str:
    """`trust/<version>`."""
    return f"trust/{version:012d}"


def frame(kind: int, repository: bytes) -> bytes:
    """The first 32 bytes of a new object."""
    return _FRAME.pack(b"BKPD", kind, VERSION, SUITE, 0, 0, repository)


def frame_repository(data: bytes) -> bytes | None:
    """The repository id that an object claims, before anything is trusted; None if it is no object of ours."""
    if len(data) < FRAME_BYTES or data[:4] != b"BKPD":
        return None
    return data[16:FRAME_BYTES]


def check_frame(data: bytes | memoryview, name: str, repository: bytes) -> None:
    """Refuse any object whose frame is not the one that its name calls for.

    Raises:
        IntegrityError: another magic, kind, version, suite, repository, or an unknown required feature.
    """
    kind = kind_of(name)
    if kind is None or len(data) < FRAME_BYTES:
        raise IntegrityError(f"{name} is truncated or misnamed", object_name=name)
    magic, found, version, suite, required, _, owner = _FRAME.unpack_from(data)
    if magic != b"BKPD" or found != kind:
        raise IntegrityError(f"{name} is not what its name says", object_name=name)
    if version != VERSION or suite != SUITE or required & ~FEATURES_KNOWN:
        raise IntegrityError(
            f"{name} has format version {version}, suite {suite}, features {required:#x}: not known here",
            object_name=name,
            hint="a newer backupctl may have written it: upgrade, then try again",
        )
    if owner != repository:
        raise IntegrityError(f"{name} belongs to another repository", object_name=name)


class Cursor:
    """Reads an object front to back; every step is checked against its end."""

    __slots__ = ("_at", "_data", "_name")

    def __init__(self, data: bytes, name: str, at: int = FRAME_BYTES) -> None:
        self._data, self._name, self._at = data, name, at

    @property
    def at(self) -> int:
        """How far it has read."""
        return self._at

    def take(self, n: int) -> bytes:
        """The next `n` bytes.

        Raises:
            IntegrityError: fewer are left.
        """
        piece = self._data[self._at : self._at + n]
        if len(piece) != n:
            raise IntegrityError(f"{self._name} is truncated", object_name=self._name)
        self._at += n
        return piece

    def u8(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def u32(self) -> int:
        """The next four bytes."""
        return int.from_bytes(self.take(4), "little")

    def block(self) -> bytes:
        """A u32 length and that many bytes."""
        return self.take(self.u32())

    def end(self) -> None:
        """Nothing may be left.

        Raises:
            IntegrityError: something is.
        """
        if self._at != len(self._data):
            raise IntegrityError(f"{self._name} has bytes behind its end", object_name=self._name)


def block(data: bytes) -> bytes:
    """A u32 length and the bytes."""
    return struct.pack("<I", len(data)) + data


def _message(name: str, rest: bytes) -> bytes:
    label = name.encode()
    return b"backupd/v1/signature\0" + struct.pack("<H", len(label)) + label + struct.pack("<Q", len(rest)) + rest


def sign_object(name: str, body: bytes, signers: list[Signer]) -> bytes:
    """`body` (frame included) with its signature block.

    Raises:
        IntegrityError: no signer, or too many.
    """
    if not 1 <= len(signers) <= MAX_SIGNATURES:
        raise IntegrityError(f"{name} needs 1 to {MAX_SIGNATURES} signatures", object_name=name)
    message = _message(name, body)
    return body + bytes([len(signers)]) + b"".join(signer.id + signer.sign(message) for signer in signers)


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed object split from its signature block; not verified yet."""

    name: str
    body: bytes
    signatures: tuple[tuple[bytes, bytes], ...]

    def signer(self) -> bytes:
        """The key id of the only signature.

        Raises:
            IntegrityError: there are several.
        """
        if len(self.signatures) != 1:
            raise IntegrityError(f"{self.name} must have one signature", object_name=self.name)
        return self.signatures[0][0]

    def verify(self, key: bytes, public: bytes) -> None:
        """Check that the key of that id signed this.

        Raises:
            IntegrityError: it did not.
        """
        message = _message(self.name, self.body)
        for found, signature in self.signatures:
            if found == key:
                try:
                    return check_signature(public, signature, message)
                except Unauthentic:
                    break
        raise IntegrityError(f"the signature of {self.name} does not verify", object_name=self.name)


def split_signed(name: str, data: bytes) -> Signed:
    """Take the signature block off an object's end.

    Only the lengths in front of the body's blocks are looked at before the signature is checked.

    Raises:
        IntegrityError: there is no well-formed block.
    """
    if len(data) > MAX_OBJECT:
        raise IntegrityError(f"{name} is larger than any object", object_name=name)
    at = _block_start(data) if len(data) >= FRAME_BYTES else -1
    count = data[at] if 0 <= at < len(data) else 0
    if not 1 <= count <= MAX_SIGNATURES or len(data) != at + 1 + 80 * count:
        raise IntegrityError(f"{name} is truncated or has no signature block", object_name=name)
    pairs = tuple((data[i : i + 16], data[i + 16 : i + 80]) for i in range(at + 1, len(data), 80))
    return Signed(name, data[:at], pairs)


def _block_start(data: bytes) -> int:
    """Where the blocks of an object end: each kind's body is a sequence of length-prefixed blocks."""
    kind = data[4]
    at = FRAME_BYTES
    if kind in (INDEX, RECORD):
        at += OWNER_BYTES
    if kind == RECORD:
        at += 1 + 32
    for _ in range({SESSION: 2, SNAPSHOT: 3}.get(kind, 1)):
        if at + 4 > len(data):
            return -1
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    return at


def owner_block(writer: bytes, epoch: int, structure_id: bytes) -> bytes:
    """The 36 bytes that name a structure key."""
    return writer + struct.pack("<I", epoch) + structure_id


def parse_owner(data: bytes) -> tuple[bytes, int, bytes]:
    """(writer, epoch, structure key id)."""
    return data[:16], int.from_bytes(data[16:20], "little"), data[20:36]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("duplicate key")
    return document


def _no_constant(_: str) -> Any:
    raise ValueError("not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("not a number")
    return value


def _depth(value: Any, left: int = MAX_LEVELS) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        if left == 0:
            raise ValueError("too deep")
        for item in value:
            _depth(item, left - 1)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object strictly.

    Raises:
        IntegrityError: not UTF-8 JSON, no object, duplicate keys, NaN or infinite numbers, or too deep.
    """
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
        if not isinstance(document, dict):
            raise ValueError("no object")
        _depth(document)
        if b"\\u" in data:
            dump_json(document)  # an escape may stand for half a character, which is not UTF-8
    except (ValueError, RecursionError):
        raise IntegrityError(f"{name} holds a document that cannot be read", object_name=name) from None
    return document


def dump_json(document: Mapping[str, object]) -> bytes:
    """Compact JSON with sorted keys."""
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def pack_json(document: Mapping[str, object]) -> bytes:
    """Packed JSON: a zstd frame behind its length."""
    return block(compress(dump_json(document)))


def unpack_json(data: bytes, name: str) -> dict[str, Any]:
    """Read packed JSON.

    Raises:
        IntegrityError: see `parse_json`; or over 64 MiB.
    """
    cursor = Cursor(data, name, 0)
    frame_bytes = cursor.block()
    cursor.end()
    return parse_json(decompress(frame_bytes, limit=MAX_JSON), name)


def natural(value: Any, most: int = (1 << 63) - 1) -> int:
    """A whole number of a document: an integer from 0 to `most`, nothing that merely looks like one.

    Raises:
        ValueError: anything else.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a whole number in bounds")
    return value


def label(value: Any, most: int = 4096) -> str:
    """A text that people will see: printable, so that it cannot write to a terminal what it likes.

    Raises:
        ValueError: anything else.
    """
    if type(value) is not str or len(value) > most or not value.isprintable():
        raise ValueError("not a printable text")
    return value
