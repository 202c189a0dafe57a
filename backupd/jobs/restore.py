"""Restore: a snapshot's stream comes back into a target, checked chunk by chunk and as a whole, before anybody sees it."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from backupd.crypto.chunks import Kind
from backupd.crypto.primitives import stream_digest
from backupd.engines.base import CheckLevel, RuleOf, Target
from backupd.errors import IntegrityError, SafetyRefused
from backupd.jobs.processes import usable
from backupd.jobs.together import Share
from backupd.repo.codecs import MAX_CHUNK
from backupd.repo.nodes import ChunkRef
from backupd.repo.reading import ChunkReader, PackCache, Spool
from backupd.repo.repository import Repository, SnapshotView
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import walk
from backupd.report import Reporter

BATCH = 16
AHEAD_BATCHES = 10
MANY_CHUNKS = 256
"""So many pay for other processes."""
_BATCH_BYTES, _MOST = MAX_CHUNK, 256
_PIECE = 4 * 1024 * 1024
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did.

    `seconds` ends with the rename, the engine's check is counted apart; `compared` tables were read back from a server
    and are what the snapshot holds; `erased` rows of it were left out, because the erasure ledger hides them.
    """

    tables: int
    rows: int | None
    bytes: int
    seconds: float
    check_seconds: float
    fetched_bytes: int
    warnings: tuple[str, ...]
    compared: int = 0
    erased: int = 0


def open_content(repo: Repository, view: SnapshotView) -> dict[str, Any]:
    """A snapshot's content part.

    Raises:
        MissingRight: no key at hand can read.
        IntegrityError: it is damaged.
    """
    session_key = repo.keyring.session(view.object.envelope).session_key
    return view.object.content(session_key, [root.kind for root in view.structure.streams])


def restore(
    repo: Repository,
    view: SnapshotView,
    target: Target,
    *,
    check: CheckLevel,
    report: Reporter,
    spool_folder: Path | None = None,
    erased: RuleOf | None = None,
) -> RestoreResult:
    """Write a snapshot into a prepared target.

    Args:
        repo: the repository, with the read right.
        view: the verified snapshot.
        target: prepared already, so that nothing that is refused at the end costs hours.
        check: the engine's own check before the result becomes visible.
        report: progress.
        spool_folder: where packs wait on disk, as ciphertext, if fetching one twice is dear.
        erased: which rows must not come back.

    Raises:
        IntegrityError: an object that this snapshot needs is missing, damaged or forged; nothing is left behind.
    """
    began = time.monotonic()
    content = open_content(repo, view)
    check_engine(view, content, "sqlite")
    if [stream.kind for stream in view.structure.streams] != [Kind.PAGES]:
        raise IntegrityError(f"snapshot {view.id[:12]} is no database file", object_name=view.object.name)
    root, described = view.structure.streams[0], content["streams"][0]
    report.phase("restoring", root.size)
    cache = PackCache(repo, spool=Spool(spool_folder) if spool_folder else None)
    try:
        reader = ChunkReader(repo, cache, view.object.envelope)
        if spool_folder:
            cache.uses = count_uses(root, reader)
        buffers = joined(root, reader, cache, described["digest"], report)
        loaded = target.load(buffers, size=root.size, facts=content["facts"], check=check, rule_of=erased)
    finally:
        cache.close()
    return RestoreResult(
        len(content["tables"]),
        None if view.structure.rows is None else view.structure.rows - loaded.left_out,
        loaded.bytes,
        time.monotonic() - began - loaded.check_seconds,
        loaded.check_seconds,
        cache.fetched_bytes,
        loaded.warnings,
        erased=loaded.left_out,
    )


def check_engine(view: SnapshotView, content: Mapping[str, Any], *engines: str) -> None:
    """A snapshot goes back into an engine of its own kind.

    Raises:
        SafetyRefused: the target is of another engine.
    """
    if content["engine"] not in engines:
        raise SafetyRefused(
            f"snapshot {view.id[:12]} holds a {content['engine']} database, and the target is {engines[0]}",
            hint=f"name a target of the same kind, {content['engine']}://... , or export the snapshot",
        )


def count_uses(root: StreamRoot, reader: ChunkReader) -> dict[bytes, int]:
    """How often a stream's chunks and their bases are read from each pack."""
    uses: dict[bytes, int] = {}
    waiting: list[ChunkRef]
    for ref in walk(root.top, root.kind, reader.node_loader(), totals=root.totals):
        waiting = [ref]
        met: set[int] = set()
        while waiting:
            one = waiting.pop()
            if id(one) not in met:
                met.add(id(one))
                uses[one.pack] = uses.get(one.pack, 0) + 1
                waiting += one.bases
    return uses


def joined(
    root: StreamRoot, reader: ChunkReader, cache: PackCache, digest: str | None, report: Reporter
) -> Iterator[bytes]:
    """The stream's chunks in order, opened by a few threads.

    Args:
        root: the stream.
        reader: opens chunks.
        cache: where its packs are.
        digest: BLAKE3 of the whole, in hex; at the end an error unless it is that. None for streams of rows.
        report: progress.
    """
    running = stream_digest()
    for plain in _chunks(root, reader, cache):
        if digest is not None:
            running.update(plain)
        report.advance(len(plain))
        yield plain
    if digest is not None and running.hexdigest() != digest:
        raise IntegrityError(
            "the restored stream is not the one that was captured", hint="please report this: it is a bug"
        )


def _chunks(root: StreamRoot, reader: ChunkReader, cache: PackCache) -> Iterator[bytes]:
    """A stream's chunks in order: of many that are in files of this machine, opened by several processes."""

    def refs() -> Iterator[ChunkRef]:
        return walk(root.top, root.kind, reader.node_loader(), totals=root.totals)

    if not cache.local or root.chunks < MANY_CHUNKS or (processes := usable()) == 1:
        yield from opened(refs(), root.kind, reader, cache)
        return
    share = Share(
        lambda: _batches(refs()),
        lambda ref: reader.read(ref, root.kind),
        lambda ref: ref.plain_length,
        largest=_BATCH_BYTES,
        cost=lambda: cache.fetched_bytes,
        processes=processes,
        ahead=2 if root.kind is Kind.PAGES else 1,
    )
    try:
        yield from share.run()
    finally:
        cache.count(share.elsewhere)


def _batches(refs: Iterator[ChunkRef]) -> Iterator[list[ChunkRef]]:
    """Some chunks each, of no more bytes than the largest chunk has; few, also where a hostile list names tiny ones."""
    batch: list[ChunkRef] = []
    size = 0
    for ref in refs:
        if len(batch) >= _MOST or (batch and size + ref.plain_length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(ref)
        size += ref.plain_length
    if batch:
        yield batch


def opened(refs: Iterator[ChunkRef], kind: Kind, reader: ChunkReader, cache: PackCache) -> Iterator[bytes]:
    """Chunks in the order in which they are asked for, opened ahead by a few threads."""
    return read_ahead(refs, lambda ref: reader.read(ref, kind), reader.expect, cache)


def read_ahead(
    refs: Iterator[ChunkRef],
    read: Callable[[ChunkRef], _T],
    expect: Callable[[Sequence[ChunkRef]], None],
    cache: PackCache,
) -> Iterator[_T]:
    """What is read of chunks, in the order in which they are asked for, ahead and by a few threads.

    Args:
        refs: the chunks.
        read: reads one of them.
        expect: told of those that are read next.
        cache: where packs come from.
    """
    hold_on_to_memory()
    threads = min(8, max(2, len(os.sched_getaffinity(0))))
    pending: deque[Future[list[_T]]] = deque()

    def some(batch: list[ChunkRef]) -> list[_T]:
        return [read(ref) for ref in batch]

    with ThreadPoolExecutor(threads, thread_name_prefix="open") as pool:
        try:
            while True:
                while len(pending) < AHEAD_BATCHES and (batch := list(islice(refs, BATCH))):
                    expect(batch)
                    for pack in {ref.pack for ref in batch}:
                        cache.prefetch(pack)
                    pending.append(pool.submit(some, batch))
                if not pending:
                    break
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@cache
def hold_on_to_memory() -> None:
    """Keep glibc from giving memory back to the system after each chunk, to ask for it again at the next one.

    It does that until a larger piece has been freed, and takes its size for a measure then (mallopt(3), M_MMAP_THRESHOLD).
    Nothing is written to this piece, so it takes no memory, and to other libraries it means nothing.
    """
    bytes(_PIECE)
