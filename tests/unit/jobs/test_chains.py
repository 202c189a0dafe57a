"""What version 1 can hold though no run writes it yet: deltas on one or two bases, chains, checkpoints, epochs."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.crypto.chunks import ChunkHead, ChunkNamer, ChunkSealer, Kind
from backupd.crypto.keyfile import Key, Role, Secrets
from backupd.crypto.keyring import derive_structure_key
from backupd.crypto.primitives import random_bytes
from backupd.errors import BackupdError, Failed, IntegrityError, KeyProblem
from backupd.jobs.backup import BackupOptions, _describe, open_index
from backupd.jobs.select import select_snapshot
from backupd.jobs.verify import Level
from backupd.repo.codecs import DICT_DELTA, MAX_LINKS
from backupd.repo.commit import Committed, commit
from backupd.repo.compression import compress_with
from backupd.repo.format import pack_name
from backupd.repo.nodes import ChunkRef
from backupd.repo.preparing import Prepared, Sealed
from backupd.repo.writing import WriteSession
from backupd.report import Tally
from tests.cli.kit import CHINOOK
from tests.jobs_kit import Kit, utc_now

PIECE = 65536


class View:
    """What `_describe` asks of a view."""

    def __init__(self, data: bytes) -> None:
        from backupd.engines.base import StreamInfo

        page = int.from_bytes(data[16:18], "big")
        self.streams = [StreamInfo("main", "pages", len(data), page)]
        self.tables: list[object] = []
        self.facts = {"page_size": page, "page_count": len(data) // page}
        self.warnings: list[str] = []


class Engine:
    """What `_describe` asks of a source."""

    engine = "sqlite"


class Stream:
    """What `_describe` asks of a captured stream."""

    rows = None

    def __init__(self, digest: str | None) -> None:
        from backupd.engines.base import StreamInfo

        self.info = StreamInfo("main", "pages", 0)
        self._digest = digest

    def hexdigest(self) -> str | None:
        return self._digest


def pieces_of(data: bytes) -> list[bytes]:
    """The page chunks of a file."""
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]


class ChainWriter:
    """A writer of deltas: each version of a file leans on the version before it."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.last: list[tuple[bytes, ChunkRef]] = []

    def store(
        self, data: bytes, *, bases: int = 1, kind: str = "snapshot", name: str = "crm", digest: str | None = None
    ) -> Committed:
        """Store a version as deltas on the one before it (in full where there is none)."""
        kit, key = self.kit, self.kit.keys[Role.WRITE]
        repo = kit.repo(Role.WRITE)
        index = open_index(repo, key, kit.places("writer"), Tally())
        session = WriteSession(repo, key, index, started=utc_now())
        try:
            stream = session.stream(Kind.PAGES, 64)
            now: list[tuple[bytes, ChunkRef]] = []
            for at, piece in enumerate(pieces_of(data)):
                prepared = self._delta(session, piece, self.last[at : at + bases])
                ref, _ = session.place(prepared, stream._packs)
                stream.tree.add(ref)
                stream._chunks += 1
                stream._bytes += len(piece)
                now.append((piece, ref))
            (root,) = session.finish_streams()
            session.write_segment()
            structure, content = _describe(
                Engine(),
                View(data),
                session,
                [root],
                [Stream(digest)],
                "2026-11-22T00:00:00Z",
                BackupOptions(name),  # type: ignore[arg-type, list-item]
            )
            self.last = now
            return commit(
                session,
                replace(structure, kind=kind),
                content,
                locks=kit.places("writer").state,
                report=Tally(),
                fence=lambda: None,
            )
        finally:
            session.close()
            index.close()

    @staticmethod
    def _delta(session: WriteSession, piece: bytes, before: Sequence[tuple[bytes, ChunkRef]]) -> Prepared:
        if not before or any(piece == plain for plain, _ in before):
            return session.prepare(Kind.PAGES, [piece])[0]
        payload = compress_with(piece, b"".join(plain for plain, _ in before))
        refs = tuple(ref for _, ref in before)
        chunk = ChunkNamer.of(session.secrets.id_key, Kind.PAGES).name(piece)
        ids = tuple(ref.id for ref in refs)
        head = ChunkHead(session.repo.id, Kind.PAGES, DICT_DELTA, chunk, len(payload), len(piece), ids)
        return Sealed(head, ChunkSealer(session.secrets.session_key).seal(head, payload), refs)


def versions(tmp_path: Path, count: int) -> list[bytes]:
    """The Chinook file, then changed again and again in every chunk that holds a track."""
    path = tmp_path / "chinook.db"
    path.write_bytes(CHINOOK.read_bytes())
    out = [path.read_bytes()]
    for n in range(count):
        db = sqlite3.connect(path)
        db.execute("update Track set Composer=? where TrackId % 7 = ?", (f"composer {n}", n % 7))
        db.commit()
        db.close()
        out.append(path.read_bytes())
    return out


@pytest.mark.parametrize("bases", [1, 2])
def test_deltas_restore_and_verify(tmp_path: Path, bases: int) -> None:
    """A chain of dictionary deltas on one or two bases restores to every version, and verifies at every level."""
    kit = Kit(tmp_path, pack_bytes=300_000)
    writer = ChainWriter(kit)
    made = {writer.store(data, bases=bases).id.hex(): data for data in versions(tmp_path, 4)}
    kit.assert_restores(made)
    for level in Level:
        assert kit.verify(level).problems == []


def test_a_chain_as_long_as_allowed_restores_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    """Eight links restore; the ninth is refused by every reader with an integrity error."""
    kit = Kit(tmp_path)
    writer = ChainWriter(kit)
    files = versions(tmp_path, MAX_LINKS + 1)
    made = [writer.store(data) for data in files]
    kit.assert_restores({made[MAX_LINKS].id.hex(): files[MAX_LINKS]})
    with pytest.raises(IntegrityError, match="chain"):
        kit.restore(made[MAX_LINKS + 1].id.hex())
    assert kit.verify().problems


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    """A base whose pack is gone is an integrity error naming the pack, for verify and for restore."""
    kit = Kit(tmp_path)
    writer = ChainWriter(kit)
    _, second = (writer.store(data) for data in versions(tmp_path, 1))
    gone = {pack_name(ref.pack) for _, ref in writer.last for ref in ref.bases}
    for name in gone:
        kit.store.delete(name)
    with pytest.raises(IntegrityError) as caught:
        kit.restore(second.id.hex())
    assert caught.value.object_name in gone
    assert gone <= {p.object for p in kit.verify(Level.STRUCTURE).problems}


def test_a_damaged_delta_is_found_by_content_verification(tmp_path: Path) -> None:
    """A delta made for another base opens but does not yield its content: only reading the content notices."""
    kit = Kit(tmp_path)
    writer = ChainWriter(kit)
    old, new = versions(tmp_path, 1)
    writer.store(old)
    changed = set(pieces_of(old)) - set(pieces_of(new))
    # deltas against what the bases are not
    writer.last = [(bytes(len(plain)) if plain in changed else plain, ref) for plain, ref in writer.last]
    lying = writer.store(new)
    assert kit.verify(Level.BYTES).problems == []
    assert kit.verify(Level.CONTENT).problems
    with pytest.raises(IntegrityError):
        kit.restore(lying.id.hex())


def test_a_checkpoint_is_never_latest(tmp_path: Path) -> None:
    """A checkpoint verifies and can be named by its id, but `latest` passes it over."""
    kit = Kit(tmp_path)
    writer = ChainWriter(kit)
    old, new = versions(tmp_path, 1)
    first = writer.store(old)
    second = writer.store(new, kind="checkpoint")
    history = kit.history()
    assert select_snapshot(history, "latest").object.id == first.id
    assert select_snapshot(history, second.id.hex()[:16]).object.id == second.id
    assert kit.verify(Level.CONTENT).problems == []


def new_epoch(kit: Kit) -> Key:
    """The writer's key of its next epoch, and trust naming it instead of the one before."""
    old = kit.keys[Role.WRITE]
    root = kit.keys[Role.ROOT].secrets["structure_root"]
    writer, epoch = old.header.writer, old.secrets.epoch + 1
    values = dict(old.secrets.values) | {"id": random_bytes(32), "cut": random_bytes(32)}
    values["structure"] = derive_structure_key(root, writer, epoch)
    key = Key(old.header, Secrets(values, epoch))
    writers = tuple(replace(w, epoch=epoch) for w in kit.trust.writers)
    kit.put_trust(replace(kit.trust, version=kit.trust.version + 1, writers=writers))
    return key


def test_nothing_is_reused_across_epochs(tmp_path: Path) -> None:
    """A new epoch stores everything once, under other ids; snapshots of both epochs verify and restore."""
    kit = Kit(tmp_path)
    first = kit.backup(CHINOOK)
    again = kit.backup(CHINOOK)
    assert again.chunks["full"] == 0
    key = new_epoch(kit)
    with pytest.raises(KeyProblem, match="epoch"):
        kit.backup(CHINOOK)
    fresh = kit.backup(CHINOOK, key=key)
    assert fresh.chunks["reused"] == 0
    assert kit.backup(CHINOOK, key=key).chunks["full"] == 0
    kit.keys[Role.WRITE] = key
    wanted = CHINOOK.read_bytes()
    kit.assert_restores({first.snapshot: wanted, fresh.snapshot: wanted})
    for level in Level:
        assert kit.verify(level).problems == []


def test_a_changed_recipient_set_needs_a_new_key(tmp_path: Path) -> None:
    """A write key refuses to run once trust names other recipients than it was made for."""
    kit = Kit(tmp_path)
    fewer = tuple(i for i in kit.trust.identities if i.role is not Role.READ)
    kit.put_trust(replace(kit.trust, version=2, identities=fewer))
    with pytest.raises(KeyProblem, match="recovery keys have changed"):
        kit.backup(CHINOOK)


def test_a_session_that_lasts_too_long_publishes_nothing(tmp_path: Path) -> None:
    """A run longer than the policy allows fails and leaves no snapshot (E41)."""
    kit = Kit(tmp_path)
    policy = replace(kit.trust.policy, max_session_hours=0)
    kit.put_trust(replace(kit.trust, version=2, policy=policy))
    with pytest.raises(Failed, match="longer than"):
        kit.backup(CHINOOK)
    assert kit.history().views == []
    with pytest.raises(BackupdError):
        kit.restore("0" * 64)
