"""Keyed hashes of erased rows and of the names of their tables: FORMAT.md, section 11.

They tell again what somebody already has in hand, and nothing to who has not the records key. Must never hash a value
without its type, its column and its table: equal hashes have to mean equal rows.
"""

import struct
from collections.abc import Callable, Sequence

from backupd.crypto.primitives import b3_derive, b3_keyed
from backupd.model import Cell, Cells

HASH_BYTES = 16
_U32 = struct.Struct("<I")
_REAL = struct.Struct(">d")


def canonical(cell: "Cell") -> bytes:
    """A cell as bytes; equal for equal cells of one type, and for no others."""
    if type(cell) is bytes:  # by far the most
        return b"\4" + cell
    match cell:
        case None:
            return b"\0"
        case int():
            return b"\1%d" % cell
        case float():
            return b"\2" + _REAL.pack(cell + 0.0)
        case str():
            return b"\3" + cell.encode("utf-8", "surrogatepass")
        case bytes():
            return b"\4" + cell


def _text(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


class ErasureHash:
    """The hashes of one repository's ledger."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, records_key: bytes) -> "ErasureHash":
        """By the key of records."""
        return cls(b3_derive("backupd/v1/erasure", records_key))

    def name(self, text: str) -> bytes:
        """The hash of a table's or a column's name."""
        return b3_keyed(self._key, b"name\0" + text.encode("utf-8", "surrogatepass"))[:HASH_BYTES]

    def rows(self, table: str, columns: Sequence[str]) -> Callable[["Cells"], bytes]:
        """What hashes rows of a table by the cells of some columns, which are given in that order."""
        names = [column.encode("utf-8", "surrogatepass") for column in columns]
        parts = [(at, _text(names[at])) for at in sorted(range(len(names)), key=names.__getitem__)]
        head = b"row\0" + _text(table.encode("utf-8", "surrogatepass")) + _U32.pack(len(parts))
        key = self._key
        if len(parts) == 1:
            start = head + parts[0][1]

            def one(cells: "Cells") -> bytes:
                cell = canonical(cells[0])
                return b3_keyed(key, start + _U32.pack(len(cell)) + cell)[:HASH_BYTES]

            return one

        def row(cells: "Cells") -> bytes:
            found = [head]
            for at, name in parts:
                cell = canonical(cells[at])
                found += (name, _U32.pack(len(cell)), cell)
            return b3_keyed(key, b"".join(found))[:HASH_BYTES]

        return row
