"""Compare two snapshots: which records of which tables were added, removed, changed.

What it reads follows what changed; see `repo.comparing` and `records.pagediff`. It stores nothing, and writes nothing but
sealed, nameless temporary files. Rows reach the caller as records, and never a message, a log or a warning.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TypeVar

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.jobs.comparepages import ReadSchema, compare_files
from backupd.jobs.comparison import LONGEST_ROW, Asked, Comparison, TableDiff, TooLong
from backupd.jobs.pagefile import Groups, PageFile, stored_file
from backupd.jobs.processes import shared, usable
from backupd.jobs.restore import AHEAD_BATCHES, BATCH, hold_on_to_memory, open_content, opened, read_ahead
from backupd.jobs.tableshapes import Match, SchemaChange, check_engines, match_tables, moment_of
from backupd.records.pagediff import GROUP
from backupd.records.shapes import Projection
from backupd.repo.chunklist import ChunkList
from backupd.repo.codecs import RowDelta, split_rows
from backupd.repo.comparing import RowStreams, Unit, differing_rows, remaining, units
from backupd.repo.nodes import ChunkRef
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.repository import Repository, SnapshotView
from backupd.repo.trees import walk
from backupd.report import Reporter

KEPT, FETCHERS = 32, 8
MANY_BATCHES = 32
"""So many pay for other processes: a fork takes some milliseconds."""
_T = TypeVar("_T")
_SCRIPTS = frozenset({"schema.sql", "after.sql"})
_COUNTER = re.compile(rb" AUTO_INCREMENT=\d+")
_MOST_OF_SCRIPT = 1024
"""Chunks of a script that are compared."""


class StoredSide:
    """A snapshot as one side of a comparison."""

    def __init__(self, repo: Repository, view: SnapshotView, cache: PackCache) -> None:
        self.view, self.cache, self._repo = view, cache, repo
        self.content = open_content(repo, view)
        self.secrets = repo.keyring.session(view.object.envelope)
        self.reader = ChunkReader(repo, cache, view.object.envelope, keep=KEPT)

    @property
    def owner(self) -> tuple[bytes, int, bytes]:
        """Under equal owners, equal rows have equal ids."""
        return self.secrets.writer, self.secrets.epoch, self.secrets.id_key

    def streams(self, name: str) -> RowStreams:
        """The row streams of a table."""
        pairs = zip(self.view.structure.streams, self.content["streams"], strict=True)
        return RowStreams([(r, s) for r, s in pairs if s["kind"] == "rows" and s["name"] == name], self.reader)

    def opened(self, refs: Iterable[ChunkRef]) -> Iterator[bytes]:
        """Chunks of rows."""
        return opened(iter(refs), Kind.ROWS, self.reader, self.cache)

    def taken(
        self, refs: Sequence[ChunkRef], take: Callable[[Sequence[bytes]], _T], *, alone: bool = False
    ) -> Iterator[_T]:
        """What is taken of chunks of rows, of some at once, in their order; each is read once.

        They are opened here and not by threads: what is taken of them in Python would only keep those waiting for each other.
        Of many in files of this machine, other processes open their share, unless it is to be done `alone`: what is taken is
        large, or much is done with it here.
        """
        hold_on_to_memory()
        batches = [refs[n : n + BATCH] for n in range(0, len(refs), BATCH)]
        if alone or len(batches) < MANY_BATCHES or not self.cache.local or (processes := usable()) == 1:
            yield from self._taken_here(batches, take)
            return
        cache = PackCache(self._repo, sparse=True)
        reader = ChunkReader(self._repo, cache, self.view.object.envelope)

        def some(batch: Sequence[ChunkRef]) -> tuple[_T, int]:
            before = cache.fetched_bytes
            return take([reader.read(ref, Kind.ROWS) for ref in batch]), cache.fetched_bytes - before

        with closing(cache):
            for found, fetched in shared(batches, some, processes=processes):
                self.cache.fetched_bytes += fetched
                yield found

    def _taken_here(self, batches: Sequence[Sequence[ChunkRef]], take: Callable[[Sequence[bytes]], _T]) -> Iterator[_T]:
        reader = ChunkReader(self._repo, self.cache, self.view.object.envelope)
        for batch in batches[:AHEAD_BATCHES]:
            reader.expect(batch)
        for n, batch in enumerate(batches):
            for ahead in batches[n + AHEAD_BATCHES : n + AHEAD_BATCHES + 1]:
                reader.expect(ahead)
            yield take([reader.read(ref, Kind.ROWS) for ref in batch])

    def deltas(self, refs: Iterable[ChunkRef]) -> Iterator[RowDelta]:
        """Row deltas."""
        return read_ahead(iter(refs), self.reader.row_delta, self.cache.expect, self.cache)

    def rows(self, name: str, table: Iterable[Unit]) -> Iterator[list[bytes]]:
        """The rows of units, a chunk of them at a time.

        Raises:
            TooLong: one is too long.
        """
        held: list[ChunkRef] = []
        for unit in table:
            if len(unit) > 1:
                yield [self.long(name, unit)]
                continue
            held += unit
            if len(held) >= 512:
                yield from map(split_rows, self.opened(held))
                held = []
        yield from map(split_rows, self.opened(held))

    def refs(self, kept: Groups) -> ChunkList:
        """The chunks of the database file; their list is read as it is asked.

        Raises:
            IntegrityError: the snapshot is none of a file.
        """
        roots = self.view.structure.streams
        if [root.kind for root in roots] != [Kind.PAGES]:
            raise IntegrityError(f"snapshot {self.view.id[:12]} is no database file", object_name=self.view.object.name)
        load, name = self.reader.node_loader(), self.view.object.name
        return ChunkList(roots[0], GROUP, load, owner=self.owner, nodes=kept.nodes, name=name)

    def file(self, kept: Groups) -> PageFile:
        """The database file, read as its pages are asked for."""
        refs = self.refs(kept)
        return stored_file(refs, self.view.structure.streams[0].size, self.reader, kept)

    def scripts(self) -> dict[str, str | None]:
        """The digests of the scripts that define everything but rows and their counters."""
        return {
            s["name"]: s["digest"] for s in self.content["streams"] if s["kind"] == "schema" and s["name"] in _SCRIPTS
        }

    def definitions(self, name: str) -> bytes:
        """A script, without the numbers that the next rows will get; a very long one as far as it is read."""
        pairs = zip(self.view.structure.streams, self.content["streams"], strict=True)
        (root,) = [root for root, s in pairs if s["kind"] == "schema" and s["name"] == name][:1]
        refs = walk(root.top, Kind.SCHEMA, self.reader.node_loader(), totals=root.totals)
        return _COUNTER.sub(b"", b"".join(opened(islice(refs, _MOST_OF_SCRIPT), Kind.SCHEMA, self.reader, self.cache)))

    def long(self, name: str, unit: Unit) -> bytes:
        """A row that was cut into pieces."""
        if sum(ref.plain_length for ref in unit) > LONGEST_ROW:
            raise TooLong(name)
        return b"".join(self.opened(unit))


class _Rows:
    """The comparison of two snapshots whose tables are streams of rows."""

    def __init__(self, old: StoredSide, new: StoredSide, asked: Asked, report: Reporter) -> None:
        self._old, self._new, self._asked, self._report = old, new, asked, report
        self._one_owner = old.owner == new.owner

    def table(self, match: Match) -> TableDiff:
        """One table."""
        if match.reason is not None:
            return TableDiff(match.name, reason=match.reason)
        if self._same(match):
            return TableDiff(match.name)
        one_sided = match.old is None or match.new is None
        if one_sided and not self._asked.whole(match.name, match.shape):
            return TableDiff(match.name, (match.new or {}).get("rows", 0), (match.old or {}).get("rows", 0))
        if match.projections is not None and (reason := self._asked.unclear(match.name, match.shape)):
            return TableDiff(match.name, reason=reason)
        self._report.phase(f"comparing {match.name}")
        with closing(self._asked.difference(match.name, match.shape)) as difference:
            try:
                for rows, times in self._differing(match):
                    difference.add(rows, times)
                    self._report.advance(sum(map(len, rows)))
            except TooLong as error:
                return TableDiff(match.name, reason=error.message)
            return self._asked.count(match.name, difference)

    def _same(self, match: Match) -> bool:
        """Whether the digests of both sides say that all rows are the same."""
        if match.old is None or match.new is None or match.projections is not None:
            return False
        return self._one_owner and match.old["digest"] == match.new["digest"]

    def _differing(self, match: Match) -> Iterator[tuple[list[bytes], int]]:
        old, new = self._old.streams(match.name), self._new.streams(match.name)
        if match.projections is not None or not self._one_owner:
            was, now = match.projections or (None, None)
            yield from _whole(self._old, old, match.name, -1, was)
            yield from _whole(self._new, new, match.name, 1, now)
            return
        before, after = remaining(old, new)
        yield from differing_rows(before.chunks, after.chunks, self._new.deltas, self._new.opened)
        for side, times in ((before, -1), (after, 1)):
            for unit in side.long:
                yield [self._new.long(match.name, unit)], times


def _whole(
    side: StoredSide, streams: RowStreams, name: str, times: int, projection: Projection | None
) -> Iterator[tuple[list[bytes], int]]:
    for rows in side.rows(name, units(streams)):
        yield rows if projection is None else list(map(projection, rows)), times


def compare(
    repo: Repository,
    old: SnapshotView,
    new: SnapshotView,
    *,
    asked: Asked,
    read_schema: ReadSchema,
    report: Reporter,
) -> Comparison:
    """Compare two snapshots of one engine.

    Args:
        repo: the repository, with the read right.
        old, new: verified snapshots.
        asked: what is wanted.
        read_schema: tells what tables a database file has.
        report: progress.

    Raises:
        SafetyRefused: they are of different engines.
        UsageError: there is nothing to compare, or no such table.
        IntegrityError: an object that is needed is missing, damaged or forged.
    """
    cache = PackCache(repo, sparse=True, fetchers=FETCHERS)
    try:
        was, now = StoredSide(repo, old, cache), StoredSide(repo, new, cache)
        check_engines(was.content["engine"], now.content["engine"])
        if was.owner == now.owner:
            was.reader = now.reader  # what one side has read, the other one leans on
        if now.content["engine"] == "sqlite":
            found = _files(was, now, asked, read_schema, report)
        else:
            found = _tables(was, now, asked, report)
        found.fetched_bytes = cache.fetched_bytes
        return found
    finally:
        cache.close()


def _tables(was: StoredSide, now: StoredSide, asked: Asked, report: Reporter) -> Comparison:
    found = Comparison()
    work = _Rows(was, now, asked, report)
    for match in match_tables(moment_of(was.content), moment_of(now.content), asked.table):
        found.schema_changes += match.changes
        found.tables.append(work.table(match))
    found.schema_changes += _other_definitions(was, now)
    return found


def _files(was: StoredSide, now: StoredSide, asked: Asked, read_schema: ReadSchema, report: Reporter) -> Comparison:
    digests = [side.content["streams"][0]["digest"] for side in (was, now)]
    names = [table["name"] for table in now.content["tables"]]
    if digests[0] is not None and digests[0] == digests[1] and asked.table in (None, *names):
        return Comparison([TableDiff(name) for name in names if asked.table in (None, name)])
    kept = Groups()
    return compare_files(was.file(kept), now.file(kept), read_schema, asked, report)


def _other_definitions(old: StoredSide, new: StoredSide) -> Iterator[SchemaChange]:
    """Schema scripts that are not what they were: views, indexes, constraints, functions, grants."""
    was, now = old.scripts(), new.scripts()
    for name in sorted({*was, *now}):
        if was.get(name) == now.get(name):
            continue
        if name not in was or name not in now or old.definitions(name) != new.definitions(name):
            yield SchemaChange(None, "definitions changed", name)
