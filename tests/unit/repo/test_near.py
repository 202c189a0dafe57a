"""Copies of snapshots and records on this machine: each is fetched once, and what the storage holds is what counts."""

from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Keyring
from backupd.repo.ledger import Ledger
from backupd.repo.near import NearCopies
from backupd.repo.repository import History, Repository
from backupd.store.base import ObjectStore
from tests.doubles import RecordingStore
from tests.jobs_kit import Kit, copy_store, names

PREFIXES = ("snapshots/", "records/")


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A repository with two snapshots and two records, of which one is for readers only."""
    made = Kit(tmp_path / "kit")
    source = tmp_path / "a.db"
    source.write_bytes(b"")
    for _ in range(2):
        made.backup(source)
    hold = {"type": "hold", "created": "2026-03-01T00:00:00Z", "snapshot": "00" * 32, "reason": "case 4711"}
    made.put_record(Role.READ, 1, hold)
    verdict = {"type": "bad-packs", "created": "2026-03-01T00:00:00Z", "packs": []}
    made.put_record(Role.CHECK, 1, verdict)
    return made


def read(kit: Kit, store: ObjectStore, folder: Path, role: Role = Role.READ) -> tuple[History, int]:
    """The history as a command reads it, and how many snapshots and records it fetched."""
    seen = RecordingStore(store)
    repo = Repository.open(seen, Keyring((kit.keys[role],)), Ledger(folder / "heads.json"), NearCopies(folder / "near"))
    found = repo.history()
    return found, sum(seen.count("get", prefix) for prefix in PREFIXES)


def told(history: History) -> object:
    """What a history says."""
    found = sorted(record.name for record in history.records)
    return [v.id for v in history.views], found, history.problems, history.record_problems, history.hidden_records


def test_each_is_fetched_once(kit: Kit, tmp_path: Path) -> None:
    """A new one is fetched, and nothing else changes in what is told."""
    first, fetched = read(kit, kit.store, tmp_path)
    again, anew = read(kit, kit.store, tmp_path)
    assert (fetched, anew) == (4, 0)
    assert told(first) == told(again)
    assert len(first.views) == 2
    kit.backup(tmp_path / "a.db")
    more, anew = read(kit, kit.store, tmp_path)
    assert (len(more.views), anew) == (3, 1)


def test_what_a_key_does_not_open_is_not_fetched_again_either(kit: Kit, tmp_path: Path) -> None:
    """A host that may only write has no key for the records of readers."""
    for wanted in (4, 0):
        history, fetched = read(kit, kit.store, tmp_path, Role.WRITE)
        assert fetched == wanted
        assert history.hidden_records == ["records/read/000000000001"]


def test_what_the_storage_lost_is_lost(kit: Kit, tmp_path: Path) -> None:
    """A copy of an object that is not listed any more is no object, and goes."""
    read(kit, kit.store, tmp_path)
    newest = names(kit.store, "snapshots/")[-1]
    kit.store.delete(newest)
    history, fetched = read(kit, kit.store, tmp_path)
    assert (len(history.views), fetched) == (1, 0)
    assert len(list((tmp_path / "near/snapshots").iterdir())) == 1


def test_an_object_of_another_time_or_size_is_another(kit: Kit, tmp_path: Path) -> None:
    """What somebody put in the place of a snapshot or a record is seen, and told as what it is."""
    read(kit, kit.store, tmp_path)
    for prefix in PREFIXES:
        store = copy_store(kit.store)
        name = names(store, prefix)[0]
        data = bytearray(store.get(name))
        data[len(data) // 2] ^= 1
        store.put(name, bytes(data), create_only=False)
        history, _ = read(kit, store, tmp_path)
        assert [p.object for p in (*history.problems, *history.record_problems) if p.kind == "damaged"] == [name]


def test_damaged_copies_are_fetched_again(kit: Kit, tmp_path: Path) -> None:
    """Cut, flipped, emptied, swapped, or a folder in the place of a file: the storage is asked, and the answer is the same."""
    whole, _ = read(kit, kit.store, tmp_path)
    folder = tmp_path / "near/snapshots"
    one, two = sorted(folder.iterdir())
    for n, spoiled in enumerate((one.read_bytes()[:-1], b"", two.read_bytes(), bytes(40) + one.read_bytes()[40:])):
        one.write_bytes(spoiled)
        history, fetched = read(kit, kit.store, tmp_path)
        assert (told(history), fetched) == (told(whole), 1), n
        assert read(kit, kit.store, tmp_path)[1] == 0, n
    one.unlink()
    one.mkdir()
    assert told(read(kit, kit.store, tmp_path)[0]) == told(whole)


def test_a_forged_copy_is_none(kit: Kit, tmp_path: Path) -> None:
    """Whoever can write to the folder can make a copy that counts as one; what it holds is verified like the object."""
    whole, _ = read(kit, kit.store, tmp_path)
    for prefix in PREFIXES:
        info = next(kit.store.list(prefix))
        forged = bytearray(kit.store.get(info.name))
        forged[-1] ^= 1
        NearCopies(tmp_path / "near").put(info, bytes(forged))
    history, fetched = read(kit, kit.store, tmp_path)
    assert (told(history), fetched) == (told(whole), 2)


def test_a_disk_that_refuses_costs_requests_only(kit: Kit, tmp_path: Path) -> None:
    """The place of the copies is a file."""
    (tmp_path / "near").write_text("in the way")
    for _ in range(2):
        history, fetched = read(kit, kit.store, tmp_path)
        assert (len(history.views), fetched) == (2, 4)


def test_damaged_objects_are_not_kept(kit: Kit, tmp_path: Path) -> None:
    """What does not verify is looked at each time."""
    name = names(kit.store, "snapshots/")[0]
    data = kit.store.get(name)
    kit.store.put(name, data[:-1] + bytes([data[-1] ^ 1]), create_only=False)
    for wanted in (4, 1):
        history, fetched = read(kit, kit.store, tmp_path)
        assert (fetched, history.problems[0].object) == (wanted, name)
