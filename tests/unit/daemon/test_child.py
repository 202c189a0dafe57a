"""A job's process: a real one each time, standing in for `backupctl` by a module of its own."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.daemon import child
from backupd.daemon.child import MOST_LINES, MOST_OUTPUT, TOO_MUCH, Ended, Process
from backupd.errors import Failed

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts Python with a program in place of `backupctl`."""

    def started(program: str, memory: int | None = None) -> Process:
        (tmp_path / "backupctl.py").write_text("import os, signal, sys, time\n" + program)
        return Process([], tmp_path, {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}, memory)

    return started


def wait(process: Process, seconds: float = 30) -> tuple[Ended, list[str]]:
    """How it ended, and all that it said."""
    said: list[str] = []
    until = time.monotonic() + seconds
    while (end := process.ended()) is None:
        said += process.read_messages()
        assert time.monotonic() < until
        time.sleep(0.01)
    return end, [*said, *process.close()]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody waits for has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(fact: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not fact() and time.monotonic() < end:
        time.sleep(0.02)
    return fact()


def test_its_document_messages_and_status_arrive(start: Start) -> None:
    end, said = wait(start("print('{\"ok\": true}'); print('one\\ntwo', file=sys.stderr, end=''); sys.exit(3)"))
    assert (end.code, end.document, said) == (3, {"ok": True}, ["one", "two"])


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "[" * 100_000, '{"a": \\xff}'])
def test_what_is_no_document_is_none(start: Start, text: str) -> None:
    end, _ = wait(start(f"sys.stdout.write({text!r})"))
    assert end == Ended(0, None)


def test_a_hundred_megabytes_of_output_fill_neither_memory_nor_disk(start: Start, tmp_path: Path) -> None:
    process = start("for _ in range(1600): os.write(1, b'x' * 65536); time.sleep(0.0002)")
    most = 0
    while process.ended() is None:
        process.read_messages()
        most = max(most, os.fstat(process._out.fileno()).st_blocks * 512)
    end, _ = wait(process)
    assert end == Ended(0, None)
    assert most < 100_000_000 - MOST_OUTPUT, "what was over the bound was given back while it ran"


def test_a_flood_of_messages_is_cut(start: Start) -> None:
    _, said = wait(start("sys.stderr.write('spam\\n' * 100000 + 'x' * 1000000)"))
    assert len(said) == MOST_LINES + 1
    assert said[-1] == TOO_MUCH
    assert said.count(TOO_MUCH) == 1


def test_a_line_without_an_end_is_cut(start: Start) -> None:
    _, said = wait(start("sys.stderr.write('x' * 20000)"))
    assert max(map(len, said)) <= 4096


def test_a_grandchild_that_holds_the_pipe_is_ended_with_it(start: Start) -> None:
    """It neither keeps the job from ending nor stays behind, though it goes on writing."""
    process = start(
        "pid = os.fork()\nif pid == 0:\n    while True: os.write(2, b'noise\\n' * 100)\nprint('{\"pid\": %d}' % pid)"
    )
    end, said = wait(process)
    assert end.document is not None
    assert len(said) <= MOST_LINES + 1
    assert until(lambda: gone(int(end.document["pid"])))  # type: ignore[index]


def test_a_hard_stop_ends_the_whole_group(start: Start) -> None:
    """One that does not listen, and what it started."""
    process = start(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\npid = os.fork()\nif pid:\n"
        "    print('up', pid, file=sys.stderr, flush=True)\ntime.sleep(600)"
    )
    said: list[str] = []
    assert until(lambda: bool(said.extend(process.read_messages()) or said))
    process.stop()
    time.sleep(0.2)
    assert process.ended() is None
    process.stop(hard=True)
    end, _ = wait(process)
    assert end.code == 128 + signal.SIGKILL
    assert until(lambda: gone(int(said[0].split()[1])))
    process.stop()  # one that is gone takes no signal


def test_closing_ends_what_is_still_at_work(start: Start) -> None:
    process = start("time.sleep(600)")
    pid = process.pid
    process.close()
    assert gone(pid)


def test_memory_is_limited(start: Start) -> None:
    end, _ = wait(start("time.sleep(0.3)\nx = bytearray(600_000_000)", 400_000_000))
    assert end.code == 1


def test_one_that_cannot_be_started_is_an_error_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="No such file"):
        Process([], tmp_path / "nowhere", {})
    with pytest.raises(Failed, match="cannot be passed on"):
        Process(["a\0b"], tmp_path, {})
    monkeypatch.setattr(child.sys, "executable", str(tmp_path / "no-python"))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Failed, match="No such file"):
        Process([], tmp_path, {})
    assert len(os.listdir("/proc/self/fd")) == before
