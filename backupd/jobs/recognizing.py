"""Rows into chunks: where the run before stands again, a chunk is recognised by its id before anything is asked of its rows.

Hashing each row and looking for cuts costs more than reading and naming them. So at the end of a chunk the next one of the
run before is tried on: if as many bytes have its id, it is that chunk, and its rows and their sums are known. Where not, the
cutter goes on, and as soon as one of its chunks ends where one of the run before did, the next one is tried on again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backupd.jobs.matching import RowMatcher
from backupd.repo.leaning import Candidates
from backupd.repo.rowdigest import RowChunk
from backupd.repo.rows import RowCutter
from backupd.repo.versions import Anchors, Version

_PATIENCE = 8
"""After so many chunks in a row that changed, only every one in so many is tried on."""


@dataclass(frozen=True, slots=True)
class Met:
    """A chunk, what the next run will know it by, and what it may have been."""

    chunk: RowChunk
    anchors: Anchors | None
    candidates: Candidates | None


class Recognizer:
    """Cuts one stream of rows. For one thread.

    Args:
        cutter: cuts what is not recognised; its digest counts everything.
        matcher: the run before, if anything is known of it.
        name: the id of a chunk.
        target: the size class in bytes.
    """

    def __init__(
        self, cutter: RowCutter, matcher: RowMatcher | None, name: Callable[[memoryview], bytes], target: int
    ) -> None:
        self._cutter, self._matcher, self._name = cutter, matcher, name
        self._longest, self._step, self._slack = 4 * target, target, target // 16
        self._held = b""
        self._fed = 0
        self._trying = matcher is not None and not matcher.empty
        self._missed = 0

    def feed(self, data: bytes | bytearray) -> Iterator[Met]:
        """Take more of the stream; gives the chunks that are complete."""
        if self._matcher is None or self._matcher.empty:
            for chunk in self._cutter.feed(data):
                yield self._met(chunk)
            return
        yield from self._go(self._matcher, b"".join((self._held, data)))

    def finish(self) -> Iterator[Met]:
        """The end of the stream.

        Raises:
            ValueError: it ends inside a row.
        """
        rest, self._held = self._held[self._fed :], b""
        for chunk in self._cutter.feed(rest):
            yield self._met(chunk)
        for chunk in self._cutter.finish():
            yield self._met(chunk)

    def _met(self, chunk: RowChunk) -> Met:
        if self._matcher is None:
            return Met(chunk, None, None)
        anchors = self._matcher.anchors(chunk)
        return Met(chunk, anchors, self._matcher.match(chunk, anchors))

    def _go(self, matcher: RowMatcher, held: bytes) -> Iterator[Met]:
        """`held` begins at the open chunk, of which the cutter has the first `_fed` bytes."""
        at, fed = 0, self._fed
        while True:
            if self._trying:
                version = matcher.expected(self._longest)
                if version is not None and len(held) - at < version.ref.plain_length:
                    break
                if version is not None and self._is(held, at, version):
                    end = at + version.ref.plain_length
                    chunk = self._cutter.chunk(held, at, end, version.rows, version.sums)
                    yield Met(self._cutter.count(chunk), *matcher.recognised(version))
                    at = fed = end
                    continue
                self._trying = False
            if fed >= len(held):
                break
            upto = self._upto(matcher, at, fed, len(held))
            chunks = self._cutter.feed(memoryview(held)[fed:upto])
            fed = upto
            for chunk in chunks:
                at += len(chunk.data)
                yield self._met(chunk)
                if matcher.aligned and self._worth_trying(matcher, held, at):
                    chunks.close()  # type: ignore[attr-defined]
                    self._cutter.forget()
                    fed, self._trying = at, True
                    break
        self._held, self._fed = held[at:], fed - at

    def _upto(self, matcher: RowMatcher, at: int, fed: int, size: int) -> int:
        """How far to look for the end of the open chunk: first a little behind where it was, as it mostly is there still."""
        if self._missed > _PATIENCE:
            return size
        version = matcher.expected(self._longest)
        end = at + version.ref.plain_length + self._slack if version else 0
        return min(size, end if fed < end else fed + self._step)

    def _worth_trying(self, matcher: RowMatcher, held: bytes, at: int) -> bool:
        """Whether the next chunk of the run before stands here; what the cutter has hashed already is given up for that."""
        if self._cutter.inside or (self._missed > _PATIENCE and self._missed % _PATIENCE):
            self._missed += 1
            return False
        version = matcher.expected(self._longest)
        return version is not None and len(held) - at >= version.ref.plain_length and self._is(held, at, version)

    def _is(self, held: bytes, at: int, version: Version) -> bool:
        same = self._name(memoryview(held)[at : at + version.ref.plain_length]) == version.ref.id
        self._missed = 0 if same else self._missed + 1
        return same
