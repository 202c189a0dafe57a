"""Reading chunks back: pack, seal, codec, id, in that order, and bases first.

Packs are fetched whole, several at once, and each is fetched once as long as it stays in the cache or in the spool. A
chunk that does not authenticate, or whose content is not what its id names, is an error that names the pack.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from backupd.crypto.chunks import ChunkHead, ChunkNamer, ChunkSealer, Kind
from backupd.crypto.envelope import Envelope
from backupd.errors import IntegrityError, KeyProblem
from backupd.repo.codecs import decode
from backupd.repo.format import pack_name
from backupd.repo.nodes import ChunkRef
from backupd.repo.pack import Pack, parse_pack
from backupd.repo.repository import Repository, read_object

PACKS_IN_MEMORY = 6
SPOOL_BYTES = 2 * 1024**3


def unnamed_file(folder: Path, prefix: str) -> IO[bytes]:
    """A file without a name in `folder`, or where that cannot be written, where the system keeps temporary files."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.TemporaryFile(dir=folder, prefix=prefix)
    except OSError:
        return tempfile.TemporaryFile(prefix=prefix)


class Spool:
    """Ciphertext of packs on disk: an unlinked file of limited size, written front to back."""

    def __init__(self, folder: Path, limit: int = SPOOL_BYTES) -> None:
        self._file = unnamed_file(folder, ".backupd-spool-")
        self._limit = limit
        self._end = 0
        self._at: dict[bytes, tuple[int, int]] = {}

    def keep(self, digest: bytes, data: bytes) -> None:
        """Keep a pack if there is room; a full disk means no room."""
        if digest in self._at or self._end + len(data) > self._limit:
            return
        with contextlib.suppress(OSError):
            written = 0
            view = memoryview(data)
            while written < len(data):
                written += os.pwrite(self._file.fileno(), view[written:], self._end + written)
            self._at[digest] = (self._end, len(data))
            self._end += len(data)

    def find(self, digest: bytes) -> bytes | None:
        """A kept pack's bytes."""
        place = self._at.get(digest)
        return os.pread(self._file.fileno(), place[1], place[0]) if place else None

    def close(self) -> None:
        """Give the space back."""
        self._file.close()


class PackCache:
    """Whole packs, `keep` of them in memory, the rest in the spool if there is one. Safe for several threads."""

    def __init__(
        self, repo: Repository, *, spool: Spool | None = None, fetchers: int = 4, keep: int = PACKS_IN_MEMORY
    ) -> None:
        self._repo = repo
        self._spool = spool
        self._keep = keep
        self._lock = threading.Lock()
        self._packs: OrderedDict[bytes, Future[Pack]] = OrderedDict()
        self._pool = ThreadPoolExecutor(fetchers, thread_name_prefix="fetch")
        self.uses: dict[bytes, int] | None = None
        self.fetched_bytes = 0

    def prefetch(self, digest: bytes) -> Future[Pack]:
        """Begin to fetch a pack unless it is here already."""
        with self._lock:
            future = self._packs.get(digest)
            if future is None:
                future = self._packs[digest] = self._pool.submit(self._fetch, digest)
                self._shrink()
            else:
                self._packs.move_to_end(digest)
            return future

    def _shrink(self) -> None:
        while len(self._packs) > self._keep:
            digest, future = self._packs.popitem(last=False)
            wanted = self.uses is None or self.uses.get(digest, 0) > 0
            if self._spool and wanted and future.done() and not future.exception():
                self._spool.keep(digest, bytes(future.result().data))

    def _fetch(self, digest: bytes) -> Pack:
        name = pack_name(digest)
        with self._lock:
            data = self._spool.find(digest) if self._spool else None
        if data is None:
            data = read_object(self._repo.store, name)
            with self._lock:
                self.fetched_bytes += len(data)
        return parse_pack(data, name, self._repo.id, check_hash=False)

    def get(self, digest: bytes) -> Pack:
        """A pack; fetched now if it is not here."""
        return self.prefetch(digest).result()

    def used(self, digest: bytes) -> None:
        """One use of a pack is done; after its last one it need not be spooled."""
        if self.uses is not None:
            with self._lock:
                self.uses[digest] = self.uses.get(digest, 0) - 1

    def close(self) -> None:
        """Stop fetching and give memory and disk back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._packs.clear()
        if self._spool:
            self._spool.close()


class ChunkReader:
    """Opens chunks. Safe for several threads.

    Args:
        repo: the repository.
        cache: where packs come from.
        owner: the envelope of the snapshot that is read: packs of another writer or epoch are refused.
    """

    def __init__(self, repo: Repository, cache: PackCache, owner: Envelope | None = None) -> None:
        self._repo = repo
        self._cache = cache
        self._owner = (owner.writer, owner.epoch) if owner else None
        self._lock = threading.Lock()
        self._sealers: dict[bytes, tuple[ChunkSealer, dict[Kind, ChunkNamer]]] = {}
        self._structure: dict[bytes, tuple[ChunkSealer, dict[Kind, ChunkNamer]]] = {}

    def opener(self, pack: Pack, kind: Kind) -> tuple[ChunkSealer, ChunkNamer]:
        """Who opens and who names the chunks of that kind in a pack.

        Raises:
            MissingRight: the keys at hand do not open them.
        """
        envelope = pack.envelope
        with self._lock:
            if kind is Kind.STRUCTURE:
                found = self._structure.get(envelope.structure_id)
                if found is None:
                    key = self._repo.structure_key(envelope)
                    found = ChunkSealer(key), {Kind.STRUCTURE: ChunkNamer.of(key, Kind.STRUCTURE)}
                    self._structure[envelope.structure_id] = found
            else:
                found = self._sealers.get(envelope.session)
                if found is None:
                    secrets = self._repo.keyring.session(envelope)
                    kinds: list[Kind] = [k for k in Kind if k is not Kind.STRUCTURE]
                    namers = {k: ChunkNamer.of(secrets.id_key, k) for k in kinds}
                    found = self._sealers[envelope.session] = ChunkSealer(secrets.session_key), namers
        return found[0], found[1][kind]

    def _opener_of_whole(self, pack: Pack, kind: Kind) -> tuple[ChunkSealer, ChunkNamer]:
        """`opener`, but where no key fits a damaged pack, the damage is the error and not the key."""
        try:
            return self.opener(pack, kind)
        except KeyProblem:
            parse_pack(bytes(pack.data), pack.name, self._repo.id)
            raise

    def read(self, ref: ChunkRef, kind: Kind) -> bytes:
        """A chunk's plaintext, bases resolved and checked as well.

        Raises:
            IntegrityError: naming the pack that is missing, damaged or forged.
        """
        return self._read(ref, kind, {})

    def _read(self, ref: ChunkRef, kind: Kind, done: dict[int, bytes]) -> bytes:
        """Read a chunk and what it leans on, each once."""
        ready = done.get(id(ref))
        if ready is not None:
            return ready
        bases = [self._read(base, kind, done) for base in ref.bases]
        name = pack_name(ref.pack)
        try:
            pack = self._cache.get(ref.pack)
            if self._owner not in {None, (pack.envelope.writer, pack.envelope.epoch)}:
                raise IntegrityError("the pack belongs to another writer or epoch than the snapshot")
            sealer, namer = self._opener_of_whole(pack, kind)
            head = ChunkHead(
                self._repo.id,
                kind,
                ref.codec,
                ref.id,
                ref.payload_length,
                ref.plain_length,
                tuple(base.id for base in ref.bases),
            )
            payload = sealer.open(head, pack.data[ref.offset : ref.offset + ref.payload_length + 40])
            plain = decode(ref.codec, payload, ref.plain_length, bases)
            namer.check(ref.id, plain)
        except IntegrityError as error:
            if error.object_name:
                raise
            chain = f", in a chain of {len(ref.bases)} bases" if ref.bases else ""
            raise IntegrityError(
                f"a chunk in {name} cannot be opened{chain}: {error.message}", object_name=name
            ) from None
        self._cache.used(ref.pack)
        done[id(ref)] = plain
        return plain

    def node_loader(self) -> Callable[[ChunkRef], bytes]:
        """What `nodes.walk` loads structure nodes with."""
        return lambda ref: self.read(ref, Kind.STRUCTURE)
