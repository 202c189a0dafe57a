"""Are these rows the ones that a manifest tells of? Asked of stored streams, of restored tables, and of live ones."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.crypto.primitives import stream_digest
from backupd.engines.base import StreamInfo, View
from backupd.errors import IntegrityError, SourceIncomplete, UsageError
from backupd.jobs.capture import ROWS, Readers
from backupd.repo.content import tree_top
from backupd.repo.reading import ChunkReader
from backupd.repo.rowdigest import RowDigest
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import walk_content
from backupd.report import Locked, Problem, Reporter

TOGETHER = 1024 * 1024


class RowCheck:
    """The digest of rows that are read only to be compared, as the writer of that key makes it."""

    def __init__(self, id_key: bytes) -> None:
        from backupd.repo.rows import RowCutter, RowHasher

        self._cutter = RowCutter(ROWS, bytes(32), RowHasher.of(id_key), only_digest=True)
        self._waiting: list[bytes | bytearray] = []
        self._size = 0

    def update(self, data: bytes | bytearray) -> None:
        """Take more rows; they need not end where the data does. Many are looked at together."""
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= TOGETHER:
            self._look()

    def _look(self) -> None:
        whole, self._waiting, self._size = b"".join(self._waiting), [], 0
        for _ in self._cutter.feed(whole):
            pass

    def finish(self) -> RowDigest:
        """The end.

        Raises:
            IntegrityError: they ended inside a row.
        """
        self._look()
        try:
            for _ in self._cutter.finish():
                pass
        except ValueError:
            raise IntegrityError("the rows end in the middle of one") from None
        return self._cutter.digest


def hash_rows(buffers: Iterator[bytes | bytearray], id_key: bytes) -> RowDigest:
    """The digest of rows.

    Raises:
        IntegrityError: they end inside a row.
    """
    check = RowCheck(id_key)
    for data in buffers:
        check.update(data)
    return check.finish()


def check_rows(
    root: StreamRoot, described: Mapping[str, Any], reader: ChunkReader, rows: Iterator[bytes], id_key: bytes
) -> RowDigest:
    """A stored stream of rows is what its manifest says: digest, counts, and the content tree.

    Returns:
        Its digest.

    Raises:
        IntegrityError: it is not.
    """
    found = hash_rows(rows, id_key)
    if (found.hexdigest(), found.rows) != (described["digest"], described["rows"]):
        raise IntegrityError(f"the stored rows of {described['name']} are not the ones that were captured")
    entries = 0
    for _ in walk_content(tree_top(described), lambda ref: reader.read(ref, Kind.CONTENT), rows=found.rows):
        entries += 1
        if entries > root.chunks:
            break
    if entries != root.chunks:
        raise IntegrityError(f"the lists of {described['name']} tell of different numbers of chunks")
    return found


def check_tables(tables: Sequence[Mapping[str, Any]], found: Mapping[str, RowDigest]) -> None:
    """Each table of a manifest has the digest and the rows of its streams together.

    Raises:
        IntegrityError: one has not.
    """
    for table in tables:
        whole = found.get(table["name"])
        if whole is not None and (table["digest"], table["rows"]) != (whole.hexdigest(), whole.rows):
            raise IntegrityError(f"what the manifest says of table {table['name']} is not what its streams hold")


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


def compare_live(content: Mapping[str, Any], view: View, id_key: bytes, report: Reporter) -> tuple[int, list[Problem]]:
    """How a live source differs from a snapshot of it, table by table (of a file, as a whole).

    Args:
        content: the snapshot's content part.
        view: an open view of the source.
        id_key: of the snapshot's writer.
        report: progress.

    Returns:
        how many tables (or files) were compared, and what differs.

    Raises:
        UsageError: the snapshot holds nothing that could be compared.
    """
    wanted = {t["name"]: t for t in content["tables"] if t.get("digest")}
    pages = {s["name"]: s["digest"] for s in content["streams"] if s["kind"] == "pages"}
    if not wanted and not pages and any(s["kind"] == "schema" and s["name"] == "native" for s in content["streams"]):
        raise UsageError("the snapshot is one opaque archive, which cannot be compared with a live database")
    report.phase("comparing with the source", sum(s.size_hint or 0 for s in view.streams) or None)
    live = _Live(view, id_key, report).read()
    view.finish()
    if pages:
        problem = "the file is not the one of the snapshot any more"
        return len(pages), [Problem(n, "differs", problem) for n, digest in pages.items() if live.get(n) != digest]
    formats = {table.name: table.format for table in view.tables}
    found = []
    for name, table in wanted.items():
        if name not in live:
            found.append(Problem(name, "missing", "the source has no such table any more"))
        elif formats.get(name) != table["format"]:
            found.append(Problem(name, "format", "its columns, or how the server writes them, have changed"))
        elif live[name] != table["digest"]:
            rows = RowDigest.count(live[name])
            found.append(Problem(name, "differs", f"{rows:,} rows now, {table['rows']:,} in the snapshot"))
    left_out = {str(name) for key in ("excluded", "skipped") for name in content["facts"].get(key) or ()}
    added = [name for name in live if name not in wanted and name not in left_out]
    return len(wanted), [*found, *(Problem(name, "added", "the snapshot has no such table") for name in added)]


class _Live:
    """The digest of each table, or of each stream of pages, that a view holds now."""

    def __init__(self, view: View, id_key: bytes, report: Reporter) -> None:
        self._view, self._id_key, self._report = view, id_key, Locked(report)
        self._lock = threading.Lock()
        self._rows: dict[str, RowDigest] = {}
        self._pages: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        """Read all of them, as many at a time as the view allows.

        Raises:
            BackupdError: what went wrong in any thread.
        """
        streams = [s for s in self._view.streams if s.kind != "schema"]
        readers = Readers(self._view.parallel, range(len(streams)))
        readers.run(lambda n: self._one(streams[n], readers), lambda _: None)
        return self._pages | {name: digest.hexdigest() for name, digest in self._rows.items()}

    def _one(self, stream: StreamInfo, readers: Readers) -> None:
        pages, rows = stream_digest(), RowCheck(self._id_key) if stream.kind == "rows" else None
        for data in self._view.read(stream):
            readers.check()
            self._report.advance(len(data))
            (rows or pages).update(data)
        if rows is None:
            self._pages[stream.name] = pages.hexdigest()
            return
        try:
            found = rows.finish()
        except IntegrityError:
            raise SourceIncomplete(
                f"the rows of {stream.name} ended in the middle of one", object_name=stream.name
            ) from None
        self._view.counted(stream, found.rows)
        with self._lock:
            self._rows.setdefault(stream.name, RowDigest()).merge(found)
