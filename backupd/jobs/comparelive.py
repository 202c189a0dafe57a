"""Compare a snapshot with the live database: its rows are captured through the same cutter, and nothing is stored.

Chunks that the snapshot has too cancel out by their ids, and their rows are forgotten at once. The others wait, sealed, in
nameless temporary files. Nothing is told before the source has proved that what was read was one moment.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from backupd.crypto.chunks import ChunkNamer, Kind
from backupd.engines.base import Source, StreamInfo, View
from backupd.errors import SourceIncomplete
from backupd.jobs.capture import PIECE, ROWS, Readers
from backupd.jobs.compare import FETCHERS, StoredSide
from backupd.jobs.comparepages import ReadSchema, compare_files
from backupd.jobs.comparison import LONGEST_ROW, Asked, Comparison, TableDiff, TooLong
from backupd.jobs.pagefile import Groups, PageFile
from backupd.jobs.spill import SealedFile
from backupd.jobs.tableshapes import Match, Moment, check_engines, match_tables, moment_of
from backupd.records.difference import BUDGET, Difference
from backupd.repo.codecs import split_rows
from backupd.repo.comparing import Unit, units
from backupd.repo.reading import PackCache
from backupd.repo.repository import Repository, SnapshotView
from backupd.repo.rowdigest import ENDS_INSIDE, RowChunk
from backupd.report import Locked, Reporter

_LEAST_BUDGET = 256 * 1024
_Name = tuple[bytes, ...]


def compare_with_live(
    repo: Repository, old: SnapshotView, source: Source, *, asked: Asked, read_schema: ReadSchema, report: Reporter
) -> Comparison:
    """Compare a snapshot with what its source holds now.

    Args:
        repo: the repository, with the read right.
        old: a verified snapshot.
        source: the live database.
        asked: what is wanted.
        read_schema: tells what tables a database file has.
        report: progress.

    Raises:
        SafetyRefused: the source is of another engine.
        Unreachable, SourceIncomplete, TryAgain: it cannot be read.
        UsageError: there is nothing to compare, or no such table.
        IntegrityError: an object that is needed is missing, damaged or forged.
    """
    cache = PackCache(repo, sparse=True, fetchers=FETCHERS)
    try:
        side = StoredSide(repo, old, cache)
        check_engines(side.content["engine"], source.engine)
        if source.engine == "sqlite":
            found = _file(side, source, asked, read_schema, report)
        else:
            found = _tables(side, source, asked, report)
        found.fetched_bytes = cache.fetched_bytes
        return found
    finally:
        cache.close()


# ---- tables of rows


def _moment_of_view(engine: str, view: View) -> Moment:
    """What a live source says of its tables."""
    streams = {stream.name for stream in view.streams if stream.kind == "rows"}
    tables = {
        table.name: {
            "name": table.name,
            "key": list(table.key),
            "columns": [list(column) for column in table.columns],
            "format": table.format,
        }
        for table in view.tables
    }
    kept = {name: table for name, table in tables.items() if name in streams}
    return Moment(engine, view.facts, kept, tables.keys() - streams)


@dataclass(slots=True)
class _Table:
    """A table under comparison: what of the snapshot has not come yet, and the rows that it does not have."""

    match: Match
    difference: Difference = field(repr=False)
    expected: Counter[_Name]
    size_class: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    reason: str | None = None


class _Live:
    """The rows of a view, as far as a snapshot does not have them."""

    def __init__(self, side: StoredSide, view: View, tables: Mapping[str, _Table], report: Reporter) -> None:
        from backupd.repo.rows import RowHasher

        self._side, self._view, self._tables, self._report = side, view, tables, Locked(report)
        self._name: Callable[[memoryview], bytes] = ChunkNamer.of(side.secrets.id_key, Kind.ROWS).name
        self._hasher = RowHasher.of(side.secrets.id_key)

    def read(self) -> None:
        """Read all rows, as many streams at a time as the view allows.

        Raises:
            BackupdError: what went wrong in any thread.
        """
        streams = [s for s in self._view.streams if s.kind == "rows" and s.name in self._tables]
        readers = Readers(min(self._view.parallel, len(streams)), range(len(streams)))
        readers.run(lambda n: self._stream(streams[n], readers), lambda _: None)

    def _stream(self, stream: StreamInfo, readers: Readers) -> None:
        from backupd.repo.rows import RowCutter

        table = self._tables[stream.name]
        cutter = RowCutter(table.size_class, self._side.secrets.cut_key, self._hasher, stream.key)
        pieces = _Pieces()
        for data in self._view.read(stream):
            readers.check()
            self._report.advance(len(data))
            for chunk in cutter.feed(data):
                self._chunk(table, pieces, chunk)
        try:
            for chunk in cutter.finish():
                self._chunk(table, pieces, chunk)
        except ValueError:
            name = stream.name
            raise SourceIncomplete(f"the rows of {name} ended in the middle of one", object_name=name) from None
        self._view.counted(stream, cutter.digest.rows)

    def _chunk(self, table: _Table, pieces: "_Pieces", chunk: RowChunk) -> None:
        name = pieces.take(self._name(chunk.data), chunk)
        if name is None:
            return
        with table.lock:
            if table.match.projections is None and table.expected[name] > 0:
                table.expected[name] -= 1
            elif pieces.too_long:
                table.reason = TooLong(table.match.name).message
            elif table.reason is None:
                table.difference.add(_rows(pieces.whole(), table, 1), 1)
        pieces.clear()


class _Pieces:
    """A chunk, or the pieces of a long row until all of them are there."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._held: list[bytes | memoryview] = []
        self._names: list[bytes] = []
        self._size = 0
        self._is_row = self.too_long = False

    def take(self, name: bytes, chunk: RowChunk) -> _Name | None:
        """Add one; returns the name of the whole once it is complete."""
        inside = bool(chunk.flags & ENDS_INSIDE)
        self._names.append(name)
        self._size += len(chunk.data)
        self._is_row = self._is_row or inside
        self.too_long = self._is_row and self._size > LONGEST_ROW
        self._held = [] if self.too_long else [*self._held, bytes(chunk.data) if inside else chunk.data]
        return None if inside else tuple(self._names)

    def whole(self) -> list[bytes]:
        """The rows."""
        data = b"".join(self._held)
        return [data] if self._is_row else split_rows(data)


def _rows(rows: list[bytes], table: _Table, times: int) -> list[bytes]:
    projections = table.match.projections
    return rows if projections is None else list(map(projections[times > 0], rows))


def _tables(side: StoredSide, source: Source, asked: Asked, report: Reporter) -> Comparison:
    found = Comparison()
    with ExitStack() as stack:
        tables: dict[str, _Table] = {}
        with source.view() as view:
            then, now = moment_of(side.content), _moment_of_view(source.engine, view)
            matches = list(match_tables(then, now, asked.table))
            budget = max(_LEAST_BUDGET, BUDGET // max(1, len(matches)))
            for match in matches:
                found.schema_changes += match.changes
                reason = match.reason or (match.projections and asked.unclear(match.name, match.shape))
                if reason:
                    found.tables.append(TableDiff(match.name, reason=reason))
                    continue
                difference = asked.difference(match.name, match.shape, budget=budget)
                stack.callback(difference.close)
                tables[match.name] = _Table(match, difference, _expected(side, match), _size_class(side, match.name))
            wanted = [s for s in view.streams if s.name in tables]
            report.phase("reading the source", sum(s.size_hint or 0 for s in wanted) or None)
            _Live(side, view, tables, report).read()
            view.finish()
        for table in tables.values():
            found.tables.append(_told(side, table, asked, report))
    found.tables.sort(key=lambda table: table.name)
    return found


def _expected(side: StoredSide, match: Match) -> Counter[_Name]:
    """The chunks of a table in the snapshot; of one that is compared in parts none, for none can cancel out."""
    if match.old is None or match.projections is not None:
        return Counter()
    return Counter(_named(unit) for unit in units(side.streams(match.name)))


def _named(unit: Unit) -> _Name:
    return tuple(ref.id for ref in unit)


def _size_class(side: StoredSide, name: str) -> int:
    classes = [root.size_class for root, _ in side.streams(name).streams if root.size_class]
    return classes[0] if classes else ROWS


def _told(side: StoredSide, table: _Table, asked: Asked, report: Reporter) -> TableDiff:
    """Count what the snapshot has and the source has not, and tell."""
    name = table.match.name
    if table.reason is None and table.match.old is not None:
        report.phase(f"comparing {name}")
        try:
            for rows in side.rows(name, _left(side, table)):
                table.difference.add(_rows(rows, table, -1), -1)
                report.advance(sum(map(len, rows)))
        except TooLong as error:
            table.reason = error.message
    if table.reason is not None:
        return TableDiff(name, reason=table.reason)
    return asked.count(name, table.difference)


def _left(side: StoredSide, table: _Table) -> Iterator[Unit]:
    for unit in units(side.streams(table.match.name)):
        if table.match.projections is not None:
            yield unit
        elif table.expected[_named(unit)] > 0:
            table.expected[_named(unit)] -= 1
            yield unit


# ---- a database file


def _file(side: StoredSide, source: Source, asked: Asked, read_schema: ReadSchema, report: Reporter) -> Comparison:
    kept = Groups()
    stored = list(side.refs(kept))
    known = {ref.id: ref for ref in stored}
    name = ChunkNamer.of(side.secrets.id_key, Kind.PAGES).name
    names: list[bytes] = []
    spool, places = SealedFile(asked.folder), dict[bytes, int]()
    size = 0
    try:
        with source.view() as view:
            (stream,) = view.streams
            report.phase("reading the source", stream.size_hint)
            for data in view.read(stream):
                for at in range(0, len(data), PIECE):
                    piece = memoryview(data)[at : at + PIECE]
                    names.append(name(piece))
                    size += len(piece)
                    if names[-1] not in known and names[-1] not in places:
                        places[names[-1]] = spool.write(bytes(piece))
                report.advance(len(data))
            view.finish()

        def read(group: int) -> bytes:
            wanted = names[group]
            return spool.read(places[wanted]) if wanted in places else side.reader.read(known[wanted], Kind.PAGES)

        def ahead(groups: Sequence[int]) -> None:
            side.reader.expect([known[names[g]] for g in groups if names[g] in known])

        if names == [ref.id for ref in stored] and asked.table is None:
            return Comparison([TableDiff(table["name"]) for table in side.content["tables"]])
        live = PageFile(names, size, read, kept, ahead)
        return compare_files(side.file(kept), live, read_schema, asked, report)
    finally:
        spool.close()
