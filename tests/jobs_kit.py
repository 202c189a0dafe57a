"""A small kit for tests of whole jobs: a repository with cheap keys, hosts with places of their own, runs and restores.

The keys are made once for each process and every kit starts from the same repository id, so a kit costs nothing. Run as
`python -m tests.jobs_kit run KEYS REPOSITORY HOME SOURCE [loose]` it takes one snapshot in a process of its own.
"""

import functools
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import apsw

from backupd.config.paths import Places
from backupd.crypto.chunks import Kind
from backupd.crypto.keyfile import Key, Role, Secrets, new_header, parse_key
from backupd.crypto.keyring import Keyring, Right, Signer, derive_structure_key
from backupd.crypto.primitives import random_bytes
from backupd.engines.sqlite import open_source, open_target
from backupd.errors import BackupdError, IntegrityError
from backupd.jobs.backup import BackupOptions, BackupResult, backup, open_index, versions_path
from backupd.jobs.init import InitResult, KdfCost, init_repository
from backupd.jobs.restore import restore
from backupd.jobs.verify import Level, VerifyResult, verify
from backupd.repo.commit import Committed, commit
from backupd.repo.format import trust_name
from backupd.repo.ledger import Ledger
from backupd.repo.nodes import ChunkRef
from backupd.repo.preparing import Sealed
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.records import encode_record, record_name
from backupd.repo.repository import History, Repository, SnapshotView
from backupd.repo.snapshot import Structure
from backupd.repo.trees import walk
from backupd.repo.trust import Policy, Trust, WriterEntry, decode_trust, encode_trust
from backupd.repo.writing import WriteSession
from backupd.report import Reporter, Tally
from backupd.store.base import ObjectStore, StoreUnavailable
from backupd.store.memory import MemoryStore
from tests.doubles import Data, Wrapper
from tests.stores import memory_store, utc_now

CHEAP = KdfCost(8192, 1, 1)
PASSPHRASE = b"correct horse"
CHUNK = 64 * 1024


@dataclass(frozen=True)
class Template:
    """Keys and the first trust document, made once for each process."""

    keys: Mapping[Role, Key]
    trust: Trust


def open_keys(made: InitResult, roles: Iterable[Role] = Role) -> dict[Role, Key]:
    """The opened keys that `init` made."""
    return {r: parse_key(made.keys[r].read_bytes(), str(made.keys[r])).unlock(PASSPHRASE) for r in roles}


@functools.cache
def template() -> Template:
    """Keys and trust for all kits of this process."""
    with tempfile.TemporaryDirectory(prefix="backupd-kit-") as folder:
        store = memory_store()
        made = init_repository(
            store, Path(folder) / "keys", lambda: PASSPHRASE, now=utc_now(), create_only=True, label="host", cost=CHEAP
        )
        keys = open_keys(made)
    trust = decode_trust(store.get(trust_name(1)), 1, made.repository, None, made.fingerprint)
    return Template(keys, trust)


def damage_packs(folder: Path) -> None:
    """Flip a bit in the middle of each pack of a repository in a folder."""
    for pack in (folder / "packs").rglob("*"):
        if pack.is_file():
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(data)


class Kit:
    """A repository in a store, and hosts that use it; each host has a state and a cache folder of its own.

    Args:
        root: where hosts and restored files live.
        store: an empty place; a store in memory if not given.
        pack_bytes: the policy's size of packs; 1 puts every chunk into a pack of its own.
        create_only: what the policy says of the store.
    """

    def __init__(
        self, root: Path, store: ObjectStore | None = None, *, pack_bytes: int = 200_000, create_only: bool = True
    ) -> None:
        made = template()
        self.root, self.keys = root, dict(made.keys)
        self.store: ObjectStore = memory_store() if store is None else store
        self.trust = replace(made.trust, policy=Policy(pack_bytes=pack_bytes, create_only=create_only))
        self._restored = 0
        self.store.put(trust_name(1), encode_trust(self.trust, [self.signer(Role.ROOT)]))

    @property
    def writer(self) -> bytes:
        """The writer's id."""
        return self.keys[Role.WRITE].header.writer

    def signer(self, role: Role) -> Signer:
        """Somebody who signs as `role`."""
        return Signer(role, self.keys[role].header.id, self.keys[role].secrets["sign"])

    def places(self, host: str) -> Places:
        """The folders of a host."""
        return Places(self.root / host / "state", self.root / host / "cache")

    def repo(self, *roles: Role, host: str = "writer", store: ObjectStore | None = None) -> Repository:
        """The repository as a host with these keys opens it."""
        keyring = Keyring(tuple(self.keys[role] for role in roles))
        return Repository.open(store or self.store, keyring, Ledger.load(self.places(host).state))

    def backup(
        self,
        source: Path,
        *,
        store: ObjectStore | None = None,
        host: str = "writer",
        report: Reporter | None = None,
        key: Key | None = None,
        clock: Callable[[], datetime] = utc_now,
        **options: object,
    ) -> BackupResult:
        """Take a snapshot."""
        key = key or self.keys[Role.WRITE]
        ledger = Ledger.load(self.places(host).state)
        repo = Repository.open(store or self.store, Keyring((key,)), ledger)
        return backup(
            open_source(source, timeout=5),
            repo,
            key,
            folder=self.places(host),
            clock=clock,
            options=BackupOptions(**{"name": source.stem, "threads": 2, **options}),  # type: ignore[arg-type]
            report=report or Tally(),
        )

    def versions(self, host: str = "writer") -> Path:
        """The folder of a host's version caches."""
        return versions_path(self.places(host), self.keys[Role.WRITE])

    def refs(self, snapshot: str) -> list[list[ChunkRef]]:
        """The chunks of each stream of a snapshot."""
        repo = self.repo(Role.READ, host="reader")
        view = next(v for v in repo.history().views if v.id == snapshot)
        cache = PackCache(repo)
        try:
            loader = ChunkReader(repo, cache, view.object.envelope).node_loader()
            return [list(walk(root.top, root.kind, loader)) for root in view.structure.streams]
        finally:
            cache.close()

    def history(self, *, host: str = "reader", store: ObjectStore | None = None, role: Role = Role.READ) -> History:
        """All snapshots and what is wrong with the rest."""
        return self.repo(role, host=host, store=store).history()

    def verify(
        self,
        level: Level = Level.BYTES,
        *,
        store: ObjectStore | None = None,
        host: str = "checker",
        only: SnapshotView | None = None,
        report: Reporter | None = None,
    ) -> VerifyResult:
        """Verify as the command line does: heads are remembered only if nothing was found."""
        repo = self.repo(Role.READ if level is Level.CONTENT else Role.CHECK, host=host, store=store)
        result = verify(repo, level, only=only, now=utc_now(), report=report or Tally())
        if not result.problems:
            repo.ledger.remember(repo.trust.version, result.heads, records=result.records)
        return result

    def restore(
        self, snapshot: str, *, store: ObjectStore | None = None, host: str = "reader", role: Role = Role.READ
    ) -> Path:
        """Restore a snapshot, by its id, to a fresh file.

        Raises:
            IntegrityError: it cannot be restored; then there is no file.
        """
        repo = self.repo(role, host=host, store=store)
        view = next((v for v in repo.history().views if v.id == snapshot), None)
        if view is None:
            raise IntegrityError(f"there is no good snapshot {snapshot}", object_name=snapshot)
        self._restored += 1
        folder = self.root / f"restored-{self._restored}"
        folder.mkdir()
        place = open_target(folder / "database")
        place.prepare(overwrite=None)
        try:
            restore(repo, view, place, check="none", report=Tally())
        except BackupdError:
            assert list(folder.iterdir()) == [], "a failed restore left something behind"
            raise
        return folder / "database"

    def assert_restores(self, wanted: Mapping[str, bytes], *, store: ObjectStore | None = None) -> None:
        """Every snapshot restores to the bytes that were kept aside."""
        for snapshot, content in wanted.items():
            restored = self.restore(snapshot, store=store)
            assert restored.read_bytes() == content
            restored.unlink()

    def put_record(self, role: Role, n: int, document: Mapping[str, object], *, signer: Role | None = None) -> str:
        """Store a record; `signer` is who signs it if that is not the role in its name."""
        name = record_name(role, n)
        as_role = self.signer(signer or role)
        data = encode_record(
            name,
            document,
            self.trust.repository,
            Signer(as_role.role, as_role.id, self.keys[as_role.role].secrets["sign"]),
            Keyring((self.keys[signer or role],)),
        )
        self.store.put(name, data)
        return name

    def put_trust(self, trust: Trust) -> None:
        """Store another trust document, signed by the root."""
        self.store.put(trust_name(trust.version), encode_trust(trust, [self.signer(Role.ROOT)]))
        self.trust = trust

    def add_writer(self, label: str = "second") -> Key:
        """A key of another writer, and trust in force that names it."""
        writer, mine = random_bytes(16), self.keys[Role.WRITE]
        values = {name: random_bytes(32) for name in ("sign", "id", "cut", "cache")}
        values["structure"] = derive_structure_key(self.keys[Role.READ].secrets["structure_root"], writer, 1)
        secrets = Secrets({**values, "recipients": mine.secrets["recipients"]}, 1)
        header = new_header(Role.WRITE, mine.header.pin, secrets, mine.header.kdf, utc_now(), writer)
        entry = WriterEntry(writer, header.id, header.public, 1, label)
        self.put_trust(replace(self.trust, version=self.trust.version + 1, writers=(*self.trust.writers, entry)))
        return Key(header, secrets)


def names(store: ObjectStore, prefix: str = "") -> list[str]:
    """The names of all objects."""
    return [info.name for info in store.list(prefix)]


def contents(store: ObjectStore) -> dict[str, bytes]:
    """A copy of everything that is stored."""
    return {name: store.get(name) for name in names(store)}


def store_of(objects: Mapping[str, bytes]) -> MemoryStore:
    """A fresh store with these objects."""
    store = memory_store()
    for name, data in objects.items():
        store.put(name, data)
    return store


def copy_store(store: ObjectStore) -> MemoryStore:
    """A copy of a store."""
    return store_of(contents(store))


def overwrite(store: ObjectStore, name: str, data: bytes) -> None:
    """Change an object, as damage or an intruder does."""
    store.put(name, data, create_only=False)


def copy_host(kit: Kit, host: str, to: str | Path) -> None:
    """A host with the same state and cache, as a copied machine has; `to` is a host or a folder."""
    if (kit.root / host).exists():
        shutil.copytree(kit.root / host, kit.root / to)


def make_database(path: Path, *, chunks: int = 6, seed: int = 1) -> Path:
    """An SQLite file of about that many chunks that do not compress; closed when this returns."""
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode=delete").fetchall()
    noise = random.Random(seed)
    with db:
        db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
        db.executemany("INSERT INTO rows VALUES (?, ?)", ((n, noise.randbytes(3900)) for n in range(chunks * 15)))
    db.close()
    return path


def change_database(path: Path, seed: int, *, rows: int = 4) -> Path:
    """Change a few neighbouring rows and add some; closed when this returns."""
    db = apsw.Connection(str(path))
    noise = random.Random(seed)
    with db:
        (count,) = db.execute("SELECT max(id) FROM rows").fetchone()
        first = noise.randrange(max(1, count - rows))
        for n in range(first, first + rows):
            db.execute("UPDATE rows SET data = ? WHERE id = ?", (noise.randbytes(3900), n))
        db.execute("INSERT INTO rows(data) VALUES (?)", (noise.randbytes(3900),))
    db.close()
    return path


class LosingStore(Wrapper):
    """The answer to a write of the first name that `chosen` picks is lost after it took effect; `times` in all."""

    def __init__(self, inner: ObjectStore, chosen: Callable[[str], bool], times: int = 1) -> None:
        super().__init__(inner)
        self._chosen, self.left = chosen, times

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        written = self.inner.put(name, data, create_only=create_only)
        if self.left and self._chosen(name):
            self.left -= 1
            raise StoreUnavailable("the connection was reset", object_name=name)
        return written


class HookStore(Wrapper):
    """Calls a function before each write."""

    def __init__(self, inner: ObjectStore, before_put: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._before_put = before_put

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        self._before_put(name)
        return self.inner.put(name, data, create_only=create_only)


def write_by_hand(kit: Kit, forge: Callable[[WriteSession, Sealed], Sealed], pieces: Sequence[bytes]) -> Committed:
    """A run by a program that lies: `forge` sees every prepared chunk. The stream is `pieces`, each one chunk."""
    key = kit.keys[Role.WRITE]
    repo = kit.repo(Role.WRITE, host="liar")
    index = open_index(repo, key, kit.places("liar"), Tally())
    session = WriteSession(repo, key, index, started=utc_now())
    try:
        stream = session.stream(Kind.PAGES, 64)
        stream.add([forge(session, one) for one in session.prepare(Kind.PAGES, pieces) if isinstance(one, Sealed)])
        (root,) = session.finish_streams()
        session.write_segment()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        size = sum(len(piece) for piece in pieces)
        structure = Structure(
            0,
            None,
            repo.trust.version,
            "lies",
            now,
            now,
            "snapshot",
            (root,),
            0,
            size,
            0,
            session.counts.chunks(),
            tuple(session.segments),
        )
        content = {
            "engine": "sqlite",
            "facts": {},
            "streams": [{"name": "main", "kind": "pages", "unit": 0, "rows": None, "content": None, "digest": None}],
            "tables": [],
            "warnings": [],
            "note": "",
            "versions": {},
        }
        return commit(session, structure, content, locks=kit.places("liar").state, report=Tally(), fence=lambda: None)
    finally:
        session.close()
        index.close()


def pack_kinds(kit: Kit, snapshot: str) -> tuple[list[str], list[str]]:
    """The packs of a snapshot by what is in them: data, lists."""
    from backupd.repo.format import pack_name

    repo = kit.repo(Role.READ, host="reader")
    view = next(v for v in repo.history().views if v.id == snapshot)
    cache = PackCache(repo)
    try:
        reader, lists = ChunkReader(repo, cache), set()

        def load(ref: ChunkRef) -> bytes:
            lists.add(pack_name(ref.pack))
            return reader.read(ref, Kind.STRUCTURE)

        root = view.structure.streams[0]
        data = {pack_name(ref.pack) for ref in walk(root.top, root.kind, load)}
        return sorted(data), sorted(lists)
    finally:
        cache.close()


def _run(keys: str, repository: str, home: str, source: str, loose: bool) -> None:
    from backupd.repo.repository import repository_id
    from backupd.store.folder import FolderStore
    from tests.doubles import NoCreateOnlyStore

    key = parse_key((Path(keys) / "write.key").read_bytes(), keys).unlock(None)
    folder: ObjectStore = FolderStore(repository)
    store = NoCreateOnlyStore(folder) if loose else folder
    places = Places(Path(home) / "state", Path(home) / "cache")
    repo = Repository.open(store, Keyring((key,)), Ledger.load(places.state))
    assert repository_id(store) == repo.id
    assert repo.keyring.need(Right.WRITE) is key
    print("ready", flush=True)
    sys.stdin.readline()
    done = backup(
        open_source(source), repo, key, folder=places, clock=utc_now, options=BackupOptions("x"), report=Tally()
    )
    print(done.snapshot, flush=True)


if __name__ == "__main__":
    os.umask(0o077)
    _run(*sys.argv[2:6], loose="loose" in sys.argv[6:])
