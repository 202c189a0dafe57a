"""A live database whose records are read and changed one by one: what each engine promises to those who recover and erase.

Cells are those of snapshots of the same engine (`model.Cell`), so equal values are equal cells. What a change does is
written as a statement first, and that very text is what is shown, kept in scripts, and executed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from backupd.model import Cells, Change, LiveSchema, Reference, Spelling


class Live(Protocol):
    """An open connection to a live database. Not safe for several threads."""

    @property
    def engine(self) -> str:
        """ "sqlite", "postgresql" or "mariadb"."""

    @property
    def identity(self) -> str:
        """What tells this database from others, without a password: for people, and for undo files."""

    def schema(self) -> LiveSchema:
        """Its tables and what refers to what, as they are now.

        Raises:
            Unreachable, SourceIncomplete: it cannot be read.
        """

    def rows(
        self, table: str, columns: Sequence[str], by: Sequence[str] = (), values: Collection[Cells] = ()
    ) -> Iterator[Cells]:
        """Rows whose columns `by` equal one of `values` as the database compares them; all rows if `by` is empty.

        Its equality decides about keys and references, and may be wider than that of cells: text without case, 1.0 and 1.00.

        Args:
            table: by its name in manifests.
            columns: the cells wanted, in this order.
            by: columns that are compared; a NULL equals nothing.
            values: of those columns; any number of them, asked for in batches.
        """

    def alike(self, table: str, columns: Sequence[str], values: Collection[Cells]) -> Mapping[Cells, int]:
        """For each value of some columns a number: equal ones for values that these columns take for one."""

    def spellings(self, reference: Reference) -> Sequence[Spelling]:
        """How each column of a reference spells its parent's values, where the types differ; empty where that is not known."""

    def as_parents(self, reference: Reference, values: Collection[Cells]) -> Mapping[Cells, Cells | None]:
        """Values of a reference's columns as its parent's columns spell them; None for those that equal nothing there."""

    def computed(
        self, table: str, columns: Sequence[str], by: Sequence[str], values: Collection[Cells]
    ) -> Mapping[Cells, Cells]:
        """What generated columns are for values of the columns that they are made of; asked only where `made_of` says so."""

    def transaction(self, *, triggers: bool, deletes: bool = False) -> AbstractContextManager[None]:
        """Everything inside happens, or nothing; foreign keys are checked at its end where the engine can do that.

        What is read inside is locked against writers, or a conflict with them is an error, until the end.

        Args:
            triggers: whether triggers run.
            deletes: whether rows go: nobody else may refer to what is read inside, either.

        Raises:
            SafetyRefused: triggers cannot be kept from running here.
            TryAgain: somebody else holds what is needed.
        """

    def statement(self, change: Change) -> str:
        """A change as one statement, without its semicolon. An update or a delete names all of `old` in its condition."""

    def preamble(self, *, triggers: bool) -> list[str]:
        """What must come before statements, inside the transaction, where another client executes them."""

    def statements(self, changes: Sequence[Change]) -> Iterator[tuple[str, Sequence[Change]]]:
        """What `apply` executes, in its order, and which changes each statement is of."""

    def require_changeable(self, changes: Sequence[Change], *, triggers: bool) -> None:
        """See that changes may be carried out here at all; `apply` does that by itself, whoever executes `statements` must.

        Raises:
            SafetyRefused: a table cannot be rolled back, or a trigger would run that is not to.
        """

    def unchecked(self, changes: Sequence[Change], *, triggers: bool) -> Mapping[str, str]:
        """Of foreign keys that `statements` leaves unchecked, by the names of `orphans`, queries for rows that break them."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Carry changes out, in this order or as few statements as the engine needs for rows that refer to each other.

        Raises:
            SafetyRefused: a row is not what `old` says any more, or an insert meets a row that is there.
            Failed: the database refused; the message names the table and no value.
        """

    def raise_counters(self, tables: Collection[str]) -> list[str]:
        """See that no table's next number is one that its rows have; counters are never lowered. Returns what was raised."""

    def orphans(self, tables: Collection[str]) -> list[str]:
        """Foreign keys of these tables, or to them, that rows break: re-checked where the engine did not check them."""

    def close(self) -> None:
        """End the connection."""
