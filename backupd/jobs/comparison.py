"""What a comparison is asked for, and what it finds: records of tables, and changes of their shape."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from backupd.errors import Failed
from backupd.jobs.erasure import Erasures
from backupd.jobs.spill import SealedFile
from backupd.jobs.stored import Hidden
from backupd.jobs.tableshapes import SchemaChange
from backupd.records.difference import BUDGET, Difference
from backupd.records.shapes import Shape
from backupd.records.values import Op, Record

Take = Callable[[str, Record], None]
"""Told of each record that differs, with the name of its table."""
LONGEST_ROW = 64 * 1024 * 1024


class TooLong(Failed):
    """A row is too long to be held in memory twice."""

    def __init__(self, table: str) -> None:
        limit = LONGEST_ROW // 1024**2
        super().__init__(f"a row of {table} has more than {limit} MiB, too many to be compared", object_name=table)


@dataclass(slots=True)
class TableDiff:
    """What became of a table's records; `reason` says why it could not be compared, and then the numbers say nothing."""

    name: str
    added: int = 0
    removed: int = 0
    changed: int = 0
    reason: str | None = None


@dataclass(slots=True)
class Comparison:
    """What a comparison found, table by table, and what it cost."""

    tables: list[TableDiff] = field(default_factory=list)
    schema_changes: list[SchemaChange] = field(default_factory=list)
    fetched_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a comparison was asked for.

    Attributes:
        table: only this one.
        take: told of each record; None if only their numbers are wanted.
        erased: what nobody may be told of.
        folder: where rows may wait on disk, sealed.
    """

    folder: Path
    table: str | None = None
    take: Take | None = None
    erased: Erasures | None = None

    def whole(self, name: str, shape: Shape) -> bool:
        """Whether the rows of a table that only one side has are read: all of them differ, and their number is known."""
        return self.table is not None or self._hidden(name, shape) is not None

    def unclear(self, name: str, shape: Shape) -> str | None:
        """Why a table of which only some columns are compared cannot be told of: those may be needed that know the erased."""
        if self.erased is None or not self.erased.blind(name, shape.columns):
            return None
        return "its columns have changed, and it holds rows of somebody who was erased"

    def difference(self, name: str, shape: Shape, *, budget: int = BUDGET) -> Difference:
        """What collects the rows of a table."""
        hidden = self._hidden(name, shape)
        return Difference(shape, lambda: SealedFile(self.folder), hidden=hidden, budget=budget)

    def _hidden(self, name: str, shape: Shape) -> Hidden | None:
        key = [shape.columns[at] for at in shape.keyed]
        return None if self.erased is None else self.erased.hidden(name, shape.columns, key)

    def count(self, name: str, difference: Difference) -> TableDiff:
        """Hand the records that differ on, and count them."""
        counts: Counter[Op] = Counter()
        if self.take is None:
            counts = difference.counts()
        else:
            for record in difference.records():
                counts[record.op] += 1
                self.take(name, record)
        return TableDiff(name, counts["added"], counts["removed"], counts["changed"])
