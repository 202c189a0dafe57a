"""The runbook is true: every command in it is run, in its order, against a repository of its own."""

import re
import shlex
import sqlite3
from pathlib import Path

from backupctl.__main__ import VERBS
from tests.cli.kit import User

RUNBOOK = Path(__file__).resolve().parents[2] / "deploy/RUNBOOK.md"


def commands() -> list[str]:
    """What the runbook tells to type."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", RUNBOOK.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def test_every_command_of_the_runbook_does_what_it_says(tmp_path: Path) -> None:
    """From the alarm to the end: each ends well, and what was missing is in what comes back."""
    user = User(tmp_path)
    user.init()
    live = tmp_path / "live.db"
    with sqlite3.connect(live) as db:
        db.execute("create table customers(id integer primary key, name text)")
        db.executemany("insert into customers values (?, ?)", ((n, f"name {n}") for n in range(4700, 4720)))
    db.close()
    good = user.back_up(live, "--name", "crm")["snapshot"]
    with sqlite3.connect(live) as db:
        db.execute("delete from customers where id = 4711")
    db.close()
    user.back_up(live, "--name", "crm")
    run, incident, left = [], "", user.env()
    for line in commands():
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            left[name] = str(tmp_path / value) if name == "BACKUPCTL_KEY" else user.repository
            continue
        words = shlex.split(line.replace("INCIDENT", incident).replace("SNAPSHOT", good[:12]))
        assert words[0] == "backupctl", line
        assert words[1] in VERBS, line
        json_too = ["--json"] if words[1:3] == ["incident", "open"] else []
        done = user.run(*words[1:], *json_too, env=left)
        assert done.code == 0, (line, done.out, done.err)
        if json_too:
            incident = done.document["incident"]
        if words[1:3] == ["incident", "triage"] and "--table" in words:
            assert f"still had it: {good[:12]}" in done.out
        run.append(" ".join(words[1:3]))
    assert {"incident triage", "incident update", "incident report", "incident close", "brake list"} <= set(run)
    for name in ("restored.db", "rescued.db", "clean.db"):
        with sqlite3.connect(tmp_path / name) as db:
            (there,) = db.execute("select count(*) from customers where id = 4711").fetchone()
        db.close()
        assert there == (0 if name == "rescued.db" else 1)
