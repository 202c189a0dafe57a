"""One catalog, many processes: daemon, children and command lines write at once, and nothing is lost or doubled."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.wiring import open_catalog
from tests.catalogs import server_url
from tests.servers.postgres import PostgresServer

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
COUNT, WRITERS = 25, 3


@pytest.mark.parametrize("kind", ["file", "server"])
def test_writers_in_processes_do_not_lose_or_double_anything(
    kind: str, tmp_path: Path, postgres_servers: Callable[[int], PostgresServer]
) -> None:
    """The audit stays one chain, an alert is opened once, a key is taken once; a reader meanwhile always gets an answer."""
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    if kind == "server":
        server = postgres_servers(18)
        url = server_url(server, server.create_database())
    with open_catalog(tmp_path, url) as catalog:
        words = [[sys.executable, "-m", "tests.queue_child", url, "write", f"w{n}", str(COUNT)] for n in range(WRITERS)]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in words]
        looks = 0
        while any(child.poll() is None for child in children):
            assert catalog.audit.verify() is None
            assert len(catalog.alerts.list_open()) <= 1
            looks += 1
            time.sleep(0.05)
        assert [child.communicate()[0] for child in children] == ["done\n"] * WRITERS
        assert looks > 1
        head = catalog.audit.head()
        assert head is not None
        assert head.n == COUNT * WRITERS
        assert len(catalog.runs.list(limit=1000)) == COUNT * WRITERS
        assert len(catalog.alerts.list()) == 1
        assert len(catalog.outbox.list(limit=1000)) == COUNT
        assert set(catalog.heartbeats.all()) == {f"w{n}" for n in range(WRITERS)}


def test_threads_share_one_catalog(tmp_path: Path) -> None:
    """More threads than connections are kept: each gets one."""
    with open_catalog(tmp_path) as catalog:
        with ThreadPoolExecutor(12) as pool:
            entries = list(pool.map(lambda n: catalog.audit.append("t", "run", str(n), NOW).n, range(120)))
        assert sorted(entries) == list(range(1, 121))
        assert catalog.audit.verify() is None


def test_a_writer_killed_in_the_middle_leaves_no_half_entry(tmp_path: Path) -> None:
    """kill -9 of a process that writes: the chain is whole, and the next one goes on."""
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    with open_catalog(tmp_path) as catalog:
        child = subprocess.Popen([sys.executable, "-m", "tests.queue_child", url, "write", "w", "100000"])
        while catalog.audit.head() is None or len(catalog.runs.list()) < 20:
            assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert catalog.audit.verify() is None
        head = catalog.audit.head()
        assert head is not None
        assert catalog.audit.append("me", "run", "x", NOW).n == head.n + 1
        assert catalog.audit.verify() is None
