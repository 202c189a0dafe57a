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


Hidden = Callable[[Cells], bool]
"""Whether a row belongs to somebody who was erased, so that nobody may be shown it."""


class Erased(Protocol):
    """What the erasure ledger hides of one source."""

    def hidden(self, table: str, columns: Sequence[str], key: Sequence[str]) -> Hidden | None:
        """What tells of a table's rows, with these columns in this order, which are hidden; None if none are."""
