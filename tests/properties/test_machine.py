"""The whole tool against plain copies: any order of edits, runs, crashes, restores and lost caches (E37)."""

import shutil
import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backupd.jobs.verify import Level
from tests.doubles import Crash, CrashingStore
from tests.jobs_kit import Kit, make_database

HOSTS = st.sampled_from(["one", "two"])


class BackupMachine(RuleBasedStateMachine):
    """Two hosts with one write key, one source, and a plain copy of the source for each snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="backupd-machine-")
        self.root = Path(self.folder.name)
        self.kept: dict[str, bytes] = {}

    @initialize(chunks=st.integers(1, 80), pack_bytes=st.sampled_from([1, 150_000, 4_000_000]))
    def begin(self, chunks: int, pack_bytes: int) -> None:
        self.kit = Kit(self.root, pack_bytes=pack_bytes)
        self.source = make_database(self.root / "source.db", chunks=chunks)

    def _sql(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        db = apsw.Connection(str(self.source))
        with db:
            for sql, values in statements:
                db.execute(sql, values).fetchall()
        db.close()

    @rule(data=st.binary(max_size=5000), count=st.integers(1, 200))
    def insert(self, data: bytes, count: int) -> None:
        self._sql(*[("INSERT INTO rows(data) VALUES (?)", (data + bytes([n % 256]),)) for n in range(count)])

    @rule(data=st.binary(max_size=5000), first=st.integers(0, 1200), count=st.integers(1, 30))
    def update(self, data: bytes, first: int, count: int) -> None:
        self._sql(("UPDATE rows SET data = ? WHERE id BETWEEN ? AND ?", (data, first, first + count)))

    @rule(first=st.integers(0, 1200), count=st.integers(1, 300), vacuum=st.booleans())
    def delete(self, first: int, count: int, vacuum: bool) -> None:
        self._sql(("DELETE FROM rows WHERE id BETWEEN ? AND ?", (first, first + count)))
        if vacuum:
            db = apsw.Connection(str(self.source))
            db.execute("VACUUM").fetchall()
            db.close()

    @rule(name=st.integers(0, 5))
    def change_schema(self, name: int) -> None:
        self._sql((f"CREATE TABLE IF NOT EXISTS more{name} (a, b)", ()), (f"INSERT INTO more{name} VALUES (1, 2)", ()))

    @rule(host=HOSTS)
    def run(self, host: str) -> None:
        done = self.kit.backup(self.source, host=host)
        assert done.snapshot not in self.kept
        self.kept[done.snapshot] = self.source.read_bytes()

    @rule(host=HOSTS, write=st.integers(1, 8), after=st.booleans())
    def crash(self, host: str, write: int, after: bool) -> None:
        when = "after_write" if after else "before_write"
        try:
            done = self.kit.backup(self.source, store=CrashingStore(self.kit.store, **{when: write}), host=host)
        except Crash:
            fresh = {v.id for v in self.kit.history().views} - self.kept.keys()
            assert len(fresh) <= after
            self.kept |= dict.fromkeys(fresh, self.source.read_bytes())
        else:
            self.kept[done.snapshot] = self.source.read_bytes()

    @rule(host=HOSTS)
    def lose_the_cache(self, host: str) -> None:
        shutil.rmtree(self.kit.places(host).cache, ignore_errors=True)

    @precondition(lambda self: self.kept)
    @rule(n=st.integers(0, 100))
    def restore(self, n: int) -> None:
        snapshot = sorted(self.kept)[n % len(self.kept)]
        restored = self.kit.restore(snapshot)
        assert restored.read_bytes() == self.kept[snapshot]
        restored.unlink()

    @rule(level=st.sampled_from(Level))
    def verify(self, level: Level) -> None:
        found = self.kit.verify(level)
        assert found.problems == []
        assert found.snapshots == len(self.kept)

    @invariant()
    def every_snapshot_is_listed(self) -> None:
        if hasattr(self, "kit"):
            history = self.kit.history()
            assert history.problems == []
            assert {v.id for v in history.views} == self.kept.keys()

    def teardown(self) -> None:
        if hasattr(self, "kit"):
            self.kit.assert_restores(self.kept)
            assert self.kit.verify(Level.CONTENT, host="last").problems == []
        self.folder.cleanup()


BackupMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.mark.slow
class TestBackupMachine(BackupMachine.TestCase):  # type: ignore[misc]
    """Every snapshot stays what its plain copy is, whatever happens between (E37)."""
