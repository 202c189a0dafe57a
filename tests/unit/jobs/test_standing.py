"""A database to which nobody wrote is not read again; whenever that is in doubt, it is."""

import os
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.engines import sqlite_standstill
from backupd.engines.sqlite_capture import SqliteSource
from backupd.engines.sqlite_standstill import standstill
from backupd.jobs import standing as standing_module
from backupd.jobs.verify import Level
from backupd.repo.trust import Policy
from backupd.store.dryrun import DryRunStore
from tests.doubles import Crash, CrashingStore
from tests.jobs_kit import Kit, utc_now
from tests.table_engine import TableSource
from tests.unit.jobs.test_nights import churn, files_of, flip, make_customers, vars_of
from tests.unit.jobs.test_tables import rows, take

TICK = 0.03


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes settle in hundredths of a second: this file system counts nanoseconds, in ticks of milliseconds."""
    monkeypatch.setattr(sqlite_standstill, "_SETTLED_NS", int(TICK * 1e9))


def settle() -> None:
    time.sleep(2 * TICK)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_customers(tmp_path / "crm.db", 3000)


def test_an_unchanged_file_is_not_read(kit: Kit, source: Path) -> None:
    """The second snapshot names the first one's chunks, restores and verifies as it does, and has its own note and time."""
    settle()
    first = kit.backup(source, note="one")
    second = kit.backup(source, note="two", tags=("evening",))
    assert (first.unread, second.unread) == (False, True)
    assert second.read_bytes == 0
    assert second.chunks == {"total": first.chunks["total"], "full": 0, "delta": 0, "reused": first.chunks["total"]}
    assert (second.rows, second.warnings) == (first.rows, first.warnings)
    assert kit.restore(second.snapshot).read_bytes() == source.read_bytes()
    assert kit.verify(Level.CONTENT).problems == []
    views = kit.history().views
    assert [view.structure.tags for view in views] == [(), ("evening",)]
    assert [view.structure.read_bytes for view in views] == [source.stat().st_size] * 2
    assert second.stored_bytes < 20_000


def test_a_change_is_read_and_leans(kit: Kit, source: Path) -> None:
    """After nights without reading, a change is stored as a delta on what was read before them."""
    settle()
    kit.backup(source)
    for _ in range(3):
        assert kit.backup(source).unread
    churn(source, 1)
    settle()
    done = kit.backup(source)
    assert not done.unread
    assert done.chunks["delta"] > 0
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    assert kit.backup(source).unread


def just_written(path: Path) -> None:
    churn(path, 1)


def backdated(path: Path) -> None:
    before = path.stat()
    churn(path, 1)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    settle()


def same_size_bytes(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 50)
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    settle()


def replaced(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other.db")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    settle()


def with_journal(path: Path) -> None:
    path.with_name(path.name + "-journal").write_bytes(b"")


@pytest.mark.parametrize("what", [just_written, backdated, same_size_bytes, replaced, with_journal])
def test_in_doubt_it_is_read(kit: Kit, source: Path, what: Callable[[Path], None]) -> None:
    """A change a moment ago, times that were set back, another file in its place, a journal."""
    settle()
    kit.backup(source)
    what(source)
    done = kit.backup(source)
    assert not done.unread
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()


def test_a_commit_that_only_the_wal_has(kit: Kit, source: Path) -> None:
    """Rows that a writer left in the WAL are read, although the file itself stands still."""
    writer = sqlite3.connect(source)
    writer.execute("pragma journal_mode=wal")
    writer.execute("insert into calls(customer, text) values(1, 'one')")
    writer.commit()
    settle()
    kit.backup(source)
    assert kit.backup(source).unread
    before = source.stat().st_mtime_ns
    writer.execute("insert into calls(customer, text) values(2, 'two')")
    writer.commit()
    assert source.stat().st_mtime_ns == before
    settle()
    done = kit.backup(source)
    assert not done.unread
    copy = sqlite3.connect(kit.restore(done.snapshot))
    assert copy.execute("select count(*) from calls where text in ('one', 'two')").fetchone() == (2,)
    assert kit.backup(source).unread
    writer.close()


def test_where_nothing_is_proven(kit: Kit, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system of another machine, or an unknown one, everything is read."""
    settle()
    assert standstill(source) is not None
    link = source.with_name("link.db")
    link.symlink_to(source)
    assert standstill(link) == standstill(source)
    for said in ("nfs4", "cifs", "fuse.sshfs", "overlay", None):
        monkeypatch.setattr(sqlite_standstill, "_file_system", lambda device, said=said: said)
        assert standstill(source) is None
    kit.backup(source)
    assert not kit.backup(source).unread
    assert standstill(source.with_name("missing.db")) is None
    assert standstill(source.parent) is None


def test_after_a_reboot_it_is_read(kit: Kit, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut may leave data that is newer than the times beside it: a proof holds for one boot."""
    settle()
    kit.backup(source)
    assert kit.backup(source).unread
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(sqlite_standstill, "_BOOT", boot)
    assert not kit.backup(source).unread
    assert kit.backup(source).unread
    monkeypatch.setattr(sqlite_standstill, "_BOOT", tmp_path / "missing")
    assert standstill(source) is None


def test_a_clock_that_is_behind(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file from the future proves nothing."""
    settle()
    monkeypatch.setattr(sqlite_standstill.time, "time_ns", lambda: source.stat().st_mtime_ns - 1)
    assert standstill(source) is None


def test_the_file_systems_of_this_machine(tmp_path: Path) -> None:
    """The table of mounts is found and read; a device that it lacks has no type."""
    assert sqlite_standstill._file_system(os.makedev(4095, 99)) is None
    assert sqlite_standstill._file_system(Path("/proc").stat().st_dev) == "proc"


def test_who_asks_for_reading_gets_it(kit: Kit, source: Path) -> None:
    """With --check, without a version cache, and after the cache was damaged."""
    settle()
    kit.backup(source)
    assert not kit.backup(source, check=True).unread
    assert not kit.backup(source).unread  # a checked run proves nothing for the next one
    assert kit.backup(source).unread
    for path in files_of(kit):
        flip(path)
    assert not kit.backup(source).unread
    assert not kit.backup(source, version_cache=None).unread
    assert not kit.backup(source).unread


def test_another_program_reads_again(kit: Kit, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version of the cutter made is not taken over."""
    settle()
    kit.backup(source)
    monkeypatch.setattr("backupd.jobs.backup.MADE_BY", {"backupd": "99", "cutter": "x", "rows": "y"})
    assert not kit.backup(source).unread
    assert kit.backup(source).unread


def test_a_pack_that_is_gone(kit: Kit, source: Path) -> None:
    """If anything that the last run stored is missing, the source is read and what is missing stored anew."""
    settle()
    first = kit.backup(source)
    pack = next(info.name for info in kit.store.list("packs/"))
    kit.store.delete(pack)
    done = kit.backup(source)
    assert not done.unread
    assert done.chunks["full"] > 0
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    assert first.snapshot != done.snapshot


def at(day: float) -> Callable[[], datetime]:
    moment = datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=day)
    return lambda: moment


def test_it_is_read_once_a_week(kit: Kit, source: Path) -> None:
    """However still it stands; and never by a clock that went back."""
    settle()
    unread = [kit.backup(source, clock=at(day)).unread for day in range(15)]
    assert unread == [False, *[True] * 6, False, *[True] * 6, False]
    assert not kit.backup(source, clock=at(3)).unread


def test_old_bases_make_it_read(kit: Kit, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delta must not lean for ever on what is gone, even if nothing changes any more."""
    monkeypatch.setattr(standing_module, "READ_AT_LEAST", 10_000)
    policy = Policy(pack_bytes=200_000, base_max_age_days=10)
    kit.put_trust(type(kit.trust)(**{**vars_of(kit), "version": 2, "policy": policy}))
    kit.backup(source, clock=at(0))
    churn(source, 1)
    settle()
    changed = kit.backup(source, clock=at(1))
    assert changed.chunks["delta"] > 0
    results = [kit.backup(source, clock=at(day)) for day in range(2, 14)]
    assert any(done.unread for done in results[:3])
    assert any(not done.unread and done.chunks["full"] > 0 for done in results)
    assert all(not ref.bases for stream in kit.refs(results[-1].snapshot) for ref in stream)
    assert kit.restore(results[-1].snapshot).read_bytes() == source.read_bytes()


def test_full_chunks_may_be_leaned_on_after_a_long_stand(kit: Kit, source: Path) -> None:
    """What was in the source yesterday was seen yesterday, although nobody read it."""
    settle()
    for day in range(0, 40, 6):
        kit.backup(source, clock=at(day))
        kit.backup(source, clock=at(day + 5))
    churn(source, 1)
    done = kit.backup(source, clock=at(42))
    assert done.chunks["delta"] > 0
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()


def test_a_trial_says_so_too(kit: Kit, source: Path) -> None:
    """`run --dry-run` takes the same way and changes nothing."""
    settle()
    kit.backup(source)
    before = {path: path.read_bytes() for path in files_of(kit)}
    trial = kit.backup(source, store=DryRunStore(kit.store, utc_now), host="trial", trial=kit.places("writer"))
    assert trial.unread
    assert {path: path.read_bytes() for path in files_of(kit)} == before


def test_crashes_in_a_night_without_reading(kit: Kit, source: Path) -> None:
    """Whatever write it dies before, earlier snapshots are whole and the next run succeeds."""
    settle()
    kit.backup(source)
    for n in range(1, 20):
        store = CrashingStore(kit.store, before_write=n)
        try:
            done = kit.backup(source, store=store)
        except Crash:
            assert kit.verify(Level.CONTENT).problems == []
            continue
        assert done.unread
        break
    else:
        raise AssertionError("it always crashed")
    assert n > 1
    assert kit.restore(kit.backup(source).snapshot).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_random_nights(kit: Kit, source: Path, mode: str) -> None:
    """Writers that write or do not, keep their connection or close it: each snapshot has the rows of its moment."""
    noise = random.Random(mode)
    writer = sqlite3.connect(source)
    unread = 0
    for night in range(14):
        writer.execute(f"pragma journal_mode={mode}")
        if noise.random() < 0.4:
            writer.execute("update customers set notes=? where id=?", (f"night {night}", noise.randrange(3000)))
            writer.commit()
        if noise.random() < 0.3:
            writer.close()
            writer = sqlite3.connect(source)
        if noise.random() < 0.8:
            settle()
        done = kit.backup(source)
        unread += done.unread
        copy = sqlite3.connect(kit.restore(done.snapshot))
        query = "select * from customers order by id"
        assert copy.execute(query).fetchall() == writer.execute(query).fetchall()
        copy.close()
        writer.rollback()
    writer.close()
    assert unread > 0 or mode == "persist"


def test_servers_are_read(kit: Kit) -> None:
    """An engine that proves nothing is read; one that did would not be."""
    table = TableSource({"t": rows(2000)})
    take(kit, table)
    assert not take(kit, table).unread
    still = replace(table, still="as it was")
    take(kit, still)
    assert take(kit, still).unread
    assert kit.verify(Level.CONTENT).problems == []


def test_two_seconds_are_waited_for(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real margin a file that was just written proves nothing, and soon does."""
    monkeypatch.undo()
    os.utime(source)
    assert standstill(source) is None
    time.sleep(2.1)
    assert standstill(source) is not None
    assert SqliteSource(source).standstill() == standstill(source)
