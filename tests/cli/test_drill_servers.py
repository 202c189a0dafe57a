"""Drills of server databases: on a server of our own that nobody else can reach, and on one that was named."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.kit import User
from tests.cli.test_servers import CANARY, SHOP, Desk, Maria, Postgres, dropped, user
from tests.servers.postgres import PostgresServer

__all__ = ["user"]
pytestmark = pytest.mark.slow
POLICY = """
policy: nightly
sources: [{{name: shop, url: "{url}"}}]
repository: {{url: "{repository}"}}
keys: {{read: "file:{keys}/read.key"}}
objectives: {{rto: 1h}}
drill:
  every: 7d
  assert:
    - {{sql: "select count(*) from customers", equals: 3}}
    - {{sql: "select max(born) from customers", within: 18000d}}
    - {{sql: "select name from customers where id = 3", equals: "Joanna"}}
"""


@pytest.fixture(params=["postgresql", "mariadb"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    """One server after the other."""
    if request.param == "mariadb":
        return Maria(request.getfixturevalue("mariadb_server"), tmp_path)
    factory: Callable[[int], PostgresServer] = request.getfixturevalue("postgres_servers")
    return Postgres(factory(18))


@pytest.fixture
def shop(desk: Desk, user: User) -> Iterator[str]:
    """A database with a view and a snapshot of it."""
    name = desk.create()
    desk.sql(name, SHOP + "create view longest as select max(seconds) as s from calls;")
    with dropped(desk, name):
        user.back_up(desk.url(name), "--name", "shop", *desk.words())
        (user.folder / "nightly.yaml").write_text(
            POLICY.format(url=desk.url(name), repository=user.repository, keys=user.folder / "keys")
        )
        yield name


def tools(desk: Desk) -> list[str]:
    return ["--tools", str(desk.server.daemon_bin)]


def test_on_a_server_of_our_own(desk: Desk, user: User, shop: str) -> None:
    """Everything is read back, assertions are asked, and no process, file or customer is left anywhere."""
    before = desk.databases()
    scratch = Path("/var/tmp") / f"drill-test-{os.getpid()}"
    scratch.mkdir(mode=0o711)
    scratch.chmod(0o711)
    try:
        done = user.run("drill", "nightly.yaml", *tools(desk), "--scratch", str(scratch), "--json")
        assert done.code == 1, done.out + done.err
        found = done.document
        checks = {check["name"]: check for check in found["checks"]}
        failed = [name for name, check in checks.items() if not check["passed"]]
        assert failed == ["assert: select name from customers where id = 3"]
        assert checks["content"]["detail"].startswith("4 of 4 tables read back")
        assert checks["references"]["detail"] == "every reference leads to a row"
        assert "server of our own" in found["scratch"]
        assert CANARY not in done.out + done.err + Path(found["evidence"]).read_text()
        assert desk.databases() == before
        assert [path for path in scratch.glob("*/*") if path.is_dir()] == []
        assert str(scratch) not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    finally:
        shutil.rmtree(scratch)


def test_on_a_server_that_was_named(desk: Desk, user: User, shop: str) -> None:
    """In a database of its own, which goes; the same by the policy; a server of another kind is refused."""
    before = desk.databases()
    done = user.run("drill", "--into", desk.url("any"), *desk.words(), "--json", key="read")
    assert done.code == 0, done.out + done.err
    assert done.document["scratch"].startswith("a database on ")
    assert desk.databases() == before
    kind = "mariadb" if desk.engine == "postgresql" else "postgresql"
    other = kind + desk.url("x").removeprefix(desk.engine)
    assert user.run("drill", "--into", other, *desk.words(), key="read").code == 20


def test_a_killed_drill_takes_its_server_along(desk: Desk, user: User, shop: str) -> None:
    """The server dies with it; what it had restored, and its database on a named server, go with the next drill."""
    env = user.env(BACKUPCTL_LIMIT_DOWNLOAD="12K")
    before = desk.databases()
    command = [sys.executable, "-m", "backupctl", "drill", "--into", desk.url("any"), *desk.words()]
    command += ["--key", str(user.folder / "keys/read.key")]
    with subprocess.Popen(command, env=env, cwd=user.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as slow:
        for _ in range(600):
            if desk.databases() != before or slow.poll() is not None:
                break
            time.sleep(0.05)
        os.kill(slow.pid, signal.SIGKILL)
    assert desk.databases() != before
    done = user.run("drill", "--into", desk.url("any"), *desk.words(), "--json", key="read")
    assert done.code == 0, done.out + done.err
    assert desk.databases() == before
