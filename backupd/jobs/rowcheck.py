"""Are these rows the ones that a manifest tells of? Asked of stored streams, of restored tables, and of live ones."""

import base64
import binascii
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.crypto.primitives import stream_digest
from backupd.engines.base import StreamInfo, View
from backupd.errors import IntegrityError, SourceIncomplete
from backupd.jobs.capture import digest_rows
from backupd.repo.reading import ChunkReader
from backupd.repo.rowdigest import RowDigest
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import walk_content
from backupd.report import Problem, Reporter


def hash_rows(buffers: Iterator[bytes | bytearray], id_key: bytes) -> RowDigest:
    """The digest of rows, as the writer of that key makes it.

    Raises:
        IntegrityError: they end inside a row.
    """
    from backupd.repo.rows import RowHasher

    try:
        return digest_rows(buffers, RowHasher.of(id_key))
    except ValueError:
        raise IntegrityError("the rows end in the middle of one") from None


def check_rows(
    root: StreamRoot, described: Mapping[str, Any], reader: ChunkReader, rows: Iterator[bytes], id_key: bytes
) -> None:
    """A stored stream of rows is what its manifest says: digest, counts, and the content tree.

    Raises:
        IntegrityError: it is not.
    """
    found = hash_rows(rows, id_key)
    if (found.hexdigest(), found.rows) != (described["digest"], described["rows"]):
        raise IntegrityError(f"the stored rows of {described['name']} are not the ones that were captured")
    try:
        top = base64.b64decode(described["content"], validate=True)
    except (TypeError, binascii.Error):
        raise IntegrityError(f"the list of what is in {described['name']} cannot be read") from None
    entries = sum(1 for _ in walk_content(top, lambda ref: reader.read(ref, Kind.CONTENT), rows=found.rows))
    if entries != root.chunks:
        raise IntegrityError(f"the lists of {described['name']} tell of different numbers of chunks")


def comparer(tables: Sequence[Mapping[str, Any]], id_key: bytes) -> Callable[[str, Iterator[bytes | bytearray]], None]:
    """What compares a table's rows with the manifest.

    Args:
        tables: of the manifest.
        id_key: of the snapshot's writer.

    Returns:
        A function of a table's name and its rows, in any order, that raises IntegrityError unless they are what was stored.
    """
    wanted = {table["name"]: table for table in tables}

    def compare(name: str, rows: Iterator[bytes | bytearray]) -> None:
        found, table = hash_rows(rows, id_key), wanted[name]
        if found.hexdigest() != table["digest"]:
            raise IntegrityError(
                f"table {name} is not what the snapshot holds: {found.rows:,} rows instead of {table['rows']:,}"
                if found.rows != table["rows"]
                else f"table {name} is not what the snapshot holds: rows differ",
                object_name=name,
            )

    return compare


def compare_live(content: Mapping[str, Any], view: View, id_key: bytes, report: Reporter) -> list[Problem]:
    """How a live source differs from a snapshot of it, table by table (of a file, as a whole).

    Args:
        content: the snapshot's content part.
        view: an open view of the source.
        id_key: of the snapshot's writer.
        report: progress.
    """
    report.phase("comparing with the source", sum(s.size_hint or 0 for s in view.streams) or None)
    live = _digests(view, id_key, report)
    view.finish()
    if any(s.kind == "pages" for s in view.streams):
        return [
            Problem(s["name"], "differs", "the file is not the one of the snapshot any more")
            for s in content["streams"]
            if s["kind"] == "pages" and live.get(s["name"]) != s["digest"]
        ]
    formats = {table.name: table.format for table in view.tables}
    found = []
    for table in content["tables"]:
        name = table["name"]
        if name not in live:
            found.append(Problem(name, "missing", "the source has no such table any more"))
        elif formats.get(name) != table["format"]:
            found.append(Problem(name, "format", "its columns, or how the server writes them, have changed"))
        elif live[name] != table["digest"]:
            rows = RowDigest.count(live[name])
            found.append(Problem(name, "differs", f"{rows:,} rows now, {table['rows']:,} in the snapshot"))
    known = {table["name"] for table in content["tables"]}
    found += [Problem(name, "added", "the snapshot has no such table") for name in live if name not in known]
    return found


def _digests(view: View, id_key: bytes, report: Reporter) -> dict[str, str]:
    """The digest of each table, or of each stream of pages, that a view holds now."""
    rows: dict[str, RowDigest] = {}
    pages: dict[str, str] = {}
    lock = threading.Lock()

    def counted(stream: StreamInfo) -> Iterator[bytes | bytearray]:
        for data in view.read(stream):
            with lock:
                report.advance(len(data))
            yield data

    def one(stream: StreamInfo) -> None:
        if stream.kind == "pages":
            running = stream_digest()
            for data in counted(stream):
                running.update(data)
            pages[stream.name] = running.hexdigest()
            return
        try:
            found = hash_rows(counted(stream), id_key)
        except IntegrityError:
            raise SourceIncomplete(f"the rows of {stream.name} ended in the middle of one") from None
        with lock:
            rows.setdefault(stream.name, RowDigest()).merge(found)

    with ThreadPoolExecutor(view.parallel, thread_name_prefix="read") as pool:
        for _ in pool.map(one, [s for s in view.streams if s.kind != "schema"]):
            pass
    return pages | {name: digest.hexdigest() for name, digest in rows.items()}
