"""Names, frames, signature blocks and JSON: strict, bounded, and bound to their place."""

import json
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.crypto.keyfile import Key, Role
from backupd.crypto.keyring import Keyring, Signer
from backupd.errors import Exit, IntegrityError
from backupd.repo.compression import compress
from backupd.repo.format import (
    FRAME_BYTES,
    GC,
    INDEX,
    MAX_JSON,
    MAX_OBJECT,
    PACK,
    RECORD,
    SESSION,
    SNAPSHOT,
    TRUST,
    Cursor,
    block,
    check_frame,
    dump_json,
    frame,
    frame_repository,
    kind_of,
    owner_block,
    pack_json,
    pack_name,
    parse_json,
    parse_owner,
    sign_object,
    snapshot_name,
    split_signed,
    trust_name,
    unpack_json,
)
from tests.deltas import rle_bomb
from tests.unit.crypto.made import make_keys

REPOSITORY = bytes(range(16))
W, S = "0a" * 16, "1b" * 16
NAMES = {
    TRUST: "trust/000000000001",
    SESSION: f"sessions/{W}/{S}",
    PACK: f"packs/0a/{'0a' * 32}",
    INDEX: f"index/{W}/{S}/000000",
    SNAPSHOT: f"snapshots/{W}/000000000012",
    RECORD: "records/prune/000000000003",
    GC: "gc/000000000001.mark",
}
KEYS = make_keys()


def signer_of(key: Key) -> Signer:
    signer = Keyring((key,)).signer([key.role])
    assert signer is not None
    return signer


WRITER, OTHER = signer_of(KEYS[Role.WRITE]), signer_of(KEYS[Role.CHECK])
PUBLIC = KEYS[Role.WRITE].header.public


def test_names_have_their_kinds() -> None:
    """Each documented name has the kind of its section, and the functions make such names."""
    assert {name: kind_of(name) for name in NAMES.values()} == {name: kind for kind, name in NAMES.items()}
    for role in Role:
        assert kind_of(f"records/{role}/000000000000") == RECORD
    for end in ("mark", "intent", "sweep"):
        assert kind_of(f"gc/000000000001.{end}") == GC
    assert kind_of(pack_name(bytes(range(32)))) == PACK
    assert kind_of(snapshot_name(bytes(16), 999_999_999_999)) == SNAPSHOT
    assert kind_of(trust_name(1)) == TRUST


@pytest.mark.parametrize(
    "name",
    [
        "",
        "trust",
        "trust/1",
        "trust/0000000000001",
        "trust/000000000001\n",
        "trust/00000000000\u0661",
        "/trust/000000000001",
        "trust/000000000001/x",
        "Trust/000000000001",
        f"packs/0b/{'0a' * 32}",
        f"packs/0A/{'0A' * 32}",
        f"packs/0a/{'0a' * 31}",
        f"packs/../{'0a' * 32}",
        f"snapshots/{W}/12",
        f"snapshots/{W[:-1]}/000000000012",
        f"snapshots/{W}/00000000001\uff12",
        f"index/{W}/{S}/0000000",
        f"sessions/{W}/{S}/",
        "records/admin/000000000001",
        "records/prune/-00000000001",
        "gc/000000000001.mark2",
        "rewrap/x",
        "probe/x",
    ],
)
def test_other_names_have_none(name: str) -> None:
    """Names outside the grammar, with other cases, digits or lengths, are no objects of this format."""
    assert kind_of(name) is None
    with pytest.raises(IntegrityError):
        check_frame(frame(TRUST, REPOSITORY), name, REPOSITORY)


@pytest.mark.parametrize("kind", NAMES)
def test_frames_fit_their_names(kind: int) -> None:
    """A frame passes under names of its own kind alone, and is laid out as documented."""
    data = frame(kind, REPOSITORY)
    assert data == b"BKPD" + bytes([kind, 1, 1, 0]) + bytes(8) + REPOSITORY
    assert frame_repository(data) == REPOSITORY
    for other, name in NAMES.items():
        if other == kind:
            check_frame(data, name, REPOSITORY)
            check_frame(memoryview(data + b"more"), name, REPOSITORY)
        else:
            with pytest.raises(IntegrityError):
                check_frame(data, name, REPOSITORY)


@pytest.mark.parametrize("bit", range(8 * FRAME_BYTES))
def test_every_bit_of_a_frame_counts(bit: int) -> None:
    """Any bit of a frame flipped is refused with exit 4 naming the object, but for optional features (A1)."""
    data = bytearray(frame(SNAPSHOT, REPOSITORY))
    data[bit // 8] ^= 1 << bit % 8
    if 12 <= bit // 8 < 16:
        check_frame(bytes(data), NAMES[SNAPSHOT], REPOSITORY)
        return
    with pytest.raises(IntegrityError) as caught:
        check_frame(bytes(data), NAMES[SNAPSHOT], REPOSITORY)
    assert caught.value.exit is Exit.INTEGRITY
    assert caught.value.object_name == NAMES[SNAPSHOT]
    assert (caught.value.hint is not None) == (5 <= bit // 8 < 12), "a newer version is told apart from damage"


def test_short_frames_are_refused() -> None:
    """An object of 0 to 31 bytes is refused (A2)."""
    data = frame(TRUST, REPOSITORY)
    for n in range(FRAME_BYTES):
        with pytest.raises(IntegrityError):
            check_frame(data[:n], NAMES[TRUST], REPOSITORY)
        assert frame_repository(data[:n]) is None
    assert frame_repository(b"JUNK" + data[4:]) is None


def body_of(kind: int) -> bytes:
    """A body with the blocks that an object of this kind has."""
    owner = bytes(36) if kind in (INDEX, RECORD) else b""
    blocks = {SESSION: 2, SNAPSHOT: 3}.get(kind, 1)
    sealing = bytes(33) if kind == RECORD else b""
    return frame(kind, REPOSITORY) + owner + sealing + block(b"content") * blocks


SIGNED_KINDS = [kind for kind in NAMES if kind != PACK]


@pytest.mark.parametrize("kind", SIGNED_KINDS)
def test_signed_objects_round_trip(kind: int) -> None:
    """An object of each kind splits into what was signed and who signed it."""
    body = body_of(kind)
    signed = split_signed(NAMES[kind], sign_object(NAMES[kind], body, [WRITER]))
    assert signed.body == body
    assert signed.signer() == WRITER.id
    signed.verify(WRITER.id, PUBLIC)


@pytest.mark.parametrize("kind", SIGNED_KINDS)
def test_every_byte_of_a_signed_object_counts(kind: int) -> None:
    """A signed object with any byte changed, cut or added does not verify (A1, A2)."""
    name = NAMES[kind]
    data = sign_object(name, body_of(kind), [WRITER])
    touched = [data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :] for at in range(len(data))]
    for bad in [*touched, *(data[:n] for n in range(len(data))), data + b"\0", data + data[-80:]]:
        with pytest.raises(IntegrityError):
            split_signed(name, bad).verify(WRITER.id, PUBLIC)


def test_a_signature_is_bound_to_its_name() -> None:
    """An object copied to another number, writer or kind of name does not verify there (D29)."""
    data = sign_object(NAMES[SNAPSHOT], body_of(SNAPSHOT), [WRITER])
    for name in (f"snapshots/{W}/000000000013", f"snapshots/{S}/000000000012", "snapshots/" + W, NAMES[RECORD]):
        with pytest.raises(IntegrityError, match="does not verify"):
            split_signed(name, data).verify(WRITER.id, PUBLIC)


def test_name_and_body_cannot_lend_each_other_bytes() -> None:
    """A byte moved from the end of the name to the front of the body gives another message."""
    from backupd.repo.format import _message

    assert _message("ab", b"c") != _message("a", b"bc")
    assert _message("a", b"b") == b"backupd/v1/signature\0\1\0a\1" + bytes(7) + b"b"


def test_kind_and_version_are_signed() -> None:
    """An object whose frame was changed after signing does not verify, optional features included."""
    data = bytearray(sign_object(NAMES[TRUST], body_of(TRUST), [WRITER]))
    data[12] = 1
    with pytest.raises(IntegrityError):
        split_signed(NAMES[TRUST], bytes(data)).verify(WRITER.id, PUBLIC)


def test_signature_blocks_are_bounded() -> None:
    """0 and 17 signatures, and a count that does not fit the length, are refused; 16 are fine."""
    name, body = NAMES[TRUST], body_of(TRUST)
    assert len(split_signed(name, sign_object(name, body, [WRITER] * 16)).signatures) == 16
    for count in (0, 17):
        with pytest.raises(IntegrityError):
            sign_object(name, body, [WRITER] * count)
        with pytest.raises(IntegrityError):
            split_signed(name, body + bytes([count]) + bytes(80 * count))
    with pytest.raises(IntegrityError):
        split_signed(name, body + b"\2" + bytes(80))


def test_one_signature_where_one_is_due() -> None:
    """Whose single signature it is cannot be asked of an object with two, and a wrong key's does not verify."""
    data = sign_object(NAMES[TRUST], body_of(TRUST), [WRITER, OTHER])
    signed = split_signed(NAMES[TRUST], data)
    with pytest.raises(IntegrityError):
        signed.signer()
    signed.verify(WRITER.id, PUBLIC)
    for key, public in ((WRITER.id, KEYS[Role.CHECK].header.public), (OTHER.id, PUBLIC), (bytes(16), PUBLIC)):
        with pytest.raises(IntegrityError):
            signed.verify(key, public)


def test_lengths_that_lie_are_refused_without_memory() -> None:
    """A block that says 4 GiB, and an object over 64 MiB, are refused without allocating (A2)."""
    body = frame(SNAPSHOT, REPOSITORY) + struct.pack("<I", 0xFFFFFFFF) + bytes(200)
    large = bytes(MAX_OBJECT + 1)
    tracemalloc.start()
    try:
        for data in (body, large):
            with pytest.raises(IntegrityError):
                split_signed(NAMES[SNAPSHOT], data)
        with pytest.raises(IntegrityError):
            Cursor(body, NAMES[SNAPSHOT]).block()
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


def test_a_cursor_reads_to_the_end_and_no_further() -> None:
    """Bytes left over and bytes missing are both refused, naming the object."""
    cursor = Cursor(b"\1\2\0\0\0ab", "name", 0)
    assert (cursor.u8(), cursor.block(), cursor.at) == (1, b"ab", 7)
    cursor.end()
    for work in (cursor.u8, cursor.u32, lambda: Cursor(b"abc", "name", 0).end()):
        with pytest.raises(IntegrityError) as caught:
            work()
        assert caught.value.object_name == "name"


def test_owner_blocks_round_trip() -> None:
    """An owner block is writer, epoch and structure key id in 36 bytes."""
    data = owner_block(b"w" * 16, 7, b"s" * 16)
    assert data == b"w" * 16 + b"\7\0\0\0" + b"s" * 16
    assert parse_owner(data) == (b"w" * 16, 7, b"s" * 16)


def nested(levels: int, inner: str = "") -> bytes:
    """An object with `levels` levels in all."""
    return ('{"a":' + "[" * (levels - 1) + inner + "]" * (levels - 1) + "}").encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"1",
        b'"text"',
        b"null",
        b"{",
        b"{} {}",
        b"{}\0",
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":1,"a":1}',
        b'{"b":{"a":1,"a":2}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"line\nfeed"}',
        "{}".encode("utf-16"),
        nested(17),
        nested(17, "1"),
        nested(5000),
        b'{"a":' * 100_000,
        b"[" * 1_000_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_json_is_strict(text: bytes) -> None:
    """No other top than an object, no doubled keys, no NaN or infinity, no half characters, no depth beyond 16."""
    with pytest.raises(IntegrityError) as caught:
        parse_json(text, "name")
    assert caught.value.object_name == "name"


def test_json_within_its_bounds_is_read() -> None:
    """16 levels, unknown keys, escapes of whole characters and finite numbers are fine."""
    assert parse_json(nested(16, "1"), "name") == json.loads(nested(16, "1"))
    assert parse_json(b'{"a":"\\ud83d\\ude00 \\u00e9","b":1.5e300}', "name") == {"a": "\U0001f600 é", "b": 1.5e300}


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=9),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=6,
        ),
        max_size=5,
    )
)
@settings(deadline=None)
def test_json_round_trips(document: dict[str, object]) -> None:
    """Any document comes back from JSON and from packed JSON."""
    assert parse_json(dump_json(document), "name") == document
    assert unpack_json(pack_json(document), "name") == document


def test_packed_json_is_bounded() -> None:
    """A bomb of more than 64 MiB, bytes behind, a cut block and a lie about the length are refused (H71)."""
    good = pack_json({"a": 1})
    bombs = [block(rle_bomb(MAX_JSON + 1, says=MAX_JSON + 1)), block(rle_bomb(1 << 30, says=20, window_log=20))]
    tracemalloc.start()
    try:
        for bad in [*bombs, good + b"\0", good[:-1], b"", b"\0\0\0\0", block(b"{}"), block(compress(b""))]:
            with pytest.raises(IntegrityError):
                unpack_json(bad, "name")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
