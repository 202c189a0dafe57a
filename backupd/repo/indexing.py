"""Bringing the local index up to date with what the storage holds for this writer."""

from concurrent.futures import ThreadPoolExecutor

from backupd.crypto.chunks import Kind
from backupd.crypto.primitives import sha256
from backupd.errors import IntegrityError
from backupd.repo.format import kind_of, pack_name
from backupd.repo.localindex import LocalIndex
from backupd.repo.needs import Need, Needs
from backupd.repo.nodes import ChunkRef
from backupd.repo.pack import PackEntry
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.repository import READ_THREADS, Repository, SnapshotView, read_object
from backupd.repo.segments import IndexedPack, parse_segment, segment_name
from backupd.repo.trees import walk
from backupd.repo.writing import present_packs
from backupd.report import Problem, Reporter

_LISTS = "lists of snapshots"
"""What stands in the local index for the segment of what snapshots' own lists say."""
_PACKS_AT_ONCE = 500


def read_segment(
    repo: Repository, name: str, structure_id: bytes | None = None, digest: bytes | None = None
) -> list[IndexedPack]:
    """Read and verify one index segment.

    Args:
        repo: the repository.
        name: the segment's name.
        structure_id: if given, segments under another structure key (another epoch) or by a revoked key count as empty.
        digest: if given, the hash that a snapshot says it has.

    Raises:
        IntegrityError: damaged, missing or forged.
    """
    data = read_object(repo.store, name)
    if digest is not None and sha256(data) != digest:
        raise IntegrityError(f"{name} is not the index that its snapshot names", object_name=name)
    segment = parse_segment(data, name, repo.id)
    signer = segment.signed.signer()
    entry = repo.trust.writer_entry(segment.writer, signer)
    if entry is None:
        raise IntegrityError(f"{name} is signed by a key that is no writer of this repository", object_name=name)
    segment.signed.verify(signer, entry.public)
    if structure_id is not None and (segment.structure_id != structure_id or entry.last_good is not None):
        return []
    key = repo.keyring.structure_key(segment.writer, segment.epoch, segment.structure_id)
    if key is None:
        raise IntegrityError(f"{name} is sealed under a structure key that no key at hand leads to", object_name=name)
    return segment.packs(key)


def session_segments(view: SnapshotView) -> dict[str, bytes]:
    """The index segments of a snapshot's session: name to hash."""
    writer, session = view.object.writer, view.object.envelope.session
    return {segment_name(writer, session, n): digest for n, digest in enumerate(view.structure.segments)}


def sync_index(repo: Repository, index: LocalIndex, writer: bytes, structure_id: bytes, report: Reporter) -> None:
    """Bring the local index up to date: what vanished is dropped, packs that count as absent are marked.

    A segment is believed if this machine made it, or if one of the writer's snapshots names its hash when a fresh index
    is filled. Whoever steals a write key can sign segments; they must not decide what the next run leaves out. A segment
    that is damaged is reported and left out: its chunks are stored anew. What the newest snapshot of each source needs of
    sessions whose snapshots are gone no snapshot names a segment of: that is taken from the snapshot's own lists.
    """
    names = {info.name for info in repo.store.list(f"index/{writer.hex()}/") if kind_of(info.name)}
    have = index.segments()
    index.forget_segments(have - names - {_LISTS})
    if not have:
        _fill(repo, index, writer, structure_id, report)
    there = present_packs(repo)
    avoided = repo.avoided_packs(report)
    index.set_absent({d for d in index.packs() if d not in there or pack_name(d) in avoided})
    index.set_stored({d for d in there if pack_name(d) not in avoided} if avoided else there)


def _fill(repo: Repository, index: LocalIndex, writer: bytes, structure_id: bytes, report: Reporter) -> None:
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
                index.add(_LISTS, some)
                some = []
        if some:
            index.add(_LISTS, some)
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
