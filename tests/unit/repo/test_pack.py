"""Packs: every bit counts, every cut is seen, and nothing in them can be moved."""

import math
import os
import struct
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.crypto.chunks import BLOB_OVERHEAD, ChunkHead, Kind, seal_part
from backupd.crypto.keyfile import Role
from backupd.crypto.primitives import sha256
from backupd.errors import BackupdError, Exit, IntegrityError, KeyProblem
from backupd.repo.format import Cursor, pack_name
from backupd.repo.pack import (
    MAX_BLOBS,
    MAX_PACK_BYTES,
    TRAILER_BYTES,
    PackBuilder,
    PackEntry,
    decode_entries,
    encode_entries,
    padme,
    parse_pack,
)
from tests.unit.repo.world import World, make_world

WORLD = make_world()
CHUNKS = [
    (Kind.ROWS, b"row one\nrow two\n"),
    (Kind.PAGES, os.urandom(700)),
    (Kind.SCHEMA, b"create table t(a)"),
    (Kind.STRUCTURE, b"structure node " * 9),
    (Kind.CONTENT, b"content node " * 7),
    (Kind.ROWS, b"row six, as long\n"[:16]),
]
DIGEST, DATA, BUILDER = WORLD.pack(CHUNKS)
NAME = pack_name(DIGEST)
ENVELOPE_AT = 36
HEADER = ENVELOPE_AT + len(WORLD.envelope.raw)


def read_pack(data: bytes, name: str, world: World = WORLD, *, check_hash: bool = True) -> list[tuple[Kind, bytes]]:
    """Everything that a reader with a read key does, front to back."""
    pack = parse_pack(data, name, world.repository, check_hash=check_hash)
    ring = world.ring(Role.READ)
    envelope = pack.envelope
    structure = ring.structure_key(envelope.writer, envelope.epoch, envelope.structure_id)
    if structure is None:
        raise IntegrityError("no structure key fits", object_name=name)
    secrets = ring.session(envelope)
    opened = replace(world, secrets=secrets, envelope=envelope)
    out = []
    for entry in pack.read_entries(structure):
        plain = opened.sealer(entry.kind).open(entry.head(world.repository), pack.blob(entry))
        opened.namer(entry.kind).check(entry.id, plain)
        out.append((entry.kind, plain))
    return out


def renamed(data: bytes) -> str:
    """The name under which an attacker can put these bytes."""
    return pack_name(sha256(data))


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]


def footer_place() -> tuple[int, int]:
    """Where the footer of DATA is, counted from what was put in."""
    length = len(encode_entries(BUILDER.entries)) + BLOB_OVERHEAD
    return len(DATA) - TRAILER_BYTES - length, length


def regions() -> dict[str, tuple[int, int]]:
    """Every region of DATA: start and end."""
    out = {
        "magic": (0, 4),
        "kind": (4, 5),
        "version": (5, 6),
        "suite": (6, 8),
        "required features": (8, 12),
        "optional features": (12, 16),
        "repository": (16, 32),
        "envelope length": (32, 36),
        "envelope repository": (36, 52),
        "envelope writer": (52, 68),
        "envelope epoch": (68, 72),
        "envelope trust version": (72, 76),
        "envelope structure id": (76, 92),
        "envelope nonce": (92, 108),
        "envelope count": (108, 109),
        "stanza recipient": (109, 125),
        "stanza length": (125, 127),
        "stanza": (127, 1427),
        "second stanza": (1427 + 18, 1427 + 1318),
        "envelope mac": (HEADER - 32, HEADER),
    }
    for n, e in enumerate(BUILDER.entries):
        out[f"blob {n} salt"] = (e.offset, e.offset + 24)
        out[f"blob {n} ciphertext"] = (e.offset + 24, e.offset + 24 + e.payload_length)
        out[f"blob {n} tag"] = (e.offset + 24 + e.payload_length, e.offset + 40 + e.payload_length)
    last = max(e.offset + e.payload_length + 40 for e in BUILDER.entries)
    footer, length = footer_place()
    out["padding"] = (last, footer)
    out |= {"footer salt": (footer, footer + 24), "footer": (footer + 24, footer + length - 16)}
    out["footer tag"] = (footer + length - 16, footer + length)
    end = len(DATA)
    out |= {"trailer salt": (end - 56, end - 32), "trailer": (end - 32, end - 16), "trailer tag": (end - 16, end)}
    return out


REGIONS = regions()


def test_regions_cover_the_whole_pack() -> None:
    """The regions that are damaged below leave no byte out but the second stanza's name and length."""
    covered = set().union(*(range(a, b) for a, b in REGIONS.values()))
    assert set(range(len(DATA))) - covered == set(range(1427, 1427 + 18))
    assert len(DATA) == padme(len(DATA))


def test_a_pack_reads_back() -> None:
    """Every chunk comes out as it went in, in the order of the footer."""
    assert read_pack(DATA, NAME) == CHUNKS
    assert parse_pack(DATA, NAME, WORLD.repository).header_hash == sha256(DATA[:HEADER])


@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_byte_is_found_by_the_name(region: str) -> None:
    """A bit flipped in any region is found by the hash alone, without any key, naming the pack (A1)."""
    start, end = REGIONS[region]
    for at in {start, (start + end) // 2, end - 1}:
        with pytest.raises(IntegrityError, match="hash") as caught:
            parse_pack(flip(DATA, at), NAME, WORLD.repository)
        assert caught.value.object_name == NAME
        assert caught.value.exit is Exit.INTEGRITY


@pytest.mark.parametrize("region", [name for name in REGIONS if "stanza" not in name and name != "padding"])
def test_a_flipped_byte_is_found_under_a_fitting_name(region: str) -> None:
    """Where the name was made to fit, the frame, envelope, blob, footer or trailer itself is refused (A1)."""
    start, end = REGIONS[region]
    for at in {start, (start + end) // 2, end - 1}:
        bad = flip(DATA, at)
        with pytest.raises((IntegrityError, KeyProblem)) as caught:
            read_pack(bad, renamed(bad))
        if region.startswith(("footer", "trailer")):
            assert "footer" in caught.value.message
        if region in ("magic", "kind", "version", "suite", "required features", "repository", "envelope length"):
            assert caught.value.object_name == renamed(bad)


@pytest.mark.parametrize("region", ["stanza", "stanza recipient", "second stanza"])
def test_a_flipped_stanza_is_found_under_a_fitting_name(region: str) -> None:
    """A stanza changed anywhere breaks the envelope's MAC, also for the recipient whose stanza is whole (A1, B11)."""
    start, end = REGIONS[region]
    for at in {start, (start + end) // 2, end - 1}:
        bad = flip(DATA, at)
        with pytest.raises(BackupdError):
            read_pack(bad, renamed(bad))


def test_padding_is_vouched_for_by_the_name() -> None:
    """Padding holds nothing: changed under a fitting name it changes no chunk; under the old name it is found (A1)."""
    bad = flip(DATA, REGIONS["padding"][0])
    assert read_pack(bad, renamed(bad)) == CHUNKS


@pytest.mark.parametrize("region", REGIONS)
def test_every_truncation_is_found(region: str) -> None:
    """Cut at each boundary and one byte to either side, a pack is refused, under its own and under a fitting name (A2)."""
    for boundary in REGIONS[region]:
        for length in (boundary - 1, boundary, boundary + 1):
            if not 0 <= length < len(DATA):
                continue
            for name in (NAME, renamed(DATA[:length])):
                with pytest.raises((IntegrityError, KeyProblem)):
                    read_pack(DATA[:length], name)
            with pytest.raises((IntegrityError, KeyProblem)):
                read_pack(DATA[:length], NAME, check_hash=False)


@pytest.mark.parametrize("extra", [b"\0", b"x" * 4096, DATA])
def test_trailing_bytes_are_found(extra: bytes) -> None:
    """Bytes behind or before a pack are refused under its own and under a fitting name (A2)."""
    for bad in (DATA + extra, extra + DATA):
        for name in (NAME, renamed(bad)):
            with pytest.raises(IntegrityError):
                read_pack(bad, name)


def test_an_empty_object_is_no_pack() -> None:
    """0 bytes are refused under any name (A2)."""
    for name in (NAME, renamed(b"")):
        with pytest.raises(IntegrityError):
            read_pack(b"", name)


def swapped(data: bytes, a: tuple[int, int], b: tuple[int, int]) -> bytes:
    (i, j), (k, m) = sorted((a, b))
    return data[:i] + data[k:m] + data[j:k] + data[i:j] + data[m:]


def test_blobs_exchanged_inside_a_pack() -> None:
    """Two blobs of equal length in each other's place do not open (A3)."""
    first, last = BUILDER.entries[0], BUILDER.entries[5]
    assert first.payload_length == last.payload_length
    bad = swapped(DATA, (first.offset, first.offset + 40 + 16), (last.offset, last.offset + 40 + last.payload_length))
    assert bad != DATA
    with pytest.raises(IntegrityError):
        read_pack(bad, renamed(bad))


def test_packs_under_each_others_names() -> None:
    """Two packs that changed names are both refused (A3)."""
    digest, data, _ = WORLD.pack(CHUNKS[:3])
    for body, name in ((data, NAME), (DATA, pack_name(digest))):
        with pytest.raises(IntegrityError, match="hash"):
            read_pack(body, name)


def test_blobs_in_another_order_or_twice_are_another_pack() -> None:
    """Chunks reordered or stored twice by their writer read back as such: harmless (A3)."""
    for chunks in (CHUNKS[::-1], [*CHUNKS, CHUNKS[0]]):
        digest, data, _ = WORLD.pack(chunks)
        assert read_pack(data, pack_name(digest)) == chunks


def tails(data: bytes, footer: int) -> tuple[bytes, bytes]:
    return data[:footer], data[footer:]


def test_footers_of_two_sessions_exchanged() -> None:
    """A footer and trailer of another session, under the same structure key, do not open (A7)."""
    other = WORLD.session()
    assert other.structure_key == WORLD.structure_key
    _, data, builder = other.pack(CHUNKS)
    assert [e.offset for e in builder.entries] == [e.offset for e in BUILDER.entries]
    assert len(data) == len(DATA)
    footer, _ = footer_place()
    for bad in (DATA[:footer] + data[footer:], data[:footer] + DATA[footer:], DATA[:HEADER] + data[HEADER:]):
        with pytest.raises(IntegrityError, match="footer"):
            read_pack(bad, renamed(bad))


def test_footers_of_one_session_exchanged() -> None:
    """Of two packs of one session with one layout, exchanged footers break both names, and no chunk opens (A7)."""
    others = [(kind, bytes(len(plain))) for kind, plain in CHUNKS]
    digest, data, _ = WORLD.pack(others)
    footer, _ = footer_place()
    assert len(data) == len(DATA)
    bad = DATA[:footer] + data[footer:]
    for name in (NAME, pack_name(digest)):
        with pytest.raises(IntegrityError, match="hash"):
            parse_pack(bad, name, WORLD.repository)
    with pytest.raises(IntegrityError):
        read_pack(bad, renamed(bad))


def test_a_pack_of_another_repository() -> None:
    """A pack copied from another repository is refused, by its frame and by its envelope."""
    other = make_world()
    _, data, _ = other.pack(CHUNKS)
    for bad in (data, DATA[:16] + other.repository + DATA[32:36] + data[36:], DATA[:36] + data[36:]):
        with pytest.raises(IntegrityError, match="another repository"):
            parse_pack(bad, renamed(bad), WORLD.repository)


def resealed(entries: list[PackEntry], **changes: int) -> tuple[bytes, str]:
    """DATA with another footer and a trailer that fits it, as a lying writer could make it."""
    header_hash = sha256(DATA[:HEADER])
    footer = seal_part(WORLD.structure_key, "pack-footer", header_hash, encode_entries(entries))
    at, _ = footer_place()
    values = {"offset": at, "length": len(footer), "count": len(entries), "total": at + len(footer) + 56} | changes
    trailer = struct.pack("<4I", values["offset"], values["length"], values["count"], values["total"])
    data = DATA[:at] + footer + seal_part(WORLD.structure_key, "pack-trailer", header_hash, trailer)
    return data, renamed(data)


def test_a_resealed_footer_is_read() -> None:
    """What the next tests bend is read while it is straight."""
    assert read_pack(*resealed(BUILDER.entries)) == CHUNKS
    assert read_pack(*resealed(BUILDER.entries[1:])) == CHUNKS[1:]


FIRST = BUILDER.entries[0]


@pytest.mark.parametrize(
    "change",
    [
        {"codec": 1},
        {"codec": 2, "bases": (bytes(32),)},
        {"codec": 7},
        {"payload_length": FIRST.payload_length + 1, "plain_length": FIRST.plain_length + 1},
        {"payload_length": FIRST.payload_length - 1, "plain_length": FIRST.plain_length - 1},
        {"plain_length": FIRST.plain_length + 1},
        {"plain_length": 0, "payload_length": 0},
        {"plain_length": 2 << 20, "payload_length": 2 << 20},
        {"offset": FIRST.offset + 1},
        {"offset": FIRST.offset - 1},
        {"offset": 0},
        {"offset": 0xFFFFFFFF},
        {"id": bytes(32)},
        {"kind": Kind.PAGES},
        {"kind": Kind.STRUCTURE},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_footer_that_lies_is_refused(change: dict[str, object]) -> None:
    """A wrong id, kind, codec, length, base or place in a footer is refused before anything is decompressed (A5)."""
    entries = [replace(FIRST, **change), *BUILDER.entries[1:]]  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        read_pack(*resealed(entries))


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 0},
        {"offset": HEADER - 1},
        {"length": 40},
        {"count": 5},
        {"count": 7},
        {"total": 1},
        {"total": 2**32 - 1},
    ],
)
def test_a_trailer_that_lies_is_refused(change: dict[str, int]) -> None:
    """A trailer with another footer place, number of blobs or length is refused."""
    with pytest.raises(IntegrityError):
        read_pack(*resealed(BUILDER.entries, **change))


def test_overlapping_blobs_are_refused() -> None:
    """Two entries that share bytes, or one place twice, are refused."""
    for entries in ([*BUILDER.entries, FIRST], [*BUILDER.entries, replace(FIRST, offset=FIRST.offset + 39)]):
        with pytest.raises(IntegrityError, match="on each other"):
            read_pack(*resealed(entries))


def test_hostile_footers_are_bounded() -> None:
    """A count beyond the limit or the bytes, an unknown kind, and bytes behind the last entry are refused at once."""
    entry = encode_entries([FIRST])[4:]
    tracemalloc.start()
    try:
        for bad in (
            struct.pack("<I", MAX_BLOBS + 1) + entry,
            struct.pack("<I", MAX_BLOBS) + entry,
            struct.pack("<I", 0xFFFFFFFF),
            b"\1\0\0\0" + entry[:32] + b"\6" + entry[33:],
            b"\1\0\0\0" + entry[:34] + b"\3" + entry[35:],
            b"\1\0\0\0" + entry[:-1],
            b"",
        ):
            with pytest.raises(IntegrityError):
                decode_entries(Cursor(bad, NAME, 0))
        assert tracemalloc.get_traced_memory()[1] < 1 << 17
    finally:
        tracemalloc.stop()
    header_hash = sha256(DATA[:HEADER])
    pack = parse_pack(DATA, NAME, WORLD.repository)
    assert len(pack.read_entries(WORLD.structure_key)) == 6
    at, _ = footer_place()
    footer = seal_part(WORLD.structure_key, "pack-footer", header_hash, encode_entries(BUILDER.entries) + b"\0")
    trailer = struct.pack("<4I", at, len(footer), 6, at + len(footer) + 56)
    data = DATA[:at] + footer + seal_part(WORLD.structure_key, "pack-trailer", header_hash, trailer)
    with pytest.raises(IntegrityError):
        read_pack(data, renamed(data))


def test_a_pack_is_bounded() -> None:
    """More than 32 MiB are refused before they are hashed."""
    with pytest.raises(IntegrityError, match="larger"):
        parse_pack(bytes(MAX_PACK_BYTES + 1), NAME, WORLD.repository)


def test_a_builder_keeps_to_its_limit() -> None:
    """A pack filled as long as a chunk fits stays within the limit once it is padded, and takes a first chunk always."""
    limit = 256 * 1024
    builder = PackBuilder(WORLD.repository, WORLD.envelope, WORLD.structure_key, limit)
    assert builder.fits(MAX_PACK_BYTES)
    while builder.fits(3000, 2):
        builder.add(*WORLD.seal(Kind.ROWS, os.urandom(3000)))
    digest, data = builder.finish(WORLD.sealer(Kind.ROWS), WORLD.sealer(Kind.STRUCTURE))
    assert limit - 8000 < len(data) <= limit
    assert len(read_pack(bytes(data), pack_name(digest))) == len(builder.entries)


def test_what_was_built_wrong_is_never_handed_out() -> None:
    """A blob that does not open as its entry says, as after a memory fault, stops the pack before it is stored."""
    head, blob = WORLD.seal(Kind.ROWS, b"row\n")
    for wrong_head, wrong_blob in ((head, flip(blob, 30)), (replace(head, id=bytes(32)), blob)):
        builder = PackBuilder(WORLD.repository, WORLD.envelope, WORLD.structure_key)
        builder.add(wrong_head, wrong_blob)
        with pytest.raises(IntegrityError):
            builder.finish(WORLD.sealer(Kind.ROWS), WORLD.sealer(Kind.STRUCTURE))


def test_structure_key_holders_read_no_content() -> None:
    """Who has the structure key alone opens footers and structure lists, and no chunk of any other kind (I80)."""
    pack = parse_pack(DATA, NAME, WORLD.repository)
    guesses = [
        WORLD.structure_key,
        *WORLD.keys[Role.CHECK].secrets.values.values(),
        *WORLD.keys[Role.PRUNE].secrets.values.values(),
    ]
    for entry in pack.read_entries(WORLD.structure_key):
        opened = 0
        for secret in guesses:
            try:
                WORLD.sealer(Kind.STRUCTURE).__class__(secret).open(entry.head(WORLD.repository), pack.blob(entry))
                opened += 1
            except IntegrityError:
                continue
        assert opened == (1 if entry.kind is Kind.STRUCTURE else 0)


def test_writer_secrets_read_no_earlier_session() -> None:
    """Nothing in a write key opens a chunk that an earlier session of the same writer stored (I81)."""
    pack = parse_pack(DATA, NAME, WORLD.repository)
    sealer = type(WORLD.sealer(Kind.ROWS))
    for entry in pack.read_entries(WORLD.structure_key):
        if entry.kind is not Kind.STRUCTURE:
            for secret in WORLD.keys[Role.WRITE].secrets.values.values():
                with pytest.raises(IntegrityError):
                    sealer(secret).open(entry.head(WORLD.repository), pack.blob(entry))


def test_a_pack_shows_no_content() -> None:
    """Neither rows, nor kinds, nor ids, nor numbers of chunks stand in a pack's bytes in the clear (I77)."""
    for kind, plain in CHUNKS:
        assert plain not in DATA
        assert WORLD.namer(kind).name(plain) not in DATA
    assert struct.pack("<4I", *footer_place(), 6, len(DATA)) not in DATA


def test_equal_classes_give_equal_sizes() -> None:
    """Packs of unlike contents with lengths in one class have one length (I77, C25)."""
    lengths = {len(WORLD.pack([(Kind.ROWS, os.urandom(n))])[1]) for n in range(100_000, 100_050)}
    assert len(lengths) <= 2


@given(st.integers(2, 1 << 26))
@settings(max_examples=500)
def test_padme_bounds(length: int) -> None:
    """A Padme length is at least the length, at most 12 % more, final, and one of the documented multiples (I78)."""
    padded = padme(length)
    e = int(math.log2(length)) if length < 1 << 20 else length.bit_length() - 1
    s = int(math.log2(e)) + 1 if e else 0
    step = 1 << max(e - s, 0)
    assert padded == -(-length // step) * step
    assert length <= padded <= length * 1.12
    assert padme(padded) == padded
    assert padme(length + 1) >= padded


def test_padme_lengths_tell_little() -> None:
    """From 64 KiB to 32 MiB there are a few hundred lengths, and packs at the limits stay at them (I78)."""
    lengths = {padme(length) for length in range(1 << 16, 1 << 25, 997)}
    assert len(lengths) < 300
    assert [padme(n) for n in (0, 1, 2, 9, 1 << 24, 1 << 25, (1 << 24) + 1)] == [
        0,
        1,
        2,
        10,
        1 << 24,
        1 << 25,
        17301504,
    ]


ENTRIES = st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(min_size=1, max_size=400)), max_size=12)


@given(chunks=ENTRIES)
@settings(max_examples=60, deadline=None)
def test_packs_round_trip(chunks: list[tuple[Kind, bytes]]) -> None:
    """Any chunks of any kinds come back from a pack (A8)."""
    digest, data, _ = WORLD.pack(chunks)
    assert read_pack(data, pack_name(digest)) == chunks
    assert len(data) == padme(len(data))


@given(
    st.lists(
        st.builds(
            lambda i, codec, offset, size, bases: PackEntry(
                i, Kind.ROWS, codec, offset, size, size, bases[: (0, 0, 2, 1)[codec]]
            ),
            st.binary(min_size=32, max_size=32),
            st.integers(0, 3),
            st.integers(0, 2**32 - 1),
            st.integers(1, 1 << 20),
            st.just((bytes(32), b"\1" * 32)),
        ),
        max_size=9,
    )
)
def test_footers_round_trip(entries: list[PackEntry]) -> None:
    """Any entries come back from a footer, bases included."""
    cursor = Cursor(encode_entries(entries), "name", 0)
    assert decode_entries(cursor) == entries
    cursor.end()


def test_an_entry_is_bound_to_its_blob_through_its_head() -> None:
    """The head that an entry gives is the one that was sealed."""
    head = ChunkHead(WORLD.repository, Kind.ROWS, 2, bytes(32), 9, 8, (b"\1" * 32,))
    builder = PackBuilder(WORLD.repository, WORLD.envelope, WORLD.structure_key)
    assert builder.add(head, bytes(49)).head(WORLD.repository) == head
