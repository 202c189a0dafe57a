"""The undo files of this machine: how long each is kept, and the removal of those whose time is over.

They hold customers' records in the clear. Each says in its first line until when it may be needed: so many days after the
recovery as the repository's policy has for undoing (`undo_days`). Must never remove one before that time, nor a file that does
not say it, nor anything outside the undo folders of the state folder.
"""

import contextlib
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from backupd.config.clock import parse_stamp, stamp
from backupd.records.undo import FORMAT, Undo

FOLDER = "undo"
_HEAD = 4096
"""A first line is not longer."""


@dataclass(frozen=True, slots=True)
class UndoFile:
    """One of them; `until` is when its time is over."""

    path: Path
    until: datetime


def kept_until(now: datetime, days: int) -> str:
    """Until when an undo file is kept that is written now."""
    return stamp(now + timedelta(days=days))


def kept_as_long(undo: Undo, now: datetime) -> str:
    """The same for the undo file of an undo: as long as the one that is taken back was to be kept."""
    if not undo.until:
        return ""
    with contextlib.suppress(ValueError, OverflowError):
        return stamp(now + max(timedelta(0), parse_stamp(undo.until) - parse_stamp(undo.time)))
    return ""


def undo_files(state: Path) -> Iterator[UndoFile]:
    """Those below a state folder that say until when they are kept."""
    for pattern in (f"{FOLDER}/*.jsonl", f"*/{FOLDER}/*.jsonl"):
        for path in sorted(state.glob(pattern)):
            until = _until(path)
            if until is not None:
                yield UndoFile(path, until)


def remove_old(state: Path, now: datetime, *, dry_run: bool = False) -> list[Path]:
    """Remove the files whose time is over; returns which those are. What cannot be removed stays, and is tried again."""
    gone = []
    for file in undo_files(state):
        if file.until <= now:
            try:
                if not dry_run:
                    file.path.unlink()
            except OSError:
                continue
            gone.append(file.path)
    return gone


def _until(path: Path) -> datetime | None:
    """What a file says of itself; None of what is no undo file, or says nothing."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            head = json.loads(file.readline(_HEAD))
        if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(head.get("until"), str):
            return None
        return parse_stamp(head["until"])
    except (OSError, ValueError, RecursionError, OverflowError):
        return None
