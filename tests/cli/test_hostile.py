"""An attacker's snapshot: names and values that mean to command terminals, browsers, parsers of JSON, and databases."""

import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.cli.kit import User

EVIL = "a\x1b[2J\x1b]0;x\x07\r\n\x9b31m\x7f\u202eb\u2066\u2028</pre><script>alert(1)</script>\"'`; drop table x; -- $$ \\ =1+1"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[User, str, str, str]:
    """Two nights of a database whose names and values mean to command terminals, browsers and parsers; an incident."""
    user = User(tmp_path_factory.mktemp("attacked"))
    user.init()
    name = EVIL.replace('"', '""')
    with closing(sqlite3.connect(user.folder / "evil.db")) as db:
        db.execute(f'create table "{name}" (id text primary key, "{name}" text, b blob)')
        db.execute(f'create trigger "t{name}" after insert on "{name}" begin select 1; end')
        db.execute(f'insert into "{name}" values (?, ?, ?)', (EVIL, EVIL + "\0" + "x" * 60_000, b"\x1b[2J"))
        db.execute(f'insert into "{name}" values (?, ?, null)', ("2", EVIL))
        db.commit()
        one = user.back_up("evil.db")["snapshot"]
        db.execute(f'delete from "{name}" where id = ?', (EVIL,))
        db.execute(f'update "{name}" set "{name}" = ?', (EVIL * 2,))
        db.commit()
    two = user.back_up("evil.db")["snapshot"]
    words = ["--source", "evil", "--reason", "r", "--detected", "2026-01-01T00:00Z", "--json"]
    return user, one, two, user.run("incident", "open", *words, key="read").document["incident"]


@pytest.mark.parametrize("form", ["people", "json", "csv"])
def test_no_verb_lets_a_snapshot_command_a_terminal(attacked: tuple[User, str, str, str], form: str) -> None:
    """No control character and no mark of direction comes out, documents are JSON, and values in them are exact."""
    user, one, two, incident = attacked
    subject = EVIL.replace("\\", "\\\\")
    table, key = subject.replace(":", "\\:"), subject.replace(",", "\\,")
    quoted = '"' + EVIL.replace('"', '""') + '"'
    into = ["--into", str(user.folder / "evil.db")]
    asked: list[tuple[str, ...]] = [
        ("query", one, f"select * from {quoted}"),
        ("diff", one, two, "--table", EVIL, "--columns"),
    ]
    if form != "csv":
        asked += [
            ("query", one, f"select {quoted}(1)"),
            ("find", "evil", EVIL, key),
            ("find", "evil", "no" + EVIL, "1"),
            ("recover", one, f"{table}:{key}", *into, "--verbose"),
            ("recover", one, "--table", EVIL, *into, "--apply"),
            ("incident", "triage", incident, "--table", EVIL, "--record", key),
            ("incident", "report", incident, "--out", f"report-{form}"),
            ("erase", "add", f"{table}:{key}", "--reason", "asked", "--dry-run"),
        ]
    more = {"people": (), "json": ("--json",), "csv": ("--csv",)}[form]
    for words in asked:
        done = user.run(*words, *more, key="read")
        out = done.out if form != "csv" else ""  # in a file the values are what they are
        assert {c for c in out + done.err if not c.isprintable()} <= {"\n"}, words
        if form == "json":
            document = done.document
            if words[:2] == ("query", one) and document["ok"]:
                assert document["rows"][0][1] == EVIL + "\0" + "x" * 60_000
    if form == "json":
        (page,) = (user.folder / "report-json").glob("*.html")
        assert "<script" not in page.read_text()


def test_comma_separated_values_command_no_terminal(attacked: tuple[User, str, str, str]) -> None:
    """They go into a file as they are; where they would go to a terminal they are spelled out."""
    user, one, _, _ = attacked
    quoted = '"' + EVIL.replace('"', '""') + '"'
    words = ["query", one, f"select id from {quoted}", "--csv", "--key", "keys/read.key"]
    assert quoted.replace("\r\n", "\n") in user.run(*words).out  # as it is read there
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "backupctl", *words],
        cwd=user.folder, env=user.env(), stdout=theirs, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    os.close(theirs)
    seen = os.read(ours, 4096).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "alert(1)" in seen
    assert {c for c in seen if not c.isprintable()} <= {"\r", "\n"}
