"""status as a user, a script and a monitoring system meet it."""

import json
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.wiring import open_catalog
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


# ---- from the daemon's catalog


@pytest.fixture
def watched(user: User) -> User:
    """The same user, with a daemon that has looked at the repository and was heard of just now."""
    assert user.run("run", "nightly", "shop").code == 0
    user.environment |= {"BACKUPCTL_REPOSITORY": ""}  # as an option that is not given
    assert user.run("catalog", "rebuild").code == 0
    beat(user, "host:1")
    return user


def beat(user: User, name: str, ago: timedelta = timedelta(0)) -> None:
    with open_catalog(user.folder / "state/backupd") as catalog:
        for known in catalog.heartbeats.all():
            catalog.heartbeats.forget(known)
        catalog.heartbeats.beat(name, datetime.now(UTC) - ago)


def document(user: User, *more: str) -> dict[str, Any]:
    return user.run("status", "--json", *more).document


def test_the_catalog_and_the_repositories_tell_the_same(watched: User) -> None:
    """But for who was asked, and when that was true."""
    fast, slow = document(watched), document(watched, "--direct")
    assert (fast.pop("from"), slow.pop("from")) == ("catalog", "repositories")
    assert fast.pop("as_of") <= slow.pop("as_of")
    for source in (*fast["sources"], *slow["sources"]):
        del source["rpo_used"]
    assert fast == slow
    assert (fast["verdict"], fast["version_cache_bytes"] > 0) == ("ok", True)
    last = watched.run("status").out.splitlines()[-1]
    assert last.startswith("asked: the daemon's catalog; ")
    assert watched.run("status", "--direct").out.splitlines()[-1] == "asked: the repositories"


def test_the_catalog_answers_while_the_storage_is_away(watched: User) -> None:
    """It says as of when; --direct and --repository never ask it."""
    shutil.move(watched.folder / "repo", watched.folder / "elsewhere")
    assert document(watched)["verdict"] == "ok"
    assert document(watched, "--direct")["verdict"] == "breach"
    assert document(watched, "--repository", str(watched.folder / "repo"))["from"] == "repositories"


@pytest.mark.parametrize("minutes", [6, -6], ids=["gone", "from the future"])
def test_without_a_daemon_the_catalog_is_not_believed(watched: User, minutes: int) -> None:
    beat(watched, "host:1", timedelta(minutes=minutes))
    assert document(watched)["from"] == "repositories"
    assert "(no daemon keeps the catalog up to date)" in watched.run("status").out


def test_a_repository_at_which_nobody_looked_is_asked_itself(watched: User) -> None:
    """One policy more, one that names another place, and one whose look is old."""
    policy = watched.folder / "policies/nightly.yaml"
    text = policy.read_text()
    (watched.folder / "policies/second.yaml").write_text(text.replace("policy: nightly", "policy: second"))
    assert document(watched)["from"] == "repositories"
    (watched.folder / "policies/second.yaml").unlink()
    shutil.move(watched.folder / "repo", watched.folder / "other")
    policy.write_text(text.replace("/repo", "/other"))
    moved = document(watched)
    assert (moved["from"], moved["verdict"]) == ("repositories", "ok")
    shutil.move(watched.folder / "other", watched.folder / "repo")
    policy.write_text(text)
    assert document(watched)["from"] == "catalog"
    with sqlite3.connect(watched.folder / "state/backupd/catalog.sqlite") as connection:
        connection.execute("UPDATE repositories SET at = at - ?", (timedelta(days=3) // timedelta(microseconds=1),))
    assert document(watched)["from"] == "repositories"


def test_runs_of_another_host_are_asked_for(watched: User) -> None:
    """Where the write key is elsewhere, the catalog hears of new snapshots once a day only."""
    policy = watched.folder / "policies/nightly.yaml"
    policy.write_text(policy.read_text().replace(f'write: "file:{watched.folder}/keys/write.key", ', ""))
    assert document(watched)["from"] == "repositories"


def test_no_catalog_is_made_or_upgraded_or_believed_blindly(user: User) -> None:
    """Not one that is not there, nor an empty file, nor a damaged or newer one."""
    assert user.run("run", "nightly", "shop").code == 0
    user.environment |= {"BACKUPCTL_REPOSITORY": ""}
    place = user.folder / "state/backupd/catalog.sqlite"
    assert document(user)["from"] == "repositories"
    assert not place.exists()
    place.touch(0o600)
    assert document(user)["from"] == "repositories"
    assert place.read_bytes() == b""
    place.write_bytes(b"something else altogether " * 200)
    before = place.read_bytes()
    assert document(user)["from"] == "repositories"
    assert "damaged" in user.run("status").out
    assert place.read_bytes() == before
    place.unlink()
    with open_catalog(place.parent) as catalog:
        catalog.heartbeats.beat("host:1", datetime.now(UTC))
    with sqlite3.connect(place) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert document(user)["from"] == "repositories"
    assert document(user, "--catalog", "sqlite:////nowhere/at/all.sqlite")["from"] == "repositories"
