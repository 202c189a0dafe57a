"""Values of records, for people and for programs. They are customers' data: nothing here prints, logs or raises with one."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backupd.model import Cell

Value = Cell
Op = Literal["added", "removed", "changed"]
_EXACT = 2**53
"""Beyond it programs that read JSON may round a number."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record that is not the same on both sides.

    Attributes:
        columns: names of the values, in order.
        keyed: positions of the key among them; empty if the table has no key.
        old: as it was; None if it was added.
        new: as it is; None if it was removed.
    """

    op: Op
    columns: tuple[str, ...]
    keyed: tuple[int, ...]
    old: tuple[Value, ...] | None = field(repr=False)
    new: tuple[Value, ...] | None = field(repr=False)

    @property
    def key(self) -> tuple[Value, ...]:
        """The values of the key."""
        row = self.new if self.old is None else self.old
        assert row is not None
        return tuple(row[at] for at in self.keyed)

    @property
    def differing(self) -> tuple[int, ...]:
        """The positions at which both sides differ; all of them if one side is not there."""
        if self.old is None or self.new is None:
            return tuple(range(len(self.columns)))
        pairs = zip(self.old, self.new, strict=True)
        return tuple(at for at, (a, b) in enumerate(pairs) if not is_same(a, b))


def is_same(a: Value, b: Value) -> bool:
    """Whether two values are one: 1 and 1.0 are two."""
    return type(a) is type(b) and a == b


def order(value: Value) -> tuple[int, int | float, str | bytes]:
    """By what values are sorted: NULL, numbers, texts, bytes."""
    match value:
        case None:
            return 0, 0, ""
        case str():
            return 2, 0, value
        case bytes():
            return 3, 0, value
        case _:
            return 1, value, ""


def as_json(value: Value) -> object:
    """A value as JSON holds it: integers that programs may round as text, bytes as {"base64": ...}."""
    match value:
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case int() if abs(value) > _EXACT:
            return str(value)
        case float() if not math.isfinite(value):
            return str(value)
        case _:
            return value


def as_text(value: Value) -> str:
    """A value for people; NULL is a word without quotes, texts stand in quotes only where they would look like it."""
    match value:
        case None:
            return "NULL"
        case bytes():
            return "\\x" + value.hex()
        case str():
            return f"'{value}'" if value == "NULL" or value != value.strip() or not value else value
        case _:
            return str(value)


def as_csv(value: Value) -> str:
    """A value in a file of comma-separated values: NULL as `\\N`, a backslash doubled where a text begins with one."""
    match value:
        case None:
            return "\\N"
        case bytes():
            return "\\x" + value.hex()
        case str():
            return "\\" + value if value.startswith("\\") else value
        case _:
            return str(value)


Decode = Callable[[bytes], Value]


def text_decoder(encoding: str) -> Decode:
    """Bytes of a character set as text; what cannot be read is spelled out."""
    return lambda cell: cell.decode(encoding, "backslashreplace")


def integer(cell: bytes) -> Value:
    """The text of an integer; anything else stays text."""
    digits = cell[1:] if cell[:1] == b"-" else cell
    return int(cell) if digits.isdigit() and len(digits) < 20 else cell.decode("ascii", "backslashreplace")


def hexadecimal(cell: bytes) -> Value:
    """Bytes written as digits, with or without `\\x` before them; anything else stays text."""
    try:
        return bytes.fromhex(cell.removeprefix(b"\\x").decode("ascii"))
    except ValueError:
        return cell.decode("ascii", "backslashreplace")


def named(columns: Sequence[str], row: Sequence[Value], only: Sequence[int] | None = None) -> Mapping[str, object]:
    """A row as JSON: its values by their names."""
    chosen = range(len(columns)) if only is None else only
    return {columns[at]: as_json(row[at]) for at in chosen}
