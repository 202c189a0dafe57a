"""The tool as a reader meets it: transcripts of commands with what they print and how they end.

A transcript is a text: a line `$ command` is run in a shell in one folder, the lines behind it are what it prints (standard
output, then standard error), and a last line `[n]` is its exit code where that is not 0. `<...>` stands for anything within a
line. A transcript ends with the file.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.kit import CHINOOK, User

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def steps(text: str) -> list[tuple[str, str]]:
    """The commands of a transcript, each with what is expected of it."""
    out = []
    for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = block.partition("\n")
        out.append((command, expected.rstrip("\n")))
    return out


def pattern(expected: str) -> str:
    """The regular expression of what is expected."""
    return ".*?".join(re.escape(part) for part in expected.split("<...>"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda p: p.stem)
def test_transcript(path: Path, tmp_path: Path) -> None:
    """Each command prints what the transcript says and ends with its code."""
    user = User(tmp_path)
    (tmp_path / "app.db").write_bytes(CHINOOK.read_bytes())
    shell = tmp_path / "bin"
    shell.mkdir()
    (shell / "backupctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m backupctl "$@"\n')
    (shell / "backupctl").chmod(0o700)
    env = user.env()
    del env["BACKUPCTL_REPOSITORY"]
    env["PATH"] = f"{shell}:{env['PATH']}"
    for command, expected in steps(path.read_text()):
        # a file that nobody touched for two seconds is not read again: on a slow machine that would change the transcript
        os.utime(tmp_path / "app.db")
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        code = f"[{done.returncode}]" if done.returncode else ""
        got = "\n".join(part for part in (done.stdout.rstrip("\n"), done.stderr.rstrip("\n"), code) if part)
        assert re.fullmatch(pattern(expected), got), f"$ {command}\n{got}\n--- expected\n{expected}"


def test_progress_is_for_terminals_only(tmp_path: Path) -> None:
    """On a terminal a run shows rate and time left; piped it shows nothing of the kind."""
    import pty

    user = User(tmp_path)
    user.init()
    big = tmp_path / "big.db"
    big.write_bytes(b"")
    import sqlite3

    db = sqlite3.connect(big)
    db.execute("create table t(a)")
    db.executemany("insert into t values(?)", ((os.urandom(100_000),) for _ in range(900)))
    db.commit()
    db.close()
    command = [sys.executable, "-m", "backupctl", "run", "--source", str(big), "--key", "keys/write.key"]
    main, other = pty.openpty()
    child = subprocess.Popen(
        command, cwd=tmp_path, env=user.env(), stdout=subprocess.PIPE, stderr=other, stdin=subprocess.DEVNULL
    )
    os.close(other)
    shown = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert child.wait() == 0
    os.close(main)
    assert child.stdout is not None
    assert b"\x1b" not in child.stdout.read()
    child.stdout.close()
    assert re.search(rb"reading main: [\d.]+ MB of [\d.]+ MB \(\d+ %\), [\d.]+ .?B/s, \d+:\d\d left", shown)
    piped = user.run("run", "--source", str(big), key="write")
    assert "left" not in piped.err
    assert "\x1b" not in piped.err
