"""Rows taken out of a database file: what belongs to them goes, what only refers to them stays, and no byte is left."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from backupd.engines.base import RowRule
from backupd.engines.sqlite_takeout import take_out
from backupd.errors import Failed
from backupd.model import Cell


@dataclass(frozen=True)
class Rule:
    """Rows whose first cells are these go, and of others some become NULL."""

    going: tuple[Cell, ...]
    positions: tuple[int, ...] = (0,)
    emptied: tuple[Cell, ...] = ()

    def judge(self, cells: Sequence[Cell]) -> Sequence[int] | None:
        cell = cells[self.positions[0]]
        return None if cell in self.going else self.positions if cell in self.emptied else ()


def rules(**known: Rule) -> Callable[[str, Sequence[str]], RowRule | None]:
    return lambda table, columns: known.get(table)


def made(path: Path, script: str) -> Path:
    db = sqlite3.connect(path)
    db.executescript(script)
    db.close()
    return path


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute(f'SELECT * FROM "{table}" ORDER BY 1').fetchall()
    finally:
        db.close()


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_everything_that_refers_follows(tmp_path: Path, journal: str, encoding: str) -> None:
    """Cascades, restrictions, cycles, keys of two columns, tables without rowids; SET NULL children stay; triggers do not run."""
    path = made(
        tmp_path / "db",
        f"""
        PRAGMA encoding='{encoding}'; PRAGMA journal_mode={journal};
        CREATE TABLE p(id INTEGER PRIMARY KEY, x, boss REFERENCES p ON DELETE SET NULL, best REFERENCES c(k));
        CREATE TABLE c(k TEXT, p INT REFERENCES p(id), PRIMARY KEY(k)) WITHOUT ROWID;
        CREATE TABLE "od""d; --"(a, b, c TEXT REFERENCES c ON DELETE CASCADE, PRIMARY KEY(a, b));
        CREATE TABLE leaf(a, b, FOREIGN KEY(a, b) REFERENCES "od""d; --"(a, b) ON DELETE RESTRICT);
        CREATE TABLE note(p INT REFERENCES p(id) ON DELETE SET NULL, t);
        CREATE TABLE log(t);
        CREATE TRIGGER tell AFTER DELETE ON p BEGIN INSERT INTO log VALUES (old.x); END;
        INSERT INTO p VALUES (1, 'kept', 2, NULL), (2, 'canary', 1, 'canary k'), (3, 'kept', NULL, 'k3');
        INSERT INTO c VALUES ('canary k', 2), ('k3', 3), ('stray', 99);
        INSERT INTO "od""d; --" VALUES (1, 'u', 'canary k'), (2, 'v', 'k3');
        INSERT INTO leaf VALUES (1, 'u'), (2, 'v'), (NULL, 'u');
        INSERT INTO note VALUES (2, 'kept'), (3, 'kept');
        INSERT INTO p VALUES (100, 'canary long ago', NULL, NULL);
        DELETE FROM p WHERE id = 100;
        DELETE FROM log;
        """,
    )
    taken = take_out(path, rules(p=Rule((2,))))
    assert (taken.rows, taken.changed, taken.warnings) == (4, True, ())
    assert rows(path, "p") == [(1, "kept", None, None), (3, "kept", None, "k3")]
    assert rows(path, "c") == [("k3", 3), ("stray", 99)]
    assert rows(path, 'od""d; --') == [(2, "v", "k3")]
    assert rows(path, "leaf") == [(None, "u"), (2, "v")]
    assert rows(path, "note") == [(None, "kept"), (3, "kept")]
    assert rows(path, "log") == []
    data = path.read_bytes()
    assert "canary".encode(encoding) not in data
    assert (data[18:20] == b"\2\2") == (journal == "wal")
    assert [file.name for file in tmp_path.iterdir()] == ["db"]


def test_tables_that_the_ledger_does_not_know_change_nothing(tmp_path: Path) -> None:
    """Not a byte of the file is another one, also of one that keeps a WAL."""
    path = made(tmp_path / "db", "PRAGMA journal_mode=wal; CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 2);")
    before = path.read_bytes()
    assert not take_out(path, rules(other=Rule((1,)))).changed
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["db"]


def test_what_was_deleted_before_stands_nowhere_in_the_file(tmp_path: Path) -> None:
    """Neither in its free pages nor in the samples that ANALYZE keeps, though no row is left to be taken out."""
    words = ", ".join(f"('canary-{n}-{'x' * 60}', {n})" for n in range(200))
    path = made(
        tmp_path / "db",
        "PRAGMA secure_delete=OFF; CREATE TABLE t(a, b); CREATE INDEX i ON t(a);"
        f" INSERT INTO t VALUES {words}; ANALYZE; DELETE FROM t;",
    )
    assert b"canary-7-" in path.read_bytes()
    taken = take_out(path, rules(t=Rule(("canary-7",))))
    assert taken.changed
    assert b"canary-" not in path.read_bytes()


def test_rows_by_what_they_are(tmp_path: Path) -> None:
    """Typed as the file holds them; a column may be emptied by a rule; texts that are no texts are judged all the same."""
    path = made(
        tmp_path / "db",
        "CREATE TABLE t(rowid, a, r REAL); INSERT INTO t VALUES (9, 1, 1), (9, '1', 2), (9, CAST(x'ff41' AS TEXT), 3);"
        "CREATE VIRTUAL TABLE words USING fts5(x);",
    )
    taken = take_out(path, rules(t=Rule((1,), (1,), ("\\xffA",))))
    assert taken.rows == 1
    assert "words" in taken.warnings[0]
    assert rows(path, "t") == [(9, "1", 2.0), (9, None, 3.0)]


def test_what_cannot_be_taken_out_is_said_without_a_value(tmp_path: Path) -> None:
    """A column that may not be NULL, a file that is none: an error that quotes nothing, and no second file."""
    path = made(tmp_path / "db", "CREATE TABLE t(a NOT NULL, b); INSERT INTO t VALUES ('canary', 2);")
    with pytest.raises(Failed) as caught:
        take_out(path, rules(t=Rule((), (0,), ("canary",))))
    assert "canary" not in str(caught.value)
    (tmp_path / "junk").write_bytes(b"canary" * 1000)
    with pytest.raises(Failed):
        take_out(tmp_path / "junk", rules())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["db", "junk"]
