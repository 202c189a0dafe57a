"""Every codec of version 1 reads what was once written, and refuses anything hostile in bounded memory."""

import contextlib
import json
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo import compression
from backupd.repo.codecs import (
    DICT_DELTA,
    MAX_CHUNK,
    MAX_DELTA,
    RAW,
    ROW_DELTA,
    ZSTD,
    apply_row_delta,
    check_shape,
    decode,
    encode,
    split_rows,
)
from backupd.repo.compression import compress, compress_with, decompress
from tests.deltas import encode_delta, join_delta, raw_block, rle_bomb, row_delta, varint, vectors, zstd_frame

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "codecs.json").read_text())["vectors"]


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"].replace(" ", "-"))
def test_vectors_are_read(case: dict[str, object]) -> None:
    """What version 1 once wrote decodes to the plaintext that is kept beside it (B16)."""
    payload, plain = bytes.fromhex(str(case["payload"])), bytes.fromhex(str(case["plain"]))
    bases = [bytes.fromhex(base) for base in case["bases"]]  # type: ignore[attr-defined]
    codec = int(str(case["codec"]))
    check_shape(Kind(case["kind"]), codec, len(bases), len(payload), len(plain))
    assert decode(codec, payload, len(plain), bases) == plain


def test_vectors_cover_every_codec() -> None:
    """There is a vector for each codec, with one and two bases, and the writer of the tests still makes them all."""
    assert {(case["codec"], len(case["bases"])) for case in VECTORS} == {
        (RAW, 0), (ZSTD, 0), (ROW_DELTA, 1), (ROW_DELTA, 2), (DICT_DELTA, 1), (DICT_DELTA, 2)
    }  # fmt: skip
    assert [case["plain"] for case in vectors()] == [case["plain"] for case in VECTORS]


def test_the_smaller_form_is_stored() -> None:
    """Content that compresses is stored compressed, other content as it is."""
    codec, payload = encode(b"a" * 1000, 3)
    assert (codec, decode(codec, bytes(payload), 1000, [])) == (ZSTD, b"a" * 1000)
    assert encode(b"x", 3) == (RAW, b"x")


@pytest.mark.parametrize(
    ("kind", "codec", "bases", "payload", "plain"),
    [
        (Kind.ROWS, 4, 0, 10, 10),
        (Kind.ROWS, 255, 1, 10, 10),
        (Kind.ROWS, RAW, 1, 10, 10),
        (Kind.ROWS, ZSTD, 2, 10, 10),
        (Kind.ROWS, ROW_DELTA, 0, 10, 10),
        (Kind.ROWS, ROW_DELTA, 3, 10, 10),
        (Kind.ROWS, DICT_DELTA, 0, 10, 10),
        (Kind.PAGES, ROW_DELTA, 1, 10, 10),
        (Kind.STRUCTURE, ROW_DELTA, 2, 10, 10),
        (Kind.ROWS, RAW, 0, 10, 11),
        (Kind.ROWS, RAW, 0, 0, 0),
        (Kind.ROWS, ZSTD, 0, 10, 0),
        (Kind.ROWS, ZSTD, 0, 0, 10),
        (Kind.ROWS, ZSTD, 0, 10, MAX_CHUNK + 1),
        (Kind.ROWS, ROW_DELTA, 1, MAX_DELTA + 65537, 10),
    ],
)
def test_impossible_shapes_are_refused(kind: Kind, codec: int, bases: int, payload: int, plain: int) -> None:
    """Unknown codecs, wrong numbers of bases and impossible lengths are refused before anything is read (A5)."""
    with pytest.raises(IntegrityError):
        check_shape(kind, codec, bases, payload, plain)


def test_shapes_at_the_bounds_are_accepted() -> None:
    """Chunks of one byte and of a whole MiB are fine in every codec."""
    for codec, bases in ((RAW, 0), (ZSTD, 0), (ROW_DELTA, 1), (ROW_DELTA, 2), (DICT_DELTA, 1), (DICT_DELTA, 2)):
        for plain in (1, MAX_CHUNK):
            check_shape(Kind.ROWS, codec, bases, plain, plain)


def test_rows_are_cut_at_line_feeds_alone() -> None:
    """A carriage return, a NEL or a form feed inside a row is content."""
    assert split_rows(b"a\r\nb\x0cc\x85\n\n") == [b"a\r\n", b"b\x0cc\x85\n", b"\n"]
    assert split_rows(b"a\nb") == [b"a\n", b"b"]
    assert split_rows(b"") == []


@pytest.mark.parametrize(
    ("bases", "result"),
    [
        ([b"a\nb\nc\n"], b"a\nb\nc\n"),
        ([b"a\na\na\n"], b"a\na\n"),
        ([b"a\n\n\nb\n"], b"\n\n\n\n"),
        ([b"a\nb\nc\n"], b"c\na\nb\n"),
        ([b"a\nb\nc\n"], b"x\ny\nz\n"),
        ([b"a\nb\n", b"c\nd\n"], b"a\nc\n"),
        ([b"a\nb", b"c\nd"], b"a\nbc\nd"),
        ([b"a\nb", b"c\nd"], b"b\nc\n"),
        ([b"a\nb"], b"a\nb\n"),
        ([b"a\nb\n"], b"a\nb"),
        ([b"a\n"], b"a\n" * 200),
        ([b"a\n" * 200], b"a\n"),
        ([b"no line feed"], b"none here"),
    ],
)
def test_row_deltas_by_hand(bases: list[bytes], result: bytes) -> None:
    """Duplicates, empty rows, moved rows, everything replaced, two bases and missing last line feeds come back."""
    assert apply_row_delta(row_delta(bases, result), bases) == result
    assert decode(ROW_DELTA, encode_delta(ROW_DELTA, bases, result), len(result), bases) == result


def test_the_documented_example_of_places() -> None:
    """Places count from 0, of the base for removed rows and of the result for added ones."""
    delta = bytes.fromhex("03 04 01 02 01 01 01 02 02 02") + b"b\n" + b"X\n" + b"Y\n"
    assert apply_row_delta(delta, [b"a\nb\nc\n"]) == b"a\nX\nc\nY\n"
    assert join_delta(3, 4, [(1, b"b\n")], [(1, b"X\n"), (3, b"Y\n")]) == delta


def test_a_delta_that_leaves_nothing_is_no_chunk() -> None:
    """Everything deleted is an empty result, and a chunk has at least one byte."""
    delta = join_delta(2, 0, [(0, b"a\n"), (1, b"b\n")], [])
    assert apply_row_delta(delta, [b"a\nb\n"]) == b""
    with pytest.raises(IntegrityError):
        check_shape(Kind.ROWS, ROW_DELTA, 1, len(compress(delta)), 0)
    with pytest.raises(IntegrityError):
        decode(ROW_DELTA, compress(delta), 1, [b"a\nb\n"])


ROWS = st.lists(st.sampled_from([b"", b"a", b"b", b"abc", b"x\r", b"\xff" * 9]), max_size=12).map(
    lambda rows: b"".join(row + b"\n" for row in rows)
)
PIECES = st.tuples(ROWS, st.sampled_from([b"", b"tail"])).map(b"".join).filter(bool)


@given(bases=st.lists(PIECES, min_size=1, max_size=2), result=PIECES, codec=st.sampled_from([ROW_DELTA, DICT_DELTA]))
@settings(max_examples=300, deadline=None)
def test_deltas_round_trip(bases: list[bytes], result: bytes, codec: int) -> None:
    """Any rows come back from a delta on any one or two bases, in both delta codecs."""
    assume(codec == ROW_DELTA or len(b"".join(bases)) >= 8)
    payload = encode_delta(codec, bases, result)
    assert decode(codec, payload, len(result), bases) == result


@given(damage=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_deltas_never_crash(damage: st.DataObject) -> None:
    """A delta with any bytes changed, cut or inserted yields bytes or a refusal, nothing else."""
    delta = bytearray(row_delta([b"a\nb\nc\nd\n" * 4], b"a\nc\nx\nd\n" * 4))
    for _ in range(damage.draw(st.integers(1, 4))):
        at = damage.draw(st.integers(0, len(delta)))
        delta[at : at + damage.draw(st.integers(0, 2))] = damage.draw(st.binary(max_size=3))
    with contextlib.suppress(IntegrityError):
        apply_row_delta(bytes(delta), [b"a\nb\nc\nd\n" * 4])


BASE = [b"a\nb\nc\n"]
HUGE = varint((1 << 32) - 1)


@pytest.mark.parametrize(
    "delta",
    [
        b"",
        varint(3),
        join_delta(2, 2, [], []),
        join_delta(4, 4, [], []),
        join_delta(3, 4, [], []),
        join_delta(3, 2, [], []),
        join_delta(3, 3, [(1, b"x\n")], [(1, b"y\n")]),
        join_delta(3, 2, [(3, b"c\n")], []),
        join_delta(3, 4, [], [(4, b"y\n")]),
        join_delta(3, 3, [(1, b"b\n")], [(7, b"y\n")]),
        join_delta(3, 3, [], []) + b"\0",
        join_delta(3, 4, [], [(0, b"y\n")])[:-1],
        b"\x03\x03" + HUGE + HUGE,
        b"\x03\x04\0" + HUGE,
        b"\x03" + HUGE + b"\0" + varint((1 << 32) - 4),
        b"\x03\x04\0\x01\0" + HUGE + b"y\n",
        b"\x03\x04\0\x01" + HUGE + b"\x02y\n",
        b"\x03\x03\x01\x01" + HUGE + b"\0\x02\x02b\ny\n",
        b"\x80\x80\x80\x80\x80\x03\x03\0\0",
        b"\x83\x80\x80\x80\x80\x00\x03\0\0",
        b"\xff" * 40,
        b"\x80",
    ],
    ids=lambda delta: delta.hex()[:24] or "empty",
)
def test_hostile_deltas_are_refused(delta: bytes) -> None:
    """Wrong counts, places outside, other rows, huge numbers, long varints, cut ends and bytes behind are refused (H71)."""
    with pytest.raises(IntegrityError):
        apply_row_delta(delta, BASE)


def test_a_delta_for_other_bases_is_refused() -> None:
    """The same rows in another order, or one base where there were two, is noticed where a row is removed."""
    delta = row_delta([b"a\nb\n"], b"a\n")
    for bases in ([b"b\na\n"], [b"a\nb\nc\n"], [b"a\n"], []):
        with pytest.raises(IntegrityError):
            apply_row_delta(delta, bases)


def bounded(work: Callable[[], object], limit: int) -> None:
    """Run something that must be refused, within `limit` bytes of memory more than before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            work()
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < limit + (16 << 20)


TEN_GIB = 10 << 30
BOMBS = {
    "says 10 GiB in 1 KiB": zstd_frame([raw_block(b"x" * 1000)], size=TEN_GIB),
    "says 10 GiB, a window of 8 MiB": zstd_frame([raw_block(b"x" * 1000)], size=TEN_GIB, window_log=23),
    "is 32 MiB in 1 KiB": rle_bomb(32 << 20, says=32 << 20),
    "is 1 GiB in 32 KiB": rle_bomb(1 << 30, says=1 << 30, window_log=20),
    "says 1 MiB, is 32 MiB": rle_bomb(32 << 20, says=MAX_CHUNK),
    "says 1 MiB, is 1 GiB": rle_bomb(1 << 30, says=MAX_CHUNK, window_log=20),
    "says 1 MiB, is 1 MiB + 1": rle_bomb(MAX_CHUNK + 1, says=MAX_CHUNK),
    "says 1 MiB, is 1 MiB - 1": rle_bomb(MAX_CHUNK - 1, says=MAX_CHUNK),
    "says 1 MiB + 1 and is": rle_bomb(MAX_CHUNK + 1, says=MAX_CHUNK + 1),
    "does not say its size": rle_bomb(MAX_CHUNK, says=None, window_log=20),
    "window of 2 GiB": rle_bomb(MAX_CHUNK, says=MAX_CHUNK, window_log=31),
    "window of 16 MiB": rle_bomb(MAX_CHUNK, says=MAX_CHUNK, window_log=24),
    "a second frame behind": rle_bomb(MAX_CHUNK, says=MAX_CHUNK) + compress(b"x"),
    "a skippable frame behind": rle_bomb(MAX_CHUNK, says=MAX_CHUNK) + b"\x50\x2a\x4d\x18\x01\0\0\0x",
    "a skippable frame before": b"\x50\x2a\x4d\x18\x01\0\0\0x" + rle_bomb(MAX_CHUNK, says=MAX_CHUNK),
    "a byte behind": rle_bomb(MAX_CHUNK, says=MAX_CHUNK) + b"\0",
    "cut": rle_bomb(MAX_CHUNK, says=MAX_CHUNK)[:-1],
    "a dictionary id": zstd_frame([raw_block(b"x")], size=1, dictionary_id=7),
    "nothing": b"",
    "the magic alone": b"\x28\xb5\x2f\xfd",
    "no zstd": b"plain text",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_bounded_memory(name: str) -> None:
    """Sizes, windows, dictionaries and frames other than promised are refused in 4 MiB for a chunk of 1 MiB (H71)."""
    payload = BOMBS[name]
    bounded(lambda: decode(ZSTD, payload, MAX_CHUNK, []), 4 << 20)
    bounded(lambda: decode(DICT_DELTA, payload, MAX_CHUNK, [b"base" * 9]), 4 << 20)


def test_the_frames_by_hand_are_frames() -> None:
    """The same bombs with honest sizes and small windows are read, so that it is the lie that is refused (H71)."""
    assert decode(ZSTD, rle_bomb(MAX_CHUNK, says=MAX_CHUNK), MAX_CHUNK, []) == bytes(MAX_CHUNK)
    assert decode(ZSTD, rle_bomb(MAX_CHUNK, says=MAX_CHUNK, window_log=23), MAX_CHUNK, []) == bytes(MAX_CHUNK)
    assert decode(ZSTD, zstd_frame([raw_block(b"x")], size=1), 1, []) == b"x"


def test_delta_bombs_are_refused_in_bounded_memory() -> None:
    """A delta over 4 MiB, and one of 4 MiB of counts without rows, is refused within its own bound (H71)."""
    too_long, all_zero = compress(bytes(MAX_DELTA + 1)), compress(bytes(MAX_DELTA))
    added = b"\x03" + varint(3 + 2_000_000) + b"\0" + varint(2_000_000)
    counts, places = compress(added), compress(added + bytes(1_999_999))
    bounded(lambda: decode(ROW_DELTA, too_long, 1, BASE), 1 << 20)
    bounded(lambda: decode(ROW_DELTA, counts, 1, BASE), 1 << 20)
    bounded(lambda: decode(ROW_DELTA, places, 1, BASE), 32 << 20)
    bounded(lambda: decode(ROW_DELTA, all_zero, 1, BASE), 16 << 20)


def test_a_result_of_another_length_is_refused() -> None:
    """A payload of any codec that yields one byte more or less than its head says is refused (A5, H71)."""
    base, rows = [b"a\nb\nc\nd\ne\n"], b"a\nb\nc\n"
    for codec in (ZSTD, ROW_DELTA, DICT_DELTA):
        payload = compress(rows) if codec == ZSTD else encode_delta(codec, base, rows)
        assert decode(codec, payload, 6, base) == rows
        for plain in (5, 7):
            with pytest.raises(IntegrityError):
                decode(codec, payload, plain, base)


def test_a_dictionary_has_eight_bytes() -> None:
    """A dictionary delta on less than 8 bytes is refused, not passed to the library that raises on it."""
    payload = compress_with(b"a\nb\nc\n", b"12345678")
    assert decode(DICT_DELTA, payload, 6, [b"1234", b"5678"]) == b"a\nb\nc\n"
    for bases in ([b"1234567"], [b"1"], [b"123", b"456"]):
        with pytest.raises(IntegrityError):
            decode(DICT_DELTA, payload, 6, bases)


def test_a_dictionary_delta_needs_its_own_bases() -> None:
    """On other bases, or on two in the other order, a dictionary delta is refused or yields another content."""
    bases = [bytes(range(256)) * 4, bytes(range(255, -1, -1)) * 4]
    plain = bases[0][100:900] + bases[1][50:700]
    payload = encode_delta(DICT_DELTA, bases, plain)
    assert decode(DICT_DELTA, payload, len(plain), bases) == plain
    for other in (bases[::-1], [b"\7" * 2048], bases[:1]):
        try:
            assert decode(DICT_DELTA, payload, len(plain), other) != plain
        except IntegrityError:
            continue


def test_frames_tell_their_size_and_nothing_else() -> None:
    """Frames of ours carry their content size, no dictionary id and no second frame."""
    for frame in (compress(b"x" * 5000), compress(b""), compress_with(b"x" * 5000, b"dictionary")):
        assert compression.declared_size(frame) in (0, 5000)
        with pytest.raises(IntegrityError):
            compression.declared_size(frame + frame)
    assert decompress(compress(b"abc"), limit=3) == b"abc"
    with pytest.raises(IntegrityError):
        decompress(compress(b"abc"), limit=2)


@given(data=st.binary(max_size=2000), level=st.sampled_from([1, 3, 9]))
def test_compression_round_trips(data: bytes, level: int) -> None:
    """Any bytes come back at any level, from one reused compressor."""
    assert decompress(compress(data, level), limit=2000, exact=len(data)) == data
