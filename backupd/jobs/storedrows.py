"""The tables of a server's snapshot as something to look records up in: streams of rows, read chunk by chunk.

A look-up by a key whose order is the same everywhere reads the chunks that can hold it (see `keyranges`); any other is a scan.
 Where a key stands is never believed beyond that: every row that comes out was compared byte by byte.
Memory holds a few chunks. Rows reach the caller only; no message has one.
"""

import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.errors import UsageError
from backupd.jobs.compare import StoredSide
from backupd.jobs.keyranges import INTEGERS, Order, Part, Span
from backupd.jobs.rowfilter import RowFilter
from backupd.jobs.stored import Erased, StoredTable, shown_of
from backupd.jobs.tableshapes import Moment, codec_of, decoders_of, is_utf8, moment_of, ways_of
from backupd.model import Cell, Cells
from backupd.records.rowtext import NULL, cell_of
from backupd.records.values import Value
from backupd.repo.codecs import split_rows
from backupd.repo.comparing import Unit
from backupd.repo.lookup import Lists

FEW_CHUNKS = 8
"""That many are read one after the other; for more, threads read ahead."""
_MOST_AHEAD = 4096
_PADDED = re.compile(r"character\((\d+)\)")
_Take = Callable[[Sequence[bytes]], list[bytes]]


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
        self.codec, self.ways = codec_of(moment), ways_of(moment, table)
        self.erased, self.utf8 = erased, is_utf8(moment)
        self._hidden = erased.hidden(self.name, names, self.key) if erased else None
        key = self.key if table.get("ordered") is True else ()
        self._order = Order(moment.engine, key, dict(self.columns), self.ways, utf8=self.utf8)
        self._streams: list[Lists] | None = None
        self._in_order = False

    @property
    def quick(self) -> tuple[tuple[str, ...], ...]:
        """Sets of columns by whose values rows are found without a scan."""
        names = self._order.names
        return tuple(names[: n + 1] for n in range(len(names)))

    @property
    def order(self) -> Order:
        """By what chunks can be left out."""
        return self._order

    @property
    def in_order(self) -> bool:
        """Whether its streams follow each other in the order of the key."""
        self._lists()
        return self._in_order

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        """See `StoredTable`."""
        for some in self.batches(by, values):
            yield from some

    def chosen(self, by: Sequence[str], fits: Callable[[Cells], bool]) -> Iterator[Cells]:
        """See `StoredTable`. Only rows that fit are taken apart as a whole."""
        width, hidden = len(self.columns), self._hidden
        places = [self._names.index(name) for name in by]
        last = max(places)
        for lines in self.lines():
            for line in lines:
                fields = line.removesuffix(b"\n").split(b"\t", last + 1)
                if len(fields) <= last or not fits(tuple([cell_of(fields[at]) for at in places])):
                    continue
                row = _cells(line, width)
                seen = row if hidden is None else shown_of(row, hidden, places)
                if seen is not None:
                    yield seen

    def batches(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[list[Cells]]:
        """The same rows, those of a chunk together."""
        places = [self._names.index(name) for name in by]
        for lines in self.lines(by, values):
            yield self.seen(lines, places)

    def seen(self, lines: Sequence[bytes], places: Sequence[int] = ()) -> list[Cells]:
        """The cells of rows, but for what is hidden; the rows were looked for by the values at these places."""
        rows = [_cells(line, len(self.columns)) for line in lines]
        hidden = self._hidden
        if hidden is None:
            return rows
        return [seen for row in rows if (seen := shown_of(row, hidden, places)) is not None]

    def lines(
        self, by: Sequence[str] = (), values: Collection[Cells] = (), span: Span | None = None, *, down: bool = False
    ) -> Iterator[list[bytes]]:
        """The rows as they are stored, hidden ones among them: for those who only take them apart differently.

        Args:
            by, values: which rows.
            span: and within which keys; rows around it may be among them.
            down: the last rows first.
        """
        units = self.units(by, values, span)
        if down:
            for _, lines in self.of_units(reversed(list(units)), by, values):
                yield lines[::-1]
            return
        chosen = self._filter(by, values)
        if chosen is None:
            for chunks in self._taken(units, list, alone=True):
                yield from map(split_rows, chunks)
        elif not chosen.empty:
            yield from self._taken(units, chosen)

    def pieces(self, size: int) -> Iterator[bytes]:
        """All rows as they are stored, hidden ones among them, in pieces of about that many bytes."""
        held: list[bytes] = []
        for _, data in self._data(self.units()):
            held.append(data)
            if sum(map(len, held)) >= size:
                yield b"".join(held)
                held = []
        if held:
            yield b"".join(held)

    def of_units(
        self, units: Iterable[Unit], by: Sequence[str] = (), values: Collection[Cells] = ()
    ) -> Iterator[tuple[Unit, list[bytes]]]:
        """Such rows of some chunks, one after the other."""
        chosen = self._filter(by, values)
        if chosen is not None and chosen.empty:
            return
        for unit, data in self._data(iter(units)):
            yield unit, split_rows(data) if chosen is None else chosen([data])

    def units(self, by: Sequence[str] = (), values: Collection[Cells] = (), span: Span | None = None) -> Iterator[Unit]:
        """The chunks in which such rows can be."""
        wanted = self._order.within(span) if span else self._order.wanted(by, values) if by else None
        for stream in self._lists():
            yield from stream.chunks(wanted or (lambda _: True))

    def _lists(self) -> list[Lists]:
        if self._streams is None:
            listed = self._side.streams(self.name)
            self._streams = [Lists(root, described, listed.reader) for root, described in listed.streams]
            self._in_order = self._sort(self._streams)
        return self._streams

    def _sort(self, streams: list[Lists]) -> bool:
        """Bring streams that do not overlap into the order of the key; whether there is one."""
        bounds: dict[int, tuple[tuple[Part, ...], tuple[Part, ...]]] = {}
        for stream in streams:
            if (ends := stream.ends) is None:
                continue
            first, last = (self._order.start(text) for text in ends)
            if not self._order.names or first is None or last is None:
                return False
            bounds[id(stream)] = first, last
        streams[:] = sorted((s for s in streams if id(s) in bounds), key=lambda stream: bounds[id(stream)])
        return all(bounds[id(a)][1] <= bounds[id(b)][0] for a, b in pairwise(streams))

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

    def _data(self, found: Iterator[Unit]) -> Iterator[tuple[Unit, bytes]]:
        """Chunks, and long rows as wholes."""
        few = list(islice(found, FEW_CHUNKS))
        if len(few) < FEW_CHUNKS:
            for unit in few:
                yield unit, self._whole(unit) if len(unit) > 1 else self._one(unit)
            return
        held, most = few, FEW_CHUNKS
        for unit in found:  # more and more at a time: who wants the first rows only need not wait for others
            if len(held) >= most or (held and len(held[-1]) > 1):
                yield from self._opened_ahead(held)
                held, most = [], min(8 * most, _MOST_AHEAD)
            held.append(unit)
        yield from self._opened_ahead(held)

    def _opened_ahead(self, held: Sequence[Unit]) -> Iterator[tuple[Unit, bytes]]:
        single = [unit for unit in held if len(unit) == 1]
        opened = self._side.opened(unit[0] for unit in single)
        for unit in held:
            yield unit, self._whole(unit) if len(unit) > 1 else next(opened)

    def _taken(self, found: Iterator[Unit], take: _Take, *, alone: bool = False) -> Iterator[list[bytes]]:
        """What is taken of chunks, and of long rows as wholes."""
        few = list(islice(found, FEW_CHUNKS))
        if len(few) < FEW_CHUNKS:
            for unit in few:
                yield take([self._whole(unit) if len(unit) > 1 else self._one(unit)])
            return
        held: list[Unit] = []
        for unit in chain(few, found):
            held.append(unit)
            if len(unit) > 1 or len(held) >= _MOST_AHEAD:
                yield from self._taken_ahead(held, take, alone=alone)
                held = []
        yield from self._taken_ahead(held, take, alone=alone)

    def _taken_ahead(self, held: Sequence[Unit], take: _Take, *, alone: bool) -> Iterator[list[bytes]]:
        yield from self._side.taken([unit[0] for unit in held if len(unit) == 1], take, alone=alone)
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
        kind, way = kinds[column], self.ways.get(column, "")
        try:
            return _written(text, kind, way, self.codec)
        except (ValueError, UnicodeError):
            raise UsageError(
                f"what is written for the column {column} of {self.name} is no value of type {kind}",
                object_name=self.name,
                hint="write it as the server prints it; bytes as \\x and hexadecimal digits",
            ) from None


def _written(text: str, kind: str, way: str, codec: str) -> bytes:
    whole = INTEGERS.fullmatch(kind)
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
