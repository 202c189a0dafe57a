"""Names and seals of chunks and of other parts: FORMAT.md, sections 2 and 6.

Keys and nonces are derived from a secret, the content's keyed name and a salt that is itself a keyed hash of what is
sealed. So there is no counter to keep, no random nonce to run out of, and a cloned machine or a broken random source
can only repeat a (key, nonce) pair for the very same plaintext. Must never be handed an unkeyed hash as an id.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from backupd.crypto.primitives import (
    SALT_BYTES,
    TAG_BYTES,
    Bytes,
    Unauthentic,
    b3_derive,
    b3_keyed,
    expand,
    gcm_open,
    gcm_seal,
)

BLOB_OVERHEAD = SALT_BYTES + TAG_BYTES


class Kind(IntEnum):
    """What a chunk holds."""

    ROWS = 1
    PAGES = 2
    SCHEMA = 3
    CONTENT = 4
    STRUCTURE = 5


_AAD = struct.Struct("<16sBBBxII32s")


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """What is bound to a sealed chunk: all that a reader believes about it before it opens it."""

    repository: bytes
    kind: Kind
    codec: int
    id: bytes
    payload_length: int
    plain_length: int
    bases: tuple[bytes, ...] = ()

    def aad(self) -> bytes:
        """The associated data of FORMAT.md, section 6."""
        head = _AAD.pack(
            self.repository, self.kind, self.codec, len(self.bases), self.payload_length, self.plain_length, self.id
        )
        return head + b"".join(self.bases) if self.bases else head


@dataclass(frozen=True, slots=True)
class ChunkNamer:
    """Computes ids under one secret; one for each (secret, kind)."""

    kind: Kind
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes, kind: Kind) -> "ChunkNamer":
        """The namer of `kind` under a writer's id key, or under the structure key for structure lists."""
        return cls(kind, b3_derive(f"backupd/v1/chunk-id/{kind.name.lower()}", secret))

    def name(self, plaintext: Bytes) -> bytes:
        """The 32-byte id of a plaintext."""
        return b3_keyed(self.key, plaintext)

    def check(self, chunk_id: bytes, plaintext: Bytes) -> None:
        """Recompute the id.

        Raises:
            Unauthentic: the content is not the one that the id names.
        """
        if self.name(plaintext) != chunk_id:
            raise Unauthentic("the content is not the one that its id names")


class ChunkSealer:
    """Seals and opens chunks under one secret: a session key, or a structure key for structure lists."""

    __slots__ = ("_salt_key", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._salt_key = b3_derive("backupd/v1/chunk-salt", secret)

    def _key_nonce(self, head: ChunkHead, salt: bytes) -> bytes:
        return expand(self._secret, b"backupd/v1/chunk" + head.repository + bytes([head.kind]) + head.id + salt, 44)

    def seal(self, head: ChunkHead, payload: bytes) -> bytes:
        """Return the blob: salt, ciphertext, tag; `BLOB_OVERHEAD` bytes longer than the payload."""
        return self.seal_kept(head, payload)[0]

    def seal_kept(self, head: ChunkHead, payload: bytes) -> tuple[bytes, bytes]:
        """Return the blob, and what opens this blob and nothing else: see `open_kept`."""
        aad = head.aad()
        salt = b3_keyed(self._salt_key, aad + payload)[:SALT_BYTES]
        key_nonce = self._key_nonce(head, salt)
        return salt + gcm_seal(key_nonce, payload, aad), key_nonce

    def open(self, head: ChunkHead, blob: Bytes) -> bytes:
        """Return the payload of a blob.

        Raises:
            Unauthentic: anything about the blob or its head is not as it was sealed.
        """
        if len(blob) != head.payload_length + BLOB_OVERHEAD:
            raise Unauthentic("a sealed chunk has the wrong length")
        salt = bytes(blob[:SALT_BYTES])
        return gcm_open(self._key_nonce(head, salt), memoryview(blob)[SALT_BYTES:], head.aad())


def open_kept(key_nonce: bytes, head: ChunkHead, blob: Bytes) -> bytes:
    """Open a blob with the key that its sealing gave.

    Raises:
        Unauthentic: as `ChunkSealer.open` does.
    """
    if len(blob) != head.payload_length + BLOB_OVERHEAD:
        raise Unauthentic("a sealed chunk has the wrong length")
    return gcm_open(key_nonce, memoryview(blob)[SALT_BYTES:], head.aad())


def _part_key_nonce(key: bytes, label: bytes, salt: bytes) -> bytes:
    return expand(key, b"backupd/v1/sealed" + bytes([len(label)]) + label + salt, 44)


def seal_part(key: bytes, label: str, aad: bytes, plaintext: bytes) -> bytes:
    """`Sealed(key, label, aad, plaintext)` of FORMAT.md, section 2."""
    name = label.encode()
    message = bytes([len(name)]) + name + struct.pack("<I", len(aad)) + aad + plaintext
    salt = b3_keyed(b3_derive("backupd/v1/sealed-salt", key), message)[:SALT_BYTES]
    return salt + gcm_seal(_part_key_nonce(key, name, salt), plaintext, name + b"\0" + aad)


def open_part(key: bytes, label: str, aad: bytes, sealed: Bytes) -> bytes:
    """Open a sealed part.

    Raises:
        Unauthentic: damaged, forged, of another label or place, or under another key.
    """
    if len(sealed) < BLOB_OVERHEAD:
        raise Unauthentic("a sealed part is too short")
    name = label.encode()
    salt = bytes(sealed[:SALT_BYTES])
    return gcm_open(_part_key_nonce(key, name, salt), memoryview(sealed)[SALT_BYTES:], name + b"\0" + aad)
