"""Which chunk of the run before a chunk of this run was: by its place, or by the rows at which it begins and ends.

Only a guess is made here. What is made of it is checked by ids and sizes, so a wrong guess costs space and never a row.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from backupd.repo.leaning import Candidates
from backupd.repo.versioncache import VersionCache
from backupd.repo.versions import BLOCK, Anchors, ListReader, Version

if TYPE_CHECKING:
    from backupd.repo.rowdigest import RowChunk

_AHEAD, _BACK = 16, 4
_PAGE = 512
_SOON, _LATER = 2, 64
_SEARCHES = 64
"""Each looks through the marks of the whole table; so many of them for one stream, however often its place is lost."""
_LONGER = 1.15
_MARK = struct.Struct("<Q")


class _Lists:
    """The lists of one or more streams of the run before, one behind the other."""

    def __init__(self, readers: Sequence[ListReader]) -> None:
        self._readers = readers
        self.begins = [0, *accumulate(reader.chunks for reader in readers)]
        self.chunks = self.begins[-1]
        self._near: tuple[int, dict[bytes, Version]] = (-1, {})
        self._page: tuple[int, list[tuple[int, int]]] = (-1, [])

    def _at(self, n: int) -> tuple[int, ListReader]:
        k = bisect_right(self.begins, n) - 1
        return n - self.begins[k], self._readers[k]

    def version(self, n: int) -> Version | None:
        """The chunk at a place."""
        if not 0 <= n < self.chunks:
            return None
        at, reader = self._at(n)
        return reader.version(at)

    def block(self, n: int) -> Sequence[Version]:
        """The chunks of the block around a place; none behind the end."""
        if not 0 <= n < self.chunks:
            return ()
        at, reader = self._at(n)
        return reader.block(at // BLOCK)

    def near(self, n: int) -> dict[bytes, Version]:
        """The chunks of the block around a place, by id."""
        if not self.chunks:
            return {}
        at, reader = self._at(min(max(n, 0), self.chunks - 1))
        key = n - at + at // BLOCK * BLOCK
        if self._near[0] != key:
            self._near = (key, {version.ref.id: version for version in reader.block(at // BLOCK)})
        return self._near[1]

    def marks(self, n: int) -> tuple[int, int]:
        """The marks of the chunk at a place."""
        if not 0 <= n < self.chunks:
            return (-1, -1)
        page = n // _PAGE
        if self._page[0] != page:
            self._page = (page, self._read_page(page * _PAGE))
        found = self._page[1]
        return found[n % _PAGE] if n % _PAGE < len(found) else (-1, -1)

    def _read_page(self, start: int) -> list[tuple[int, int]]:
        out: list[tuple[int, int]] = []
        n = start
        while n < min(start + _PAGE, self.chunks):
            at, reader = self._at(n)
            wanted = min(start + _PAGE - n, reader.chunks - at)
            found = reader.anchors(at, wanted)
            out += found + [(-1, -1)] * (wanted - len(found))
            n += wanted
        return out

    def close(self) -> None:
        """Close the files; they are opened again if something is asked after all."""
        for reader in self._readers:
            reader.close()

    def search(self, first: int) -> int | None:
        """Where a chunk begins with that mark, wherever it is."""
        pattern = _MARK.pack(first)
        for k, reader in enumerate(self._readers):
            for at in range(0, reader.chunks, 65_536):
                marks = reader.raw_anchors(at, 65_536)
                found = marks.find(pattern)
                while found >= 0 and found % 16:
                    found = marks.find(pattern, found + 1)
                if found >= 0:
                    return self.begins[k] + at + found // 16
        return None


class PlaceMatcher:
    """Of pages and schemas: the chunk at the same place. Nearly all of them are as they were, so little is done for each."""

    def __init__(self, cache: VersionCache, readers: Sequence[ListReader], place: int) -> None:
        self._cache = cache
        self._lists = _Lists(readers[place : place + 1])
        self._at = 0
        self._block: Sequence[Version] = ()
        self._near: dict[bytes, Version] = {}

    def close(self) -> None:
        """The stream is at its end."""
        self._lists.close()

    def match(self, count: int) -> list[Candidates]:
        """The candidates of the next chunks."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Candidates:
        n = self._at
        self._at += 1
        place = n % BLOCK
        if place == 0:
            self._block, self._near = self._lists.block(n), self._lists.near(n)
        versions = (self._block[place],) if place < len(self._block) else ()
        mark = self._cache.mark(b"place" + n.to_bytes(8, "little")) if self._cache.partial else 0
        return Candidates(versions, whole=True, near=self._near, mark=mark)


class RowMatcher:
    """Of rows: the chunk that begins and ends at the same rows, or those around it where a cut moved."""

    def __init__(self, cache: VersionCache, readers: Sequence[ListReader], place: int) -> None:
        self._cache = cache
        self._lists = _Lists(readers)
        self._at = self._lists.begins[min(place, len(readers))]
        self._missed = self._searches = 0
        self.aligned = True

    def anchors(self, chunk: "RowChunk") -> Anchors:
        """The marks of a chunk: of the keys at its ends, or where there are none, of the rows."""
        first, last = chunk.first, chunk.last
        if not first and not last:
            data = bytes(chunk.data)
            first, last = data[: data.find(b"\n") + 1 or None], data[data.rfind(b"\n", 0, len(data) - 1) + 1 :]
        return Anchors(self._cache.mark(first), self._cache.mark(last), chunk.rows, chunk.sums, chunk.flags)

    def close(self) -> None:
        """The stream is at its end."""
        self._lists.close()

    @property
    def empty(self) -> bool:
        """Whether nothing is known of the run before."""
        return not self._lists.chunks

    def expected(self, longest: int) -> Version | None:
        """The chunk that comes next if nothing changed, if it is one of whole rows and did not end with its stream."""
        if not 0 <= self._at < self._lists.chunks or self._at + 1 in self._lists.begins:
            return None
        version = self._lists.version(self._at)
        whole = version is not None and version.rows and not version.flags
        return version if version and whole and version.ref.plain_length <= longest else None

    def recognised(self, version: Version) -> tuple[Anchors, Candidates]:
        """The expected chunk has come."""
        n = self._at
        self._at += 1
        self._missed = 0
        first, last = self._lists.marks(n)
        anchors = Anchors(max(first, 0), max(last, 0), version.rows, version.sums)
        return anchors, Candidates((version,), whole=True, mark=anchors.first, known=version)

    def match(self, chunk: "RowChunk", anchors: Anchors) -> Candidates:
        """The candidates of the next chunk."""
        self.aligned = False
        if not self._lists.chunks:
            return Candidates(mark=anchors.first)
        begin, end = self._find(anchors)
        self.aligned = end is not None and (begin is None or begin <= end) and not chunk.flags
        if begin is None and end is None:
            return self._by_place(anchors)
        self._missed = 0
        whole = begin is not None and begin == end
        numbers = self._around(begin, end, len(chunk.data))
        self._at = (begin if end is None or (begin is not None and end < begin) else end) or 0
        self._at += 1
        versions = tuple(v for v in map(self._lists.version, numbers) if v is not None)
        return Candidates(versions, whole and len(versions) == 1, self._lists.near(numbers[0]), anchors.first)

    def _find(self, anchors: Anchors) -> tuple[int | None, int | None]:
        begin = end = None
        for n in self._places():
            first, last = self._lists.marks(n)
            if begin is None and first == anchors.first:
                begin = n
            if end is None and last == anchors.last:
                end = n
            if begin is not None and end is not None:
                break
        if begin is None and end is None and self._due():
            begin = self._lists.search(anchors.first)
            if begin is not None and self._lists.marks(begin)[1] == anchors.last:
                end = begin
        return begin, end

    def _places(self) -> Iterator[int]:
        yield from range(self._at, min(self._at + _AHEAD, self._lists.chunks))
        yield from range(self._at - 1, max(-1, self._at - 1 - _BACK), -1)

    def _due(self) -> bool:
        """Whether to look everywhere: soon after the place was lost, then rarely."""
        self._missed += 1
        if self._searches >= _SEARCHES or not (self._missed <= _SOON or self._missed % _LATER == 0):
            return False
        self._searches += 1
        return True

    def _around(self, begin: int | None, end: int | None, size: int) -> list[int]:
        if begin is not None and end is not None and begin <= end:
            return [begin] if begin == end else [begin, begin + 1]
        at = begin if begin is not None else end
        assert at is not None
        version = self._lists.version(at)
        if version is None or size <= version.ref.plain_length * _LONGER:
            return [at]
        return [at, at + 1] if begin is not None else [max(0, at - 1), at] if at else [at]

    def _by_place(self, anchors: Anchors) -> Candidates:
        n = self._at
        near = self._lists.near(n)
        if self._missed > _AHEAD:
            return Candidates(near=near, mark=anchors.first)
        versions = tuple(v for v in map(self._lists.version, (n, n + 1)) if v is not None)
        self._at = min(n + 1, self._lists.chunks)
        return Candidates(versions, whole=False, near=near, mark=anchors.first)
