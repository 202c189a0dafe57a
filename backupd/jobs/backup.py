"""The main job: one consistent moment of a source becomes a snapshot.

Read, cut, name, compress, seal, pack, upload, in a pipeline of bounded depth. The snapshot object is the last write; whatever
fails before it leaves no snapshot, and nothing is reported as done before the storage was looked at again.
"""

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from backupd.config.clock import stamp
from backupd.config.paths import Places
from backupd.config.version import VERSION
from backupd.crypto.chunks import Kind
from backupd.crypto.envelope import structure_key_id
from backupd.crypto.keyfile import Key
from backupd.crypto.primitives import stream_digest
from backupd.engines.base import Source, StreamInfo, View
from backupd.errors import Failed, TryAgain
from backupd.jobs.spill import ReadAhead
from backupd.repo.commit import check_head, commit
from backupd.repo.indexing import sync_index
from backupd.repo.ledger import state_lock
from backupd.repo.localindex import LocalIndex
from backupd.repo.repository import Repository
from backupd.repo.snapshot import StreamRoot, Structure
from backupd.repo.writing import Prepared, WriteSession
from backupd.report import Reporter

PIECE = 64 * 1024
_KINDS = {"pages": Kind.PAGES, "rows": Kind.ROWS, "schema": Kind.SCHEMA}


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """What the user may say of a run."""

    name: str
    tags: tuple[str, ...] = ()
    note: str = field(default="", repr=False)
    hold: str | None = None
    check: bool = False
    level: int = 3
    accept_rollback: bool = False
    threads: int = field(default_factory=lambda: min(8, max(2, len(os.sched_getaffinity(0)))))


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a run did."""

    snapshot: str
    source: str
    seq: int
    read_bytes: int
    stored_bytes: int
    chunks: dict[str, int]
    rows: int | None
    seconds: float
    warnings: tuple[str, ...]
    spilled: int = 0


def index_path(folder: Places, key: Key) -> Path:
    """The local index file of a write key and its epoch: a revoked key's entries are never met again."""
    return folder.cache / f"index-{key.header.id.hex()}-{key.secrets.epoch}.sqlite"


def open_index(repo: Repository, key: Key, folder: Places, report: Reporter) -> LocalIndex:
    """The local index of this writer and epoch, brought up to date."""
    try:
        index = LocalIndex(index_path(folder, key), key.secrets["id"])
    except OSError as error:
        report.warning(
            f"the cache folder {folder.cache} cannot be written ({error.strerror}); going on with a temporary one"
        )
        scratch = Path(tempfile.mkdtemp(prefix="backupd-index-"))
        index = LocalIndex(index_path(replace(folder, cache=scratch), key), key.secrets["id"], temporary=True)
    try:
        sync_index(repo, index, key.header.writer, structure_key_id(key.secrets["structure"]), report)
    except BaseException:
        index.close()
        raise
    return index


def backup(
    source: Source,
    repo: Repository,
    key: Key,
    *,
    folder: Places,
    clock: Callable[[], datetime],
    options: BackupOptions,
    report: Reporter,
) -> BackupResult:
    """Take a snapshot of `source`.

    Raises:
        BackupdError: whatever went wrong; then there is no snapshot.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        head = check_head(repo, key.header.writer, accept_rollback=options.accept_rollback)
        if head and head.damaged:
            report.warning(
                f"the newest snapshot object, {head.damaged}, is damaged; `backupctl verify` tells what is left"
            )
        _warn_expired(repo, clock(), report)
        _check_state(folder)
        asked = clock()
        view = stack.enter_context(source.view(check=options.check))
        taken = asked if options.check else clock()
        index = open_index(repo, key, folder, report)
        stack.callback(index.close)
        session = WriteSession(repo, key, index, started=taken, level=options.level)
        stack.callback(session.close)
        workers = ThreadPoolExecutor(options.threads, thread_name_prefix="seal")
        stack.callback(workers.shutdown, wait=True, cancel_futures=True)
        roots, digests, spilled = [], [], 0
        for stream in view.streams:
            root, digest, count = _stream(view, stream, session, workers, folder, report)
            roots.append(root)
            digests.append(digest)
            spilled += count
        session.write_segment()
        _fence(repo, began, (clock() - taken).total_seconds())
        session.check_packs()
        if gone := session.referenced_names() & repo.marked_packs(report):
            raise TryAgain(
                f"{len(gone)} packs that this run leans on were marked for removal while it ran; nothing was published",
                object_name=min(gone),
                hint="run again: what is about to go is stored anew",
            )
        structure, content = _describe(source, view, session, roots, digests, stamp(taken), options)
        done = commit(
            session, structure, content, locks=folder.state, report=report, accept_rollback=options.accept_rollback
        )
        session.check_packs()
        counts = session.counts
        return BackupResult(
            done.id.hex(),
            options.name,
            done.seq,
            counts.read_bytes,
            counts.stored_bytes,
            counts.chunks(),
            structure.rows,
            time.monotonic() - began,
            (*view.warnings, *_empty(view)),
            spilled,
        )


def _warn_expired(repo: Repository, now: datetime, report: Reporter) -> None:
    if repo.trust.expires and repo.trust.expires < stamp(now):
        report.warning(f"the trust document expired on {repo.trust.expires}; have it signed again with the root key")


def _check_state(folder: Places) -> None:
    """What must be remembered at the end must be possible to remember: found out before anything is stored."""
    try:
        with state_lock(folder.state, "probe"):
            pass
    except OSError as error:
        raise Failed(
            f"the state folder {folder.state} cannot be written: {error.strerror}",
            object_name=str(folder.state),
            hint="name another one with --state; it remembers the newest snapshots, so that a rollback is noticed",
        ) from None


def _fence(repo: Repository, began: float, on_the_wall: float) -> None:
    """A session must not outlive what garbage collection waits for; a suspended machine's monotonic clock stands still."""
    hours = repo.trust.policy.max_session_hours
    if max(time.monotonic() - began, on_the_wall) > hours * 3600:
        raise Failed(
            f"the run took longer than the {hours} hours that a session may last; nothing was published",
            hint="run again: what is stored already is reused",
        )


def _stream(
    view: View, stream: StreamInfo, session: WriteSession, workers: ThreadPoolExecutor, folder: Places, report: Reporter
) -> tuple[StreamRoot, str, int]:
    kind = _KINDS[stream.kind]
    writer = session.stream(kind, stream.size_hint)
    report.phase(f"reading {stream.name}", stream.size_hint)
    digest = stream_digest()
    pending: deque[Future[list[Prepared]]] = deque()
    ahead = ReadAhead(view, stream, folder.cache)
    try:
        for buffer in ahead:
            digest.update(buffer)
            session.counts.read_bytes += len(buffer)
            whole = memoryview(buffer)
            pieces = [whole[at : at + PIECE] for at in range(0, len(whole), PIECE)]
            pending.append(workers.submit(session.prepare, kind, pieces))
            report.advance(len(buffer))
            while len(pending) > 6:
                writer.add(pending.popleft().result())
        while pending:
            writer.add(pending.popleft().result())
    finally:
        ahead.close()
    return writer.finish(), digest.hexdigest(), ahead.spilled


def _empty(view: View) -> list[str]:
    if any(stream.size_hint for stream in view.streams):
        return []
    return ["the source is empty (0 bytes): is it the right file, and was it not truncated?"]


def _describe(
    source: Source,
    view: View,
    session: WriteSession,
    roots: list[StreamRoot],
    digests: list[str],
    taken_at: str,
    options: BackupOptions,
) -> tuple[Structure, dict[str, Any]]:
    counted = [t.rows for t in view.tables if t.rows is not None]
    counts = session.counts
    structure = Structure(
        seq=0,
        previous=None,
        trust=session.repo.trust.version,
        source=options.name,
        taken_at=taken_at,
        stored_at=stamp(session.stored_at),
        kind="snapshot",
        streams=tuple(roots),
        rows=sum(counted),
        read_bytes=counts.read_bytes,
        stored_bytes=counts.stored_bytes,
        chunks=counts.chunks(),
        segments=tuple(session.segments),
        tags=options.tags,
        hold=options.hold,
    )
    content: dict[str, Any] = {
        "engine": source.engine,
        "facts": dict(view.facts),
        "streams": [
            {"name": s.name, "kind": s.kind, "unit": s.unit, "rows": None, "content": None, "digest": digest}
            for s, digest in zip(view.streams, digests, strict=True)
        ],
        "tables": [{"name": t.name, "key": list(t.key), "rows": t.rows} for t in view.tables],
        "warnings": list(view.warnings),
        "note": options.note,
        "versions": {"backupd": VERSION, "cutter": "fixed-65536", "rows": None},
    }
    return structure, content
