"""A plan as a script that the engine's own client runs: one transaction that ends without a change if any row is not as planned.

The statements are those that `recover --apply` carries out. The script holds customers' data: 0600, and never overwritten.
"""

import os
import secrets
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
        "CREATE TEMP TABLE backupd_guard (rows INT CONSTRAINT not_as_planned CHECK (rows = 1));",
        "BEGIN IMMEDIATE;",
    ),
    "postgresql": (
        "-- run it as: psql -X -f FILE DATABASE",
        "\\set ON_ERROR_STOP on",
        "BEGIN ISOLATION LEVEL READ COMMITTED;",
    ),
    "mariadb": ("-- run it as: mariadb (or mysql) --binary-mode DATABASE < FILE", "START TRANSACTION;"),
}


def script_lines(live: Live, changes: Sequence[Change], *, triggers: bool) -> Iterator[str]:
    """The lines of a script.

    Raises:
        SafetyRefused: triggers cannot be kept from running, or a table cannot be rolled back.
    """
    if not triggers and live.engine == "mariadb":
        raise SafetyRefused("triggers cannot be switched off on MariaDB", hint="use --triggers on")
    live.require_changeable(changes, triggers=triggers)
    unchecked = live.unchecked(changes, triggers=triggers)
    before = set(live.orphans({change.table for change in changes})) if unchecked else ()
    yield from _HEAD[live.engine]
    if not triggers and live.engine == "sqlite":
        yield ".dbconfig enable_trigger off"
    yield from (f"{text};" for text in live.preamble(triggers=triggers))
    for text, parts in live.statements(changes):
        yield from _guarded(live.engine, text, len(parts))
    for name, query in unchecked.items():
        if name not in before:  # what was broken before does not keep anybody from coming back
            yield _none(live.engine, query)
    yield "COMMIT;"


def _none(engine: str, query: str) -> str:
    """What fails the script where a query finds a row."""
    if engine == "postgresql":
        return f"SELECT 1 / (NOT EXISTS ({query}))::int AS as_planned;"
    return f"SELECT IF(EXISTS ({query}), (SELECT 1 UNION SELECT 2), 1) AS as_planned;"


def _guarded(engine: str, text: str, rows: int) -> Iterator[str]:
    """A statement that fails the script where it does not change exactly so many rows; one of no rows as it is."""
    if engine == "postgresql" and text.startswith("WITH "):  # it says itself how many rows it changed
        yield f"{text} AS rows \\gset backupd_"
        yield f"SELECT 1 / (:backupd_rows = {rows})::int AS as_planned;"
    elif engine == "postgresql" and rows:
        yield f"WITH done AS ({text} RETURNING 1) SELECT 1 / (count(*) = {rows})::int AS as_planned FROM done;"  # noqa: S608
    else:
        yield f"{text};"
        if rows and engine == "sqlite":
            yield f"INSERT INTO temp.backupd_guard VALUES (changes() = {rows});"  # noqa: S608 - a number
        elif rows:
            yield f"SELECT IF(ROW_COUNT() = {rows}, 1, (SELECT 1 UNION SELECT 2)) AS as_planned;"


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
        _sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _refused(path, error) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace_private(path: Path, lines: Iterator[bytes]) -> None:
    """Put another file in the place of one that `write_private` wrote, at once.

    Raises:
        SafetyRefused, StorageRefused: as `write_private` does; the file is as it was.
    """
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    write_private(new, lines)
    try:
        new.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise _refused(path, error) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: Path, error: OSError) -> StorageRefused:
    return StorageRefused(
        f"{path} cannot be written: {error.strerror or 'input/output error'}",
        object_name=str(path),
        hint="nothing was changed; name another place",
    )
