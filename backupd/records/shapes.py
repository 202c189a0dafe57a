"""What the rows of a table are, so that two versions of them can be compared, paired and shown."""

from collections.abc import Sequence
from typing import Protocol

from backupd.model import Cells
from backupd.records.rowtext import NULL, cell_of, fields_of
from backupd.records.values import Decode, Value


class Shape(Protocol):
    """How the rows of one table, as they are compared, are understood."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of a row's values."""

    @property
    def keyed(self) -> tuple[int, ...]:
        """The positions of the key; empty if there is none."""

    @property
    def exact(self) -> bool:
        """Whether rows that are not the same bytes never have the same values."""

    def key(self, row: bytes) -> bytes | None:
        """By what a row is found again on the other side: equal keys are equal bytes. None: by nothing but itself."""

    def values(self, row: bytes) -> tuple[Value, ...]:
        """The row's values."""

    def cells(self, row: bytes) -> Cells:
        """The row's cells, as the erasure ledger knows them."""


class TextShape:
    """Rows as text.

    Args:
        columns: their names, in the row's order.
        keyed: positions of the key.
        decoders: what each column's cells mean.
    """

    exact = True

    def __init__(self, columns: Sequence[str], keyed: Sequence[int], decoders: Sequence[Decode]) -> None:
        self.columns, self.keyed = tuple(columns), tuple(keyed)
        self._decoders = tuple(decoders)
        self._last = max(keyed, default=-1)
        self._first = self.keyed == (0,)

    def key(self, row: bytes) -> bytes | None:
        """The key's fields as they are written; None where one of them is NULL or missing."""
        if self._first:
            field = row.split(b"\t", 1)[0].removesuffix(b"\n")
            return None if field == NULL else field
        if not self.keyed:
            return None
        fields = row.removesuffix(b"\n").split(b"\t", self._last + 1)
        if len(fields) <= self._last:
            return None
        chosen = [fields[at] for at in self.keyed]
        return None if NULL in chosen else b"\t".join(chosen)

    def values(self, row: bytes) -> tuple[Value, ...]:
        """The row's cells as values; cells that are missing are NULL, and those too many are left out."""
        pairs = zip(self.cells(row), self._decoders, strict=False)
        return tuple(None if cell is None else decode(cell) for cell, decode in pairs)

    def cells(self, row: bytes) -> tuple[bytes | None, ...]:
        """The row's fields without their escapes."""
        if not self.columns:
            return ()
        fields = fields_of(row)
        fields += [NULL] * (len(self.columns) - len(fields))
        return tuple(map(cell_of, fields[: len(self.columns)]))


class Projection:
    """Brings rows of one layout to the columns that another one has as well, in the other's order.

    Args:
        positions: of the columns wanted, in the row as it is.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        self._positions = tuple(positions)
        self._last = max(positions, default=-1)

    def __call__(self, row: bytes) -> bytes:
        """The row with those fields only."""
        fields = fields_of(row)
        fields += [NULL] * (self._last + 1 - len(fields))
        return b"\t".join([fields[at] for at in self._positions]) + b"\n"
