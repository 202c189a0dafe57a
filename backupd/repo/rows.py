"""Rows as text: where a stream of rows is cut into chunks, and a digest of a table that does not ask for an order.

No Python object is made per row: a block of rows is an array of bytes, and everything per row is a column of an array.
FORMAT.md, section 9, says what is computed, so that others can compute it too.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from backupd.crypto.primitives import Running, b3_derive, b3_keyed, b3_running, b3_stream
from backupd.repo.rowdigest import ENDS_INSIDE, KEY_BYTES, STARTS_INSIDE, RowChunk, RowDigest

LONG_ROW = 65_536
LONGEST_CHUNK = 1024 * 1024
_BLOCK = 256 * 1024
_ODDS = 4
_NEWLINE = 10
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_LENGTH = np.uint64(0x9E37_79B9_7F4A_7C15)
_MIX_1, _MIX_2, _HALF = np.uint64(0xFF51_AFD7_ED55_8CCD), np.uint64(0xC4CE_B9FE_1A85_EC53), np.uint64(33)
_MASKS = np.array([_ALL, *((1 << 8 * n) - 1 for n in range(1, 8))], dtype=np.uint64)
_PADDING = bytes(8)
_Words = NDArray[np.uint64]
_Places = NDArray[np.int64]


class RowHasher:
    """Hashes of rows under a key: two sums of 64 bits for each row. Safe for several threads."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        words = np.frombuffer(b3_stream(key, 2 * LONG_ROW), dtype="<u4").astype(np.uint32)
        self._lanes = (words[: LONG_ROW // 4].copy(), words[LONG_ROW // 4 :].copy())
        self._pairs = tuple(lane.view(np.uint64) for lane in self._lanes)

    @classmethod
    def of(cls, id_key: bytes) -> "RowHasher":
        """The hasher of a writer's tables."""
        return cls(b3_derive("backupd/v1/row-digest", id_key))

    def hash(self, block: NDArray[np.uint8], starts: _Places, ends: _Places) -> tuple[_Words, _Words]:
        """The two hashes of each row.

        Args:
            block: the rows, with at least eight bytes behind the last.
            starts: where each begins.
            ends: where each ends, behind its newline.
        """
        lengths = ends - starts
        if not len(lengths):
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64)
        if int(lengths.max()) > LONG_ROW:
            return self._with_long(block, starts, ends, lengths)
        return self._short(block, starts, lengths)

    def _short(self, block: NDArray[np.uint8], starts: _Places, lengths: _Places) -> tuple[_Words, _Words]:
        counts = (lengths + 7) >> 3
        last = np.cumsum(counts)
        first = last - counts
        # of each word of eight bytes: its number in its row, and where it stands in the block
        number = np.arange(int(last[-1]), dtype=np.int64)
        number -= np.repeat(first, counts)
        at = number << 3
        at += np.repeat(starts, counts)
        words = np.ndarray((len(block) - 7,), dtype="<u8", buffer=block.data, strides=(1,))[at]
        words[last - 1] &= _MASKS[lengths & 7]
        weighed = lengths.astype(np.uint64) * _LENGTH
        halves = words.view(np.uint32)
        return self._lane(0, halves, number, first, weighed), self._lane(1, halves, number, first, weighed)

    def _lane(self, lane: int, halves: NDArray[np.uint32], number: _Places, first: _Places, weighed: _Words) -> _Words:
        keyed = self._pairs[lane][number].view(np.uint32)
        keyed += halves
        both = keyed.view(np.uint64)
        products = both >> np.uint64(32)
        products *= both & np.uint64(0xFFFF_FFFF)
        sums: _Words = np.add.reduceat(products, first)
        sums += weighed
        return _mixed(sums)

    def _with_long(
        self, block: NDArray[np.uint8], starts: _Places, ends: _Places, lengths: _Places
    ) -> tuple[_Words, _Words]:
        out = np.zeros(len(starts), dtype=np.uint64), np.zeros(len(starts), dtype=np.uint64)
        short = np.flatnonzero(lengths <= LONG_ROW)
        if len(short):
            for lane, found in zip(out, self._short(block, starts[short], lengths[short]), strict=True):
                lane[short] = found
        for n in np.flatnonzero(lengths > LONG_ROW):
            out[0][n], out[1][n] = _halves(b3_keyed(self._key, block[starts[n] : ends[n]].tobytes()))
        return out

    def running(self) -> Running:
        """What hashes a row of more than 64 KiB piece by piece."""
        return b3_running(self._key)


def _halves(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def _mixed(sums: _Words) -> _Words:
    """Spread every bit over all others: the last steps of MurmurHash3."""
    sums ^= sums >> _HALF
    sums *= _MIX_1
    sums ^= sums >> _HALF
    sums *= _MIX_2
    sums ^= sums >> _HALF
    return sums


class _Giant:
    """A row of more than 1 MiB on its way: pieces of 1 MiB, and a running hash."""

    def __init__(self, hasher: RowHasher, key: bytes) -> None:
        self._running = hasher.running()
        self._held = b""
        self._key = key
        self._begun = False

    def take(self, data: memoryview) -> Iterator[RowChunk]:
        self._running.update(data)
        held = b"".join((self._held, data))
        at = 0
        while len(held) - at > LONGEST_CHUNK:
            yield self._piece(held[at : at + LONGEST_CHUNK], ENDS_INSIDE)
            at += LONGEST_CHUNK
        self._held = held[at:]

    def _piece(self, data: bytes, flags: int) -> RowChunk:
        flags |= STARTS_INSIDE if self._begun else 0
        self._begun = True
        last = not flags & ENDS_INSIDE
        sums = _halves(self._running.digest()) if last else (0, 0)
        return RowChunk(memoryview(data), int(last), self._key, self._key, flags, sums)

    def end(self) -> RowChunk:
        return self._piece(self._held, 0)


class _Cuts:
    """Counts rows into chunks: those of the chunk that was open, then those of a block by their numbers."""

    def __init__(self, rows: int, sums: tuple[int, int], upto: tuple[_Words, _Words]) -> None:
        self.rows, self._sums, self._upto = rows, sums, upto
        self.row = 0

    def take(self, upto: int) -> tuple[int, tuple[int, int]]:
        """End a chunk before a row; its rows, and the sums of their hashes."""
        one, two = self._upto
        sums = (
            (self._sums[0] + int(one[upto]) - int(one[self.row])) % 2**64,
            (self._sums[1] + int(two[upto]) - int(two[self.row])) % 2**64,
        )
        rows = self.rows + upto - self.row
        self.rows, self._sums, self.row = 0, (0, 0), upto
        return rows, sums


class RowCutter:
    """Cuts a stream of rows at ends of rows, by content and under a key; counts and digests them on the way.

    A row is a candidate if its hash says so, in proportion to its length; whether a candidate is taken is decided by a
    keyed function of the whole row, so that lengths of chunks tell nothing without the key. A chunk has between a quarter
    of and four times the size class; a row that is longer stands alone, and one over 1 MiB is cut into pieces.

    Args:
        size_class: target size, in KiB.
        cut_key: decides about candidates.
        hasher: of the writer.
        key: positions of the key's columns.
        only_digest: nobody wants the chunks: they are cut anywhere.
    """

    def __init__(
        self,
        size_class: int,
        cut_key: bytes,
        hasher: RowHasher,
        key: tuple[int, ...] = (),
        *,
        only_digest: bool = False,
    ) -> None:
        target = size_class * 1024
        self._least, self._most = target // 4, target * 4
        self._rate = np.uint64(0 if only_digest else _ODDS * 2**32 // (target - self._least))
        self._cut_key = b3_derive("backupd/v1/cut-rows", cut_key)
        self._hasher = hasher
        self._key = key
        self._rest = b""
        self._known = 0
        self._open_rows = 0
        self._open_sums = (0, 0)
        self._giant: _Giant | None = None
        self.digest = RowDigest()

    @property
    def inside(self) -> bool:
        """Whether it is inside a row of more than 1 MiB."""
        return self._giant is not None

    def count(self, chunk: RowChunk) -> RowChunk:
        """Count a chunk into the digest."""
        self.digest.add(chunk.rows, len(chunk.data), chunk.sums)
        return chunk

    def forget(self) -> None:
        """Drop what is open: the caller goes on behind the last chunk."""
        self._rest, self._known, self._open_rows, self._open_sums = b"", 0, 0, (0, 0)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[RowChunk]:
        """Take more of the stream; gives the chunks that are complete, and counts each as it is taken."""
        for chunk in self._feed(data):
            yield self.count(chunk)

    def _feed(self, data: bytes | bytearray | memoryview) -> Iterator[RowChunk]:
        if self._giant is not None:
            data, chunks = self._go_on(self._giant, memoryview(data))
            yield from chunks
        yield from self._cut(b"".join((self._rest, data, _PADDING)))
        if len(self._rest) - self._known >= LONGEST_CHUNK:
            yield from self._begin_giant()

    def finish(self) -> Iterator[RowChunk]:
        """The end of the stream.

        Raises:
            ValueError: it ends inside a row.
        """
        if self._giant is not None or self._known != len(self._rest):
            raise ValueError("a stream of rows ends inside a row")
        if self._rest:
            yield self.count(self.chunk(self._rest, 0, len(self._rest), self._open_rows, self._open_sums))
            self.forget()

    def _cut(self, whole: bytes) -> Iterator[RowChunk]:
        """Cut what is complete off the front; the open chunk and the row that is not complete yet stay."""
        size = len(whole) - len(_PADDING)
        block = np.frombuffer(whole, dtype=np.uint8)
        ends: _Places = np.flatnonzero(block[self._known : size] == _NEWLINE) + (self._known + 1)
        candidates, sums = self._hashed(block, ends)
        cuts = _Cuts(self._open_rows, self._open_sums, sums)
        start = 0
        for n in candidates:
            end = int(ends[n])
            while end - start > self._most:
                at, upto = self._forced(ends, start, cuts)
                yield from self._give(whole, start, at, *cuts.take(upto))
                start = at
            if end - start >= self._least and self._taken(whole, int(ends[n - 1]) if n else self._known, end):
                yield from self._give(whole, start, end, *cuts.take(n + 1))
                start = end
        last = int(ends[-1]) if len(ends) else self._known
        while last - start > self._most:
            at, upto = self._forced(ends, start, cuts)
            yield from self._give(whole, start, at, *cuts.take(upto))
            start = at
        self._rest = whole[start:size]
        self._known = last - start
        self._open_rows, self._open_sums = cuts.take(len(ends))

    def _hashed(self, block: NDArray[np.uint8], ends: _Places) -> tuple[list[int], tuple[_Words, _Words]]:
        """Hash rows, a block at a time so that arrays stay in the processor's cache.

        Returns:
            the numbers of the rows that may end a chunk, and for both hashes the sums of the rows up to each.
        """
        found: list[int] = []
        ones, twos = np.zeros(len(ends) + 1, dtype=np.uint64), np.zeros(len(ends) + 1, dtype=np.uint64)
        n, start = 0, self._known
        while n < len(ends):
            upto = max(n + 1, int(np.searchsorted(ends, start + _BLOCK)))
            some = ends[n:upto]
            starts = np.empty_like(some)
            starts[0], starts[1:] = start, some[:-1]
            one, two = self._hasher.hash(block, starts, some)
            chosen = (one >> np.uint64(32)) < (some - starts).astype(np.uint64) * self._rate
            found += (np.flatnonzero(chosen) + n).tolist()
            ones[n + 1 : upto + 1], twos[n + 1 : upto + 1] = one, two
            n, start = upto, int(some[-1])
        np.cumsum(ones, out=ones)
        np.cumsum(twos, out=twos)
        return found, (ones, twos)

    def _forced(self, ends: _Places, start: int, cuts: "_Cuts") -> tuple[int, int]:
        """Where a chunk must end: at the last row that fits, or behind a row that is too long by itself.

        Returns:
            the end, and the number of the next row.
        """
        upto = int(np.searchsorted(ends, start + self._most, side="right"))
        if upto == cuts.row:
            if cuts.rows:
                return self._known, cuts.row
            upto += 1
        return int(ends[upto - 1]), upto

    def _taken(self, whole: bytes, start: int, end: int) -> bool:
        return b3_keyed(self._cut_key, memoryview(whole)[start:end])[0] % _ODDS == 0

    def _give(self, whole: bytes, start: int, end: int, rows: int, sums: tuple[int, int]) -> Iterator[RowChunk]:
        if end - start <= LONGEST_CHUNK:
            yield self.chunk(whole, start, end, rows, sums)
            return
        key = _key_of(whole[start : start + LONGEST_CHUNK], self._key)
        for at in range(start, end, LONGEST_CHUNK):
            upto = min(end, at + LONGEST_CHUNK)
            flags = (STARTS_INSIDE if at > start else 0) | (ENDS_INSIDE if upto < end else 0)
            last = upto == end
            yield RowChunk(memoryview(whole)[at:upto], int(last), key, key, flags, sums if last else (0, 0))

    def chunk(self, whole: bytes, start: int, end: int, rows: int, sums: tuple[int, int]) -> RowChunk:
        """A chunk of whole rows of which number and sums are known."""
        view = memoryview(whole)[start:end]
        if not self._key:
            return RowChunk(view, rows, sums=sums)
        first = whole[start : whole.index(b"\n", start)]
        last = whole[whole.rfind(b"\n", start, end - 1) + 1 or start : end - 1]
        return RowChunk(view, rows, _key_of(first, self._key), _key_of(last, self._key), sums=sums)

    # ---- rows of more than 1 MiB that come in more than one buffer

    def _begin_giant(self) -> Iterator[RowChunk]:
        if self._known:
            yield self.chunk(self._rest, 0, self._known, self._open_rows, self._open_sums)
        row = self._rest[self._known :]
        self.forget()
        self._giant = _Giant(self._hasher, _key_of(row[:LONGEST_CHUNK], self._key))
        yield from self._giant.take(memoryview(row))

    def _go_on(self, giant: _Giant, data: memoryview) -> tuple[memoryview, list[RowChunk]]:
        end = bytes(data).find(b"\n") + 1
        chunks = list(giant.take(data[:end] if end else data))
        if end:
            chunks.append(giant.end())
            self._giant = None
        return (data[end:] if end else data[:0]), chunks


def _key_of(row: bytes, positions: tuple[int, ...]) -> bytes:
    """The text of the key's columns of a row, at most 200 bytes."""
    if not positions:
        return b""
    fields = row.split(b"\t", max(positions) + 1)
    if len(fields) <= max(positions):
        return b""
    return b"\t".join(fields[at] for at in positions)[:KEY_BYTES]
