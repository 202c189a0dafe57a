"""The tables of a server's snapshot as something to look records up in: streams of rows, read chunk by chunk.

A look-up by a key whose order is the same everywhere reads the chunks that can hold it (see `keyranges`); any other is a scan.
 Where a key stands is never believed beyond that: every row that comes out was compared byte by byte.
Memory holds a few chunks. Rows reach the caller only; no message has one.
"""

import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.errors import UsageError
from backupd.jobs.compare import StoredSide
from backupd.jobs.keyranges import INTEGERS, Order, Part, Span
from backupd.jobs.stored import Erased, StoredTable, shown_of
from backupd.jobs.tableshapes import Moment, codec_of, decoders_of, is_utf8, moment_of, ways_of
from backupd.model import Cell, Cells
from backupd.records.rowtext import NULL, cell_of, field_of
from backupd.records.values import Value
from backupd.repo.codecs import split_rows
from backupd.repo.comparing import Unit
from backupd.repo.lookup import Lists

FEW_CHUNKS = 8
"""That many are read one after the other; for more, threads read ahead."""
FEW_VALUES = 4
"""That many are looked for in the text of a chunk before it is taken apart."""
_MOST_AHEAD = 4096
_PADDED = re.compile(r"character\((\d+)\)")


class _Filter:
    """Finds the rows of a chunk in which some columns have certain values."""

    def __init__(self, positions: Sequence[int], columns: int, values: Collection[Cells]) -> None:
        self._positions, self._columns = tuple(positions), columns
        self._last = max(positions)
        self._wanted = {
            tuple(field_of(cell) for cell in value if isinstance(cell, bytes))
            for value in values
            if all(isinstance(cell, bytes) for cell in value)
        }
        self.empty = not self._wanted
        self._needles: list[bytes] | None = None
        if len(self._wanted) <= FEW_VALUES:
            self._needles = sorted({self._needle(fields, columns) for fields in self._wanted})

    def _needle(self, fields: tuple[bytes, ...], columns: int) -> bytes:
        """The longest of the fields, with what stands around it in a row."""
        at = max(range(len(fields)), key=lambda n: len(fields[n]))
        position = self._positions[at]
        return (b"\t" if position else b"\n") + fields[at] + (b"\n" if position == columns - 1 else b"\t")

    def __call__(self, data: bytes) -> Iterator[bytes]:
        """The rows of a chunk that have them."""
        if self._needles is not None:
            return filter(self._fits, self._candidates(b"\n" + data))
        rows = split_rows(data)
        if len(self._positions) == 1:
            try:
                return iter(self._with_one(rows))
            except IndexError:  # a row with too few fields
                pass
        return filter(self._fits, rows)

    def _with_one(self, rows: list[bytes]) -> list[bytes]:
        """The same for one column, as fast as it goes: this is where look-ups of many values spend their time.

        Raises:
            IndexError: a row does not have so many fields.
        """
        at = self._last
        wanted = {fields[0] for fields in self._wanted}
        if at == self._columns - 1:
            wanted |= {field + b"\n" for field in wanted}
        return [row for row in rows if row.split(b"\t", at + 1)[at] in wanted]

    def _fits(self, row: bytes) -> bool:
        fields = row.removesuffix(b"\n").split(b"\t", self._last + 1)
        return len(fields) > self._last and tuple([fields[at] for at in self._positions]) in self._wanted

    def _candidates(self, data: bytes) -> Iterator[bytes]:
        starts: set[int] = set()
        for needle in self._needles or ():
            at = data.find(needle)
            while at >= 0:
                start = at + 1 if needle[:1] == b"\n" else data.rfind(b"\n", 0, at) + 1
                starts.add(start)
                end = data.find(b"\n", start)
                at = data.find(needle, end) if end >= 0 else -1
        for start in sorted(starts):
            yield data[start : data.find(b"\n", start) + 1 or len(data)]


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
        units: Iterable[Unit] = self.units(by, values, span)
        for _, lines in self.of_units(reversed(list(units)) if down else units, by, values):
            yield lines[::-1] if down else lines

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
        for unit, data in self._data(iter(units)) if chosen is None or not chosen.empty else ():
            yield unit, split_rows(data) if chosen is None else list(chosen(data))

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

    def _filter(self, by: Sequence[str], values: Collection[Cells]) -> _Filter | None:
        return _Filter([self._names.index(name) for name in by], len(self.columns), values) if by else None

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
                yield from self._ahead(held)
                held, most = [], min(8 * most, _MOST_AHEAD)
            held.append(unit)
        yield from self._ahead(held)

    def _ahead(self, held: Sequence[Unit]) -> Iterator[tuple[Unit, bytes]]:
        single = [unit for unit in held if len(unit) == 1]
        opened = self._side.opened(unit[0] for unit in single)
        for unit in held:
            yield unit, self._whole(unit) if len(unit) > 1 else next(opened)

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
