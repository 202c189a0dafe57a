"""The local index: where this writer's chunks are. A cache, made from signed segments, thrown away at any time.

A look-up leads from an id to its pack, whose whole list is then read at once and kept for a while: neighbours in a source
are neighbours in packs, so an unchanged source costs one query a pack and not one a chunk. Each list carries a keyed
checksum, so that a damaged or doctored cache costs space and never a snapshot: a list that does not check is no list.
"""

import contextlib
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import TypeVar

from backupd.crypto.chunks import Kind
from backupd.crypto.primitives import b3_derive, b3_keyed
from backupd.errors import BackupdError, Busy, Failed
from backupd.repo.nodes import ChunkRef, PackPlace
from backupd.repo.segments import IndexedPack

_SCHEMA = """
create table if not exists packs(n integer primary key, digest blob unique not null, segment text not null, list blob not null,
  mac blob not null);
create table if not exists segments(name text primary key) without rowid;
create table if not exists chunks(key integer primary key, pack integer not null);
"""
_SHAPE = 2
_SHAPES = [(0, set()), (_SHAPE, {"packs", "segments", "chunks"})]
_NOT_DAMAGE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
_ROW = struct.Struct("<32sIIIBBxx")
_KEY = struct.Struct("<q")
_DELTA = 0x80
_MANY = 400
_NEAR = 50_000
_Result = TypeVar("_Result")
_Near = dict[tuple[int, bytes], ChunkRef]


class LocalIndex:
    """An index file of one writer and epoch. Look-ups may come from several threads."""

    def __init__(self, path: Path, secret: bytes, *, temporary: bool = False) -> None:
        self._path = path
        self._temporary = temporary
        self._key = b3_derive("backupd/v1/local-index", secret)
        self._lock = threading.Lock()
        self._absent: set[bytes] = set()
        self._stored: set[bytes] = set()
        self._usable: set[bytes] = set()
        self._near: _Near = {}
        self._nearly: _Near = {}
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = self._open_whole()

    def _open_whole(self, *, anew: bool = False) -> sqlite3.Connection:
        """Open the file, made anew if it is damaged; only one process at a time, so that nobody deletes what another makes."""
        with self._path.with_name(self._path.name + ".lock").open("w") as lock:
            flock(lock, LOCK_EX)
            if anew:
                self.throw_away(self._path)
            try:
                return self._open()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", None) in _NOT_DAMAGE:
                    raise self._unusable(error) from None
                self.throw_away(self._path)
                return self._open()

    def _unusable(self, error: sqlite3.DatabaseError) -> BackupdError:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            return Busy(
                f"another run holds the local index {self._path}",
                object_name=str(self._path),
                hint="try again when it is done",
            )
        return Failed(
            f"the local index {self._path} cannot be used",
            object_name=str(self._path),
            hint="is its disk full, or is another run stuck? it may be deleted at any time",
        )

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=60)
        self._path.chmod(0o600)
        (shape,) = db.execute("pragma user_version").fetchone()
        tables = {name for (name,) in db.execute("select name from sqlite_master where type='table'")}
        if (shape, tables) not in _SHAPES:
            db.close()
            raise sqlite3.DatabaseError("another shape")
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=off")
        db.execute("pragma cache_size=-8000")
        if not tables:
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"pragma user_version={_SHAPE}")
        return db

    def _do(self, work: Callable[[], _Result]) -> _Result:
        """Do something under the lock; a file that turns out to be damaged is made anew, empty, first."""
        with self._lock:
            try:
                return work()
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise self._unusable(error) from None
                self._db.close()
                self._db = self._open_whole(anew=True)
                return work()

    @staticmethod
    def throw_away(path: Path) -> None:
        """Delete an index file; the next run makes it anew."""
        if path.is_dir() and not path.is_symlink():
            import shutil

            shutil.rmtree(path)
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).unlink()

    def segments(self) -> set[str]:
        """Names of the segments that are in already."""
        return self._do(lambda: {name for (name,) in self._db.execute("select name from segments")})

    def add(self, segment: str, packs: Iterable[IndexedPack]) -> None:
        """Take a verified segment in."""
        listed = list(packs)
        self._do(lambda: self._add(segment, listed))

    def _add(self, segment: str, packs: Sequence[IndexedPack]) -> None:
        self._db.execute("begin immediate")
        try:
            for pack in packs:
                self._add_pack(segment, pack)
            self._db.execute("insert or ignore into segments values(?)", (segment,))
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def _add_pack(self, segment: str, pack: IndexedPack) -> None:
        listed = b"".join(
            _ROW.pack(
                e.id, e.offset, e.payload_length, e.plain_length, int(e.kind) | (_DELTA if e.bases else 0), e.codec
            )
            for e in pack.entries
        )
        self._db.execute(
            "insert or ignore into packs(digest, segment, list, mac) values(?,?,?,?)",
            (pack.digest, segment, listed, self._mac(pack.digest, listed)),
        )
        (n,) = self._db.execute("select n from packs where digest=?", (pack.digest,)).fetchone()
        rows = ((_key(e.id), n) for e in pack.entries)
        self._db.executemany("insert or replace into chunks values(?,?)", rows)
        self._forget_near()

    def _mac(self, digest: bytes, listed: bytes) -> bytes:
        return b3_keyed(self._key, digest + listed)[:16]

    def _forget_near(self) -> None:
        self._near, self._nearly = {}, {}

    def forget_segments(self, gone: Iterable[str]) -> None:
        """Drop what came from segments that are no longer in the storage."""
        names = list(gone)
        self._do(lambda: self._forget(names))

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            for n, listed in self._db.execute(
                "select n, cast(list as blob) from packs where segment=?", (name,)
            ).fetchall():
                if isinstance(listed, bytes):
                    keys = ((_key(listed[at : at + 32]), n) for at in range(0, _whole(listed), _ROW.size))
                    self._db.executemany("delete from chunks where key=? and pack=?", keys)
                self._db.execute("delete from packs where n=?", (n,))
            self._db.execute("delete from segments where name=?", (name,))
        self._forget_near()

    def set_absent(self, digests: set[bytes]) -> None:
        """From now on, chunks in these packs count as absent: marked, bad, or gone."""
        with self._lock:
            self._absent = digests
            self._forget_near()

    def set_stored(self, digests: set[bytes]) -> None:
        """The packs that are in the storage, neither marked nor bad."""
        self._stored = digests
        self._usable = digests & self.packs()

    def is_stored(self, digest: bytes) -> bool:
        """Whether a pack is in the storage, neither marked nor bad."""
        return digest in self._stored

    def usable(self, digest: bytes) -> bool:
        """Whether a pack may be leaned on: it is stored, and a segment lists it."""
        return digest in self._usable

    def packs(self) -> set[bytes]:
        """Digests of all packs that it knows."""
        return self._do(
            lambda: {bytes(digest) for (digest,) in self._db.execute("select cast(digest as blob) from packs")}
        )

    def count(self) -> int:
        """How many chunks it knows."""
        return self._do(lambda: int(self._db.execute("select count(*) from chunks").fetchone()[0]))

    def find(self, kind: Kind, ids: Sequence[bytes]) -> dict[bytes, ChunkRef]:
        """Where these chunks are; those that are not known, absent, or do not check are left out."""
        return self._do(lambda: self._find(kind, ids))

    def _find(self, kind: Kind, ids: Sequence[bytes]) -> dict[bytes, ChunkRef]:
        found = self._kept(kind, ids)
        missing = [chunk for chunk in ids if chunk not in found]
        for n in self._packs_of(missing) if missing else ():
            if missing:
                self._load(n)
                found |= self._kept(kind, missing)
                missing = [chunk for chunk in missing if chunk not in found]
        return found

    def _kept(self, kind: Kind, ids: Sequence[bytes]) -> dict[bytes, ChunkRef]:
        refs = ((chunk, self._near.get((kind, chunk)) or self._nearly.get((kind, chunk))) for chunk in ids)
        return {chunk: ref for chunk, ref in refs if ref is not None}

    def _packs_of(self, ids: Sequence[bytes]) -> list[int]:
        """Numbers of the packs that hold these ids, in the order in which they were stored."""
        numbers: set[int] = set()
        for at in range(0, len(ids), _MANY):
            keys = [_key(chunk) for chunk in ids[at : at + _MANY]]
            marks = ",".join("?" * len(keys))
            found = self._db.execute(f"select distinct pack from chunks where key in ({marks})", keys)  # noqa: S608 - marks only
            numbers.update(n for (n,) in found)
        return sorted(n for n in numbers if type(n) is int)

    def _load(self, n: int) -> None:
        """Keep a pack's list near, if it checks and the pack is not absent; the older half of what is kept may go."""
        row = self._db.execute(
            "select cast(digest as blob), cast(list as blob), cast(mac as blob) from packs where n=?", (n,)
        ).fetchone()
        if row is None or not all(isinstance(value, bytes) for value in row):
            return
        digest, listed, mac = row
        if self._mac(digest, listed) != mac or len(listed) % _ROW.size or digest in self._absent:
            return
        if len(self._near) > _NEAR:
            self._near, self._nearly = {}, self._near
        place = PackPlace(digest)
        for chunk, offset, payload, plain, kind, codec in _ROW.iter_unpack(listed):
            # a delta is reused through the list that names its chain, never from here
            if not kind & _DELTA:
                self._near[kind, chunk] = ChunkRef(chunk, place, offset, payload, plain, codec)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
            if self._temporary:
                import shutil

                shutil.rmtree(self._path.parent, ignore_errors=True)


def _key(chunk: bytes) -> int:
    """What stands for an id in the table: a clash of two costs a chunk stored twice, because lists hold whole ids."""
    return int(_KEY.unpack(chunk[24:32])[0])


def _whole(listed: bytes) -> int:
    return len(listed) - len(listed) % _ROW.size
