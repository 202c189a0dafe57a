"""Bandwidth limits: what passes takes as long as it must, and arrives as it was."""

import threading
from pathlib import Path

import pytest

from backupd.store.base import LocalObjects, ObjectExists
from backupd.store.folder import FolderStore
from backupd.store.pace import Limits, Pace, PacedBody, PacedStore
from backupd.store.s3 import S3Store
from tests.cli.kit import CHINOOK, User
from tests.servers import scripted_s3
from tests.stores import memory_store
from tests.unit.store.test_s3 import Waits


class Watched(Limits):
    """Limits whose paces wait by a clock that only sleeping moves."""

    def __init__(self, waits: Waits, upload: int | None = None, download: int | None = None) -> None:
        super().__init__(upload, download)
        object.__setattr__(self, "waits", waits)

    def paces(self) -> tuple[Pace | None, Pace | None]:
        waits: Waits = self.waits  # type: ignore[attr-defined]
        made = [
            Pace(n, clock=lambda: waits.now, sleep=waits.sleep) if n else None for n in (self.upload, self.download)
        ]
        return made[0], made[1]


def test_bytes_take_their_time() -> None:
    """So many bytes take so many seconds, but for a quarter of a second's worth that was saved up."""
    waits = Waits()
    pace = Pace(1000, clock=lambda: waits.now, sleep=waits.sleep)
    for _ in range(100):
        pace.take(100)
    assert waits.now == pytest.approx(10)
    waits.now += 3600
    pace.take(250)
    assert waits.now == pytest.approx(3610)
    pace.take(1000)
    assert waits.now == pytest.approx(3611)


def test_threads_share_one_pace() -> None:
    """Several threads together are no faster than one."""
    slept: list[float] = []
    pace = Pace(1000, clock=lambda: 0.0, sleep=slept.append)
    threads = [threading.Thread(target=lambda: [pace.take(10) for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(slept) == pytest.approx(1.0, abs=0.26)
    assert len(slept) > 70


def test_large_reads_of_a_body_are_no_traffic() -> None:
    """Signing reads a body in large pieces, sending in small ones: only the latter wait."""
    waits = Waits()
    body = PacedBody(bytes(300_000), Pace(100_000, clock=lambda: waits.now, sleep=waits.sleep))
    assert len(body.read()) == 300_000
    assert waits.now == 0
    body.seek(0)
    while body.read(16_384):
        pass
    assert waits.now == pytest.approx(3, abs=0.3)


def test_s3_sends_and_receives_at_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object goes to a server and comes back whole, in pieces that wait; a retry begins it anew."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKMADEUP")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    up, data = Waits(), bytes(range(256)) * 4000
    with scripted_s3.running() as server:
        patience = Waits().patience()
        store = S3Store("bucket", "p", endpoint=server.endpoint, patience=patience, limits=Watched(up, upload=100_000))
        server.script.append(scripted_s3.reset)
        store.put("packs/1", data)
        assert len(data) / 100_000 - 1 < up.now < 2 * len(data) / 100_000 + 1
        assert len(up.slept) > 10
        down = Waits()
        reader = S3Store("bucket", "p", endpoint=server.endpoint, limits=Watched(down, download=200_000))
        assert reader.get("packs/1") == data
        assert reader.get("packs/1", 100, 5000) == data[100:5100]
        assert down.now == pytest.approx(len(data) / 200_000, abs=0.5)
        store.close()
        reader.close()


def test_other_stores_wait_for_whole_objects(tmp_path: Path) -> None:
    """A folder or any other store behind the limits does what it does without them."""
    waits = Waits()
    inner = memory_store()
    store = PacedStore(inner, Watched(waits, upload=1000, download=500))
    store.put("packs/1", b"x" * 2000)
    assert waits.now == pytest.approx(2, abs=0.3)
    assert store.get("packs/1") == b"x" * 2000
    assert waits.now == pytest.approx(6, abs=0.6)
    with pytest.raises(ObjectExists):
        store.put("packs/1", b"y")
    assert [info.name for info in store.list("packs/")] == ["packs/1"]
    store.delete("packs/1")
    assert list(store.list()) == list(store.strangers()) == []
    assert store.url == inner.url
    store.close()
    assert isinstance(FolderStore(tmp_path / "f", create=True), LocalObjects)
    assert not isinstance(store, LocalObjects)


def test_the_command_line_takes_limits(tmp_path: Path) -> None:
    """`--limit-upload` and `--limit-download` take sizes, `off` and nothing else; backup and restore work behind them."""
    user = User(tmp_path)
    user.init()
    done = user.run("run", "--source", str(CHINOOK), "--limit-upload", "50M", key="write")
    assert done.code == 0, done.err
    done = user.run("restore", "latest", "out.db", "--limit-download", "50m", "--limit-upload", "off", key="read")
    assert done.code == 0, done.err
    assert (user.folder / "out.db").read_bytes() == CHINOOK.read_bytes()
    for wrong in ("fast", "-1", "1X", ""):
        assert user.run("run", "--source", str(CHINOOK), "--limit-upload", wrong, key="write").code == 2
