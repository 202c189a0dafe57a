"""Chunks opened by several processes: what comes out is what one process would give, whatever happens to the others."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError
from backupd.jobs import restore as restoring
from backupd.jobs import together
from backupd.jobs.restore import open_content
from backupd.jobs.together import SLOTS, Share
from backupd.repo.reading import ChunkReader, PackCache
from backupd.report import Tally
from backupd.store.folder import FolderStore
from tests.jobs_kit import Kit, damage_packs
from tests.unit.jobs.test_nights import make_customers

LARGEST = 100_000
HERE = Path(__file__).resolve().parents[3]


def piece(n: int) -> bytes:
    """Of another length and content for each number."""
    return bytes([n % 251]) * (n * 37 % 5000 + 1)


def share(count: int, processes: int, read: Callable[[int], bytes] = piece, ahead: int = 1) -> Share[int]:
    def batches() -> Iterator[Sequence[int]]:
        return (range(n, min(n + 16, count)) for n in range(0, count, 16))

    return Share(
        batches, read, lambda n: len(piece(n)), largest=LARGEST, cost=lambda: 0, processes=processes, ahead=ahead
    )


@pytest.mark.parametrize("count", [0, 1, 16, 17, 16 * 3 * (SLOTS + 2) + 5])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("ahead", [1, 2])
def test_all_comes_in_order(count: int, processes: int, ahead: int) -> None:
    """Also what is held while memory is used again."""
    assert list(share(count, processes, ahead=ahead).run()) == [piece(n) for n in range(count)]


def test_the_others_do_their_share() -> None:
    """Of three batches this process opens one, if the other is to be ahead by two."""
    here, done = os.getpid(), 0

    def read(n: int) -> bytes:
        nonlocal done
        done += os.getpid() == here
        return piece(n)

    list(share(16 * 30, 2, read, ahead=2).run())
    assert done == 16 * 10


def test_a_failure_is_told_by_the_process_that_asks() -> None:
    """What another process cannot open is tried here, and fails here; what came before is given."""

    def read(n: int) -> bytes:
        if n == 70:
            raise IntegrityError("packs/70 is damaged", object_name="packs/70")
        return piece(n)

    given: list[bytes] = []
    with pytest.raises(IntegrityError) as caught:
        given.extend(share(200, 2, read).run())
    assert given == [piece(n) for n in range(70)]
    assert caught.value.object_name == "packs/70"


def test_work_of_a_process_that_is_killed_is_done_here() -> None:
    """Nothing is missing, and nothing comes twice."""
    here = os.getpid()

    def read(n: int) -> bytes:
        if os.getpid() != here and n > 100:
            os.kill(os.getpid(), signal.SIGKILL)
        return piece(n)

    assert list(share(500, 3, read).run()) == [piece(n) for n in range(500)]


def test_a_process_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its share is done here."""
    monkeypatch.setattr(together, "LONGEST", 0.3)
    here = os.getpid()

    def read(n: int) -> bytes:
        if os.getpid() != here and n > 40:
            os.kill(os.getpid(), signal.SIGSTOP)
        return piece(n)

    assert list(share(200, 2, read).run()) == [piece(n) for n in range(200)]


def test_without_more_processes_this_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither forks nor descriptors may be had: nothing is different, and nothing stays open."""
    before = sorted(os.listdir("/proc/self/fd"))

    def refused(*_: object) -> NoReturn:
        raise BlockingIOError("no more")

    for name in ("fork", "pipe"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refused)
            assert list(share(100, 3).run()) == [piece(n) for n in range(100)]
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_others_never_do_what_this_process_does_at_its_end() -> None:
    """What asks a whole group of processes to end raises here only: a copy does not go on, nor clean up, where it was made."""
    script = """
import os, signal, sys
from backupd.jobs.processes import forked
def end(*_):
    raise SystemExit(7)
signal.signal(signal.SIGTERM, end)
os.setsid()
here = os.getpid()
real = os.fork
def fork():  # the signal comes at the worst moment: just before there are two
    os.kill(0, signal.SIGTERM)
    pid = real()
    if not pid:
        os.kill(os.getpid(), signal.SIGTERM)
    return pid
os.fork = fork
try:
    forked(lambda: signal.pause())
finally:
    os.write(1, b"here " if os.getpid() == here else b"there ")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (7, b"here ")


def test_who_wants_no_more_leaves_no_process() -> None:
    """The others are ended with the iterator."""
    before = children()
    found = share(100_000, 3).run()
    next(found)
    assert len(children() - before) == 2
    found.close()  # type: ignore[attr-defined]
    assert children() <= before


def children() -> set[str]:
    """Of this thread."""
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def test_a_file_is_opened_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same file, and what was read of the storage is counted; a damaged pack is named."""
    kit = Kit(tmp_path, FolderStore(tmp_path / "repository", create=True))
    kit.backup(make_customers(tmp_path / "customers.db"))
    repo = kit.repo(Role.READ, host="reader")
    view = repo.history().views[-1]
    (root,) = view.structure.streams
    (described,) = open_content(repo, view)["streams"]
    seen = []
    for many, processes in ((10_000, 1), (4, 2), (4, 4)):
        monkeypatch.setattr(restoring, "MANY_CHUNKS", many)
        monkeypatch.setattr(restoring, "usable", lambda count=processes: count)
        cache = PackCache(repo)
        chunks = list(restoring.joined(root, ChunkReader(repo, cache), cache, described["digest"], Tally()))
        seen.append((b"".join(chunks), cache.fetched_bytes >= sum(map(len, chunks)) // 20))
        cache.close()
    assert seen[0] == seen[1] == seen[2]
    (tmp_path / "back.db").write_bytes(seen[1][0])
    with sqlite3.connect(tmp_path / "back.db") as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    damage_packs(tmp_path / "repository")
    cache = PackCache(repo)
    with pytest.raises(IntegrityError, match="packs/"):
        list(restoring.joined(root, ChunkReader(repo, cache), cache, described["digest"], Tally()))
    cache.close()
