"""`backupctl recover` as a user runs it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.kit import CHINOOK, User
from tests.cli.test_diff import edited

MISTAKE = (
    "DELETE FROM InvoiceLine WHERE InvoiceId IN (SELECT InvoiceId FROM Invoice WHERE CustomerId = 3)",
    "DELETE FROM Invoice WHERE CustomerId = 3",
    "DELETE FROM Customer WHERE CustomerId = 3",
    "DELETE FROM Wish WHERE CustomerId = 3",
)


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as db:
        names = [n for (n,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: sorted(db.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[User, Path]:
    """A user with a snapshot of a shop, a table of which has no foreign key, and a policy that knows what it refers to."""
    user = User(tmp_path_factory.mktemp("recover"))
    user.init()
    path = user.folder / "shop.db"
    path.write_bytes(CHINOOK.read_bytes())
    edited(
        path,
        "CREATE TABLE Wish (Id INTEGER PRIMARY KEY, CustomerId INT, Text TEXT)",
        "INSERT INTO Wish VALUES (1, 3, 'a unicorn'), (2, 4, 'a horse')",
    )
    user.back_up(path)
    (user.folder / "policies").mkdir()
    (user.folder / "policies/p.yaml").write_text(
        "policy: p\n"
        f"repository: {{url: 'file://{user.repository}'}}\n"
        "sources:\n"
        f"  - name: shop\n    url: 'sqlite:///{path}'\n"
        "    subject: {table: Customer, key: Email}\n"
        "    references: [{table: Wish, columns: [CustomerId], parent: Customer, parent_columns: [CustomerId]}]\n"
    )
    return user, path


def test_the_worst_day(made: tuple[User, Path]) -> None:
    """A customer is planned, refused while in conflict, brought back by a policy's names, and taken back again."""
    user, path = made
    before = rows(path)
    edited(
        path,
        *MISTAKE,
        "INSERT INTO Genre VALUES (99, 'newer')",
        "CREATE TRIGGER t AFTER INSERT ON Wish BEGIN SELECT 1; END",
    )
    between = rows(path)
    words = ["recover", "latest:shop", "Customer:ftremblay@gmail.com", "--into", "shop", "--config", "policies"]
    shown = user.run(*words, "--json", key="read")
    assert shown.code == 0, shown.err + shown.out
    document = shown.document
    assert document["schema"] == "backupctl/recover/1"
    assert {"op": "insert", "table": "Customer", "key": 3} in document["plan"]
    assert {"op": "insert", "table": "Wish", "key": 1} in document["plan"]
    inserted = len(document["plan"])
    assert document["counts"] == {"insert": inserted, "update": 0, "repair": 0, "conflict": 0, "same": 0, "skip": 0}
    assert (document["applied"], document["undo"]) == (False, None)
    assert document["triggers"] == {"Wish": ["t"]}
    assert "unicorn" not in shown.out + shown.err
    assert rows(path) == between

    undecided = user.run(*words, "--apply", "--json", key="read")
    assert (undecided.code, undecided.document["error"]["code"]) == (20, "refused")
    assert "t on Wish" in undecided.document["error"]["message"]
    assert rows(path) == between

    undo = user.folder / "undo.jsonl"
    done = user.run(
        *words,
        "--apply",
        "--triggers",
        "on",
        "--expect",
        document["digest"],
        "--undo-to",
        str(undo),
        "--json",
        key="read",
    )
    assert done.code == 0, done.err + done.out
    assert (done.document["applied"], done.document["undo"]) == (True, str(undo))
    assert undo.stat().st_mode & 0o777 == 0o600
    newer = {**before, "Genre": sorted([*before["Genre"], (99, "newer")], key=repr)}
    assert rows(path) == newer
    audit = user.run("audit", "show", "--json", key="read").document["entries"]
    assert [e["action"] for e in audit if "recover" in e["action"]] == ["recover-begun", "recover"]

    back = user.run("recover", "--undo", str(undo), "--into", str(path), "--apply", "--triggers", "off", "--json")
    assert back.code == 0, back.err + back.out
    assert back.document["counts"]["delete"] == inserted
    redo = Path(back.document["undo"])
    assert redo.stat().st_mode & 0o777 == 0o600
    kept = user.run("status", "--config", "policies", "--json", key="read").document["undo_files"]
    assert [file["file"] for file in kept] == [str(redo)]
    redo.write_bytes(redo.read_bytes().replace(b'"until":"20', b'"until":"19'))
    assert rows(path) == between
    edited(path, "INSERT INTO Customer (CustomerId, FirstName, LastName, Email) VALUES (3, 'New', 'One', 'n@x')")
    planned = user.run(*words, key="read")
    assert "--apply, or the daemon, removes 1 undo file whose time is over" in planned.err
    assert redo.exists()
    conflict = user.run(*words, "--apply", "--triggers", "on", key="read")
    assert conflict.code == 20
    assert "removed 1 undo file whose time is over" in conflict.err
    assert not redo.exists()
    assert "it was changed since; FirstName, LastName" in conflict.out
    assert "1 record is in conflict in Customer" in conflict.err
    edited(path, "DELETE FROM Customer WHERE CustomerId = 3")

    removed = user.run(
        "recover",
        "latest",
        "--removed-since",
        "latest",
        "--into",
        str(path),
        "--apply",
        "--triggers",
        "off",
        "--json",
        key="read",
    )
    assert removed.code == 0, removed.err + removed.out
    assert rows(path) == newer


def test_a_script(made: tuple[User, Path]) -> None:
    """Is private, names the statements, and is never overwritten."""
    user, path = made
    copy = user.folder / "copy.db"
    copy.write_bytes(path.read_bytes())
    edited(copy, "DELETE FROM Wish")
    words = ["recover", "latest", "--table", "Wish", "--into", str(copy), "--sql", "s.sql", "--triggers", "on"]
    done = user.run(*words, key="read")
    assert done.code == 0, done.err
    text = (user.folder / "s.sql").read_text()
    assert """INSERT OR ABORT INTO main."Wish" ("Id", "CustomerId", "Text") VALUES (1, 3, 'a unicorn');""" in text
    assert (user.folder / "s.sql").stat().st_mode & 0o777 == 0o600
    assert rows(copy)["Wish"] == []
    assert user.run(*words, key="read").code == 20


def test_refusals(made: tuple[User, Path]) -> None:
    """Each has the code that the contract gives it."""
    user, path = made
    into = ["--into", str(path)]
    for words, code in (
        (["latest", "Customer:404404", *into], 1),
        (["latest", "Customer:3", *into, "--apply", "--expect", "0" * 16], 20),
        (["latest", *into], 2),
    ):
        done = user.run("recover", *words, "--json", key="read")
        assert (done.code, done.document["error"]["exit"]) == (code, code), words
    right = user.run("recover", "latest", "Customer:3", *into, "--json", key="check")
    assert right.document["error"]["code"] == "missing_right"
    (user.folder / "cut.jsonl").write_text(json.dumps({"format": "backupd-undo/1"}) + "\n")
    assert user.run("recover", "--undo", "cut.jsonl", *into).code == 4
