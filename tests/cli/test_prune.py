"""prune, forget and hold as a user meets them."""

import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from tests.cli.kit import CHINOOK, User


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with four snapshots of two sources."""
    user = User(tmp_path)
    user.init()
    for n in range(3):
        user.back_up(CHINOOK, "--name", "music", "--tag", f"night-{n}")
    user.back_up(CHINOOK, "--name", "shop", "--version-cache", "off")
    return user


def age(user: User, hours: int = 26) -> None:
    """Make the marks of the repository so many hours older."""
    for path in Path(user.repository).glob("gc/*.mark"):
        then = path.stat().st_mtime - hours * 3600
        os.utime(path, (then, then))


def listed(user: User) -> list[str]:
    return [s["id"] for s in user.run("snapshots", "--json", key="check").document["snapshots"]]


def test_prune_says_why(user: User) -> None:
    """Each snapshot has its reasons; a dry run and the real one say the same, and only the second one changes anything."""
    before = listed(user)
    dry = user.run("prune", "--keep-last", "1", "--dry-run", "--json", key="prune")
    assert dry.code == 0
    assert listed(user) == before
    real = user.run("prune", "--keep-last", "1", "--json", key="prune").document
    assert real["schema"] == "backupctl/prune/1"
    assert {"keep", "forget", "freed_bytes", "pending", "pending_packs", "pending_until", "locked"} <= real.keys()
    assert (real["keep"], real["forget"]) == (dry.document["keep"], dry.document["forget"])
    assert [k["reasons"][0] for k in real["keep"]] == ["last", "last"]
    assert [f["snapshot"] for f in real["forget"]] == [before[1], before[0]]
    assert listed(user) == before[2:]
    assert user.run("verify", key="check").code == 0
    said = user.run("prune", "--keep-last", "1", key="prune")
    assert "the newest of its writer" in said.out
    assert "2 snapshots kept, 0 forgotten" in said.out


def test_space_comes_back_after_the_wait(user: User) -> None:
    """Packs that only forgotten snapshots needed are marked, wait, and go; what stays restores."""
    big = user.folder / "big.db"
    big.write_bytes(CHINOOK.read_bytes())
    db = sqlite3.connect(big)
    db.execute("create table noise(x blob)")
    db.executemany("insert into noise values(?)", ((os.urandom(1_000_000),) for _ in range(40)))
    db.commit()
    user.back_up(big, "--name", "gone")
    db.execute("drop table noise")
    db.execute("vacuum")
    db.close()
    assert user.back_up(big, "--name", "gone")["brake"]
    assert user.run("brake", "release", "gone", "--yes", key="prune").code == 0
    first = user.run("prune", "--keep-last", "1", "--json", key="prune").document
    assert first["pending"] > 1_000_000
    assert first["pending_until"]
    age(user)
    second = user.run("prune", "--keep-last", "1", "--json", key="prune").document
    assert second["freed_bytes"] >= first["pending"]
    assert second["pending"] == 0
    assert user.run("verify", "--level", "content", key="read").code == 0
    assert user.run("restore", "latest:gone", "back.db", key="read").code == 0


def test_refusals(user: User) -> None:
    """Nothing said of what to keep: 2; no right: 12; the newest of a writer: 20; unknown: 1 and 2."""
    assert user.run("prune", key="prune").code == 2
    assert user.run("prune", "--keep-last", "1", key="check").code == 12
    assert user.run("prune", "--keep-last", "1", key="write").code == 12
    assert user.run("prune", "--keep-last", "1", "--gc-only", key="prune").code == 2
    assert user.run("prune", "--keep-last", "1", "--source", "nobody", key="prune").code == 2
    assert user.run("prune", "--keep-within", "soon", key="prune").code == 2
    assert user.run("prune", "--keep-last", "-1", key="prune").code == 2
    for words in (
        ["--keep-within", "9999999d"],
        ["--min-age", "999999999w", "--keep-last", "1"],
        ["--keep-within", "0x"],
    ):
        assert user.run("prune", *words, key="prune").code == 2
    assert user.run("hold", "add", "latest", "--reason", " ", key="read").code == 2
    assert user.run("prune", "--keep-last", "9", "--dry-run", key="root").code == 0
    refused = user.run("forget", "latest", "--json", key="prune")
    assert refused.code == 20
    assert "newest" in refused.document["error"]["message"]
    assert user.run("forget", "0123456789", key="prune").code == 1
    assert user.run("prune", "--gc-only", key="prune").code == 0
    assert len(listed(user)) == 4


def test_damage_is_four(user: User) -> None:
    """With a snapshot object gone nothing is removed, and the error names it."""
    victim = sorted(Path(user.repository).glob("snapshots/*/*"))[0]
    victim.unlink()
    done = user.run("prune", "--keep-last", "1", "--json", key="prune")
    assert done.code == 4
    assert victim.name in done.document["error"]["object"]
    assert user.run("prune", "--keep-last", "1", "--accept-damage", key="prune").code == 0


def test_one_is_forgotten(user: User) -> None:
    first = listed(user)[0]
    done = user.run("forget", first[:8], "--reason", "a test", "--json", key="prune").document
    assert done["schema"] == "backupctl/forget/1"
    assert [f["snapshot"] for f in done["forget"]] == [first]
    assert first not in listed(user)
    assert user.run("verify", key="check").code == 0


def test_holds(user: User) -> None:
    """A hold keeps a snapshot, shows where snapshots are shown, and ends by a release; with whose key is checked."""
    first = listed(user)[0]
    assert user.run("hold", "add", first[:8], "--reason", "case 4711", key="check").code == 12
    both = ["--key", "keys/check.key", "--key", "keys/read.key", "--dry-run"]
    assert user.run("hold", "add", first[:8], "--reason", "x", *both).code == 0
    assert user.run("hold", "add", first[:8], key="read").code == 2
    done = user.run("hold", "add", first[:8], "--reason", "case 4711", "--json", key="read")
    assert done.document["snapshot"] == first
    assert user.run("hold", "add", first[:8], "--reason", "audit", key="write").code == 0
    holds = user.run("hold", "list", "--json", key="check").document["holds"]
    assert [(h["snapshot"], h["source"], h["reason"]) for h in holds] == [
        (first, "music", "case 4711"),
        (first, "music", "audit"),
    ]
    shown = user.run("snapshots", "--json", key="check").document["snapshots"][0]
    assert shown["holds"] == ["case 4711", "audit"]
    assert user.run("show", first[:8], "--json", key="check").document["holds"] == ["case 4711", "audit"]
    assert user.run("forget", first[:8], key="prune").code == 20
    kept = user.run("prune", "--keep-last", "1", "--dry-run", "--json", key="prune").document["keep"]
    assert {"snapshot": first, "source": "music", "reasons": ["held: case 4711", "held: audit"]} in kept
    assert user.run("hold", "release", first[:8], "--reason", "audit", key="read").code == 12
    assert user.run("hold", "release", first[:8], "--reason", "audit", "--dry-run", key="prune").code == 0
    assert user.run("hold", "release", first[:8], "--reason", "audit", key="prune").code == 0
    assert [h["reason"] for h in user.run("hold", "list", "--json", key="check").document["holds"]] == ["case 4711"]
    assert user.run("hold", "release", first[:8], key="prune").code == 0
    assert user.run("hold", "release", first[:8], key="prune").code == 1
    assert user.run("hold", "add", first[:8], "--reason", "again", key="prune").code == 0
    assert len(user.run("hold", "list", "--json", key="check").document["holds"]) == 1
    assert "again" in user.run("hold", "list", key="check").out
    assert user.run("verify", key="check").code == 0


def test_a_hold_of_a_run(user: User) -> None:
    """`run --hold` is a hold like the others."""
    user.back_up(CHINOOK, "--name", "music", "--hold", "before the release")
    newest = listed(user)[-1]
    assert user.run("hold", "release", newest[:8], key="prune").code == 0
    assert user.run("hold", "list", "--json", key="check").document["holds"] == []


def test_two_prunes_on_one_machine(user: User) -> None:
    """The second one is told that the first is at work: exit code 11."""
    assert user.run("prune", "--gc-only", key="prune").code == 0
    (state,) = (user.folder / "state/backupd").iterdir()
    with (state / "prune.lock").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        busy = user.run("prune", "--gc-only", "--json", key="prune")
    assert busy.code == 11
    assert busy.document["error"]["code"] == "busy"
