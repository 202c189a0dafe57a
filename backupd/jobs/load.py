"""Restore into a server: the streams of a snapshot go back into tables, and what came of it is compared with the manifest."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from backupd.engines.base import (
    CheckLevel,
    LoadOptions,
    RuleOf,
    ServerTarget,
    Source,
    StoredStream,
    StreamInfo,
    TableInfo,
)
from backupd.errors import UsageError
from backupd.jobs.restore import RestoreResult, check_engine, count_uses, joined, open_content
from backupd.jobs.rowcheck import compare_live, comparer
from backupd.jobs.sieve import Sieve, refuse_opaque
from backupd.repo.reading import PACKS_IN_MEMORY, ChunkReader, PackCache, Spool
from backupd.repo.repository import Repository, SnapshotView
from backupd.report import Locked, Problem, Reporter

PACKS_A_STREAM = 3
MOST_JOBS = 8
"""Packs for so many streams at once are kept in memory; with more, some are fetched again."""


def stream_info(described: Mapping[str, Any], size: int) -> StreamInfo:
    """A stream as the engine knew it when it was captured."""
    return StreamInfo(
        described["name"],
        described["kind"],
        size,
        described.get("unit", 0),
        tuple(described.get("key", ())),
        bool(described.get("secret")),
    )


def table_info(table: Mapping[str, Any]) -> TableInfo:
    """A table as the engine knew it when it was captured."""
    return TableInfo(
        table["name"],
        tuple(table["key"]),
        table["rows"],
        tuple((name, kind) for name, kind in table.get("columns", ())),
        table.get("format"),
        bool(table.get("ordered")),
    )


def load(
    repo: Repository,
    view: SnapshotView,
    target: ServerTarget,
    engines: Sequence[str],
    options: LoadOptions,
    *,
    check: CheckLevel,
    report: Reporter,
    spool_folder: Path | None = None,
    erased: RuleOf | None = None,
) -> RestoreResult:
    """Write a snapshot into a server's database.

    Args:
        repo: the repository, with the read right.
        view: the verified snapshot.
        target: where to.
        engines: which engines' snapshots it takes.
        options: what the user said.
        check: "none" leaves the comparison out.
        report: progress.
        spool_folder: where packs wait on disk, as ciphertext, if fetching one twice is dear.
        erased: which rows must not come back.

    Raises:
        IntegrityError: an object that this snapshot needs is missing, damaged or forged, or what was loaded is not what
            was stored.
        SafetyRefused: the target, or something in the snapshot, is refused by a rule.
    """
    began = time.monotonic()
    content, chosen = rehearse(repo, view, target, engines, options, report, erased)
    id_key = repo.keyring.session(view.object.envelope).id_key
    sieve = None if erased is None else Sieve(erased, content["tables"], id_key)
    report.phase("restoring", view.structure.read_bytes)
    spool = Spool(spool_folder) if spool_folder else None
    cache = PackCache(repo, spool=spool, keep=max(PACKS_IN_MEMORY, PACKS_A_STREAM * min(options.jobs, MOST_JOBS)))
    try:
        reader = ChunkReader(repo, cache, view.object.envelope)
        pairs = _streams(view, content, reader, cache, Locked(report), options.tables, counted=spool is not None)
        streams = [_sieved(stream, described, sieve) for stream, described in pairs]
        compared: set[str] = set()

        def counted(name: str, rows: Iterator[bytes | bytearray]) -> None:
            tables = content["tables"] if sieve is None else sieve.manifest(content["tables"])
            comparer(tables, id_key)(name, rows)
            compared.add(name)

        loaded = target.load(
            streams,
            [table_info(t) for t in chosen],
            facts=content["facts"],
            check=check,
            compare=counted,
        )
    finally:
        cache.close()
    out = 0 if sieve is None else sum(sieve.out.values())
    return RestoreResult(
        len(chosen) - loaded.untaken,
        sum(t["rows"] or 0 for t in chosen) - out,
        loaded.bytes,
        time.monotonic() - began - loaded.check_seconds,
        loaded.check_seconds,
        cache.fetched_bytes,
        loaded.warnings,
        len(compared),
        out,
    )


def rehearse(
    repo: Repository,
    view: SnapshotView,
    target: ServerTarget,
    engines: Sequence[str],
    options: LoadOptions,
    report: Reporter,
    erased: RuleOf | None = None,
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """What `load` does before it writes anything: it refuses what it must, and warns.

    Returns:
        the snapshot's content, and those of its tables that were asked for.

    Raises:
        UsageError, SafetyRefused, Unreachable: as `load`.
    """
    content = open_content(repo, view)
    check_engine(view, content, *engines)
    refuse_opaque(content, erased)
    check_allowed(target, options)
    chosen = _chosen(content["tables"], options.tables)
    for warning in target.prepare(options, content["facts"]):
        report.warning(warning)
    return content, chosen


def check_allowed(target: ServerTarget, options: LoadOptions) -> None:
    """What a restore may bring along must be kinds that the target knows; needs no connection.

    Raises:
        UsageError: an unknown word.
    """
    if unknown := sorted(options.allow - target.kinds - {"all"}):
        raise UsageError(
            f"--allow knows no kind {unknown[0]!r}", hint=f"known here: {', '.join(sorted(target.kinds))}, all"
        )


def compare_with_source(
    repo: Repository, view: SnapshotView, source: Source, report: Reporter
) -> tuple[int, list[Problem]]:
    """Compare a snapshot's tables with the live ones.

    Returns:
        how many were compared, and what differs.

    Raises:
        SafetyRefused: the source is of another engine.
        Unreachable, SourceIncomplete: it cannot be read.
    """
    content = open_content(repo, view)
    check_engine(view, content, source.engine)
    id_key = repo.keyring.session(view.object.envelope).id_key
    with source.view() as live:
        return compare_live(content, live, id_key, report)


def _chosen(tables: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> list[Mapping[str, Any]]:
    if not wanted:
        return list(tables)
    known = {t["name"] for t in tables}
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"the snapshot holds no table {name}", object_name=name, hint="`backupctl show` lists its tables"
            )
    return [t for t in tables if t["name"] in wanted]


def _streams(
    view: SnapshotView,
    content: Mapping[str, Any],
    reader: ChunkReader,
    cache: PackCache,
    report: Reporter,
    tables: Sequence[str],
    *,
    counted: bool,
) -> list[tuple[StoredStream, Mapping[str, Any]]]:
    """The streams that are loaded, each with what the manifest says of it."""
    found = []
    uses: Counter[bytes] = Counter()
    for root, described in zip(view.structure.streams, content["streams"], strict=True):
        kind = described["kind"]
        if kind == "content" or (kind == "rows" and tables and described["name"] not in tables):
            continue
        digest = None if kind == "rows" else described["digest"]
        opener: partial[Iterator[bytes]] = partial(joined, root, reader, cache, digest, report)
        found.append((StoredStream(stream_info(described, root.size), root.size, opener), described))
        if counted:
            uses.update(count_uses(root, reader))
    if counted:
        cache.uses = dict(uses)
    return found


def _sieved(stream: StoredStream, described: Mapping[str, Any], sieve: Sieve | None) -> StoredStream:
    """A stream without the rows that must not come back."""
    if sieve is None or not sieve.concerns(described):
        return stream
    return StoredStream(stream.info, stream.size, sieve.wrap(stream.open, described), sieved=True)
