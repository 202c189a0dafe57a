"""Export: a snapshot's streams as plain files, which psql, pg_restore, mariadb and sqlite3 can restore without us.

deploy/backupd-extract.py writes the same files from a repository without backupd being installed.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.disk import DirectFile
from backupd.engines.base import RuleOf, TakeOut
from backupd.errors import Failed, IntegrityError, SafetyRefused
from backupd.jobs.processes import shared, usable
from backupd.jobs.restore import BATCH, joined, open_content
from backupd.jobs.sieve import Sieve, refuse_opaque
from backupd.repo.reading import ChunkReader, PackCache, Spool
from backupd.repo.repository import Repository, SnapshotView
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import walk
from backupd.report import Reporter

MANIFEST = "manifest.json"
MANY_CHUNKS = 256
"""So many pay for other processes."""
_TOGETHER = 8192
"""Chunks for which processes are forked once."""
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


@dataclass(slots=True)
class ExportResult:
    """What was written, in the order of the snapshot's streams, and what was left out."""

    engine: str
    files: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0
    erased: int = 0
    warnings: tuple[str, ...] = ()


def file_name(position: int, described: Mapping[str, Any]) -> str:
    """Where a stream goes, relative to the folder."""
    if described["kind"] == "rows":
        return f"rows/{position:04d}.tsv"
    name = "".join(c if c in _PLAIN else "_" for c in described["name"])
    name = "_" + name[1:] if name.startswith(".") else name
    return f"{name}.db" if described["kind"] == "pages" else name


def _names(view: SnapshotView, streams: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """The file of each stream, None for lists.

    Raises:
        IntegrityError: a stream has no name that a file can have, or two have the same.
    """
    names = [None if s["kind"] == "content" else file_name(n, s) for n, s in enumerate(streams)]
    met = {"", "rows", MANIFEST}
    for name in names:
        if name in met:
            raise IntegrityError(
                f"{view.object.name} names its streams as no files can be", object_name=view.object.name
            )
        if name is not None:
            met.add(name)
    return names


def export(
    repo: Repository,
    view: SnapshotView,
    folder: Path,
    *,
    secrets: bool,
    report: Reporter,
    spool_folder: Path | None = None,
    erased: RuleOf | None = None,
    take_out: TakeOut | None = None,
) -> ExportResult:
    """Write every stream of a snapshot to a file of its own.

    Args:
        repo: the repository, with the read right.
        view: the verified snapshot.
        folder: made if it is not there; otherwise it must be empty.
        secrets: whether streams that hold password hashes are written as well.
        report: progress.
        spool_folder: where packs wait on disk, as ciphertext, if fetching one twice is dear.
        erased: which rows must not be written.
        take_out: takes them out of a database file.

    Raises:
        SafetyRefused: the folder is not empty, or the rows cannot be taken out.
        IntegrityError: an object that the snapshot needs is missing, damaged or forged; the file it belongs to is not there.
    """
    began = time.monotonic()
    content = open_content(repo, view)
    names = _names(view, content["streams"])
    refuse_opaque(content, erased)
    _make(folder)
    report.phase("exporting", view.structure.read_bytes)
    result = ExportResult(content["engine"])
    cache = PackCache(repo, spool=Spool(spool_folder) if spool_folder else None)
    id_key = repo.keyring.session(view.object.envelope).id_key
    sieve = None if erased is None else Sieve(erased, content["tables"], id_key)
    try:
        reader = ChunkReader(repo, cache, view.object.envelope)
        for root, described, name in zip(view.structure.streams, content["streams"], names, strict=True):
            if name is None:
                continue
            if described.get("secret") and not secrets:
                result.left_out.append(name)
                continue
            if root.kind is Kind.ROWS:
                data = _rows(repo, view, root, reader, cache, report)
            else:
                data = joined(root, reader, cache, described["digest"], report)
            if sieve is not None and sieve.concerns(described):
                data = sieve.wrap(partial(iter, data), described)()
                result.bytes += _write(folder / name, data)
            else:
                amend = _amending(root, described, result, erased, take_out)
                whole = _counted(data, described) if root.kind is Kind.ROWS else data
                result.bytes += _write(folder / name, whole, amend)
            result.files.append(name)
    finally:
        cache.close()
    if sieve is not None:
        result.erased += sum(sieve.out.values())
        content = {**content, "tables": sieve.manifest(content["tables"]), "erased": result.erased}
        content["streams"] = [
            {**s, "digest": None, "rows": None} if sieve.concerns(s) else s for s in content["streams"]
        ]
    _write(folder / MANIFEST, iter([manifest(view, content)]))
    result.files.append(MANIFEST)
    result.seconds = time.monotonic() - began
    return result


def _amending(
    root: StreamRoot,
    described: dict[str, Any],
    result: ExportResult,
    erased: RuleOf | None,
    take_out: TakeOut | None,
) -> Callable[[Path], None] | None:
    """What takes rows out of a database file once it is written; its digest is then no more what the manifest said."""
    if root.kind is not Kind.PAGES or erased is None or take_out is None:
        return None

    def amend(path: Path) -> None:
        taken = take_out(path, erased)
        result.erased += taken.rows
        result.warnings += taken.warnings
        if taken.changed:
            described["digest"] = None

    return amend


def _rows(
    repo: Repository,
    view: SnapshotView,
    root: StreamRoot,
    reader: ChunkReader,
    cache: PackCache,
    report: Reporter,
) -> Iterator[bytes]:
    """The rows of a stream, some chunks at a time; from files of this machine read by several processes."""
    if not cache.local or root.chunks < MANY_CHUNKS or (processes := usable()) == 1:
        yield from joined(root, reader, cache, None, report)
        return
    refs = walk(root.top, Kind.ROWS, reader.node_loader(), totals=root.totals)
    with contextlib.closing(PackCache(repo, sparse=True)) as mine:
        own = ChunkReader(repo, mine, view.object.envelope)
        while some := list(islice(refs, _TOGETHER)):
            batches = [some[n : n + BATCH] for n in range(0, len(some), BATCH)]
            for data in shared(batches, lambda batch: [own.read(ref, Kind.ROWS) for ref in batch], processes=processes):
                report.advance(sum(map(len, data)))
                yield from data


def _counted(data: Iterator[bytes], described: Mapping[str, Any]) -> Iterator[bytes]:
    """The same bytes, with an error at the end unless they are as many whole rows as the manifest says.

    That they are the rows that were captured, the id of each chunk says; their digest is for those who have only the rows.
    """
    rows, last = 0, b"\n"
    for piece in data:
        rows += piece.count(b"\n")
        last = piece[-1:] or last
        yield piece
    if rows != described["rows"] or last != b"\n":
        raise IntegrityError(f"the stored rows of {described['name']} are not the ones that were captured")


def manifest(view: SnapshotView, content: Mapping[str, Any]) -> bytes:
    """What the snapshot tells of itself, as JSON for people and programs, without the trees."""
    structure = view.structure.document()
    structure["streams"] = [{k: v for k, v in s.items() if k != "top"} for s in structure["streams"]]  # type: ignore[attr-defined]
    streams = [{k: v for k, v in s.items() if k != "content"} for s in content["streams"]]
    document = {**content, "streams": streams, "structure": structure}
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SafetyRefused(
                f"{folder} is not empty", object_name=str(folder), hint="name a folder that is empty or not there yet"
            )
    except OSError as error:
        raise Failed(f"{folder} cannot be written: {error.strerror}", object_name=str(folder)) from None


def _write(path: Path, buffers: Iterator[bytes], amend: Callable[[Path], None] | None = None) -> int:
    """A file that has its name only once it is whole, amended and on the disk; returns its size."""
    unnamed = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            file = DirectFile(descriptor)
            for data in buffers:
                file.write(data)
            file.finish()
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if amend is not None:
            amend(unnamed)
        size = unnamed.stat().st_size
        unnamed.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unnamed.unlink(missing_ok=True)
        raise Failed(f"{path} cannot be written: {error.strerror}", object_name=str(path)) from None
    except BaseException:
        unnamed.unlink(missing_ok=True)
        raise
    return size
