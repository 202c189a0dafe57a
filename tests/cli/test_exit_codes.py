"""One test for each exit code of the enum, each in a process of its own."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.errors import Exit
from backupd.repo.ledger import state_lock
from tests.cli.kit import CHINOOK, Ran, User
from tests.servers import scripted_s3

POLICY = """\
policy: nightly
sources: [{{name: never, url: "sqlite:///{folder}/never.db"}}]
repository: {{url: "file://{folder}/repo"}}
keys: {{check: "file:{folder}/keys/check.key"}}
objectives: {{rpo: 2h}}
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a repository and one snapshot; no test changes what the others need."""
    user = User(tmp_path_factory.mktemp("user"))
    user.init()
    user.back_up()
    return user


def done(user: User) -> Ran:
    return user.run("snapshots", key="check")


def failed(user: User) -> Ran:
    return user.run("show", "ffffffff", key="check")


def usage(user: User) -> Ran:
    return user.run("run", "--nonsense")


def incomplete(user: User) -> Ran:
    short = user.folder / "short.db"
    short.write_bytes(CHINOOK.read_bytes()[:100_000])
    return user.run("run", "--source", str(short), key="write")


def integrity(user: User) -> Ran:
    pack = max(Path(user.repository).glob("packs/*/*"))
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        return user.run("verify", "--dry-run", key="check")
    finally:
        pack.write_bytes(whole)


def objective_missed(user: User) -> Ran:
    (user.folder / "nightly.yaml").write_text(POLICY.format(folder=user.folder))
    return user.run("status", "--config", str(user.folder / "nightly.yaml"))


def no_repository(user: User) -> Ran:
    return user.run("snapshots", "--repository", "nowhere", key="check")


def busy(user: User) -> Ran:
    (state,) = (user.folder / "state/backupd").iterdir()
    with state_lock(state, "prune"):
        return user.run("prune", "--keep-last", "1", key="prune")


def wrong_key(user: User) -> Ran:
    return user.run("run", "--source", str(CHINOOK), key="check")


def storage_refused(user: User) -> Ran:
    with scripted_s3.running() as server:
        server.script = [scripted_s3.error("AccessDenied", 403)] * 50
        secrets = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_CONFIG_FILE": os.devnull}
        place = f"s3://bucket/x?endpoint={server.endpoint}&region=us-east-1"
        return user.run("snapshots", "--repository", place, key="check", env=user.env(**secrets))


def unreachable(user: User) -> Ran:
    return user.run("run", "--source", "missing.db", key="write")


def safety(user: User) -> Ran:
    (user.folder / "there.db").write_text("precious")
    return user.run("restore", "latest", "there.db", key="read")


def try_again(user: User) -> Ran:
    db = sqlite3.connect(user.folder / "locked.db", isolation_level=None)
    db.execute("create table t(a)")
    db.execute("begin exclusive")
    try:
        return user.run("run", "--source", "locked.db", "--lock-timeout", "0.2", key="write")
    finally:
        db.close()


def ended_by(user: User, number: signal.Signals) -> Ran:
    """A command that waits for the passphrase from a pipe, and is told to end once it does."""
    pipe = user.folder / f"pipe-{int(number)}"
    os.mkfifo(pipe)
    child = subprocess.Popen(
        [sys.executable, "-m", "backupctl", "snapshots", "--key", "keys/read.key", "--passphrase-file", str(pipe)],
        cwd=user.folder,
        env=user.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    writing = os.open(pipe, os.O_WRONLY)  # returns when the other end is opened
    try:
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
        return Ran(child.returncode, out, err)
    finally:
        os.close(writing)
        child.kill()


def interrupted(user: User) -> Ran:
    return ended_by(user, signal.SIGINT)


def terminated(user: User) -> Ran:
    return ended_by(user, signal.SIGTERM)


CASES: dict[Exit, Callable[[User], Ran]] = {
    Exit.DONE: done,
    Exit.FAILED: failed,
    Exit.USAGE: usage,
    Exit.INCOMPLETE: incomplete,
    Exit.INTEGRITY: integrity,
    Exit.OBJECTIVE_MISSED: objective_missed,
    Exit.NO_REPOSITORY: no_repository,
    Exit.BUSY: busy,
    Exit.WRONG_KEY: wrong_key,
    Exit.STORAGE_REFUSED: storage_refused,
    Exit.UNREACHABLE: unreachable,
    Exit.SAFETY: safety,
    Exit.TRY_AGAIN: try_again,
    Exit.INTERRUPTED: interrupted,
    Exit.TERMINATED: terminated,
}


@pytest.mark.parametrize("code", list(Exit), ids=lambda code: str(int(code)))
def test_exit_code(user: User, code: Exit) -> None:
    """A command that ends so ends with this number, and without a traceback."""
    ran = CASES[code](user)
    assert ran.code == int(code), ran.out + ran.err
    assert "Traceback" not in ran.err
