"""Records of SQLite tables: from the bytes in the pages to values and back, and how such rows are compared.

A row, as it is compared, is eight bytes of rowid (zero where the rowid is no column) and a record in SQLite's record format
("Database File Format", section 2) with a value for every column.
"""

import struct
from collections.abc import Mapping, Sequence

from backupd.model import PagedTable
from backupd.records.btree import Damaged, varint
from backupd.records.values import Value

_ROWID = struct.Struct(">q")
_COMMON = "utf-8"
"""How texts are written that two files of different encodings are compared by."""
_WIDTHS = (0, 1, 2, 3, 4, 6, 8)


def decode_record(record: bytes, encoding: str) -> list[Value]:
    """The values of a record.

    Raises:
        Damaged: it is not one.
    """
    try:
        end, at = varint(record, 0)
        body, out = end, list[Value]()
        if end > len(record):
            raise Damaged("a record's head is longer than the record")
        while at < end:
            kind, at = varint(record, at)
            value, body = _value(record, body, kind, encoding)
            out.append(value)
    except IndexError:
        raise Damaged("a record ends in its head") from None
    return out


def _value(record: bytes, at: int, kind: int, encoding: str) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in (10, 11):
        raise Damaged("a record holds a value of no known kind")
    width = 8 if kind == 7 else _WIDTHS[kind] if kind < 7 else (kind - 12) // 2
    if at + width > len(record):
        raise Damaged("a record ends in a value")
    data = record[at : at + width]
    if kind == 7:
        return float(struct.unpack(">d", data)[0]), at + 8
    if kind < 7:
        return int.from_bytes(data, "big", signed=True), at + width
    return data if kind % 2 == 0 else data.decode(encoding, "backslashreplace"), at + width


def encode_record(values: Sequence[Value], encoding: str) -> bytes:
    """A record of values, each as short as it can be."""
    kinds, body = [], []
    for value in values:
        kind, data = _stored(value, encoding)
        kinds.append(_varint(kind))
        body.append(data)
    head = b"".join(kinds)
    size = len(head) + 1
    while len(head) + len(_varint(size)) != size:
        size = len(head) + len(_varint(size))
    return b"".join([_varint(size), head, *body])


def _stored(value: Value, encoding: str) -> tuple[int, bytes]:
    match value:
        case None:
            return 0, b""
        case int():
            if value in (0, 1):
                return 8 + value, b""
            width = next(w for w in _WIDTHS[1:] if -(1 << 8 * w - 1) <= value < 1 << 8 * w - 1)
            return _WIDTHS.index(width), value.to_bytes(width, "big", signed=True)
        case float():
            return 7, struct.pack(">d", value)
        case str():
            data = value.encode(encoding, "replace")
            return 13 + 2 * len(data), data
        case bytes():
            return 12 + 2 * len(value), value


def _varint(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.insert(0, value & 0x7F | 0x80)
    return bytes(out)


class RecordShape:
    """Rows of an SQLite table.

    Args:
        table: as the file says.
        encoding: of its texts.
        key: names of the columns by which rows are paired.
        only: names of the columns that are compared, if not all.
    """

    exact = False

    def __init__(self, table: PagedTable, encoding: str, key: Sequence[str], only: Sequence[str] | None = None) -> None:
        self._table, self._encoding, self._only = table, encoding, only
        names = [column.name for column in table.columns]
        self.columns = tuple(names if only is None else only)
        self.keyed = tuple(self.columns.index(name) for name in key)
        self._places: Mapping[str, int] = {name: at for at, name in enumerate(names)}
        self._by_rowid = only is None and table.alias is not None and self.keyed == (table.alias,)

    def row(self, rowid: int | None, record: bytes) -> bytes:
        """A row as it is compared.

        Raises:
            Damaged: the record is none.
        """
        table = self._table
        if self._only is None and _count(record) == len(table.storage):
            return _ROWID.pack(rowid if table.alias is not None and rowid is not None else 0) + record
        values = self._filled(rowid, record)
        if self._only is None:
            stored = [None if at == table.alias else values[at] for at in table.storage]
            return _ROWID.pack(rowid if table.alias is not None and rowid is not None else 0) + encode_record(
                stored, self._encoding
            )
        return _ROWID.pack(0) + encode_record([values[self._places[name]] for name in self._only], _COMMON)

    def _filled(self, rowid: int | None, record: bytes) -> list[Value]:
        """All values of a record in the table's order; those that it is too old to have are the defaults."""
        table = self._table
        values: list[Value] = [column.default for column in table.columns]
        for value, at in zip(decode_record(record, self._encoding), table.storage, strict=False):
            values[at] = float(value) if isinstance(value, int) and table.columns[at].real else value
        if table.alias is not None:
            values[table.alias] = rowid
        return values

    def key(self, row: bytes) -> bytes | None:
        """The values of the key as a record; None where one of them is NULL."""
        if self._by_rowid:
            return row[:8]
        if not self.keyed:
            return None
        values = self.values(row)
        chosen = [values[at] for at in self.keyed]
        return None if None in chosen else encode_record(chosen, _COMMON)

    def values(self, row: bytes) -> tuple[Value, ...]:
        """The row's values."""
        if self._only is None:
            return tuple(self._filled(_ROWID.unpack(row[:8])[0], row[8:]))
        return tuple(decode_record(row[8:], _COMMON))

    def cells(self, row: bytes) -> tuple[Value, ...]:
        """The same: what a file holds are values."""
        return self.values(row)


def _count(record: bytes) -> int:
    """How many values a record has."""
    try:
        end, at = varint(record, 0)
        found = 0
        while at < end:
            _, at = varint(record, at)
            found += 1
    except IndexError:
        raise Damaged("a record ends in its head") from None
    return found
