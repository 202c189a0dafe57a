"""Undo files hold records in the clear: they go when their time is over, and never before."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backupd.jobs.recover import undo_place
from backupd.jobs.undofiles import kept_as_long, kept_until, remove_old, undo_files
from backupd.records.undo import Undo, parse_undo, undo_lines

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def undo(until: str) -> Undo:
    return Undo("sqlite", "x.db", "2026-11-28T12:00:00Z", "ab", None, (), until=until)


def write(folder: Path, until: str) -> Path:
    path = undo_place(folder, NOW)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(undo_lines(undo(until))))
    return path


def test_a_file_goes_when_its_time_is_over_and_not_a_second_before(tmp_path: Path) -> None:
    """Those of every repository, and of undos; a dry run removes nothing."""
    week, month = (write(tmp_path / name, kept_until(NOW, days)) for name, days in (("a" * 64, 7), ("b" * 64, 30)))
    own = write(tmp_path, kept_until(NOW, 7))
    assert [file.path for file in undo_files(tmp_path)] == [own, week, month]
    assert remove_old(tmp_path, NOW + 7 * DAY - timedelta(seconds=1)) == []
    assert remove_old(tmp_path, NOW + 7 * DAY, dry_run=True) == [own, week]
    assert week.exists()
    assert remove_old(tmp_path, NOW + 7 * DAY) == [own, week]
    assert [file.path for file in undo_files(tmp_path)] == [month]


def test_what_does_not_say_until_when_is_left_alone(tmp_path: Path) -> None:
    """Files of others, damaged ones, links, and files elsewhere."""
    silent = write(tmp_path, "")
    strange = {"until": "2001-01-01T00:00:00Z"}
    for n, text in enumerate(
        (b"", b"\xff{", json.dumps(strange).encode(), b"[" * 5000, b'{"format": "backupd-undo/1", "until": 7}')
    ):
        (tmp_path / "undo" / f"{n}.jsonl").write_bytes(text)
    far = tmp_path / "elsewhere" / "deep" / "undo"
    old = write(tmp_path / "elsewhere" / "deep", "2001-01-01T00:00:00Z")
    (tmp_path / "undo" / "link.jsonl").symlink_to(old)
    (tmp_path / "undo" / "folder.jsonl").mkdir()
    assert remove_old(tmp_path, NOW) == []
    assert silent.exists()
    assert far.exists()
    assert old.exists()


def test_an_undo_of_an_undo_is_kept_as_long(tmp_path: Path) -> None:
    """Counted from when it is written; the time is in the file that is read back."""
    path = write(tmp_path, kept_until(NOW, 3))
    with path.open("rb") as file:
        read = parse_undo(file)
    assert read == undo("2026-12-01T12:00:00Z")
    assert kept_as_long(read, NOW + DAY) == "2026-12-02T12:00:00Z"
    assert kept_as_long(undo(""), NOW) == kept_as_long(undo("never"), NOW) == ""
