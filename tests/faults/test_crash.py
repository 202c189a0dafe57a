"""Crashes: a run that dies at any of its writes leaves earlier snapshots whole, and itself all or nothing."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role, encode_key, write_key_file
from backupd.errors import Busy, Failed, TryAgain
from backupd.jobs.verify import Level
from backupd.repo.localindex import LocalIndex
from backupd.store.base import ObjectExists, ObjectStore, StoreUnavailable
from backupd.store.folder import FolderStore
from tests.doubles import Crash, CrashingStore, Data, NoCreateOnlyStore, RecordingStore, Wrapper
from tests.jobs_kit import (
    Kit,
    LosingStore,
    change_database,
    contents,
    copy_host,
    make_database,
    names,
    store_of,
)
from tests.stores import utc_now

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Story:
    """A kind of run: how large, how many snapshots are there before it, and how small packs are."""

    chunks: int
    before: int
    pack_bytes: int = 200_000


STORIES = {
    "first": Story(6, 0),
    "second": Story(6, 1),
    "third": Story(6, 2),
    "packs": Story(12, 1, 70_000),
    "lists": Story(70, 1, 1_000_000),
}
LONG_STORIES = {"segments": Story(140, 0, 1), "segments again": Story(140, 1, 1)}


def _set_up(tmp_path: Path, story: Story) -> tuple[Kit, Path, dict[str, bytes]]:
    """A kit with the story's earlier snapshots, the source as the run finds it, and what the snapshots hold."""
    kit = Kit(tmp_path, pack_bytes=story.pack_bytes)
    source = make_database(tmp_path / "bank.db", chunks=story.chunks)
    held = {}
    for n in range(story.before):
        held[kit.backup(source).snapshot] = source.read_bytes()
        # a large change, so that the run under test writes about as much as the first one
        change_database(source, n + 2, rows=story.chunks * 7)
    return kit, source, held


def _all_is_well(kit: Kit, source: Path, held: dict[str, bytes], host: str = "writer") -> None:
    """What must hold after any crash: the earlier ones are whole, and the next run makes everything right."""
    history = kit.history()
    assert history.problems == []
    fresh = {v.id for v in history.views} - held.keys()
    assert len(fresh) <= 1
    held = held | dict.fromkeys(fresh, source.read_bytes())
    found = kit.verify(Level.CONTENT, host=f"{host}-checker")
    assert (found.problems, found.snapshots) == ([], len(held))
    kit.assert_restores(held)
    held[kit.backup(source, host=host).snapshot] = source.read_bytes()
    found = kit.verify(Level.CONTENT, host=f"{host}-checker")
    assert (found.problems, found.snapshots) == ([], len(held))
    kit.assert_restores(held)


def _crash_everywhere(tmp_path: Path, story: Story, step: int = 1) -> None:
    kit, source, held = _set_up(tmp_path, story)
    start = contents(kit.store)
    counting = RecordingStore(store_of(start))
    copy_host(kit, "writer", "count")
    kit.backup(source, store=counting, host="count")
    writes = counting.count("put")
    assert writes >= 4
    late = {1, 2, writes - 2, writes - 1, writes}
    for when in ("before_write", "after_write"):
        for n in sorted(late | set(range(1, writes + 1, step))):
            kit.store = store_of(start)
            host = f"{when}-{n}"
            copy_host(kit, "writer", host)
            with pytest.raises(Crash):
                kit.backup(source, store=CrashingStore(kit.store, **{when: n}), host=host)
            visible = len(names(kit.store, "snapshots/")) > story.before
            assert visible == (when == "after_write" and n == writes)
            _all_is_well(kit, source, held, host)


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(s, id=name, marks=() if name in {"first", "second"} else pytest.mark.slow)
        for name, s in STORIES.items()
    ],
)
def test_crash_at_every_write(tmp_path: Path, story: Story) -> None:
    """A crash before or after any write leaves the earlier snapshots whole and the new one all or nothing (E38)."""
    _crash_everywhere(tmp_path, story, 3 if story.chunks > 20 else 1)


@pytest.mark.slow
@pytest.mark.parametrize("story", LONG_STORIES.values(), ids=LONG_STORIES.keys())
def test_crash_in_a_run_with_several_index_segments(tmp_path: Path, story: Story) -> None:
    """The same holds for runs that write their index in several segments (E38)."""
    _crash_everywhere(tmp_path, story, 9)


@pytest.mark.parametrize("when", ["before_write", "after_write"])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_crashed_run_and_a_lost_cache(tmp_path: Path, when: str, n: int) -> None:
    """A host that loses its cache and its state with the crash goes on all the same (E38)."""
    kit, source, held = _set_up(tmp_path, STORIES["second"])
    with pytest.raises(Crash):
        kit.backup(source, store=CrashingStore(kit.store, **{when: n}))
    _all_is_well(kit, source, held, "new-host")


def test_crashes_in_a_row(tmp_path: Path) -> None:
    """Runs that crash one after the other, each one write later, add up to no harm (E38)."""
    kit, source, held = _set_up(tmp_path, STORIES["packs"])
    for n in range(1, 12):
        with pytest.raises(Crash):
            kit.backup(source, store=CrashingStore(kit.store, before_write=min(n, 3)))
    _all_is_well(kit, source, held)


# ---- lost answers


PREFIXES = ["sessions/", "packs/", "index/", "snapshots/"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_lost_answer_ends_the_run_and_harms_nothing(tmp_path: Path, prefix: str) -> None:
    """A write took effect and its answer was lost for good: the run fails, nothing is reported, all is whole (E42)."""
    kit, source, held = _set_up(tmp_path, STORIES["second"])
    with pytest.raises(TryAgain):
        kit.backup(source, store=LosingStore(kit.store, lambda name: name.startswith(prefix)))
    _all_is_well(kit, source, held)


class RetryingStore(Wrapper):
    """Tries a write again as `ObjectStore.put` says: an object that equals the data is success."""

    def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
        for _ in range(3):
            try:
                return self.inner.put(name, data, create_only=create_only)
            except StoreUnavailable:
                continue
            except ObjectExists:
                if self.inner.get(name) != bytes(data):
                    raise
                return utc_now()
        raise AssertionError("never")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_lost_answer_is_made_good_by_a_retry(tmp_path: Path, prefix: str) -> None:
    """A lost answer, then a retry that meets its own object: the run succeeds once, with one snapshot (E42)."""
    kit, source, held = _set_up(tmp_path, STORIES["second"])
    losing = LosingStore(kit.store, lambda name: name.startswith(prefix))
    done = kit.backup(source, store=RetryingStore(losing))
    assert losing.left == 0
    held[done.snapshot] = source.read_bytes()
    assert {v.id for v in kit.history().views} == held.keys()
    _all_is_well(kit, source, held)


def test_a_number_taken_by_another_run_is_no_success(tmp_path: Path) -> None:
    """The number of the snapshot was taken by another run: the loser takes the next one (E42)."""
    kit, source, _ = _set_up(tmp_path, STORIES["second"])
    other = make_database(tmp_path / "other.db", seed=9)
    raced = []

    class Racing(Wrapper):
        def put(self, name: str, data: Data, *, create_only: bool = True) -> datetime:
            if name.startswith("snapshots/") and not raced:
                raced.append(kit.backup(other, host="other-host").seq)
            return self.inner.put(name, data, create_only=create_only)

    done = kit.backup(source, store=Racing(kit.store))
    assert (raced, done.seq) == ([2], 3)
    assert kit.verify(Level.CONTENT).problems == []
    chain = sorted(kit.history().views, key=lambda v: v.object.seq)
    assert [v.structure.previous for v in chain[1:]] == [v.object.id for v in chain[:-1]]


# ---- runs of one writer that end together


def _together(kit: Kit, sources: list[Path], hosts: list[str], store: ObjectStore) -> dict[str, bytes]:
    """Run backups at once; returns what their snapshots hold."""
    held: dict[str, bytes] = {}
    errors: list[BaseException] = []
    start = threading.Barrier(len(sources))

    def run(source: Path, host: str) -> None:
        try:
            start.wait()
            held[kit.backup(source, store=store, host=host).snapshot] = source.read_bytes()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(sources, hosts, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return held


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("place", ["one host", "many hosts", "one host, no create-only"])
def test_runs_of_one_writer_at_once(tmp_path: Path, count: int, place: str) -> None:
    """Runs of one writer that end together all succeed, on one machine or on several with one key (E40)."""
    loose = "no create-only" in place
    kit = Kit(tmp_path, create_only=not loose)
    store: ObjectStore = NoCreateOnlyStore(kit.store) if loose else kit.store
    sources = [make_database(tmp_path / f"db{n}.db", chunks=4, seed=n // 2) for n in range(count)]
    hosts = [f"host{n}" if place == "many hosts" else "host" for n in range(count)]
    held = _together(kit, sources, hosts, store)
    for n, source in enumerate(sources):
        change_database(source, n)
    held |= _together(kit, sources, hosts, store)
    assert len(held) == 2 * count
    assert sorted(v.object.seq for v in kit.history().views) == list(range(1, 2 * count + 1))
    assert kit.verify(Level.CONTENT).problems == []
    kit.assert_restores(held)


def test_an_index_in_use_is_never_thrown_away(tmp_path: Path) -> None:
    """A local index that another run is making just now is waited for or refused, never deleted under it (E40)."""
    path = tmp_path / "index.sqlite"
    LocalIndex(path, bytes(32)).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    before = path.stat().st_ino
    with suppress(Busy, Failed):
        LocalIndex(path, bytes(32)).close()
    assert path.stat().st_ino == before
    other.execute("commit")
    other.close()


def test_crash_while_another_run_of_the_writer_goes_on(tmp_path: Path) -> None:
    """One of two runs at once crashes: the other one succeeds (E38, E40)."""
    kit = Kit(tmp_path)
    one, two = make_database(tmp_path / "one.db"), make_database(tmp_path / "two.db", seed=2)
    crashed = threading.Event()

    def crash() -> None:
        try:
            kit.backup(one, store=CrashingStore(kit.store, before_write=4))
        except Crash:
            crashed.set()

    thread = threading.Thread(target=crash)
    thread.start()
    done = kit.backup(two)
    thread.join()
    assert crashed.is_set()
    _all_is_well(kit, two, {done.snapshot: two.read_bytes()})


# ---- processes


def _folder_kit(tmp_path: Path, *, loose: bool = False) -> Kit:
    """A kit whose repository is a folder, and whose write key is a file."""
    kit = Kit(tmp_path, FolderStore(tmp_path / "repository", create=True), create_only=not loose)
    key = kit.keys[Role.WRITE]
    write_key_file(tmp_path / "write.key", encode_key(key.header, key.secrets, None))
    return kit


def _process(tmp_path: Path, source: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.jobs_kit",
            "run",
            tmp_path,
            tmp_path / "repository",
            tmp_path / "host",
            source,
            *words,
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("loose", [False, True], ids=["create-only", "no create-only"])
def test_processes_of_one_writer_at_once(tmp_path: Path, loose: bool) -> None:
    """Eight processes of one writer on one machine all succeed, also where the store overwrites (E40)."""
    kit = _folder_kit(tmp_path, loose=loose)
    sources = [make_database(tmp_path / f"db{n}.db", chunks=4, seed=n // 2) for n in range(8)]
    processes = [_process(tmp_path, source, *(["loose"] if loose else [])) for source in sources]
    held = {}
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process, source in zip(processes, sources, strict=True):
        said, _ = process.communicate()
        assert process.returncode == 0
        held[said.strip()] = source.read_bytes()
    assert {v.id for v in kit.history().views} == held.keys()
    assert kit.verify(Level.CONTENT).problems == []
    kit.assert_restores(held)


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """Runs of `backupctl` killed by SIGKILL at any moment: what was there stays whole, the next run succeeds (E38)."""
    kit = _folder_kit(tmp_path)
    source = make_database(tmp_path / "bank.db", chunks=200)
    command = [
        *(sys.executable, "-m", "backupctl", "run", "--quiet", "--source", source, "--key", tmp_path / "write.key"),
        *("--repository", tmp_path / "repository", "--state", tmp_path / "state"),
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT / "cli")}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (first,) = (v.id for v in kit.history().views)
    held = {first: source.read_bytes()}
    noise = random.Random(38)
    interrupted = 0
    for n in range(10):
        writes = len(names(kit.store)) + noise.randrange(1, 24)
        change_database(source, n, rows=1000)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(names(kit.store)) < writes:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        interrupted += process.returncode == -signal.SIGKILL
        fresh = {v.id for v in kit.history().views} - held.keys()
        assert len(fresh) <= 1
        assert fresh or process.returncode == -signal.SIGKILL
        held |= dict.fromkeys(fresh, source.read_bytes())
        found = kit.verify(Level.CONTENT)
        assert (found.problems, found.snapshots) == ([], len(held))
    assert interrupted >= 3
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (last,) = {v.id for v in kit.history().views} - held.keys()
    held[last] = source.read_bytes()
    kit.assert_restores(held)
    assert kit.verify(Level.CONTENT).problems == []
