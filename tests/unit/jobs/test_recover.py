"""Recovery into a real SQLite database: what a mistake took comes back while somebody else writes, and goes again."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.engines.sqlite_live import SqliteLive, open_live
from backupd.engines.sqlite_text import literal, selections
from backupd.errors import Failed, IntegrityError, SafetyRefused, TryAgain, Unreachable, UsageError
from backupd.jobs.recover import Recovery, carry_out, prepare, prepare_undo, read_undo, take_back
from backupd.jobs.recoverroots import Wanted, parse_condition
from backupd.jobs.recoverscript import script_lines, write_private
from backupd.model import Cells, Change
from backupd.records.plan import Rules
from backupd.records.subject import parse_subject
from backupd.report import Tally
from backupd.wiring import ask_rows
from tests.cli.kit import CHINOOK
from tests.recovery import MemoryStored, MemoryTable

NOW = datetime(2026, 11, 21, 23, tzinfo=UTC)
MORE = """
CREATE TABLE Wallet (WalletId INTEGER PRIMARY KEY, CustomerId INT REFERENCES Customer ON DELETE CASCADE,
  CardId INT NOT NULL REFERENCES Card ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, Sum REAL, Token BLOB);
CREATE TABLE Card (CardId INTEGER PRIMARY KEY AUTOINCREMENT,
  WalletId INT NOT NULL REFERENCES Wallet ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE Ticket (Nr TEXT PRIMARY KEY COLLATE NOCASE, CustomerId INT REFERENCES Customer(CustomerId) ON DELETE SET NULL,
  Rep INT DEFAULT 1 REFERENCES Employee ON DELETE SET DEFAULT, Text TEXT, Long INT GENERATED ALWAYS AS (length(Text)));
CREATE TABLE Visit (CustomerId INT REFERENCES Customer ON DELETE CASCADE, Page TEXT);
CREATE TABLE "Robert'); DROP TABLE ""Customer""; --" ("a "" b" TEXT, "x]y'z;" INT REFERENCES Customer ON DELETE CASCADE,
  PRIMARY KEY ("a "" b")) WITHOUT ROWID;
"""
EVIL = 'Robert\'); DROP TABLE "Customer"; --'


def run(path: Path, text: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys=ON")
        return db.execute(text, values).fetchall()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample database with cascades, a circle, and rows whose names and values look like SQL."""
    path = tmp_path_factory.mktemp("recover") / "shop.db"
    shutil.copy(CHINOOK, path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'ON DELETE NO ACTION', 'ON DELETE CASCADE')"
            " WHERE name IN ('Invoice', 'InvoiceLine')"
        )
        db.commit()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(MORE)
        db.execute("INSERT INTO Wallet VALUES (1, 5, 7, 0.1, x'00ff'), (2, 6, 8, 9e999, NULL)")
        db.execute("INSERT INTO Card VALUES (7, 1), (8, 2)")
        db.execute(
            "INSERT INTO Ticket VALUES ('T-1', 5, 3, 'a' || char(0) || 'b'), ('T-2', 5, 3, '\x1b[31m''; --'),"
            " ('T-3', 6, 3, 'x')"
        )
        db.execute("INSERT INTO Visit VALUES (5, 'home'), (5, 'home'), (5, NULL), (6, 'home')")
        db.execute(f'INSERT INTO "{EVIL.replace(chr(34), chr(34) * 2)}" VALUES (?, 5)', ("'; DROP TABLE Customer; --",))
        db.commit()
    return path


@pytest.fixture
def shop(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "shop.db"))


def stored_of(path: Path) -> MemoryStored:
    """What a snapshot of a file holds."""
    with closing(SqliteLive(path)) as live:
        tables = {}
        for name, t in live.schema().tables.items():
            columns = [c.name for c in t.columns]
            tables[name] = MemoryTable(
                name, tuple((c.name, c.type) for c in t.columns), t.key, list(live.rows(name, columns))
            )
        return MemoryStored(tables)


@pytest.fixture(scope="module")
def snapshot(made: Path) -> MemoryStored:
    return stored_of(made)


def state(path: Path) -> dict[str, Counter[Cells]]:
    """Everything but counters, types included."""
    return {
        name: Counter(tuple(map(repr, row)) for row in table.held) for name, table in stored_of(path).tables.items()
    }  # type: ignore[return-value]


def planned(
    stored: MemoryStored, live: SqliteLive, subject: str = "Customer:5", rules: Rules | None = None, **more: object
) -> Recovery:
    wanted = Wanted(parse_subject(subject) if subject else None, ask_rows=ask_rows)
    for name in ("tables", "where"):
        if name in more:
            setattr(wanted, name, more.pop(name))
    return prepare(stored, live, wanted, rules or Rules(), Tally(), **more)  # type: ignore[arg-type]


def applied(recovery: Recovery, live: SqliteLive, undo: Path, triggers: bool | None = None) -> None:
    carry_out(recovery, live, "ab" * 32, undo, NOW, Tally(), triggers=triggers)


def test_a_customer_comes_back_while_somebody_writes_and_goes_again(
    shop: Path, snapshot: MemoryStored, tmp_path: Path
) -> None:
    """Cascades, SET NULL, SET DEFAULT, a circle, rows without a key, hostile names: all equal, and what is newer stays."""
    before = state(shop)
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    script = (
        "import sqlite3,sys\n"
        f"db = sqlite3.connect({str(shop)!r}, isolation_level=None, timeout=30)\n"
        "db.execute('PRAGMA synchronous=OFF')\n"
        "n = 0\n"
        "print('ready', flush=True)\n"
        "import select\n"
        "while n < 5 or not select.select([sys.stdin], [], [], 0.002)[0]:\n"
        "    n += 1\n"
        "    db.execute('INSERT INTO Genre VALUES (?, ?)', (1000 + n, 'newer'))\n"
        "print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    undo = tmp_path / "undo.jsonl"
    with closing(open_live(shop)) as live:
        recovery = planned(snapshot, live)
        counts = recovery.plan.counts
        assert (counts["repair"], counts["conflict"], counts["same"]) == (2, 0, 0)
        applied(recovery, live, undo)
        assert planned(snapshot, live).plan.changes == ()
        out, _ = writer.communicate("stop")
        newer = {(repr(1000 + n), repr("newer")): 1 for n in range(1, int(out) + 1)}
        assert state(shop) == {**before, "Genre": before["Genre"] + Counter(newer)}
        assert undo.stat().st_mode & 0o777 == 0o600
        between = read_undo(undo)
        assert prepare_undo(between, live).counts["conflict"] == 0
        again = tmp_path / "again.jsonl"
        take_back(between, live, again, NOW, Tally(), triggers=None)
        assert run(shop, "SELECT count(*) FROM Ticket WHERE CustomerId IS NULL") == [(2,)]
        assert prepare_undo(between, live).changes == ()
        take_back(read_undo(again), live, tmp_path / "third.jsonl", NOW, Tally(), triggers=None)
    assert state(shop) == {**before, "Genre": before["Genre"] + Counter(newer)}
    assert run(shop, "PRAGMA foreign_key_check") == []
    assert run(shop, "PRAGMA integrity_check") == [("ok",)]


def test_undo_brings_an_equal_database_back(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """Row by row what it was between the mistake and the recovery."""
    run(shop, "DELETE FROM Customer WHERE CustomerId IN (5, 6)")
    between = state(shop)
    with closing(open_live(shop)) as live:
        recovery = planned(snapshot, live, "", tables=["Customer"])
        applied(recovery, live, tmp_path / "u")
        take_back(read_undo(tmp_path / "u"), live, tmp_path / "v", NOW, Tally(), triggers=None)
    assert state(shop) == between


def test_a_plan_that_went_stale_is_refused(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """A row that somebody wrote, or a column that came, between plan and execution: 75, nothing written, no undo file."""
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    for change in (
        "INSERT INTO Customer (CustomerId, FirstName, LastName, Email) VALUES (5, 'New', 'One', 'n@x')",
        "ALTER TABLE Visit ADD COLUMN since TEXT",
    ):
        with closing(open_live(shop)) as live:
            recovery = planned(snapshot, live)
            run(shop, change)
            between = state(shop)
            with pytest.raises(TryAgain, match="changed since the plan"):
                applied(recovery, live, tmp_path / "undo")
        run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
        assert not (tmp_path / "undo").exists()
        assert between.keys() == state(shop).keys()


def test_a_conflict_is_never_overwritten_silently(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """By default nothing at all is written; somebody has to say by table or by column that the snapshot wins."""
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    run(shop, "UPDATE Ticket SET Text = 'newer' WHERE Nr = 'T-1'")
    between = state(shop)
    with closing(open_live(shop)) as live:
        with pytest.raises(SafetyRefused, match="1 record is in conflict in Ticket"):
            applied(planned(snapshot, live), live, tmp_path / "a")
        assert state(shop) == between
        applied(planned(snapshot, live, rules=Rules(tables={"Ticket": "skip"})), live, tmp_path / "b")
        assert run(shop, "SELECT Text, CustomerId FROM Ticket WHERE Nr = 'T-1'") == [("newer", 5)]
        rules = Rules(columns=frozenset({("Ticket", "Text")}))
        applied(planned(snapshot, live, rules=rules), live, tmp_path / "c")
    assert run(shop, "SELECT Text FROM Ticket WHERE Nr = 'T-1'") == [("a\0b",)]


def test_a_column_that_must_have_a_value_now(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """Is refused by name, until a value is given for it."""
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    with closing(sqlite3.connect(shop)) as db:
        db.executescript(
            "CREATE TABLE v2 (CustomerId INT REFERENCES Customer ON DELETE CASCADE, Page TEXT, Site TEXT NOT NULL);"
            "INSERT INTO v2 SELECT *, 's' FROM Visit; DROP TABLE Visit; ALTER TABLE v2 RENAME TO Visit;"
        )
    with closing(open_live(shop)) as live:
        with pytest.raises(SafetyRefused, match=r"column Visit\.Site must have a value"):
            applied(planned(snapshot, live), live, tmp_path / "u")
        applied(planned(snapshot, live, rules=Rules(values={("Visit", "Site"): "old"})), live, tmp_path / "u")
    assert run(shop, "SELECT count(*) FROM Visit WHERE CustomerId = 5 AND Site = 'old'") == [(3,)]


def test_triggers_have_to_be_decided(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """They are named; off means that none runs, on that they do."""
    run(shop, "CREATE TABLE log (n INTEGER PRIMARY KEY)")
    run(shop, "CREATE TRIGGER seen AFTER INSERT ON Invoice BEGIN INSERT INTO log VALUES (NULL); END")
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    with closing(open_live(shop)) as live:
        with pytest.raises(SafetyRefused, match="seen on Invoice"):
            applied(planned(snapshot, live), live, tmp_path / "a")
        applied(planned(snapshot, live), live, tmp_path / "a", triggers=False)
        assert run(shop, "SELECT count(*) FROM log") == [(0,)]
        run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
        applied(planned(snapshot, live), live, tmp_path / "b", triggers=True)
    assert run(shop, "SELECT count(*) > 0 FROM log") == [(1,)]


def test_names_and_values_that_look_like_sql_do_nothing(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """Neither in the plan nor in the script, which the standard library's SQLite runs to the same end."""
    before = state(shop)
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    with closing(open_live(shop)) as live:
        plan = planned(snapshot, live).plan
        lines = list(script_lines(live, plan.changes, triggers=True))
        write_private(tmp_path / "s.sql", (line.encode() + b"\n" for line in lines))
        with pytest.raises(SafetyRefused, match="is there already"):
            write_private(tmp_path / "s.sql", iter([b"x"]))
    assert (tmp_path / "s.sql").stat().st_mode & 0o777 == 0o600
    assert "\x1b" not in (tmp_path / "s.sql").read_text()
    script = "\n".join(line for line in lines if not line.startswith("."))
    with closing(sqlite3.connect(shop)) as db:
        db.executescript(script)
    assert state(shop) == before
    with closing(sqlite3.connect(shop)) as db, pytest.raises(sqlite3.IntegrityError):
        db.executescript(script)
    assert state(shop) == before


def test_killed_between_undo_file_and_commit(shop: Path, made: Path, tmp_path: Path) -> None:
    """The database is as it was, and the file says that there is nothing to undo."""
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    between = state(shop)
    child = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.unit.jobs.test_recover import *\n"
        "class Dies(SqliteLive):\n"
        "    def apply(self, changes):\n"
        "        super().apply(changes[:20])\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "live = Dies(Path(sys.argv[1]))\n"
        "applied(planned(stored_of(Path(sys.argv[2])), live), live, Path(sys.argv[3]))\n"
    )
    undo = tmp_path / "undo"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", child, str(shop), str(made), str(undo)], cwd=root, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert state(shop) == between
    with closing(open_live(shop)) as live:
        plan = prepare_undo(read_undo(undo), live)
        assert plan.changes == ()
        assert plan.counts["same"] > 0
        assert plan.counts["conflict"] == 0


def test_sets_of_records(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """All that is missing of a table, rows by a column, and only the named rows without what belongs to them."""
    before = state(shop)
    run(shop, "DELETE FROM Customer WHERE CustomerId IN (5, 6, 7)")
    with closing(open_live(shop)) as live:
        where = [parse_condition("Customer: LastName=Wichterlová")]
        some = planned(snapshot, live, "", where=where, children=False)
        assert [e.table for e in some.plan.entries] == ["Customer"]
        where = [parse_condition("Customer: CustomerId between 5 and 6 and LastName like 'Wich%'")]
        same = planned(snapshot, live, "", where=where, children=False)
        assert same.plan.changes == some.plan.changes
        applied(planned(snapshot, live, "", tables=["Customer", "Visit"]), live, tmp_path / "u")
    assert state(shop) == before


def test_what_is_not_there(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """Unknown tables and columns are usage; an unknown record is told in the words for one that was erased."""
    with closing(open_live(shop)) as live:
        with pytest.raises(UsageError, match="no rows of a table Moon"):
            planned(snapshot, live, "Moon:1")
        with pytest.raises(Failed, match="it is not in this snapshot, or erased"):
            planned(snapshot, live, "Customer:404404")
        with pytest.raises(UsageError, match="no column Mood"):
            planned(snapshot, live, "", where=[parse_condition("Customer:Mood=1")])
        with pytest.raises(UsageError, match=r"the live database has no Customer\.Mood"):
            planned(snapshot, live, rules=Rules(values={("Customer", "Mood"): 1}))
    with pytest.raises(Unreachable):
        open_live(tmp_path / "not-there.db")
    for text in ("Customer", ":5", "Customer:"):
        with pytest.raises((UsageError, Failed)), closing(open_live(shop)) as live:
            planned(snapshot, live, text)


def test_locked_for_too_long(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """Somebody else's lock is 75, and leaves no undo file."""
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    with closing(open_live(shop, timeout=0)) as live:
        recovery = planned(snapshot, live)
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[2] / "sqlite_child.py"), "locked", str(shop)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(TryAgain, match="locked"):
            applied(recovery, live, tmp_path / "u")
    child.communicate("")
    assert not (tmp_path / "u").exists()


def test_undo_of_another_database_or_a_cut_file_is_refused(shop: Path, snapshot: MemoryStored, tmp_path: Path) -> None:
    """By the identity in it, and by its last line."""
    run(shop, "DELETE FROM Customer WHERE CustomerId = 5")
    with closing(open_live(shop)) as live:
        applied(planned(snapshot, live), live, tmp_path / "u")
    other = Path(shutil.copy(shop, tmp_path / "other.db"))
    with closing(open_live(other)) as live, pytest.raises(SafetyRefused, match="is of"):
        prepare_undo(read_undo(tmp_path / "u"), live)
    (tmp_path / "cut").write_bytes((tmp_path / "u").read_bytes()[:-10])
    with pytest.raises(IntegrityError):
        read_undo(tmp_path / "cut")


def test_a_type_that_makes_another_value_is_refused(shop: Path, tmp_path: Path) -> None:
    """A number that a column would keep as text now is not written as if it were the same."""
    run(shop, "CREATE TABLE typed (id INTEGER PRIMARY KEY, x)")
    run(shop, "INSERT INTO typed VALUES (1, 5)")
    stored = stored_of(shop)
    run(shop, "DROP TABLE typed")
    run(shop, "CREATE TABLE typed (id INTEGER PRIMARY KEY, x TEXT)")
    with closing(open_live(shop)) as live:
        recovery = planned(stored, live, "typed:1")
        assert any("typed.x was untyped and is TEXT now" in text for text in recovery.plan.warnings)
        with pytest.raises(Failed, match=r"typed\.x would make another value"):
            applied(recovery, live, tmp_path / "u")
    assert run(shop, "SELECT * FROM typed") == []


def test_a_conflict_clause_of_the_schema_replaces_nothing(shop: Path, tmp_path: Path) -> None:
    """UNIQUE ON CONFLICT REPLACE would delete another row without a word."""
    run(shop, "CREATE TABLE u (id INTEGER PRIMARY KEY, x UNIQUE ON CONFLICT REPLACE)")
    run(shop, "INSERT INTO u VALUES (1, 'a')")
    with (
        closing(open_live(shop)) as live,
        pytest.raises(SafetyRefused, match="meets one"),
        live.transaction(triggers=True),
    ):
        live.apply([Change("insert", "u", {"id": 2}, {}, {"id": 2, "x": "a"})])
    assert run(shop, "SELECT * FROM u") == [(1, "a")]


CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(max_size=40),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=20))
def test_every_value_survives_its_literal(values: list[object]) -> None:
    """Numbers to the last bit, texts with NUL and control characters, bytes."""
    with closing(sqlite3.connect(":memory:")) as db:
        for value in values:
            (found,) = db.execute(f"SELECT {literal(value, 'utf-8')}").fetchone()  # type: ignore[arg-type]
            assert repr(found) == repr(value)


def test_many_values_are_asked_for_in_batches() -> None:
    """However many they are, and with composite keys."""
    asked: Sequence[Cells] = [(n, str(n)) for n in range(1000)]
    texts = list(selections("t", ["x"], ["a", "b"], asked))
    assert len(texts) == 5
    assert sum(len(bindings) for _, bindings in texts) == 2000
