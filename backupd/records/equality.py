"""Which values may be one for a database, as far as that can be told without asking it.

A value is folded into what all its spellings have in common. Where a fold is sure, equal folds are equal values and others
are not. Where it is not, it only tells which values cannot be equal, and never calls equal ones different: of collations no
more is taken for granted than that the letters of plain ASCII differ by their case alone. Pure, and knows no table.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal

from backupd.model import Cell, Cells, Equality

MANY = 64
"""With so many doubtful values nothing is left out by looking at beginnings any more."""
_PLAIN = re.compile(rb"[\x20-\x7e]*")
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?\s*", re.ASCII)
_LONGEST = 64
"""Letters of a number that is read here."""
_EXACT = 1e15
"""Whole numbers below it are written by all versions of SQLite in the same way."""
_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOWERED = str.maketrans(_UPPER, _UPPER.lower())


@dataclass(frozen=True, slots=True)
class Fold:
    """What the spellings of a value have in common.

    Attributes:
        text: equal for equal values where both are sure; otherwise what an equal text begins with.
        whole: whether nothing comes behind.
        sure: whether equal folds are equal values.
    """

    text: object
    whole: bool = True
    sure: bool = True


Folds = tuple[Fold, ...]


def folds(cells: Cells, equalities: Sequence[Equality]) -> Folds:
    """The folds of the cells of some columns."""
    return tuple(fold(cell, equality) for cell, equality in zip(cells, equalities, strict=True))


def fold(cell: Cell, equality: Equality) -> Fold:
    """The fold of one value of a column."""
    if equality.kind == "letters" and isinstance(cell, bytes):
        return _letters(cell, proven=equality.proven)
    if equality.kind in ("letters", "asked"):
        return Fold(b"", whole=False, sure=False)
    if equality.kind == "numbers":
        return Fold(_number(cell.decode("ascii", "replace")) if isinstance(cell, bytes) else cell)
    found = _with_affinity(cell, equality.affinity)
    if found is None and cell is not None:
        return Fold(b"", whole=False, sure=False)
    if equality.kind == "padded":
        found = (
            found.rstrip(b" ") if isinstance(found, bytes) else found.rstrip(" ") if isinstance(found, str) else found
        )
    elif equality.kind == "nocase" and isinstance(found, str):
        found = found.translate(_LOWERED)
    return Fold(found)


def _letters(cell: bytes, *, proven: bool) -> Fold:
    found = _PLAIN.match(cell)
    text = found[0].lower() if found else b""
    whole = len(text) == len(cell)
    bare = text.rstrip(b" ") if whole else text
    return Fold(bare, whole, whole and proven and bare == text)


def _with_affinity(cell: Cell, affinity: str) -> Cell:
    """What SQLite compares instead of a value ("Datatypes In SQLite", section 4.2); None where versions of it differ."""
    if affinity == "text" and isinstance(cell, int):
        return str(cell)
    if affinity == "text" and isinstance(cell, float):
        return f"{cell:.1f}" if cell.is_integer() and 0 < abs(cell) < _EXACT else None
    if affinity == "number" and isinstance(cell, str):
        if "\0" in cell:
            return None
        return _exactly(cell) if _NUMBER.fullmatch(cell) else cell
    return cell


def _exactly(text: str) -> Cell:
    """The number that a text stands for, if reading it rounds nothing."""
    if len(text) > _LONGEST:
        return None
    if text.strip().lstrip("+-").isdigit() and -(2**63) <= int(text) < 2**63:
        return int(text)
    number = float(text)
    return number if Decimal(number) == Decimal(text.strip()) else None


def _number(text: str) -> object:
    """A number that is written as text; of what is none, the text."""
    return Decimal(text.strip()) if _NUMBER.fullmatch(text) else text


class Candidates:
    """Tells which values may be equal to one of some.

    Args:
        equalities: of the columns that are compared.
        values: those that are wanted, none of them with a NULL.
    """

    def __init__(self, equalities: Sequence[Equality], values: Collection[Cells]) -> None:
        self._equalities = tuple(equalities)
        self._sure: set[Folds] = set()
        self._doubtful: set[Folds] = set()
        for value in values:
            found = folds(value, self._equalities)
            (self._sure if all(one.sure for one in found) else self._doubtful).add(found)

    def settled(self, cells: Cells) -> bool | None:
        """Whether a value is one of those; None where only the database knows."""
        if None in cells:
            return False
        found = folds(cells, self._equalities)
        if all(one.sure for one in found):
            if found in self._sure:
                return True
            return None if self._may_be(found, self._doubtful) else False
        return None if self._may_be(found, self._doubtful) or self._may_be(found, self._sure) else False

    def fits(self, cells: Cells) -> bool:
        """Whether it may be."""
        return self.settled(cells) is not False

    def _may_be(self, found: Folds, others: Collection[Folds]) -> bool:
        return len(others) > MANY or any(all(map(_agree, found, other)) for other in others)


def _agree(one: Fold, other: Fold) -> bool:
    if one.whole and other.whole:
        return one.text == other.text
    if not isinstance(one.text, bytes) or not isinstance(other.text, bytes):
        return True
    return one.text.startswith(other.text) or other.text.startswith(one.text)
