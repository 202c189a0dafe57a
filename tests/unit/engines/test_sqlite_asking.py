"""A restored file is asked one statement that reads, and nothing that it holds can do more."""

from pathlib import Path

import apsw
import pytest

from backupd.config.urls import DatabaseUrl
from backupd.drilling import ask_database, check_references
from backupd.engines.asking import Answer
from backupd.errors import BackupdError, Failed, Unreachable, UsageError

SHOP = """
PRAGMA journal_mode = wal;
CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT, score REAL, photo BLOB);
INSERT INTO customers VALUES (1, 'Ada', 1.5, x'00'), (2, NULL, 2, x'01');
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers);
INSERT INTO orders VALUES (1, 1), (2, 7), (3, 8), (4, NULL);
CREATE TABLE odd(a INTEGER REFERENCES "no such ""table", b INTEGER REFERENCES orders(customer));
INSERT INTO odd(a) VALUES (1);
CREATE TABLE lost(a INTEGER REFERENCES "no such ""table"); INSERT INTO lost VALUES (1);
CREATE VIEW hostile AS SELECT load_extension('/tmp/x') AS a;
CREATE VIEW told AS SELECT * FROM pragma_database_list;
CREATE VIEW endless AS WITH RECURSIVE n(a) AS (VALUES (1) UNION ALL SELECT a + 1 FROM n) SELECT max(a) AS a FROM n;
CREATE VIRTUAL TABLE words USING fts5(text); INSERT INTO words VALUES ('one two');
"""


@pytest.fixture
def shop(tmp_path: Path) -> DatabaseUrl:
    """A file in WAL mode, without a WAL."""
    path = tmp_path / "restored #1%.db"
    link = apsw.Connection(str(path))
    link.execute(SHOP).fetchall()
    link.close()
    return DatabaseUrl("sqlite", path)


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("SELECT count(*) FROM customers;", 2),
        ("SELECT name FROM customers", "Ada"),
        ("SELECT name FROM customers ORDER BY id DESC -- the last", None),
        ("SELECT sum(score) FROM customers", 3.5),
        ("WITH c AS (SELECT rowid AS n FROM customers) SELECT max(n) FROM c", 2),
        ("SELECT count(*) FROM words WHERE words MATCH 'two'", 1),
        ("SELECT photo FROM customers", UsageError),
        ("SELECT 1; DROP TABLE orders", UsageError),
        ("DELETE FROM orders", UsageError),
        ("DELETE FROM orders RETURNING 1", UsageError),
        ("ATTACH '/tmp/x' AS x", UsageError),
        ("PRAGMA query_only = OFF", UsageError),
        ("SELECT * FROM pragma_database_list", UsageError),
        ("SELECT load_extension('/tmp/x')", UsageError),
        ("SELECT a FROM hostile", UsageError),
        ("SELECT count(*) FROM told", UsageError),
        ("SELECT 1, 2", UsageError),
        ("SELECT 1 WHERE 0", UsageError),
        ("SELECT ?", UsageError),
        ("SELECT * FROM nothing", UsageError),
        ("", UsageError),
        ("SELECT json_extract(name, '$') FROM customers", Failed),
        ("SELECT zeroblob(500000000)", Failed),
        ("SELECT a FROM endless", Failed),
    ],
)
def test_one_statement_that_reads(shop: DatabaseUrl, statement: str, answer: Answer | type[BackupdError]) -> None:
    """A plain value, or an error without one; no file appears beside the database, and it stays as it was."""
    before = shop.path.read_bytes()
    if isinstance(answer, type):
        with pytest.raises(answer) as caught:
            ask_database(shop, statement, timeout=0.2 if "endless" in statement else 30.0)
        assert "Ada" not in f"{caught.value} {caught.value.hint}"
    else:
        got = ask_database(shop, statement)
        assert (got, type(got)) == (answer, type(answer))
    assert (list(shop.path.parent.iterdir()), shop.path.read_bytes()) == ([shop.path], before)


def test_broken_references_are_counted(shop: DatabaseUrl) -> None:
    """By table and key; a key that cannot be checked is told, and stops nothing."""
    assert check_references(shop) == [
        'foreign key 0 of table lost: 1 rows refer to rows of no such "table that are not there',
        "a foreign key of table odd cannot be checked: what it refers to is no key",
        "foreign key 0 of table orders: 2 rows refer to rows of customers that are not there",
    ]


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    """A file that is not there, and one that is something else."""
    path = tmp_path / "file"
    for look in (lambda url: ask_database(url, "SELECT 1"), check_references):
        path.unlink(missing_ok=True)
        with pytest.raises(Unreachable):
            look(DatabaseUrl("sqlite", path))
        path.write_bytes(b"no database" * 200)
        with pytest.raises(Unreachable):
            look(DatabaseUrl("sqlite", path))
