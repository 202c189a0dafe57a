"""Values that floors without knowledge of each other share: of rows, of tables, and of the pages of a database file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

Cell = None | int | float | str | bytes
"""A value of a row, exactly: what an SQLite file holds, or of a server the text that it writes for the value, as bytes."""
Cells = tuple[Cell, ...]
Answer = None | bool | int | float | str | datetime
"""What a database answers to one question, as a plain value; a time has a zone if its type has one."""


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
        affinity: what SQLite makes of values for it and compares it as: INTEGER, TEXT, REAL, NUMERIC, or BLOB for nothing.
        default: what a record written before the column was added has in it.
    """

    name: str
    type: str
    affinity: str
    default: int | float | str | bytes | None = field(default=None, repr=False)

    @property
    def real(self) -> bool:
        """Whether whole numbers in it stand for REAL values."""
        return self.affinity == "REAL"


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


Kind = Literal["cells", "numbers", "padded", "nocase", "letters", "asked"]


@dataclass(frozen=True, slots=True)
class Equality:
    """How a database decides whether two values of a column are one, where keys and references are looked up.

    Attributes:
        kind: `cells` the same cells only; `numbers` 1.0 is 1.00; `padded` spaces at the end count for nothing; `nocase` nor
            does the case of A to Z; `letters` nor that, and of what is not plain ASCII only the database knows; `asked` only
            the database knows at all.
        affinity: what SQLite makes of a value before: "text", "number" or nothing.
        rule: of what only the database knows, by which of its rules (a collation or a type).
        proven: whether the database said so; otherwise it may be stricter.
    """

    kind: Kind = "cells"
    affinity: Literal["", "text", "number"] = ""
    rule: str = ""
    proven: bool = True


CELLS = Equality()

OnDelete = Literal["cascade", "set null", "set default", "restrict"]
"""What becomes of a row whose parent is deleted; "no action" counts as restrict."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key, or what a policy says is one: rows of `table` belong to rows of `parent`.

    Attributes:
        name: of the constraint; of what only a policy says, a name made from its table and columns.
        table, columns: the referring side.
        parent, parent_columns: the side referred to, in the same order.
        on_delete: what the database does, or for what a policy says, would be done.
        deferrable: whether it can be checked at the end of the transaction.
        declared: whether the database itself knows and checks it.
        cleared: the columns that SET NULL or SET DEFAULT is about, where it is not all of them.
        moving: whether the columns change with those that they refer to (ON UPDATE CASCADE).
    """

    name: str
    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: OnDelete = "restrict"
    deferrable: bool = False
    declared: bool = True
    cleared: tuple[str, ...] = ()
    moving: bool = False

    @property
    def losing(self) -> tuple[str, ...]:
        """The columns that lose their values when the parent is deleted."""
        if self.on_delete not in ("set null", "set default"):
            return ()
        return self.cleared or self.columns


Spelling = Literal["", "trimmed", "timed", "dated", "asked", "zoned"]
"""How a value that refers becomes one as its parent's column spells it, where the two are of different types.

Empty: it is spelled alike. `trimmed`: without spaces at its end. `timed`: a date becomes its midnight; `dated`: the other way
round. `asked`: only the database knows. `zoned`: so it does, but by the time zone of whoever asks.
"""


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A column of a live table.

    Attributes:
        type: as a snapshot's manifest writes it.
        required: whether it is NOT NULL.
        default: whether a row that does not name it gets a value by itself (a default, an identity, a sequence).
        generated: whether the database computes it, so that nobody may write it.
        identity: whether writing it needs the engine's word for that (OVERRIDING SYSTEM VALUE).
        counter: whether its next values come from a sequence, an AUTO_INCREMENT or the like.
        fallback: what ON DELETE SET DEFAULT writes into it, where that is one value and known.
        varying: whether what that writes is not known, since its default is an expression.
        made_of: of a generated column, from which columns; None where the database cannot be asked what it makes of them.
        equality: which of its values are one.
    """

    name: str
    type: str
    required: bool = False
    default: bool = False
    generated: bool = False
    identity: bool = False
    counter: bool = False
    fallback: Cell = field(default=None, repr=False)
    varying: bool = False
    made_of: tuple[str, ...] | None = None
    equality: Equality = CELLS


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table of a live database.

    Attributes:
        columns: in the order of the row format, generated ones included.
        key: its primary key's columns, or those of what stands in for one; empty if there is none.
        uniques: other sets of columns that may not be equal in two rows (NULL is equal to nothing).
        triggers: names of triggers that an insert, update or delete would run.
    """

    name: str
    columns: tuple[LiveColumn, ...]
    key: tuple[str, ...]
    uniques: tuple[tuple[str, ...], ...] = ()
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveSchema:
    """The tables of a live database, and how they belong together.

    Attributes:
        encoding: the character set in which cells hold text, as a server calls it; empty for UTF-8.
    """

    tables: Mapping[str, LiveTable]
    references: tuple[Reference, ...]
    encoding: str = ""


class NamedCells(Mapping[str, Cell]):
    """Some cells of a row by their columns, in a fifth of a dict's memory: all rows of a table share the names.

    Args:
        places: of each column, where its cell stands.
        cells: the row.
    """

    __slots__ = ("_cells", "_places")

    def __init__(self, places: Mapping[str, int], cells: Cells) -> None:
        self._places, self._cells = places, cells

    def __getitem__(self, name: str) -> Cell:
        return self._cells[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    __hash__ = None  # type: ignore[assignment]  # as of a dict

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NamedCells) and self._places is other._places and self._cells == other._cells:
            return True
        return Mapping.__eq__(self, other)

    def __repr__(self) -> str:
        return f"NamedCells of {len(self)} columns"


ChangeKind = Literal["insert", "update", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row.

    Attributes:
        table: whose row.
        key: the values by which it is found, by column; of an insert, the key it gets. All columns if the table has no key.
        old: by column, what must stand there, or the change is refused; empty for an insert.
        new: by column, what stands there afterwards; empty for a delete.
    """

    kind: ChangeKind
    table: str
    key: Mapping[str, Cell] = field(repr=False)
    old: Mapping[str, Cell] = field(repr=False)
    new: Mapping[str, Cell] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Look:
    """Which rows of a table a statement looks at; columns are positions.

    Attributes:
        used: the columns wanted, in the order wanted.
        by, values: columns, and what they are.
        column, low, high: a column, and between what it lies (the ends may be left out); None where there is no end.
        order: of the table's orders the one in which rows come; None for any.
        down: whether they come in it backwards.
    """

    used: tuple[int, ...]
    by: tuple[int, ...] = ()
    values: tuple[object, ...] = field(default=(), repr=False)
    column: int | None = None
    low: object = field(default=None, repr=False)
    high: object = field(default=None, repr=False)
    order: int | None = None
    down: bool = False


class Queried(Protocol):
    """A table that SQL is run over."""

    @property
    def name(self) -> str:
        """As people call it in a statement."""

    @property
    def columns(self) -> Sequence[tuple[str, str]]:
        """Names, and INTEGER, REAL, NUMERIC, TEXT, BLOB or nothing."""

    @property
    def count(self) -> int:
        """About how many rows it has."""

    @property
    def quick(self) -> Sequence[Sequence[int]]:
        """Positions of columns by whose values, together, rows are found without a scan."""

    @property
    def orders(self) -> Sequence[Sequence[int]]:
        """Orders, by columns as SQL compares them, in which rows can come, and in which ranges are found without a scan."""

    @property
    def sorts(self) -> bool:
        """Whether rows can come in these orders; if not, only ranges are found in them."""

    def batches(self, look: Look) -> Iterator[Sequence[Cells]]:
        """Rows, many together: all those that are looked at, and perhaps others, but never in another order."""


class Columnar(Protocol):
    """A table of which whole columns are loaded."""

    @property
    def name(self) -> str:
        """As people call it in a statement."""

    @property
    def kinds(self) -> Sequence[tuple[str, str]]:
        """Names, and DuckDB's types."""

    def columnar(self, used: Sequence[int]) -> Iterator[str | Sequence[Sequence[Cell]]]:
        """Columns of all rows, many rows at a time: rows as text, all fields between tabs, or the cells of each column wanted.

        Args:
            used: the positions of the columns wanted, in order; at least one.
        """


@dataclass(slots=True)
class Answered:
    """What a statement gives.

    Attributes:
        rows: can be read once.
        remarks: what is to be known of them.
    """

    columns: tuple[str, ...]
    rows: Iterator[Cells] = field(repr=False)
    remarks: tuple[str, ...] = ()
