"""Deltas as a run makes them: whatever the two versions are, what comes back is the newer one."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.crypto.chunks import Kind
from backupd.repo.codecs import DICT_DELTA, MAX_DELTA, ROW_DELTA, check_shape, decode, parse_row_delta, split_rows
from backupd.repo.compression import decompress
from backupd.repo.deltas import encode_dictionary_delta, encode_row_delta, row_changes
from backupd.repo.rowwalk import walk

SMALL_ROWS = st.sampled_from([b"\n", b"a\n", b"b\n", b"c\td\n", b"\r\n", b"x\ry\n", b"\x0b\x0c\x1c\x85\n"])
ANY_ROWS = st.binary(max_size=200).map(lambda data: data.replace(b"\n", b"\r") + b"\n")
ROWS = st.lists(st.one_of(SMALL_ROWS, ANY_ROWS), max_size=60)


def back(payload: bytes | None, bases: list[bytes], result: bytes, codec: int) -> None:
    """The payload decodes to the result, and is one that a reader accepts."""
    assert payload is not None
    check_shape(Kind.ROWS, codec, len(bases), len(payload), len(result))
    assert decode(codec, payload, len(result), bases) == result


def edited(rows: list[bytes], edits: list[tuple[int, int, bytes]]) -> list[bytes]:
    """Rows after some edits: change, insert, delete, move, double."""
    out = list(rows)
    for kind, place, row in edits:
        at = place % (len(out) + 1)
        if kind == 0 or not out:
            out.insert(at, row)
        elif kind == 1:
            out[at % len(out)] = row
        elif kind == 2:
            del out[at % len(out)]
        elif kind == 3:
            out.insert(at % len(out), out.pop(place // 7 % len(out)))
        else:
            out.insert(at, out[place // 3 % len(out)])
    return out


EDITS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 10_000), st.one_of(SMALL_ROWS, ANY_ROWS)), max_size=20)


@settings(max_examples=400, deadline=None)
@given(rows=ROWS, edits=EDITS, tail=st.binary(max_size=5), cut=st.integers(0, 60))
def test_row_deltas_come_back(rows: list[bytes], edits: list[tuple[int, int, bytes]], tail: bytes, cut: int) -> None:
    """Edits, moves, duplicates, empty rows and a last row without its end, on one base and on two joined (G57)."""
    result = b"".join(edited(rows, edits)) + tail.replace(b"\n", b"")
    whole = b"".join(rows) + tail[:2].replace(b"\n", b"")
    if not result:
        return
    back(encode_row_delta([whole], result, 3), [whole], result, ROW_DELTA)
    two = [b"".join(rows[:cut]), b"".join(rows[cut:])]
    back(encode_row_delta(two, result, 3), two, result, ROW_DELTA)
    if len(whole) >= 8:
        back(encode_dictionary_delta([whole], result, 3), [whole], result, DICT_DELTA)


@settings(max_examples=200, deadline=None)
@given(old=ROWS, new=ROWS)
def test_anything_becomes_anything(old: list[bytes], new: list[bytes]) -> None:
    """Everything deleted, everything replaced, everything shuffled: the changes are the multiset's difference at least."""
    removed, added = row_changes(old, new)
    assert sorted([*old, *(row for _, row in added)]) == sorted([*new, *(row for _, row in removed)])
    assert all(old[at] == row for at, row in removed)
    assert all(new[at] == row for at, row in added)
    if new:
        back(encode_row_delta([b"".join(old)], b"".join(new), 1), [b"".join(old)], b"".join(new), ROW_DELTA)


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(1, 90),
    changes=st.lists(st.tuples(st.integers(0, 89), st.one_of(SMALL_ROWS, ANY_ROWS)), max_size=9),
    tail=st.booleans(),
)
def test_changes_in_place_are_just_those(count: int, changes: list[tuple[int, bytes]], tail: bool) -> None:
    """Rows that were changed where they stand: the delta names them and no other, as `row_changes` does."""
    old = [b"%d\tname %d\n" % (n, n * n) for n in range(count)]
    new = list(old)
    for at, row in changes:
        new[at % count] = b"%d\t" % (at % count) + row
    if tail:
        old[-1], new[-1] = old[-1][:-1], new[-1][:-1]
    payload = encode_row_delta([b"".join(old)], b"".join(new), 3)
    assert payload is not None
    delta = parse_row_delta(decompress(payload, limit=MAX_DELTA))
    assert (list(delta.removed), list(delta.added)) == row_changes(old, new)


@settings(max_examples=400, deadline=None)
@given(
    rows=st.one_of(
        ROWS, st.integers(60, 3000).map(lambda count: [b"%d\tname %d\n" % (n, n % 7) for n in range(count)])
    ),
    edits=EDITS,
    tail=st.sampled_from([b"", b"x"]),
)
def test_a_walk_finds_the_difference_or_nothing(
    rows: list[bytes], edits: list[tuple[int, int, bytes]], tail: bytes
) -> None:
    """What it finds is exactly the multisets' difference, in its places; a text that ends inside a row is not walked."""
    new = edited(rows, edits)
    found = walk(b"".join(rows) + tail, b"".join(new))
    if tail or found is None:
        assert found is None
        return
    assert (found.old, found.new) == (len(rows), len(new))
    assert Counter(row for _, row in found.removed) == Counter(rows) - Counter(new)
    assert Counter(row for _, row in found.added) == Counter(new) - Counter(rows)
    gone, come = dict(found.removed), dict(found.added)
    assert list(gone) == sorted(gone)
    assert list(come) == sorted(come)
    assert all(rows[at] == row for at, row in gone.items())
    assert all(new[at] == row for at, row in come.items())
    assert [r for at, r in enumerate(rows) if at not in gone] == [r for at, r in enumerate(new) if at not in come]


def test_a_walk_goes_to_all_that_is_usual() -> None:
    """Rows that were changed, came, went, at the ends and in the middle, a few in a row: found; what moved is not."""
    old = [b"%d\tname\n" % n for n in range(5000)]
    new = [b"first\n", *old[:100], b"100\tother\n", *old[101:300], *old[305:400], b"a\n", b"b\n", *old[400:4000]]
    new += [b"x\n", b"y\n", b"z\n", *old[4002:-1]]
    found = walk(b"".join(old), b"".join(new))
    assert found is not None
    assert (found.removed, found.added) == row_changes(old, new)
    assert walk(b"".join(old), b"".join([*old[1:], old[0]])) is None
    assert walk(b"".join(old), b"".join(old[::-1])) is None
    assert walk(b"".join(old), b"".join(b"!" + row for row in old)) is None


def test_few_changes_are_few() -> None:
    """A delta holds what changed and not more: one row updated, one added, one removed, one moved."""
    old = [b"%d\tname\n" % n for n in range(500)]
    new = [*old[:100], b"100\tother\n", *old[101:300], *old[301:400], b"new\n", *old[400:], old[0]]
    removed, added = row_changes(old, new[1:])
    assert removed == [(0, old[0]), (100, old[100]), (300, old[300])]
    assert [row for _, row in added] == [b"100\tother\n", b"new\n", old[0]]


def test_a_moved_block_moves_the_smaller_part() -> None:
    """Where rows changed places, as few as possible move."""
    old = [b"%d\n" % n for n in range(100)]
    removed, added = row_changes(old, [*old[90:], *old[:90]])
    assert len(removed) == len(added) == 10


def test_giant_rows_and_pieces() -> None:
    """Rows of half a megabyte, and pieces without an end, come back."""
    noise = random.Random(1)
    giant = noise.randbytes(500_000).replace(b"\n", b"\r") + b"\n"
    old, new = b"a\n" + giant + b"b\n", giant + b"c\n"
    back(encode_row_delta([old], new, 3), [old], new, ROW_DELTA)
    piece = noise.randbytes(1 << 20).replace(b"\n", b"-")
    back(encode_row_delta([piece], piece[:-1], 3), [piece], piece[:-1], ROW_DELTA)
    back(encode_dictionary_delta([piece], b"!" + piece[:-1], 3), [piece], b"!" + piece[:-1], DICT_DELTA)


def test_what_no_delta_may_hold_is_none() -> None:
    """Two bases and a result that have nothing in common are more than a delta may hold; tiny bases are no dictionary."""
    noise = random.Random(2)
    one, two, three = (noise.randbytes(1 << 20).replace(b"\n", b" ") for _ in range(3))
    assert encode_row_delta([one, two], three, 1) is not None
    assert encode_row_delta([one, two, one], three + one, 1) is None
    assert len(one + two + one + three) >= MAX_DELTA
    assert encode_dictionary_delta([b"1234567"], b"12345678", 3) is None


@pytest.mark.parametrize("data", [b"", b"\n", b"a", b"a\nb", b"\r\n\r", b"a\rb\nc\x0b\x0c\x1c\x1d\x1e\x85d\n"])
def test_rows_end_at_line_feeds_only(data: bytes) -> None:
    """No other character ends a row."""
    rows = split_rows(data)
    assert b"".join(rows) == data
    assert [row for row in rows if row.count(b"\n") > 1 or b"\n" in row[:-1]] == []
    assert len(rows) == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def test_a_row_delta_says_what_was_removed() -> None:
    """Both sides are in the delta, so that a diff needs nothing else."""
    payload = encode_row_delta([b"1\tOld Name\n2\tb\n"], b"1\tNew Name\n2\tb\n", 3)
    assert payload is not None
    plain = decompress(payload, limit=MAX_DELTA)
    assert b"1\tOld Name\n" in plain
    assert b"1\tNew Name\n" in plain
    assert b"2\tb\n" not in plain
