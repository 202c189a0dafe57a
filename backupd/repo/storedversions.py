"""Versions that are held in the repository itself, where its objects are files of this machine.

Nothing is copied then: the version cache keeps what opens each chunk of the last run, under its seal, and reads the chunk
where it is. Must never open anything that the cache does not name.
"""

import os

from backupd.crypto.chunks import BLOB_OVERHEAD, ChunkHead, Kind, open_kept
from backupd.errors import BackupdError, IntegrityError
from backupd.repo.blobs import Held, OpenFiles
from backupd.repo.format import pack_name
from backupd.store.base import LocalObjects


class StoredVersions:
    """Reads sealed chunks out of packs; for several threads.

    Args:
        store: where the packs are.
        repository: its id.
    """

    def __init__(self, store: LocalObjects, repository: bytes) -> None:
        self._store, self._repository = store, repository
        self._files = OpenFiles(self._open)

    def _open(self, digest: bytes) -> int:
        return self._store.open_file(pack_name(digest))

    def read(self, held: Held, kind: Kind) -> bytes:
        """A payload.

        Raises:
            OSError, IntegrityError: it is not there, or does not open.
        """
        ref = held.ref
        assert ref is not None
        head = ChunkHead(
            self._repository,
            kind,
            ref.codec,
            ref.id,
            ref.payload_length,
            ref.plain_length,
            tuple([base.id for base in ref.bases]),
        )
        try:
            file = self._files.get(ref.pack)  # held here: another thread may need its place among the open ones
            blob = os.pread(file.fd, ref.payload_length + BLOB_OVERHEAD, ref.offset)
        except BackupdError as error:
            raise IntegrityError(error.message) from None
        return open_kept(held.key, head, blob)

    def close(self) -> None:
        """Close all files."""
        self._files.close()
