"""What every object store must do: the protocol's promises, one by one, against every implementation and wrapper."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.errors import UsageError
from backupd.store.base import (
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    ShortRead,
    is_valid_name,
)
from tests import stores
from tests.doubles import RecordingStore

KINDS = [
    "memory",
    "folder",
    "folder-without-links",
    "moto",
    "recording",
    pytest.param("s3server", marks=[pytest.mark.s3server]),
]

BAD_NAMES = ["", "/a", "a/", "a//b", "A", ".a", "../a", "a/../b", "a/.b", "-a", "ä", "a b", "a\n", "a\x00b", "a\\b"]
BAD_NAMES += ["a" * 129, "a/b/c/d/e/f/g", ".tmp/a"]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A fresh, empty store of each kind."""
    kind: str = request.param
    if kind == "moto":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        with stores.moto_store() as made:
            yield made
        return
    if kind == "s3server":
        from backupd.store.s3 import S3Store

        bucket = request.getfixturevalue("s3_bucket")
        s3 = S3Store(bucket.name, "some/place", endpoint=bucket.endpoint, region=bucket.region)
        yield s3
        s3.close()
        return
    makes: dict[str, Callable[[], ObjectStore]] = {
        "memory": stores.memory_store,
        "folder": lambda: stores.folder_store(tmp_path / "root"),
        "folder-without-links": lambda: stores.folder_store_without_links(tmp_path / "root"),
        "recording": lambda: RecordingStore(stores.memory_store()),
    }
    yield makes[kind]()


def names(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.name for info in store.list(prefix)]


def test_what_was_put_is_got(store: ObjectStore) -> None:
    """An object comes back byte for byte, whatever buffer it was put from."""
    for number, make in enumerate((bytes, bytearray, memoryview)):
        data = bytes(range(256)) * 3
        store.put(f"packs/{number}", make(data))
        assert store.get(f"packs/{number}") == data


def test_zero_byte_object(store: ObjectStore) -> None:
    """An empty object is an object."""
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.get("empty", 0, 0) == b""
    assert [(info.name, info.size) for info in store.list()] == [("empty", 0)]


def test_large_object(store: ObjectStore) -> None:
    """A pack of 16 MiB goes in one piece."""
    data = os.urandom(1 << 16) * 256
    store.put("packs/large", data)
    assert hashlib.sha256(store.get("packs/large")).digest() == hashlib.sha256(data).digest()
    assert store.get("packs/large", (16 << 20) - 5, 5) == data[-5:]


def test_put_tells_the_stores_time(store: ObjectStore) -> None:
    """A put answers with the time of writing, in UTC, and the listing tells the same to a few seconds."""
    written = store.put("a", b"x")
    assert written.utcoffset() == timedelta(0)
    assert abs(written - stores.utc_now()) < timedelta(minutes=1)
    (info,) = store.list()
    assert info.modified.utcoffset() == timedelta(0)
    assert abs(info.modified - written) < timedelta(seconds=5)


def test_create_only_leaves_the_object_as_it_is(store: ObjectStore) -> None:
    """A second create-only write is refused and changes nothing."""
    store.put("head/1", b"first")
    with pytest.raises(ObjectExists) as caught:
        store.put("head/1", b"second, and longer")
    assert caught.value.object_name == "head/1"
    assert store.get("head/1") == b"first"


def test_without_create_only_the_last_one_stays(store: ObjectStore) -> None:
    """A write that is not create-only replaces."""
    store.put("packs/a", b"one", create_only=False)
    store.put("packs/a", b"three", create_only=False)
    assert store.get("packs/a") == b"three"


def test_create_only_race_has_exactly_one_winner(store: ObjectStore) -> None:
    """Of sixteen concurrent create-only writers one wins, and its content stays."""
    barrier = threading.Barrier(16)

    def attempt(number: int) -> int | None:
        barrier.wait()
        try:
            store.put("chain/000001", b"writer %d" % number * 100)
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        winners = [n for n in pool.map(attempt, range(16)) if n is not None]
    assert len(winners) == 1
    assert store.get("chain/000001") == b"writer %d" % winners[0] * 100


@pytest.mark.parametrize(("start", "length"), [(0, 4), (3, 4), (9, 1), (10, 0), (0, 10), (4, None), (10, None), (5, 0)])
def test_ranges(store: ObjectStore, start: int, length: int | None) -> None:
    """A range is exactly those bytes."""
    store.put("a/b", b"0123456789")
    expected = b"0123456789"[start:] if length is None else b"0123456789"[start : start + length]
    assert store.get("a/b", start, length) == expected


@pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (11, None), (11, 0), (1 << 40, 5)])
def test_a_range_past_the_end_is_refused(store: ObjectStore, start: int, length: int | None) -> None:
    """A range that the object does not have is a ShortRead, never fewer bytes."""
    store.put("a/b", b"0123456789")
    with pytest.raises(ShortRead):
        store.get("a/b", start, length)


@pytest.mark.parametrize(("start", "length"), [(-1, None), (0, -1)])
def test_a_meaningless_range_is_refused(store: ObjectStore, start: int, length: int | None) -> None:
    """Negative starts and lengths are the caller's mistake."""
    store.put("a/b", b"0123456789")
    with pytest.raises(UsageError):
        store.get("a/b", start, length)


@pytest.mark.parametrize(("start", "length"), [(0, None), (5, 3), (0, 0)])
def test_a_missing_object(store: ObjectStore, start: int, length: int | None) -> None:
    """Reading what is not there is ObjectMissing, naming it, even beside others."""
    store.put("a/c", b"x")
    with pytest.raises(ObjectMissing) as caught:
        store.get("a/b", start, length)
    assert caught.value.object_name == "a/b"


def test_delete(store: ObjectStore) -> None:
    """A deleted object is gone; deleting again, or what never was, is fine; the name can be used again."""
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    with pytest.raises(ObjectMissing):
        store.get("a/b")
    assert names(store) == []
    store.put("a/b", b"y")
    assert store.get("a/b") == b"y"


def test_listing_is_in_name_order(store: ObjectStore) -> None:
    """Names come in the byte order of the whole name, where "-" and "." sort before "/" and digits after."""
    every = ["a", "a-b", "a.b", "b/c", "b-c", "b.c/d", "b0", "b/0", "b/c-1", "b/c.1", "z/y/x/w/v/u", "b_", "0/1"]
    wanted = [name for name in every if name not in {"a"}]
    for name in wanted:
        store.put(name, name.encode())
    found = list(store.list())
    assert [info.name for info in found] == sorted(wanted)
    assert [info.size for info in found] == [len(name) for name in sorted(wanted)]


@pytest.mark.parametrize(
    "prefix", ["", "p", "packs", "packs/", "packs/a", "packs/ab/", "packs/ab/1", "nothing/", "../", "/"]
)
def test_listing_by_prefix(store: ObjectStore, prefix: str) -> None:
    """A prefix is a plain string prefix, not a folder."""
    every = ["packs/ab/1", "packs/ab/12", "packs/ac/1", "packs-old/1", "index/1", "p"]
    for name in every:
        store.put(name, b"x")
    assert names(store, prefix) == sorted(name for name in every if name.startswith(prefix))


def test_a_listing_shows_a_write_at_once(store: ObjectStore) -> None:
    """What was put before the listing began is in it."""
    for number in range(5):
        store.put(f"a/{number}", b"x")
        assert names(store, "a/") == [f"a/{n}" for n in range(number + 1)]


def test_more_names_than_a_page(store: ObjectStore, request: pytest.FixtureRequest) -> None:
    """1,005 names are listed completely, once each, in order."""
    wanted = [f"index/{number:05d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), wanted))
    assert names(store, "index/") == wanted


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_outside_the_grammar_are_refused(store: ObjectStore, name: str) -> None:
    """No verb lets a name outside the grammar through."""
    assert not is_valid_name(name)
    for call in (lambda: store.put(name, b"x"), lambda: store.get(name), lambda: store.delete(name)):
        with pytest.raises(UsageError):
            call()
    assert names(store) == []


def test_the_longest_name(store: ObjectStore) -> None:
    """A name at the grammar's limits works."""
    name = "/".join(["a" * 100] * 5)
    store.put(name, b"x")
    assert names(store) == [name]


def test_no_strangers_in_an_own_place(store: ObjectStore) -> None:
    """What the store wrote itself is never strange."""
    store.put("a/b", b"x")
    assert list(store.strangers()) == []


def test_the_url_holds_no_secret(store: ObjectStore) -> None:
    """The URL names the place and has no room for credentials."""
    assert ":" in store.url
    assert "@" not in store.url
    assert "testing" not in store.url


def test_many_threads(store: ObjectStore) -> None:
    """Eight threads may write, read and list at once."""

    def work(number: int) -> bool:
        name, data = f"t/{number}", os.urandom(1000)
        store.put(name, data)
        return store.get(name) == data and name in names(store, "t/")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
