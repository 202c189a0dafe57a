"""Rows as text and back: what PostgreSQL's COPY and MariaDB's LOAD DATA mean by a row, cell by cell. FORMAT.md, section 9.

Rows are taken apart only where somebody asks about records. Must never put a row or a cell into a message.
"""

import re
from collections.abc import Sequence

NULL = b"\\N"
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"0": b"\0"}
_WRITTEN = {
    **{value[0]: b"\\" + letter for letter, value in _LETTERS.items()},
    ord("\\"): b"\\\\",
}
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_SPECIAL = re.compile(rb"[\0\b\t\n\v\f\r\\]")


def fields_of(row: bytes) -> list[bytes]:
    """The fields of a row as they are written; the newline behind it is left out."""
    return row.removesuffix(b"\n").split(b"\t")


def cell_of(field: bytes) -> bytes | None:
    """What a field means: None is NULL, and a letter behind a backslash that stands for nothing else is itself."""
    if field == NULL:
        return None
    if b"\\" not in field:
        return field
    return _ESCAPE.sub(lambda match: _LETTERS.get(match[1], match[1]), field)


def field_of(cell: bytes | None) -> bytes:
    """How a cell is written."""
    if cell is None:
        return NULL
    return _SPECIAL.sub(lambda match: _WRITTEN[match[0][0]], cell)


def row_of(cells: Sequence[bytes | None]) -> bytes:
    """A row with its newline."""
    return b"\t".join(map(field_of, cells)) + b"\n"
