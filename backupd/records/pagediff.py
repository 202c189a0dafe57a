"""Two versions of an SQLite file compared: reads the pages that changed, the inner pages of trees, and nothing else.

A page that is the same in both versions, and belongs to the same table in both, holds the same rows. All other pages of
tables are taken apart, and their rows cancel out or not. One thing can hide: the rest of a long record may be rewritten in
place while the page that the record begins in stays. So every page that changed must be accounted for, as part of a tree,
of a record that was read, or of the free list; if one is not, all long records are looked at.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from backupd.model import PagedTable
from backupd.records.btree import (
    LARGEST,
    Cell,
    Damaged,
    Pages,
    TooLarge,
    cells,
    chain,
    free_pages,
    is_tree_page,
    map_pages,
    tree,
)
from backupd.records.difference import Difference
from backupd.records.sqliterecords import RecordShape

GROUP = 65_536
_LOCK_BYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class Side:
    """A table in one version, and what makes rows of its records."""

    table: PagedTable
    shape: RecordShape


@dataclass(slots=True)
class Compared:
    """A table under comparison.

    Attributes:
        skips: whether equal pages hold equal rows; not so where the columns of a record mean other things now.
        fault: why it cannot be compared after all.
    """

    name: str
    old: Side | None
    new: Side | None
    difference: Difference = field(repr=False)
    skips: bool = True
    fault: str | None = None


class PageDiff:
    """The comparison of two versions.

    Args:
        old, new: the versions, in groups of 64 KiB.
        same: of each group that both have, whether it is known to be the same.
        tables: what is compared; told of each row in `Compared.difference`.
    """

    def __init__(self, old: Pages, new: Pages, same: Sequence[int], tables: Sequence[Compared]) -> None:
        self._old, self._new, self._same, self._tables = old, new, same, tables
        self._aligned = old.page_size == new.page_size
        self._owners = array("I", bytes(4 * (old.count + 1))), array("I", bytes(4 * (new.count + 1)))
        self._orphans: set[int] = set()
        self._strangers: set[int] = set()
        self._taken = bytearray(old.count // 8 + 1), bytearray(new.count // 8 + 1)

    def run(self, advance: Callable[[int], None]) -> None:
        """Read what has to be read; `advance` is told of the bytes of groups that were looked at."""
        for number, compared in enumerate(self._tables, 1):
            for side, pages, owners in zip(
                (compared.old, compared.new), (self._old, self._new), self._owners, strict=True
            ):
                if side is not None:
                    self._own(compared, number, side, pages, owners)
        if not self._aligned:
            self._everything()
            return
        for group in range(max(self._groups(self._old), self._groups(self._new))):
            self._group(group)
            advance(GROUP)
        self._account()
        if self._orphans:
            self._long_records()

    def _groups(self, pages: Pages) -> int:
        return -(-pages.count * pages.page_size // GROUP)

    def _own(self, compared: Compared, number: int, side: Side, pages: Pages, owners: "array[int]") -> None:
        try:
            for page in tree(pages, side.table.root):
                if owners[page]:
                    raise Damaged("a page belongs to two tables")
                owners[page] = number
        except (Damaged, IndexError) as error:
            compared.fault = str(error) if isinstance(error, Damaged) else "a tree names a page that is not there"

    def _everything(self) -> None:
        """Pages of another size have nothing in common: all rows of both are counted."""
        for side, owners, times in zip((self._old, self._new), self._owners, (-1, 1), strict=True):
            for page, owner in enumerate(owners):
                self._rows(side, self._cells(side, page, owner), owner, times)

    def _numbers(self, group: int) -> range:
        per = GROUP // self._old.page_size
        return range(group * per + 1, group * per + per + 1)

    def _group(self, group: int) -> None:
        numbers = self._numbers(group)
        same = group < len(self._same) and bool(self._same[group])
        was, now = (owners[numbers.start : numbers.stop] for owners in self._owners)
        if same and was == now and all(self._tables[owner - 1].skips for owner in set(was) if owner):
            return
        for page in numbers:
            self._page(page, same)

    def _page(self, page: int, same: bool) -> None:
        was, now = (owners[page] if page < len(owners) else 0 for owners in self._owners)
        same = same or self._equal(page)
        if not same and page <= self._new.count and not now:
            if page == 1 or is_tree_page(self._new.page(page), self._new.count):
                self._strangers.add(page)
            else:
                self._orphans.add(page)
        if was == now and same and (not was or self._tables[was - 1].skips):
            return
        before = self._cells(self._old, page, was)
        after = self._cells(self._new, page, now)
        if was == now and was and self._tables[was - 1].skips:
            before, after = _apart(before, after)
        self._rows(self._old, before, was, -1)
        self._rows(self._new, after, now, 1)

    def _equal(self, page: int) -> bool:
        if page > min(self._old.count, self._new.count):
            return False
        return self._old.page(page) == self._new.page(page)

    def _cells(self, pages: Pages, page: int, owner: int) -> list[Cell]:
        """The records that begin in a page; none if it belongs to no table, or to one that cannot be compared."""
        if not owner or self._tables[owner - 1].fault is not None:
            return []
        try:
            return list(cells(pages, page))
        except Damaged as error:
            self._tables[owner - 1].fault = error.message
            return []

    def _rows(self, pages: Pages, found: Sequence[Cell], owner: int, times: int) -> None:
        """Count the rows of some records."""
        if not found:
            return
        compared = self._tables[owner - 1]
        side = compared.old if times < 0 else compared.new
        if compared.fault is not None or side is None:
            return
        try:
            rows = [side.shape.row(cell.rowid, self._record(pages, cell, times > 0)) for cell in found]
        except (Damaged, TooLarge) as error:
            compared.fault = error.message
            return
        compared.difference.add(rows, times)

    def _record(self, pages: Pages, cell: Cell, new: bool) -> bytes:
        return (
            b"".join([cell.local, *(part for _, part in self._rest(pages, cell, new))]) if cell.overflow else cell.local
        )

    def _rest(self, pages: Pages, cell: Cell, new: bool) -> Iterator[tuple[int, bytes]]:
        """The pages that the rest of a record is in. Each is part of one record, so what is read is never more than the file."""
        if cell.size > LARGEST:
            raise TooLarge(f"a record has more than {LARGEST // 1024**2} MiB, too many to be compared")
        taken = self._taken[new]
        for number, part in chain(pages, cell):
            if taken[number >> 3] & 1 << (number & 7):
                raise Damaged("a page belongs to two records")
            taken[number >> 3] |= 1 << (number & 7)
            yield number, part

    def _account(self) -> None:
        """Find out what the pages are that changed and belong to no table."""
        taken = self._taken[True]
        self._orphans = {page for page in self._orphans if not taken[page >> 3] & 1 << (page & 7)}
        if not self._orphans:
            return
        new = self._new
        free: set[int] = set()
        try:
            free.update(free_pages(new))
            self._orphans -= free
            self._orphans.difference_update(map_pages(new))
            self._orphans.discard(_LOCK_BYTE // new.page_size + 1)
        except Damaged:
            return
        for page in sorted(self._strangers - free) if self._orphans else ():
            # indexes, and tables that nobody asked for
            try:
                for cell in cells(new, page):
                    if cell.overflow:
                        self._orphans.difference_update(number for number, _ in self._rest(new, cell, True))
            except (Damaged, TooLarge):
                continue

    def _long_records(self) -> None:
        """Records whose first page did not change, and whose other pages may have."""
        for page, owner in enumerate(self._owners[1]):
            unread = owner and page <= self._old.count and self._owners[0][page] == owner
            if not unread or not self._tables[owner - 1].skips or not self._equal(page):
                continue
            compared = self._tables[owner - 1]
            try:
                for cell in cells(self._new, page):
                    if cell.overflow:
                        self._long_record(compared, cell)
            except (Damaged, TooLarge) as error:
                compared.fault = error.message

    def _long_record(self, compared: Compared, cell: Cell) -> None:
        assert compared.old is not None
        assert compared.new is not None
        rest = list(self._rest(self._new, cell, True))
        if self._orphans.isdisjoint(number for number, _ in rest):
            return
        now = b"".join([cell.local, *(part for _, part in rest)])
        was = self._record(self._old, cell, False)
        compared.difference.add([compared.old.shape.row(cell.rowid, was)], -1)
        compared.difference.add([compared.new.shape.row(cell.rowid, now)], 1)


def _apart(before: list[Cell], after: list[Cell]) -> tuple[list[Cell], list[Cell]]:
    """What two versions of a page have not in common: equal records cancel out before they are rows, if all of them lie in it."""
    was, now = ({(cell.rowid, cell.local): cell for cell in found if not cell.overflow} for found in (before, after))
    long = [[cell for cell in found if cell.overflow] for found in (before, after)]
    if len(was) + len(long[0]) < len(before) or len(now) + len(long[1]) < len(after):
        return before, after  # one stands there twice, as in no sound page
    return (
        [*(cell for place, cell in was.items() if place not in now), *long[0]],
        [*(cell for place, cell in now.items() if place not in was), *long[1]],
    )
