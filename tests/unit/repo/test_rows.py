"""Rows: cuts fall on ends of rows and follow content, and the digest of a table asks for no order."""

import random
import struct
import tracemalloc
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.repo import rows as module
from backupd.repo.rowdigest import ENDS_INSIDE, STARTS_INSIDE, RowChunk, RowDigest
from backupd.repo.rows import LONGEST_CHUNK, RowCutter, RowHasher

ID_KEY, CUT_KEY = bytes(range(32)), bytes(32)
HASHER = RowHasher.of(ID_KEY)
MASK = 2**64 - 1

FIELD = st.one_of(
    st.integers(-(2**63), 2**63).map(lambda n: str(n).encode()),
    st.text(st.characters(exclude_characters="\n\t\\", codec="utf-8"), max_size=60).map(str.encode),
    st.sampled_from([b"", b"\\N", b"\\\\N", b"\\n\\t\\\\", b"\xff\xfe\x80", b"\0"]),
    st.integers(1, 9000).map(lambda n: b"x" * n),
)
ROW = st.lists(FIELD, min_size=0, max_size=5).map(lambda fields: b"\t".join(fields) + b"\n")


def mixed(h: int) -> int:
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & MASK
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ h >> 33


@lru_cache(maxsize=1)
def key_words() -> tuple[bytes, tuple[int, ...]]:
    """The key of the row hash and its words, which every row shares."""
    key = blake3(ID_KEY, derive_key_context="backupd/v1/row-digest").digest()
    return key, struct.unpack("<32768I", blake3(key=key).digest(131_072))


def plainly(row: bytes) -> tuple[int, int]:
    """The row hash of FORMAT.md, written down a second time and slowly."""
    key, words = key_words()
    if len(row) > 65_536:
        digest = blake3(row, key=key).digest()
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    padded = row + bytes(-len(row) % 8)
    halves = struct.unpack(f"<{len(padded) // 4}I", padded)
    out = []
    for lane in (0, 1):
        total = len(row) * 0x9E3779B97F4A7C15
        for i in range(0, len(halves), 2):
            a = (halves[i] + words[16384 * lane + i]) % 2**32
            b = (halves[i + 1] + words[16384 * lane + i + 1]) % 2**32
            total += a * b
        out.append(mixed(total & MASK))
    return out[0], out[1]


def plain_digest(rows: Iterable[bytes]) -> str:
    digest = RowDigest()
    for row in rows:
        digest.add(1, len(row), plainly(row))
    return digest.hexdigest()


def cut(data: bytes, sizes: Sequence[int] = (1 << 20,), size_class: int = 16, key: tuple[int, ...] = (0,)):  # type: ignore[no-untyped-def]
    """All chunks of a stream that comes in buffers of these sizes, and the cutter."""
    cutter = RowCutter(size_class, CUT_KEY, HASHER, key)
    chunks: list[RowChunk] = []
    at = n = 0
    while at < len(data):
        size = sizes[n % len(sizes)]
        chunks += cutter.feed(data[at : at + size])
        at, n = at + size, n + 1
    return [*chunks, *cutter.finish()], cutter


def shape(chunks: Iterable[RowChunk]) -> list[tuple[bytes, int, bytes, bytes, int]]:
    return [(bytes(c.data), c.rows, c.first, c.last, c.flags) for c in chunks]


def table(count: int, seed: int = 1) -> list[bytes]:
    made = random.Random(seed)
    return [
        b"%d\t%s\t%s\n" % (n, made.randbytes(made.randrange(4, 60)).hex().encode(), b"name %d" % made.randrange(1000))
        for n in range(count)
    ]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 255, 4096, 65_535, 65_536, 65_537, 200_000])
def test_hashes_are_what_the_format_says(length: int) -> None:
    """Rows of every length hash to what FORMAT.md describes, in whatever company they come."""
    row = random.Random(length).randbytes(length - 1).replace(b"\n", b" ") + b"\n"
    other = b"other\trow\n"
    _, cutter = cut(other + row + row + other)
    assert cutter.digest.hexdigest() == plain_digest([other, row, row, other])
    assert cutter.digest.rows == 4


def test_a_digest_that_nobody_here_computes_today() -> None:
    """The digest of a fixed table never changes: snapshots of years ago are compared with it."""
    _, cutter = cut(b"1\tAda\t\\N\n2\tGrace\t\\\\N\n")
    assert cutter.digest.hexdigest() == plain_digest([b"1\tAda\t\\N\n", b"2\tGrace\t\\\\N\n"])
    assert cutter.digest.hexdigest() == FIXED


FIXED = "020000000000000015000000000000009ab1fd483a39e00d1be05bdbf977a099"


@given(rows=st.lists(ROW, max_size=40), sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_rows_in_any_buffers(rows: list[bytes], sizes: list[int]) -> None:
    """Chunks join to the stream, end where rows do, and are the same however the stream arrives."""
    data = b"".join(rows)
    chunks, cutter = cut(data, sizes)
    whole, _ = cut(data)
    assert shape(chunks) == shape(whole)
    assert b"".join(c.data for c in chunks) == data
    assert all(bytes(c.data).endswith(b"\n") for c in chunks)
    assert [c.rows for c in chunks] == [bytes(c.data).count(b"\n") for c in chunks]
    assert [(c.first, c.last) for c in chunks] == [
        tuple(line.split(b"\t")[0][:200] for line in (lines[0], lines[-1]))
        for lines in (bytes(c.data)[:-1].split(b"\n") for c in chunks)
    ]
    assert cutter.digest.hexdigest() == plain_digest(rows)


@given(rows=st.lists(ROW, max_size=30), order=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_digest_asks_for_no_order(rows: list[bytes], order: random.Random) -> None:
    """The same rows in another order, in parts, have the same digest; one row more, less or twice has another."""
    shuffled = rows[:]
    order.shuffle(shuffled)
    half = len(rows) // 2
    parts = [cut(b"".join(part))[1].digest for part in (shuffled[:half], shuffled[half:])]
    parts[0].merge(parts[1])
    whole = cut(b"".join(rows))[1].digest
    assert parts[0] == whole
    if rows:
        assert cut(b"".join(rows[1:]))[1].digest != whole
        assert cut(b"".join([*rows, rows[0]]))[1].digest != whole


def test_every_bit_of_a_row_counts() -> None:
    """Turning any bit, or swapping fields between rows, changes the digest."""
    rows = [b"12345\tAda Lovelace\t1815-12-10\n", b"67890\tGrace Hopper\t1906-12-09\n"]
    right = plain_digest(rows)
    for at in range(len(rows[0]) - 1):
        for bit in range(8):
            turned = bytearray(rows[0])
            turned[at] ^= 1 << bit
            if turned[at] != 10:
                assert cut(bytes(turned) + rows[1])[1].digest.hexdigest() != right
    assert cut(rows[0][:8] + rows[1][8:] + rows[1][:8] + rows[0][8:])[1].digest.hexdigest() != right


@pytest.mark.parametrize("size_class", [16, 64])
def test_chunks_have_the_size_they_should(size_class: int) -> None:
    """Between a quarter of the target and four times as much, about the target on average."""
    chunks, _ = cut(b"".join(table(60_000)), size_class=size_class)
    sizes = [len(c.data) for c in chunks]
    target = size_class * 1024
    assert max(sizes) <= 4 * target
    assert min(sizes[:-1]) >= target // 4
    assert 0.7 * target < sum(sizes) / len(sizes) < 1.4 * target


def test_an_edit_changes_the_chunks_around_it_only() -> None:
    """A row changed, added or removed in the middle leaves all but a few chunks as they were."""
    rows = table(40_000)
    before = {bytes(c.data) for c in cut(b"".join(rows))[0]}
    for edited in (
        [*rows[:20_000], b"20000\tchanged\n", *rows[20_001:]],
        [*rows[:20_000], b"x\tadded\n", *rows[20_000:]],
        [*rows[:20_000], *rows[20_001:]],
    ):
        after = {bytes(c.data) for c in cut(b"".join(edited))[0]}
        assert len(after - before) <= 3


def test_cuts_follow_the_key() -> None:
    """Another cut key gives other lengths: they tell nothing to whoever does not hold it."""
    data = b"".join(table(20_000))
    one = [len(c.data) for c in RowCutter(16, b"1" * 32, HASHER).feed(data)]
    two = [len(c.data) for c in RowCutter(16, b"2" * 32, HASHER).feed(data)]
    assert one != two


@pytest.mark.parametrize("sizes", [(1 << 20,), (100_000,), (1 << 22,), (999_983, 65_536)])
def test_rows_longer_than_a_chunk(sizes: tuple[int, ...]) -> None:
    """A row over 1 MiB comes in pieces of 1 MiB and a rest, the same however it arrives, and its neighbours stand apart."""
    long = b"7\t" + b"y" * (3 * LONGEST_CHUNK + 5) + b"\n"
    exact = b"8\t" + b"z" * (LONGEST_CHUNK - 3) + b"\n"
    wide = b"9\t" + b"w" * 300_000 + b"\n"
    rows = [*table(300), long, *table(20, 2), exact, wide, long, b"10\tlast\n"]
    chunks, cutter = cut(b"".join(rows), sizes)
    assert b"".join(c.data for c in chunks) == b"".join(rows)
    assert sum(c.rows for c in chunks) == len(rows)
    assert all(len(c.data) <= LONGEST_CHUNK for c in chunks)
    flagged = [(len(c.data), c.rows, c.first, c.flags) for c in chunks if c.flags]
    both = STARTS_INSIDE | ENDS_INSIDE
    pieces = [(LONGEST_CHUNK, 0, b"7", ENDS_INSIDE), *[(LONGEST_CHUNK, 0, b"7", both)] * 2, (8, 1, b"7", STARTS_INSIDE)]
    assert flagged == pieces * 2
    assert cutter.digest.hexdigest() == plain_digest(rows)
    assert shape(chunks) == shape(cut(b"".join(rows))[0])


def test_an_endless_row_needs_no_memory() -> None:
    """A row of 200 MiB goes through in pieces; what is held follows the chunk, not the row."""
    cutter = RowCutter(16, CUT_KEY, HASHER, (0,))
    total = 0
    tracemalloc.start()
    try:
        for n in range(200):
            total += sum(len(c.data) for c in cutter.feed((b"1\t" if n == 0 else b"") + b"a" * LONGEST_CHUNK))
        total += sum(len(c.data) for c in [*cutter.feed(b"\n"), *cutter.finish()])
        assert tracemalloc.get_traced_memory()[1] < 16 * LONGEST_CHUNK
    finally:
        tracemalloc.stop()
    assert total == 200 * LONGEST_CHUNK + 3
    assert cutter.digest.rows == 1


@pytest.mark.parametrize("data", [b"half a row", b"row\nhalf", b"x" * (2 * LONGEST_CHUNK)])
def test_a_stream_that_ends_inside_a_row_is_refused(data: bytes) -> None:
    """Whatever comes after the last newline is no row."""
    cutter = RowCutter(16, CUT_KEY, HASHER)
    list(cutter.feed(data))
    with pytest.raises(ValueError, match="inside a row"):
        list(cutter.finish())


def test_empty_streams_and_empty_rows() -> None:
    """No rows give no chunks; rows without columns are newlines."""
    assert cut(b"")[0] == []
    chunks, cutter = cut(b"\n\n\n", key=())
    assert shape(chunks) == [(b"\n\n\n", 3, b"", b"", 0)]
    assert cutter.digest.hexdigest() == plain_digest([b"\n"] * 3)


@pytest.mark.parametrize(
    ("row", "key", "wanted"),
    [
        (b"1\t2\t3\n", (2, 0), b"3\t1"),
        (b"1\t2\t3\n", (2,), b"3"),
        (b"1\n", (3,), b""),
        (b"k" * 500 + b"\t1\n", (0,), b"k" * 200),
        (b"a\\tb\t2\n", (0,), b"a\\tb"),
    ],
)
def test_keys(row: bytes, key: tuple[int, ...], wanted: bytes) -> None:
    """Keys are the texts of their columns, in the key's order, at most 200 bytes of them."""
    ((chunk,), _) = cut(row, key=key)
    assert (chunk.first, chunk.last) == (wanted, wanted)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows are hashed at a time changes nothing."""
    data = b"".join(table(5000))
    right = cut(data)
    monkeypatch.setattr(module, "_BLOCK", 100)
    again = cut(data)
    assert shape(again[0]) == shape(right[0])
    assert again[1].digest == right[1].digest


def test_hashes_of_nothing() -> None:
    """No rows hash to nothing, without an error."""
    empty = np.empty(0, dtype=np.int64)
    assert [len(lane) for lane in HASHER.hash(np.zeros(8, dtype=np.uint8), empty, empty)] == [0, 0]
