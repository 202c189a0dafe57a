"""The local index: where this writer's chunks are. A cache, made from signed segments, thrown away at any time.

Each row carries a short keyed checksum, so that a damaged or doctored cache costs space and never a snapshot: a row that
does not check is no row.
"""

import contextlib
import shutil
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
create table if not exists packs(n integer primary key, digest blob unique not null, segment text not null);
create table if not exists segments(name text primary key) without rowid;
create table if not exists chunks(id blob not null, kind integer not null, pack integer not null, offset integer not null,
  payload integer not null, plain integer not null, codec integer not null, bases blob not null, mac blob not null,
  primary key(id, kind)) without rowid;
"""
_SHAPE = 1
_SHAPES = [(0, set()), (_SHAPE, {"packs", "segments", "chunks"})]
_NOT_DAMAGE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
_ROW = struct.Struct("<IIIBB")
_MANY = 400
_Result = TypeVar("_Result")
_Found = tuple[bytes, bytes, int, int, int, int, bytes, bytes]


class LocalIndex:
    """An index file of one writer and epoch. Look-ups may come from several threads."""

    def __init__(self, path: Path, secret: bytes, *, temporary: bool = False) -> None:
        self._path = path
        self._temporary = temporary
        self._key = b3_derive("backupd/v1/local-index", secret)
        self._lock = threading.Lock()
        self._absent: set[bytes] = set()
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
        self._db.execute("insert or ignore into packs(digest, segment) values(?,?)", (pack.digest, segment))
        (n,) = self._db.execute("select n from packs where digest=?", (pack.digest,)).fetchone()
        rows = []
        for e in pack.entries:
            bases = b"".join(e.bases)
            mac = self._mac(e.id, e.kind, pack.digest, e.offset, e.payload_length, e.plain_length, e.codec, bases)
            rows.append((e.id, int(e.kind), n, e.offset, e.payload_length, e.plain_length, e.codec, bases, mac))
        self._db.executemany("insert or replace into chunks values(?,?,?,?,?,?,?,?,?)", rows)

    def _mac(
        self, chunk: bytes, kind: int, digest: bytes, offset: int, payload: int, plain: int, codec: int, bases: bytes
    ) -> bytes:
        row = chunk + digest + _ROW.pack(offset, payload, plain, kind, codec) + bases
        return b3_keyed(self._key, row)[:8]

    def forget_segments(self, gone: Iterable[str]) -> None:
        """Drop what came from segments that are no longer in the storage."""
        names = list(gone)
        self._do(lambda: self._forget(names))

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            packs = [n for (n,) in self._db.execute("select n from packs where segment=?", (name,))]
            for n in packs:
                self._db.execute("delete from chunks where pack=?", (n,))
                self._db.execute("delete from packs where n=?", (n,))
            self._db.execute("delete from segments where name=?", (name,))

    def set_absent(self, digests: set[bytes]) -> None:
        """From now on, chunks in these packs count as absent: marked, bad, or gone."""
        self._absent = digests

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
        rows = self._do(lambda: self._rows(kind, ids))
        found = {}
        for chunk, digest, offset, payload, plain, codec, bases, mac in rows:
            try:
                good = self._mac(chunk, kind, digest, offset, payload, plain, codec, bases) == mac
            except (struct.error, TypeError):
                good = False
            # a delta is reused through the list that names its chain, never from here
            if good and not bases and digest not in self._absent:
                found[chunk] = ChunkRef(chunk, PackPlace(digest), offset, payload, plain, codec)
        return found

    def _rows(self, kind: Kind, ids: Sequence[bytes]) -> list[_Found]:
        rows: list[_Found] = []
        for at in range(0, len(ids), _MANY):
            some = ids[at : at + _MANY]
            rows += self._db.execute(
                "select c.id, p.digest, c.offset, c.payload, c.plain, c.codec, c.bases, c.mac"  # noqa: S608 - marks only
                " from chunks c join packs p on p.n=c.pack"
                f" where c.kind=? and c.id in ({','.join('?' * len(some))})",
                (int(kind), *some),
            ).fetchall()
        return rows

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
            if self._temporary:
                shutil.rmtree(self._path.parent, ignore_errors=True)
