"""The documents say what the program does: verbs, exit codes, files."""

import re
from pathlib import Path

from backupctl.__main__ import PLANNED, VERBS
from backupd.errors import Exit

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_opens_with_the_promise_and_two_commands() -> None:
    """The README opens with what it protects against, then `make demo` and `make test`."""
    top = README.split("## ")[0]
    assert "It protects against" in top
    assert "make demo" in top
    assert "make test" in top


def test_every_verb_and_exit_code_is_in_the_readme() -> None:
    """Each verb that is built, and each exit code, is in the README; no verb is both built and planned."""
    commands = README.split("## Commands")[1].split("## How it works")[0]
    assert [verb for verb in VERBS if f"`{verb}`" not in commands and f"`{verb} " not in commands] == []
    numbers = {int(n) for n in re.findall(r"\|\s(\d+)\s\|", commands)}
    assert numbers == {int(code) for code in Exit}
    assert not VERBS.keys() & PLANNED


def test_the_format_names_every_object() -> None:
    """FORMAT.md has every object kind, and SECURITY.md and the changelog exist."""
    law = (ROOT / "backupd/repo/FORMAT.md").read_text()
    for name in ("trust/", "sessions/", "packs/", "index/", "snapshots/", "records/", "gc/", "rewrap/"):
        assert f"`{name}" in law
    assert "If the attacker has X" in (ROOT / "SECURITY.md").read_text()
    assert (ROOT / "CHANGELOG.md").read_text().startswith("# Changelog")


def test_nothing_names_a_machine() -> None:
    """No tracked text names a path of the machine that it was written on."""
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("backupd/**/*.py"),
        *ROOT.glob("cli/**/*.py"),
        *ROOT.glob("deploy/**/*"),
    ]:
        if path.is_file():
            assert not re.search(r"/work/|/root/\.", path.read_text()), path
