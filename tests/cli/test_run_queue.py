"""`run --queue`: refused where nobody would run it, and run by a real daemon where there is one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.wiring import open_catalog
from tests.cli.kit import CHINOOK, User

POLICY = """\
policy: nightly
sources:
  - {{name: music, url: "sqlite:///{folder}/music.db"}}
  - {{name: gone, url: "sqlite:///{folder}/gone.db"}}
repository: {{url: "file://{folder}/repo"}}
keys: {{write: "file:{folder}/keys/write.key"}}
retries: {{attempts: 1}}
schedule: {{cron: "30 2 1 1 *", max_duration: 10m}}
"""


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with a policy of two sources, of which one is not there."""
    user = User(tmp_path)
    user.init()
    shutil.copy(CHINOOK, tmp_path / "music.db")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/nightly.yaml").write_text(POLICY.format(folder=tmp_path))
    user.environment = {"BACKUPCTL_CONFIG": str(tmp_path / "policies"), "BACKUPCTL_REPOSITORY": ""}
    return user


@contextmanager
def daemon(user: User) -> Iterator[None]:
    """A daemon at work for this user."""
    words = ["--config", str(user.folder / "policies"), "--role", "scheduler", "--role", "worker", "--drain", "0"]
    with (user.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "backupd", *words], env=user.env(), cwd=user.folder, stdout=log, stderr=log
        )
    try:
        while not _beats(user):
            assert process.poll() is None, (user.folder / "log").read_text()
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _beats(user: User) -> bool:
    place = user.folder / "state/backupd"
    if not (place / "catalog.sqlite").exists():
        return False
    with open_catalog(place) as catalog:
        return bool(catalog.heartbeats.all())


def test_a_daemon_runs_it_and_its_end_is_the_commands_end(user: User) -> None:
    """The snapshot is there, a failure keeps its code, and without --wait the jobs' numbers are told at once."""
    with daemon(user):
        done = user.run("run", "nightly", "music", "--queue", "--wait", "--json")
        assert done.code == 0, done.err + (user.folder / "log").read_text()
        (job,) = done.document["jobs"]
        assert (job["outcome"], job["source"], job["attempts"], job["rows"] > 0) == ("done", "music", 1, True)
        assert "queued" in done.err or "running" in done.err
        failed = user.run("run", "nightly", "--queue", "--wait", "--json")
        assert failed.code == 14, failed.out
        assert [one["outcome"] for one in failed.document["jobs"]] == ["done", "failed"]
        assert (failed.document["ok"], failed.document["error"]["code"]) == (False, "unreachable")
        queued = user.run("run", "nightly", "--queue", "--json").document["queued"]
        assert [one["source"] for one in queued] == ["music", "gone"]
    listed = user.run("snapshots", "--json", key="check", env=user.env(BACKUPCTL_REPOSITORY=str(user.folder / "repo")))
    assert job["snapshot"] in [one["id"] for one in listed.document["snapshots"]]


def test_without_a_daemon_nothing_is_queued(user: User) -> None:
    """Neither where there never was one, nor where it was not heard of lately; --yes queues it all the same."""
    never = user.run("run", "nightly", "--queue", "--json")
    assert (never.code, never.document["error"]["code"]) == (75, "try_again")
    place = user.folder / "state/backupd"
    assert not (place / "catalog.sqlite").exists()
    with open_catalog(place) as catalog:
        catalog.heartbeats.beat("host:1", datetime(2020, 1, 1, tzinfo=UTC))
    assert user.run("run", "nightly", "--queue").code == 75
    assert user.run("run", "nightly", "music", "--queue", "--yes", "--dry-run").out == "would queue a run of music\n"
    with open_catalog(place) as catalog:
        assert not catalog.queue.list()
    said = user.run("run", "nightly", "music", "--queue", "--yes").out
    with open_catalog(place) as catalog:
        (job,) = catalog.queue.list()
    assert said == f"job {job.id}: a run of music\n"
    assert (job.spec.kind, job.spec.policy, job.spec.source, job.spec.max_attempts) == ("run", "nightly", "music", 1)
    assert job.spec.lock == f"run:file://{user.folder}/repo:music"
    assert job.spec.max_seconds == 600


def test_what_a_daemon_would_not_hear_of_is_refused(user: User) -> None:
    """Options of this command alone, and runs without a policy."""
    for words in (
        ("nightly", "--queue", "--hold", "audit"),
        ("nightly", "--queue", "--tag", "x"),
        ("nightly", "--wait"),
        ("--source", "music.db", "--queue"),
    ):
        done = user.run("run", *words, "--json")
        assert done.code == 2, done.out
        assert json.loads(done.out)["error"]["code"] == "usage"
    for words in (("nightly", "--queue", "--yes"), ("nightly", "--queue", "--into", "mariadb://u@h/d"), ("--queue",)):
        done = user.run("drill", *words, "--json")
        assert (done.code, done.document["error"]["code"]) == (2, "usage"), (
            "no drill is promised, and none of another kind"
        )
    env = user.env(BACKUPCTL_HOLD="audit")
    assert user.run("run", "nightly", "--queue", env=env).code == 2
    assert os.listdir(user.folder / "repo/snapshots") == [] if (user.folder / "repo/snapshots").exists() else True
