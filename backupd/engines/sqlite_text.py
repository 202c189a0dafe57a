"""Names and values as SQLite's SQL: the one place that quotes them. A value comes out of a script exactly as it went in."""

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from backupd.errors import Failed
from backupd.model import Cell, Cells

_BATCH = 400
_WHOLE = 1e15
"""Whole numbers below it are read exactly."""


def name(text: str) -> str:
    """An identifier.

    Raises:
        Failed: it cannot be written.
    """
    if "\0" in text:
        raise Failed("a name in the database holds a NUL, which no statement can")
    return '"' + text.replace('"', '""') + '"'


def literal(cell: Cell, encoding: str) -> str:
    """A value.

    Args:
        cell: the value.
        encoding: of the database's texts, as Python calls it: bytes that are cast become a text of it.

    Raises:
        Failed: it is a text that the database cannot hold.
    """
    match cell:
        case None:
            return "NULL"
        case int():
            return str(cell)
        case float() if math.isinf(cell):
            return "9e999" if cell > 0 else "-9e999"
        case float():
            return _number(cell)
        case bytes():
            return f"X'{cell.hex()}'"
        case str() if cell.isprintable():
            return "'" + cell.replace("'", "''") + "'"
        case str():
            try:
                data = cell.encode(encoding)
            except UnicodeEncodeError:
                raise Failed("a text of the snapshot is no Unicode, and cannot be written exactly") from None
            return f"CAST(X'{data.hex()}' AS TEXT)"


def _number(value: float) -> str:
    """A number that SQLite reads as exactly this one: whole ones by their digits, others by steps that round nothing.

    SQLite's own reading of digits behind a point may be one bit off (0.060533 is), and not the same in all versions.
    """
    if value.is_integer() and abs(value) < _WHOLE:
        return repr(value)
    mantissa, exponent = math.frexp(value)
    whole, exponent = int(mantissa * 2**53), exponent - 53
    sign = "*" if exponent > 0 else "/"
    steps, rest = divmod(abs(exponent), 62)
    return f"(CAST({whole} AS REAL){f'{sign}{2**62}' * steps}{sign}{2**rest})"


def selections(
    table: str, columns: Sequence[str], by: Sequence[str], values: Collection[Cells]
) -> Iterator[tuple[str, Sequence[Cell]]]:
    """Queries with their bindings: rows whose columns `by` equal one of `values`, so many of them at once; all if it is empty."""
    chosen = ", ".join(map(name, columns)) or "NULL"
    query = f"SELECT {chosen} FROM main.{name(table)}"  # noqa: S608 - quoted
    if not by:
        yield query, ()
        return
    single = len(by) == 1
    one = "?" if single else "(" + " AND ".join(f"{name(column)} = ?" for column in by) + ")"
    rest = iter(values)
    while batch := list(islice(rest, max(1, _BATCH // len(by)))):
        asked = f"{name(by[0])} IN ({', '.join([one] * len(batch))})" if single else " OR ".join([one] * len(batch))
        yield f"{query} WHERE {asked}", [cell for value in batch for cell in value]
