"""Another passphrase: the same key, at once or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Key, Role, encode_key, read_key_file, write_key_file
from backupd.errors import KeyProblem, SafetyRefused
from backupd.jobs.init import KdfCost
from backupd.jobs.passphrase import change_passphrase
from tests.unit.crypto.made import make_keys

CHEAP = KdfCost(8192, 1, 1)
LOOP = """
import sys
from pathlib import Path
from backupd.crypto.keyfile import read_key_file
from backupd.jobs.init import KdfCost
from backupd.jobs.passphrase import change_passphrase
print("ready", flush=True)
old, new = b"one", b"two"
if sys.argv[2] == "two":
    old, new = new, old
while True:
    change_passphrase(read_key_file(Path(sys.argv[1])), old, new, cost=KdfCost(8192, 1, 1))
    old, new = new, old
"""


def stored(folder: Path, role: Role) -> tuple[Path, Key]:
    """A key file without a passphrase, in a folder of its own."""
    key = make_keys()[role]
    folder.mkdir(mode=0o700, exist_ok=True)
    write_key_file(folder / "a.key", encode_key(key.header, key.secrets, None))
    return folder / "a.key", key


def change(path: Path, old: bytes | None, new: bytes | None) -> None:
    change_passphrase(read_key_file(path), old, new, cost=CHEAP)


@pytest.mark.parametrize("role", list(Role))
def test_the_key_stays_the_same(tmp_path: Path, role: Role) -> None:
    """Its id, pin and secrets; a new salt; 0600; the old passphrase opens it no more, and nothing lies beside it."""
    path, key = stored(tmp_path / "keys", role)
    change(path, None, b"one")
    first = read_key_file(path)
    change(path, b"one", b"two")
    second = read_key_file(path)
    assert second.header.kdf.salt != first.header.kdf.salt
    opened = second.unlock(b"two")
    assert (opened.header.id, opened.header.pin, opened.secrets) == (key.header.id, key.header.pin, key.secrets)
    with pytest.raises(KeyProblem, match="wrong passphrase"):
        second.unlock(b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["a.key"]


@pytest.mark.parametrize("role", list(Role))
def test_only_keys_that_work_at_night_may_be_without(tmp_path: Path, role: Role) -> None:
    """write, check and prune lose theirs; of the others the wish is refused before anything is opened."""
    path, key = stored(tmp_path / "keys", role)
    change(path, None, b"one")
    before = path.read_bytes()
    if role in {Role.WRITE, Role.CHECK, Role.PRUNE}:
        change(path, b"one", None)
        assert read_key_file(path).unlock(None).secrets == key.secrets
    else:
        with pytest.raises(SafetyRefused):
            change(path, b"one", None)
        assert path.read_bytes() == before


def test_a_wrong_passphrase_changes_nothing(tmp_path: Path) -> None:
    """It is a key problem, and the file is byte for byte what it was."""
    path, _ = stored(tmp_path / "keys", Role.READ)
    change(path, None, b"one")
    before = path.read_bytes()
    with pytest.raises(KeyProblem):
        change(path, b"not it", b"two")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.key"]


def test_what_an_interrupted_change_left_is_removed(tmp_path: Path) -> None:
    """A leftover beside the file goes with the next change; another key's does not."""
    path, _ = stored(tmp_path / "keys", Role.WRITE)
    (path.parent / ".a.key.0123456789abcdef.new").write_text("cut off")
    (path.parent / ".b.key.0123456789abcdef.new").write_text("another's")
    change(path, None, b"one")
    assert sorted(p.name for p in path.parent.iterdir()) == [".b.key.0123456789abcdef.new", "a.key"]


def test_killed_at_any_moment_there_is_a_whole_file(tmp_path: Path) -> None:
    """kill -9 while passphrases change back and forth: the file opens with one of the two, and is the same key."""
    path, key = stored(tmp_path / "keys", Role.READ)
    change(path, None, b"one")
    for n in range(4):
        now = "one" if opens(path, b"one") else "two"
        child = subprocess.Popen([sys.executable, "-c", LOOP, str(path), now], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.15 + 0.13 * n)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert opens(path, b"one") != opens(path, b"two")
        passphrase = b"one" if opens(path, b"one") else b"two"
        assert read_key_file(path).unlock(passphrase).secrets == key.secrets


def opens(path: Path, passphrase: bytes) -> bool:
    try:
        read_key_file(path).unlock(passphrase)
    except KeyProblem:
        return False
    return True
