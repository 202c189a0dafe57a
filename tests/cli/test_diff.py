"""`backupctl diff` as a user runs it."""

import csv
import io
import sqlite3
from pathlib import Path

import pytest

from tests.cli.kit import CHINOOK, User


def edited(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[User, str, str]:
    """A user with two snapshots of the sample database, the second after a mistake."""
    user = User(tmp_path_factory.mktemp("diff"))
    user.init()
    path = user.folder / "shop.db"
    path.write_bytes(CHINOOK.read_bytes())
    one = user.back_up(path)["snapshot"]
    edited(
        path,
        "DELETE FROM InvoiceLine WHERE InvoiceId = 100",
        "UPDATE Customer SET Email = 'secret@example.com', Phone = NULL WHERE CustomerId = 3",
        """INSERT INTO Genre VALUES (99, 'new, "g" ' || char(27))""",
        "ALTER TABLE Artist ADD COLUMN since INT",
    )
    return user, one, user.back_up(path)["snapshot"]


def test_numbers_of_every_table(nights: tuple[User, str, str]) -> None:
    """The document has each table with its numbers, changes of the schema apart, and what was fetched."""
    user, one, two = nights
    found = user.run("diff", one, two, "--json", key="read")
    assert found.code == 0, found.err
    document = found.document
    assert document["schema"] == "backupctl/diff/1"
    assert {
        (t["name"], t["added"], t["removed"], t["changed"])
        for t in document["tables"]
        if t["added"] + t["removed"] + t["changed"]
    } == {
        ("Customer", 0, 0, 1),
        ("Genre", 1, 0, 0),
        ("InvoiceLine", 0, 4, 0),
    }
    assert len(document["tables"]) == 11
    assert [(c["table"], c["change"], c["object"]) for c in document["schema_changes"]] == [
        ("Artist", "column added", "since")
    ]
    assert document["fetched_bytes"] > 0
    assert "records" not in document


def test_records_of_a_table(nights: tuple[User, str, str]) -> None:
    """With --table every record stands there with key, old and new; with --columns only what changed of it."""
    user, one, two = nights
    (record,) = user.run("diff", one, two, "--table", "Customer", "--json", key="read").document["records"]
    assert (record["op"], record["key"]) == ("changed", 3)
    assert (record["old"]["FirstName"], record["new"]["Email"]) == ("François", "secret@example.com")
    (record,) = user.run("diff", one, two, "--table", "Customer", "--columns", "--json", key="read").document["records"]
    assert record["new"] == {"Phone": None, "Email": "secret@example.com"}
    back = user.run("diff", two, one, "--table", "InvoiceLine", "--json", key="read").document
    assert [r["op"] for r in back["records"]] == ["added"] * 4
    assert back["records"][0]["old"] is None
    few = user.run("diff", two, one, "--table", "InvoiceLine", "--json", "--limit", "1", key="read").document
    assert (len(few["records"]), few["tables"][0]["added"]) == (1, 4)
    none = user.run("diff", one, two, "--table", "Track", "--json", key="read").document
    assert none["records"] == []


def test_for_people_values_are_shown_on_request_only(nights: tuple[User, str, str]) -> None:
    """A summary and samples by key; values only with --columns, and nothing that a terminal would obey."""
    user, one, two = nights
    plain = user.run("diff", one, two, key="read")
    assert plain.code == 0
    assert "changed  3  Phone, Email" in plain.out
    assert "8 tables without a difference" in plain.out
    assert "schema: Artist column added since (INT)" in plain.out
    assert "secret@" not in plain.out + plain.err
    shown = user.run("diff", one, two, "--columns", key="read")
    assert "Email: ftremblay@gmail.com -> secret@example.com" in shown.out
    assert "Phone: +1 (514) 721-4711 -> NULL" in shown.out
    assert "\x1b" not in shown.out


def test_csv(nights: tuple[User, str, str]) -> None:
    """Comma-separated values: a line for each table, or for each record."""
    user, one, two = nights
    rows = list(csv.reader(io.StringIO(user.run("diff", one, two, "--csv", key="read").out)))
    assert rows[0] == ["table", "added", "removed", "changed", "reason"]
    assert ["InvoiceLine", "0", "4", "0", ""] in rows
    rows = list(csv.reader(io.StringIO(user.run("diff", one, two, "--table", "Genre", "--csv", key="read").out)))
    assert rows == [
        ["op", "old GenreId", "old Name", "new GenreId", "new Name"],
        ["added", "", "", "99", 'new, "g" \x1b'],
    ]


def test_live(nights: tuple[User, str, str]) -> None:
    """Against the live database: named, or found in a policy by the snapshot's source; nothing is stored."""
    user, one, _ = nights
    path = user.folder / "shop.db"
    before = sorted(str(p) for p in (user.folder / "repo").rglob("*"))
    named = user.run("diff", one, "live", "--source", str(path), "--json", key="read")
    assert named.code == 0, named.err
    assert named.document["new"] == "live"
    assert {t["name"]: t["removed"] for t in named.document["tables"]}["InvoiceLine"] == 4
    policy = user.folder / "policies"
    policy.mkdir(exist_ok=True)
    (policy / "p.yaml").write_text(
        f"policy: p\nsources: [{{name: shop, url: 'sqlite:///{path}'}}]\nrepository: {{url: 'file://{user.repository}'}}\n"
    )
    found = user.run("diff", one, "live", "--config", str(policy), "--json", key="read")
    assert found.document.get("tables") == named.document["tables"], found.out
    assert sorted(str(p) for p in (user.folder / "repo").rglob("*")) == before
    unknown = user.run("diff", one, "live", "--config", str(user.folder / "keys"), "--json", key="read")
    assert unknown.code == 2


def test_refusals(nights: tuple[User, str, str]) -> None:
    """Too little right is 12; a table that is not there, two forms at once, and a source without `live` are 2."""
    user, one, two = nights
    right = user.run("diff", one, two, "--json", key="check")
    assert (right.code, right.document["error"]["code"]) == (12, "missing_right")
    assert user.run("diff", one, two, "--table", "Moon", key="read").code == 2
    assert user.run("diff", one, two, "--csv", "--json", key="read").code == 2
    assert user.run("diff", one, two, "--source", "x.db", key="read").code == 2
    assert user.run("diff", one, "live", "--source", "not-there.db", key="read").code == 14
