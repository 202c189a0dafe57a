"""What the daemon stands on: its log, its lock, its signals, its service manager, and the catalog's file."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.daemon.instance import only_one
from backupd.daemon.logs import configure
from backupd.daemon.presence import Presence
from backupd.daemon.signals import Signals
from backupd.daemon.systemd import Systemd, service_manager
from backupd.errors import Busy, Failed

HOSTILE = 'x\n<0>{"event": "forged"}\r\n\x1b[2J\u2028\x00 "quoted" \\ \ud800'

# ---- the log


def logged(**values: object) -> str:
    out = io.StringIO()
    configure(verbose=False, journal=False, out=out).info("job says", **values)
    return out.getvalue()


def test_an_event_is_one_json_object_on_one_line() -> None:
    text = logged(line=HOSTILE, n=7)
    assert text.count("\n") == 1
    assert text.isascii()
    found = json.loads(text)
    assert (found["event"], found["level"], found["line"], found["n"]) == ("job says", "info", HOSTILE, 7)
    assert found["at"].endswith("Z")


def test_whatever_is_logged_is_one_line() -> None:
    for value in (b"\n", {"a\n": {1, 2}}, object(), float("nan"), ["\n", ("\r\n",)], ValueError("a\nb"), None):
        assert logged(value=value).count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password", "hunter2"),
        ("db_passphrase", "hunter2"),
        ("AuthToken", "hunter2"),
        ("line", "cannot reach postgresql://backup:hunter2@db1/crm now"),
        ("line", "s3://key:hunter2@host/x and http://u:hunter2@h/"),
        ("line", "connect: password=hunter2 host=db1"),
        ("line", "PASSWORD: hunter2, user: me"),
        ("line", "Authorization: Bearer hunter2"),
        ("detail", {"inner": ["https://u:hunter2@h/", {"secret": "hunter2"}]}),
    ],
)
def test_what_looks_like_a_secret_is_blotted_out(key: str, value: object) -> None:
    text = logged(**{key: value})
    assert "hunter2" not in text
    assert "***" in text


def test_what_is_no_secret_stays_readable() -> None:
    text = "read 5 tokens of db1 at 12:30; see https://example.com/a@b, mail a@b.c"
    assert json.loads(logged(line=text))["line"] == text


def test_a_journal_gets_its_priority_first() -> None:
    out = io.StringIO()
    log = configure(verbose=True, journal=True, out=out)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("x", line="\n<0>forged")
    assert [line[:3] for line in out.getvalue().splitlines()] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    json.loads(out.getvalue().splitlines()[0][3:])


def test_a_terminal_is_not_moved_about_by_what_a_job_says() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    configure(verbose=False, journal=False, out=out).info("job says", line="\x1b[2J\r\nfake")
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("\n") == 1


def test_a_log_whose_reader_is_gone_stops_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w", buffering=1)
    log = configure(verbose=False, journal=False, out=stream)
    for _ in range(3):
        log.info("still here", line="x" * 10_000)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_log_on_a_full_disk_stops_nothing() -> None:
    with open("/dev/full", "w", buffering=1) as full:
        configure(verbose=False, journal=False, out=full).info("x")
        os.dup2(os.open("/dev/null", os.O_WRONLY), full.fileno())


# ---- one instance


def test_one_of_each_role_and_its_name_stays_behind(tmp_path: Path) -> None:
    """Roles may be divided; whoever comes next learns who was there."""
    with only_one(tmp_path / "s", ["worker", "web"], "host:1") as before:
        assert before == {}
        with only_one(tmp_path / "s", ["scheduler"], "host:2"):
            pass
        with pytest.raises(Busy, match=r"another backupd \(host:1\) is at work here as worker"):
            only_one(tmp_path / "s", ["worker", "scheduler"], "host:3").__enter__()
    with only_one(tmp_path / "s", ["worker", "scheduler"], "host:4") as before:
        assert before == {"worker": "host:1", "scheduler": "host:2"}, "a refused one leaves no trace"
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    """kill -9, and nothing has to be removed by hand."""
    program = (
        "import sys, time; from pathlib import Path; from backupd.daemon.instance import only_one\n"
        "with only_one(Path(sys.argv[1]), ['worker'], 'dead:1'):\n  print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Busy):
        only_one(tmp_path, ["worker"], "me").__enter__()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with only_one(tmp_path, ["worker"], "me") as before:
        assert before == {"worker": "dead:1"}


def test_a_lock_that_is_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backupd-web.lock").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "backupd-worker.lock").mkdir()
    for role in ("web", "worker"):
        with pytest.raises(Failed, match="cannot be written"):
            only_one(tmp_path, [role], "me").__enter__()
    assert not (tmp_path / "elsewhere").exists()


# ---- signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    found = Signals()
    try:
        yield found
    finally:
        found.close()


def test_signals_are_flags_that_wake(signals: Signals) -> None:
    assert not signals.wait(0)
    os.kill(os.getpid(), signal.SIGHUP)
    assert signals.wait(10)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.wait(10)
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.wait(10)
    assert (signals.reload, signals.stop) == (True, 2)


def test_what_can_be_read_wakes_but_is_no_wake_up(signals: Signals) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    assert not signals.wait(10, [reading])
    threading.Timer(0.05, signals.wake).start()
    assert signals.wait(10)
    for _ in range(100_000):
        signals.wake()  # never blocks, however full it is
    assert signals.wait(10)
    assert not signals.wait(0)
    os.close(reading)
    os.close(writing)


def test_everything_is_as_before_afterwards() -> None:
    """And a thread that still wakes writes into nobody's file."""
    before = signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))
    found = Signals()
    found.close()
    reading, writing = os.pipe()
    found.wake()
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    assert (signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))) == before


# ---- the service manager


def test_the_service_manager_hears_each_word_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "s"))
        systemd = Systemd(str(tmp_path / "s"))
        systemd.ready("a\nMAINPID=1")
        systemd.reloading()
        systemd.status("s" * 1000)
        systemd.alive()
        systemd.stopping("bye")
        said = [manager.recv(65536).decode() for _ in range(5)]
    assert said[0] == "READY=1\nSTATUS=a MAINPID=1", "no second message in the first one's status"
    assert said[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert said[2] == "STATUS=" + "s" * 500
    assert said[3:] == ["WATCHDOG=1", "STOPPING=1\nSTATUS=bye"]


def test_nobody_listens_and_nothing_happens(tmp_path: Path) -> None:
    """No socket, one that is gone, and one that is full."""
    Systemd(None).ready("x")
    Systemd(str(tmp_path / "none")).ready("x")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "s"))
        for _ in range(2000):
            Systemd(str(tmp_path / "s")).alive()


def test_the_watchdog_is_for_this_process_and_a_number() -> None:
    assert service_manager("@x", "3000000", "7", 7).watchdog == 3
    assert service_manager("@x", "3000000", None, 7).watchdog == 3
    assert service_manager("@x", "3000000", "8", 7).watchdog is None
    for nonsense in ("", "0", "-1", "x", None):
        assert service_manager(None, nonsense, None, 7).watchdog is None


# ---- the catalog's file


def test_a_file_that_goes_or_is_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    path.write_text("")
    presence = Presence(path, "the catalog")
    presence.check()
    path.rename(tmp_path / "aside")
    with pytest.raises(Failed, match="is gone"):
        presence.check()
    path.write_text("")
    with pytest.raises(Failed, match="is another file now"):
        presence.check()
    (tmp_path / "aside").rename(path)
    presence.check()
