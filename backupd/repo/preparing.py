"""A run's work on single chunks: name, look up, make a delta or compress, seal. For several threads.

Must never place anything: what comes out is placed, counted and uploaded by the run's own thread (`writing`).
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Protocol

from backupd.crypto.chunks import ChunkHead, ChunkNamer, ChunkSealer, Kind, open_kept
from backupd.crypto.envelope import SessionSecrets
from backupd.repo.blobs import ChunkKey, Held, Record
from backupd.repo.codecs import encode
from backupd.repo.compression import Bytes
from backupd.repo.leaning import Candidates, Leaner
from backupd.repo.localindex import LocalIndex
from backupd.repo.nodes import ChunkRef
from backupd.repo.versioncache import VersionCache
from backupd.repo.versions import Version

IN_LINE = 3
"""So many batches may wait for each helper before this process makes one itself, which keeps it from reading."""
_HELD = {Kind.ROWS, Kind.PAGES, Kind.SCHEMA}


@dataclass(frozen=True, slots=True)
class Sealed:
    """A chunk that was not known when it was looked up; `bases` are what it leans on, if it is a delta.

    `keep` is for the version cache, and `seen` the hour in which the oldest of its bases was last seen in the source.
    """

    head: ChunkHead
    blob: bytes = field(repr=False)
    bases: tuple[ChunkRef, ...] = ()
    keep: Record | ChunkKey | None = field(default=None, repr=False)
    seen: int = 0


@dataclass(slots=True)
class Known:
    """A chunk that the run before read; `keep` if its version must be held anew. Not frozen because so many are made."""

    version: Version
    keep: Record | None = field(default=None, repr=False)


Prepared = Sealed | Known | ChunkRef
"""A chunk ready to be placed: sealed, or where it is if it is known already."""


@dataclass(frozen=True, slots=True)
class Made:
    """A new chunk, compressed or made a delta, and sealed: what this machine has to compute of it, in whichever process.

    Attributes:
        codec, payload_length: of the payload.
        blob: sealed.
        key: opens this blob and nothing else.
        way: of a delta, on which versions it leans; None of a chunk in full.
        payload: if it was made in this process.
    """

    codec: int
    payload_length: int
    blob: bytes = field(repr=False)
    key: bytes = field(repr=False)
    way: int | None = None
    payload: Bytes | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A chunk that is not known: its id, its plaintext, and what may be its version of the run before."""

    id: bytes
    piece: Bytes = field(repr=False)
    guess: Candidates = field(repr=False)


class Helper(Protocol):
    """Somewhere else where chunks are made; for one thread at a time."""

    def make(self, kind: Kind, wanted: Sequence[Wanted]) -> list[Made] | None:
        """Make them all; None if that cannot be done there."""


class Preparer:
    """Prepares the chunks of one session. Safe for several threads.

    Args:
        secrets: the session's.
        index: what is stored already.
        fresh: what this session has placed and not yet indexed.
        versions: the version cache, if one is kept.
        level: zstd level.
    """

    def __init__(
        self,
        secrets: SessionSecrets,
        index: LocalIndex,
        fresh: Mapping[tuple[Kind, bytes], ChunkRef],
        versions: VersionCache | None,
        level: int,
    ) -> None:
        self._secrets, self._index, self._fresh = secrets, index, fresh
        self._versions, self._level = versions, level
        self._leaner = Leaner(versions, index.usable, level) if versions else None
        self.sealer = ChunkSealer(secrets.session_key)
        self.structure = ChunkSealer(secrets.structure_key)
        self._namers = {k: ChunkNamer.of(self._name_secret(k), k) for k in Kind}
        self._helpers: SimpleQueue[Helper] = SimpleQueue()
        self._lines = self._asking = 0
        self._lock = threading.Lock()
        # Of what is done with rows that have a version before, each step takes microseconds. Threads that do it at the same
        # time hand the interpreter to each other at each: that takes more than a second core gives (tests/bench/RESULTS.md).
        self.turn = threading.Lock()

    def take_help(self, helper: Helper) -> None:
        """From now on have a helper make chunks; this process makes those for which no helper has time."""
        self._lines += IN_LINE
        self._helpers.put(helper)

    def _name_secret(self, kind: Kind) -> bytes:
        return self._secrets.structure_key if kind is Kind.STRUCTURE else self._secrets.id_key

    def prepare(
        self, kind: Kind, pieces: Sequence[Bytes], candidates: Sequence[Candidates] | None = None
    ) -> list[Prepared]:
        """Name, look up, compress and seal chunks; for worker threads.

        Args:
            kind: of all of them.
            pieces: their plaintexts.
            candidates: for each, what may be its version of the run before.
        """
        guesses = candidates or [Candidates()] * len(pieces)
        rows = kind is Kind.ROWS and any(guess.versions for guess in guesses)
        turn: AbstractContextManager[object] = self.turn if rows else nullcontext()
        with turn:
            ids, ready = self._look_up(kind, pieces, guesses)
        left = [n for n in range(len(pieces)) if n not in ready]
        if left:
            wanted = [Wanted(ids[n], pieces[n], guesses[n]) for n in left]
            made = self._elsewhere(kind, wanted)
            if made is None:
                with turn:
                    made = [self.make(kind, one) for one in wanted]
            for n, one, new in zip(left, wanted, made, strict=True):
                ready[n] = self._sealed(kind, one, new)
        return [ready[n] for n in range(len(pieces))]

    def _look_up(
        self, kind: Kind, pieces: Sequence[Bytes], guesses: Sequence[Candidates]
    ) -> tuple[list[bytes], dict[int, Prepared]]:
        """The ids of chunks, and those of them that are known, by their places."""
        namer, leaner = self._namers[kind], self._leaner
        ready: dict[int, Prepared] = {}
        ids: list[bytes] = []
        for n, (piece, guess) in enumerate(zip(pieces, guesses, strict=True)):
            version = guess.known
            chunk_id = version.ref.id if version else namer.name(piece)
            ids.append(chunk_id)
            if leaner is None:
                continue
            if version is None or not leaner.may_stay(version):
                version = leaner.again(chunk_id, guess)
            if version is not None:
                ready[n] = self._known(kind, version, piece, guess)
        left = [n for n in range(len(ids)) if n not in ready]
        for n in left:
            if (ref := self._fresh.get((kind, ids[n]))) is not None:
                ready[n] = ref
        asked = [n for n in left if n not in ready]
        stored = self._index.find(kind, [ids[n] for n in asked]) if asked else {}
        for n in asked:
            if (ref := stored.get(ids[n])) is not None:
                ready[n] = self._known(kind, Version(ref, None, 0), pieces[n], guesses[n])
        return ids, ready

    def _elsewhere(self, kind: Kind, wanted: Sequence[Wanted]) -> list[Made] | None:
        """Have a helper make them, unless too many wait for one already."""
        with self._lock:
            if kind not in _HELD or self._asking >= self._lines:
                return None
            self._asking += 1
        helper = self._helpers.get()
        try:
            return helper.make(kind, wanted)
        finally:
            self._helpers.put(helper)
            with self._lock:
                self._asking -= 1

    def make(self, kind: Kind, wanted: Wanted) -> Made:
        """Make a delta of a chunk, or compress it, and seal it; in any process."""
        leaner, piece = self._leaner, wanted.piece
        delta = leaner.lean(kind, wanted.id, piece, wanted.guess, self._namers[kind]) if leaner else None
        codec, payload = (delta.codec, delta.payload) if delta else encode(piece, self._level)
        way = delta.way if delta else None
        sealer = self.structure if kind is Kind.STRUCTURE else self.sealer
        blob, key = sealer.seal_kept(self._head(kind, wanted, codec, len(payload), way), bytes(payload))
        return Made(codec, len(payload), blob, key, way, payload)

    def _foundation(self, kind: Kind, wanted: Wanted, way: int | None) -> tuple[Version, ...]:
        return () if way is None else Leaner.foundation(kind, wanted.guess, way)

    def _head(self, kind: Kind, wanted: Wanted, codec: int, length: int, way: int | None) -> ChunkHead:
        ids = tuple([version.ref.id for version in self._foundation(kind, wanted, way)])
        return ChunkHead(self._secrets.repository, kind, codec, wanted.id, length, len(wanted.piece), ids)

    def _sealed(self, kind: Kind, wanted: Wanted, made: Made) -> Sealed:
        versions = self._foundation(kind, wanted, made.way)
        head = self._head(kind, wanted, made.codec, made.payload_length, made.way)
        held = tuple([version.held for version in versions if version.held is not None])
        keep = self._keep(head, made, held, wanted.guess.mark)
        seen = min((version.seen for version in versions), default=0)
        return Sealed(head, made.blob, tuple([version.ref for version in versions]), keep, seen)

    def name(self, kind: Kind, piece: Bytes) -> bytes:
        """The id of a chunk."""
        return self._namers[kind].name(piece)

    def _known(self, kind: Kind, version: Version, piece: Bytes, guess: Candidates) -> Prepared:
        """A chunk that is stored already; its version is held anew if it is not held well."""
        cache = self._versions
        if cache is None or kind not in _HELD:
            return version.ref
        held, wanted = version.held, cache.wants(guess.mark)
        if held is not None and (wanted or held.ref is not None) and not cache.sparse(held):
            return Known(version)
        if not wanted:
            return Known(replace(version, held=None))
        codec, payload = encode(piece, self._level)
        return Known(replace(version, held=None), cache.seal(payload, len(piece), codec))

    def _keep(self, head: ChunkHead, made: Made, held: tuple[Held, ...], mark: int) -> Record | ChunkKey | None:
        """What the version cache is to hold of a new chunk."""
        cache = self._versions
        if cache is None or head.kind not in _HELD:
            return None
        if cache.in_repository:
            return ChunkKey(made.key, held)
        if not cache.wants(mark):
            return None
        payload = open_kept(made.key, head, made.blob) if made.payload is None else made.payload
        return cache.seal(payload, head.plain_length, head.codec, held)
