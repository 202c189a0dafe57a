"""What a comparison is asked for, and what it finds: records of tables, and changes of their shape."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from backupd.errors import Failed
from backupd.jobs.spill import SealedFile
from backupd.jobs.tableshapes import SchemaChange
from backupd.records.difference import BUDGET, Difference
from backupd.records.shapes import Shape
from backupd.records.values import Op, Record, Value

Take = Callable[[str, Record], None]
"""Told of each record that differs, with the name of its table."""
Visible = Callable[[str, tuple[Value, ...]], bool]
"""Whether a row of a table may be told of at all."""
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
        visible: rows for which it says False are left out.
        folder: where rows may wait on disk, sealed.
    """

    folder: Path
    table: str | None = None
    take: Take | None = None
    visible: Visible | None = None

    @property
    def whole_tables(self) -> bool:
        """Whether the rows of a table that only one side has are read: all of them differ, and their number is known."""
        return self.table is not None or self.visible is not None

    def difference(self, name: str, shape: Shape, *, budget: int = BUDGET) -> Difference:
        """What collects the rows of a table."""
        visible = None if self.visible is None else partial(self.visible, name)
        return Difference(shape, lambda: SealedFile(self.folder), visible=visible, budget=budget)

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
