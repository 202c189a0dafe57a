"""Storage that throttles, fills up, dies, refuses, lags or lies: jobs end with a clear error, and nothing is lost."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from backupd.crypto.chunks import ChunkHead
from backupd.crypto.keyfile import Role
from backupd.errors import BackupdError, Exit, Failed, IntegrityError, StorageRefused, TryAgain
from backupd.jobs.backup import index_path
from backupd.jobs.verify import Level
from backupd.repo.codecs import RAW
from backupd.repo.format import FRAME_BYTES, pack_name, trust_name
from backupd.repo.preparing import Sealed
from backupd.repo.repository import repository_id
from backupd.repo.writing import WriteSession
from backupd.report import Tally
from backupd.store.base import ObjectStore, ShortRead, StoreUnavailable
from tests.doubles import (
    DamagingStore,
    Data,
    FullDiskStore,
    LaggingStore,
    NoCreateOnlyStore,
    ReadOnlyStore,
    RecordingStore,
    ThrottlingStore,
    Wrapper,
)
from tests.jobs_kit import Kit, change_database, contents, make_database, names, pack_kinds, store_of, write_by_hand


class Story:
    """A kit with one snapshot and a changed source."""

    def __init__(self, root: Path, chunks: int = 6, pack_bytes: int = 200_000) -> None:
        self.kit = Kit(root, pack_bytes=pack_bytes)
        self.source = make_database(root / "bank.db", chunks=chunks)
        self.held = {self.kit.backup(self.source).snapshot: self.source.read_bytes()}
        change_database(self.source, 2, rows=20)

    def is_whole(self) -> None:
        """What was there is whole, nothing new is visible, and the next run succeeds."""
        assert {v.id for v in self.kit.history().views} == self.held.keys()
        assert self.kit.verify(Level.CONTENT).problems == []
        self.kit.assert_restores(self.held)
        self.held[self.kit.backup(self.source).snapshot] = self.source.read_bytes()
        assert self.kit.verify(Level.CONTENT).problems == []
        self.kit.assert_restores(self.held)


# ---- lists are stored beside the packs that they name


class OnePackLost(Wrapper):
    """The first pack of chunks fails, once a pack of lists that name it was stored."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.first = threading.Event()
        self.listed = threading.Event()

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        if not name.startswith("packs/"):
            return self.inner.put(name, data, create_only=create_only)
        if not self.first.is_set():
            self.first.set()
            assert self.listed.wait(30), "no list was stored while a pack was on its way"
            raise StoreUnavailable("gone for good", object_name=name)
        done = self.inner.put(name, data, create_only=create_only)
        self.listed.set()
        return done


def test_a_pack_that_its_lists_name_already_fails(tmp_path: Path) -> None:
    """Lists may be in the storage before the packs they name; if one of these fails, no snapshot and no index shows them."""
    story = Story(tmp_path, chunks=120, pack_bytes=16 << 20)
    before = set(contents(story.kit.store))
    store = OnePackLost(story.kit.store)
    with pytest.raises(TryAgain):
        story.kit.backup(story.source, store=store, host="new")
    assert store.listed.is_set()
    assert {name.split("/")[0] for name in set(contents(story.kit.store)) - before} == {"sessions", "packs"}
    story.is_whole()


# ---- throttling

AFTER = 3
"""Calls of a run after its snapshot is published: the first look back at the source's nights."""


def test_throttling_at_any_call_fails_cleanly(tmp_path: Path) -> None:
    """A store that gives up at any one call of a run: the run ends with try again, and harms nothing (F46).

    Only what comes after the snapshot was published, the look at what was sudden in it, may fail without failing the run.
    """
    story = Story(tmp_path)
    start = contents(story.kit.store)
    counting = ThrottlingStore(store_of(start))
    story.kit.backup(story.source, store=counting, host="count")
    assert counting.calls > 10
    for n in range(1, counting.calls + 1):
        story.kit.store = store_of(start)
        before = len(story.kit.history().views)
        store, report = ThrottlingStore(story.kit.store, every=n), Tally()
        if n <= counting.calls - AFTER:
            with pytest.raises(TryAgain) as failed:
                story.kit.backup(story.source, store=store, host=f"host{n}", report=report)
            assert failed.value.exit is Exit.TRY_AGAIN
        else:
            done = story.kit.backup(story.source, store=store, host=f"host{n}", report=report)
            assert done.snapshot in {view.id for view in story.kit.history().views}
            assert [w for w in report.warnings if "could not be looked at: the storage asks to slow down" in w]
        history = story.kit.history()
        assert history.problems == []
        assert len(history.views) <= before + 1
    story.kit.store = store_of(start)
    story.is_whole()


class PatientStore(Wrapper):
    """Tries each call again, as a store with retries inside does."""

    def put(self, name, data, *, create_only=True):  # type: ignore[no-untyped-def]
        return self._try(lambda: self.inner.put(name, data, create_only=create_only))

    def get(self, name, start=0, length=None):  # type: ignore[no-untyped-def]
        return self._try(lambda: self.inner.get(name, start, length))

    def list(self, prefix=""):  # type: ignore[no-untyped-def]
        return self._try(lambda: self.inner.list(prefix))

    @staticmethod
    def _try(call):  # type: ignore[no-untyped-def]
        for _ in range(5):
            try:
                return call()
            except TryAgain:
                continue
        return call()


@pytest.mark.parametrize("every", [2, 3, 5])
def test_throttling_below_the_retries_is_not_felt(tmp_path: Path, every: int) -> None:
    """A store that retries hides throttling: runs, verification and restores succeed (F46)."""
    story = Story(tmp_path)
    throttling = ThrottlingStore(story.kit.store, every=every)
    story.kit.store = PatientStore(throttling)
    story.is_whole()
    assert throttling.refusals > 5


def test_a_throttled_verify_is_no_verdict(tmp_path: Path) -> None:
    """A verification that could not read everything says try again, never that something is damaged (F46)."""
    story = Story(tmp_path)
    for every in (3, 5, 6, 7):
        with pytest.raises(TryAgain):
            story.kit.verify(Level.CONTENT, store=ThrottlingStore(story.kit.store, every=every))
    assert names(story.kit.store, "records/") == []


def test_a_throttled_restore_leaves_no_file(tmp_path: Path) -> None:
    """A restore that the storage breaks off says try again and leaves nothing (F46)."""
    story = Story(tmp_path, chunks=20, pack_bytes=70_000)
    (snapshot,) = story.held
    failures = 0
    for every in range(2, 22):
        try:
            restored = story.kit.restore(snapshot, store=ThrottlingStore(story.kit.store, every=every))
        except TryAgain:
            failures += 1
        else:
            assert restored.read_bytes() == story.held[snapshot]
    assert failures > 10


# ---- full, read-only, dying


def test_a_disk_that_fills_up_at_any_byte_of_a_run(tmp_path: Path) -> None:
    """The storage is full after so many bytes: the run is refused (13), what was there is whole, room heals it (F54)."""
    story = Story(tmp_path, chunks=10, pack_bytes=70_000)
    start = contents(story.kit.store)
    counting = RecordingStore(store_of(start))
    story.kit.backup(story.source, store=counting, host="count")
    total = sum(size for verb, _, size in counting.calls if verb == "put")
    for n in range(8):
        story.kit.store = store_of(start)
        with pytest.raises(StorageRefused) as failed:
            story.kit.backup(story.source, store=FullDiskStore(story.kit.store, total * n // 8), host=f"host{n}")
        assert failed.value.exit is Exit.STORAGE_REFUSED
        assert failed.value.object_name
        assert len(names(story.kit.store, "snapshots/")) == 1
    story.is_whole()


def test_read_only_storage(tmp_path: Path) -> None:
    """Where nothing may be written a run is refused (13), and verification and restore work, bad packs or not (F47)."""
    story = Story(tmp_path)
    read_only = ReadOnlyStore(story.kit.store)
    with pytest.raises(StorageRefused):
        story.kit.backup(story.source, store=read_only)
    assert story.kit.verify(Level.CONTENT, store=read_only).problems == []
    story.kit.assert_restores(story.held, store=read_only)
    victim = names(story.kit.store, "packs/")[0]
    story.kit.store.delete(victim)
    report = Tally()
    found = story.kit.verify(Level.BYTES, store=read_only, report=report)
    assert victim in {p.object for p in found.problems}
    assert any("could not be recorded" in text for text in report.warnings)


class DyingStore(Wrapper):
    """Every call fails for good from the n-th on."""

    def __init__(self, inner: ObjectStore, alive: int) -> None:
        super().__init__(inner)
        self.alive = alive

    def _live(self) -> None:
        self.alive -= 1
        if self.alive < 0:
            raise StorageRefusedByTest

    def put(self, name: str, data: Data, *, create_only: bool = True):  # type: ignore[no-untyped-def]
        self._live()
        return self.inner.put(name, data, create_only=create_only)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._live()
        return self.inner.get(name, start, length)

    def list(self, prefix: str = ""):  # type: ignore[no-untyped-def]
        self._live()
        return self.inner.list(prefix)


class StorageRefusedByTest(StorageRefused):
    """The credentials expired."""

    def __init__(self) -> None:
        super().__init__("the credentials expired")


def test_storage_that_dies_at_any_call(tmp_path: Path) -> None:
    """Credentials that expire at any call end a run, a verification or a restore cleanly, and harm nothing (F47)."""
    story = Story(tmp_path)
    start = contents(story.kit.store)
    (snapshot,) = story.held
    jobs: list[Callable[[ObjectStore, int], object]] = [
        lambda store, n: story.kit.backup(story.source, store=store, host=f"host{n}"),
        lambda store, n: story.kit.verify(Level.CONTENT, store=store, host=f"host{n}"),
        lambda store, n: story.kit.restore(snapshot, store=store),
    ]
    for job in jobs:
        for n in range(200):
            story.kit.store = store_of(start)
            try:
                job(DyingStore(story.kit.store, n), n)
                break
            except StorageRefused:
                assert len(names(story.kit.store, "snapshots/")) <= 2
        assert 4 < n < 199
    story.kit.store = store_of(start)
    story.is_whole()


def test_a_run_that_takes_too_long_publishes_nothing(tmp_path: Path) -> None:
    """A run longer than a session may last fails before its snapshot is visible, and what it stored is used (E41)."""
    story = Story(tmp_path)
    policy = story.kit.trust.policy
    story.kit.put_trust(replace(story.kit.trust, version=2, policy=replace(policy, max_session_hours=0)))
    with pytest.raises(Failed, match="nothing was published"):
        story.kit.backup(story.source)
    assert len(names(story.kit.store, "snapshots/")) == 1
    story.kit.put_trust(replace(story.kit.trust, version=3, policy=policy))
    assert story.kit.backup(story.source).chunks["full"] == 0


# ---- lagging and lying


@pytest.mark.parametrize("lag", [1, 3, 10, 1000])
def test_listings_that_lag_never_lose_anything(tmp_path: Path, lag: int) -> None:
    """Listings that show writes late: runs succeed or say why not, and nothing that succeeded is lost (E37)."""
    kit = Kit(tmp_path)
    source, held = make_database(tmp_path / "bank.db"), {}
    lagging = LaggingStore(kit.store, lag)
    for n in range(4):
        try:
            held[kit.backup(source, store=lagging).snapshot] = source.read_bytes()
        except BackupdError as error:
            refused = error.exit
            assert refused in {Exit.INTEGRITY, Exit.SAFETY, Exit.TRY_AGAIN}
        change_database(source, n)
    assert kit.verify(Level.CONTENT, host="fresh").problems == []
    kit.assert_restores(held)
    held[kit.backup(source).snapshot] = source.read_bytes()
    kit.assert_restores(held)


def test_storage_without_create_only_writes(tmp_path: Path) -> None:
    """On storage that overwrites silently, runs one after the other and their history are whole (F49)."""
    kit = Kit(tmp_path, create_only=False)
    kit.store = NoCreateOnlyStore(kit.store)
    source, held = make_database(tmp_path / "bank.db"), {}
    for n in range(3):
        held[kit.backup(source).snapshot] = source.read_bytes()
        change_database(source, n)
    assert kit.verify(Level.CONTENT).problems == []
    kit.assert_restores(held)


@pytest.mark.parametrize("how", ["wrong byte", "short", "long", "empty"])
def test_wrong_bytes_from_the_storage(tmp_path: Path, how: str) -> None:
    """A store that hands out other bytes than were stored, for any object: never wrong data, verify names it (F55)."""
    story = Story(tmp_path)
    ways: dict[str, Callable[[bytes], bytes]] = {
        "wrong byte": lambda data: (
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        ),
        "short": lambda data: data[:-7],
        "long": lambda data: data + b"more",
        "empty": lambda data: b"",
    }
    (snapshot,) = story.held
    for name in names(story.kit.store):
        if name.startswith("trust/"):
            continue
        damaging = DamagingStore(story.kit.store, {name: ways[how]})
        found = story.kit.verify(Level.BYTES, store=ReadOnlyStore(damaging), host="fresh")
        assert name in {p.object for p in found.problems}
        try:
            restored = story.kit.restore(snapshot, store=damaging)
        except IntegrityError:
            continue
        assert restored.read_bytes() == story.held[snapshot]


def test_a_store_that_announces_more_than_it_gives(tmp_path: Path) -> None:
    """Short reads are integrity problems that name the object, in every job (F55)."""

    class Short(Wrapper):
        def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
            if name.startswith("packs/"):
                raise ShortRead("the object has 10 bytes, announced were 20", object_name=name)
            return self.inner.get(name, start, length)

    story = Story(tmp_path)
    short = Short(story.kit.store)
    (snapshot,) = story.held
    packs = set(names(story.kit.store, "packs/"))
    found = story.kit.verify(Level.BYTES, store=ReadOnlyStore(short), host="fresh")
    assert {p.object for p in found.problems} == packs
    with pytest.raises(IntegrityError) as failed:
        story.kit.restore(snapshot, store=short)
    assert failed.value.object_name in packs


def test_a_damaged_repository_id_in_the_trust_document(tmp_path: Path) -> None:
    """A damaged beginning of the first trust document is an integrity error that names it (A1)."""
    kit = Kit(tmp_path)
    for change in (b"", b"XXXX" + kit.store.get(trust_name(1))[4:], kit.store.get(trust_name(1))[: FRAME_BYTES - 1]):
        kit.store.put(trust_name(1), change, create_only=False)
        with pytest.raises(IntegrityError) as refused:
            repository_id(kit.store)
        assert refused.value.object_name == trust_name(1)


# ---- a writer that lies


PIECES = [bytes([n]) * 4096 for n in range(3)]


def _other_content(session: WriteSession, prepared: Sealed) -> Sealed:
    """A well sealed chunk whose content is not the one that its id names."""
    other = b"x" * prepared.head.plain_length
    head = ChunkHead(prepared.head.repository, prepared.head.kind, RAW, prepared.head.id, len(other), len(other))
    return Sealed(head, session.preparer.sealer.seal(head, other))


def test_a_lying_writer_is_found_by_content_only(tmp_path: Path) -> None:
    """Well sealed content that its id does not name: structure and bytes pass, content and restore say 4 (A6)."""
    kit = Kit(tmp_path)
    honest = make_database(tmp_path / "bank.db")
    held = {kit.backup(honest, host="liar").snapshot: honest.read_bytes()}
    lie = write_by_hand(kit, _other_content, PIECES)
    (victim,) = pack_kinds(kit, lie.id.hex())[0]
    assert kit.verify(Level.STRUCTURE).problems == []
    assert kit.verify(Level.BYTES).problems == []
    assert {p.object for p in kit.verify(Level.CONTENT).problems} == {victim}
    with pytest.raises(IntegrityError) as refused:
        kit.restore(lie.id.hex())
    assert (refused.value.exit, refused.value.object_name) == (Exit.INTEGRITY, victim)
    kit.assert_restores(held)


def test_an_honest_run_by_hand_passes(tmp_path: Path) -> None:
    """The same by hand without a lie verifies and restores: it is the lie that was found (A6)."""
    kit = Kit(tmp_path)
    done = write_by_hand(kit, lambda _, prepared: prepared, PIECES)
    assert kit.verify(Level.CONTENT).problems == []
    kit.assert_restores({done.id.hex(): b"".join(PIECES)})


def test_lengths_that_lie_are_found_by_content(tmp_path: Path) -> None:
    """A chunk whose head says another plain length than it has is refused before it is used (A5)."""

    def longer(session: WriteSession, prepared: Sealed) -> Sealed:
        old = prepared.head
        payload = session.preparer.sealer.open(old, prepared.blob)
        head = ChunkHead(old.repository, old.kind, old.codec, old.id, old.payload_length, old.plain_length + 1)
        return Sealed(head, session.preparer.sealer.seal(head, payload))

    kit = Kit(tmp_path)
    lie = write_by_hand(kit, longer, PIECES)
    assert kit.verify(Level.CONTENT).problems != []
    with pytest.raises(IntegrityError):
        kit.restore(lie.id.hex())


# ---- caches


def test_a_lost_cache_costs_nothing_but_reading(tmp_path: Path) -> None:
    """Without its cache a host rebuilds the index from the storage and stores nothing twice (E38)."""
    story = Story(tmp_path)
    shutil.rmtree(story.kit.places("writer").cache)
    done = story.kit.backup(story.source)
    assert done.chunks["reused"] > 0
    assert story.kit.verify(Level.CONTENT).problems == []


@pytest.mark.parametrize("where", [0, 10, 50, 90])
def test_a_damaged_cache_never_harms_a_snapshot(tmp_path: Path, where: int) -> None:
    """A local index with damage anywhere costs space at most: the run succeeds and everything verifies (D32)."""
    story = Story(tmp_path)
    path = index_path(story.kit.places("writer"), story.kit.keys[Role.WRITE])
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    data = bytearray(path.read_bytes())
    at = len(data) * where // 100
    data[at : at + 3000] = b"\xa5" * len(data[at : at + 3000])
    path.write_bytes(data)
    story.is_whole()


def test_bad_packs_are_recorded_once_and_healed(tmp_path: Path) -> None:
    """Verification records bad packs signed, once; the next run stores their chunks anew, the old snapshot stays bad."""
    story = Story(tmp_path)
    (snapshot,) = story.held
    victim = names(story.kit.store, "packs/")[0]
    data = story.kit.store.get(victim)
    story.kit.store.put(victim, data[:-1] + bytes([data[-1] ^ 1]), create_only=False)
    for _ in range(3):
        assert victim in {p.object for p in story.kit.verify(Level.BYTES).problems}
    assert names(story.kit.store, "records/") == ["records/check/000000000001"]
    done = story.kit.backup(story.source)
    view = next(v for v in story.kit.history().views if v.id == done.snapshot)
    assert story.kit.verify(Level.CONTENT, only=view).problems == []
    assert victim not in {name for kind in pack_kinds(story.kit, done.snapshot) for name in kind}
    assert pack_name(bytes.fromhex(victim[9:])) == victim
    story.kit.assert_restores({done.snapshot: story.source.read_bytes()})
    assert snapshot != done.snapshot


@pytest.mark.parametrize("level", [Level.STRUCTURE, Level.BYTES])
def test_damaged_lists_are_recorded_at_every_level(tmp_path: Path, level: Level) -> None:
    """A damaged list is recorded as bad also by the quickest check, so that the next run does not lean on it."""
    story = Story(tmp_path, chunks=90)
    (snapshot,) = story.held
    victim = pack_kinds(story.kit, snapshot)[1][0]
    data = bytearray(story.kit.store.get(victim))
    for at in range(3000, len(data) - 100, 50):
        data[at] ^= 1
    story.kit.store.put(victim, bytes(data), create_only=False)
    assert victim in {p.object for p in story.kit.verify(level).problems}
    assert names(story.kit.store, "records/check/")
    done = story.kit.backup(story.source)
    story.kit.assert_restores({done.snapshot: story.source.read_bytes()})
