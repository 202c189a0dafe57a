"""Makes a repository of many small snapshots quickly: `python -m tests.bench.snapshots FOLDER COUNT`.

FOLDER has `repo` and `keys`, as `init` has made them. 200 sources under one writer, one snapshot of each a night, the last one
two days ago: real snapshots, packs, index segments and session objects, but nothing waits for the disk, and files are given the
times that the storage would have given them. Of each source's 150 small chunks three change every night.
"""

import os
import random
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from backupd.crypto.chunks import Kind
from backupd.crypto.keyfile import Key
from backupd.crypto.keyring import Keyring
from backupd.crypto.primitives import sha256
from backupd.repo.ledger import Ledger
from backupd.repo.localindex import LocalIndex
from backupd.repo.repository import Repository
from backupd.repo.snapshot import StreamRoot, Structure, encode_snapshot
from backupd.repo.writing import WriteSession
from backupd.store.base import ObjectStore
from backupd.store.folder import FolderStore
from backupd.wiring import read_keys

SOURCES, CHUNKS, CHANGED, CHUNK = 200, 150, 3, 220


@dataclass
class Backdated:
    """Writes into a folder at a time of its own choice, and waits for nothing; all else is the folder store's."""

    root: Path
    inner: FolderStore
    now: datetime

    @property
    def url(self) -> str:
        return self.inner.url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (self.now.timestamp(), self.now.timestamp()))
        return self.now


class Maker:
    """Makes the snapshots of all nights."""

    def __init__(self, root: Path, key: Key, scratch: Path) -> None:
        folder = FolderStore(root)
        opened = Repository.open(folder, Keyring((key,)), Ledger(scratch / "heads.json"))
        self.store = Backdated(root, folder, datetime.now(UTC))
        self.repo = Repository(cast(ObjectStore, self.store), opened.keyring, opened.trust, opened.ledger)
        self.key, self.index = key, LocalIndex(scratch / "index.sqlite", key.secrets["id"])
        self.seq, self.previous = 0, b""
        self.noise = random.Random(5)
        self.pieces = [[self.noise.randbytes(CHUNK) for _ in range(CHUNKS)] for _ in range(SOURCES)]

    def night(self, source: int, at: datetime) -> None:
        """One snapshot, the storage's time being `at`."""
        self.store.now = at
        pieces = self.pieces[source]
        for _ in range(CHANGED):
            pieces[self.noise.randrange(CHUNKS)] = self.noise.randbytes(CHUNK)
        session = WriteSession(self.repo, self.key, self.index, started=at)
        try:
            stream = session.stream(Kind.PAGES, 64)
            stream.add(session.prepare(Kind.PAGES, pieces))
            (root,) = session.finish_streams()
            session.write_segment()
            self._publish(session, root, f"source-{source:03d}", at)
        finally:
            session.close()

    def _publish(self, session: WriteSession, root: StreamRoot, name: str, at: datetime) -> None:
        self.seq += 1
        time = f"{at:%Y-%m-%dT%H:%M:%SZ}"
        structure = Structure(
            seq=self.seq,
            previous=self.previous or None,
            trust=self.repo.trust.version,
            source=name,
            taken_at=time,
            stored_at=time,
            kind="snapshot",
            streams=(root,),
            rows=0,
            read_bytes=CHUNKS * CHUNK,
            stored_bytes=session.counts.stored_bytes,
            chunks=session.counts.chunks(),
            segments=tuple(session.segments),
        )
        stream = {"name": "main", "kind": "pages", "unit": 0, "rows": None, "content": None, "digest": None}
        content = {"engine": "sqlite", "facts": {}, "streams": [stream], "tables": [], "warnings": [], "note": ""}
        named, data = encode_snapshot(
            structure,
            {**content, "versions": {}},
            envelope=session.envelope,
            structure_key=session.secrets.structure_key,
            session_key=session.secrets.session_key,
            signer=session.signer,
        )
        self.store.put(named, data)
        self.previous = sha256(data)


def make(folder: Path, count: int) -> None:
    """Fill the repository below a folder."""
    (locked,) = read_keys([folder / "keys/write.key"])
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        maker = Maker(folder / "repo", locked.unlock(None), Path(scratch))
        nights = count // SOURCES
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        for night in range(nights):
            for source in range(SOURCES):
                maker.night(source, midnight - timedelta(days=nights + 1 - night, seconds=-10 * source))
        maker.index.close()


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
