"""Which packs snapshots need: over all lists, chunks and bases. Memory follows packs and lists, not chunks."""

import contextlib
from collections.abc import Iterable

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.format import pack_name
from backupd.repo.nodes import ChunkRef
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.repository import Repository, SnapshotView
from backupd.repo.trees import walk


def packs_needed(
    repo: Repository, stay: Iterable[SnapshotView], go: Iterable[SnapshotView]
) -> tuple[set[str], set[str]]:
    """Names of the packs that snapshots need which stay, and of those that only snapshots need which go.

    Raises:
        IntegrityError: a list of what stays cannot be read: what it names must not be taken for garbage.
    """
    cache = PackCache(repo)
    try:
        needed = _Needed(ChunkReader(repo, cache))
        for view in stay:
            needed.visit(view)
        live = needed.names()
        for view in go:
            with contextlib.suppress(IntegrityError):  # then its packs go when they are old enough
                needed.visit(view)
        return live, needed.names() - live
    finally:
        cache.close()


class _Needed:
    def __init__(self, reader: ChunkReader) -> None:
        self._reader = reader
        self._packs: set[bytes] = set()
        self._seen: set[bytes] = set()

    def visit(self, view: SnapshotView) -> None:
        for root in view.structure.streams:
            for ref in walk(root.top, root.kind, self._load, self._known, totals=root.totals):
                self._need(ref)

    def names(self) -> set[str]:
        return {pack_name(pack) for pack in self._packs}

    def _need(self, ref: ChunkRef) -> None:
        self._packs.add(ref.pack)
        for base in ref.bases:
            self._need(base)

    def _load(self, ref: ChunkRef) -> bytes:
        self._need(ref)
        return self._reader.read(ref, Kind.STRUCTURE)

    def _known(self, ref: ChunkRef, walk: bytes = b"") -> bool:
        """Whether a node was visited already; from now on it was."""
        key = walk + ref.id + ref.pack
        if key in self._seen:
            return True
        self._seen.add(key)
        return False
