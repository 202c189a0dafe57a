"""Values that floors without knowledge of each other share: what the pages of a database file say of its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Bytes(Protocol):
    """A file's bytes, wherever they are."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read(self, offset: int, length: int) -> bytes:
        """Some of them; fewer at the end."""


@dataclass(frozen=True, slots=True)
class PagedColumn:
    """A column whose values stand in the pages.

    Attributes:
        real: whether whole numbers in it stand for REAL values.
        default: what a record written before the column was added has in it.
    """

    name: str
    type: str
    real: bool
    default: int | float | str | bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PagedTable:
    """A table in the pages of a database file.

    Attributes:
        root: the page at which its tree begins.
        columns: in the table's order.
        key: names of the declared key's columns.
        alias: the position of the column that is the rowid; None if there is none.
        storage: of each value of a record, the position of its column.
        rowid: False for a table WITHOUT ROWID, whose records are its tree's keys.
    """

    name: str
    root: int
    columns: tuple[PagedColumn, ...]
    key: tuple[str, ...]
    alias: int | None
    storage: tuple[int, ...]
    rowid: bool


@dataclass(frozen=True, slots=True)
class PagedSchema:
    """What a database file says of its tables.

    Attributes:
        encoding: of its texts, as Python calls it.
        tables: those that have pages of their own.
        virtual: names of tables that have none.
        others: the definitions of indexes, views and triggers, by kind and name.
    """

    encoding: str
    tables: tuple[PagedTable, ...]
    virtual: tuple[str, ...]
    others: Mapping[str, str]
