"""Completion, in real shells, and --version."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backupctl.__main__ import PLANNED, VERBS
from backupd.config.version import VERSION
from backupd.repo.format import VERSION as FORMAT
from tests.cli.kit import User

ASK = """
source ./complete.bash
COMP_WORDS=("$@") COMP_CWORD=$(( $# - 1 ))
compopt() { echo "$2"; }
_backupctl_completion backupctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with `backupctl` in the path and the script for bash."""
    user = User(tmp_path_factory.mktemp("user"))
    (user.folder / "bin").mkdir()
    program = user.folder / "bin/backupctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m backupctl "$@"\n')
    program.chmod(0o700)
    done = user.run("completion", "bash")
    assert done.code == 0, done.err
    (user.folder / "complete.bash").write_text(done.out)
    return user


def complete(user: User, *words: str) -> list[str]:
    """What bash offers for a line of these words, the last of them unfinished."""
    env = user.env()
    env["PATH"] = f"{user.folder}/bin:{env['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", "backupctl", *words],
        cwd=user.folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


def test_bash_completes_verbs(shell: User) -> None:
    """Every verb that is built and none that is planned; second words; options; the choices of one; files."""
    assert set(complete(shell, "")) == set(VERBS)
    assert complete(shell, "re") == ["recover", "repo", "restore"]
    assert complete(shell, "keys", "") == ["list", "new", "passphrase", "test"]
    assert "--new-passphrase-file" in complete(shell, "keys", "passphrase", "--n")
    assert complete(shell, "verify", "--level", "") == ["structure", "bytes", "content"]
    assert complete(shell, "--json", "snapshots", "--key", "") == ["default"]
    assert complete(shell, "init", "--keys", "") == ["dirnames"]


def test_bash_is_not_disturbed_by_what_is_not_built_or_unknown(shell: User) -> None:
    """A planned verb, an unknown one and an unknown option complete to nothing, without a word on standard error."""
    for words in ((next(iter(PLANNED)), ""), ("nonsense", ""), ("keys", "rotate", ""), ("run", "--nonsense", "")):
        complete(shell, *words)
    assert complete(shell, next(iter(PLANNED)), "x") == []


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_script(shell: User, name: str) -> None:
    """The script is read without complaint where the shell is installed, and names its function in any case."""
    done = shell.run("completion", name, "--json")
    assert done.document["shell"] == name
    script = Path(shell.folder / f"script.{name}")
    script.write_text(done.document["script"])
    assert "_BACKUPCTL_COMPLETE" in script.read_text()
    if shutil.which(name):
        checked = subprocess.run([name, "-n", str(script)], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_an_unknown_shell_is_2(shell: User) -> None:
    """Only the three are known."""
    assert shell.run("completion", "tcsh").code == 2


def test_version_tells_the_program_and_the_format(shell: User) -> None:
    """Both are what the code says, and nothing else is printed."""
    done = shell.run("--version")
    assert (done.code, done.out, done.err) == (0, f"backupctl {VERSION}, format {FORMAT}\n", "")
