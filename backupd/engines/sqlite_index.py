"""An index where a table has none: SQLite looks at the inner table of a join again for each outer row.

By columns that are neither key nor index that would be a scan each time; so the second such look makes an index of all rows.
It lies in memory and is bounded; without room for it each look is a scan. Nothing goes to a disk.
"""

from collections.abc import Iterator, Sequence
from itertools import count

import apsw

from backupd.model import Cells, Look, Queried

INDEX_BYTES = 160 * 1024 * 1024
"""Of all indexes of a statement together."""
_PAGE = 4096


class Index:
    """The rows of a table by the values of some columns.

    Args:
        keys: of how many columns.
        width: how many values a row has.
        pages: how much it may hold.
    """

    def __init__(self, keys: int, width: int, pages: int) -> None:
        self._link = apsw.Connection(":memory:")
        for pragma in ("temp_store=MEMORY", "journal_mode=OFF", f"max_page_count={pages}"):
            self._link.execute(f"PRAGMA {pragma}").fetchall()
        names = [f"k{n}" for n in range(keys)]
        kept = [f"c{n}" for n in range(width)]
        # The keys stand beside the row, which holds what it is given: a text that is a number is found as that number, for
        # what stands on the other side may have it compared so; SQLite looks at what is found once more.
        columns = ", ".join([*(f"{name} NUMERIC" for name in names), "n INTEGER", *kept])
        self._link.execute(
            f"CREATE TABLE i ({columns}, PRIMARY KEY ({', '.join([*names, 'n'])})) WITHOUT ROWID"
        ).fetchall()
        self._insert = f"INSERT INTO i VALUES ({', '.join('?' * (keys + 1 + width))})"  # noqa: S608
        self._found = f"SELECT {', '.join(kept)} FROM i WHERE {' AND '.join(f'{name} = ?' for name in names)}"  # noqa: S608
        self._cursor = self._link.cursor()

    def fill(self, rows: Iterator[Sequence[Cells]], places: Sequence[int]) -> bool:
        """Take all rows, of whose values those at `places` are their key; whether there was room for them."""
        numbers = count()
        try:
            self._link.execute("BEGIN").fetchall()  # never ended: nothing is to be kept
            for batch in rows:
                self._link.executemany(self._insert, self._made(batch, places, numbers))
        except (apsw.FullError, apsw.NoMemError, MemoryError):
            self.close()
            return False
        return True

    @staticmethod
    def _made(batch: Sequence[Cells], places: Sequence[int], numbers: Iterator[int]) -> Iterator[Cells]:
        for row in batch:
            key = [row[place] for place in places]
            if None not in key:  # which is equal to nothing
                yield (*key, next(numbers), *row)

    def rows(self, values: Sequence[object]) -> list[Cells]:
        """Those with a key."""
        return list(self._cursor.execute(self._found, tuple(values)))

    @property
    def pages(self) -> int:
        """How much it holds."""
        return int(str(self._link.pragma("page_count")))

    def close(self) -> None:
        """Let go of it."""
        self._link.close(True)


class Indexes:
    """The indexes that one statement has made."""

    def __init__(self) -> None:
        self._met: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
        self._made: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Index | None] = {}
        self._left = INDEX_BYTES // _PAGE

    def made(self, table: Queried, look: Look) -> Index | None:
        """The index that a look uses; None for a scan."""
        place = id(table), look.by, look.used
        if place not in self._met:
            self._met.add(place)
            return None
        if place not in self._made:
            self._made[place] = self._make(table, look)
        return self._made[place]

    def _make(self, table: Queried, look: Look) -> Index | None:
        """None if there is no room for it."""
        if self._left < 1:
            return None
        index = Index(len(look.by), len(look.used), self._left)
        if not index.fill(table.batches(Look(look.used)), [look.used.index(at) for at in look.by]):
            return None
        self._left -= index.pages
        return index

    def close(self) -> None:
        """Let go of all of them."""
        for index in self._made.values():
            if index is not None:
                index.close()
        self._made.clear()
