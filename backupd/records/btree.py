"""The trees of an SQLite database file, read page by page: which pages a table has, and the cells in them.

The layout is that of SQLite's file format, version 3 ("Database File Format" in its documentation, sections 1.5 and 1.6).
The pages may be anybody's: every number is checked before it is used, a page is visited once, and a chain of pages is
no longer than what it holds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from backupd.errors import IntegrityError

_INDEX_INTERIOR, _TABLE_INTERIOR, _INDEX_LEAF, _TABLE_LEAF = 2, 5, 10, 13
_INTERIOR = frozenset({_INDEX_INTERIOR, _TABLE_INTERIOR})
_KINDS = frozenset({_INDEX_INTERIOR, _TABLE_INTERIOR, _INDEX_LEAF, _TABLE_LEAF})
_DEEPEST = 40
LARGEST = 64 * 1024 * 1024
"""Bytes of a record that are held in memory."""


class Damaged(IntegrityError):
    """Pages are not what a sound database has there."""


class TooLarge(IntegrityError):
    """A record is too large to be compared."""


class Pages(Protocol):
    """The pages of one version of a file, numbered from 1."""

    @property
    def page_size(self) -> int:
        """Bytes of a page."""

    @property
    def usable(self) -> int:
        """Bytes of it that SQLite uses."""

    @property
    def count(self) -> int:
        """How many there are."""

    def page(self, number: int) -> bytes:
        """A page."""

    def expect(self, numbers: Iterable[int]) -> None:
        """Pages that will be read soon."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that holds a record: `rowid` is None in trees of records."""

    rowid: int | None
    size: int
    local: bytes = field(repr=False)
    overflow: int


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for n in range(8):
        byte = data[at + n]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + n + 1
    return value << 8 | data[at + 8], at + 9


def is_tree_page(page: bytes, count: int) -> bool:
    """Whether a page whose place in the file is not known is one of a tree, and no part of a long record.

    Those begin with the number of the next page, so in files of less than 2^25 pages the first byte tells them apart.
    """
    return count < 1 << 25 and page[0] in _KINDS


def tree(pages: Pages, root: int) -> Iterator[int]:
    """The numbers of a tree's pages, level by level. The pages of its lowest level are not read.

    Raises:
        Damaged: the tree is not sound.
    """
    depth, at = 0, root
    while (head := _Head(pages, at)).kind in _INTERIOR:
        depth, at = depth + 1, head.child(0)
        if depth > _DEEPEST:
            raise Damaged("a tree has no end")
    visited = bytearray(pages.count // 8 + 1)
    level = [root]
    for left in range(depth, -1, -1):
        for number in level:
            if visited[number >> 3] & 1 << (number & 7):
                raise Damaged("a page stands twice in a tree")
            visited[number >> 3] |= 1 << (number & 7)
        yield from level
        if left:
            pages.expect(level)
            level = [child for number in level for child in _children(pages, number)]


def _children(pages: Pages, number: int) -> list[int]:
    head = _Head(pages, number)
    if head.kind not in _INTERIOR:
        raise Damaged("a tree is deeper in some places than in others")
    return [head.child(n) for n in range(head.cells + 1)]


class _Head:
    """A page of a tree."""

    def __init__(self, pages: Pages, number: int) -> None:
        self.page = pages.page(number)
        self._count = pages.count
        self._at = 100 if number == 1 else 0
        self.kind = self.page[self._at]
        if self.kind not in _KINDS:
            raise Damaged("a page of a tree is none")
        self.cells = int.from_bytes(self.page[self._at + 3 : self._at + 5], "big")
        self._array = self._at + (12 if self.kind in _INTERIOR else 8)
        if self._array + 2 * self.cells > len(self.page):
            raise Damaged("a page counts more cells than it holds")

    def cell(self, n: int) -> int:
        """Where a cell begins."""
        at = int.from_bytes(self.page[self._array + 2 * n : self._array + 2 * n + 2], "big")
        if at >= len(self.page) - 3:
            raise Damaged("a cell begins outside of its page")
        return at

    def child(self, n: int) -> int:
        """The page before a cell, or behind the last one."""
        at = self.cell(n) if n < self.cells else self._at + 8
        number = int.from_bytes(self.page[at : at + 4], "big")
        if not 2 <= number <= self._count:
            raise Damaged("a tree names a page that is not there")
        return number


def cells(pages: Pages, number: int) -> Iterator[Cell]:
    """The records that begin in a page of a tree; inner pages of a table with rowids have none.

    Raises:
        Damaged: the page is not sound.
    """
    head = _Head(pages, number)
    if head.kind == _TABLE_INTERIOR:
        return
    usable = pages.usable
    most = usable - 35 if head.kind == _TABLE_LEAF else (usable - 12) * 64 // 255 - 23
    try:
        for n in range(head.cells):
            at = head.cell(n) + (4 if head.kind == _INDEX_INTERIOR else 0)
            size, at = varint(head.page, at)
            rowid = None
            if head.kind == _TABLE_LEAF:
                rowid, at = varint(head.page, at)
                rowid -= (rowid >> 63) << 64
            local = size if size <= most else _local(size, most, usable)
            overflow = 0 if local == size else int.from_bytes(head.page[at + local : at + local + 4], "big")
            if at + local + (4 if overflow else 0) > len(head.page):
                raise Damaged("a record ends outside of its page")
            yield Cell(rowid, size, head.page[at : at + local], overflow)
    except IndexError:
        raise Damaged("a cell ends outside of its page") from None


def _local(size: int, most: int, usable: int) -> int:
    """How many bytes of a long record stand in its cell."""
    least = (usable - 12) * 32 // 255 - 23
    fitting = least + (size - least) % (usable - 4)
    return fitting if fitting <= most else least


def chain(pages: Pages, cell: Cell) -> Iterator[tuple[int, bytes]]:
    """The pages that the rest of a long record is in, and their parts of it.

    Raises:
        Damaged: the chain is broken.
    """
    left, number = cell.size - len(cell.local), cell.overflow
    while left > 0:
        if not 2 <= number <= pages.count:
            raise Damaged("a record goes on in a page that is not there")
        page = pages.page(number)
        part = page[4 : min(4 + left, pages.usable)]
        if not part:
            raise Damaged("a record goes on in an empty page")
        yield number, part
        left -= len(part)
        number = int.from_bytes(page[:4], "big")


def free_pages(pages: Pages) -> Iterator[int]:
    """The pages that hold nothing, as the list of them says.

    Raises:
        Damaged: the list is not sound.
    """
    trunk, seen = int.from_bytes(pages.page(1)[32:36], "big"), 0
    while trunk:
        if not 2 <= trunk <= pages.count or seen > pages.count:
            raise Damaged("the list of free pages is broken")
        page = pages.page(trunk)
        yield trunk
        count = min(int.from_bytes(page[4:8], "big"), (pages.usable - 8) // 4)
        seen += count + 1
        for at in range(8, 8 + 4 * count, 4):
            yield int.from_bytes(page[at : at + 4], "big")
        trunk = int.from_bytes(page[:4], "big")


def map_pages(pages: Pages) -> Iterator[int]:
    """The pages that say of others where they belong, in a file with auto_vacuum."""
    if not int.from_bytes(pages.page(1)[52:56], "big"):
        return
    yield from range(2, pages.count + 1, pages.usable // 5 + 1)
