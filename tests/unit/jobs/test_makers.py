"""Chunks made by other processes: the run stores what it would have stored alone, whatever happens to them."""

import contextlib
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from backupd.crypto.chunks import Kind
from backupd.crypto.keyfile import Role
from backupd.errors import Terminated
from backupd.jobs import makers as making
from backupd.jobs.backup import open_index
from backupd.jobs.makers import LARGEST, OtherProcess
from backupd.jobs.verify import Level
from backupd.repo.leaning import Candidates
from backupd.repo.preparing import Made, Preparer, Wanted
from backupd.repo.writing import WriteSession
from backupd.report import Tally
from backupd.store.folder import FolderStore
from tests.jobs_kit import Kit, utc_now
from tests.table_engine import TableSource
from tests.unit.jobs.test_nights import churn_rows
from tests.unit.jobs.test_tables import rows, take


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two helpers whatever the machine has, for small tables; how many chunks each batch had that one of them made."""
    monkeypatch.setattr("backupd.jobs.capture.ROWS", 16)  # many chunks of few rows
    monkeypatch.setattr(making, "ENOUGH", 1)
    monkeypatch.setattr(making, "usable", lambda: 3)
    made: list[int] = []
    real = OtherProcess.make

    def counting(self: OtherProcess, kind: Kind, wanted: Sequence[Wanted]) -> list[Made] | None:
        found = real(self, kind, wanted)
        made.append(len(found or ()))
        return found

    monkeypatch.setattr(OtherProcess, "make", counting)
    return made


def nights(kit: Kit, count: int = 3) -> Iterator[list[str]]:
    """The ids of a table's chunks, and the codecs with which they are stored, night after night."""
    table = rows(20_000)
    for night in range(count):
        done = take(kit, TableSource({"t": table}))
        refs = [
            ref for stream in kit.refs(done.snapshot)[:-1] for ref in stream
        ]  # the last are content nodes, with times
        yield [f"{ref.id.hex()} {ref.codec} {ref.payload_length}" for ref in refs]
        table = churn_rows(table, random.Random(night), 0.003)


@pytest.mark.parametrize("where", ["folder", "elsewhere"])
def test_helpers_make_what_the_run_would(tmp_path: Path, several: list[int], where: str) -> None:
    """The same chunks, as the same deltas; where versions are held on this machine's disk too. The first run has none."""
    (tmp_path / "with").mkdir()
    (tmp_path / "alone").mkdir()

    def kit(name: str) -> Kit:
        store = FolderStore(tmp_path / name / "repository", create=True) if where == "folder" else None
        return Kit(tmp_path / name, store)

    helped = kit("with")
    told = nights(helped)
    first = next(told)
    assert not several
    helped_nights = [first, *told]
    assert sum(several) > 20
    del several[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "usable", lambda: 1)
        alone_nights = list(nights(kit("alone")))
    assert not several
    assert helped_nights == alone_nights  # with the same keys
    assert any(line.split()[1] == "2" for line in helped_nights[-1])
    assert helped.verify(Level.CONTENT).problems == []


def test_what_is_killed_or_cannot_is_done_here(
    tmp_path: Path, several: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper that dies in the middle, and one that fails at a chunk: every night restores as it was."""
    kit = Kit(tmp_path, FolderStore(tmp_path / "repository", create=True))
    here = os.getpid()
    real = Preparer.make
    count = 0

    def failing(self: Preparer, kind: Kind, wanted: Wanted) -> Made:
        nonlocal count
        count += 1
        if os.getpid() != here and count % 3 == 2:
            raise ValueError("not here")
        if os.getpid() != here and count > 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, kind, wanted)

    monkeypatch.setattr(Preparer, "make", failing)
    for _ in nights(kit, 4):
        pass
    assert 0 in several
    assert kit.verify(Level.CONTENT).problems == []


@contextlib.contextmanager
def other(tmp_path: Path) -> Iterator[tuple[OtherProcess, Preparer]]:
    """A helper of a session that is open."""
    kit = Kit(tmp_path)
    repo = kit.repo(Role.WRITE, host="writer")
    index = open_index(repo, kit.keys[Role.WRITE], kit.places("writer"), Tally())
    session = WriteSession(repo, kit.keys[Role.WRITE], index, started=utc_now())
    helper = OtherProcess(session.preparer)
    try:
        yield helper, session.preparer
    finally:
        helper.end()
        session.close()
        index.close()


def wanted(preparer: Preparer, *pieces: bytes) -> list[Wanted]:
    return [Wanted(preparer.name(Kind.ROWS, piece), piece, Candidates()) for piece in pieces]


def test_a_helper_seals_as_the_run_does(tmp_path: Path) -> None:
    """Byte for byte: keys and salts follow from the chunk, so nothing is sealed twice under one key in two ways."""
    noise = random.Random(1)
    with other(tmp_path) as (helper, preparer):
        pieces = wanted(preparer, b"a\n" * 5000, noise.randbytes(65_536), noise.randbytes(1 << 20), b"x\n")
        for _ in range(3):
            assert helper.make(Kind.ROWS, pieces) == [preparer.make(Kind.ROWS, one) for one in pieces]
        assert helper.make(Kind.ROWS, wanted(preparer, *[bytes(1 << 20)] * (LARGEST // (1 << 20) + 1))) is None
        assert helper.make(Kind.ROWS, pieces) is not None


def test_a_helper_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was asked for is made here, and it is asked for nothing more."""
    before = children()
    monkeypatch.setattr(making, "LONGEST", 0.3)
    with other(tmp_path) as (helper, preparer):
        assert helper.make(Kind.ROWS, wanted(preparer, b"x\n")) is not None
        (process,) = children() - before
        os.kill(int(process), signal.SIGSTOP)
        assert helper.make(Kind.ROWS, wanted(preparer, b"x\n")) is None
        monkeypatch.setattr(making, "LONGEST", 600.0)
        assert helper.make(Kind.ROWS, wanted(preparer, b"x\n")) is None


def test_who_is_ended_does_not_wait_for_a_helper(
    tmp_path: Path, several: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that a signal ends is over at once, though its helpers have stopped."""
    kit = Kit(tmp_path, FolderStore(tmp_path / "repository", create=True))
    table = rows(20_000)
    take(kit, TableSource({"t": table}))
    here = threading.get_native_id()
    before = children()
    real = OtherProcess.make

    def stopping(self: OtherProcess, kind: Kind, wanted: Sequence[Wanted]) -> list[Made] | None:
        for process in children(here) - before:
            os.kill(int(process), signal.SIGSTOP)
        if not several:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        several.append(0)
        return real(self, kind, wanted)

    def end(*_: object) -> NoReturn:
        raise Terminated("terminated")

    monkeypatch.setattr(making, "LONGEST", 3600.0)
    monkeypatch.setattr(OtherProcess, "make", stopping)
    handler = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(Terminated):
            take(kit, TableSource({"t": churn_rows(table, random.Random(1), 0.01)}))
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert children() <= before


def test_without_more_processes_the_run_does_all(
    tmp_path: Path, several: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may refuse them."""
    kit = Kit(tmp_path, FolderStore(tmp_path / "repository", create=True))

    def refused() -> NoReturn:
        raise BlockingIOError("no more")

    monkeypatch.setattr(os, "fork", refused)
    list(nights(kit))
    assert set(several) <= {0}
    assert kit.verify(Level.CONTENT).problems == []


def test_a_helper_lets_go_of_what_is_the_runs(tmp_path: Path) -> None:
    """Who is at the other end of a connection or a pipe sees it when the run closes it; no process is left at the end."""
    one, two = socket.socketpair()
    into, out = os.pipe()
    before = children()
    with other(tmp_path) as (helper, preparer):
        assert len(children() - before) == 1
        assert helper.make(Kind.ROWS, wanted(preparer, b"x\n")) is not None
        two.close()
        os.close(out)
        one.settimeout(10)
        assert one.recv(1) == b""
        os.set_blocking(into, False)
        assert os.read(into, 1) == b""
    assert children() <= before
    assert helper.make(Kind.ROWS, wanted(preparer, b"x\n")) is None
    one.close()
    os.close(into)


def children(thread: int | None = None) -> set[str]:
    """The processes that a thread has begun; without one, this thread."""
    return set(Path(f"/proc/self/task/{thread or threading.get_native_id()}/children").read_text().split())
