"""Bringing the local index up to date with what the storage holds for this writer."""

from concurrent.futures import ThreadPoolExecutor

from backupd.errors import IntegrityError
from backupd.repo.format import kind_of, pack_name
from backupd.repo.localindex import LocalIndex
from backupd.repo.repository import READ_THREADS, Repository, read_object
from backupd.repo.segments import IndexedPack, parse_segment
from backupd.repo.writing import present_packs
from backupd.report import Problem, Reporter


def read_segment(repo: Repository, name: str, structure_id: bytes | None = None) -> list[IndexedPack]:
    """Read and verify one index segment.

    Args:
        repo: the repository.
        name: the segment's name.
        structure_id: if given, segments under another structure key (another epoch) or by a revoked key count as empty.

    Raises:
        IntegrityError: damaged, missing or forged.
    """
    segment = parse_segment(read_object(repo.store, name), name, repo.id)
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


def sync_index(repo: Repository, index: LocalIndex, writer: bytes, structure_id: bytes, report: Reporter) -> None:
    """Take in new segments, drop vanished ones, and mark packs that count as absent.

    A segment that is damaged is reported and left out: its chunks are stored anew.
    """
    names = [info.name for info in repo.store.list(f"index/{writer.hex()}/") if kind_of(info.name)]
    have = index.segments()
    index.forget_segments(have - set(names))

    def fetch(name: str) -> list[IndexedPack] | Problem:
        try:
            return read_segment(repo, name, structure_id)
        except IntegrityError as error:
            return Problem(name, "damaged", error.message)

    missing = [name for name in names if name not in have]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for name, found in zip(missing, pool.map(fetch, missing), strict=True):
            if isinstance(found, Problem):
                report.problem(found)
            else:
                index.add(name, found)
    there = present_packs(repo)
    avoided = repo.avoided_packs(report)
    index.set_absent({d for d in index.packs() if d not in there or pack_name(d) in avoided})
