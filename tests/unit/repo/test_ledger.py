"""The ledger remembers the newest of everything and is never believed when it cannot be read."""

import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from backupd.errors import Failed
from backupd.repo.ledger import Ledger, state_lock

A, B = b"a" * 16, b"b" * 16


def head(seq: int) -> tuple[int, bytes]:
    return seq, bytes([seq]) * 32


def test_an_absent_ledger_is_empty(tmp_path: Path) -> None:
    """Without a file nothing is remembered, and reading makes no file."""
    ledger = Ledger.load(tmp_path / "state")
    assert (ledger.trust, ledger.heads, ledger.records) == (0, {}, {})
    assert not (tmp_path / "state").exists()


def test_what_is_remembered_is_read_back(tmp_path: Path) -> None:
    """Trust version, heads and record numbers come back, from a private file in a private folder."""
    ledger = Ledger.load(tmp_path / "state")
    ledger.remember(3, {A: head(5), B: head(1)}, records={"prune": 2})
    again = Ledger.load(tmp_path / "state")
    assert (again.trust, again.heads, again.records) == (3, {A: head(5), B: head(1)}, {"prune": 2})
    assert again == ledger
    assert stat.S_IMODE(again.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(again.path.parent.stat().st_mode) == 0o700


def test_nothing_goes_back(tmp_path: Path) -> None:
    """Older heads, trust versions and record numbers do not replace newer ones, nor does another head of one number (D27)."""
    ledger = Ledger.load(tmp_path)
    ledger.remember(3, {A: head(5)}, records={"prune": 7})
    ledger.remember(2, {A: head(4), B: head(1)}, records={"prune": 6, "check": 1})
    ledger.remember(1, {A: (5, bytes(32))})
    again = Ledger.load(tmp_path)
    assert (again.trust, again.heads, again.records) == (3, {A: head(5), B: head(1)}, {"prune": 7, "check": 1})


def test_a_rollback_that_was_accepted_is_remembered(tmp_path: Path) -> None:
    """With `lower` the heads given replace newer ones; trust and other writers stay."""
    ledger = Ledger.load(tmp_path)
    ledger.remember(3, {A: head(5), B: head(9)})
    ledger.remember(1, {A: head(2)}, lower=True)
    again = Ledger.load(tmp_path)
    assert (again.trust, again.heads) == (3, {A: head(2), B: head(9)})


def test_two_runs_of_one_machine_keep_the_newest(tmp_path: Path) -> None:
    """A run that read the ledger earlier does not undo what another wrote meanwhile."""
    one, two = Ledger.load(tmp_path), Ledger.load(tmp_path)
    two.remember(4, {A: head(9), B: head(2)}, records={"prune": 3})
    one.remember(1, {A: head(3)})
    again = Ledger.load(tmp_path)
    assert (again.trust, again.heads, again.records) == (4, {A: head(9), B: head(2)}, {"prune": 3})
    assert one.heads[A] == head(9)


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    """Heads of many writers remembered at once are all there in the end."""

    def work(n: int) -> None:
        for seq in range(1, 6):
            Ledger.load(tmp_path).remember(n, {bytes([n]) * 16: head(seq)})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Ledger.load(tmp_path)
    assert again.heads == {bytes([n]) * 16: head(5) for n in range(1, 9)}
    assert again.trust == 8


GOOD = {"trust": 1, "heads": {A.hex(): {"seq": 1, "hash": "00" * 32}}, "records": {}}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"{}",
        b"\xff\xfe",
        b'{"trust":1}',
        b'{"trust":"x","heads":{}}',
        b'{"trust":1e999,"heads":{}}',
        b'{"trust":NaN,"heads":{}}',
        b'{"trust":1,"heads":[]}',
        b'{"trust":1,"heads":{"zz":{"seq":1,"hash":""}}}',
        b'{"trust":1,"heads":{"aa":5}}',
        b'{"trust":1,"heads":{"aa":{"seq":1}}}',
        b'{"trust":1,"heads":{},"records":[]}',
        b"[" * 100_000,
        json.dumps(GOOD).encode()[:-5],
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_damaged_ledger_stops_everything(tmp_path: Path, text: bytes) -> None:
    """A ledger that cannot be read is an error with a hint, never an empty one, and is not overwritten (D27)."""
    path = tmp_path / "heads.json"
    path.write_bytes(text)
    with pytest.raises(Failed, match="cannot be read") as caught:
        Ledger.load(tmp_path)
    assert caught.value.hint
    with pytest.raises(Failed):
        Ledger(path).remember(1, {A: head(1)})
    assert path.read_bytes() == text


def test_a_ledger_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    """A folder in its place is not taken for an absent ledger."""
    (tmp_path / "heads.json").mkdir()
    with pytest.raises(Failed):
        Ledger.load(tmp_path)


def test_a_leftover_of_a_crash_does_no_harm(tmp_path: Path) -> None:
    """A half-written new ledger beside the old one is ignored and replaced."""
    ledger = Ledger.load(tmp_path)
    ledger.remember(1, {A: head(1)})
    (tmp_path / "heads.new").write_bytes(b"{ha")
    assert Ledger.load(tmp_path).heads == {A: head(1)}
    ledger.remember(1, {A: head(2)})
    assert Ledger.load(tmp_path).heads == {A: head(2)}


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    """A reader that holds the old file open goes on reading it whole; without news nothing is written."""
    ledger = Ledger.load(tmp_path)
    ledger.remember(1, {A: head(1)})
    inode = ledger.path.stat().st_ino
    ledger.remember(1, {A: head(1)})
    assert ledger.path.stat().st_ino == inode
    with ledger.path.open("rb") as old:
        ledger.remember(1, {A: head(2)})
        assert json.loads(old.read())["heads"][A.hex()]["seq"] == 1
    assert ledger.path.stat().st_ino != inode


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    """While one process holds a state lock, another waits for it; a process that dies gives it back."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with state_lock(tmp_path, "commit"):
            os.write(write, b"x")
            time.sleep(0.3)
            os._exit(0)
    assert os.read(read, 1) == b"x"
    with state_lock(tmp_path, "other"):
        pass
    begun = time.monotonic()
    with state_lock(tmp_path, "commit"):
        assert time.monotonic() - begun > 0.1
    assert os.waitpid(child, 0)[1] == 0
    os.close(read)
    os.close(write)
