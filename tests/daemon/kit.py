"""`backupd` as a service manager would run it: a process of its own, with policies, keys, a state folder and a notify socket."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import apsw

from backupd.catalog.opening import Catalog
from backupd.wiring import open_catalog
from tests.cli.kit import User

_T = TypeVar("_T")
PATIENCE = 60.0
"""For what takes a second on a machine with nothing else to do."""


def until(fact: Callable[[], _T], seconds: float = PATIENCE) -> _T:
    """Wait for something that becomes true."""
    end = time.monotonic() + seconds
    while not (found := fact()) and time.monotonic() < end:
        time.sleep(0.05)
    assert found, "waited in vain"
    return found


@dataclass
class Daemon:
    """A running daemon."""

    process: subprocess.Popen[bytes]
    log: Path
    told: list[str] = field(default_factory=list)
    """What the service manager has heard so far, one entry for each message."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> list[dict[str, Any]]:
        """What it logged so far; each line is a JSON object."""
        return [json.loads(line) for line in self.log.read_bytes().split(b"\n")[:-1]]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until it logged an event so often."""
        end = time.monotonic() + PATIENCE
        while len(found := self.events(event)) < count and time.monotonic() < end:
            assert self.process.poll() is None or found, self.log.read_text()
            time.sleep(0.05)
        assert len(found) >= count, self.log.read_text()
        return found

    @property
    def page(self) -> str:
        return str(self.wait_for("ready")[0]["page"]).rstrip("/")

    def get(self, path: str) -> tuple[int, str]:
        """Ask it."""
        try:
            with urllib.request.urlopen(self.page + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        self.send(number)
        return self.process.wait(PATIENCE)

    def children(self) -> list[int]:
        """The processes that it has begun and that have not ended."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in found]


class Site:
    """A machine with a repository, keys and policies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.policies = folder, folder / "state" / "backupd", folder / "policies.d"
        self.user = User(folder)
        self.policies.mkdir(exist_ok=True)

    def database(self, name: str) -> Path:
        """A small SQLite file."""
        path = self.folder / f"{name}.db"
        db = apsw.Connection(str(path))
        db.execute("create table if not exists t(a integer primary key, b text)")
        db.execute("insert into t(b) values (hex(randomblob(200)))")
        db.close()
        return path

    def write(self, name: str = "crm", sources: tuple[str, ...] = ("one", "two"), **more: Any) -> Path:
        """A policy; JSON is YAML."""
        values: dict[str, Any] = {
            "policy": name,
            "sources": [{"name": source, "url": str(self.database(source))} for source in sources],
            "repository": {"url": str(self.folder / "repo")},
            "keys": {"write": f"file:{self.folder}/keys/write.key", "check": f"file:{self.folder}/keys/check.key"},
            "schedule": {"every": "2s"},
            "retries": {"attempts": 5, "backoff": "1s"},
            **more,
        }
        path = self.policies / f"{name}.yaml"
        path.write_text(json.dumps(values))
        return path

    @contextmanager
    def daemon(self, *arguments: str, name: str = "backupd", **environment: str) -> Iterator[Daemon]:
        """A daemon; one that still runs at the end is killed."""
        address, log = self.folder / f"{name}.notify", self.folder / f"{name}.log"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("ab") as out:
            notify.bind(str(address))
            told: list[str] = []
            listener = threading.Thread(target=_listen, args=(notify, told))
            listener.start()
            words = ["--config", str(self.policies), "--state", str(self.state), "--listen", "127.0.0.1:0", *arguments]
            process = subprocess.Popen(
                [sys.executable, "-m", "backupd", *words],
                env=self.user.env(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="3000000", **environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                yield Daemon(process, log, told)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                    last.sendto(b"", str(address))
                listener.join()

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        """The catalog, beside the daemon."""
        with open_catalog(self.state) as catalog:
            yield catalog

    def done(self, source: str) -> int:
        """How many runs of a source are done."""
        with self.catalog() as catalog:
            return len(catalog.runs.list(source=source, outcomes=["done"], kinds=["run"], limit=1000))

    def snapshots(self) -> list[dict[str, Any]]:
        """What the repository itself holds."""
        found: list[dict[str, Any]] = self.user.run("snapshots", "--json", key="check").document["snapshots"]
        return found


def _listen(notify: socket.socket, told: list[str]) -> None:
    """As a service manager does: at once, so that nothing is lost. An empty message ends it."""
    while message := notify.recv(65536):
        told.append(message.decode())


def copy_of(template: Path, folder: Path) -> Site:
    """A site of its own, with the keys and the empty repository of a template: making keys takes a second."""
    shutil.copytree(template, folder, dirs_exist_ok=True)
    return Site(folder)
