"""The tables of a server's snapshot as something to look records up in: streams of rows, read chunk by chunk.

A look-up by a key whose order is the same everywhere (integers and UUIDs) reads the chunks that can hold it; any other is
a scan. Where a key stands is never believed beyond that: every row that comes out was compared byte by byte.
Memory holds a few chunks. Rows reach the caller only; no message has one.
"""

import re
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.errors import UsageError
from backupd.jobs.compare import StoredSide
from backupd.jobs.rowfilter import RowFilter
from backupd.jobs.stored import Erased, StoredTable, shown_of
from backupd.jobs.tableshapes import Moment, codec_of, decoders_of, moment_of, ways_of
from backupd.model import Cell, Cells
from backupd.records.rowtext import NULL, cell_of
from backupd.records.values import Value
from backupd.repo.codecs import split_rows
from backupd.repo.comparing import Unit
from backupd.repo.lookup import Lists
from backupd.repo.nodes import ContentEntry
from backupd.repo.rowdigest import KEY_BYTES

FEW_CHUNKS = 8
"""That many are read one after the other; for more, threads read ahead."""
_INTEGERS = re.compile(r"(tiny|small|medium|big)?int(eger)?(\((\d+)\))?( unsigned)?( zerofill)?|oid")
_INTEGER = re.compile(rb"-?[0-9]{1,20}")
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PADDED = re.compile(r"character\((\d+)\)")
_Part = int | bytes
_Read = Callable[[bytes], _Part | None]
_Take = Callable[[Sequence[bytes]], list[bytes]]


def _as_integer(field: bytes) -> _Part | None:
    return int(field) if _INTEGER.fullmatch(field) else None


def _as_uuid(field: bytes) -> _Part | None:
    return field if _UUID.fullmatch(field) else None


class _Order:
    """The leading columns of a key by whose order chunks can be left out.

    Args:
        engine: of the snapshot: servers order UUIDs in different ways.
        names: the key's columns.
        kinds: their types.
    """

    def __init__(self, engine: str, names: Sequence[str], kinds: Mapping[str, str]) -> None:
        self.reads: dict[str, _Read] = {}
        for name in names:
            if _INTEGERS.fullmatch(kinds[name]):
                self.reads[name] = _as_integer
            elif kinds[name] == "uuid" and engine == "postgresql":
                self.reads[name] = _as_uuid
            else:
                break

    def wanted(self, by: Sequence[str], values: Collection[Cells]) -> Callable[[ContentEntry], bool] | None:
        """What tells which chunks can hold one of the values; None if that cannot be told."""
        used = []
        for name in self.reads:
            if name not in by:
                break
            used.append((by.index(name), self.reads[name]))
        if not used:
            return None
        keys = []
        for value in values:
            parts = [read(cell) if isinstance(cell := value[at], bytes) else None for at, read in used]
            if None in parts:
                return None
            keys.append(tuple(part for part in parts if part is not None))
        keys.sort()
        reads = [read for _, read in used]

        def may_hold(entry: ContentEntry) -> bool:
            low, high = _bound(entry.first, reads), _bound(entry.last, reads)
            start = 0 if low is None else bisect_left(keys, low)
            end = len(keys) if high is None else bisect_right(keys, high)
            return start < end

        return may_hold


def _bound(text: bytes, reads: Sequence[_Read]) -> tuple[_Part, ...] | None:
    """A chunk's first or last key, as far as it is compared; None if it says nothing."""
    fields = text.split(b"\t", len(reads))
    if len(text) >= KEY_BYTES and len(fields) <= len(reads):
        fields.pop()  # it may be cut
    parts = [read(field) for read, field in zip(reads, fields, strict=False)]
    if len(parts) < len(reads) or None in parts:
        return None
    return tuple(part for part in parts if part is not None)


class StoredRows:
    """A table whose rows are text."""

    def __init__(self, side: StoredSide, moment: Moment, table: Mapping[str, Any], erased: Erased | None) -> None:
        self._side = side
        self.name: str = table["name"]
        self.columns: tuple[tuple[str, str], ...] = tuple((str(c), str(kind)) for c, kind in table["columns"])
        names = [column for column, _ in self.columns]
        self.key: tuple[str, ...] = tuple(table["key"]) if set(table["key"]) <= set(names) else ()
        self.count: int = table["rows"]
        self._names = names
        self.decoders = decoders_of(moment, table, names)
        self.codec, self._ways = codec_of(moment), ways_of(moment, table)
        self._hidden = erased.hidden(self.name, names, self.key) if erased else None
        self._order = _Order(moment.engine, self.key if table.get("ordered") is True else (), dict(self.columns))
        self._streams: list[Lists] | None = None

    @property
    def quick(self) -> tuple[tuple[str, ...], ...]:
        """Sets of columns by whose values rows are found without a scan."""
        names = tuple(self._order.reads)
        return tuple(names[: n + 1] for n in range(len(names)))

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        """See `StoredTable`."""
        for some in self.batches(by, values):
            yield from some

    def batches(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[list[Cells]]:
        """The same rows, those of a chunk together."""
        width, hidden = len(self.columns), self._hidden
        places = [self._names.index(name) for name in by]
        for lines in self.lines(by, values):
            rows = [_cells(line, width) for line in lines]
            if hidden is not None:
                rows = [seen for row in rows if (seen := shown_of(row, hidden, places)) is not None]
            yield rows

    def lines(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[list[bytes]]:
        """The rows as they are stored, hidden ones among them: for those who only take them apart differently."""
        chosen = self._filter(by, values)
        if chosen is not None and chosen.empty:
            return
        units = self.units(by, values)
        if chosen is not None:
            yield from self._taken(units, chosen)
            return
        for chunks in self._taken(units, list):
            yield from map(split_rows, chunks)

    def units(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Unit]:
        """The chunks in which such rows can be."""
        wanted = (self._order.wanted(by, values) if by else None) or (lambda _: True)
        if self._streams is None:
            listed = self._side.streams(self.name)
            self._streams = [Lists(root, described, listed.reader) for root, described in listed.streams]
        for stream in self._streams:
            yield from stream.chunks(wanted)

    def cells(self, line: bytes) -> Cells:
        """The cells of a row as it is stored."""
        return _cells(line, len(self.columns))

    @property
    def owner(self) -> tuple[bytes, int, bytes]:
        """Under equal owners, chunks of equal names hold the same."""
        return self._side.owner

    @property
    def hides(self) -> bool:
        """Whether rows are hidden."""
        return self._hidden is not None

    def _filter(self, by: Sequence[str], values: Collection[Cells]) -> RowFilter | None:
        return RowFilter([self._names.index(name) for name in by], len(self.columns), values) if by else None

    def _taken(self, found: Iterator[Unit], take: _Take) -> Iterator[list[bytes]]:
        """What is taken of chunks, and of long rows as wholes."""
        few = list(islice(found, FEW_CHUNKS))
        if len(few) < FEW_CHUNKS:
            for unit in few:
                yield take([self._whole(unit) if len(unit) > 1 else self._one(unit)])
            return
        held: list[Unit] = []
        for unit in chain(few, found):
            held.append(unit)
            if len(unit) > 1 or len(held) >= 4096:
                yield from self._ahead(held, take)
                held = []
        yield from self._ahead(held, take)

    def _ahead(self, held: Sequence[Unit], take: _Take) -> Iterator[list[bytes]]:
        yield from self._side.taken((unit[0] for unit in held if len(unit) == 1), take)
        for unit in held:
            if len(unit) > 1:
                yield take([self._whole(unit)])

    def _one(self, unit: Unit) -> bytes:
        self._side.reader.expect(unit)
        return self._side.reader.read(unit[0], Kind.ROWS)

    def _whole(self, unit: Unit) -> bytes:
        return self._side.long(self.name, unit)

    def shown(self, row: Cells) -> tuple[Value, ...]:
        """See `StoredTable`."""
        return tuple(
            None if cell is None else decode(cell) if isinstance(cell, bytes) else cell
            for cell, decode in zip(row, self.decoders, strict=False)
        )

    def cell(self, column: str, text: str) -> Cell:
        """See `StoredTable`."""
        kinds = dict(self.columns)
        if column not in kinds:
            raise UsageError(f"table {self.name} has no column {column}", object_name=self.name)
        kind, way = kinds[column], self._ways.get(column, "")
        try:
            return _written(text, kind, way, self.codec)
        except (ValueError, UnicodeError):
            raise UsageError(
                f"what is written for the column {column} of {self.name} is no value of type {kind}",
                object_name=self.name,
                hint="write it as the server prints it; bytes as \\x and hexadecimal digits",
            ) from None


def _written(text: str, kind: str, way: str, codec: str) -> bytes:
    whole = _INTEGERS.fullmatch(kind)
    if way == "index" or (whole and way in ("plain", "")):
        digits = str(int(text))
        wide = int(whole[4]) if whole and whole[4] and whole[6] else 0
        return digits.zfill(wide).encode()
    if kind == "bytea":
        return b"\\x" + bytes.fromhex(text.removeprefix("\\x")).hex().encode()
    if way in ("hex", "bit"):
        digits = text.removeprefix("\\x")
        return (f"{int(digits, 16):X}" if way == "bit" else bytes.fromhex(digits).hex().upper()).encode()
    if kind == "uuid":
        return str(uuid.UUID(text)).encode()
    if kind == "boolean":
        if text.lower() not in ("t", "true", "f", "false"):
            raise ValueError
        return text[0].lower().encode()
    if padded := _PADDED.fullmatch(kind):
        text = text.ljust(int(padded[1]))
    if "\0" in text and way == "":
        raise ValueError
    return text.encode(codec)


def _cells(line: bytes, width: int) -> Cells:
    """The cells of a row; those that are missing are NULL, and those too many are left out."""
    if not width:
        return ()
    fields: list[bytes] = line.removesuffix(b"\n").split(b"\t")
    if len(fields) != width:
        fields = fields[:width] + [NULL] * (width - len(fields))
    return tuple(map(cell_of, fields)) if b"\\" in line or len(fields) != width else tuple(fields)


class StoredRowTables:
    """The tables of a server's snapshot."""

    def __init__(self, side: StoredSide, erased: Erased | None) -> None:
        self._side = side
        moment = moment_of(side.content)
        self.engine: str = moment.engine
        self.left_out: tuple[str, ...] = tuple(sorted(moment.left_out))
        self.rows: Mapping[str, StoredRows] = {
            name: StoredRows(side, moment, table, erased) for name, table in sorted(moment.tables.items())
        }

    @property
    def tables(self) -> Mapping[str, StoredTable]:
        """See `StoredTables`."""
        return self.rows

    @property
    def fetched_bytes(self) -> int:
        """See `StoredTables`."""
        return self._side.cache.fetched_bytes

    def close(self) -> None:
        """Nothing is held open."""
