"""Filling a fresh local index: from the segments that the writer's snapshots name, then from their own lists.

Must never believe a segment that no snapshot names: whoever steals a write key can sign segments.
"""

from concurrent.futures import ThreadPoolExecutor

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.indexing import LISTS, read_segment, session_segments
from backupd.repo.localindex import LocalIndex
from backupd.repo.needs import Need, Needs
from backupd.repo.nodes import ChunkRef
from backupd.repo.pack import PackEntry
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.repository import READ_THREADS, Repository, SnapshotView
from backupd.repo.segments import IndexedPack
from backupd.repo.trees import walk
from backupd.report import Problem, Reporter

_PACKS_AT_ONCE = 500


def fill(repo: Repository, index: LocalIndex, writer: bytes, structure_id: bytes, report: Reporter) -> None:
    """Take in what the writer's snapshots name and need.

    Args:
        repo: the repository.
        index: a fresh one.
        writer: whose.
        structure_id: of the epoch; what lies under another structure key is left out.
        report: is told of what is damaged.
    """

    def fetch(item: tuple[str, bytes]) -> list[IndexedPack] | Problem:
        try:
            return read_segment(repo, item[0], structure_id, item[1])
        except IntegrityError as error:
            return Problem(item[0], "damaged", error.message)

    views = [
        view
        for view in repo.history().views
        if view.object.writer == writer and view.object.envelope.structure_id == structure_id
    ]
    wanted: dict[str, bytes] = {}
    for view in views:
        wanted |= session_segments(view)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for name, found in zip(wanted, pool.map(fetch, wanted.items()), strict=True):
            if isinstance(found, Problem):
                report.problem(found)
            else:
                index.add(name, found)
    newest = {view.source: view for view in sorted(views, key=lambda view: view.object.seq)}
    _fill_from_lists(repo, index, list(newest.values()), report)


def _fill_from_lists(repo: Repository, index: LocalIndex, views: list[SnapshotView], report: Reporter) -> None:
    """Take in what the lists of snapshots say of packs of which no segment told."""
    needs, cache = Needs(), PackCache(repo)
    try:
        for view in views:
            try:
                _collect(ChunkReader(repo, cache), view, needs)
            except IntegrityError as error:
                report.problem(Problem(error.object_name or view.object.name, "damaged", error.message))
        known = index.packs()
        some: list[IndexedPack] = []
        for digest, _ in needs.packs():
            if digest not in known:
                some.append(IndexedPack(digest, 0, tuple(_entry(need) for need in needs.of_pack(digest))))
            if len(some) == _PACKS_AT_ONCE:
                index.add(LISTS, some)
                some = []
        if some:
            index.add(LISTS, some)
    finally:
        cache.close()
        needs.close()


def _collect(reader: ChunkReader, view: SnapshotView, needs: Needs) -> None:
    def load(ref: ChunkRef) -> bytes:
        needs.add(ref, Kind.STRUCTURE, view.id)
        return reader.read(ref, Kind.STRUCTURE)

    for root in view.structure.streams:
        for ref in walk(root.top, root.kind, load, needs.seen_node, totals=root.totals):
            needs.add(ref, root.kind, view.id)


def _entry(need: Need) -> PackEntry:
    bases = tuple(need.bases[at : at + 32] for at in range(0, len(need.bases), 32))
    return PackEntry(need.id, need.kind, need.codec, need.offset, need.payload_length, need.plain_length, bases)
