"""A run's work on single chunks: name, look up, make a delta or compress, seal. For several threads.

Must never place anything: what comes out is placed, counted and uploaded by the run's own thread (`writing`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backupd.crypto.chunks import ChunkHead, ChunkNamer, ChunkSealer, Kind
from backupd.crypto.envelope import SessionSecrets
from backupd.repo.blobs import ChunkKey, Held, Record
from backupd.repo.codecs import encode
from backupd.repo.compression import Bytes
from backupd.repo.leaning import Candidates, Leaner
from backupd.repo.localindex import LocalIndex
from backupd.repo.nodes import ChunkRef
from backupd.repo.versioncache import VersionCache
from backupd.repo.versions import Version

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
        namer, leaner = self._namers[kind], self._leaner
        guesses = candidates or [Candidates()] * len(pieces)
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
        if len(ready) == len(pieces):
            return [*ready.values()]
        left = [i for n, i in enumerate(ids) if n not in ready]
        fresh = {i: ref for i in left if (ref := self._fresh.get((kind, i)))}
        stored = self._index.find(kind, asked) if (asked := [i for i in left if i not in fresh]) else {}
        for n, (i, piece, guess) in enumerate(zip(ids, pieces, guesses, strict=True)):
            if n in ready:
                continue
            if i in fresh:
                ready[n] = fresh[i]
            elif i in stored:
                ready[n] = self._known(kind, Version(stored[i], None, 0), piece, guess)
            else:
                ready[n] = self._new(kind, i, piece, guess)
        return [ready[n] for n in range(len(pieces))]

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

    def _new(self, kind: Kind, chunk_id: bytes, piece: Bytes, guess: Candidates) -> Sealed:
        leaner = self._leaner
        delta = leaner.lean(kind, chunk_id, piece, guess, self._namers[kind]) if leaner else None
        codec, payload = (delta.codec, delta.payload) if delta else encode(piece, self._level)
        bases, held = (delta.bases, delta.held) if delta else ((), ())
        ids = tuple(ref.id for ref in bases)
        head = ChunkHead(self._secrets.repository, kind, codec, chunk_id, len(payload), len(piece), ids)
        sealer = self.structure if kind is Kind.STRUCTURE else self.sealer
        blob, key = sealer.seal_kept(head, bytes(payload))
        keep = self._keep(head, payload, key, held, guess.mark)
        return Sealed(head, blob, bases, keep, delta.seen if delta else 0)

    def _keep(
        self, head: ChunkHead, payload: Bytes, key: bytes, held: tuple[Held, ...], mark: int
    ) -> Record | ChunkKey | None:
        """What the version cache is to hold of a new chunk."""
        cache = self._versions
        if cache is None or head.kind not in _HELD:
            return None
        if cache.in_repository:
            return ChunkKey(key, held)
        return cache.seal(payload, head.plain_length, head.codec, held) if cache.wants(mark) else None
