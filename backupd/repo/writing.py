"""A run's writing half: from plaintext chunks to packs, index segments and, last of all, the snapshot object.

The session key lives in this object only and dies with it. The order of writes is the promise: session, packs, index,
snapshot. Whatever is interrupted leaves earlier snapshots whole and no trace of the new one but unreferenced packs.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backupd.crypto.chunks import Kind, seal_part
from backupd.crypto.envelope import SessionSecrets, seal_envelope
from backupd.crypto.keyfile import Key, Role
from backupd.crypto.keyring import Signer
from backupd.crypto.primitives import random_bytes, sha256
from backupd.errors import IntegrityError, KeyProblem
from backupd.repo.compression import COMPRESSION, Bytes
from backupd.repo.format import FRAME_BYTES, SESSION, block, frame, kind_of, pack_json, pack_name, sign_object
from backupd.repo.journal import Journal, left_behind
from backupd.repo.leaning import Candidates
from backupd.repo.localindex import LocalIndex
from backupd.repo.nodes import ChunkRef, ContentEntry, PackPlace
from backupd.repo.pack import PackBuilder, PackEntry
from backupd.repo.preparing import Known, Prepared, Preparer, Sealed
from backupd.repo.repository import Repository
from backupd.repo.segments import IndexedPack, encode_segment, segment_name
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import TreeBuilder, finish_trees
from backupd.repo.versioncache import VersionCache
from backupd.repo.versions import Anchors, Version
from backupd.store.base import ObjectMissing, ShortRead

PACKS_IN_FLIGHT = 3
PACKS_A_SEGMENT = 64
CHUNKS_A_SEGMENT = 16_384
SMALL_SOURCE = 64 * 1024 * 1024
NODES_IN_LINE = 96


@dataclass(slots=True)
class Counts:
    """What a run adds up; `fresh` is what was stored in full, as it was and as it is stored."""

    total: int = 0
    full: int = 0
    delta: int = 0
    reused: int = 0
    read_bytes: int = 0
    stored_bytes: int = 0
    fresh_plain: int = 0
    fresh_payload: int = 0

    def chunks(self) -> dict[str, int]:
        """As the contract's `chunks`."""
        return {"total": self.total, "full": self.full, "delta": self.delta, "reused": self.reused}


def check_credential(repo: Repository, key: Key) -> None:
    """Whether trust still knows this write key, for this epoch and these recipients.

    Raises:
        KeyProblem: it does not; a new write key is needed.
    """
    entry = repo.trust.writer_entry(key.header.writer, key.header.id)
    why = None
    if entry is None:
        why = "the trust document does not name it"
    elif entry.last_good is not None:
        why = "it was revoked"
    elif entry.epoch != key.secrets.epoch:
        why = f"it is of epoch {key.secrets.epoch}, the trust document says {entry.epoch}"
    elif key.secrets["recipients"] != repo.trust.recipients_hash():
        why = "the restore and recovery keys have changed since it was made"
    if why:
        raise KeyProblem(
            f"the write key {key.header.path} is no longer good: {why}",
            object_name=key.header.path,
            hint="get the current write.key from whoever holds the root key",
        )


class WriteSession:
    """One run of one writer. `prepare` may run in several threads; everything else belongs to the run's own thread.

    Args:
        repo: the opened repository.
        key: the write key.
        index: the local index, up to date.
        started: the host's time, for the session object.
        level: zstd level.
        versions: the version cache of the source, if one is kept.
    """

    def __init__(
        self,
        repo: Repository,
        key: Key,
        index: LocalIndex,
        *,
        started: datetime,
        level: int = COMPRESSION,
        versions: VersionCache | None = None,
    ) -> None:
        check_credential(repo, key)
        self.repo = repo
        self.index = index
        self.writer = key.header.writer
        self.signer = Signer(Role.WRITE, key.header.id, key.secrets["sign"])
        self.secrets = SessionSecrets(
            random_bytes(32),
            key.secrets["id"],
            key.secrets["cut"],
            key.secrets["structure"],
            self.writer,
            key.secrets.epoch,
            repo.id,
        )
        self.envelope = seal_envelope(self.secrets, repo.trust.recipients, repo.trust.version)
        self.counts = Counts()
        self.referenced: set[bytes] = set()
        self.versions = versions
        self._fresh: dict[tuple[Kind, bytes], ChunkRef] = {}
        self.preparer = Preparer(self.secrets, index, self._fresh, versions, level)
        self._lists = OpenPacks(self, 1)
        self._packs = OpenPacks(self, 1)
        self.writers: list[StreamWriter] = []
        self.waiting = 0
        self._content_nodes = TreeBuilder(self.store_node)
        self._content_totals = [0, 0]
        self._uploads: deque[Future[IndexedPack]] = deque()
        self._building: deque[Future[None]] = deque()
        self._unindexed: list[IndexedPack] = []
        self._unindexed_chunks = 0
        self.segments: list[bytes] = []
        self._pool = ThreadPoolExecutor(PACKS_IN_FLIGHT, thread_name_prefix="upload")
        self._lock = threading.Lock()
        self._journal: Journal | None = None
        self.done = False
        self.stored_at = self._announce(started)

    def _announce(self, started: datetime) -> datetime:
        name = f"sessions/{self.writer.hex()}/{self.envelope.session.hex()}"
        stamp = {"started": started.strftime("%Y-%m-%dT%H:%M:%SZ")}
        sealed = seal_part(self.secrets.structure_key, "session", name.encode(), pack_json(stamp))
        body = frame(SESSION, self.repo.id) + block(self.envelope.raw) + block(sealed)
        return self._put(name, sign_object(name, body, [self.signer]))

    def _put(self, name: str, data: bytes | bytearray, *, create_only: bool = True) -> datetime:
        stored = self.repo.store.put(name, data, create_only=create_only)
        with self._lock:
            self.counts.stored_bytes += len(data)
        return stored

    def prepare(
        self, kind: Kind, pieces: Sequence[Bytes], candidates: Sequence[Candidates] | None = None
    ) -> list[Prepared]:
        """Name, look up, compress and seal chunks; for worker threads. See `Preparer.prepare`."""
        return self.preparer.prepare(kind, pieces, candidates)

    def name(self, kind: Kind, piece: Bytes) -> bytes:
        """The id of a chunk; for any thread."""
        return self.preparer.name(kind, piece)

    def place(self, prepared: Prepared, packs: "OpenPacks") -> tuple[ChunkRef, bool]:
        """Put a prepared chunk into a pack unless it is known; returns where it is, and whether it is new."""
        if isinstance(prepared, Sealed):
            key = (prepared.head.kind, prepared.head.id)
            ref = self._fresh.get(key)
            if ref is None:
                ref = self._fresh[key] = packs.add(prepared)
                for base in ref.bases:
                    self.refer(base)
                return ref, True
        else:
            ref = prepared.version.ref if isinstance(prepared, Known) else prepared
        self.refer(ref)
        return ref, False

    def refer(self, ref: ChunkRef) -> None:
        """This run leans on the pack of a chunk, and on those of all that it leans on."""
        if ref.place.digest is not None:
            self.referenced.add(ref.place.digest)
        for base in ref.bases:
            self.refer(base)

    def store_node(self, plaintext: bytes) -> ChunkRef:
        """Store a structure node as a chunk."""
        return self.place(self.prepare(Kind.STRUCTURE, [plaintext])[0], self._lists)[0]

    def store_content_node(self, plaintext: bytes) -> ChunkRef:
        """Store a content node as a chunk, and list it where those who may not read it see that it is needed."""
        ref, _ = self.place(self.prepare(Kind.CONTENT, [plaintext])[0], self._lists)
        self._content_nodes.add(ref)
        self._content_totals[0] += 1
        self._content_totals[1] += ref.plain_length
        return ref

    def complete_packs(self) -> None:
        """Complete all open packs, then those of the lists that name them, which can be made while they are stored."""
        self._packs.complete()
        self._wait_until_built()
        for writer in self.writers:
            writer.tree.drain_all()
        if self.versions is not None:
            self.versions.drain()
        self._lists.complete()
        self._wait_until_built()

    def _wait_until_built(self) -> None:
        while self._building:
            self._building.popleft().result()

    def expect(self, size: int | None) -> None:
        """How many bytes are to come: a source of some size fills two packs at random, so that neighbours cannot be told."""
        if size is None or size >= SMALL_SOURCE:
            self._packs = OpenPacks(self, 2)

    def stream(self, kind: Kind, size_class: int, name: str = "") -> "StreamWriter":
        """Begin a stream; its place among the snapshot's streams is the order in which they begin."""
        writer = StreamWriter(self, kind, size_class, self._packs, len(self.writers))
        self.writers.append(writer)
        if self.versions is not None:
            self.versions.begin(name, kind, size_class)
        return writer

    def finish_streams(self) -> list[StreamRoot]:
        """End all streams, and wait until all packs are stored.

        Returns:
            Their roots in order; behind them, if there is any, the root of the list of content nodes.
        """
        finish_trees([writer.tree for writer in self.writers], self.complete_packs)
        roots = [writer.root() for writer in self.writers]
        if self._content_totals[0]:
            finish_trees([self._content_nodes], self.complete_packs)
            assert self._content_nodes.top is not None
            chunks, size = self._content_totals
            roots.append(StreamRoot(Kind.CONTENT, 0, chunks, size, self._content_nodes.top))
        self.settle()
        return roots

    def relieve(self) -> None:
        """Let the nodes of all streams go that wait for their packs."""
        self.complete_packs()
        self.waiting = sum(writer.tree.waiting for writer in self.writers)

    def upload(self, builder: PackBuilder) -> None:
        """Finish a pack in another thread and store it; waits while too many are under way."""
        while len(self._uploads) >= PACKS_IN_FLIGHT:
            self._collect()
        built: Future[None] = Future()
        self._building.append(built)
        self._uploads.append(self._pool.submit(self._finish_pack, builder, built))

    def _finish_pack(self, builder: PackBuilder, built: "Future[None]") -> IndexedPack:
        try:
            digest, data = builder.finish(self.preparer.sealer, self.preparer.structure)
        except BaseException as error:
            built.set_exception(error)
            raise
        builder.place.digest = digest
        built.set_result(None)
        self._put(pack_name(digest), data, create_only=False)
        pack = IndexedPack(digest, len(data), tuple(builder.entries))
        if self._journal is not None:
            self._journal.enter(pack)
        return pack

    def _collect(self) -> None:
        """Wait for the upload that began first: segments are cut at the same places in two runs over the same chunks."""
        pack = self._uploads.popleft().result()
        while self._building and self._building[0].done():
            self._building.popleft().result()
        self.referenced.add(pack.digest)
        self._unindexed.append(pack)
        self._unindexed_chunks += len(pack.entries)
        if len(self._unindexed) >= PACKS_A_SEGMENT or self._unindexed_chunks >= CHUNKS_A_SEGMENT:
            self.write_segment()

    def settle(self) -> None:
        """Wait for all uploads."""
        while self._uploads:
            self._collect()

    def write_segment(self) -> None:
        """Write a signed segment of the packs stored since the last one, and take it into the local index."""
        if not self._unindexed:
            return
        packs, self._unindexed, self._unindexed_chunks = self._unindexed, [], 0
        name = segment_name(self.writer, self.envelope.session, len(self.segments))
        data = encode_segment(name, packs, self.envelope, self.secrets.structure_key, self.signer)
        self._put(name, data)
        self.segments.append(sha256(data))
        self.index.add(name, packs)
        if self._journal is not None:
            self._journal.clear()
        for pack in packs:
            for entry in pack.entries:
                self._fresh.pop((entry.kind, entry.id), None)

    def check_packs(self) -> None:
        """Every pack that this run leans on must still be in the storage.

        Raises:
            IntegrityError: one was removed meanwhile.
        """
        there = present_packs(self.repo)
        missing = [pack_name(digest) for digest in self.referenced if digest not in there]
        gone = [name for name in missing if not self._stands(name)]
        if gone:
            raise IntegrityError(
                f"{len(gone)} of the packs that this run needs vanished from the storage while it ran",
                object_name=gone[0],
                hint="run again: what is missing is stored anew; find out who deletes there",
            )

    def referenced_names(self) -> set[str]:
        """Names of all packs that this run leans on."""
        return {pack_name(digest) for digest in self.referenced}

    def _stands(self, name: str) -> bool:
        """Whether an object that a listing lacks is there after all: listings may lag."""
        try:
            return len(self.repo.store.get(name, 0, FRAME_BYTES)) == FRAME_BYTES
        except (ObjectMissing, ShortRead):
            return False

    def resume(self, folder: Path, secret: bytes) -> int:
        """List what runs that were cut off had stored, and keep a journal for the next one.

        Args:
            folder: of this write key's journals.
            secret: the write key's cache secret.

        Returns:
            how many packs need not be uploaded again.

        Raises:
            OSError: the folder cannot be written.
        """
        found = list(left_behind(folder, secret))
        known = self.index.packs()
        packs = {p.digest: p for _, some in found for p in some if self.index.is_stored(p.digest)}
        self._unindexed += [pack for digest, pack in packs.items() if digest not in known]
        self.write_segment()
        for path, _ in found:
            path.unlink(missing_ok=True)
        self._journal = Journal(folder, secret, self.envelope.session)
        return len(packs.keys() - known)

    def close(self) -> None:
        """End the session; uploads under way are waited for, the rest dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._journal is not None:
            self._journal.close(done=self.done)
            self._journal = None


class OpenPacks:
    """The packs a stream is filling: chunks go into either at random, so that neighbours cannot be told."""

    def __init__(self, session: WriteSession, count: int) -> None:
        self._session = session
        self._builders: list[PackBuilder | None] = [None] * count
        self._coins = iter(b"")

    def add(self, prepared: Sealed) -> ChunkRef:
        """Append a sealed chunk to one of the packs."""
        session, head = self._session, prepared.head
        n = self._coin() if len(self._builders) == 2 else 0
        builder = self._builders[n]
        if builder is not None and not builder.fits(head.payload_length, len(head.bases)):
            session.upload(builder)
            builder = None
        if builder is None:
            limit = session.repo.trust.policy.pack_bytes
            builder = PackBuilder(session.repo.id, session.envelope, session.secrets.structure_key, limit)
            self._builders[n] = builder
        entry = builder.add(head, prepared.blob)
        return _ref(entry, builder.place, prepared.bases)

    def _coin(self) -> int:
        """0 or 1; the system's random source is asked for many at a time, because each call gives the interpreter away."""
        for byte in self._coins:
            return byte & 1
        self._coins = iter(random_bytes(4096))
        return self._coin()

    def complete(self) -> None:
        """Send off what is open."""
        for n, builder in enumerate(self._builders):
            if builder is not None:
                self._session.upload(builder)
                self._builders[n] = None


def _ref(entry: PackEntry, place: PackPlace, bases: tuple[ChunkRef, ...]) -> ChunkRef:
    return ChunkRef(entry.id, place, entry.offset, entry.payload_length, entry.plain_length, entry.codec, bases)


class StreamWriter:
    """One stream of a run: takes prepared chunks in order, builds its trees."""

    def __init__(self, session: WriteSession, kind: Kind, size_class: int, packs: OpenPacks, number: int) -> None:
        self._session = session
        self._number = number
        self._kind = kind
        self._size_class = size_class
        self._packs = packs
        self.tree = TreeBuilder(session.store_node, session.store_content_node if kind is Kind.ROWS else None)
        self._chunks = self._bytes = 0

    def add(
        self,
        prepared: Sequence[Prepared],
        content: Sequence[ContentEntry] | None = None,
        anchors: Sequence[Anchors] | None = None,
    ) -> None:
        """Append chunks to the stream; of rows, with what is in each and the marks by which the next run finds it."""
        session, cache = self._session, self._session.versions
        nothing: list[None] = [None] * len(prepared)
        refs: list[ChunkRef] = []
        versions: list[Version] = []
        fresh = 0
        for item, marks in zip(prepared, anchors or nothing, strict=True):
            if isinstance(item, Known):  # as nearly all are, night after night
                ref, new = item.version.ref, False
                session.refer(ref)
            else:
                ref, new = session.place(item, self._packs)
                if new:
                    self._count(ref)
                    fresh += 1
            refs.append(ref)
            if cache is not None:
                versions.append(_version(cache, item, ref, marks, new=new))
        session.counts.reused += len(refs) - fresh
        if cache is not None:
            cache.extend(self._number, versions, anchors)
        self._extend(refs, content)

    def _count(self, ref: ChunkRef) -> None:
        """A chunk that is new."""
        counts = self._session.counts
        if ref.bases:
            counts.delta += 1
        else:
            counts.full += 1
            counts.fresh_plain += ref.plain_length
            counts.fresh_payload += ref.payload_length

    def _extend(self, refs: Sequence[ChunkRef], content: Sequence[ContentEntry] | None) -> None:
        """List chunks; nodes that can be written are, and when many wait for packs, these are completed."""
        session, before = self._session, self.tree.waiting
        self.tree.extend(refs, content)
        self._chunks += len(refs)
        self._bytes += sum([ref.plain_length for ref in refs])
        session.counts.total += len(refs)
        session.waiting += self.tree.waiting - before
        if session.waiting > NODES_IN_LINE:
            session.relieve()

    @property
    def content_top(self) -> bytes | None:
        """The top node of the stream's content tree, if it has one and the session has finished its streams."""
        return self.tree.content_top

    def root(self) -> StreamRoot:
        """The stream as the snapshot lists it; known once the session has finished its streams."""
        assert self.tree.top is not None
        return StreamRoot(self._kind, self._size_class, self._chunks, self._bytes, self.tree.top)


def _version(cache: VersionCache, item: Prepared, ref: ChunkRef, marks: Anchors | None, *, new: bool) -> Version:
    """What the next run is to know of a chunk that was placed."""
    if isinstance(item, Known):
        if item.keep is None and marks is None:
            return item.version
        held, seen = item.version.held, item.version.seen
    else:
        held, seen = None, item.seen if new and isinstance(item, Sealed) else 0
    if not isinstance(item, ChunkRef) and item.keep is not None and (new or isinstance(item, Known)):
        held = cache.hold(item.keep, ref)
    if isinstance(item, Known) and item.version.same(held, marks):
        return item.version
    if marks is None:
        return Version(ref, held, seen)
    return Version(ref, held, seen, marks.rows, marks.sums, marks.flags)


def present_packs(repo: Repository) -> set[bytes]:
    """Digests of all packs in the storage."""
    return {bytes.fromhex(info.name[9:]) for info in repo.store.list("packs/") if kind_of(info.name)}
