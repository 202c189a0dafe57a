"""An SQLite capture is the file of one moment, byte for byte, or an error that says why not."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from backupd.engines import sqlite_capture
from backupd.engines.base import StreamInfo, TableInfo
from backupd.engines.sqlite import open_source
from backupd.engines.sqlite_capture import SqliteSource, SqliteView
from backupd.engines.sqlite_facts import read_table
from backupd.engines.sqlite_pages import PageSink
from backupd.errors import BackupdError, SourceIncomplete, TryAgain, Unreachable
from tests.engines import ACCOUNTS, child, dump_file, make_bank

CHINOOK = Path(__file__).resolve().parents[2] / "data" / "chinook.sqlite"
RICH = """
CREATE TABLE plain (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, data BLOB);
CREATE TABLE rowids (a, b);
CREATE TABLE "odd ""name"" %" ("a b" TEXT, c INT, PRIMARY KEY (c, "a b")) WITHOUT ROWID;
CREATE TABLE strict_one (id INT PRIMARY KEY, v ANY) STRICT;
CREATE TABLE generated (a INT, b INT GENERATED ALWAYS AS (a * 2) STORED, c INT AS (a + 1) VIRTUAL);
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, v);
CREATE VIRTUAL TABLE search USING fts5(body);
CREATE VIEW big AS SELECT * FROM plain WHERE id > 10;
CREATE INDEX plain_name ON plain (name) WHERE name IS NOT NULL;
CREATE TRIGGER log AFTER INSERT ON rowids BEGIN UPDATE plain SET name = 'changed' WHERE id = 1; END;
INSERT INTO plain VALUES (1, 'A', x'00ff00'), (2, 'b' || char(0) || 'c', zeroblob(100000)), (3, NULL, randomblob(999));
INSERT INTO rowids VALUES (9223372036854775807, 1e308), (-0.0, 'text');
INSERT INTO "odd ""name"" %" VALUES ('x', 1), ('y', 1);
INSERT INTO strict_one VALUES (1, 'any');
INSERT INTO generated (a) VALUES (1), (2);
INSERT INTO counted (v) VALUES ('x');
INSERT INTO search VALUES ('the quick brown fox');
PRAGMA user_version = 77;
PRAGMA application_id = -5;
"""


def make(path: Path, *settings: str, script: str = RICH) -> None:
    """A database with the settings, made by the script."""
    db = apsw.Connection(str(path))
    for setting in settings:
        db.execute(f"PRAGMA {setting}").fetchall()
    db.execute(script).fetchall()
    db.close()


def drain(view: SqliteView) -> bytes:
    """The view's only stream."""
    return b"".join(view.read(view.streams[0]))


def capture(path: Path, *, check: bool = False) -> bytes:
    """The database as a capture sees it."""
    with SqliteSource(path, timeout=5).view(check=check) as view:
        return drain(view)


def listing(folder: Path) -> dict[str, bytes]:
    """The files of a folder; the -shm files, which hold no data, by name only."""
    return {path.name: b"" if path.name.endswith("-shm") else path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("page_size", [512 << n for n in range(8)])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
@pytest.mark.parametrize("auto_vacuum", [0, 1, 2])
def test_every_kind_of_file_is_captured_byte_for_byte(
    tmp_path: Path, page_size: int, encoding: str, auto_vacuum: int
) -> None:
    """Page sizes, encodings and vacuum modes do not change what is captured: the file."""
    path = tmp_path / "a.db"
    make(path, f"page_size={page_size}", f"encoding='{encoding}'", f"auto_vacuum={auto_vacuum}")
    before = listing(tmp_path)
    with open_source(path).view(check=True) as view:
        assert drain(view) == before["a.db"]
        facts = dict(view.facts)
    assert listing(tmp_path) == before
    assert facts == {
        "page_size": page_size,
        "page_count": len(before["a.db"]) // page_size,
        "encoding": encoding,
        "user_version": 77,
        "application_id": -5,
        "auto_vacuum": auto_vacuum,
        "journal_mode": "delete",
        "schema_version": facts["schema_version"],
        "freelist_count": 0,
        "engine_version": apsw.sqlite_lib_version(),
        "library_version": apsw.sqlite_lib_version(),
    }


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "memory", "off", "wal"])
def test_every_journal_mode_is_captured_and_the_folder_left_alone(tmp_path: Path, mode: str) -> None:
    """A closed database is captured byte for byte, and no file appears, changes or goes away."""
    path = tmp_path / "a.db"
    make(path, f"journal_mode={mode}")
    before = listing(tmp_path)
    assert capture(path) == before["a.db"]
    assert listing(tmp_path) == before


def test_tables_are_listed_with_keys_and_rows(tmp_path: Path) -> None:
    """Tables come with their declared keys and counts; views, shadow tables and SQLite's own are left out."""
    path = tmp_path / "a.db"
    make(path)
    with open_source(path).view() as view:
        assert list(view.tables) == [
            TableInfo("counted", ("id",), 1),
            TableInfo("generated", (), 2),
            TableInfo('odd "name" %', ("c", "a b"), 2),
            TableInfo("plain", ("id",), 3),
            TableInfo("rowids", (), 2),
            TableInfo("search", (), 1),
            TableInfo("strict_one", ("id",), 1),
        ]
        assert list(view.warnings) == []


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_rows_are_counted_in_the_middle_of_a_copy(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are of the pinned moment, copy and counts do not disturb each other, and each table is counted once, by itself."""
    path = tmp_path / "a.db"
    db = apsw.Connection(str(path))
    db.execute(
        f"PRAGMA journal_mode={mode}; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE TABLE u (b)"
    ).fetchall()
    db.execute("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 6000)"
               " INSERT INTO t SELECT i, randomblob(1000) FROM n")  # fmt: skip
    counts = []
    monkeypatch.setattr(sqlite_capture, "COUNT_AFTER", 2 << 20)
    monkeypatch.setattr(sqlite_capture, "read_table", lambda *which: counts.append(copied) or read_table(*which))
    with open_source(path).view() as view:
        copied, pieces = 0, []
        if mode == "wal":
            db.execute("DELETE FROM t WHERE id % 2")
        for piece in view.read(view.streams[0]):
            pieces.append(piece)
            copied += 1
        assert list(view.tables) == [TableInfo("t", ("id",), 6000), TableInfo("u", (), 0)]
        assert list(view.warnings) == []
    assert counts == [2, 3]
    assert copied > 4
    (tmp_path / "copy.db").write_bytes(b"".join(pieces))
    copy = apsw.Connection(str(tmp_path / "copy.db"))
    copy.execute("PRAGMA journal_mode=delete").fetchall()
    assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert copy.execute("SELECT count(*) FROM t").fetchall() == [(6000,)]


def test_a_view_ends_at_once_in_the_middle_of_a_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user's own error stays the error, the count is interrupted, and no file of SQLite's is left behind."""
    path = tmp_path / "a.db"
    make_bank(path, "wal")
    before = listing(tmp_path)
    counting = threading.Event()

    def endless(connection: apsw.Connection, name: str, kind: str) -> object:
        counting.set()
        return connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000) SELECT count(*) FROM n"
        ).fetchall()

    monkeypatch.setattr(sqlite_capture, "read_table", endless)
    failed: list[BaseException] = []

    def read(view: SqliteView) -> None:
        try:
            drain(view)
        except BackupdError as error:
            failed.append(error)

    began = time.monotonic()
    readers: list[threading.Thread] = []

    def give_up() -> None:
        with SqliteSource(path, timeout=5).view() as view:
            readers.append(threading.Thread(target=read, args=(view,)))
            readers[0].start()
            assert counting.wait(20)
            raise TryAgain("the user's own")

    with pytest.raises(TryAgain, match="the user's own"):
        give_up()
    (reader,) = readers
    reader.join(20)
    assert not reader.is_alive()
    assert time.monotonic() - began < 20
    assert len(failed) == 1
    assert listing(tmp_path) == before


def test_a_table_of_an_unknown_module_is_not_counted(tmp_path: Path) -> None:
    """A virtual table whose module is missing has no count, and a warning names it; its pages are captured."""
    path = tmp_path / "a.db"
    make(path, script="CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    db = apsw.Connection(str(path))
    db.execute("PRAGMA writable_schema=ON")
    db.execute(
        "INSERT INTO sqlite_schema VALUES ('table', 'gone', 'gone', 0, 'CREATE VIRTUAL TABLE gone USING lost(x)')"
    )
    db.close()
    with open_source(path).view(check=True) as view:
        assert list(view.tables) == [TableInfo("gone", (), None), TableInfo("t", (), 1)]
        assert len(view.warnings) == 1
        assert "gone" in view.warnings[0]
        assert drain(view) == path.read_bytes()


def test_an_empty_file_is_an_empty_database(tmp_path: Path) -> None:
    """A file of no bytes is a legal database of no pages: a stream of no bytes."""
    path = tmp_path / "a.db"
    path.touch()
    with open_source(path).view(check=True) as view:
        assert drain(view) == b""
        assert view.streams[0] == StreamInfo("main", "pages", 0, 4096)
        assert view.facts["engine_version"] is None
        assert list(view.tables) == []
    assert listing(tmp_path) == {"a.db": b""}


def test_a_database_of_one_page(tmp_path: Path) -> None:
    """Page 1 alone is captured byte for byte."""
    path = tmp_path / "a.db"
    make(path, script="PRAGMA user_version = 1")
    assert path.stat().st_size == 4096
    assert capture(path) == path.read_bytes()


def test_free_pages_are_captured(tmp_path: Path) -> None:
    """Pages on the free list are part of the file."""
    path = tmp_path / "a.db"
    make(path, script="CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(3000000)); DELETE FROM t")
    with open_source(path).view() as view:
        assert view.facts["freelist_count"] == 733
        assert drain(view) == path.read_bytes()


def test_a_public_sample_is_captured_byte_for_byte(tmp_path: Path) -> None:
    """Chinook, written by another version of SQLite."""
    path = tmp_path / "chinook.sqlite"
    shutil.copyfile(CHINOOK, path)
    assert capture(path, check=True) == CHINOOK.read_bytes()


def test_a_file_of_an_old_sqlite_is_captured_byte_for_byte(tmp_path: Path) -> None:
    """Before version 3.7 the header held no page count; it stays as it is."""
    path = tmp_path / "a.db"
    make(path)
    old = bytearray(path.read_bytes())
    old[28:32] = bytes(4)
    old[92:100] = bytes(8)
    path.write_bytes(old)
    with open_source(path).view(check=True) as view:
        assert view.facts["engine_version"] is None
        assert drain(view) == bytes(old)


def test_bytes_behind_the_last_page_are_no_part_of_the_database(tmp_path: Path) -> None:
    """What a file holds past its page count is not captured."""
    path = tmp_path / "a.db"
    make(path)
    data = path.read_bytes()
    path.write_bytes(data + bytes(8192))
    assert capture(path, check=True) == data


@pytest.mark.parametrize(
    "name", ["a b.db", "100%41.db", "q?mode=memory", "h#1", "äöü-数据.db", "file:x.db", "'\";--", ":memory:", "-x"]
)
def test_odd_names_are_only_names(tmp_path: Path, name: str) -> None:
    """A path is never read as a URI, a pattern or a special name."""
    path = tmp_path / name
    make(tmp_path / "plain.db")
    (tmp_path / "plain.db").rename(path)
    assert capture(path) == path.read_bytes()
    assert os.listdir(tmp_path) == [name]


def test_a_link_to_a_database_is_followed(tmp_path: Path) -> None:
    """A source may be named by a symbolic link; its WAL lies beside the real file."""
    (tmp_path / "real").mkdir()
    path = tmp_path / "real" / "a.db"
    make_bank(path, "wal")
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    with child("committed", path):
        data = capture(tmp_path / "link.db")
        assert data != path.read_bytes()
        assert capture(tmp_path / "folder" / "a.db") == data
    assert data == path.read_bytes()


def write_copy(tmp_path: Path, data: bytes) -> dict[str, list[tuple[object, ...]]]:
    """The rows of a captured file, read by the other SQLite of this process."""
    copy = tmp_path / "copy" / "copy.db"
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(data)
    db = sqlite3.connect(copy)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in ("accounts", "counter")}
    rows["version"] = db.execute("PRAGMA user_version").fetchall()
    db.close()
    shutil.rmtree(copy.parent)
    return rows


def churned(tmp_path: Path, mode: str, moments: int, pages: int) -> None:
    """Capture that many different moments while page 1 changes with every transaction."""
    path = tmp_path / "source.db"
    make_bank(path, mode, f"page_size={pages}", "auto_vacuum=2")
    seen: set[object] = set()
    end = time.monotonic() + 120
    with child("churn", path) as writer:
        while len(seen) < moments and time.monotonic() < end:
            with open_source(path).view(check=True) as view:
                first = next(view.read(view.streams[0]))
                data = drain(view)
                assert data.startswith(first)
                facts = dict(view.facts)
            rows = write_copy(tmp_path, data)
            assert rows["counter"] == rows["version"] == [(facts["user_version"],)]
            assert len(data) == int(str(facts["page_size"])) * int(str(facts["page_count"]))
            seen.add(facts["user_version"])
    assert writer.result["commits"] > 0
    assert len(seen) == moments


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_page_one_is_that_of_the_pinned_moment(tmp_path: Path, mode: str) -> None:
    """The header agrees with the rows, whatever commits, checkpoints and VACUUMs happen meanwhile."""
    churned(tmp_path, mode, 12, 1024)


@pytest.mark.slow
@pytest.mark.parametrize("pages", [512, 4096, 65536])
@pytest.mark.parametrize("mode", ["wal", "truncate", "persist"])
def test_page_one_is_that_of_the_pinned_moment_many_times(tmp_path: Path, mode: str, pages: int) -> None:
    """The same for longer and for other page sizes."""
    churned(tmp_path, mode, 150, pages)


def test_a_stopped_writer_in_wal_mode_gives_the_checkpointed_file(tmp_path: Path) -> None:
    """With page 1 in the WAL many times, the capture is what a checkpoint then makes of the file."""
    path = tmp_path / "a.db"
    make_bank(path, "wal")
    with child("committed", path):
        before = listing(tmp_path)
        with open_source(path).view() as view:
            data = drain(view)
            assert view.facts["user_version"] == 29
        assert listing(tmp_path) == before
        assert data != before["a.db"]
    assert os.listdir(tmp_path) == ["a.db"]
    assert path.read_bytes() == data


def test_a_running_program_keeps_its_wal(tmp_path: Path) -> None:
    """Captures of a database that another program has open change none of its files."""
    path = tmp_path / "a.db"
    make_bank(path, "wal")
    with child("attached", path):
        before = listing(tmp_path)
        assert set(before) == {"a.db", "a.db-wal", "a.db-shm"}
        assert capture(path) == before["a.db"]
        assert listing(tmp_path) == before


def test_the_wal_of_a_killed_program_is_read_and_left_alone(tmp_path: Path) -> None:
    """Commits that only the WAL holds are captured; neither it nor the database is changed."""
    path = tmp_path / "a.db"
    make_bank(path, "wal")
    with child("committed", path) as program:
        program.kill()
    before = listing(tmp_path)
    for with_shm in (True, False):
        if not with_shm:
            (tmp_path / "a.db-shm").unlink()
        data = capture(path, check=True)
        assert write_copy(tmp_path, data)["version"] == [(29,)]
        assert listing(tmp_path) == before


def test_a_hot_journal_is_rolled_back_and_reported(tmp_path: Path) -> None:
    """A transaction that a killed program left half-way is not captured, and a warning says so."""
    path = tmp_path / "a.db"
    make_bank(path)
    whole = path.read_bytes()
    with child("half", path) as program:
        program.kill()
    assert path.read_bytes() != whole
    with open_source(path).view(check=True) as view:
        assert drain(view) == whole
        assert "rolled back" in "".join(view.warnings)
    assert listing(tmp_path) == {"a.db": whole}


def test_a_locked_source_is_to_be_tried_again(tmp_path: Path) -> None:
    """A lock held for longer than the timeout is TryAgain, for every journal mode that has one."""
    path = tmp_path / "a.db"
    make_bank(path)
    with child("locked", path), pytest.raises(TryAgain, match="stayed locked"), SqliteSource(path, timeout=0.1).view():
        pass


def test_the_lock_of_the_moment_is_held_to_the_end(tmp_path: Path) -> None:
    """In rollback mode nobody commits while a view is open, and somebody does once it is closed."""
    path = tmp_path / "a.db"
    make_bank(path)
    with open_source(path).view() as view:
        data = drain(view)
        with child("commit", path) as writer:
            assert writer.said == "busy"
        assert drain(view) == data
        with child("commit", path) as writer:
            assert writer.said == "busy"
    with child("commit", path) as writer:
        assert writer.said == "ready"


def test_a_view_in_wal_mode_holds_up_nobody(tmp_path: Path) -> None:
    """In WAL mode others commit while a view is open, and the view still shows its own moment."""
    path = tmp_path / "a.db"
    make_bank(path, "wal")
    with open_source(path).view() as view:
        data = drain(view)
        with child("commit", path) as writer:
            assert writer.said == "ready"
        assert drain(view) == data


def test_a_growing_wal_presses(tmp_path: Path) -> None:
    """Once the WAL has grown by a quarter of the database, the rest should be drained fast."""
    path = tmp_path / "a.db"
    make_bank(path, "wal")
    with open_source(path).view() as view:
        assert not view.pressing
        with child("grow", path):
            assert view.pressing


def test_waiting_writers_press(tmp_path: Path) -> None:
    """In rollback mode a view presses when its patience is at an end."""
    path = tmp_path / "a.db"
    make_bank(path)
    with SqliteSource(path, patience=60).view() as view:
        assert not view.pressing
    with SqliteSource(path, patience=0).view() as view:
        assert view.pressing


def no_file(path: Path) -> None:
    """Nothing."""


def a_folder(path: Path) -> None:
    """A folder."""
    path.mkdir()


def a_pipe(path: Path) -> None:
    """A named pipe, which must not be opened."""
    os.mkfifo(path)


def noise(path: Path) -> None:
    """What an encrypted database looks like."""
    path.write_bytes(random.Random(1).randbytes(65536))


def text(path: Path) -> None:
    """Some other file."""
    path.write_text("id,name\n1,somebody\n" * 100)


def a_stub(path: Path) -> None:
    """A file too short for a header."""
    path.write_bytes(b"SQLite format 3\0")


def a_bad_link(path: Path) -> None:
    """A link to nowhere."""
    path.symlink_to("nowhere")


@pytest.mark.parametrize("plant", [no_file, a_folder, a_pipe, noise, text, a_stub, a_bad_link])
def test_what_is_no_database_is_unreachable(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    """A source that is missing, encrypted or no database is named, with a hint, and nothing is left beside it."""
    path = tmp_path / "a.db"
    plant(path)
    before = os.listdir(tmp_path)
    with pytest.raises(Unreachable) as caught, SqliteSource(path, timeout=0.1).view():
        pass
    assert caught.value.hint
    assert str(path) in caught.value.message
    assert os.listdir(tmp_path) == before


@pytest.mark.parametrize("name", ["a\0b", "\udcff.db", "x" * 300])
def test_impossible_names_are_unreachable(tmp_path: Path, name: str) -> None:
    """A name that no database can have is an error of the source, not a crash."""
    with pytest.raises(Unreachable), SqliteSource(tmp_path / name).view():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_unreachable(tmp_path: Path) -> None:
    """Permissions are checked before anything is opened."""
    path = tmp_path / "a.db"
    make(path)
    path.chmod(0)
    with pytest.raises(Unreachable, match="not readable"), open_source(path).view():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_wal_database_that_may_not_be_written_is_refused_unless_open(tmp_path: Path) -> None:
    """Files that the database's own programs could not write are not left behind."""
    path = tmp_path / "a.db"
    make_bank(path, "wal")
    path.chmod(0o400)
    with pytest.raises(Unreachable, match="WAL mode"), open_source(path).view():
        pass
    assert os.listdir(tmp_path) == ["a.db"]


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.999])
def test_a_file_cut_off_is_incomplete(tmp_path: Path, mode: str, kept: float) -> None:
    """A database that lost its end yields no good-looking snapshot."""
    path = tmp_path / "a.db"
    make_bank(path, mode)
    size = path.stat().st_size
    os.truncate(path, int(size * kept))
    with pytest.raises(SourceIncomplete):
        capture(path)


def test_a_file_cut_off_under_a_live_wal_is_incomplete(tmp_path: Path) -> None:
    """Also where SQLite itself would fill in zeros, because the WAL says how long the file is."""
    path = tmp_path / "a.db"
    make_bank(path, "wal")
    make(path, script="CREATE TABLE filler (a); INSERT INTO filler VALUES (randomblob(500000))")
    with child("committed", path) as program:
        program.kill()
    os.truncate(path, path.stat().st_size - 200_000)
    with pytest.raises(SourceIncomplete, match="cut off"):
        capture(path)


def spoil_leaf(path: Path) -> None:
    """Make the cells of one table page disagree with their order."""
    db = apsw.Connection(str(path))
    page = db.execute("SELECT pageno FROM dbstat WHERE name = 'accounts' AND pagetype = 'leaf'").fetchall()[0][0]
    assert isinstance(page, int)
    db.close()
    with open(path, "r+b") as file:
        file.seek(page * 4096 - 900)
        file.write(bytes(900))


def test_the_check_finds_a_corrupt_source(tmp_path: Path) -> None:
    """With the check a corrupt source is incomplete, named by page but never by a record."""
    path = tmp_path / "a.db"
    make_bank(path)
    spoil_leaf(path)
    with pytest.raises(SourceIncomplete, match="quick_check") as caught:
        capture(path, check=True)
    assert "0000000000" not in caught.value.message
    assert "owid 0" not in caught.value.message
    assert capture(path) == path.read_bytes()


def test_a_broken_schema_is_incomplete(tmp_path: Path) -> None:
    """A database whose schema cannot be read is refused as corrupt."""
    path = tmp_path / "a.db"
    make_bank(path)
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\x99" * 300)
    with pytest.raises(SourceIncomplete):
        capture(path)


def test_a_stream_cut_short_by_its_view_does_not_look_complete(tmp_path: Path) -> None:
    """Reading on after the view's end fails; a stream that was read whole stays whole."""
    path = tmp_path / "a.db"
    make_bank(path)
    with open_source(path).view() as view:
        unread, half, whole = (view.read(view.streams[0]) for _ in range(3))
        next(half)
        assert b"".join(whole) == path.read_bytes()
    assert list(whole) == []
    for stream in (unread, half):
        with pytest.raises(SourceIncomplete):
            next(stream)
    with pytest.raises(SourceIncomplete):
        view.read(view.streams[0])


def test_a_database_with_its_own_collation_cannot_be_checked(tmp_path: Path) -> None:
    """It is captured without the check; with it, the error says why there can be none."""
    path = tmp_path / "a.db"
    db = apsw.Connection(str(path))
    db.create_collation("own", lambda a, b: (a > b) - (a < b))
    db.execute("CREATE TABLE t (a TEXT COLLATE own); CREATE INDEX i ON t (a); INSERT INTO t VALUES ('x')").fetchall()
    db.close()
    assert capture(path) == path.read_bytes()
    with pytest.raises(SourceIncomplete, match="collation"):
        capture(path, check=True)


def test_an_empty_file_with_an_old_journal_is_an_empty_database(tmp_path: Path) -> None:
    """SQLite removes the journal of a database that is gone."""
    path = tmp_path / "a.db"
    path.touch()
    (tmp_path / "a.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))
    assert capture(path) == b""


def test_an_unknown_stream_is_refused(tmp_path: Path) -> None:
    """Only the view's own stream can be read."""
    path = tmp_path / "a.db"
    make(path)
    with open_source(path).view() as view, pytest.raises(ValueError, match="no such stream"):
        view.read(StreamInfo("other", "pages", 0))


def test_the_name_of_a_source_is_its_file_stem(tmp_path: Path) -> None:
    """Customers.db is called Customers."""
    assert open_source(tmp_path / "Customers.db").default_name == "Customers"
    assert open_source(tmp_path / "x").engine == "sqlite"


def sink_of(pages: int) -> PageSink:
    """A sink for pages of 512 bytes."""
    return PageSink(512, pages, b"1" * 512, b"")


@pytest.mark.parametrize(
    "writes",
    [
        [(512, "2"), (0, "1")],
        [(512, "2"), (1024, "3")],
        [(512, "2"), (512, "2"), (1024, "3"), (0, "1")],
        [(1024, "3"), (512, "2"), (0, "1")],
        [(512, "2"), (1024, "3"), (1536, "4"), (0, "1")],
        [(512, "2"), (1024, "3"), (0, "1"), (0, "1")],
        [(512, "2"), (1024, "3"), (0, "x")],
        [(512, "22"), (0, "1")],
    ],
)
def test_a_copy_that_is_not_every_page_once_fails(writes: list[tuple[int, str]]) -> None:
    """A page that is missing, doubled, out of order, too many, of another size or another moment is a failure."""
    sink = sink_of(3)
    for offset, letter in writes:
        sink.write(letter.encode() * 512, offset)
    with pytest.raises(SourceIncomplete):
        sink.finish()


def test_a_copy_of_every_page_once_is_whole() -> None:
    """Page 1 comes from the source, the rest as they arrive."""
    sink = sink_of(3)
    for offset, letter in ((512, b"2"), (1024, b"3"), (0, b"1")):
        sink.write(letter * 512, offset)
    assert list(sink.take()) == []
    assert sink.finish() == b"1" * 512 + b"2" * 512 + b"3" * 512


def test_errors_carry_no_records(tmp_path: Path) -> None:
    """Whatever byte of a database is spoiled, no error shows a record of it."""
    path = tmp_path / "a.db"
    make_bank(path)
    good = path.read_bytes()
    chance = random.Random(7)
    failures = 0
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(20):
            bad[chance.randrange(16, len(bad))] = chance.randrange(256)
        path.write_bytes(bad)
        said, data = "", b""
        try:
            data = capture(path, check=True)
        except BackupdError as error:
            failures += 1
            said = f"{error.message} {error.hint}"
        assert "00000000" not in said
        assert data == bytes(bad)[: len(data)]
    assert failures > 50
    assert os.listdir(tmp_path) == ["a.db"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_beyond_the_lock_byte(tmp_path: Path, mode: str) -> None:
    """Past 1 GiB the page of the lock byte, which no backup delivers, is there as the file has it."""
    path = tmp_path / "a.db"
    make(
        path,
        "page_size=65536",
        f"journal_mode={mode}",
        "synchronous=off",
        script="CREATE TABLE t (a);" + "INSERT INTO t VALUES (zeroblob(120000000));" * 9 + "INSERT INTO t VALUES (7)",
    )
    with open(path, "r+b") as file:
        file.seek(1 << 30)
        file.write(b"what a file may hold here")
    with open_source(path).view() as view, open(path, "rb") as file:
        for buffer in view.read(view.streams[0]):
            assert buffer == file.read(len(buffer))
        assert file.read() == b""
    assert path.stat().st_size > 1 << 30


@pytest.mark.slow
def test_memory_does_not_grow_with_the_database(tmp_path: Path) -> None:
    """300 MB are captured within a few megabytes."""
    path = tmp_path / "a.db"
    make(path, script="CREATE TABLE t (a);" + "INSERT INTO t VALUES (randomblob(30000000));" * 10)
    code = (
        "import resource, sys\n"
        "from backupd.engines.sqlite import open_source\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open_source(sys.argv[1]).view() as view:\n"
        "    size = sum(len(buffer) for buffer in view.read(view.streams[0]))\n"
        "print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    size, grown = map(int, done.stdout.split())
    assert size == path.stat().st_size
    assert grown < 12_000  # KiB


def test_the_bank_of_the_tests_is_what_it_says(tmp_path: Path) -> None:
    """The sample holds the accounts that the other tests count."""
    make_bank(tmp_path / "a.db")
    assert len(dump_file(tmp_path / "a.db")["accounts"]) == ACCOUNTS
