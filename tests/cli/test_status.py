"""status as a user, a script and a monitoring system meet it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.kit import CHINOOK, User

POLICY = """\
policy: nightly
sources:
  - {{name: music, url: "sqlite:///{folder}/music.db"}}
  - {{name: shop, url: "sqlite:///{folder}/shop.db"}}
repository: {{url: "file://{folder}/repo"}}
keys: {{write: "file:{folder}/keys/write.key", check: "file:{folder}/keys/check.key"}}
schedule: {{every: 1h}}
objectives: {{rpo: 2h}}
"""


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with a policy of two sources, of which one has a snapshot."""
    user = User(tmp_path)
    user.init()
    for name in ("music", "shop"):
        shutil.copy(CHINOOK, tmp_path / f"{name}.db")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/nightly.yaml").write_text(POLICY.format(folder=tmp_path))
    user.environment = {"BACKUPCTL_CONFIG": str(tmp_path / "policies")}
    assert user.run("run", "nightly", "music").code == 0
    return user


def test_a_source_without_a_snapshot_is_a_breach(user: User) -> None:
    """Exit code 5, and the document says which; it stays a document of status."""
    done = user.run("status", "--json")
    assert done.code == 5
    document = done.document
    assert document["schema"] == "backupctl/status/1"
    assert (document["ok"], document["verdict"], document["error"]["code"]) == (False, "breach", "objective_missed")
    assert document["sentence"].startswith("1 of 2 sources is not protected as promised: shop: there is no snapshot")
    assert [s["name"] for s in document["sources"]] == ["shop", "music"]
    keys = {"name", "rpo_seconds", "rpo_used", "last_good", "next_run", "drilled_at", "locked_until"}
    assert all(keys <= source.keys() for source in document["sources"])
    said = user.run("status")
    assert said.code == 5
    assert said.out.splitlines()[0] == document["sentence"]
    assert "BREACH" in said.out


def test_all_is_well(user: User) -> None:
    assert user.run("run", "nightly", "shop").code == 0
    done = user.run("status", "--json")
    assert done.code == 0
    assert (done.document["ok"], done.document["verdict"]) == (True, "ok")
    assert done.document["version_cache_bytes"] > 0
    assert all(0 <= source["rpo_used"] < 0.5 for source in done.document["sources"])
    assert user.run("status", "--quiet").out == done.document["sentence"] + "\n"
    assert "version cache on this machine" in user.run("status").out


def test_for_nagios(user: User) -> None:
    """One line, numbers behind a bar, and the exit codes of a check."""
    critical = user.run("status", "--output", "nagios")
    assert critical.code == 2
    assert critical.out.startswith("BACKUPD CRITICAL - ")
    assert user.run("run", "nightly").code == 0
    fine = user.run("status", "--output", "nagios")
    assert fine.code == 0
    assert fine.out.count("\n") == 1
    assert fine.out.startswith("BACKUPD OK - All is well")
    assert "'music'=" in fine.out
    assert ";;7200;0" in fine.out
    unknown = user.run("status", "--output", "nagios", env=user.env(BACKUPCTL_CONFIG=str(user.folder / "nothing")))
    assert unknown.code == 3
    assert unknown.out.startswith("BACKUPD UNKNOWN - ")


def test_a_repository_that_is_gone(user: User) -> None:
    """What cannot be seen is not well."""
    shutil.move(user.folder / "repo", user.folder / "elsewhere")
    done = user.run("status", "--json")
    assert done.code == 5
    assert all("cannot be seen" in source["why"][0] for source in done.document["sources"])


def test_damage_needs_a_look(user: User) -> None:
    assert user.run("run", "nightly").code == 0
    victim = sorted(Path(user.repository).glob("snapshots/*/*"))[0]
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    done = user.run("status", "--json")
    assert done.document["verdict"] == "warn"
    assert "not whole" in json.dumps(done.document)
    assert user.run("status", "--output", "nagios").code == 1


def test_without_policies(user: User) -> None:
    """With a repository, the sources that are in it; with neither, what to do next."""
    plain = user.env()
    del plain["BACKUPCTL_CONFIG"]
    done = user.run("status", "--json", key="check", env=plain)
    assert done.code == 0
    assert [s["name"] for s in done.document["sources"]] == ["music"]
    assert done.document["sources"][0]["rpo_seconds"] is None
    del plain["BACKUPCTL_REPOSITORY"]
    if not Path("/etc/backupd/policies.d").exists():
        lost = user.run("status", "--json", env=plain)
        assert lost.code == 2
        assert "--config" in lost.document["error"]["hint"]
