"""The probe tells what a store honours, and leaves nothing behind."""

import json
from contextlib import suppress
from datetime import datetime, timedelta

import pytest

from backupd.store.base import ObjectStore, StoreError, StoreMissing, StoreRefused, StoreUnavailable
from backupd.store.folder import FolderStore
from backupd.store.probe import ProbeResult, probe
from backupd.store.s3 import S3Store
from tests.conftest import Bucket
from tests.doubles import (
    DamagingStore,
    LaggingStore,
    NoCreateOnlyStore,
    ReadOnlyStore,
    RecordingStore,
    ThrottlingStore,
    Wrapper,
)
from tests.stores import memory_store, utc_now


class NoDelete(Wrapper):
    """Credentials that may not delete."""

    def delete(self, name: str) -> None:
        raise StoreRefused("denied", object_name=name)


class NoRanges(Wrapper):
    """Ignores ranges."""

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self.inner.get(name)


def failed(result: ProbeResult) -> set[str]:
    return {fact.name for fact in result.facts if not fact.honoured}


def test_a_good_store_is_level_a() -> None:
    """A store that honours everything is level A, and is empty afterwards."""
    store = RecordingStore(memory_store())
    result = probe(store, now=utc_now())
    assert (result.level, failed(result), result.left_behind) == ("A", set(), ())
    assert list(store.list()) == []
    assert {name.split("/")[0] for _, name, _ in store.calls if name} == {"probe"}


def test_the_result_is_json() -> None:
    """The result turns into JSON, with a sentence for each fact."""
    found = json.loads(json.dumps(probe(memory_store(), now=utc_now()).as_json()))
    assert found["level"] == "A"
    assert len(found["facts"]) == 7
    assert all(len(fact["follows"]) > 10 for fact in found["facts"])


def test_no_create_only_is_level_b() -> None:
    """A store that overwrites silently is level B."""
    store = NoCreateOnlyStore(memory_store())
    result = probe(store, now=utc_now())
    assert (result.level, failed(result)) == ("B", {"create_only", "create_only_race"})
    assert list(store.list()) == []


@pytest.mark.parametrize(
    ("store", "fact"),
    [
        (NoRanges(memory_store()), "range_reads"),
        (LaggingStore(memory_store(), 20), "write_then_list"),
        (NoDelete(memory_store()), "delete"),
    ],
)
def test_anything_else_is_level_c(store: ObjectStore, fact: str) -> None:
    """A store that lacks what backups rely on is level C."""
    result = probe(store, now=utc_now())
    assert (result.level, failed(result)) == ("C", {fact})


def test_what_stays_is_told() -> None:
    """Objects that cannot be taken away are named."""
    store = NoDelete(memory_store())
    result = probe(store, now=utc_now())
    assert list(result.left_behind) == [info.name for info in store.list()]


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_wrong_clock_is_told(minutes: int) -> None:
    """Twenty minutes of difference are told, with their sign."""
    result = probe(memory_store(), now=utc_now() - timedelta(minutes=minutes))
    assert failed(result) == {"clock"}
    assert round(result.clock_offset_seconds / 60) == minutes


@pytest.mark.parametrize("calls", range(2, 17))
def test_a_failure_in_the_middle_is_raised_and_cleared(calls: int) -> None:
    """A store that fails half-way makes the probe fail, and what it made is taken away."""
    inner = memory_store()
    store = FailsOnce(inner, calls)
    with suppress(StoreUnavailable):
        probe(store, now=utc_now())
    assert store.left <= 0
    assert list(inner.list()) == []


class FailsOnce(Wrapper):
    """The n-th call fails."""

    def __init__(self, inner: ObjectStore, number: int) -> None:
        super().__init__(inner)
        self.left = number

    def _maybe(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoreUnavailable("now not")

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        self._maybe()
        return self.inner.put(name, data, create_only=create_only)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._maybe()
        return self.inner.get(name, start, length)


@pytest.mark.parametrize(
    ("store", "kind"),
    [
        (ReadOnlyStore(memory_store()), StoreRefused),
        (ThrottlingStore(memory_store(), first=100), StoreUnavailable),
        (FolderStore("/nonexistent/folder"), StoreMissing),
    ],
)
def test_a_store_that_cannot_be_used_at_all(store: ObjectStore, kind: type[StoreError]) -> None:
    """What is refused, unreachable or missing is raised, not graded."""
    with pytest.raises(kind):
        probe(store, now=utc_now())


def test_damaged_reads_are_level_c() -> None:
    """A store that hands out other bytes is level C."""

    class Damaging(Wrapper):
        def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
            return DamagingStore(self.inner, {name: lambda data: data[::-1]}).get(name, start, length)

    result = probe(Damaging(memory_store()), now=utc_now())
    assert result.level == "C"
    assert "write_then_read" in failed(result)


@pytest.mark.s3server
def test_the_real_s3_server_is_level_a(s3_bucket: Bucket) -> None:
    """Ceph's gateway honours everything that backups rely on."""
    store = S3Store(s3_bucket.name, "p", endpoint=s3_bucket.endpoint, region=s3_bucket.region)
    result = probe(store, now=utc_now())
    assert (result.level, failed(result)) == ("A", set())
    assert list(store.list()) == []
    store.close()
