"""Reading chunks back: pack, seal, codec, id, in that order, and bases first.

From a folder, slices of packs are read where they are. From elsewhere packs are fetched whole, several at once, and each
is fetched once as long as it stays in memory or in the spool, where slices of it are read. A chunk that does not
authenticate, or whose content is not what its id names, is an error that names the pack.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from backupd.crypto.chunks import BLOB_OVERHEAD, ChunkHead, ChunkNamer, ChunkSealer, Kind
from backupd.crypto.envelope import MAX_ENVELOPE_BYTES, Envelope
from backupd.crypto.primitives import Unauthentic
from backupd.disk import unnamed_file
from backupd.errors import BackupdError, IntegrityError, KeyProblem, MissingObject
from backupd.repo.codecs import MAX_DELTA, RowDelta, decode, parse_row_delta
from backupd.repo.compression import decompress
from backupd.repo.format import FRAME_BYTES, pack_name
from backupd.repo.nodes import ChunkRef
from backupd.repo.pack import MAX_HEAD, MAX_PACK_BYTES, Pack, parse_head, parse_pack
from backupd.repo.repository import Repository, read_object
from backupd.repo.slices import StoreSlices
from backupd.store.base import LocalObjects, ObjectMissing

PACKS_IN_MEMORY = 6
FILES_OPEN = 256
HEADS_KEPT = 4096
MOST_ASKED = 64 * 1024 * 1024
"""Bytes that are fetched ahead; what nobody has come for until then is forgotten."""
SPOOL_BYTES = 2 * 1024**3


class Slices(Protocol):
    """A pack's bytes, wherever they are."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Some of them; fewer at the end."""


class _InMemory:
    def __init__(self, data: memoryview) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> memoryview:
        return self._data[offset : offset + length]


class _InFile:
    """A file of its own; closed once nobody reads it any more."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def expect(self) -> None:
        """All of it will be needed soon."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:
        os.close(self._fd)


class _InSpool:
    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd, self._start, self._size = fd, start, size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, max(0, min(length, self._size - offset)), self._start + offset)


@dataclass(frozen=True, slots=True)
class OpenPack:
    """A pack that chunks are read from: its envelope, and its bytes."""

    name: str
    envelope: Envelope
    slices: Slices = field(repr=False)


class Spool:
    """Ciphertext of packs on disk: an unlinked file of limited size, written front to back."""

    def __init__(self, folder: Path, limit: int = SPOOL_BYTES) -> None:
        self._file = unnamed_file(folder, ".backupd-spool-")
        self._limit = limit
        self._end = 0

    def keep(self, data: bytes | memoryview) -> Slices | None:
        """Keep a pack if there is room; a full disk means no room."""
        if self._end + len(data) > self._limit:
            return None
        try:
            written = 0
            view = memoryview(data)
            while written < len(data):
                written += os.pwrite(self._file.fileno(), view[written:], self._end + written)
        except OSError:
            return None
        self._end += len(data)
        return _InSpool(self._file.fileno(), self._end - len(data), len(data))

    def close(self) -> None:
        """Give the space back."""
        self._file.close()


class PackCache:
    """Packs to read from. Safe for several threads.

    Of a store whose objects are files of this machine nothing is kept: slices are read where they are. From others packs are
    fetched whole, `keep` of them stay in memory, and those that are needed again go to the spool, if there is one. A `sparse`
    cache is for readers of a few chunks here and there: nothing is fetched but their slices, and what is announced to
    `expect` is fetched ahead.
    """

    def __init__(
        self,
        repo: Repository,
        *,
        spool: Spool | None = None,
        fetchers: int = 4,
        keep: int = PACKS_IN_MEMORY,
        sparse: bool = False,
    ) -> None:
        self._sparse, self._asked = sparse, 0
        self._repo = repo
        self._spool = spool
        self._lock = threading.Lock()
        self._keep = keep
        self._packs: OrderedDict[bytes, Future[OpenPack]] = OrderedDict()
        self._spooled: dict[bytes, OpenPack] = {}
        self._files: dict[bytes, OpenPack] = {}
        self._slices: dict[bytes, StoreSlices] = {}
        self._local = repo.store if isinstance(repo.store, LocalObjects) else None
        self._pool = ThreadPoolExecutor(fetchers, thread_name_prefix="fetch")
        self.uses: dict[bytes, int] | None = None
        self.fetched_bytes = 0

    @property
    def local(self) -> bool:
        """Whether it reads files of this machine, by nobody's thread but the reader's."""
        return self._local is not None

    def prefetch(self, digest: bytes) -> None:
        """Begin to fetch a pack unless it is here already; what is wrong with it, whoever needs it is told."""
        if self._sparse:
            return
        if self._local is None:
            self._fetching(digest)
            return
        with contextlib.suppress(BackupdError):
            self.get(digest)

    def expect(self, refs: Iterable[ChunkRef]) -> None:
        """Chunks that will be read soon; what they lean on is a matter of its own. Only a sparse cache needs to know."""
        if not self._sparse or self._local is not None:
            return
        wanted: dict[bytes, list[tuple[int, int]]] = {}
        for ref in refs:
            wanted.setdefault(ref.pack, []).append((ref.offset, ref.payload_length + BLOB_OVERHEAD))
            self._asked += ref.payload_length
        if self._asked > MOST_ASKED:
            self._asked = 0
            for pack in self._slices.values():
                pack.forget()
        for digest, slices in wanted.items():
            self._remote(digest).ask(self._pool, slices)

    def _remote(self, digest: bytes) -> StoreSlices:
        with self._lock:
            found = self._slices.get(digest)
            if found is None:
                found = self._slices[digest] = StoreSlices(self._repo.store, pack_name(digest), self.count)
        return found

    def count(self, size: int) -> None:
        """So many bytes more were fetched, here or in another process."""
        with self._lock:
            self.fetched_bytes += size

    def _fetching(self, digest: bytes) -> Future[OpenPack]:
        with self._lock:
            future = self._packs.get(digest)
            if future is not None:
                self._packs.move_to_end(digest)
                return future
            if (spooled := self._spooled.get(digest)) is not None:
                return _done(spooled)
            future = self._packs[digest] = self._pool.submit(self._fetch, digest)
            self._shrink()
            return future

    def _shrink(self) -> None:
        while len(self._packs) > (HEADS_KEPT if self._sparse else self._keep):
            digest, future = self._packs.popitem(last=False)
            if self._sparse:
                continue
            wanted = self.uses is None or self.uses.get(digest, 0) > 0
            if self._spool and wanted and future.done() and not future.exception():
                pack = future.result()
                if (slices := self._spool.keep(pack.slices.read(0, MAX_PACK_BYTES))) is not None:
                    self._spooled[digest] = OpenPack(pack.name, pack.envelope, slices)

    def _fetch(self, digest: bytes) -> OpenPack:
        name = pack_name(digest)
        if self._sparse:
            envelope, _ = parse_head(self._head(digest), name, self._repo.id)
            return OpenPack(name, envelope, self._remote(digest))
        data = read_object(self._repo.store, name)
        self.count(len(data))
        pack = parse_pack(data, name, self._repo.id, check_hash=False)
        return OpenPack(name, pack.envelope, _InMemory(pack.data))

    def _head(self, digest: bytes) -> bytes:
        """A pack's beginning, as far as its envelope goes."""
        slices = self._remote(digest)
        start = slices.read(0, FRAME_BYTES + 4)
        length = int.from_bytes(start[FRAME_BYTES:], "little")
        return start + slices.read(len(start), min(length, MAX_ENVELOPE_BYTES))

    def _open_file(self, store: LocalObjects, digest: bytes) -> OpenPack:
        name = pack_name(digest)
        try:
            slices = _InFile(store.open_file(name))
            head = slices.read(0, MAX_HEAD)
            if not self._sparse:
                slices.expect()
        except ObjectMissing:
            raise MissingObject(f"{name} is missing from the storage", object_name=name) from None
        except OSError as error:
            raise IntegrityError(f"{name} cannot be read: {error.strerror}", object_name=name) from None
        envelope, _ = parse_head(head, name, self._repo.id)
        with self._lock:
            while len(self._files) >= FILES_OPEN:
                del self._files[next(iter(self._files))]
            pack = self._files[digest] = OpenPack(name, envelope, slices)
        return pack

    def get(self, digest: bytes) -> OpenPack:
        """A pack; fetched now if it is not here."""
        if self._local is None:
            return self._fetching(digest).result()
        return self._files.get(digest) or self._open_file(self._local, digest)

    def whole(self, digest: bytes) -> bytes:
        """All bytes of a pack, asked for anew: to see what is wrong with it."""
        return read_object(self._repo.store, pack_name(digest))

    def used(self, ref: ChunkRef) -> None:
        """A chunk was read; after the last one of a pack it need not be spooled."""
        with self._lock:
            if self._local is not None:
                self.fetched_bytes += ref.payload_length + BLOB_OVERHEAD
            if self.uses is not None:
                self.uses[ref.pack] = self.uses.get(ref.pack, 0) - 1

    def close(self) -> None:
        """Stop fetching and give memory and disk back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._packs.clear()
        self._spooled.clear()
        self._files.clear()
        if self._spool:
            self._spool.close()


def _done(pack: OpenPack) -> Future[OpenPack]:
    future: Future[OpenPack] = Future()
    future.set_result(pack)
    return future


class ChunkReader:
    """Opens chunks. Safe for several threads.

    Args:
        repo: the repository.
        cache: where packs come from.
        owner: the envelope of the snapshot that is read: packs of another writer or epoch are refused.
        keep: how many of the chunks that were asked for last are kept: others that lean on one need not read it again.
    """

    def __init__(self, repo: Repository, cache: PackCache, owner: Envelope | None = None, *, keep: int = 0) -> None:
        self._kept: OrderedDict[tuple[bytes, Kind], bytes] = OrderedDict()
        self._keep = keep
        self._repo = repo
        self._cache = cache
        self._owner = (owner.writer, owner.epoch) if owner else None
        self._lock = threading.Lock()
        self._sealers: dict[bytes, tuple[ChunkSealer, dict[Kind, ChunkNamer]]] = {}
        self._structure: dict[bytes, tuple[ChunkSealer, dict[Kind, ChunkNamer]]] = {}
        self._ready: dict[tuple[bytes, Kind], tuple[ChunkSealer, ChunkNamer]] = {}

    def opener(self, pack: Pack | OpenPack, kind: Kind) -> tuple[ChunkSealer, ChunkNamer]:
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

    def _opener_of_whole(self, pack: OpenPack, digest: bytes, kind: Kind) -> tuple[ChunkSealer, ChunkNamer]:
        """`opener`, but where no key fits a damaged pack, the damage is the error and not the key."""
        try:
            return self.opener(pack, kind)
        except KeyProblem:
            parse_pack(self._cache.whole(digest), pack.name, self._repo.id)
            raise

    def read(self, ref: ChunkRef, kind: Kind) -> bytes:
        """A chunk's plaintext, checked against its id.

        Of what it leans on the ids are recomputed only to find the culprit: a chunk whose own id fits was built rightly.

        Raises:
            IntegrityError: naming the pack that is missing, damaged or forged.
        """
        if (ready := self._kept.get((ref.id, kind))) is not None:
            return ready
        try:
            plain = self._read(ref, kind, {}, check=not ref.bases)
        except Unauthentic:
            if not ref.bases:
                raise
            plain = self._read(ref, kind, {}, check=True)
        if self._keep:
            with self._lock:
                self._kept[ref.id, kind] = plain
                if len(self._kept) > self._keep:
                    self._kept.popitem(last=False)
        return plain

    def _read(self, ref: ChunkRef, kind: Kind, done: dict[int, bytes], *, check: bool, top: bool = True) -> bytes:
        """Read a chunk and what it leans on, each once."""
        ready = done.get(id(ref)) or self._kept.get((ref.id, kind))
        if ready is not None:
            return ready
        bases = [self._read(base, kind, done, check=check, top=False) for base in ref.bases]
        name = pack_name(ref.pack)
        try:
            sealer, namer = self._ready.get((ref.pack, kind)) or self._prepare(ref.pack, kind)
            ids = tuple([base.id for base in ref.bases])
            head = ChunkHead(self._repo.id, kind, ref.codec, ref.id, ref.payload_length, ref.plain_length, ids)
            blob = self._blob(ref)
            plain = decode(ref.codec, sealer.open(head, blob), ref.plain_length, bases)
            if check or top:
                namer.check(ref.id, plain)
        except IntegrityError as error:
            if error.object_name or (not check and isinstance(error, Unauthentic)):
                raise
            chain = f", in a chain of {len(ref.bases)} bases" if ref.bases else ""
            raise IntegrityError(
                f"a chunk in {name} cannot be opened{chain}: {error.message}", object_name=name
            ) from None
        self._cache.used(ref)
        done[id(ref)] = plain
        return plain

    def _blob(self, ref: ChunkRef) -> bytes | memoryview:
        pack = self._cache.get(ref.pack)
        try:
            return pack.slices.read(ref.offset, ref.payload_length + BLOB_OVERHEAD)
        except OSError as error:
            raise IntegrityError(f"{pack.name} cannot be read: {error.strerror}", object_name=pack.name) from None

    def _prepare(self, digest: bytes, kind: Kind) -> tuple[ChunkSealer, ChunkNamer]:
        """Who opens and names the chunks of a pack, once it was seen to be the owner's."""
        pack = self._cache.get(digest)
        if self._owner not in {None, (pack.envelope.writer, pack.envelope.epoch)}:
            raise IntegrityError("the pack belongs to another writer or epoch than the snapshot")
        ready = self._ready[digest, kind] = self._opener_of_whole(pack, digest, kind)
        return ready

    def row_delta(self, ref: ChunkRef) -> RowDelta:
        """What a row delta removes and adds, without reading what it leans on.

        Raises:
            IntegrityError: naming the pack that is missing, damaged or forged.
        """
        name = pack_name(ref.pack)
        try:
            sealer, _ = self._ready.get((ref.pack, Kind.ROWS)) or self._prepare(ref.pack, Kind.ROWS)
            ids = tuple([base.id for base in ref.bases])
            head = ChunkHead(self._repo.id, Kind.ROWS, ref.codec, ref.id, ref.payload_length, ref.plain_length, ids)
            blob = self._blob(ref)
            delta = parse_row_delta(decompress(sealer.open(head, blob), limit=MAX_DELTA))
        except IntegrityError as error:
            if error.object_name:
                raise
            raise IntegrityError(f"a row delta in {name} cannot be read: {error.message}", object_name=name) from None
        self._cache.used(ref)
        return delta

    def expect(self, refs: Iterable[ChunkRef]) -> None:
        """Chunks that will be read soon, with all that they lean on."""
        waiting, met = list(refs), {}
        while waiting:
            ref = waiting.pop()
            if (ref.id, ref.codec) not in met:
                met[ref.id, ref.codec] = ref
                waiting += ref.bases
        self._cache.expect(met.values())

    def node_loader(self) -> Callable[[ChunkRef], bytes]:
        """What `nodes.walk` loads structure nodes with."""
        return lambda ref: self.read(ref, Kind.STRUCTURE)
