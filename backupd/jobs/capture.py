"""The pipeline between a source's view and a session: read, cut, name, compress, seal, place; several streams at once.

A few threads read and cut, the run's workers name, compress and seal, and the run's own thread places what is ready, in
the order of each stream. What is under way is bounded, whatever the source's size.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupd.crypto.chunks import Kind
from backupd.crypto.primitives import Running, stream_digest
from backupd.engines.source import StreamInfo, View
from backupd.errors import SourceIncomplete
from backupd.jobs.makers import helping
from backupd.jobs.matching import PlaceMatcher, RowMatcher
from backupd.jobs.spill import ReadAhead
from backupd.repo.leaning import Candidates
from backupd.repo.nodes import ContentEntry
from backupd.repo.preparing import IN_LINE, Prepared
from backupd.repo.versioncache import VersionCache
from backupd.repo.versions import Anchors
from backupd.repo.writing import WriteSession
from backupd.report import Reporter

if TYPE_CHECKING:
    from backupd.jobs.recognizing import Met, Recognizer
    from backupd.repo.rowdigest import RowDigest
    from backupd.repo.rows import RowHasher

PIECE = 64 * 1024
BATCH_BYTES = 8 * 1024 * 1024
"""What all readers of rows hand over at a time; each of them at most a mebibyte and at least a quarter."""
ROWS, PAGES = 64, 64
"""The target size of a new stream's chunks, in KiB. With rows in 16 every kind of night stored more and took up to half as much
processor time again (tests/bench/RESULTS.md)."""
_UNDER_WAY = 8
_LAST_WAIT = 5.0
_KINDS = {"pages": Kind.PAGES, "rows": Kind.ROWS, "schema": Kind.SCHEMA}


@dataclass(slots=True)
class CapturedStream:
    """What is known of a stream once it was read: `digest` of pages and schemas, `rows` of rows."""

    info: StreamInfo
    digest: Running | None = None
    rows: "RowDigest | None" = None

    def hexdigest(self) -> str:
        """As the manifest writes it."""
        if self.rows is not None:
            return self.rows.hexdigest()
        return self.digest.hexdigest() if self.digest else ""


@dataclass(slots=True)
class Captured:
    """What a capture read, stream by stream, and how many buffers had to wait on disk."""

    streams: list[CapturedStream] = field(default_factory=list)
    spilled: int = 0


@dataclass(slots=True)
class _Batch:
    """Chunks under way: which stream they belong to, and what they will be."""

    stream: int
    size: int
    prepared: "Future[list[Prepared]]"
    content: list[ContentEntry] | None
    anchors: list[Anchors] | None = None


class Stopped(Exception):
    """The thread that waits for the readers has given up."""


class Readers:
    """A few threads that take one job after the other and hand on what they make; the first failure stops all.

    Args:
        count: threads.
        jobs: numbers, in the order in which they are begun.
    """

    def __init__(self, count: int, jobs: Iterable[int]) -> None:
        self._count = max(1, count)
        self._jobs = iter(list(jobs))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ready: queue.Queue[object] = queue.Queue(_UNDER_WAY)

    def run(self, work: Callable[[int], None], take: Callable[[Any], None]) -> None:
        """Do all jobs; what they give (`give`) is taken in this thread.

        Raises:
            BaseException: whatever a job raised.
        """
        threads = [
            threading.Thread(target=self._work, args=(work,), name=f"read-{n}", daemon=True) for n in range(self._count)
        ]
        waiting = self._count
        try:
            for thread in threads:
                thread.start()
            while waiting:
                item = self._ready.get()
                if item is None:
                    waiting -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    take(item)
        except BaseException:
            self._stop.set()
            raise
        finally:
            # a reader that waits for a silent server ends when its view is closed
            end = time.monotonic() + _LAST_WAIT
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, end - time.monotonic()) if self._stop.is_set() else None)

    def give(self, item: object) -> None:
        """Hand something on, from a job; waits while much is under way.

        Raises:
            Stopped: nobody wants it any more.
        """
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return
        raise Stopped

    def check(self) -> None:
        """Ask, from a job that gives nothing, whether to go on.

        Raises:
            Stopped: no.
        """
        if self._stop.is_set():
            raise Stopped

    def _next(self) -> int | None:
        with self._lock:
            return next(self._jobs, None)

    def _work(self, work: Callable[[int], None]) -> None:
        try:
            while (n := self._next()) is not None:
                work(n)
            self.give(None)
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread, which raises it
            with contextlib.suppress(Stopped):
                self.give(error)


class _Capture:
    """One capture under way."""

    def __init__(self, view: View, session: WriteSession, workers: ThreadPoolExecutor, folder: Path) -> None:
        self._view, self._session, self._workers, self._folder = view, session, workers, folder
        self._kept = Captured([_begin(info) for info in view.streams])
        self._classes = _size_classes(view.streams, session.versions)
        self._places = _places(view.streams)
        session.expect(_total(view.streams))
        self._writers = [
            session.stream(_KINDS[s.kind], n, s.name) for s, n in zip(view.streams, self._classes, strict=True)
        ]
        self._hasher = self._row_hasher() if any(s.kind == "rows" for s in view.streams) else None
        self._read = 0
        self._lock = threading.Lock()
        self._readers = Readers(1, ())
        self._enough = min(1 << 20, max(1 << 18, BATCH_BYTES // max(1, view.parallel)))

    def _row_hasher(self) -> "RowHasher":
        from backupd.repo.rows import RowHasher

        return RowHasher.of(self._session.secrets.id_key)

    def run(self, report: Reporter) -> Captured:
        """Read everything.

        Raises:
            BackupdError: whatever went wrong in any thread.
        """
        late = [n for n, s in enumerate(self._view.streams) if s.late]
        early = [n for n, s in enumerate(self._view.streams) if not s.late]
        for count, jobs in ((self._view.parallel, early), (1, late)):
            self._readers = Readers(min(count, len(jobs)), jobs)
            self._readers.run(self._work, lambda batch: self._place(batch, report))
        if self._read != len(self._writers):
            raise SourceIncomplete("not every stream was read", hint="please report this: it is a bug")
        return self._kept

    def _place(self, batch: _Batch, report: Reporter) -> None:
        self._writers[batch.stream].add(batch.prepared.result(), batch.content, batch.anchors)
        self._session.counts.read_bytes += batch.size
        report.advance(batch.size)

    def _work(self, n: int) -> None:
        stream = self._kept.streams[n]
        if stream.rows is not None:
            self._rows(n, stream)
        else:
            self._plain(n, stream)
        with self._lock:
            self._read += 1

    def _submit(
        self,
        n: int,
        kind: Kind,
        pieces: Sequence[memoryview],
        candidates: Sequence[Candidates] | None,
        content: list[ContentEntry] | None = None,
        anchors: list[Anchors] | None = None,
    ) -> None:
        size = sum(map(len, pieces))
        prepared = self._workers.submit(self._session.prepare, kind, pieces, candidates)
        self._readers.give(_Batch(n, size, prepared, content, anchors))

    def _plain(self, n: int, stream: CapturedStream) -> None:
        """Schemas, and pages: pieces of fixed length. Pages wait on disk once their source suffers."""
        if stream.info.kind == "schema":
            self._pieces(n, stream, _whole(self._view.read(stream.info)))
            return
        ahead = ReadAhead(self._view, stream.info, self._folder)
        try:
            self._pieces(n, stream, ahead)
        finally:
            ahead.close()
            self._kept.spilled += ahead.spilled

    def _pieces(self, n: int, stream: CapturedStream, buffers: Iterable[bytes | bytearray]) -> None:
        kind = _KINDS[stream.info.kind]
        cache = self._session.versions
        matcher = PlaceMatcher(cache, cache.lists(stream.info.name, kind), self._places[n]) if cache else None
        for data in buffers:
            if stream.digest is not None:
                stream.digest.update(data)
            whole = memoryview(data)
            pieces = [whole[at : at + PIECE] for at in range(0, len(whole), PIECE)]
            self._submit(n, kind, pieces, matcher.match(len(pieces)) if matcher else None)
        if matcher:
            matcher.close()

    def _rows(self, n: int, stream: CapturedStream) -> None:
        """Rows: cut by content, counted and digested."""
        from backupd.jobs.recognizing import Met, Recognizer
        from backupd.repo.rows import RowCutter

        assert self._hasher is not None
        session, target = self._session, self._classes[n]
        cache = session.versions
        matcher = RowMatcher(cache, cache.lists(stream.info.name, Kind.ROWS), self._places[n]) if cache else None
        cutter = RowCutter(target, session.secrets.cut_key, self._hasher, stream.info.key)
        cut = Recognizer(cutter, matcher, lambda piece: session.name(Kind.ROWS, piece), target * 1024)
        batch: list[Met] = []
        size = 0
        for met in self._cut(cut, stream.info):
            batch.append(met)
            size += len(met.chunk.data)
            if size >= self._enough:
                self._give(n, batch)
                batch, size = [], 0
        if batch:
            self._give(n, batch)
        if matcher:
            matcher.close()
        stream.rows = cutter.digest
        self._view.counted(stream.info, cutter.digest.rows)

    def _cut(self, cutter: "Recognizer", info: StreamInfo) -> "Iterator[Met]":
        for data in self._view.read(info):
            self._readers.check()
            with self._session.preparer.turn:
                found = list(cutter.feed(data))
            yield from found
        try:
            yield from cutter.finish()
        except ValueError:
            raise SourceIncomplete(
                f"the rows of {info.name} ended in the middle of one", object_name=info.name
            ) from None

    def _give(self, n: int, batch: "Sequence[Met]") -> None:
        chunks = [met.chunk for met in batch]
        content = [ContentEntry(c.rows, c.first, c.last, c.flags) for c in chunks]
        anchors = [met.anchors for met in batch if met.anchors is not None]
        candidates = [met.candidates for met in batch if met.candidates is not None]
        self._submit(n, Kind.ROWS, [c.data for c in chunks], candidates or None, content, anchors or None)


def _begin(info: StreamInfo) -> CapturedStream:
    if info.kind != "rows":
        return CapturedStream(info, stream_digest())
    from backupd.repo.rowdigest import RowDigest

    return CapturedStream(info, None, RowDigest())


def _total(streams: Sequence[StreamInfo]) -> int | None:
    hints = [s.size_hint for s in streams]
    return None if None in hints else sum(h for h in hints if h is not None)


def _size_classes(streams: Sequence[StreamInfo], cache: VersionCache | None) -> list[int]:
    """The target size of each stream's chunks, in KiB: of rows what it was when the table was first seen."""

    def of(s: StreamInfo) -> int:
        if s.kind != "rows":
            return PAGES
        return (cache.size_class(s.name, Kind.ROWS) if cache else None) or ROWS

    return [of(s) for s in streams]


def _places(streams: Sequence[StreamInfo]) -> list[int]:
    """Of each stream, its place among those of its name and kind."""
    met: dict[tuple[str, str], int] = {}
    out = []
    for s in streams:
        out.append(met.get((s.name, s.kind), 0))
        met[s.name, s.kind] = out[-1] + 1
    return out


def _whole(buffers: Iterator[bytes | bytearray]) -> Iterator[bytes]:
    """The same bytes in buffers of whole pieces, so that cuts do not depend on how they arrive."""
    held = b""
    for data in buffers:
        held += data
        upto = len(held) - len(held) % PIECE
        if upto:
            yield held[:upto]
            held = held[upto:]
    if held:
        yield held


def capture(view: View, session: WriteSession, threads: int, *, folder: Path, report: Reporter) -> Captured:
    """Read all streams of a view into a session.

    Args:
        view: open.
        session: where chunks go.
        threads: so many name, compress and seal.
        folder: where buffers may wait, sealed, once the source suffers.
        report: progress.

    Raises:
        BackupdError: whatever went wrong, in any thread.
    """
    names = {s.name for s in view.streams}
    what = next(iter(names)) if len(names) == 1 else f"{len(names)} tables and schemas"
    report.phase(f"reading {what}", _total(view.streams))
    with helping(session, view.streams) as helpers:
        workers = ThreadPoolExecutor(threads + len(helpers) * IN_LINE, thread_name_prefix="seal")
        try:
            return _Capture(view, session, workers, folder).run(report)
        except BaseException:
            for helper in helpers:
                helper.kill()
            raise
        finally:
            workers.shutdown(wait=True, cancel_futures=True)
