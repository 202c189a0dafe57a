"""A run that is cut off leaves what it has stored to the next one: nothing of it is uploaded again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role, encode_key, write_key_file
from backupd.jobs.backup import journals_path
from backupd.jobs.verify import Level
from backupd.store.folder import FolderStore
from tests.doubles import Crash, CrashingStore, RecordingStore
from tests.jobs_kit import Kit, change_database, make_database, names

PACKS = 40


def journals(kit: Kit) -> list[Path]:
    folder = journals_path(kit.places("writer"), kit.keys[Role.WRITE])
    return sorted(folder.iterdir()) if folder.is_dir() else []


def cut_off(kit: Kit, source: Path, after: int) -> int:
    """A run that dies after so many packs; how many packs the storage has then."""
    with pytest.raises(Crash):
        kit.backup(source, store=CrashingStore(kit.store, after_write=after + 1))
    return len(names(kit.store, "packs/"))


def pack_puts(store: RecordingStore) -> int:
    return store.count("put", "packs/")


def test_what_a_crashed_run_has_stored_is_not_stored_again(tmp_path: Path) -> None:
    """The packs of a run that died are listed by the next one and used; its snapshot restores and verifies."""
    kit = Kit(tmp_path, pack_bytes=100_000)
    source = make_database(tmp_path / "bank.db", chunks=PACKS)
    there = cut_off(kit, source, 20)
    assert there >= 15
    assert len(journals(kit)) == 1
    store = RecordingStore(kit.store)
    done = kit.backup(source, store=store)
    assert done.resumed >= there - 4  # what was under way when it died may not have been entered
    assert done.chunks["reused"] >= done.resumed - 2
    assert pack_puts(store) <= PACKS + 8 - done.resumed
    assert journals(kit) == []
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    for level in Level:
        assert kit.verify(level).problems == []
    shutil.rmtree(kit.places("writer").cache)
    again = kit.backup(source)
    assert again.chunks["full"] == 0


def test_runs_that_are_cut_off_again_and_again_get_on(tmp_path: Path) -> None:
    """Each of several runs that die gets further than the one before, and the last one ends."""
    kit = Kit(tmp_path, pack_bytes=100_000)
    source = make_database(tmp_path / "bank.db", chunks=PACKS)
    reached = [cut_off(kit, source, 9) for _ in range(4)]
    assert all(later > earlier for earlier, later in pairwise(reached))
    done = kit.backup(source)
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    assert kit.verify(Level.CONTENT).problems == []


@pytest.mark.parametrize("harm", ["flip", "truncate", "garbage", "delete", "foreign"])
def test_a_damaged_journal_costs_uploads_only(tmp_path: Path, harm: str) -> None:
    """Whatever is wrong with a journal, the next run succeeds and the journal is gone."""
    kit = Kit(tmp_path, pack_bytes=100_000)
    source = make_database(tmp_path / "bank.db", chunks=PACKS)
    cut_off(kit, source, 20)
    (journal,) = journals(kit)
    data = bytearray(journal.read_bytes())
    if harm == "delete":
        journal.unlink()
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        journal.write_bytes(data)
    elif harm == "truncate":
        journal.write_bytes(data[: len(data) // 2 + 3])
    elif harm == "garbage":
        journal.write_bytes(b"\xff" * 1000)
    else:
        journal.rename(journal.with_name("00" * 16))
    done = kit.backup(source)
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    assert kit.verify(Level.CONTENT).problems == []
    assert journals(kit) == []


def test_packs_that_vanished_meanwhile_are_stored_again(tmp_path: Path) -> None:
    """A journal tells of packs that the storage lost: they are not believed."""
    kit = Kit(tmp_path, pack_bytes=100_000)
    source = make_database(tmp_path / "bank.db", chunks=PACKS)
    cut_off(kit, source, 20)
    for name in names(kit.store, "packs/")[::2]:
        kit.store.delete(name)
    done = kit.backup(source)
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    assert kit.verify(Level.CONTENT).problems == []


def test_a_failed_night_is_resumed_too(tmp_path: Path) -> None:
    """A run over a changed source that dies leaves full chunks to the next one; earlier snapshots are whole."""
    kit = Kit(tmp_path, pack_bytes=100_000)
    source = make_database(tmp_path / "bank.db", chunks=PACKS)
    first = kit.backup(source)
    kept = {first.snapshot: source.read_bytes()}
    change_database(source, 3, rows=200)
    cut_off(kit, source, 5)
    done = kit.backup(source)
    assert done.resumed > 0
    kept[done.snapshot] = source.read_bytes()
    kit.assert_restores(kept)
    assert kit.verify(Level.CONTENT).problems == []


def test_a_killed_process_is_resumed(tmp_path: Path) -> None:
    """kill -9 in the middle of a first run into a folder: the next run uses what is there."""
    folder = FolderStore(tmp_path / "repo", create=True)
    kit = Kit(tmp_path, folder, pack_bytes=400_000)
    source = make_database(tmp_path / "bank.db", chunks=1200)
    keys = tmp_path / "keys"
    keys.mkdir()
    key = kit.keys[Role.WRITE]
    write_key_file(keys / "write.key", encode_key(key.header, key.secrets, None))
    home = tmp_path / "writer"
    command = [sys.executable, "-m", "tests.jobs_kit", "run", str(keys), str(tmp_path / "repo"), str(home), str(source)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[2]) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        child.stdin.write(b"\n")
        child.stdin.flush()
        end = time.monotonic() + 30
        while len(names(folder, "packs/")) < 20 and time.monotonic() < end:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    there = len(names(folder, "packs/"))
    assert there >= 20
    done = kit.backup(source, name="x")
    assert done.resumed >= there - 4
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    assert kit.verify(Level.CONTENT).problems == []
