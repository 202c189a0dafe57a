"""policy check, next and schema; run and prune by a policy; as a user meets them."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kit import CHINOOK, User

POLICY = """\
policy: nightly
sources:
  - name: music
    url: sqlite:///{folder}/music.db
    tags: [by-policy]
  - name: shop
    url: sqlite:///{folder}/shop.db
repository: {{url: "file://{folder}/repo"}}
keys: {{write: "file:{folder}/keys/write.key", prune: "file:{folder}/keys/prune.key"}}
schedule: {{cron: "30 2 * * *", timezone: Europe/Berlin}}
retention: {{keep: {{last: 1}}}}
"""


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with two databases, a repository, and a folder with one policy."""
    user = User(tmp_path)
    user.init()
    for name in ("music", "shop"):
        shutil.copy(CHINOOK, tmp_path / f"{name}.db")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/nightly.yaml").write_text(POLICY.format(folder=tmp_path))
    user.environment = {"BACKUPCTL_CONFIG": str(tmp_path / "policies")}
    return user


def test_check(user: User) -> None:
    """A valid set is listed with its next runs; of an invalid one everything that is wrong, and the exit code is 2."""
    good = user.run("policy", "check", "--json")
    assert good.code == 0
    document = good.document
    assert document["schema"] == "backupctl/policy-check/1"
    (listed,) = document["policies"]
    assert (listed["name"], listed["file"]) == ("nightly", f"{user.folder}/policies/nightly.yaml")
    assert listed["next"] == document["next"][0]["next"]
    assert (listed["repository"]["read"], listed["repository"]["keys"]) == (True, ["prune", "write"])
    assert document["errors"] == []
    assert [len(s["next"]) for s in document["next"]] == [5, 5]
    said = user.run("policy", "check", "policies/nightly.yaml").out
    assert "nightly is valid" in said
    assert "02:30+01:00" in said or "02:30+02:00" in said
    bad = user.folder / "bad.yaml"
    bad.write_text("policy: x\nsources: [{name: a, url: a.db, pasword: x}]\nrepository: {url: /b}\n")
    done = user.run("policy", "check", str(bad), "policies", "--json")
    assert done.code == 2
    assert done.document["errors"] == [
        {"file": str(bad), "line": 2, "column": 32, "message": "sources.0.pasword: there is no such key here"}
    ]
    assert f"{bad}:2:32: " in user.run("policy", "check", str(bad)).err
    assert user.run("policy", "check", "missing.yaml").code == 2
    assert user.run("policy", "check", env=user.env(BACKUPCTL_CONFIG=str(user.folder / "keys"))).code == 2


def faults(document: dict[str, Any], what: str = "warnings") -> list[str]:
    """Lines and messages."""
    return [f"{f['line']} {f['message']}" for f in document[what]]


def test_check_reads_the_repository(user: User) -> None:
    """Not there, no key at hand, keys of another role or another repository: with line and column; the sources are not asked."""
    path = user.folder / "policies/nightly.yaml"
    text = path.read_text()
    for name in ("music", "shop"):
        (user.folder / f"{name}.db").unlink()
    said = user.run("policy", "check")
    assert said.code == 0
    assert "was read: trust version 1; keys here: prune, write" in said.out
    assert said.err == ""
    path.write_text(text.replace("keys/prune.key", "keys/check.key"))
    wrong = user.run("policy", "check", "--json")
    assert wrong.code == 2
    assert faults(wrong.document, "errors") == ["9 keys.prune: this is a check key"]
    other = user.folder / "other"
    other.mkdir()
    User(other).init()
    path.write_text(text.replace("keys/prune.key", "other/keys/prune.key"))
    wrong = user.run("policy", "check", "--json")
    assert wrong.code == 2
    assert "9 keys.prune: this key is of another repository" in faults(wrong.document, "errors")[0]
    path.write_text(text.replace("keys/prune.key", "keys/gone.key"))
    missing = user.run("policy", "check", "--json")
    assert missing.code == 0
    assert len(faults(missing.document)) == 1
    assert faults(missing.document)[0].startswith("9 keys.prune:")
    assert missing.document["policies"][0]["repository"]["keys"] == ["write"]


def test_check_without_a_repository(user: User) -> None:
    """That it could not be looked at is a warning, and with --require-repository the failure it is; asked to, nothing is read."""
    path = user.folder / "policies/nightly.yaml"
    text = path.read_text()
    path.write_text(text.replace("/repo", "/elsewhere"))
    gone = user.run("policy", "check", "--json")
    assert gone.code == 0
    assert faults(gone.document)[0].startswith("8 repository: it could not be looked at")
    assert gone.document["policies"][0]["repository"]["error"]["code"] == "no_repository"
    required = user.run("policy", "check", "--require-repository", "--json")
    assert (required.code, required.document["error"]["code"]) == (10, "no_repository")
    assert required.document["policies"][0]["name"] == "nightly"
    path.write_text("".join(line for line in text.splitlines(True) if not line.startswith("keys:")))
    keyless = user.run("policy", "check", "--json")
    assert keyless.code == 0
    assert "8 repository: it was not looked at: no key" in faults(keyless.document)[0]
    assert user.run("policy", "check", "--require-repository").code == 12
    assert user.run("policy", "check", "--require-repository", key="check").code == 0
    quiet = user.run("policy", "check", "--no-repository", "--json")
    assert (quiet.code, quiet.document["warnings"], quiet.document["policies"][0]["repository"]) == (0, [], None)
    assert user.run("policy", "check", "--no-repository", "--require-repository").code == 2


def test_next(user: User) -> None:
    """Each source with its next times."""
    document = user.run("policy", "next", "--count", "2", "--json").document
    assert [(s["policy"], s["source"], len(s["next"])) for s in document["sources"]] == [
        ("nightly", "music", 2),
        ("nightly", "shop", 2),
    ]
    assert document["sources"][0]["next"][0].endswith("30:00Z")


def test_next_reckons_with_jitter_and_windows(user: User) -> None:
    """The times at which each source starts, and the same each time one asks; a window's effect is said."""
    path = user.folder / "policies/nightly.yaml"
    path.write_text(path.read_text().replace("timezone: Europe/Berlin", "jitter: 20m, blackout: ['02:00-05:00']"))
    found = [s["next"] for s in user.run("policy", "next", "--json").document["sources"]]
    assert found[0] != found[1]
    assert all(time[11:13] == "05" and int(time[14:16]) < 20 for times in found for time in times)
    assert [s["next"] for s in user.run("policy", "next", "--json").document["sources"]] == found
    assert "+00:00 (after a window)" in user.run("policy", "next").out


def test_schema(user: User) -> None:
    printed = json.loads(user.run("policy", "schema").out)
    assert printed == user.run("policy", "schema", "--json").document["policy"]
    assert printed["required"] == ["policy", "sources", "repository"]


def test_run_by_policy(user: User) -> None:
    """`run POLICY` takes all sources, `run POLICY SOURCE` one; by name or by file; key and repository are the policy's."""
    bare = user.env(BACKUPCTL_REPOSITORY="")
    done = user.run("run", "nightly", "--json", env=bare)
    assert done.code == 0
    assert [r["source"] for r in done.document["runs"]] == ["music", "shop"]
    one = user.run("run", "policies/nightly.yaml", "shop", "--tag", "mine", "--json", env=bare)
    assert one.document["source"] == "shop"
    assert len(one.document["snapshot"]) == 64
    listed = user.run("snapshots", "--json", key="check").document["snapshots"]
    assert [(s["source"], s["tags"]) for s in listed] == [("music", ["by-policy"]), ("shop", []), ("shop", ["mine"])]
    dry = user.run("run", "nightly", "--dry-run", env=bare)
    assert dry.out.count("would be snapshot") == 2
    assert len(user.run("snapshots", "--json", key="check").document["snapshots"]) == 3


def test_run_refusals(user: User) -> None:
    assert user.run("run", "weekly").code == 2
    assert "nightly" in user.run("run", "weekly").err
    assert user.run("run", "nightly", "nobody").code == 2
    assert user.run("run", "nightly", "--source", "x.db").code == 2
    assert user.run("run", "missing.yaml").code == 2
    path = user.folder / "policies/nightly.yaml"
    path.write_text(path.read_text().replace("write:", "read:"))
    refused = user.run("run", "nightly", "--json")
    assert refused.code == 12
    assert "names no write key" in refused.document["error"]["message"]
    assert user.run("run", "nightly", "shop", key="write").code == 0


def test_one_source_that_fails_does_not_stop_the_others(user: User) -> None:
    (user.folder / "music.db").unlink()
    done = user.run("run", "nightly", "--json")
    assert done.code == 14
    runs = done.document["runs"]
    assert runs[0]["error"]["code"] == "unreachable"
    assert runs[1]["source"] == "shop"
    assert len(user.run("snapshots", "--json", key="check").document["snapshots"]) == 1


def test_hooks(user: User) -> None:
    """They run around each source, know which, and one that fails before it keeps the run from beginning."""
    path = user.folder / "policies/nightly.yaml"
    log = user.folder / "log"
    line = f'echo "$BACKUPD_SOURCE $BACKUPD_OUTCOME" >> {log}; test -z "$BACKUPCTL_PASSPHRASE_FILE"'
    text = path.read_text()
    path.write_text(text + f"hooks: {{before: ['echo before >> {log}'], after: ['{line}']}}\n")
    assert user.run("run", "nightly", "--json").code == 0
    assert log.read_text() == "before\nmusic success\nbefore\nshop success\n"
    (user.folder / "shop.db").write_bytes(b"no database at all, whatever the name says")
    assert user.run("run", "nightly", "shop").code == 14
    assert log.read_text().endswith("before\nshop failure\n")
    path.write_text(text + "hooks: {before: ['exit 7']}\n")
    failed = user.run("run", "nightly", "music", "--json")
    assert failed.code == 1
    assert "hook 1 before the run failed with status 7" in failed.document["error"]["message"]


def test_prune_by_policy(user: User) -> None:
    """The policy's rule, key and repository; other sources are left alone."""
    for _ in range(3):
        assert user.run("run", "nightly").code == 0
    user.back_up(CHINOOK, "--name", "other")
    user.back_up(CHINOOK, "--name", "other")
    bare = user.env(BACKUPCTL_REPOSITORY="")
    done = user.run("prune", "nightly", "--json", env=bare)
    assert done.code == 0
    assert sorted({f["source"] for f in done.document["forget"]}) == ["music", "shop"]
    assert (len(done.document["keep"]), len(done.document["forget"])) == (2, 4)
    listed = user.run("snapshots", "--json", key="check").document["snapshots"]
    assert sorted(s["source"] for s in listed) == ["music", "other", "other", "shop"]
    assert user.run("prune", "nightly", "--keep-last", "3").code == 2
    assert user.run("prune", "nightly", "--source", "other").code == 2
    path = user.folder / "policies/nightly.yaml"
    path.write_text(path.read_text().replace("retention: {keep: {last: 1}}\n", ""))
    assert user.run("prune", "nightly").code == 2


def test_a_password_by_reference(user: User) -> None:
    """What the reference leads to is in no message, and one that leads nowhere is named."""
    path = user.folder / "policies/nightly.yaml"
    path.write_text(
        path.read_text().replace(
            f"url: sqlite:///{user.folder}/shop.db", "url: postgresql://u@127.0.0.1:9/db\n    password: env:DB_PASSWORD"
        )
    )
    missing = user.run("run", "nightly", "shop", "--json")
    assert missing.code == 2
    assert "DB_PASSWORD" in missing.document["error"]["message"]
    refused = user.run("run", "nightly", "shop", "--json", env=user.env(DB_PASSWORD="hunter2-secret"))
    assert refused.code == 14
    assert "hunter2" not in refused.out + refused.err
    assert sqlite3.connect(user.folder / "music.db").execute("select 1").fetchone() == (1,)


def test_plan(user: User) -> None:
    """What a change means: the keys that differ, and the snapshots that the next prune would forget because of it."""
    for _ in range(3):
        assert user.run("run", "nightly", "music").code == 0
    old = user.folder / "policies/nightly.yaml"
    generous, strict = user.folder / "generous.yaml", user.folder / "strict.yaml"
    generous.write_text(old.read_text().replace("{last: 1}", "{last: 9, daily: 7}"))
    strict.write_text(old.read_text().replace("30 2 * * *", "30 3 * * *"))
    done = user.run("policy", "plan", str(generous), str(strict), "--json", key="check")
    assert done.code == 0
    assert {(c["path"], c["old"], c["new"]) for c in done.document["changes"]} == {
        ("schedule.cron", "30 2 * * *", "30 3 * * *"),
        ("retention.keep.last", 9, 1),
        ("retention.keep.daily", 7, 0),
    }
    assert [f["source"] for f in done.document["forget"]] == ["music", "music"]
    assert done.document["keep"] == []
    back = user.run("policy", "plan", str(strict), str(generous), "--json", key="check").document
    assert (len(back["forget"]), len(back["keep"])) == (0, 2)
    assert back["freed_after_hours"] > 0
    text = user.run("policy", "plan", str(generous), str(strict), key="check").out
    assert "the next prune would forget 2 snapshots that the old one keeps" in text
    assert "what is kept: last 9, daily 7, at least 1 becomes last 1, at least 1" in text
    assert "hours later" in text
    moved = user.folder / "moved.yaml"
    moved.write_text(old.read_text().replace("/repo", "/elsewhere"))
    assert (
        "no snapshot of the old one is forgotten" in user.run("policy", "plan", "nightly", str(moved), key="check").out
    )
    assert user.run("policy", "plan", "nightly", "nightly", key="check").out == "nothing changes\n"
    assert user.run("policy", "plan", "nightly", "nobody", key="check").code == 2
    assert user.run("policy", "plan", "nightly", str(strict), key="write").code == 12
