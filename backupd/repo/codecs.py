"""From a stored payload back to a chunk's plaintext, for every codec of version 1. FORMAT.md, section 6.

Pure functions on bytes that were authenticated before. The caller recomputes the id of what comes out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.compression import Bytes, compress, decompress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RAW, ZSTD, ROW_DELTA, DICT_DELTA = range(4)
MAX_CHUNK = 1024 * 1024
MAX_DELTA = 4 * MAX_CHUNK
MAX_LINKS = 8
MAX_FAMILY = 16
_LINE_FEED = 10
_KEPT_BEFORE = itemgetter(0)
"""Of an edit: how many rows of the bases stay before it."""
_BASES = {RAW: (0,), ZSTD: (0,), ROW_DELTA: (1, 2), DICT_DELTA: (1, 2)}


def encode(plaintext: Bytes, level: int) -> tuple[int, Bytes]:
    """Store in full: compressed if that is smaller, else as it is. Returns (codec, payload)."""
    packed = compress(plaintext, level)
    return (ZSTD, packed) if len(packed) < len(plaintext) else (RAW, plaintext)


def check_shape(kind: Kind, codec: int, bases: int, payload_length: int, plain_length: int) -> None:
    """Refuse what no writer of version 1 may store, before anything is read.

    Raises:
        IntegrityError: an unknown codec, or lengths or bases that do not fit it.
    """
    if codec not in _BASES or bases not in _BASES[codec] or (codec == ROW_DELTA and kind is not Kind.ROWS):
        raise IntegrityError(f"a chunk has codec {codec} with {bases} bases, which version 1 does not know")
    if not 1 <= plain_length <= MAX_CHUNK or not 1 <= payload_length <= MAX_DELTA + 65536:
        raise IntegrityError("a chunk has an impossible length")
    if codec == RAW and payload_length != plain_length:
        raise IntegrityError("a chunk stored as it is has two lengths")


def decode(codec: int, payload: bytes, plain_length: int, bases: Sequence[bytes]) -> bytes:
    """Undo a codec.

    Args:
        codec: one that `check_shape` passed.
        payload: the authenticated payload.
        plain_length: the length that must come out.
        bases: plaintexts of the bases, in order.

    Raises:
        IntegrityError: the payload does not yield a plaintext of that length.
    """
    if codec == RAW:
        return payload
    if codec == ZSTD:
        return decompress(payload, limit=MAX_CHUNK, exact=plain_length)
    if codec == DICT_DELTA:
        return decompress(payload, limit=MAX_CHUNK, exact=plain_length, dictionary=b"".join(bases))
    out = apply_row_delta(decompress(payload, limit=MAX_DELTA), bases)
    if len(out) != plain_length:
        raise IntegrityError("a row delta does not yield the length it was stored with")
    return out


def split_rows(data: bytes) -> list[bytes]:
    """Cut into rows, each with its line feed; the last may lack it (`splitlines` would cut at carriage returns too)."""
    if b"\r" not in data:
        return data.splitlines(keepends=True)
    pieces = data.split(b"\n")
    rows = [piece + b"\n" for piece in pieces[:-1]]
    return [*rows, pieces[-1]] if pieces[-1] else rows


class _Varints:
    """Reads LEB128 numbers of at most 5 bytes."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def next(self) -> int:
        value = shift = 0
        while True:
            if self.at >= len(self.data) or shift > 28:
                raise IntegrityError("a row delta is damaged")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if shift and not byte:
                    raise IntegrityError("a row delta writes a number the long way")
                return value
            shift += 7

    def many(self, n: int) -> list[int]:
        if n > len(self.data) - self.at:
            raise IntegrityError("a row delta counts more than it holds")
        piece = self.data[self.at : self.at + n]
        if piece.isascii():  # each number takes one byte
            self.at += n
            return list(piece)
        return [self.next() for _ in range(n)]

    def places(self, n: int, end: int) -> list[int]:
        out = [n + passed for n, passed in enumerate(accumulate(self.many(n)))]
        if out and out[-1] >= end:
            raise IntegrityError("a row delta names a place outside")
        return out

    def rows(self, lengths: Sequence[int]) -> Iterator[bytes]:
        if sum(lengths) > len(self.data) - self.at:
            raise IntegrityError("a row delta holds less than it says")
        for length in lengths:
            yield self.data[self.at : self.at + length]
            self.at += length


@dataclass(frozen=True, slots=True)
class RowDelta:
    """A row delta taken apart: how many rows the bases and the result have, and what goes and comes where."""

    base_rows: int
    result_rows: int
    removed: tuple[tuple[int, bytes], ...] = field(repr=False)
    added: tuple[tuple[int, bytes], ...] = field(repr=False)


def parse_row_delta(delta: bytes) -> RowDelta:
    """Take a row delta apart.

    Raises:
        IntegrityError: it is damaged.
    """
    reader = _Varints(delta)
    base_rows, result_rows, removed_count, added_count = (reader.next() for _ in range(4))
    if base_rows - removed_count + added_count != result_rows:
        raise IntegrityError("a row delta does not add up")
    removed_at = reader.places(removed_count, base_rows)
    added_at = reader.places(added_count, result_rows)
    removed_lengths, added_lengths = reader.many(removed_count), reader.many(added_count)
    removed = tuple(zip(removed_at, reader.rows(removed_lengths), strict=True))
    added = tuple(zip(added_at, reader.rows(added_lengths), strict=True))
    if reader.at != len(delta):
        raise IntegrityError("a row delta has bytes behind its end")
    return RowDelta(base_rows, result_rows, removed, added)


def apply_row_delta(delta: bytes, bases: Sequence[bytes]) -> bytes:
    """Apply a row delta to its bases' rows: what stays is copied in runs, and no row of it is looked at.

    Raises:
        IntegrityError: the delta was not made for these bases, or is damaged.
    """
    parsed = parse_row_delta(delta)
    data, ends = row_ends(bases)
    if parsed.base_rows != len(ends):
        raise IntegrityError("a row delta was made for other bases")
    edits = [(at - n, at, row, False) for n, (at, row) in enumerate(parsed.removed)]
    edits += [(at - n, at, row, True) for n, (at, row) in enumerate(parsed.added)]
    edits.sort(key=_KEPT_BEFORE)
    out: list[bytes] = []
    kept = gone = start = 0  # rows that were copied, rows that were passed over, and where the next one begins
    for until, _, row, adds in edits:
        if until > kept:
            end = int(ends[until + gone - 1])
            out.append(data[start:end])
            kept, start = until, end
        if adds:
            out.append(row)
            continue
        end = int(ends[kept + gone])
        if data[start:end] != row:
            raise IntegrityError("a row delta removes rows that are not there")
        gone, start = gone + 1, end
    out.append(data[start:])
    return b"".join(out)


def row_ends(pieces: Sequence[bytes]) -> "tuple[bytes, NDArray[np.int64]]":
    """The pieces as one text, and where each row ends in it; the last row of a piece may lack its line feed."""
    import numpy as np

    data = b"".join(pieces) if len(pieces) != 1 else pieces[0]
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _LINE_FEED) + 1
    if all(piece.endswith(b"\n") for piece in pieces if piece):
        return data, ends
    return data, np.union1d(ends, [end for end in accumulate(map(len, pieces)) if end])
