"""The manual page: made of the commands as they are, with every exit code, and nothing in it that a formatter stumbles over."""

import re
import shutil
import subprocess
from pathlib import Path

from backupctl.__main__ import PLANNED, VERBS, cli
from backupctl.manual import page
from backupd.errors import EXIT_MEANS, Exit

FILE = Path(__file__).resolve().parents[1] / "deploy/man/backupctl.1"


def test_it_is_up_to_date() -> None:
    """The shipped page is what the commands say: `python -m backupctl.manual > deploy/man/backupctl.1` makes it anew."""
    assert FILE.read_text() == page(cli)


def test_it_lists_every_exit_code() -> None:
    """One enum: each of its members has a meaning, and the page lists them in order."""
    assert list(EXIT_MEANS) == list(Exit)
    table = FILE.read_text().split(".SH EXIT STATUS")[1].split(".SH")[0]
    assert [int(n) for n in re.findall(r"^\\fB(\d+)\\fR$", table, re.MULTILINE)] == [int(code) for code in Exit]


def test_it_has_every_verb_and_none_to_come() -> None:
    """Each verb has a heading, second words too; what is not built yet has none."""
    heads = re.findall(r"^\.SS backupctl (\S+)", FILE.read_text(), re.MULTILINE)
    assert set(heads) == set(VERBS)
    assert not set(heads) & set(PLANNED)
    for words in ("keys new", "keys passphrase", "hold add", "audit verify", "policy plan"):
        assert f".SS backupctl {words}" in FILE.read_text()


def test_a_formatter_has_nothing_to_say() -> None:
    """groff formats it without a warning, and every line that begins like a request is one."""
    known = {"TH", "SH", "SS", "PP", "TP", "EX", "EE", "RS", "RE", '\\"'}
    for line in FILE.read_text().splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or line[1:].split(" ")[0] in known, line
    if shutil.which("groff") is None:
        return
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", str(FILE)], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stderr == ""
    assert "EXIT STATUS" in re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
