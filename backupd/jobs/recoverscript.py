"""A plan as a script that the engine's own client runs: one transaction that ends without a change if any row is not as planned.

The statements are those that `recover --apply` carries out. The script holds customers' data: 0600, and never overwritten.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backupd.engines.live import Live
from backupd.errors import SafetyRefused, StorageRefused
from backupd.model import Change

_HEAD: Mapping[str, Sequence[str]] = {
    "sqlite": (
        "-- run it as: sqlite3 -bail DATABASE < FILE",
        ".bail on",
        "PRAGMA foreign_keys=ON;",
        "BEGIN IMMEDIATE;",
        "PRAGMA defer_foreign_keys=ON;",
        "CREATE TEMP TABLE backupd_guard (changed INT CONSTRAINT row_is_not_as_planned CHECK (changed = 1));",
    ),
    "postgresql": (
        "-- run it as: psql -X -f FILE DATABASE",
        "\\set ON_ERROR_STOP on",
        "BEGIN ISOLATION LEVEL SERIALIZABLE;",
        "SET CONSTRAINTS ALL DEFERRED;",
    ),
    "mariadb": ("-- run it as: mariadb --binary-mode DATABASE < FILE", "START TRANSACTION;"),
}
_TRIGGERS_OFF: Mapping[str, str] = {
    "sqlite": ".dbconfig enable_trigger off",
    "postgresql": "SET LOCAL session_replication_role = replica;",
}
_TAIL: Mapping[str, Sequence[str]] = {"sqlite": ("COMMIT;", "DROP TABLE temp.backupd_guard;")}


def script_lines(live: Live, changes: Sequence[Change], circles: Sequence[str], *, triggers: bool) -> Iterator[str]:
    """The lines of a script.

    Raises:
        SafetyRefused: a script cannot do what the plan does.
    """
    if circles and live.engine != "sqlite":
        raise SafetyRefused(
            f"rows of {', '.join(circles)} refer to each other and have to be written at once, which a script cannot",
            hint="carry the plan out with --apply",
        )
    if not triggers and live.engine not in _TRIGGERS_OFF:
        raise SafetyRefused(f"triggers cannot be switched off on {live.engine}", hint="use --triggers on")
    yield from _HEAD[live.engine]
    if not triggers:
        yield _TRIGGERS_OFF[live.engine]
    for change in changes:
        yield from _guarded(live.engine, live.statement(change))
    yield from _TAIL.get(live.engine, ("COMMIT;",))


def _guarded(engine: str, statement: str) -> Iterator[str]:
    """A statement that fails the script where it does not change exactly one row."""
    if engine == "postgresql":
        yield f"WITH done AS ({statement} RETURNING 1) SELECT 1 / (count(*) = 1)::int FROM done;"  # noqa: S608 - the engine quoted it
        return
    yield f"{statement};"
    if engine == "sqlite":
        yield "INSERT INTO temp.backupd_guard VALUES (changes());"
    else:
        yield "SELECT IF(ROW_COUNT() = 1, 1, (SELECT 1 UNION SELECT 2)) AS done;"


def write_private(path: Path, lines: Iterator[bytes]) -> None:
    """Write a new file that only this user reads, and see that it is on the disk.

    Raises:
        SafetyRefused: there is a file of that name.
        StorageRefused: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise SafetyRefused(f"{path} is there already", object_name=str(path), hint="name a new file") from None
    except OSError as error:
        raise _refused(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            for line in lines:
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _refused(path, error) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _refused(path: Path, error: OSError) -> StorageRefused:
    return StorageRefused(
        f"{path} cannot be written: {error.strerror or 'input/output error'}",
        object_name=str(path),
        hint="nothing was changed; name another place",
    )
