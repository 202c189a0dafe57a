"""The tables of a snapshot as something to look records up in: what find, query, recover and erase read snapshots through."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from backupd.model import Cell, Cells
from backupd.records.values import Value


class StoredTable(Protocol):
    """A table of a snapshot."""

    @property
    def name(self) -> str:
        """As the manifest lists it."""

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Names and types of its cells, in their order."""

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the key's columns; empty if there is none."""

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        """Rows whose columns `by` equal one of `values`, in any order; all rows if `by` is empty.

        A look-up by the key (or, in a database file, by an indexed column) reads the chunks that can hold it and no others.

        Raises:
            IntegrityError: an object that is needed is missing, damaged or forged.
        """

    def chosen(self, by: Sequence[str], fits: Callable[[Cells], bool]) -> Iterator[Cells]:
        """Rows by what stands in some columns. All rows are looked at."""

    def shown(self, row: Cells) -> tuple[Value, ...]:
        """A row's cells as values for people and programs."""

    def cell(self, column: str, text: str) -> Cell:
        """What somebody wrote for a column's value (on a command line), as the one cell that it would be.

        Raises:
            UsageError: no value of the column's type is written so.
        """


class StoredTables(Protocol):
    """The tables of one snapshot."""

    @property
    def engine(self) -> str:
        """ "sqlite", "postgresql" or "mariadb"."""

    @property
    def tables(self) -> Mapping[str, StoredTable]:
        """By name; those whose rows the snapshot has."""

    @property
    def fetched_bytes(self) -> int:
        """What was read from the storage so far."""


Hidden = Callable[[Cells], tuple[int, ...] | None]
"""The places of a row whose values nobody may be shown, because they tell of somebody who was erased; None if it is all of it."""


def shown_of(row: Cells, hidden: Hidden, by: Collection[int] = ()) -> Cells | None:
    """What may be shown of a row, that was looked for by the values at some places; None if nothing."""
    found = hidden(row)
    if not found:
        return None if found is None else row
    if not set(by).isdisjoint(found):  # nobody learns that it referred to them
        return None
    return tuple(None if at in found else cell for at, cell in enumerate(row))


class Erased(Protocol):
    """What the erasure ledger hides of one source."""

    def hidden(self, table: str, columns: Sequence[str], key: Sequence[str]) -> Hidden | None:
        """What tells of a table's rows, with these columns in this order, what is hidden; None if nothing is."""
