"""On what a changed chunk leans: the run before's version of it, an older one further down its chain, or nothing.

The limits are the format's and the design's: a chain has few links, its links together are small beside the full chunk,
and what it leans on was in the source not long ago, so that a row erased today does not live on in an old base.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from backupd.crypto.chunks import ChunkNamer, Kind
from backupd.repo.blobs import Held
from backupd.repo.codecs import DICT_DELTA, MAX_FAMILY, MAX_LINKS, ROW_DELTA
from backupd.repo.compression import Bytes
from backupd.repo.deltas import encode_dictionary_delta, encode_row_delta
from backupd.repo.nodes import ChunkRef, closure
from backupd.repo.versioncache import VersionCache
from backupd.repo.versions import Version

DEPTH = {Kind.ROWS: 3, Kind.PAGES: 2, Kind.SCHEMA: 2}
"""How many links a chain may have. A link costs a restore, and the next night, about what it saves in space: so few."""
SMALL_LINK = {Kind.ROWS: 0.05, Kind.PAGES: 0.06, Kind.SCHEMA: 0.06}
"""A version whose own link is below this share of the full chunk is passed over: the next one leans on what it leans on."""
MOST_OF_FULL = 0.3


@dataclass(slots=True)
class Candidates:
    """What may be the version before of a chunk; never changed, and not frozen because so many are made.

    Attributes:
        versions: one, or two neighbours where a cut moved; none if nothing is known.
        whole: whether the chunk begins and ends where the one candidate does.
        near: versions around them, by id, so that a chunk that only moved is known again.
        mark: decides whether the chunk is held; equal from night to night.
        known: the version that this chunk is, if its id was compared already.
    """

    versions: tuple[Version, ...] = ()
    whole: bool = False
    near: dict[bytes, Version] = field(default_factory=dict)
    mark: int = 0
    known: Version | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A chunk as a difference: its payload, and which of the ways it leans; see `Leaner.foundation`."""

    codec: int
    payload: bytes = field(repr=False)
    way: int


class Leaner:
    """Finds what is known again and makes deltas of what changed. Safe for several threads.

    Args:
        cache: the version cache.
        usable: whether a pack may be leaned on: in the storage, not marked, not bad.
        level: zstd level.
    """

    def __init__(self, cache: VersionCache, usable: Callable[[bytes], bool], level: int) -> None:
        self._cache, self._usable, self._level = cache, usable, level

    def again(self, chunk_id: bytes, candidates: Candidates) -> Version | None:
        """The chunk itself, if it is among the versions near by or in their chains and may still be leaned on."""
        version = candidates.near.get(chunk_id)
        if version is None:
            version = next((v for v in candidates.versions if v.ref.id == chunk_id), None)
        if version is not None:
            return version if self.may_stay(version) else None
        for version in candidates.versions:
            found = _in_chain(version, chunk_id)
            if found is not None:
                return found if self.may_stay(found) else None
        return None

    def may_stay(self, version: Version) -> bool:
        """Whether a version may be referred to again: its packs are there, and nothing it leans on is too old."""
        ref = version.ref
        if not ref.bases:
            return self._usable(ref.pack)
        return self._all_usable(ref) and self._cache.fresh_enough(version.seen, _root(ref).id[0])

    def _all_usable(self, ref: ChunkRef) -> bool:
        return self._usable(ref.pack) and all(self._all_usable(base) for base in ref.bases)

    def lean(
        self, kind: Kind, chunk_id: bytes, piece: Bytes, candidates: Candidates, namer: ChunkNamer
    ) -> Delta | None:
        """A delta for a chunk that changed, or None if it is to be stored in full."""
        versions = candidates.versions
        if not versions or not all(self._may_lean(version) for version in versions):
            return None
        if any(chunk_id in _ids(version.ref) for version in versions):
            return None
        rows = kind is Kind.ROWS and candidates.whole and len(versions) == 1
        data = bytes(piece)
        if len(versions) > 1:
            deep = max(_links(version.ref) for version in versions) >= MAX_LINKS - 1
            return None if deep else self._try(data, versions, namer, rows=False)
        for way, version in enumerate(_ways(versions[0], kind)):
            if (delta := self._try(data, (version,), namer, rows=rows, way=way)) is not None:
                return delta
        return None

    @staticmethod
    def foundation(kind: Kind, candidates: Candidates, way: int) -> tuple[Version, ...]:
        """The versions on which a delta for a chunk with these candidates leans."""
        versions = candidates.versions
        return versions if len(versions) > 1 else (_ways(versions[0], kind)[way],)

    def _may_lean(self, version: Version) -> bool:
        return (
            version.held is not None
            and self._all_usable(version.ref)
            and self._cache.fresh_enough(version.seen, _root(version.ref).id[0])
        )

    def _try(
        self, data: bytes, versions: tuple[Version, ...], namer: ChunkNamer, *, rows: bool, way: int = 0
    ) -> Delta | None:
        refs = tuple(version.ref for version in versions)
        held = tuple(version.held for version in versions if version.held is not None)
        room = min(_room(refs), _in_full(refs, len(data)) * 3 // 4)
        if room <= 0 or len(held) != len(refs):
            return None
        bases = []
        for ref, one in zip(refs, held, strict=True):
            plain = self._cache.plain(one, namer.kind)
            if plain is None or namer.name(plain) != ref.id:
                return None
            bases.append(plain)
        if rows:
            payload = encode_row_delta(bases, data, self._level)
            if payload is not None and len(payload) <= room:
                return Delta(ROW_DELTA, payload, way)
        payload = encode_dictionary_delta(bases, data, self._level)
        if payload is not None and len(payload) <= room:
            return Delta(DICT_DELTA, payload, way)
        return None


def _family(*refs: ChunkRef) -> list[ChunkRef]:
    """The chunks and all that they lean on, each once."""
    return closure(refs)[0]


def _ids(ref: ChunkRef) -> set[bytes]:
    return {item.id for item in _family(ref)}


def _links(ref: ChunkRef) -> int:
    return 1 + max(map(_links, ref.bases)) if ref.bases else 0


def _root(ref: ChunkRef) -> ChunkRef:
    while ref.bases:
        ref = ref.bases[0]
    return ref


def _room(refs: tuple[ChunkRef, ...]) -> int:
    """How many bytes one more link may have."""
    family = _family(*refs)
    if len(family) > MAX_FAMILY:
        return 0
    roots = [item.payload_length for item in family if not item.bases]
    links = sum(item.payload_length for item in family if item.bases)
    return int(sum(roots) / len(roots) * MOST_OF_FULL) - links


def _in_full(refs: tuple[ChunkRef, ...], size: int) -> int:
    """About what so many bytes would take in full, going by what they lean on."""
    roots = [item for item in _family(*refs) if not item.bases]
    return size * sum(item.payload_length for item in roots) // max(1, sum(item.plain_length for item in roots))


def _ways(version: Version, kind: Kind) -> list[Version]:
    """The versions to lean on, the best one first: this one, the one below it, or the full chunk at the foot."""
    chain = _chain(version)
    links = _links(version.ref)
    small = SMALL_LINK[kind] * (0.75 + _root(version.ref).id[1] / 512)
    passed_over = len(chain) > 1 and version.ref.payload_length <= small * _root(version.ref).payload_length
    if passed_over:
        return [chain[1], chain[-1]] if len(chain) > 2 else [chain[1]]
    if links < DEPTH[kind]:
        return [version]
    return [chain[-1]] if len(chain) > 1 and not chain[-1].ref.bases else []


def _chain(version: Version) -> list[Version]:
    """The version and those below it, as far as the chain does not fork and all of it is held."""
    out = [version]
    ref, held = version.ref, version.held
    while len(ref.bases) == 1 and held is not None and len(held.bases) == 1 and held.codec == ref.codec:
        ref, held = ref.bases[0], held.bases[0]
        out.append(Version(ref, held, version.seen))
    return out


def _in_chain(version: Version, chunk_id: bytes) -> Version | None:
    """An older version that stands in a chain again: content that came back."""
    pairs: list[tuple[ChunkRef, Held | None]] = [(version.ref, version.held)]
    for ref, held in pairs:  # which grows meanwhile
        if ref.id == chunk_id:
            return Version(ref, held, version.seen)
        parallel = held is not None and held.codec == ref.codec and len(held.bases) == len(ref.bases)
        below = held.bases if held is not None and parallel else (None,) * len(ref.bases)
        pairs += zip(ref.bases, below, strict=True)
    return None
