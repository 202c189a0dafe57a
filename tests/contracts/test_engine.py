"""What every engine promises: one consistent moment, whole or not at all."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.engines.base import View
from backupd.errors import BackupdError, IntegrityError, SafetyRefused
from tests.engines import ACCOUNTS, OPENING, Engine, SqliteEngine, restore

SMALLEST = 64 * 1024
LARGEST = 1024 * 1024


@pytest.fixture(params=["sqlite-wal", "sqlite-delete"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """One engine of the suite with a source of its own."""
    kind, _, mode = request.param.partition("-")
    return {"sqlite": SqliteEngine}[kind](tmp_path, mode)


def drain(view: View) -> bytes:
    """All streams of a view, joined."""
    return b"".join(bytes(buffer) for stream in view.streams for buffer in view.read(stream))


def take(engine: Engine, name: str) -> View:
    """Capture and restore under a name; returns the view, which is closed by then."""
    with engine.source().view() as view:
        data = drain(view)
    restore(engine.target(name), [data], size=len(data), facts=view.facts, check="full")
    return view


def test_a_restored_source_has_the_same_rows(engine: Engine) -> None:
    """Nothing is lost and nothing is added between a capture and its restore."""
    view = take(engine, "copy")
    assert engine.dump("copy") == engine.dump_source()
    assert engine.leavings() == {"copy"}
    assert {table.name: table.rows for table in view.tables}["accounts"] == ACCOUNTS
    assert {table.name: table.key for table in view.tables}["lines"] == ("booking", "account")


def test_a_view_describes_itself_in_plain_values(engine: Engine) -> None:
    """Facts go into a manifest, streams have distinct names, and their hints are close."""
    with engine.source().view(check=True) as view:
        assert json.loads(json.dumps(dict(view.facts))) == view.facts
        assert "engine_version" in view.facts
        assert len({stream.name for stream in view.streams}) == len(view.streams) > 0
        assert sum(stream.size_hint or 0 for stream in view.streams) == pytest.approx(len(drain(view)), rel=0.5)
        assert not view.pressing
        assert list(view.warnings) == []


def test_buffers_have_the_promised_sizes(engine: Engine) -> None:
    """Every buffer of pages but the last is a multiple of 64 KiB, and none is larger than 1 MiB."""
    with engine.writer():
        pass
    with engine.source().view() as view:
        for stream in view.streams:
            sizes = [len(buffer) for buffer in view.read(stream)]
            assert all(SMALLEST <= size <= LARGEST for size in sizes[:-1])
            assert sizes[-1] <= LARGEST
            if stream.kind == "pages":
                assert all(size % SMALLEST == 0 for size in sizes[:-1])


def test_one_view_is_one_moment_however_often_it_is_read(engine: Engine) -> None:
    """A stream read twice from one view is the same, although a writer waits or writes."""
    with engine.writer(), engine.source().view() as view:
        assert drain(view) == drain(view)


def test_a_busy_source_is_captured_consistently(engine: Engine) -> None:
    """Under a writer the sum never differs, every booking has its lines, and the counts are those of the copy."""
    seen: list[int] = []
    end = time.monotonic() + 120
    with engine.writer() as writer:
        while len(set(seen)) < 8 and time.monotonic() < end:
            number = len(seen)
            view = take(engine, f"copy{number}")
            rows = engine.dump(f"copy{number}")
            assert sum(int(str(row[1])) for row in rows["accounts"]) == ACCOUNTS * OPENING
            bookings = {row[0] for row in rows["bookings"]}
            assert {row[0] for row in rows["lines"]} == bookings
            assert {table.name: table.rows for table in view.tables}["bookings"] == len(bookings)
            seen.append(len(bookings))
    assert seen == sorted(seen)
    assert len(set(seen)) == 8
    print(f"longest commit {writer.result['longest'] * 1000:.1f} ms of {writer.result['commits']:.0f}")


def test_a_reader_may_leave_early(engine: Engine) -> None:
    """A stream that is not read to its end does not keep the source or the view from closing."""
    with engine.source().view() as view:
        assert next(iter(view.read(view.streams[0])))
    with engine.writer() as writer:
        pass
    assert writer.said == "ready"


def broken(data: bytes) -> Iterator[bytes]:
    """Buffers that fail half-way."""
    yield data[: len(data) // 2]
    raise BackupdError("the store went away")


def test_a_failed_restore_leaves_nothing(engine: Engine) -> None:
    """Buffers that raise, end early or go on for too long make no target and leave no file."""
    with engine.source().view() as view:
        data = drain(view)
    with pytest.raises(BackupdError, match="went away"):
        restore(engine.target("copy"), broken(data), size=len(data), facts=view.facts)
    for wrong in (data[:-1], data + b"x", b""):
        with pytest.raises(IntegrityError):
            restore(engine.target("copy"), [wrong], size=len(data), facts=view.facts)
    assert engine.leavings() == set()


def test_an_existing_target_is_refused(engine: Engine) -> None:
    """A target that exists is refused at once, unless its name is repeated exactly."""
    take(engine, "copy")
    target = engine.target("copy")
    for name in (None, "cop", "COPY", "*"):
        with pytest.raises(SafetyRefused):
            target.prepare(overwrite=name)
    target.prepare(overwrite="copy")
