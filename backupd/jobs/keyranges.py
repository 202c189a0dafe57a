"""Which chunks of a table can hold a key: the order in which keys are stored, as far as it is the same everywhere.

Integers, PostgreSQL's UUIDs, and texts and bytes that their writer has sorted byte by byte. What a list says of a chunk's first
and last key is a hint: whoever asks looks at the rows themselves. Must never put a key into a message.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from backupd.model import Cell, Cells
from backupd.records.rowtext import cell_of
from backupd.repo.lookup import Wanted
from backupd.repo.nodes import ContentEntry
from backupd.repo.rowdigest import KEY_BYTES

INTEGERS = re.compile(r"(tiny|small|medium|big)?int(eger)?(\((\d+)\))?( unsigned)?( zerofill)?|oid")
_PLAIN_INTEGERS = re.compile(r"(tiny|small|medium|big)?int(eger)?(\(\d+\))?|(tiny|small|medium)?int(\(\d+\))? unsigned")
"""Those that SQL sorts as numbers: what is larger than 63 bits is text to it."""
_INTEGER = re.compile(rb"-?[0-9]{1,20}")
_DIGITS = re.compile(r"[+-]?[0-9]{1,20}")
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TEXTS = re.compile(r"((tiny|medium|long)?text|(character varying|varchar)(\(\d+\))?)( |$).*")
Part = int | float | bytes
"""A value of a key, as it is sorted."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a key.

    Attributes:
        read: what a field of a key stands for; None if it is nothing that could be sorted.
        part: the same of what SQL compares with; None if that cannot be said.
        sql: whether SQL sorts the column's values as rows are sorted.
    """

    name: str
    read: Callable[[bytes], Part | None]
    part: Callable[[object], Part | None]
    sql: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """Keys that begin with these cells, and whose next column lies between two ends; None where there is no end."""

    equal: Cells = field(repr=False)
    low: Part | None = field(default=None, repr=False)
    high: Part | None = field(default=None, repr=False)


def _as_integer(text: bytes) -> Part | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _as_uuid(text: bytes) -> Part | None:
    return text if _UUID.fullmatch(text) else None


def _number(value: object) -> Part | None:
    if isinstance(value, str):
        return int(value) if _DIGITS.fullmatch(value) else None
    return value if isinstance(value, int | float) and not math.isnan(value) else None


def _text(value: object) -> Part | None:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else None


def _bytea(value: object) -> Part | None:
    return b"\\x" + value.hex().encode() if isinstance(value, bytes) else None


def _digits(value: object) -> Part | None:
    return value.hex().upper().encode() if isinstance(value, bytes) else None


def _column(engine: str, name: str, kind: str, way: str, *, utf8: bool) -> Column | None:
    plain = way in ("plain", "")
    if INTEGERS.fullmatch(kind):
        return Column(name, _as_integer, _number, plain and _PLAIN_INTEGERS.fullmatch(kind) is not None)
    if kind == "uuid" and engine == "postgresql":
        return Column(name, _as_uuid, _text)
    if kind == "bytea":
        return Column(name, cell_of, _bytea)
    if way == "hex":
        return Column(name, cell_of, _digits)
    return Column(name, cell_of, _text) if way in ("text", "") and utf8 and _TEXTS.fullmatch(kind) else None


class Order:
    """The leading columns of a key by whose order chunks can be left out.

    Args:
        engine: of the snapshot: servers order UUIDs in different ways.
        names: the key's columns; none if rows do not come in its order.
        kinds: their types.
        ways: how MariaDB writes them.
        utf8: whether texts are UTF-8 for certain.
    """

    def __init__(
        self, engine: str, names: Sequence[str], kinds: Mapping[str, str], ways: Mapping[str, str], *, utf8: bool
    ) -> None:
        self.columns: list[Column] = []
        for name in names:
            column = _column(engine, name, kinds[name], ways.get(name, ""), utf8=utf8)
            if column is None:
                break
            self.columns.append(column)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def sorted(self) -> tuple[str, ...]:
        """Of those by which SQL sorts as rows are sorted."""
        upto = next((at for at, column in enumerate(self.columns) if not column.sql), len(self.columns))
        return self.names[:upto]

    def wanted(self, by: Sequence[str], values: Collection[Cells]) -> Wanted | None:
        """What tells which chunks can hold one of the values; None if that cannot be told."""
        used: list[tuple[int, Column]] = []
        for column in self.columns:
            if column.name not in by:
                break
            used.append((by.index(column.name), column))
        if not used:
            return None
        keys: list[tuple[Part, ...]] = []
        for value in values:
            parts = [_cell(column, value[at]) for at, column in used]
            if None in parts:
                return None
            keys.append(tuple(part for part in parts if part is not None))
        keys.sort()
        columns = [column for _, column in used]

        def may_hold(entry: ContentEntry) -> bool:
            low, high = _bound(entry.first, columns), _bound(entry.last, columns)
            start = 0 if low is None else bisect_left(keys, low)
            end = len(keys) if high is None else bisect_right(keys, high)
            return start < end

        return may_hold

    def within(self, span: Span) -> Wanted | None:
        """What tells which chunks can hold a key of a span; None if that cannot be told."""
        upto = len(span.equal)
        columns = self.columns[: upto + 1]
        parts = [_cell(column, cell) for column, cell in zip(columns, span.equal, strict=False)]
        if len(columns) <= upto or None in parts:
            return None
        head = tuple(part for part in parts if part is not None)

        def may_hold(entry: ContentEntry) -> bool:
            first, last = _bound(entry.first, columns), _bound(entry.last, columns)
            if last is not None and (last[:upto] < head or _below(last, head, span.low)):
                return False
            return first is None or not (first[:upto] > head or _above(first, head, span.high))

        return may_hold

    def start(self, text: bytes) -> tuple[Part, ...] | None:
        """Where a chunk's key stands among others."""
        return _bound(text, self.columns)


def _below(key: tuple[Part, ...], head: tuple[Part, ...], low: Part | None) -> bool:
    return low is not None and key[:-1] == head and key[-1] < low  # type: ignore[operator]


def _above(key: tuple[Part, ...], head: tuple[Part, ...], high: Part | None) -> bool:
    return high is not None and key[:-1] == head and key[-1] > high  # type: ignore[operator]


def _cell(column: Column, cell: Cell) -> Part | None:
    if not isinstance(cell, bytes):
        return None
    return cell if column.read is cell_of else column.read(cell)


def _bound(text: bytes, columns: Sequence[Column]) -> tuple[Part, ...] | None:
    """A chunk's first or last key, as far as it is compared; None if it says nothing."""
    fields = text.split(b"\t", len(columns))
    if len(text) >= KEY_BYTES and len(fields) <= len(columns):
        fields.pop()  # it may be cut
    parts = [column.read(field) for column, field in zip(columns, fields, strict=False)]
    if len(parts) < len(columns) or None in parts:
        return None
    return tuple(part for part in parts if part is not None)
