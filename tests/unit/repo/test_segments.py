"""Index segments: bound to their writer, session and number, and bounded."""

import os
import struct
import tracemalloc

import pytest

from backupd.crypto.chunks import Kind, seal_part
from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError
from backupd.repo.format import INDEX, block, frame, owner_block, sign_object
from backupd.repo.pack import PackEntry
from backupd.repo.segments import MAX_SEGMENT, IndexedPack, Segment, encode_segment, parse_segment, segment_name
from tests.unit.repo.world import make_world

WORLD = make_world()
WRITER, SESSION = WORLD.secrets.writer, WORLD.envelope.session
NAME = segment_name(WRITER, SESSION, 3)
PACKS = [
    IndexedPack(
        os.urandom(32),
        1000 + n,
        tuple(PackEntry(os.urandom(32), kind, 0, 40 * n, 7, 7) for kind in (Kind.ROWS, Kind.STRUCTURE)),
    )
    for n in range(3)
] + [IndexedPack(os.urandom(32), 9, (PackEntry(os.urandom(32), Kind.ROWS, 2, 1, 5, 6, (bytes(32), b"\1" * 32)),))]
DATA = encode_segment(NAME, PACKS, WORLD.envelope, WORLD.structure_key, WORLD.signer())


def read(data: bytes, name: str = NAME) -> list[IndexedPack]:
    """Everything that a reader checks of a segment."""
    segment: Segment = parse_segment(data, name, WORLD.repository)
    segment.signed.verify(WORLD.signer().id, WORLD.keys[Role.WRITE].header.public)
    return segment.packs(WORLD.structure_key)


def forged(plain: bytes, *, name: str = NAME, key: bytes = b"", writer: bytes = WRITER) -> bytes:
    sealed = seal_part(key or WORLD.structure_key, "index", name.encode(), plain)
    owner = owner_block(writer, 1, WORLD.envelope.structure_id)
    return sign_object(name, frame(INDEX, WORLD.repository) + owner + block(sealed), [WORLD.signer()])


@pytest.mark.parametrize("packs", [PACKS, PACKS[:1], []])
def test_a_segment_round_trips(packs: list[IndexedPack]) -> None:
    """Any number of packs, with deltas among them, comes back, and the owner block names the structure key."""
    data = encode_segment(NAME, packs, WORLD.envelope, WORLD.structure_key, WORLD.signer())
    assert read(data) == packs
    segment = parse_segment(data, NAME, WORLD.repository)
    assert (segment.writer, segment.epoch, segment.structure_id) == (WRITER, 1, WORLD.envelope.structure_id)


def test_every_byte_of_a_segment_counts() -> None:
    """A segment with any byte changed, cut or added is refused (A1, A2)."""
    touched = [DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :] for at in range(len(DATA))]
    for bad in [*touched, *(DATA[:n] for n in range(len(DATA))), DATA + b"\0"]:
        with pytest.raises(IntegrityError):
            read(bad)


def test_a_segment_is_bound_to_its_place() -> None:
    """A segment under another number, session or writer is refused, also if its writer signs it again there (D32)."""
    for name in (
        segment_name(WRITER, SESSION, 4),
        segment_name(WRITER, bytes(16), 3),
        segment_name(bytes(16), SESSION, 3),
    ):
        with pytest.raises(IntegrityError):
            read(DATA, name)
        with pytest.raises(IntegrityError):
            read(sign_object(name, DATA[:-81], [WORLD.signer()]), name)


def test_the_owner_is_the_writer_of_the_name() -> None:
    """A segment that names another owner than its name is refused."""
    with pytest.raises(IntegrityError, match="another writer"):
        read(forged(bytes(4), writer=bytes(16)))


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        struct.pack("<I", 1),
        struct.pack("<I", 0) + b"\0",
        struct.pack("<I", 0xFFFFFFFF),
        struct.pack("<I", 1 << 20) + bytes(100),
        struct.pack("<I", 1) + bytes(36) + struct.pack("<I", 0xFFFFFFFF),
        struct.pack("<I", 1) + bytes(36) + struct.pack("<I", 1) + bytes(48),
    ],
)
def test_hostile_lists_are_refused_in_little_memory(plain: bytes) -> None:
    """Counts that lie, missing and extra bytes and impossible entries are refused in bounded memory."""
    data = forged(plain)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 17
    finally:
        tracemalloc.stop()


def test_a_segment_is_bounded() -> None:
    """More than 16 MiB are refused before anything is verified."""
    with pytest.raises(IntegrityError, match="larger"):
        parse_segment(DATA + bytes(MAX_SEGMENT), NAME, WORLD.repository)


def test_another_key_is_damage() -> None:
    """A list sealed under another key does not open, and says so."""
    with pytest.raises(IntegrityError, match="does not open"):
        read(forged(bytes(4), key=bytes(32)))
