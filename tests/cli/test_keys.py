"""Keys in daily life, as a user has them: a second host, another passphrase."""

import json
import os
import pty
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.kit import CHINOOK, User


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a repository and one snapshot."""
    user = User(tmp_path_factory.mktemp("user"))
    user.init()
    user.back_up()
    return user


def test_a_second_host(ready: User) -> None:
    """keys new write, then runs of both; a name that both use is written WRITER/SOURCE; restore takes it so."""
    arguments = ("keys", "new", "write", "--keys", "second", "--label", "db2", "--json")
    trial = ready.run(*arguments, "--dry-run", key="root")
    assert (trial.code, (ready.folder / "second").exists()) == (0, False), trial.out
    done = ready.run(*arguments, key="root")
    assert done.code == 0, done.out
    assert done.document["path"] == str(ready.folder / "second/write.key")
    assert done.document["trust"] == 2
    run = ready.run("run", "--source", str(CHINOOK), "--key", "second/write.key", "--json")
    assert run.code == 0, run.out
    assert run.document["chunks"]["full"] > 0
    ready.back_up()
    listed = ready.run("snapshots", "--json", key="check").document["snapshots"]
    names = {s["source"] for s in listed}
    assert len(names) == 2
    assert "db2/chinook" in names
    assert ready.run("show", "latest:chinook", key="check").code == 2
    shown = ready.run("show", "latest:db2/chinook", "--json", key="check")
    assert shown.document["id"] == run.document["snapshot"]
    back = ready.run("restore", "latest:db2/chinook", str(ready.folder / "back.db"), key="read")
    assert back.code == 0, back.err
    with sqlite3.connect(ready.folder / "back.db") as db:
        assert db.execute("select count(*) from Album").fetchone() == (347,)
    db.close()
    again = ready.run(*arguments, key="root")
    assert (again.code, again.document["error"]["code"]) == (20, "refused")


def test_who_may_make_keys(ready: User) -> None:
    """It takes root.key (12); a place in the repository is 20; no place and a taken label are 2; read is named as not built."""
    new = ("keys", "new", "write", "--label", "x", "--out", "x.key")
    assert ready.run(*new, key="prune").code == 12
    inside = ready.run("keys", "new", "check", "--label", "x", "--out", "repo/x.key", key="root")
    assert inside.code == 20
    assert ready.run("keys", "new", "check", "--label", "x", key="root").code == 2
    assert ready.run("keys", "new", "nonsense", "--label", "x", "--out", "x.key", key="root").code == 2
    for role in ("read", "root", "recovery"):
        done = ready.run("keys", "new", role, "--label", "x", "--out", "x.key", key="root")
        assert (done.code, "not built yet" in done.err) == (2, True)
    assert not (ready.folder / "x.key").exists()


def test_later_verbs_of_keys_are_absent(ready: User) -> None:
    """rotate, revoke, split and join are not in --help, and end with 2."""
    text = ready.run("keys", "--help").out
    for verb in ("rotate", "revoke", "split", "join"):
        assert f"\n  {verb} " not in text
        assert ready.run("keys", verb).code == 2


def copied(ready: User, role: str, folder: Path) -> Path:
    """A copy of a key file, to be changed."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{role}.key"
    path.write_bytes((ready.folder / f"keys/{role}.key").read_bytes())
    path.chmod(0o600)
    return path


def test_another_passphrase(ready: User, tmp_path: Path) -> None:
    """The new one opens and the old one does not; a wrong one is 12; none for a read key is 20."""
    path = copied(ready, "read", tmp_path / "mine")
    (tmp_path / "new").write_text("quite another\n")
    before = path.read_bytes()
    change = ("keys", "passphrase", "--key", str(path), "--new-passphrase-file", str(tmp_path / "new"), "--json")
    assert ready.run(*change, "--passphrase-file", str(tmp_path / "new")).code == 12
    assert ready.run("keys", "passphrase", "--key", str(path), "--no-passphrase").code == 20
    assert ready.run(*change, "--dry-run").code == 0
    assert path.read_bytes() == before
    done = ready.run(*change)
    assert done.code == 0, done.out
    assert done.document["passphrase"] is True
    tried = ("keys", "test", "--key", str(path))
    assert ready.run(*tried).code == 12
    assert ready.run(*tried, "--passphrase-file", str(tmp_path / "new")).code == 0


def test_a_first_passphrase_and_none_again(ready: User, tmp_path: Path) -> None:
    """A write key gets one and loses it; without a file and a terminal the new one is asked for in vain (2)."""
    path = copied(ready, "write", tmp_path / "mine")
    command = ("keys", "passphrase", "--key", str(path))
    asked = ready.run(*command)
    assert (asked.code, "BACKUPCTL_NEW_PASSPHRASE_FILE" in asked.err) == (2, True)
    env = ready.env(BACKUPCTL_NEW_PASSPHRASE_FILE=str(ready.folder / "passphrase"))
    assert ready.run(*command, env=env).code == 0
    assert ready.run("keys", "list", "--key", str(path), "--json").document["keys"][0]["passphrase"] is True
    assert ready.run("run", "--source", str(CHINOOK), "--key", str(path)).code == 0
    assert ready.run(*command, "--no-passphrase").code == 0
    assert ready.run("keys", "list", "--key", str(path), "--json").document["keys"][0]["passphrase"] is False
    two = ready.env(BACKUPCTL_KEY=f"{path}:{ready.folder}/keys/read.key")
    assert ready.run("keys", "passphrase", "--no-passphrase", env=two).code == 2


@pytest.mark.parametrize(("answers", "code"), [(["fresh", "fresh"], 0), (["fresh", "other"], 2)])
def test_on_a_terminal_it_is_asked_for_twice(ready: User, tmp_path: Path, answers: list[str], code: int) -> None:
    """Two equal answers change it, two different ones change nothing."""
    path = copied(ready, "check", tmp_path / "mine")
    main, other = pty.openpty()
    command = [sys.executable, "-m", "backupctl", "keys", "passphrase", "--key", str(path), "--json"]
    child = subprocess.Popen(
        command, env=ready.env(), stdin=other, stdout=subprocess.PIPE, stderr=other, start_new_session=True
    )
    os.close(other)
    os.set_blocking(main, True)
    seen = b""
    for n, answer in enumerate(answers):
        while seen.count(b": ") <= n:
            seen += os.read(main, 1000)
        os.write(main, answer.encode() + b"\n")
    out, _ = child.communicate(timeout=60)
    os.close(main)
    assert child.returncode == code, out
    assert json.loads(out)["ok"] is (code == 0)
    assert b"fresh" not in out + seen
