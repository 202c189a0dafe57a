"""`backupctl erase` as a user runs it: one customer is erased, and does not come back by any verb."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.cli.kit import CHINOOK, User

MAIL = "frantisekw@jetbrains.com"
"""Customer 5's."""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user whose customer 5 was erased: seven invoices with 38 lines belong to it."""
    user = User(tmp_path_factory.mktemp("erase"))
    user.init()
    path = user.folder / "shop.db"
    path.write_bytes(CHINOOK.read_bytes())
    user.back_up(path)
    would = user.run("erase", "add", "Customer:5", "--reason", "request 17", "--dry-run", "--json", key="read")
    assert would.document["records"] == []
    assert would.document["tables"] == TABLES
    added = user.run("erase", "add", "Customer:5", "--reason", "request 17", "--json", key="recovery")
    assert added.code == 0, added.err
    assert added.document["tables"] == TABLES
    assert added.document["records"] == ["records/recovery/000000000001"]
    assert "newest snapshot still has" in added.document["warnings"][0]
    assert MAIL not in added.out + added.err + would.out + would.err
    return user


TABLES = [{"name": "Customer", "rows": 1}, {"name": "Invoice", "rows": 7}, {"name": "InvoiceLine", "rows": 38}]


def test_list(user: User) -> None:
    """What, when, why, how many rows, what holds them still, and until when."""
    found = user.run("erase", "list", "--json", key="read").document
    assert found["schema"] == "backupctl/erase-list/1"
    (one,) = found["erasures"]
    assert (one["table"], one["rows"], one["source"], one["reason"]) == ("Customer", 46, "shop", "request 17")
    assert (len(one["snapshots"]), one["gone_by"], one["complete"]) == (1, None, True)
    assert "retention is not known here" in one["horizon"]


def test_report_by_a_policy(user: User) -> None:
    """Signed, as JSON and as HTML that needs nothing else."""
    (user.folder / "p.yaml").write_text(
        f"policy: p\nsources: [{{name: shop, url: 'sqlite:///{user.folder}/shop.db'}}]\n"
        f"repository: {{url: {user.repository}}}\nschedule: {{every: 1d}}\nretention: {{keep: {{daily: 14}}}}\n"
    )
    found = user.run("erase", "report", "--policy", "p.yaml", "--out", "r.json", "--json", key="read")
    assert found.code == 0, found.err
    assert found.document["erasures"][0]["gone_by"]
    assert json.loads((user.folder / "r.json").read_text()) == found.document["report"]
    page = user.run("erase", "report", found.document["erasures"][0]["id"][:8], "--out", "r.html", key="read")
    assert page.code == 0, page.err
    text = (user.folder / "r.html").read_text()
    assert "request 17" in text
    assert "src=" not in text
    assert MAIL not in text


def test_nothing_comes_back(user: User) -> None:
    """Restore says how many rows it left out; diff and export do not know them; --with-erased does, with a reason."""
    restored = user.run("restore", "latest", "back.db", "--json", key="read")
    assert (restored.code, restored.document["erased"]) == (0, 46)
    db = sqlite3.connect(user.folder / "back.db")
    assert db.execute("SELECT count(*) FROM Customer WHERE CustomerId = 5").fetchone() == (0,)
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    db.close()
    assert MAIL.encode() not in (user.folder / "back.db").read_bytes()
    live = f"sqlite:///{user.folder}/back.db"
    differing = user.run("diff", "latest", "live", "--source", live, "--json", key="read").document
    assert [t for t in differing["tables"] if t["added"] or t["removed"] or t["changed"]] == []
    plain = user.run("export", "latest", "--dir", "plain", "--json", key="read").document
    assert plain["erased"] == 46
    assert MAIL.encode() not in (user.folder / "plain/main.db").read_bytes()

    everything = user.run("restore", "latest", "all.db", "--with-erased", "--reason", "case 9", "--json", key="read")
    assert (everything.code, everything.document["erased"]) == (0, 0)
    assert "brought back" in everything.document["warnings"][0]
    assert MAIL.encode() in (user.folder / "all.db").read_bytes()
    assert "with erased: case 9" in user.run("audit", "show", key="read").out


def test_rights_and_mistakes(user: User) -> None:
    """A write key may not; a reference that cannot be read is said to be none."""
    assert user.run("erase", "add", "Customer:1", "--reason", "x", key="write").code == 12
    wrong = user.run("erase", "add", "Customer:1", "--reason", "x", "--reference", "a -> b", "--json", key="read")
    assert wrong.document["error"]["exit"] == 2


def test_a_ledger_that_lost_its_record_is_refused(user: User, tmp_path: Path) -> None:
    """Exit 4 on a machine that has seen it, and no file; with a reason it goes on, and says so."""
    record = Path(user.repository) / "records/recovery/000000000001"
    kept = record.read_bytes()
    record.unlink()
    try:
        assert user.run("restore", "latest", "no.db", key="read").code == 4
        assert not (user.folder / "no.db").exists()
        went_on = user.run("restore", "latest", "no.db", "--with-erased", "--reason", "fire", "--json", key="read")
        assert went_on.code == 0
        assert "goes on without it" in went_on.document["warnings"][0]
    finally:
        record.write_bytes(kept)
