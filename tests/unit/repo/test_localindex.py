"""The local index is a cache: whatever is wrong with it costs space, never a snapshot."""

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from backupd.crypto.chunks import Kind
from backupd.repo.localindex import LocalIndex
from backupd.repo.pack import PackEntry
from backupd.repo.segments import IndexedPack

SECRET = bytes(range(32))


def entry(n: int, kind: Kind = Kind.ROWS, bases: tuple[bytes, ...] = ()) -> PackEntry:
    return PackEntry(n.to_bytes(32, "big"), kind, 2 if bases else 1, 1000 * n, 50 + n, 60 + n, bases)


def pack(n: int, *entries: PackEntry) -> IndexedPack:
    return IndexedPack(bytes([n]) * 32, 9999, entries)


def ids(*numbers: int) -> list[bytes]:
    return [n.to_bytes(32, "big") for n in numbers]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index file with two segments, closed."""
    made = tmp_path / "state" / "index.db"
    index = LocalIndex(made, SECRET)
    index.add("one", [pack(1, *(entry(n) for n in range(1, 1001)))])
    index.add("two", [pack(2, entry(2001), entry(2002, Kind.STRUCTURE), entry(2003, bases=(bytes(32),)))])
    index.close()
    return made


def found(path: Path, kind: Kind, *numbers: int, secret: bytes = SECRET) -> set[int]:
    index = LocalIndex(path, secret)
    try:
        return {int.from_bytes(i, "big") for i in index.find(kind, ids(*numbers))}
    finally:
        index.close()


def doctor(path: Path, statement: str, *values: object) -> None:
    """Change the file as somebody with access to it could."""
    with sqlite3.connect(path) as db:
        db.execute(statement, values)
    db.close()


def test_chunks_are_found_where_they_are(path: Path) -> None:
    """What segments listed is found again after closing, with place, lengths and codec; the rest is not."""
    index = LocalIndex(path, SECRET)
    got = index.find(Kind.ROWS, ids(*range(1, 1002)))
    assert len(got) == 1000
    ref = got[ids(7)[0]]
    assert (ref.id, ref.pack, ref.offset, ref.payload_length, ref.plain_length, ref.codec, ref.bases) == (
        ids(7)[0], b"\1" * 32, 7000, 57, 67, 1, ()
    )  # fmt: skip
    assert index.segments() == {"one", "two"}
    assert index.packs() == {b"\1" * 32, b"\2" * 32}
    assert index.count() == 1003
    assert index.find(Kind.ROWS, []) == {}
    index.close()


def test_the_file_is_private(path: Path) -> None:
    """The file and its folder are closed to others."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_kinds_and_deltas(path: Path) -> None:
    """A chunk is found under its own kind alone, and a delta is never handed out."""
    assert found(path, Kind.ROWS, 2001, 2002, 2003) == {2001}
    assert found(path, Kind.STRUCTURE, 2001, 2002, 2003) == {2002}


@pytest.mark.parametrize(
    "change",
    [
        "list=zeroblob(length(list))",
        "list=substr(list,1,length(list)-1)",
        "list=substr(list,49)",
        "list=cast(zeroblob(length(list)) as text)",
        "list=cast(x'ff00fe' as text)",
        "list='text'",
        "list=5",
        "list=zeroblob(0)",
        "mac=zeroblob(16)",
        "mac='text'",
        "mac=zeroblob(0)",
        "digest=zeroblob(32)",
        "digest=zeroblob(31)",
        "digest=zeroblob(0)",
        "digest='text'",
        "digest=5",
    ],
)
def test_a_doctored_list_is_no_list(path: Path, change: str) -> None:
    """A pack's list with any field changed, to a wrong value or another type, gives nothing; other packs' do (D32)."""
    doctor(path, f"update packs set {change} where segment='one'")
    assert found(path, Kind.ROWS, *range(1, 50), 2001) == {2001}
    index = LocalIndex(path, SECRET)
    assert len(index.packs()) == 2
    index.forget_segments({"one"})
    assert index.packs() == {b"\2" * 32}
    index.close()


def test_every_bit_of_a_list_counts(path: Path) -> None:
    """One bit turned anywhere in a list leaves nothing of it (D32)."""
    with sqlite3.connect(path) as db:
        (listed,) = db.execute("select list from packs where segment='two'").fetchone()
    for at in range(len(listed)):
        turned = bytearray(listed)
        turned[at] ^= 1 << at % 8
        doctor(path, "update packs set list=? where segment='two'", bytes(turned))
        assert found(path, Kind.ROWS, 1, 2001) == {1}


@pytest.mark.parametrize("change", ["pack=2", "pack=99", "pack='text'", "pack=1.5", "key=5", "key=key+1"])
def test_a_doctored_row_leads_nowhere(path: Path, change: str) -> None:
    """A row that leads to a wrong pack never gives a wrong chunk (D32)."""
    doctor(path, f"update or replace chunks set {change} where key=(select min(key) from chunks where pack=1)")
    index = LocalIndex(path, SECRET)
    assert all(ref.pack == b"\1" * 32 for ref in index.find(Kind.ROWS, ids(*range(1, 1001))).values())
    index.close()


def test_ids_that_end_alike_are_told_apart(tmp_path: Path) -> None:
    """Two ids with the same last bytes never stand for each other."""
    index = LocalIndex(tmp_path / "index.db", SECRET)
    first, second = b"\1" + bytes(31), b"\2" + bytes(31)
    index.add("one", [pack(1, PackEntry(first, Kind.ROWS, 1, 0, 5, 5))])
    assert set(index.find(Kind.ROWS, [first, second])) == {first}
    index.add("two", [pack(2, PackEntry(second, Kind.ROWS, 1, 0, 6, 6))])
    assert index.find(Kind.ROWS, [second])[second].payload_length == 6
    index.close()


def test_more_is_known_than_is_kept_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is found, in any order, also where the lists of few packs are kept at a time."""
    monkeypatch.setattr("backupd.repo.localindex._NEAR", 100)
    index = LocalIndex(tmp_path / "index.db", SECRET)
    kinds: tuple[Kind, ...] = (Kind.ROWS, Kind.PAGES)
    for n in range(40):
        index.add(
            f"s{n}",
            [pack(n, *(PackEntry(ids(50 * n + i)[0], kinds[i % 2], 1, i, n, 9) for i in range(50)))],
        )
    for stride in (1, 7, 53):
        for start in range(0, 2000, 16):
            for kind in (0, 1):
                numbers = [(start + stride * k) % 2000 for k in range(16)]
                wanted = [ids(x)[0] for x in numbers if x % 50 % 2 == kind]
                assert set(index.find(kinds[kind], wanted)) == set(wanted)
    assert len(index._near) + len(index._nearly) <= 400
    index.close()


def test_rows_of_another_secret_are_no_rows(path: Path) -> None:
    """A file made under another writer's secret gives nothing."""
    assert found(path, Kind.ROWS, 1, 2, 3, secret=bytes(32)) == set()


def test_chunks_in_absent_packs_are_not_found(path: Path) -> None:
    """Packs that were marked, reported bad or are gone count as absent as long as they are named."""
    index = LocalIndex(path, SECRET)
    index.set_absent({b"\1" * 32})
    assert set(index.find(Kind.ROWS, ids(1, 2001))) == set(ids(2001))
    index.set_absent(set())
    assert set(index.find(Kind.ROWS, ids(1, 2001))) == set(ids(1, 2001))
    index.close()


def test_a_chunk_stored_twice_is_found_where_it_was_last(path: Path) -> None:
    """A chunk stored anew is found in its new pack, so that an absent one does not hide it."""
    index = LocalIndex(path, SECRET)
    index.set_absent({b"\1" * 32})
    index.add("three", [pack(3, entry(1))])
    assert index.find(Kind.ROWS, ids(1))[ids(1)[0]].pack == b"\3" * 32
    index.add("three", [pack(3, entry(1))])
    assert index.count() == 1003
    index.close()


def test_vanished_segments_are_forgotten(path: Path) -> None:
    """Chunks and packs of a segment that is gone are not found any more; others are."""
    index = LocalIndex(path, SECRET)
    index.forget_segments({"one", "never there"})
    assert index.segments() == {"two"}
    assert index.packs() == {b"\2" * 32}
    assert set(index.find(Kind.ROWS, ids(1, 2001))) == set(ids(2001))
    index.close()


@pytest.mark.parametrize("junk", [b"", b"not a database", os.urandom(8192), b"SQLite format 3\0" + bytes(200)])
def test_a_garbage_file_is_made_anew(path: Path, junk: bytes) -> None:
    """A file that is no database is replaced by an empty one that works."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(junk)
    index = LocalIndex(path, SECRET)
    assert index.count() == 0
    index.add("one", [pack(1, entry(1))])
    assert set(index.find(Kind.ROWS, ids(1))) == set(ids(1))
    index.close()


@pytest.mark.parametrize("first", ["find", "add", "segments", "packs", "count", "forget"])
def test_pages_damaged_below_an_intact_head_are_made_anew(path: Path, first: str) -> None:
    """With the head of the file whole and its pages overwritten, whatever is asked first finds an empty, working index."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for at in range(4096, size, 4096):
            file.seek(at)
            file.write(b"\xa5" * 4096)
    index = LocalIndex(path, SECRET)
    calls = {
        "find": lambda: index.find(Kind.ROWS, ids(*range(1, 900))),
        "add": lambda: index.add("four", [pack(4, *(entry(n) for n in range(1, 900)))]),
        "segments": index.segments,
        "packs": index.packs,
        "count": index.count,
        "forget": lambda: index.forget_segments({"one", "two"}),
    }
    calls[first]()
    for call in calls.values():
        call()
    assert index.segments() == {"four"}
    assert len(index.find(Kind.ROWS, ids(*range(1, 900)))) == 899
    index.close()


def test_a_failed_add_leaves_nothing_behind(path: Path) -> None:
    """A segment that cannot be taken in whole is not taken in at all."""
    index = LocalIndex(path, SECRET)
    bad = PackEntry(ids(5000)[0], Kind.ROWS, 1, 1 << 40, 5, 5)
    with pytest.raises(Exception, match=r"argument out of range|format requires"):
        index.add("bad", [pack(5, entry(4000)), pack(6, bad)])
    assert index.segments() == {"one", "two"}
    assert index.find(Kind.ROWS, ids(4000)) == {}
    index.add("good", [pack(5, entry(4000))])
    assert set(index.find(Kind.ROWS, ids(4000))) == set(ids(4000))
    index.close()


def test_threads_look_up_while_one_adds(path: Path) -> None:
    """Look-ups from several threads while segments come in always give what is there."""
    index = LocalIndex(path, SECRET)
    errors: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(50):
                assert len(index.find(Kind.ROWS, ids(*range(1, 401)))) == 400
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(20):
        index.add(f"more {n}", [pack(10 + n, *(entry(10_000 + 100 * n + i) for i in range(100)))])
    for thread in threads:
        thread.join()
    assert errors == []
    assert index.count() == 3003
    index.close()


def test_two_runs_share_a_file(path: Path) -> None:
    """Two processes' handles on one file see each other's segments and do not destroy the file."""
    one, two = LocalIndex(path, SECRET), LocalIndex(path, SECRET)
    one.add("from one", [pack(20, entry(9001))])
    two.add("from two", [pack(21, entry(9002))])
    for index in (one, two):
        assert set(index.find(Kind.ROWS, ids(9001, 9002))) == set(ids(9001, 9002))
        index.close()


def test_no_secret_stands_in_the_file(path: Path) -> None:
    """Neither the secret nor the key made of it is written."""
    assert SECRET not in path.read_bytes()
