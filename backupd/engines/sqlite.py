"""The SQLite engine's doors: a source and a target for a path."""

import os
from typing import TYPE_CHECKING

from backupd.engines.sqlite_capture import SqliteSource

if TYPE_CHECKING:
    from backupd.engines.sqlite_restore import SqliteTarget

__all__ = ["SqliteSource", "open_source", "open_target"]


def open_source(path: str | os.PathLike[str], *, timeout: float = 30.0) -> SqliteSource:
    """A database file to protect; nothing is opened before its `view`. `timeout`: seconds to wait for a lock."""
    return SqliteSource(path, timeout=timeout)


def open_target(path: str | os.PathLike[str]) -> "SqliteTarget":
    """A database file to restore to; nothing is touched before its `prepare`."""
    from backupd.engines.sqlite_restore import SqliteTarget

    return SqliteTarget(path)
