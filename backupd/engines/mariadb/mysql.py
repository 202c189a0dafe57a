"""What MySQL does in a way of its own: its place in the log, its patience, and what is to be said before it is captured."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pymysql

from backupd.engines.base import Finding, ServerPlace
from backupd.engines.mariadb.catalog import Catalog
from backupd.engines.mariadb.client import (
    LOST,
    Connection,
    Server,
    connect,
    discard,
    error_number,
    explain,
    inner,
    run,
)

OLDEST = (8, 0, 17)
"""Since when a FLOAT can be read as the DOUBLE that it is."""

ROUTINE_SIGHT = ("SHOW_ROUTINE", "SELECT")
"""Privileges on the whole server, of which one shows the bodies of routines; those on a database show names alone."""

_LIBRARIES = "SELECT COUNT(*) FROM information_schema.LIBRARIES WHERE LIBRARY_SCHEMA = %s"


_BINARY_LOG = ("SHOW BINARY LOG STATUS", "SHOW MASTER STATUS")
"""Two names for one answer: since 8.2, and before 8.4."""

INTERRUPTED = 1317
"""The number of a statement that was killed."""


def place_in_log(link: Connection) -> tuple[str, int, str] | None:
    """Where the binary log is: file, position and GTIDs; None where there is none, or this user may not ask."""
    for statement in _BINARY_LOG:
        try:
            rows = run(link, statement)
        except pymysql.Error as error:
            if error_number(error) in LOST:
                raise
            continue
        for file, position, _, _, *gtids in rows:
            return str(file), int(str(position)), "".join("".join(map(str, gtids)).split())
    return None


class Alarm:
    """Interrupts what a connection waits for: the server's own limit knows whole seconds, for which writers would wait, too."""

    def __init__(self, place: ServerPlace, link: Connection, timeout: float) -> None:
        self._other = connect(place, timeout=timeout)
        self._kill = f"KILL QUERY {inner(link).thread_id()}"

    def close(self) -> None:
        """End its own connection."""
        discard(self._other)

    @contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        """Interrupt the statement that runs inside, if it takes longer; it then fails with `INTERRUPTED`."""
        over = threading.Event()
        ringing = threading.Thread(target=self._ring, args=(over, seconds), daemon=True)
        ringing.start()
        try:
            yield
        finally:
            over.set()
            ringing.join()  # a connection that runs nothing by then does not mind

    def _ring(self, over: threading.Event, seconds: float) -> None:
        while not over.wait(seconds):  # more than once: the statement may not have reached the server yet
            with suppress(pymysql.Error, OSError):  # the server's own limit still stands
                run(self._other, self._kill)


def version_findings(server: Server) -> list[Finding]:
    """Whether the server is one that can be captured."""
    if server.vendor != "mysql" or server.version >= OLDEST:
        return []
    detail = f"MySQL {server.text} cannot tell a FLOAT to its last bit: 8.0.17 is the oldest that can be captured"
    return [Finding("error", "server", detail, "update the server")]


def differences(place: ServerPlace, link: Connection, catalog: Catalog, everywhere: frozenset[str]) -> list[Finding]:
    """What is captured otherwise than of MariaDB, and which privilege would help; `everywhere` are those on *.*."""
    found = []
    if "BACKUP_ADMIN" not in everywhere:
        detail = "without the privilege BACKUP_ADMIN, a run fails if a table is altered before it was read"
        found.append(Finding("note", place.database, detail, "grant BACKUP_ADMIN on *.* to the backup user"))
    if not everywhere & {"REPLICATION CLIENT", "SUPER"}:
        detail = (
            "without the privilege REPLICATION CLIENT the binary log cannot prove the moment: the barrier alone does"
        )
        found.append(Finding("note", place.database, detail, "grant REPLICATION CLIENT on *.* to the backup user"))
    with_json = sorted(table.name for table in catalog.tables.values() if "json" in table.encodings)
    if with_json:
        more = f" and {len(with_json) - 4} more" if len(with_json) > 4 else ""
        detail = (
            f"inside JSON ({', '.join(with_json[:4])}{more}), a DECIMAL is captured as a DOUBLE, a date and bytes as text:"
            " no text of JSON can say otherwise, mysqldump's neither"
        )
        found.append(Finding("note", place.database, detail))
    if libraries := _count(place, link, _LIBRARIES):
        detail = (
            f"it has {libraries} libraries of stored programs: restore refuses such a snapshot, and export writes it"
        )
        found.append(Finding("warning", place.database, detail, "keep them in a database of their own"))
    found.append(Finding("note", "accounts", "accounts, roles and grants are captured from MariaDB only"))
    return found


def _count(place: ServerPlace, link: Connection, statement: str) -> int:
    """A number; 0 where this server does not know of such things."""
    try:
        return int(str(run(link, statement, (place.database,))[0][0]))
    except pymysql.Error as error:
        if error_number(error) in LOST:
            raise explain(error_number(error), place, "looking at the server") from None
        return 0
