"""The main job: one consistent moment of a source becomes a snapshot.

Read, cut, name, compress, seal, pack, upload, in a pipeline of bounded depth. The snapshot object is the last write; whatever
fails before it leaves no snapshot, and nothing is reported as done before the storage was looked at again.
"""

import base64
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupd.config.clock import stamp
from backupd.config.paths import Places
from backupd.config.version import VERSION
from backupd.crypto.chunks import Kind
from backupd.crypto.envelope import structure_key_id
from backupd.crypto.keyfile import Key
from backupd.engines.source import Source, TableInfo, View
from backupd.errors import Failed, SourceMoved
from backupd.jobs.capture import CapturedStream, capture
from backupd.jobs.nights import NightWatch
from backupd.jobs.standing import Standing, standing, to_remember
from backupd.repo.commit import check_head, commit
from backupd.repo.compression import COMPRESSION
from backupd.repo.content import check_content
from backupd.repo.indexing import sync_index
from backupd.repo.ledger import state_lock
from backupd.repo.localindex import LocalIndex
from backupd.repo.repository import Repository
from backupd.repo.snapshot import StreamRoot, Structure
from backupd.repo.storedversions import StoredVersions
from backupd.repo.versioncache import VersionCache, forget_cache
from backupd.repo.writing import WriteSession
from backupd.report import Reporter
from backupd.store.base import local_objects

if TYPE_CHECKING:
    from backupd.jobs.brake import Told

NATIVE = "native"
ATTEMPTS = 3
VERSION_CACHE = 20 * 1024**3
CUTTER = "fixed-65536, rows-1"
ROW_FORMAT = "text-1"
MADE_BY = {"backupd": VERSION, "cutter": CUTTER, "rows": ROW_FORMAT}


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """What the user may say of a run.

    Attributes:
        version_cache: bytes that the version cache may take; None or 0 for none.
        trial: of a run that stores nothing, the places whose version cache is read and left as it is.
    """

    name: str
    tags: tuple[str, ...] = ()
    note: str = field(default="", repr=False)
    hold: str | None = None
    check: bool = False
    level: int = COMPRESSION
    accept_rollback: bool = False
    version_cache: int | None = VERSION_CACHE
    trial: Places | None = None
    threads: int = field(default_factory=lambda: min(8, max(2, len(os.sched_getaffinity(0)))))


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a run did; `brake` is in which ways the source changed suddenly."""

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
    resumed: int = 0
    unread: bool = False
    brake: "tuple[Told, ...]" = ()
    writer: str = ""
    taken_at: str = ""
    repository: str = ""


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
        import tempfile

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
    """Take a snapshot of `source`; one whose tables change their shape meanwhile is tried again a few times.

    Raises:
        BackupdError: whatever went wrong; then there is no snapshot.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            return _Run(source, repo, key, folder, clock, options, report).go()
        except SourceMoved as error:
            if not left:
                raise
            report.warning(f"{error.message}; the capture begins again")
    raise AssertionError("not reached")


def _since_boot() -> float:
    """Seconds of a clock that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(slots=True)
class _Run:
    """One attempt at a snapshot."""

    source: Source
    repo: Repository
    key: Key
    folder: Places
    clock: Callable[[], datetime]
    options: BackupOptions
    report: Reporter
    began: float = field(default_factory=time.monotonic)
    awake: float = field(default_factory=_since_boot)
    mark: str | None = None
    leaning: bool = False
    watch: NightWatch | None = None

    def go(self) -> BackupResult:
        """Everything, in order."""
        repo, key, options, report = self.repo, self.key, self.options, self.report
        with ExitStack() as stack:
            head = check_head(repo, key.header.writer, accept_rollback=options.accept_rollback)
            if head and head.damaged:
                report.warning(
                    f"the newest snapshot object, {head.damaged}, is damaged; `backupctl verify` tells what is left"
                )
            _warn_expired(repo, self.clock(), report)
            _check_state(self.folder)
            asked = self.clock()
            index = open_index(repo, key, self.folder, report)
            stack.callback(index.close)
            versions = _open_versions(repo, key, self.folder, asked, options, report)
            if versions is not None:
                stack.callback(versions.close)
                self.mark = None if options.check else self.source.standstill()
                self.leaning = versions.warm
            if options.trial is None:
                self.watch = NightWatch(repo, key, self.folder, options.name, MADE_BY, report)
            found = standing(self.mark, versions, index, MADE_BY, repo.trust.policy.base_max_age_days * 86400)
            if found is not None and versions is not None:
                return self._stand(found, stack, index, versions, asked)
            view = stack.enter_context(self.source.view(check=options.check))
            taken = asked if options.check else self.clock()
            session = WriteSession(repo, key, index, started=taken, level=options.level, versions=versions)
            stack.callback(session.close)
            return self._read(view, session, taken)

    def _read(self, view: View, session: WriteSession, taken: datetime) -> BackupResult:
        """Read the source, store what is new of it, and publish."""
        if session.versions is not None:
            session.versions.expect(sum(stream.size_hint or 0 for stream in view.streams) or None)
        resumed = _resume(session, self.key, self.folder, self.report)
        captured = capture(view, session, self.options.threads, folder=self.folder.cache, report=self.report)
        view.finish()
        roots = session.finish_streams()
        session.write_segment()
        structure, content = _describe(self.source, view, session, roots, captured.streams, stamp(taken), self.options)
        result = self._publish(session, structure, content, taken)
        if session.versions is not None:
            said = to_remember(self.mark, structure, content, session.referenced, session.versions)
            session.versions.publish(said)
            _tell_trouble(session.versions, self.report)
        warnings = (*view.warnings, *_empty(view))
        told = self._look_back(result.snapshot)
        return replace(result, warnings=warnings, spilled=captured.spilled, resumed=resumed, brake=told)

    def _look_back(self, snapshot: str) -> "tuple[Told, ...]":
        """Whether the source changed suddenly; told, and never a reason to fail a run whose snapshot is published."""
        return tuple(self.watch.look(snapshot, self.clock())) if self.watch else ()

    def _stand(
        self, found: Standing, stack: ExitStack, index: LocalIndex, versions: VersionCache, asked: datetime
    ) -> BackupResult:
        """Publish what the last run read, of a source to which nobody wrote since."""
        options = self.options
        session = WriteSession(self.repo, self.key, index, started=asked, level=options.level)
        stack.callback(session.close)
        session.referenced |= found.packs
        session.counts.total = session.counts.reused = found.chunks
        content = {**found.content, "note": options.note}
        structure = _structure(session, found.roots, found.rows, stamp(asked), options)
        structure = replace(structure, read_bytes=found.size)
        result = self._publish(session, structure, content, asked)
        versions.stay()
        _tell_trouble(versions, self.report)
        told = self._look_back(result.snapshot)
        return replace(result, warnings=tuple(content["warnings"]), unread=True, brake=told)

    def _publish(
        self, session: WriteSession, structure: Structure, content: dict[str, Any], taken: datetime
    ) -> BackupResult:
        """Make the snapshot visible, once everything that it needs was seen to be there."""

        def fence() -> None:
            _fence(self.repo, _since_boot() - self.awake, (self.clock() - taken).total_seconds())

        fence()
        session.check_packs()
        _check_own(content, structure)
        if self.watch is not None:
            fresh = session.counts.fresh_plain, session.counts.fresh_payload
            cached = bool(self.options.version_cache)
            self.watch.expect(
                structure, content["tables"], fresh, session.envelope.session, leaning=self.leaning, cache=cached
            )
        rollback = self.options.accept_rollback
        done = commit(
            session,
            structure,
            content,
            locks=self.folder.state,
            report=self.report,
            fence=fence,
            accept_rollback=rollback,
        )
        session.done = True
        session.check_packs()
        counts = session.counts
        return BackupResult(
            done.id.hex(),
            self.options.name,
            done.seq,
            counts.read_bytes,
            counts.stored_bytes,
            counts.chunks(),
            structure.rows,
            time.monotonic() - self.began,
            (),
            writer=self.key.header.writer.hex(),
            taken_at=structure.taken_at,
            repository=self.repo.id.hex(),
        )


def _resume(session: WriteSession, key: Key, folder: Places, report: Reporter) -> int:
    """What a run that was cut off has uploaded is used by this one; returns how many packs that are."""
    try:
        return session.resume(journals_path(folder, key), key.secrets["cache"])
    except OSError as error:
        report.warning(
            f"no journal can be kept ({error.strerror}): a run that is cut off would upload everything again"
        )
        return 0


def journals_path(folder: Places, key: Key) -> Path:
    """Where the journals of a write key and its epoch are."""
    return folder.state / "journal" / f"{key.header.id.hex()}-{key.secrets.epoch}"


def _tell_trouble(versions: VersionCache, report: Reporter) -> None:
    if versions.trouble:
        report.warning(f"{versions.trouble}; the next run may store more than it needs to")


def versions_path(folder: Places, key: Key) -> Path:
    """Where the version caches of a write key and its epoch are: another epoch never meets them."""
    return folder.state / "versions" / f"{key.header.id.hex()}-{key.secrets.epoch}"


def _open_versions(
    repo: Repository,
    key: Key,
    folder: Places,
    taken: datetime,
    options: BackupOptions,
    report: Reporter,
) -> VersionCache | None:
    """The version cache of the source; a run does without where it cannot be had."""
    if not options.version_cache:
        if options.trial is None:
            forget_cache(versions_path(folder, key), key.secrets["cache"], options.name)
        return None
    files = local_objects(repo.store)
    try:
        return VersionCache(
            versions_path(options.trial or folder, key),
            key.secrets["cache"],
            options.name,
            now=taken.timestamp(),
            max_age=repo.trust.policy.base_max_age_days * 86400,
            limit=options.version_cache,
            trial=options.trial is not None,
            stored=StoredVersions(files, repo.id) if files else None,
        )
    except BlockingIOError:
        report.warning("another run of this source uses the version cache: what changed is stored in full")
    except OSError as error:
        if options.trial is None or not isinstance(error, FileNotFoundError):  # before the first run there is none
            report.warning(f"the version cache cannot be used ({error.strerror}): what changed is stored in full")
    return None


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


def _fence(repo: Repository, seconds: float, on_the_wall: float) -> None:
    """A session must not outlive what garbage collection waits for; a suspended machine's monotonic clock stands still."""
    hours = repo.trust.policy.max_session_hours
    if max(seconds, on_the_wall) > hours * 3600:
        raise Failed(
            f"the run took longer than the {hours} hours that a session may last; nothing was published",
            hint="run again: what is stored already is reused",
        )


def _check_own(content: dict[str, Any], structure: Structure) -> None:
    """What is about to be published must be what a reader accepts: a bug of an engine must not look like a backup."""
    try:
        check_content(content, [stream.kind for stream in structure.streams])
    except (KeyError, ValueError, TypeError) as error:
        raise Failed(f"what the engine tells of the source is not consistent ({error}); this is a bug") from None


def _empty(view: View) -> list[str]:
    if any(stream.size_hint or stream.kind != "pages" for stream in view.streams):
        return []
    return ["the source is empty (0 bytes): is it the right file, and was it not truncated?"]


def _describe(
    source: Source,
    view: View,
    session: WriteSession,
    roots: Sequence[StreamRoot],
    captured: Sequence[CapturedStream],
    taken_at: str,
    options: BackupOptions,
) -> tuple[Structure, dict[str, Any]]:
    tables = [_table(table, captured) for table in view.tables]
    rows = None if any(c.info.name == NATIVE for c in captured) else sum(table["rows"] or 0 for table in tables)
    structure = _structure(session, roots, rows, taken_at, options)
    content: dict[str, Any] = {
        "engine": source.engine,
        "facts": dict(view.facts),
        "streams": [
            *(_described(c, w.content_top) for c, w in zip(captured, session.writers, strict=True)),
            *(_CONTENT_LIST for root in roots if root.kind is Kind.CONTENT),
        ],
        "tables": tables,
        "warnings": list(view.warnings),
        "note": options.note,
        "versions": MADE_BY,
    }
    return structure, content


def _structure(
    session: WriteSession, roots: Sequence[StreamRoot], rows: int | None, taken_at: str, options: BackupOptions
) -> Structure:
    counts = session.counts
    return Structure(
        seq=0,
        previous=None,
        trust=session.repo.trust.version,
        source=options.name,
        taken_at=taken_at,
        stored_at=stamp(session.stored_at),
        kind="snapshot",
        streams=tuple(roots),
        rows=rows,
        read_bytes=counts.read_bytes,
        stored_bytes=counts.stored_bytes,
        chunks=counts.chunks(),
        segments=tuple(session.segments),
        tags=options.tags,
        hold=options.hold,
    )


_CONTENT_LIST = {"name": "", "kind": "content", "unit": 0, "rows": None, "content": None, "digest": None}


def _described(stream: CapturedStream, content_top: bytes | None) -> dict[str, object]:
    info = stream.info
    return {
        "name": info.name,
        "kind": info.kind,
        "unit": info.unit,
        "rows": stream.rows.rows if stream.rows else None,
        "content": base64.b64encode(content_top).decode() if content_top is not None else None,
        "digest": stream.hexdigest(),
        **({"key": list(info.key)} if info.kind == "rows" else {}),
        **({"secret": True} if info.secret else {}),
    }


def _table(table: TableInfo, captured: Sequence[CapturedStream]) -> dict[str, Any]:
    """A table as the manifest lists it; of one that was read as rows, with their number and digest over all its streams."""
    parts = [c.rows for c in captured if c.rows is not None and c.info.name == table.name]
    if not parts:
        return {"name": table.name, "key": list(table.key), "rows": table.rows}
    from backupd.repo.rowdigest import RowDigest

    whole = RowDigest()
    for part in parts:
        whole.merge(part)
    return {
        "name": table.name,
        "key": list(table.key),
        "rows": whole.rows,
        "columns": [list(column) for column in table.columns],
        "format": table.format,
        "ordered": table.ordered,
        "digest": whole.hexdigest(),
    }
