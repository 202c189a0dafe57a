"""`backupctl drill` as a user runs it: proven by doing it, told in a signed report, and nothing left lying about."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backupctl.commands.drill import _allowed
from backupctl.scratch import Wanted, clear_leftovers, scratch_place
from backupd.config.urls import parse_database
from backupd.errors import Failed
from backupd.policy.model import Drill
from backupd.report import Tally
from backupd.wiring import ServerOptions
from tests.cli.kit import CHINOOK, User
from tests.jobs_kit import damage_packs

POLICY = """
policy: shop-nightly
sources:
  - {{name: shop, url: "sqlite:///{folder}/shop.db"}}
  - {{name: stock, url: "sqlite:///{folder}/stock.db"}}
repository: {{url: "{repository}"}}
keys: {{write: "file:{folder}/keys/write.key", read: "file:{folder}/keys/read.key"}}
schedule: {{cron: "30 2 * * *"}}
objectives: {{rpo: 24h, rto: 1h}}
retention: {{keep: {{daily: 7}}}}
drill:
  every: 7d
  assert:
    - {{sql: "select count(*) from Customer", min: 50, max_drop: 5%, source: shop}}
    - {{sql: "select max(InvoiceDate) from Invoice", equals: "2025-12-22 00:00:00", source: shop}}
    - {{sql: "select count(*) from items", equals: 3, source: stock}}
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a policy of two sources; of one there is a snapshot, and a customer of it was erased since."""
    user = User(tmp_path_factory.mktemp("drill"))
    user.init()
    (user.folder / "shop.db").write_bytes(CHINOOK.read_bytes())
    db = sqlite3.connect(user.folder / "stock.db")
    db.executescript("create table items (id integer primary key); insert into items values (1), (2), (3)")
    db.close()
    text = POLICY.format(folder=user.folder, repository=user.repository)
    (user.folder / "shop.yaml").write_text(text)
    taken = user.run("run", "shop.yaml", "shop", "--json")
    assert taken.code == 0, taken.err
    assert user.run("erase", "add", "Customer:5", "--reason", "request", key="read").code == 0
    return user


def drills(user: User) -> list[Path]:
    """What scratch places are there."""
    return [path for path in user.folder.glob("state/backupd/*/backupd-drills/*") if path.is_dir()]


def test_one_source_passes(user: User) -> None:
    """Every check by name, a report that can be checked without the repository, and the snapshot counts as proven."""
    done = user.run("drill", "shop.yaml", "shop", "--json")
    assert done.code == 0, done.out
    found = done.document
    assert (found["schema"], found["ok"], found["passed"]) == ("backupctl/drill/1", True, True)
    assert (found["source"], found["policy"], found["scratch"]) == ("shop", "shop-nightly", "a private file")
    names = [check["name"] for check in found["checks"]]
    assert names[:4] == ["restore", "content", "erasures", "references"]
    assert names[4:6] == [
        "assert: select count(*) from Customer",
        "assert: select max(InvoiceDate) from Invoice",
    ]
    assert names[6:] == ["rto"]
    assert all(check["passed"] for check in found["checks"])
    assert found["erased"] == 46
    assert 0 < found["restore_seconds"] < found["seconds"]
    assert drills(user) == []

    report = Path(found["evidence"])
    assert report.stat().st_mode & 0o777 == 0o600
    statement = json.loads(report.read_text())["statement"]
    assert (statement["snapshot"], statement["erased"], statement["passed"]) == (found["snapshot"], 46, True)
    checked = user.run("drill", "--verify", str(report), "--json", key="write", env=without_repository(user))
    assert (checked.code, checked.document["snapshot"]) == (0, found["snapshot"])
    forged = user.folder / "forged.json"
    forged.write_text(report.read_text().replace('"erased": 46', '"erased": 0'))
    assert user.run("drill", "--verify", str(forged), key="write").code == 4

    (snapshot,) = user.run("snapshots", "--json", key="read").document["snapshots"]
    assert snapshot["id"] == found["snapshot"]
    history = user.run("audit", "show", "--json", key="read").document["entries"]
    assert [e["action"] for e in history if e["role"] == "read"][-3:] == ["drill-begun", "drill", "evidence"]


def without_repository(user: User) -> dict[str, str]:
    """An environment that does not say where it is."""
    return user.env() | {"BACKUPCTL_REPOSITORY": ""}


def test_a_policy_whose_sources_do_not_all_pass(user: User) -> None:
    """One has no snapshot; the other is proven all the same, and the exit code tells."""
    done = user.run("drill", "shop.yaml", "--json")
    assert done.code == 1
    shop, stock = done.document["drills"]
    assert (shop["passed"], done.document["passed"]) == (True, False)
    assert "no snapshot" in stock["error"]["message"]
    said = user.run("drill", "shop.yaml")
    assert said.code == 1
    assert "drill of shop" in said.out
    assert "1 of 2 sources failed" in said.err


def test_what_a_policy_promised_is_missed(user: User) -> None:
    """An assertion that does not hold is exit 1; too slow alone is 5; both leave evidence that proves nothing."""
    text = (user.folder / "shop.yaml").read_text()
    (user.folder / "wrong.yaml").write_text(text.replace("min: 50", "min: 5000").replace("shop-nightly", "wrong"))
    wrong = user.run("drill", "wrong.yaml", "shop", "--json")
    assert (wrong.code, wrong.document["passed"], wrong.document["ok"]) == (1, False, False)
    assert "at least 5,000 wanted" in wrong.document["error"]["message"]
    assert Path(wrong.document["evidence"]).exists()
    (user.folder / "slow.yaml").write_text(text.replace("rto: 1h", "rto: 1s").replace("shop-nightly", "slow"))
    slow = user.run("drill", "slow.yaml", "shop", "--json", env=user.env(BACKUPCTL_LIMIT_DOWNLOAD="200K"))
    assert (slow.code, slow.document["error"]["code"]) == (5, "objective_missed")
    assert drills(user) == []


def test_of_what_a_policy_lets_in_an_engine_hears_what_it_knows() -> None:
    """A policy may have sources of several."""
    drill = Drill.model_validate({"every": "7d", "allow": ["extension", "definer"]})
    found = {engine: _allowed(drill, engine) for engine in ("postgresql", "mariadb", "mysql")}
    assert found == {"postgresql": {"extension"}, "mariadb": {"definer"}, "mysql": {"definer"}}
    assert _allowed(drill.model_copy(update={"allow": ("all",)}), "mariadb") == {"all"}


def test_without_a_policy(user: User) -> None:
    """The newest snapshot there is, or one by its name; --dry-run says which, and does nothing."""
    before = user.run("audit", "show", "--json", key="read").document["entries"]
    nowhere = user.env(BACKUPCTL_SCRATCH=str(user.folder / "nowhere"))
    would = user.run("drill", "--dry-run", "--json", key="read", env=nowhere).document
    assert (would["source"], would["dry_run"]) == ("shop", True)
    assert not (user.folder / "nowhere").exists()
    assert user.run("audit", "show", "--json", key="read").document["entries"] == before
    done = user.run("drill", "--snapshot", would["snapshot"][:12], "--out", "reports", "--json", key="recovery")
    assert (done.code, done.document["policy"]) == (0, None)
    assert done.document["record"].startswith("records/recovery/")
    assert Path(done.document["evidence"]).parent == user.folder / "reports"


def test_mistakes(user: User) -> None:
    """No read right is 12; what is no server cannot be one, nor can a file hold reports: that is told before the drill."""
    before = user.run("audit", "show", "--json", key="read").document["entries"]
    refused = user.run("drill", "--out", "shop.db", key="read")
    assert (refused.code, "shop.db" in refused.err) == (1, True)
    assert user.run("audit", "show", "--json", key="read").document["entries"] == before
    assert user.run("drill", key="write").code == 12
    assert user.run("drill", "shop.yaml", "nothing").code == 2
    assert user.run("drill", "--into", "x.db", key="read").code == 2


def test_a_killed_drill_leaves_nothing_for_long(user: User, tmp_path: Path) -> None:
    """What it had restored is removed by the next one; one that is still at work is left alone, and what is somebody else's."""
    foreign = tmp_path / "scratch/0123456789abcdef/precious"
    foreign.mkdir(parents=True)
    scratch = tmp_path / "scratch/backupd-drills"
    env = user.env(BACKUPCTL_LIMIT_DOWNLOAD="20K", BACKUPCTL_SCRATCH=str(tmp_path / "scratch"))
    command = [sys.executable, "-m", "backupctl", "drill", "--key", str(user.folder / "keys/read.key")]
    with subprocess.Popen(command, env=env, cwd=user.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as slow:
        for _ in range(600):
            if list(scratch.glob("*/lock")):
                break
            time.sleep(0.05)
        (mine,) = [path for path in scratch.iterdir() if path.is_dir()]
        quick = user.env(BACKUPCTL_SCRATCH=str(tmp_path / "scratch"))
        assert user.run("drill", key="read", env=quick).code == 0
        assert mine.is_dir()
        os.kill(slow.pid, signal.SIGKILL)
    assert mine.is_dir()
    assert user.run("drill", key="read", env=quick).code == 0
    assert [path for path in scratch.iterdir() if path.is_dir()] == []
    assert foreign.is_dir()


def test_a_terminal_that_goes_takes_the_drill_along(user: User, tmp_path: Path) -> None:
    """SIGHUP ends it as SIGTERM does: nothing that was restored stays, and the next source is not begun."""
    env = user.env(BACKUPCTL_LIMIT_DOWNLOAD="100K", BACKUPCTL_SCRATCH=str(tmp_path))
    command = [sys.executable, "-m", "backupctl", "drill", "shop.yaml"]
    # whoever runs the tests may ignore it, and what is ignored stays so in a child
    with subprocess.Popen(
        command,
        env=env,
        cwd=user.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as slow:
        for _ in range(600):
            if any(path.name != "lock" for path in tmp_path.glob("*/*/*")):
                break
            time.sleep(0.05)
        os.kill(slow.pid, signal.SIGHUP)
        assert slow.stderr is not None
        said = slow.stderr.read()
        assert (b"terminated by SIGHUP" in said, b"stock" in said) == (True, False)
    assert slow.returncode == 143
    assert [path.name for path in tmp_path.glob("*/*")] == ["lock"]


def test_a_database_that_could_not_be_dropped_is_not_forgotten(user: User, tmp_path: Path) -> None:
    """The server is gone when the drill ends: that is told, and as long as it is, every drill on it tries again."""
    wanted = Wanted(tmp_path, ServerOptions(), 1.0, parse_database("postgresql://drill@127.0.0.1:1/postgres"))
    view: Any = None
    report = Tally()
    with (
        pytest.raises(Failed, match=r"backupd_drill_[0-9a-f]{16} may still hold"),
        scratch_place({"engine": "postgresql"}, view, wanted, report) as place,
    ):
        assert place.what == "a database on 127.0.0.1"
    with pytest.raises(ZeroDivisionError), scratch_place({"engine": "postgresql"}, view, wanted, report):
        raise ZeroDivisionError
    assert len(report.warnings) == 1
    made = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert [[file.name for file in folder.iterdir() if file.name != "lock"] for folder in made] == [
        ["database.json"]
    ] * 2
    clear_leftovers(wanted, report)
    assert len(report.warnings) == 3
    assert all(folder.is_dir() for folder in made)


def test_damage_is_found(user: User, tmp_path: Path) -> None:
    """Exit 4 names it, the evidence says that it did not pass, and nothing half restored is left."""
    for pack in (Path(user.repository) / "packs").rglob("*"):
        if pack.is_file():
            (tmp_path / pack.name).write_bytes(pack.read_bytes())
    damage_packs(Path(user.repository))
    try:
        done = user.run("drill", "shop.yaml", "shop", "--json")
    finally:
        for pack in (Path(user.repository) / "packs").rglob("*"):
            if pack.is_file():
                pack.write_bytes((tmp_path / pack.name).read_bytes())
    assert (done.code, done.document["passed"]) == (4, False)
    assert done.document["error"]["object"].startswith("packs/")
    (check,) = done.document["checks"]
    assert (check["name"], check["passed"]) == ("restore", False)
    assert drills(user) == []
    said: dict[str, Any] = json.loads(Path(done.document["evidence"]).read_text())["statement"]
    assert (said["passed"], said["restore_seconds"]) == (False, None)
