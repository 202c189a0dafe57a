"""Bringing the local index up to date with what the storage holds for this writer."""

from backupd.crypto.primitives import sha256
from backupd.errors import IntegrityError
from backupd.repo.format import kind_of, pack_name
from backupd.repo.localindex import LocalIndex
from backupd.repo.repository import Repository, SnapshotView, read_object
from backupd.repo.segments import IndexedPack, parse_segment, segment_name
from backupd.repo.writing import present_packs
from backupd.report import Reporter

LISTS = "lists of snapshots"
"""What stands in the local index for the segment of what snapshots' own lists say."""


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
    index.forget_segments(have - names - {LISTS})
    if not have and next(repo.store.list(f"snapshots/{writer.hex()}/"), None):
        from backupd.repo.indexfill import fill  # once in the life of an index, and it reads packs

        fill(repo, index, writer, structure_id, report)
    there = present_packs(repo)
    avoided = repo.avoided_packs(report)
    index.set_absent({d for d in index.packs() if d not in there or pack_name(d) in avoided})
    index.set_stored({d for d in there if pack_name(d) not in avoided} if avoided else there)
