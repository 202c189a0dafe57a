"""An SQLite restore makes one file, whole and checked, or nothing at all."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import apsw
import pytest

from backupd.engines.base import CheckLevel, LoadResult
from backupd.engines.sqlite import open_source, open_target
from backupd.engines.sqlite_restore import SqliteTarget
from backupd.errors import IntegrityError, SafetyRefused, StorageRefused, Unreachable
from tests.engines import child, dump_file, make_bank

LEVELS: list[CheckLevel] = ["none", "quick", "full"]


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database file's bytes."""
    path = tmp_path_factory.mktemp("made") / "bank.db"
    make_bank(path)
    return path.read_bytes()


def load(
    path: Path,
    data: bytes,
    *,
    check: CheckLevel = "quick",
    overwrite: str | None = None,
    buffers: Iterable[bytes] | None = None,
) -> LoadResult:
    """Restore the bytes in buffers of 64 KiB."""
    target = open_target(path)
    target.prepare(overwrite=overwrite)
    pieces = buffers if buffers is not None else [data[i : i + 65536] for i in range(0, len(data), 65536)]
    return target.load(pieces, size=len(data), facts={}, check=check)


@pytest.mark.parametrize("check", ["none", "quick"])
@pytest.mark.parametrize("size", [3 << 20, (8 << 20) + 4096, (9 << 20) + 512])
def test_a_large_file_comes_back_past_the_cache_and_through_it(tmp_path: Path, size: int, check: CheckLevel) -> None:
    """Whatever its length: without a check it is written past the page cache, with one through it."""
    path = tmp_path / "s.db"
    db = apsw.Connection(str(path))
    db.execute(f"pragma page_size={512 if size % 4096 else 4096}")
    db.execute("create table t(x)")
    db.execute("insert into t values(zeroblob(?))", (size - 200_000,))
    db.close()
    data = path.read_bytes() + (bytes(size - path.stat().st_size) if check == "none" else b"")
    target = open_target(tmp_path / "a.db")
    target.load((data[at : at + 70_001] for at in range(0, len(data), 70_001)), size=len(data), facts={}, check=check)
    assert (tmp_path / "a.db").read_bytes() == data


@pytest.mark.parametrize("check", LEVELS)
def test_a_restored_file_has_the_bytes_of_the_snapshot(tmp_path: Path, data: bytes, check: CheckLevel) -> None:
    """Every check level leaves the bytes as they were, private to this user, with nothing beside them."""
    result = load(tmp_path / "a.db", data, check=check)
    assert (tmp_path / "a.db").read_bytes() == data
    assert (tmp_path / "a.db").stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "a.db").stat().st_nlink == 1
    assert os.listdir(tmp_path) == ["a.db"]
    assert result.bytes == len(data)
    assert check == "none" or result.check_seconds > 0
    assert result.warnings == ()


@pytest.mark.parametrize("check", LEVELS)
def test_a_wal_database_is_checked_without_a_wal(tmp_path: Path, check: CheckLevel) -> None:
    """The check of a database in WAL mode makes no -wal or -shm file and leaves it in WAL mode."""
    make_bank(tmp_path / "source.db", "wal")
    data = (tmp_path / "source.db").read_bytes()
    (tmp_path / "targets").mkdir()
    load(tmp_path / "targets" / "a.db", data, check=check)
    assert os.listdir(tmp_path / "targets") == ["a.db"]
    assert (tmp_path / "targets" / "a.db").read_bytes() == data


@pytest.mark.parametrize("check", LEVELS)
def test_an_empty_database_is_restored(tmp_path: Path, check: CheckLevel) -> None:
    """No bytes make an empty file, which is a legal database."""
    load(tmp_path / "a.db", b"", check=check)
    assert dump_file(tmp_path / "a.db") == {}


@pytest.mark.parametrize("name", ["a b.db", "100%41.db", "q?mode=memory", "h#1", "äöü-数据.db", "file:x.db", "数" * 85])
def test_odd_names_are_only_names(tmp_path: Path, data: bytes, name: str) -> None:
    """A target's path is never read as a URI or a pattern, however long its name."""
    load(tmp_path / name, data, check="full")
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == data


def test_an_existing_target_is_refused(tmp_path: Path, data: bytes) -> None:
    """Only the exact file name, given a second time, allows replacing."""
    path = tmp_path / "a.db"
    path.write_bytes(b"precious")
    for overwrite in (None, "", "a", "A.db", "*", str(path)):
        with pytest.raises(SafetyRefused) as caught:
            open_target(path).prepare(overwrite=overwrite)
        assert "--overwrite a.db" in (caught.value.hint or "")
        with pytest.raises(SafetyRefused):
            load(path, data, overwrite=overwrite)
    assert path.read_bytes() == b"precious"
    with pytest.raises(SafetyRefused):
        open_target(path).load([data], size=len(data), facts={}, check="quick")
    assert os.listdir(tmp_path) == ["a.db"]


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o400, 0o4755])
def test_a_replaced_file_leaves_its_permissions(tmp_path: Path, data: bytes, mode: int) -> None:
    """The new file gets the old one's permissions, but never setuid."""
    path = tmp_path / "a.db"
    path.write_bytes(b"old")
    path.chmod(mode)
    assert load(path, data, overwrite="a.db").warnings == ()
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o7777 == mode & 0o777
    assert os.listdir(tmp_path) == ["a.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_replaced_file_leaves_its_owner(tmp_path: Path, data: bytes) -> None:
    """The new file belongs to whom the old one belonged to."""
    path = tmp_path / "a.db"
    path.write_bytes(b"old")
    os.chown(path, 12345, 54321)
    load(path, data, overwrite="a.db")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("existing", [True, False])
def test_leftovers_beside_the_target_are_refused(tmp_path: Path, data: bytes, suffix: str, existing: bool) -> None:
    """A file that SQLite would apply to the restored database is refused, even as a dangling link, even to overwrite."""
    path = tmp_path / "a.db"
    if existing:
        path.write_bytes(b"old")
    leftover = tmp_path / f"a.db{suffix}"
    leftover.symlink_to("nowhere")
    with pytest.raises(SafetyRefused, match=suffix):
        load(path, data, overwrite="a.db")
    assert leftover.is_symlink()
    assert not existing or path.read_bytes() == b"old"


def test_a_database_in_use_is_refused(tmp_path: Path, data: bytes) -> None:
    """A WAL database that a program has open is not replaced, not even by name."""
    make_bank(tmp_path / "a.db", "wal")
    with child("attached", tmp_path / "a.db"), pytest.raises(SafetyRefused, match="-wal"):
        load(tmp_path / "a.db", data, overwrite="a.db")


def test_what_appears_during_the_restore_is_not_replaced(tmp_path: Path, data: bytes) -> None:
    """A target or a leftover that appears while the buffers come is refused at the end, and stays."""
    for number, suffix in enumerate(("", "-wal", "-journal")):
        folder = tmp_path / str(number)
        folder.mkdir()
        intruder = folder / f"a.db{suffix}"

        def buffers(intruder: Path = intruder) -> Iterator[bytes]:
            yield data
            intruder.write_bytes(b"mine")

        with pytest.raises(SafetyRefused):
            load(folder / "a.db", data, buffers=buffers())
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {intruder.name: b"mine"}


def test_a_link_or_folder_as_target_is_refused(tmp_path: Path, data: bytes) -> None:
    """Only a regular file is ever replaced."""
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = set(os.listdir(tmp_path))
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(SafetyRefused):
            load(tmp_path / name, data, overwrite=name)
    assert set(os.listdir(tmp_path)) == before
    assert (tmp_path / "real").read_bytes() == b"old"


def test_a_missing_folder_is_unreachable(tmp_path: Path) -> None:
    """A folder is never made; the hint says to make it."""
    with pytest.raises(Unreachable) as caught:
        open_target(tmp_path / "no" / "a.db").prepare(overwrite=None)
    assert caught.value.hint
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable):
        open_target(tmp_path / "file" / "a.db").prepare(overwrite=None)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_impossible_names_are_unreachable(tmp_path: Path, name: str) -> None:
    """A name that no file can have is an error of the target, not a crash."""
    with pytest.raises(Unreachable):
        open_target(tmp_path / name).prepare(overwrite=None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_refuses_is_storage_refused(tmp_path: Path) -> None:
    """Permissions are found out before anything is fetched."""
    tmp_path.chmod(0o500)
    with pytest.raises(StorageRefused):
        open_target(tmp_path / "a.db").prepare(overwrite=None)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("wrong", [-1, 1, -4096, 4096])
def test_a_stream_of_another_size_is_refused(tmp_path: Path, data: bytes, wrong: int) -> None:
    """A byte too few or too many is an integrity error, and no file."""
    stream = data[:wrong] if wrong < 0 else data + bytes(wrong)
    with pytest.raises(IntegrityError):
        load(tmp_path / "a.db", data, buffers=[stream])
    assert os.listdir(tmp_path) == []


def test_an_endless_stream_is_cut_short(tmp_path: Path, data: bytes) -> None:
    """A stream that never ends is left as soon as it is longer than it says."""

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(65536)

    with pytest.raises(IntegrityError):
        load(tmp_path / "a.db", data, buffers=endless())
    assert os.listdir(tmp_path) == []


def test_facts_that_contradict_the_size_are_refused(tmp_path: Path, data: bytes) -> None:
    """Pages times page size is the size, or something is forged."""
    with pytest.raises(IntegrityError):
        open_target(tmp_path / "a.db").load(
            [data], size=len(data), facts={"page_size": 4096, "page_count": 1}, check="quick"
        )


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, SystemExit, OSError])
def test_an_interrupted_restore_leaves_nothing(tmp_path: Path, data: bytes, stop: type[BaseException]) -> None:
    """Whatever ends the stream reaches the caller unchanged, and no file stays."""

    def buffers() -> Iterator[bytes]:
        yield data[:65536]
        assert len(os.listdir(tmp_path)) == 1
        raise stop

    with pytest.raises(stop):
        load(tmp_path / "a.db", data, buffers=buffers())
    assert os.listdir(tmp_path) == []


def test_the_folder_of_a_restore_is_private(tmp_path: Path, data: bytes) -> None:
    """While the buffers come, only this user can reach them, under a hidden name."""

    def buffers() -> Iterator[bytes]:
        yield data
        (folder,) = tmp_path.iterdir()
        assert folder.name.startswith(".a.db.backupd-")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]

    load(tmp_path / "a.db", data, buffers=buffers())


def test_a_killed_restore_leaves_only_its_hidden_folder(tmp_path: Path) -> None:
    """After kill -9 nothing has the target's name, and the next restore works."""
    code = (
        "import sys, time\n"
        "from backupd.engines.sqlite import open_target\n"
        "def buffers():\n"
        "    yield bytes(65536)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "open_target(sys.argv[1]).load(buffers(), size=1000000, facts={}, check='none')\n"
    )
    path = tmp_path / "a.db"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert [name.startswith(".a.db.backupd-") for name in os.listdir(tmp_path)] == [True]
    load(path, b"")
    assert path.exists()


def test_too_little_space_is_found_before_anything_is_written(tmp_path: Path) -> None:
    """A size that the file system cannot hold is refused with both numbers, before the first buffer is asked for."""

    def buffers() -> Iterator[bytes]:
        raise AssertionError("must not be asked")
        yield b""

    with pytest.raises(StorageRefused, match="needs 1152921504606846976 bytes"):
        open_target(tmp_path / "a.db").load(buffers(), size=1 << 60, facts={}, check="none")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    """When the system refuses to write on, the storage refused, and no file stays."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageRefused, match="no space"):
            load(tmp_path / "a.db", data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def spoilt(data: bytes) -> bytes:
    """The same file with the last cells of its pages overwritten."""
    pages = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    return b"".join([pages[0], *(page[:3500] + bytes(596) for page in pages[1:])])


@pytest.mark.parametrize("check", ["quick", "full"])
def test_a_failed_check_leaves_nothing(tmp_path: Path, data: bytes, check: CheckLevel) -> None:
    """A copy that the engine calls corrupt is an integrity error that shows no record; --check none restores it."""
    for bad in (spoilt(data), os.urandom(8192), b"text" * 4096, data[:100] + b"\x99" * 300 + data[400:], data[:8192]):
        with pytest.raises(IntegrityError) as caught:
            load(tmp_path / "a.db", bad, check=check)
        assert "--check none" in (caught.value.hint or "")
        assert "000000" not in caught.value.message
        assert os.listdir(tmp_path) == []
    load(tmp_path / "a.db", spoilt(data), check="none")
    assert (tmp_path / "a.db").read_bytes() == spoilt(data)


def test_only_the_full_check_compares_indexes(tmp_path: Path) -> None:
    """An index that lacks a row passes the quick check and fails the full one."""
    path = tmp_path / "source.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE t (a); CREATE TABLE u (a); CREATE INDEX i ON t (a); CREATE INDEX j ON u (a)").fetchall()
    db.execute("INSERT INTO t VALUES (1), (2); INSERT INTO u VALUES (1), (3)").fetchall()
    roots = {str(row[0]): int(str(row[1])) for row in db.execute("SELECT name, rootpage FROM sqlite_schema")}
    db.close()
    data = bytearray(path.read_bytes())
    wrong = data[(roots["j"] - 1) * 4096 : roots["j"] * 4096]
    data[(roots["i"] - 1) * 4096 : roots["i"] * 4096] = wrong
    load(tmp_path / "quick.db", bytes(data), check="quick")
    with pytest.raises(IntegrityError, match="integrity_check"):
        load(tmp_path / "full.db", bytes(data), check="full")


def test_a_check_that_needs_the_application_is_a_warning(tmp_path: Path) -> None:
    """A database with a collation of its own is restored, with a warning that it could not be checked."""
    path = tmp_path / "source.db"
    db = apsw.Connection(str(path))
    db.create_collation("own", lambda a, b: (a > b) - (a < b))
    db.execute("CREATE TABLE t (a TEXT COLLATE own); CREATE INDEX i ON t (a); INSERT INTO t VALUES ('x')").fetchall()
    db.close()
    result = load(tmp_path / "a.db", path.read_bytes())
    assert "could not be checked" in "".join(result.warnings)
    with open_source(path).view() as view:
        assert b"".join(view.read(view.streams[0])) == (tmp_path / "a.db").read_bytes()


HOSTILE = """
CREATE TABLE t (a, b AS (load_extension('/tmp/evil.so')), CHECK (load_extension('/tmp/evil.so') IS NULL));
CREATE TABLE u (a);
CREATE INDEX i ON u (fts3_tokenizer('simple'));
CREATE VIEW v AS SELECT writefile('/tmp/evil', 'x'), load_extension('/tmp/evil.so') FROM t;
CREATE VIRTUAL TABLE f USING fts5(a);
CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT load_extension('/tmp/evil.so'); END;
"""


@pytest.mark.parametrize("check", ["quick", "full"])
def test_a_hostile_schema_runs_nothing(tmp_path: Path, check: CheckLevel) -> None:
    """Statements planted in views, triggers, indexes and checks are not run by a restore or a capture."""
    path = tmp_path / "source.db"
    make_bank(path)
    db = apsw.Connection(str(path))
    db.execute("PRAGMA writable_schema=ON")
    for number, statement in enumerate(filter(None, map(str.strip, HOSTILE.split(";\n")))):
        words = statement.split()
        kind = "table" if words[1] == "VIRTUAL" else words[1].lower()
        name = words[3] if words[1] == "VIRTUAL" else words[2]
        table = "u" if kind == "index" else "t" if kind == "trigger" else name
        root = 2 + number if kind in {"table", "index"} and words[1] != "VIRTUAL" else 0
        db.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", (kind, name, table, root, statement))
    db.close()
    data = path.read_bytes()
    (tmp_path / "targets").mkdir()
    try:
        load(tmp_path / "targets" / "a.db", data, check=check)
    except IntegrityError:
        assert os.listdir(tmp_path / "targets") == []
    else:
        assert os.listdir(tmp_path / "targets") == ["a.db"]
    assert not Path("/tmp/evil").exists()


def test_a_huge_schema_is_restored_in_time(tmp_path: Path) -> None:
    """Thousands of tables are checked in seconds."""
    path = tmp_path / "source.db"
    db = apsw.Connection(str(path))
    with db:
        for number in range(4000):
            db.execute(f"CREATE TABLE t{number} (a PRIMARY KEY, {', '.join(f'c{n}' for n in range(30))})")
    db.close()
    started = time.monotonic()
    load(tmp_path / "a.db", path.read_bytes(), check="full")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "lie", [(16, b"\x02\x00"), (16, b"\x00\x01"), (16, b"\x00\x03"), (20, b"\xff"), (28, b"\x7f\xff")]
)
def test_a_header_that_lies_is_refused(tmp_path: Path, data: bytes, lie: tuple[int, bytes]) -> None:
    """A wrong page size, reserved size or page count is an integrity error, not a crash or a huge allocation."""
    at, value = lie
    forged = data[:at] + value + data[at + len(value) :]
    with pytest.raises(IntegrityError):
        load(tmp_path / "a.db", forged)
    assert os.listdir(tmp_path) == []


def test_without_hard_links_a_placeholder_takes_the_name(tmp_path: Path, data: bytes) -> None:
    """Where the file system has no hard links, an existing file is still never replaced, and nothing else stays."""

    class NoLinks(SqliteTarget):
        """A target on a file system that refuses links."""

        def _publish_new(self, copy: Path) -> None:
            self._publish_without_links(copy)

    NoLinks(tmp_path / "a.db").load([data], size=len(data), facts={}, check="full")
    assert (tmp_path / "a.db").read_bytes() == data
    with pytest.raises(SafetyRefused):
        NoLinks(tmp_path / "a.db").load([data], size=len(data), facts={}, check="full")
    assert os.listdir(tmp_path) == ["a.db"]
