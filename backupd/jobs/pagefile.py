"""A version of a database file, stored or live: its pages are fetched in the groups in which they are stored, when somebody asks.

Must never write a page anywhere.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import eq
from typing import Protocol

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.records.pagediff import GROUP
from backupd.repo.chunklist import ChunkList, Nodes
from backupd.repo.reading import ChunkReader

GROUPS_KEPT = 512
_SOME = re.compile(rb"[^\0]", re.DOTALL)
_COUNTERS = (slice(24, 40), slice(92, 100))
"""Of the first page: how often the file was written and by which version of SQLite, how long it is, and what of it is free."""


class Groups:
    """What was read of files: the groups that were read last, by their names, and nodes of lists; versions share them.

    Args:
        most: how many groups are kept.
    """

    def __init__(self, most: int = GROUPS_KEPT) -> None:
        self.nodes = Nodes()
        self._most = most
        self._read: OrderedDict[bytes, bytes] = OrderedDict()

    def __contains__(self, name: bytes) -> bool:
        return name in self._read

    def get(self, name: bytes, read: Callable[[], bytes]) -> bytes:
        """A group, read if it is not here."""
        found = self._read.get(name)
        if found is None:
            found = self._read[name] = read()
            if len(self._read) > self._most:
                self._read.popitem(last=False)
        else:
            self._read.move_to_end(name)
        return found


class Names(Protocol):
    """The names of a file's groups, in order: groups of one name hold the same."""

    def __len__(self) -> int: ...

    def __getitem__(self, group: int, /) -> bytes: ...

    def __iter__(self) -> Iterator[bytes]: ...


class _Stored:
    """The names of groups that are stored: the ids of their chunks."""

    def __init__(self, refs: ChunkList) -> None:
        self.refs = refs

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, group: int) -> bytes:
        return self.refs[group].id

    def __iter__(self) -> Iterator[bytes]:
        return (ref.id for ref in self.refs)


class PageFile:
    """A database file in groups of 64 KiB.

    Args:
        names: of the groups.
        size: bytes of the file.
        read: reads the group of a number.
        kept: what was read already.
        ahead: told of groups that will be read soon.

    Raises:
        IntegrityError: it does not begin as a database does.
    """

    def __init__(
        self,
        names: Names,
        size: int,
        read: Callable[[int], bytes],
        kept: Groups,
        ahead: Callable[[Sequence[int]], None] = lambda _: None,
    ) -> None:
        self._names, self.size, self._read, self._kept, self._ahead = names, size, read, kept, ahead
        self.page_size = self.usable = 4096
        self._asked, self._beyond = bytearray(1), False
        if size:
            head = self.read(0, 100)
            self.page_size = int.from_bytes(head[16:18], "big")
            self.page_size = 65_536 if self.page_size == 1 else self.page_size
            if len(head) < 100 or self.page_size not in {1 << n for n in range(9, 17)} or head[20] > 32:
                raise IntegrityError("the pages are not those of an SQLite database")
            self.usable = self.page_size - head[20]
        self.count = size // self.page_size
        self._asked = bytearray(self.count // 8 + 1)

    def _group(self, group: int) -> bytes:
        return self._kept.get(self._names[group], lambda: self._read(group))

    def read(self, offset: int, length: int) -> bytes:
        """Some bytes; fewer at the end. It is remembered which pages were read so."""
        parts = []
        end = min(offset + length, self.size)
        self._beyond = self._beyond or end < offset + length
        for page in range(offset // self.page_size, -(-end // self.page_size)):
            if page >> 3 < len(self._asked):
                self._asked[page >> 3] |= 1 << (page & 7)
        while offset < end:
            group, at = divmod(offset, GROUP)
            part = self._group(group)[at : at + end - offset]
            if not part:
                raise IntegrityError("the pages are cut")
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def page(self, number: int) -> bytes:
        """A page."""
        group, at = divmod((number - 1) * self.page_size, GROUP)
        return self._group(group)[at : at + self.page_size]

    def expect(self, numbers: Iterable[int]) -> None:
        """Pages that will be read soon."""
        groups = sorted({(number - 1) * self.page_size // GROUP for number in numbers})
        self._ahead([g for g in groups if g < len(self._names) and self._names[g] not in self._kept])

    def reads_as(self, earlier: "PageFile") -> bool:
        """Whether all that was read of an earlier version, by `read`, is the same here.

        SQLite goes from page to page by what stands there and by nothing else but the number of pages. So whoever asks this
        version what the earlier one was asked reads those same pages, and has the same answer; they count as read here, too.
        """
        head = self.page(1)[:100] if self.count else b""
        sound = head[28:32] == self.count.to_bytes(4, "big") and head[24:28] == head[92:96]
        if not sound or earlier._beyond or (self.page_size, self.usable) != (earlier.page_size, earlier.usable):
            return False
        for page in earlier._pages_read():
            if page > self.count or not self._is_page_of(earlier, page):
                return False
            self._asked[(page - 1) >> 3] |= 1 << ((page - 1) & 7)
        return True

    def _pages_read(self) -> Iterator[int]:
        """The numbers of pages that were read."""
        for found in _SOME.finditer(self._asked):
            at, (byte,) = found.start(), found[0]
            yield from (8 * at + bit + 1 for bit in range(8) if byte >> bit & 1)

    def _is_page_of(self, other: "PageFile", number: int) -> bool:
        """Whether a page is the same; of the first one, that which decides how others are read."""
        group = (number - 1) * self.page_size // GROUP
        if self._names[group] == other._names[group]:
            return True
        pages = [self.page(number), other.page(number)]
        return pages[0] == pages[1] or (number == 1 and _without_counters(pages[0]) == _without_counters(pages[1]))

    def same(self, other: "PageFile") -> bytearray:
        """Of each group that both versions have, whether it is the same: 1 or 0. No group is read for it."""
        mine, theirs = self._names, other._names
        if isinstance(mine, _Stored) and isinstance(theirs, _Stored):
            return mine.refs.same(theirs.refs)
        return bytearray(map(eq, mine, theirs))


def _without_counters(page: bytes) -> bytes:
    kept = bytearray(page)
    for part in _COUNTERS:
        kept[part] = bytes(part.stop - part.start)
    return bytes(kept)


def stored_file(refs: ChunkList, size: int, reader: ChunkReader, kept: Groups) -> PageFile:
    """The file of a snapshot, whose chunks are groups."""

    def ahead(groups: Sequence[int]) -> None:
        reader.expect([refs[group] for group in groups])

    return PageFile(_Stored(refs), size, lambda group: reader.read(refs[group], Kind.PAGES), kept, ahead)
