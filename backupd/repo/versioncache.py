"""The version cache of a host that can write and not read: the chunks of each source as its last run read them.

Sealed under the write key's cache secret, in the state folder, never older than the policy's `base_max_age`, limited in
size, and disposable: whatever is missing, damaged or locked costs space in the repository on one night and nothing else.
SECURITY.md says what it gives away.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

from backupd.crypto.chunks import Kind, open_part, seal_part
from backupd.crypto.primitives import b3_derive, b3_keyed, random_bytes
from backupd.disk import remove_files
from backupd.errors import IntegrityError
from backupd.repo.blobs import BlobFiles, ChunkKey, Held, Record, held_in_repository
from backupd.repo.codecs import decode
from backupd.repo.compression import Bytes
from backupd.repo.nodes import ChunkRef
from backupd.repo.storedversions import StoredVersions
from backupd.repo.versions import Anchors, ListReader, ListWriter, Recent, Version

HOUR = 3600
SHAPE = b"1, rows-1, "
"""How lists are written and rows are cut: one of another shape is no list."""
_SPARSE = 0.5
"""Blob files with less of them live than this are emptied: their chunks are held anew when they are met."""
_FILLED = 0.6
"""How much of what is allowed the chunks of one run may take: the rest is for what changes, and for what is emptied."""
_OLD = 0.75
"""So are files older than this share of what anything may live here, since what is dead in them can still be opened."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream of the run before."""

    number: int
    kind: Kind
    chunks: int
    size_class: int


@dataclass(slots=True)
class _Known:
    """What the newest whole list says of itself."""

    folder: Path
    label: bytes
    taken: int
    at: float
    share: float
    live: dict[int, int]
    born: dict[int, int]
    document: dict[str, Any]
    streams: dict[tuple[str, Kind], list[_Stream]] = field(default_factory=dict)


class VersionCache:
    """One source's version cache, held by one run.

    Args:
        base: the folder of all version caches of a repository on this machine.
        secret: the write key's cache secret.
        source: the source's name.
        now: seconds since 1970.
        max_age: seconds after which nothing here may be used or kept.
        limit: bytes that the blobs may take.
        trial: read what is there, and change and keep nothing.
        stored: reads versions in the repository, if its objects are files of this machine: then new ones are held there.

    Raises:
        OSError: the folder cannot be used, or (BlockingIOError) another run uses it.
    """

    def __init__(
        self,
        base: Path,
        secret: bytes,
        source: str,
        *,
        now: float,
        max_age: int,
        limit: int,
        trial: bool = False,
        stored: StoredVersions | None = None,
    ) -> None:
        self._secret = secret
        self._stored = stored
        self._hour = int(now) // HOUR
        self._oldest = self._hour - max_age // HOUR
        self._mark_key = b3_derive("backupd/v1/version-marks", secret)
        self._label = _label(secret, source)
        self._new: Path | None = None
        self._readers: list[ListReader] = []
        self._recent = Recent()
        self._lists: list[tuple[str, int, ListWriter]] = []
        self._kinds: list[Kind] = []
        self.trouble: str | None = None
        self._off = trial
        self._published = False
        self._now = now
        self._share = 1.0
        self._room = self._limit = self._there = 0
        self._sparse: set[int] = set()
        self._folder = base / self._label.hex()
        if trial:
            self._known = self._newest()
            self._blobs = BlobFiles(self._folder, secret)
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return
        _sweep(base.parent, now - max_age)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(self._lock, LOCK_EX | LOCK_NB)
            self._known = self._newest()
            self._blobs = BlobFiles(self._folder, secret)
            sizes = self._tidy()
            self._there = sum(sizes.values())
            self._limit = self._room_of(limit)
            self._sparse = self._to_empty(sizes, max_age // HOUR)
            name = f"list-{random_bytes(8).hex()}"
            self._new_label = self._label + bytes.fromhex(name[5:])
            new = self._folder / name
            new.mkdir(mode=0o700)
            self._new = new
        except BaseException:
            os.close(self._lock)
            raise

    def _newest(self) -> _Known | None:
        found = []
        for path in self._folder.glob("list-*"):
            with contextlib.suppress(OSError, IntegrityError, ValueError, KeyError, TypeError):
                found.append(self._read_head(path))
        whole = [known for known in found if self._oldest <= known.taken <= self._hour]
        return max(whole, key=lambda known: known.at, default=None)

    def _read_head(self, path: Path) -> _Known:
        label = self._label + bytes.fromhex(path.name[5:])
        document: dict[str, Any] = json.loads(
            open_part(self._secret, "versions-head", label, (path / "head").read_bytes())
        )
        live = {int(n): int(size) for n, size in document["live"].items()}
        born = {int(n): int(hour) for n, hour in document["born"].items()}
        times = int(document["taken"]), float(document["at"])
        known = _Known(path, label, *times, float(document["share"]), live, born, document)
        for number, (name, kind, chunks, size_class) in enumerate(document["streams"]):
            stream = _Stream(number, Kind(kind), int(chunks), int(size_class))
            known.streams.setdefault((str(name), stream.kind), []).append(stream)
        return known

    def _tidy(self) -> dict[int, int]:
        """Remove what no whole list needs; the blob files that stay."""
        keep = self._known.folder if self._known else None
        for path in self._folder.glob("list-*"):
            if path != keep:
                _remove(path)
        self._blobs.keep_only(self._known.live if self._known else {})
        return self._blobs.sizes()

    def _to_empty(self, sizes: dict[int, int], allowed: int) -> set[int]:
        """The files of which no more than half is live, or that are old (or, by this clock, not written yet)."""
        live, born = (self._known.live, self._known.born) if self._known else ({}, {})
        oldest = self._hour - int(allowed * _OLD)
        return {
            n
            for n, size in sizes.items()
            if live.get(n, 0) < size * _SPARSE or not oldest <= born.get(n, 0) <= self._hour
        }

    def _room_of(self, limit: int) -> int:
        """What the blobs may take: half of the free disk is left alone."""
        status = os.statvfs(self._folder)
        return min(limit, self._there + status.f_bavail * status.f_frsize // 2)

    def expect(self, size: int | None) -> None:
        """How many plain bytes the source has, if that is known: before any of it is read.

        The share of chunks, chosen by their marks, is held that fits under the limit. What is written in this run is limited
        as well: a guess about the whole may be wrong.
        """
        self._room = max(self._limit - self._there, 0)
        room = int(self._limit * _FILLED)
        whole = (size or 0) * 0.6
        if self._known and self._known.share > 0:
            whole = max(whole, sum(self._known.live.values()) / self._known.share)
        self._share = 1.0 if whole <= room else room / whole

    # ---- what the run before read

    def lists(self, name: str, kind: Kind) -> Sequence[ListReader]:
        """The lists of the streams of that name in the run before, in order; the caller's to use in one thread."""
        if self._known is None:
            return []
        known = self._known
        readers = [
            ListReader(known.folder, s.number, self._secret, known.label, kind, s.chunks, known.taken, self._recent)
            for s in known.streams.get((name, kind), [])
        ]
        self._readers += readers
        return readers

    def size_class(self, name: str, kind: Kind) -> int | None:
        """The size class that the streams of that name had: it stays as it was."""
        streams = self._known.streams.get((name, kind)) if self._known else None
        return streams[0].size_class if streams else None

    def plain(self, held: Held, kind: Kind) -> bytes | None:
        """A held version's plaintext; the caller checks its id. None if it is damaged or gone."""
        try:
            return self._plain(held, kind)
        except (OSError, IntegrityError):
            return None

    def _plain(self, held: Held, kind: Kind) -> bytes:
        bases = [self._plain(base, kind) for base in held.bases]
        return decode(held.codec, self._payload(held, kind), held.plain, bases)

    def _payload(self, held: Held, kind: Kind) -> bytes:
        if held.ref is None:
            return self._blobs.read(held)
        if self._stored is None:
            raise IntegrityError("the repository cannot be read here")
        return self._stored.read(held, kind)

    def fresh_enough(self, hour: int, mark: int) -> bool:
        """Whether a delta may lean on a full chunk last seen in that hour; sooner for some than for others, by `mark`."""
        allowed = self._hour - self._oldest
        return self._hour - allowed * (3 + mark % 256 / 256) / 4 < hour <= self._hour

    def sparse(self, held: Held) -> bool:
        """Whether a version lies, or leans, in a file that is to be emptied, or in a repository that cannot be read here."""
        gone = held.file in self._sparse if held.ref is None else self._stored is None
        return gone or (bool(held.bases) and any(self.sparse(base) for base in held.bases))

    # ---- what this run reads

    @property
    def hour(self) -> int:
        """The hour of this run."""
        return self._hour

    def mark(self, what: bytes) -> int:
        """A keyed mark, 64 bits."""
        return int.from_bytes(b3_keyed(self._mark_key, what)[:8], "little")

    @property
    def partial(self) -> bool:
        """Whether only chunks of some marks are held."""
        return self._share < 1

    def wants(self, mark: int) -> bool:
        """Whether chunks of that mark are held: always the same ones, if not all fit."""
        return not self._off and (self._share >= 1 or mark < self._share * 2.0**64)

    def seal(self, payload: Bytes, plain: int, codec: int, bases: tuple[Held, ...] = ()) -> Record | None:
        """Seal a payload, in any thread."""
        try:
            return self._blobs.seal(payload, plain, codec, bases) if not self._off else None
        except OSError as error:
            self._give_up(error)
            return None

    @property
    def in_repository(self) -> bool:
        """Whether chunks that this run stores are held where they are stored."""
        return self._stored is not None and not self._off

    def hold(self, record: Record | ChunkKey, ref: ChunkRef) -> Held | None:
        """Write a sealed payload, or keep the key of a chunk and where it is; in the run's own thread."""
        if isinstance(record, ChunkKey):
            return None if self._off else held_in_repository(ref, record.key, record.bases)
        if self._off or len(record.data) > self._room:
            return None
        self._room -= len(record.data)
        try:
            return self._blobs.append(record)
        except OSError as error:
            self._give_up(error)
            return None

    def begin(self, name: str, kind: Kind, size_class: int) -> None:
        """Begin the next stream's list."""
        if self._off or self._new is None:
            return
        try:
            writer = ListWriter(self._new, len(self._lists), self._secret, self._new_label, self._recent)
        except OSError as error:
            self._give_up(error)
            return
        self._lists.append((name, size_class, writer))
        self._kinds.append(kind)

    def extend(self, stream: int, versions: Sequence[Version], anchors: Sequence[Anchors] | None) -> None:
        """Append chunks to a stream's list; in the run's own thread."""
        if self._off:
            return
        try:
            self._lists[stream][2].extend(versions, anchors)
        except OSError as error:
            self._give_up(error)

    def drain(self) -> None:
        """Write what has waited for packs that are complete now."""
        if self._off:
            return
        try:
            for _, _, writer in self._lists:
                writer.drain()
        except OSError as error:
            self._give_up(error)

    @property
    def waiting(self) -> int:
        """How many blocks wait for packs."""
        return sum(writer.waiting for _, _, writer in self._lists)

    def _give_up(self, error: OSError) -> None:
        self._off = True
        self.trouble = self.trouble or f"the version cache {self._folder} cannot be written: {error.strerror}"

    @property
    def remembered(self) -> object:
        """What the run before left for this one with `publish`, if there is nothing here that must be made anew soon."""
        return None if self._known is None or self._sparse else self._known.document.get("remember")

    @property
    def oldest(self) -> int | None:
        """The hour in which the oldest full chunk that a delta of this run leans on was last seen; None without deltas."""
        return min((w.oldest for _, _, w in self._lists if w.oldest is not None), default=None)

    @property
    def warm(self) -> bool:
        """Whether the run before left anything that deltas may lean on."""
        return self._known is not None

    def stay(self) -> None:
        """After a snapshot was published of a source that is as it was: what the run before read is of this hour too."""
        if self._off or self._known is None:
            return
        try:
            document = self._known.document | {"taken": self._hour, "at": self._now}
            self._write_head(self._known.folder, self._known.label, document)
        except OSError as error:
            self._give_up(error)

    def publish(self, remember: object = None) -> None:
        """After the snapshot was published: from now on these are the versions that deltas may lean on.

        Args:
            remember: JSON for the next run.
        """
        if self._off:
            return
        try:
            live: dict[int, int] = {}
            for _, _, writer in self._lists:
                writer.finish()
                for number, size in writer.live.items():
                    live[number] = live.get(number, 0) + size
            self._blobs.finish()
            assert self._new is not None
            self._write_head(self._new, self._new_label, self._document(live, remember))
            self._published = True
            if self._known:
                remove_files(self._known.folder)
            self._blobs.keep_only(live)
        except OSError as error:
            self._give_up(error)

    def _document(self, live: dict[int, int], remember: object) -> dict[str, Any]:
        before = self._known.born if self._known else {}
        return {
            "taken": self._hour,
            "at": self._now,
            "born": {**{n: before.get(n, self._hour) for n in live}, **dict.fromkeys(self._blobs.fresh, self._hour)},
            "share": self._share,
            "live": live,
            "streams": [
                (name, int(kind), writer.chunks, size_class)
                for (name, size_class, writer), kind in zip(self._lists, self._kinds, strict=True)
            ],
            "remember": remember,
        }

    def _write_head(self, folder: Path, label: bytes, document: dict[str, Any]) -> None:
        sealed = seal_part(self._secret, "versions-head", label, json.dumps(document).encode())
        draft = folder / "head.new"
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(sealed)
        draft.rename(folder / "head")

    def close(self) -> None:
        """Let go of everything; what was not published is removed."""
        for reader in self._readers:
            reader.close()
        if not self._published and self._new is not None:
            self._blobs.discard()
            remove_files(self._new)
        self._blobs.close()
        if self._stored is not None:
            self._stored.close()
        os.close(self._lock)


def forget_cache(base: Path, secret: bytes, source: str) -> None:
    """Remove the version cache of a source that keeps none any more."""
    _remove(base / _label(secret, source).hex())


def _remove(folder: Path) -> None:
    """Remove a folder and whatever is in it, as far as that can be."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _label(secret: bytes, source: str) -> bytes:
    return b3_keyed(b3_derive("backupd/v1/version-marks", secret), SHAPE + source.encode())[:16]


def _sweep(caches: Path, before: float) -> None:
    """Remove the caches of sources, keys and epochs that have not run for longer than anything may be kept."""
    with contextlib.suppress(OSError):
        for folder in [folder for base in caches.iterdir() for folder in base.iterdir()]:
            newest = max((path.stat().st_mtime for path in folder.glob("list-*/head")), default=0.0)
            if max(newest, folder.stat().st_mtime) < before:
                _remove(folder)
