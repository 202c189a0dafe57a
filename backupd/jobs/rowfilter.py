"""Which rows of chunks have certain values in some columns: told from the text as it is stored, without cells being made.

Scans for what refers to a record spend their time here. However rows are searched, what comes out is what a look at every
row would give.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from backupd.model import Cells
from backupd.records.rowtext import field_of
from backupd.repo.codecs import split_rows

if TYPE_CHECKING:
    from backupd.repo.rowsearch import FieldSearch

FEW_VALUES = 2
"""That many are looked for in the text of a chunk before it is taken apart."""
FEW_PLACES = 16
"""If they stand at more places than that, most of them are other columns' values, and taking a chunk apart is faster."""
ARRAY_BYTES = 48 * 1024
"""So many at once fit into the processor's caches; fewer cost more for each call than for their bytes."""
FEW_BYTES = 16 * 1024 * 1024
"""After so many, the tenth of a second pays that it takes until arrays can be used."""


class RowFilter:
    """Finds rows by the values of some columns. Safe for several threads.

    Args:
        positions: of these columns in a row.
        columns: how many a row has.
        values: of these columns, in their order; a NULL equals nothing.
        few: bytes that are searched without arrays.
    """

    def __init__(
        self, positions: Sequence[int], columns: int, values: Collection[Cells], *, few: int = FEW_BYTES
    ) -> None:
        self._positions, self._columns, self._left = tuple(positions), columns, few
        self._last = max(positions)
        self._wanted = {
            tuple(field_of(cell) for cell in value if isinstance(cell, bytes))
            for value in values
            if all(isinstance(cell, bytes) for cell in value)
        }
        self.empty = not self._wanted
        several = [{fields[n] for fields in self._wanted} for n in range(len(positions))]
        told_by = max(range(len(positions)), key=lambda n: len(several[n]))
        self._at, self._texts = self._positions[told_by], several[told_by]
        self._either = self._texts | {text + b"\n" for text in self._texts}
        self._search: FieldSearch | None = None
        self._needles: list[bytes] = []
        if len(self._wanted) <= FEW_VALUES:
            self._needles = sorted({self._needle(fields) for fields in self._wanted})

    def _needle(self, fields: tuple[bytes, ...]) -> bytes:
        """The longest of the fields, with what stands before it in a row."""
        at = max(range(len(fields)), key=lambda n: len(fields[n]))
        return (b"\t" if self._positions[at] else b"\n") + fields[at]

    def __call__(self, chunks: Sequence[bytes]) -> list[bytes]:
        """The rows of chunks that have them, in their order."""
        if self.empty:
            return []
        if not self._needles:
            return self._taken_apart(chunks)
        found: list[bytes] = []
        for chunk in chunks:
            starts = self._searched(b"\n" + chunk)
            if starts is None:
                found += self._taken_apart([chunk])
            else:
                starts.discard(len(chunk))  # behind its last newline there is no row
                found += self._fitting(chunk[at : chunk.find(b"\n", at) + 1 or len(chunk)] for at in sorted(starts))
        return found

    def _taken_apart(self, chunks: Sequence[bytes]) -> list[bytes]:
        if self._left > 0:
            self._left -= sum(map(len, chunks))
            return self._cut(chunks)
        found: list[bytes] = []
        for some in _grouped(chunks):
            rows = self._arrays().rows(some)
            found += self._cut(some) if rows is None else self._fitting(rows)
        return found

    def _cut(self, chunks: Sequence[bytes]) -> list[bytes]:
        return [row for chunk in chunks for row in self._one_by_one(split_rows(chunk))]

    def _arrays(self) -> "FieldSearch":
        if self._search is None:
            from backupd.repo.rowsearch import FieldSearch

            self._search = FieldSearch(self._at, self._columns, self._texts)
        return self._search

    def _fitting(self, rows: Iterable[bytes]) -> list[bytes]:
        return [row for row in rows if self._fits(row)]

    def _fits(self, row: bytes) -> bool:
        fields = row.removesuffix(b"\n").split(b"\t", self._last + 1)
        return len(fields) > self._last and tuple([fields[at] for at in self._positions]) in self._wanted

    def _one_by_one(self, rows: list[bytes]) -> list[bytes]:
        at, texts = self._at, self._either
        try:
            found = [row for row in rows if row.split(b"\t", at + 1)[at] in texts]
        except IndexError:  # a row ends before
            found = rows
        return self._fitting(found)

    def _searched(self, lines: bytes) -> set[int] | None:
        """Where the rows begin in which a needle stands; None if there are too many places."""
        starts: set[int] = set()
        for needle in self._needles:
            at = lines.find(needle)
            while at >= 0:
                start = at if needle[:1] == b"\n" else lines.rfind(b"\n", 0, at)
                starts.add(start)
                if len(starts) > FEW_PLACES:
                    return None
                end = lines.find(b"\n", start + 1)
                at = lines.find(needle, end) if end >= 0 else -1
        return starts


def _grouped(chunks: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Small chunks together."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= ARRAY_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held
