"""What snapshots need: every referenced chunk, once, in a table on disk, so that memory does not follow the repository."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from backupd.crypto.chunks import Kind
from backupd.repo.nodes import ChunkRef


class Need(NamedTuple):
    """One chunk that a list says is in a pack, and the first snapshot that needs it."""

    id: bytes
    kind: Kind
    offset: int
    payload_length: int
    plain_length: int
    codec: int
    bases: bytes
    snapshot: str


@dataclass(slots=True)
class Totals:
    """How much was collected."""

    chunks: int = 0
    bytes: int = 0


class Needs:
    """Collects needs; an unnamed temporary database holds them."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("pragma cache_size=-16000")
        self._db.execute("pragma journal_mode=off")
        self._db.execute(
            "create table needs(pack blob, offset integer, kind integer, id blob, payload integer, plain integer,"
            " codec integer, bases blob, snapshot text, primary key(pack, offset, kind, id)) without rowid"
        )
        self._db.execute("create table nodes(id blob primary key) without rowid")

    def seen_node(self, ref: ChunkRef, walk: bytes = b"") -> bool:
        """Whether a node was visited already in the walk of that name; from now on it was."""
        key = walk + ref.id + ref.pack
        if self._db.execute("select 1 from nodes where id=?", (key,)).fetchone():
            return True
        self._db.execute("insert into nodes values(?)", (key,))
        return False

    def add(self, ref: ChunkRef, kind: Kind, snapshot: str) -> None:
        """A snapshot needs this chunk and its bases."""
        bases = b"".join(base.id for base in ref.bases)
        self._db.execute(
            "insert or ignore into needs values(?,?,?,?,?,?,?,?,?)",
            (ref.pack, ref.offset, int(kind), ref.id, ref.payload_length, ref.plain_length, ref.codec, bases, snapshot),
        )
        for base in ref.bases:
            self.add(base, kind, snapshot)

    def packs(self) -> Iterator[tuple[bytes, str]]:
        """Every needed pack, and the first snapshot that needs it."""
        yield from self._db.execute("select pack, min(snapshot) from needs group by pack order by pack")

    def of_pack(self, pack: bytes) -> list[Need]:
        """What is needed of a pack."""
        rows = self._db.execute(
            "select id, kind, offset, payload, plain, codec, bases, snapshot from needs where pack=? order by offset",
            (pack,),
        )
        return [Need(i, Kind(k), o, p, n, c, b, s) for i, k, o, p, n, c, b, s in rows]

    def totals(self) -> Totals:
        """Distinct chunks needed, and their stored bytes."""
        count, size = self._db.execute("select count(*), coalesce(sum(payload + 40), 0) from needs").fetchone()
        return Totals(count, size)

    def close(self) -> None:
        """Drop everything."""
        self._db.close()
