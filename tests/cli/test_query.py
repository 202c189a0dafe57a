"""`backupctl query` as a user runs it."""

import sqlite3
from pathlib import Path

from tests.cli.kit import CHINOOK, User


def test_a_snapshot_is_asked_and_joined_with_another(tmp_path: Path) -> None:
    """Columns, rows in their order, what was fetched; --attach joins; refusals are exit 2; a note is left behind."""
    user = User(tmp_path)
    user.init()
    path = user.folder / "shop.db"
    path.write_bytes(CHINOOK.read_bytes())
    one = user.back_up(path)["snapshot"]
    db = sqlite3.connect(path)
    db.execute("DELETE FROM Genre WHERE GenreId = 7")
    db.execute("INSERT INTO Genre VALUES (9007199254740993, x'00ff')")
    db.commit()
    db.close()
    two = user.back_up(path)["snapshot"]
    sql = "SELECT g.GenreId, g.Name FROM old.Genre g LEFT JOIN Genre n ON n.GenreId = g.GenreId WHERE n.GenreId IS NULL"
    found = user.run("query", two, sql, "--attach", f"old={one}", "--json", key="read").document
    assert (found["columns"], found["rows"]) == (["GenreId", "Name"], [[7, "Latin"]])
    assert found["schema"] == "backupctl/query/1"
    assert found["fetched_bytes"] > 0
    newest = "SELECT * FROM Genre WHERE GenreId > 99"
    assert user.run("query", two, newest, "--json", key="read").document["rows"] == [
        ["9007199254740993", {"base64": "AP8="}]
    ]
    assert user.run("query", two, newest, "--csv", key="read").out.split() == [
        "GenreId,Name",
        "9007199254740993,\\x00ff",
    ]
    plain = user.run("query", two, "SELECT Name FROM Genre ORDER BY 1", "--limit", "2", key="read")
    assert "there are more rows" in plain.err
    sums = "SELECT round(sum(Total), 2), max(InvoiceDate) > '2013-01-01', typeof(max(InvoiceDate)) FROM Invoice"
    found = user.run("query", two, sums, "--engine", "duckdb", "--json", key="read").document
    assert (found["rows"], found["engine"]) == ([[2328.6, "true", "TIMESTAMP"]], "duckdb")
    refused = user.run("query", two, "DROP TABLE Genre", "--json", key="read")
    assert refused.code == 2
    assert refused.document["error"]["code"] == "usage"
    entries = user.run("audit", "show", "--json", key="read").document["entries"]
    assert any(entry["action"] == "query" and entry["object"] == two for entry in entries)
    found = user.run("find", "shop", "Genre", "7", "--json", key="read").document
    assert [(v["snapshot"], v["record"]) for v in found["versions"]] == [(one, {"GenreId": 7, "Name": "Latin"})]
    assert found["present_in"] == [one]
    assert found["last_seen"] == found["versions"][0]["to"]
    told = user.run("find", "shop", "Genre", "--where", "Name=Latin", key="read").out
    assert "Name: Latin" in told
    assert "not there" in told
