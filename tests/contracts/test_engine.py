"""What every engine promises: one consistent moment, whole or not at all."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupd.errors import BackupdError, IntegrityError, SafetyRefused
from tests.engines import ACCOUNTS, OPENING, Engine, Kept, MariaEngine, PostgresEngine, ServerEngine, SqliteEngine, keep

SMALLEST = 64 * 1024
LARGEST = 1024 * 1024
SERVERS = ["postgresql-14", "postgresql-15", "postgresql-18", "mariadb-"]


@pytest.fixture(
    params=["sqlite-wal", "sqlite-delete", *(pytest.param(name, marks=pytest.mark.slow) for name in SERVERS)]
)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """One engine of the suite with a source of its own."""
    kind, _, detail = request.param.partition("-")
    if kind == "sqlite":
        yield SqliteEngine(tmp_path, detail)
        return
    make: dict[str, Callable[[], ServerEngine]] = {
        "postgresql": lambda: PostgresEngine(request.getfixturevalue("postgres_servers")(int(detail))),
        "mariadb": lambda: MariaEngine(request.getfixturevalue("mariadb_server")),
    }
    made = make[kind]()
    yield made
    made.drop()


def capture(engine: Engine) -> Kept:
    """Take everything."""
    with engine.source().view() as view:
        return keep(view)


def take(engine: Engine, name: str) -> Kept:
    """Capture, and restore under a name."""
    kept = capture(engine)
    engine.restore(name, kept)
    return kept


def test_a_restored_source_has_the_same_rows(engine: Engine) -> None:
    """Nothing is lost and nothing is added between a capture and its restore."""
    kept = take(engine, "copy")
    assert engine.dump("copy") == engine.dump_source()
    assert engine.leavings() == {"copy"}
    assert kept.rows("accounts") == ACCOUNTS
    assert {table.name: table.key for table in kept.tables}["lines"] == ("booking", "account")


def test_a_view_describes_itself_in_plain_values(engine: Engine) -> None:
    """Facts go into a manifest, streams are named, and their hints are close."""
    with engine.source().view(check=True) as view:
        kept = keep(view)
        assert json.loads(json.dumps(kept.facts)) == kept.facts
        assert "engine_version" in kept.facts
        assert len({(stream.name, stream.kind) for stream in view.streams}) == len(view.streams) > 0
        hinted = sum(stream.size_hint or 0 for stream in view.streams if stream.kind != "schema")
        size = sum(len(data) for info, data in kept.streams if info.kind != "schema")
        assert size / 2 < hinted < size * 2
        assert not view.pressing
        assert list(view.warnings) == []


def test_buffers_have_the_promised_sizes(engine: Engine) -> None:
    """Every buffer of pages but the last is a multiple of 64 KiB, and none is larger than 1 MiB."""
    with engine.writer():
        pass
    with engine.source().view() as view:
        for stream in view.streams:
            sizes = [len(buffer) for buffer in view.read(stream)]
            assert all(size <= LARGEST for size in sizes)
            if stream.kind == "pages":
                assert all(size >= SMALLEST and size % SMALLEST == 0 for size in sizes[:-1])


def test_one_view_is_one_moment_however_often_it_is_read(engine: Engine) -> None:
    """A stream read twice from one view is the same, although a writer writes."""
    with engine.writer(), engine.source().view() as view:
        streams = [stream for stream in view.streams if stream.kind != "schema"]
        first = [b"".join(bytes(buffer) for buffer in view.read(stream)) for stream in streams]
        time.sleep(0.1)
        assert first == [b"".join(bytes(buffer) for buffer in view.read(stream)) for stream in streams]


def test_a_busy_source_is_captured_consistently(engine: Engine) -> None:
    """Under a writer the sum never differs, every booking has its lines, and the counts are those of the copy."""
    seen: list[int] = []
    wanted = 8 if isinstance(engine, SqliteEngine) else 4
    end = time.monotonic() + 120
    with engine.writer() as writer:
        while len(set(seen)) < wanted and time.monotonic() < end:
            number = len(seen)
            kept = take(engine, f"copy{number}")
            rows = engine.dump(f"copy{number}")
            assert sum(int(str(row[1])) for row in rows["accounts"]) == ACCOUNTS * OPENING
            bookings = {row[0] for row in rows["bookings"]}
            assert {row[0] for row in rows["lines"]} == bookings
            assert kept.rows("bookings") == len(bookings)
            seen.append(len(bookings))
    assert seen == sorted(seen)
    assert len(set(seen)) == wanted
    print(f"longest commit {writer.result['longest'] * 1000:.1f} ms of {writer.result['commits']:.0f}")


def test_a_reader_may_leave_early(engine: Engine) -> None:
    """A stream that is not read to its end does not keep the source or the view from closing."""
    with engine.source().view() as view:
        for stream in view.streams:
            assert next(iter(view.read(stream)), b"") is not None
            break
    with engine.writer() as writer:
        pass
    assert writer.said == "ready"


def broken(data: bytes) -> Iterator[bytes]:
    """Buffers that fail half-way."""
    yield data[: len(data) // 2]
    raise BackupdError("the store went away")


def test_a_failed_restore_leaves_nothing(engine: Engine) -> None:
    """Buffers that raise, end early or go on for too long make no target and leave nothing behind."""
    kept = capture(engine)
    with pytest.raises(BackupdError, match="went away"):
        engine.restore("copy", kept, spoil=broken)
    for wrong in (lambda data: data[:-1], lambda data: data + b"x", lambda data: b""):
        with pytest.raises(IntegrityError):
            engine.restore("copy", kept, spoil=lambda data, wrong=wrong: iter([wrong(data)]))  # type: ignore[misc]
    assert engine.leavings() == set()


def test_an_existing_target_is_refused(engine: Engine) -> None:
    """A target that exists is refused at once, unless its name is repeated exactly; then it is replaced."""
    kept = take(engine, "copy")
    for name in (None, "cop", "COPY", "*"):
        with pytest.raises(SafetyRefused):
            engine.refuse("copy", kept, name)
    engine.refuse("copy", kept, "copy")
    with engine.writer():
        pass
    engine.restore("copy", capture(engine), overwrite="copy")
    assert engine.dump("copy") == engine.dump_source()
    assert engine.leavings() == {"copy"}
