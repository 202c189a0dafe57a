"""Signed index segments: which chunks a writer's session put into which packs. FORMAT.md, section 8."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from backupd.crypto.chunks import open_part, seal_part
from backupd.crypto.envelope import Envelope
from backupd.crypto.keyring import Signer
from backupd.crypto.primitives import Unauthentic
from backupd.errors import IntegrityError
from backupd.repo.format import (
    INDEX,
    OWNER_BYTES,
    Cursor,
    block,
    check_frame,
    frame,
    owner_block,
    parse_owner,
    sign_object,
    split_signed,
)
from backupd.repo.format import Signed as SignedObject
from backupd.repo.pack import PackEntry, decode_entries, encode_entries

MAX_SEGMENT = 16 * 1024 * 1024
MAX_PACKS = 1 << 20


@dataclass(frozen=True, slots=True)
class IndexedPack:
    """A pack as a segment lists it."""

    digest: bytes
    size: int
    entries: tuple[PackEntry, ...]


def segment_name(writer: bytes, session: bytes, n: int) -> str:
    """`index/<writer>/<session>/<n>`."""
    return f"index/{writer.hex()}/{session.hex()}/{n:06d}"


def encode_segment(
    name: str, packs: Sequence[IndexedPack], envelope: Envelope, structure_key: bytes, signer: Signer
) -> bytes:
    """A signed segment object."""
    plain = struct.pack("<I", len(packs)) + b"".join(
        pack.digest + struct.pack("<I", pack.size) + encode_entries(pack.entries) for pack in packs
    )
    owner = owner_block(envelope.writer, envelope.epoch, envelope.structure_id)
    sealed = seal_part(structure_key, "index", name.encode(), plain)
    return sign_object(name, frame(INDEX, envelope.repository) + owner + block(sealed), [signer])


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment taken apart; believed only once `signed` was verified."""

    name: str
    writer: bytes
    epoch: int
    structure_id: bytes
    signed: SignedObject
    sealed: bytes

    def packs(self, structure_key: bytes) -> list[IndexedPack]:
        """Open the list.

        Raises:
            IntegrityError: damaged or not readable.
        """
        try:
            plain = open_part(structure_key, "index", self.name.encode(), self.sealed)
        except Unauthentic:
            raise IntegrityError(f"the index {self.name} does not open", object_name=self.name) from None
        cursor = Cursor(plain, self.name, 0)
        count = cursor.u32()
        if count > MAX_PACKS:
            raise IntegrityError(f"{self.name} lists too many packs", object_name=self.name)
        packs = [IndexedPack(cursor.take(32), cursor.u32(), tuple(decode_entries(cursor))) for _ in range(count)]
        cursor.end()
        return packs


def parse_segment(data: bytes, name: str, repository: bytes) -> Segment:
    """Take a segment apart; nothing is verified or opened yet.

    Raises:
        IntegrityError: it is no segment of this repository, writer and version.
    """
    if len(data) > MAX_SEGMENT:
        raise IntegrityError(f"{name} is larger than any index segment", object_name=name)
    check_frame(data, name, repository)
    signed = split_signed(name, data)
    cursor = Cursor(signed.body, name)
    writer, epoch, structure_id = parse_owner(cursor.take(OWNER_BYTES))
    sealed = cursor.block()
    cursor.end()
    if name.split("/")[1] != writer.hex():
        raise IntegrityError(f"{name} was written by another writer", object_name=name)
    return Segment(name, writer, epoch, structure_id, signed, sealed)
