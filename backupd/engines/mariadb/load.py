"""Loads a table's rows: LOAD DATA LOCAL where the server allows it, else INSERTs of many rows. No object is made per row.

The server's request for a file is answered with the stored stream, whatever file it names; the driver itself is told never
to send one. Everything of a table is one transaction, and a connection whose input breaks is cut, never closed.
"""

import select
import socket
import threading
from collections.abc import Iterator, Sequence

import pymysql
from pymysql.constants import COMMAND
from pymysql.protocol import OKPacketWrapper

from backupd.engines.base import ServerPlace, StoredStream
from backupd.engines.mariadb.catalog import Table
from backupd.engines.mariadb.client import (
    Connection,
    Server,
    connect,
    discard,
    error_number,
    explain,
    inner,
    quote_name,
    run,
    server_errors,
)
from backupd.engines.mariadb.formats import load_clauses, load_expression
from backupd.errors import Failed, IntegrityError, SafetyRefused

_PACKET = 1 << 20
_STATEMENT = 2 << 20
_LOOK_EVERY = 64
_CUT_SHORT = 1265
_STALL = 3600.0
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 20))

SQL_MODE = "NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES"
SESSION = (
    f"SET SESSION sql_mode = '{SQL_MODE}', foreign_key_checks = 0, time_zone = '+00:00'",
    # Left on: off was measured a third slower, and would let a unique key's duplicates in unseen.
    "SET SESSION unique_checks = 1",
    "SET SESSION innodb_lock_wait_timeout = 600, lock_wait_timeout = 600, max_error_count = 65535",
)
OPTIONAL_SESSION = ("SET SESSION check_constraint_checks = 0", "SET SESSION alter_algorithm = DEFAULT")


class Loader:
    """Loads tables into one database, each through a connection of its own; for several threads."""

    def __init__(self, place: ServerPlace, database: str, server: Server, *, timeout: float, local: bool) -> None:
        self._place = place
        self._database = database
        self._server = server
        self._timeout = timeout
        self._local = local
        self._open: dict[int, Connection] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Cut every connection: what was not committed is rolled back, and the threads fail."""
        with self._lock:
            self._stopped = True
            for link in self._open.values():
                discard(link)

    def load(self, table: Table, streams: Sequence[StoredStream], later: Sequence[str]) -> int:
        """Load a table from its streams, then add what was deferred; the bytes that were loaded.

        Raises:
            IntegrityError: a stream was not as long as it should be.
            Failed: the server did not take every value as it is.
        """
        link = connect(
            self._place, timeout=self._timeout, database=self._database, read_timeout=0, local_infile=self._local
        )
        try:
            keep_alive(link)
            self._register(link)
            self._settle(link, table)
            with server_errors(self._place, f"loading table {table.name}", subject=table.name):
                run(link, "BEGIN")
            loaded = self._load_local(link, table, streams) if self._local else self._insert(link, table, streams)
            with server_errors(self._place, f"committing table {table.name}", subject=table.name):
                run(link, "COMMIT")
                if later:
                    added = ", ".join(f"ADD {definition}" for definition in later)
                    run(link, f"ALTER TABLE {quote_name(table.name)} {added}")
            return loaded
        finally:
            with self._lock:
                self._open.pop(id(link), None)
            discard(link)

    def _register(self, link: Connection) -> None:
        with self._lock:
            if self._stopped:
                raise Failed("the restore was stopped")
            self._open[id(link)] = link

    def _settle(self, link: Connection, table: Table) -> None:
        settle(self._place, link)
        if table.versioned:
            with server_errors(self._place, "allowing the history", subject=table.name):
                run(link, "SET SESSION system_versioning_insert_history = 1")

    def _load_local(self, link: Connection, table: Table, streams: Sequence[StoredStream]) -> int:
        names, settings = load_clauses(table.columns, table.encodings)
        statement = (
            f"LOAD DATA LOCAL INFILE 'rows' INTO TABLE {quote_name(table.name)} CHARACTER SET utf8mb4 "
            rf"FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' ({names}){settings}"
        )
        loaded = [0]
        with server_errors(self._place, f"loading table {table.name}", subject=table.name):
            warnings = send_rows(link, statement, counted(streams, table.name, loaded))
        if warnings:
            self._excuse(link, table, *self._warned(link, table))
        return loaded[0]

    def _insert(self, link: Connection, table: Table, streams: Sequence[StoredStream]) -> int:
        before, after = self._insert_frame(table)
        row = b"ROW(" if self._server.vendor == "mysql" and after else b"("
        loaded = [0]
        warnings, numbers = 0, set[object]()
        with server_errors(self._place, f"loading table {table.name}", subject=table.name):
            limit = min(_STATEMENT, int(str(run(link, "SELECT @@max_allowed_packet")[0][0])) // 4)
        for rows in whole_rows(counted(streams, table.name, loaded), limit):
            with server_errors(self._place, f"loading table {table.name}", subject=table.name):
                link.query(before + values(rows, row) + after)
                warned = int(inner(link)._result.warning_count)
            if warned:
                more, new = self._warned(link, table)
                warnings, numbers = warnings + more, numbers | new
        if warnings:
            self._excuse(link, table, warnings, numbers)
        return loaded[0]

    def _insert_frame(self, table: Table) -> tuple[bytes, bytes]:
        """What stands before and behind the rows of an INSERT."""
        names = ", ".join(quote_name(column.name) for column in table.columns)
        into = f"INSERT INTO {quote_name(table.name)} ({names}) "
        if not table.columns:
            raise Failed(
                f"table {table.name} has generated columns only",
                object_name=table.name,
                hint="allow local_infile on the server",
            )
        fields = [f"c{number}" for number in range(len(table.columns))]
        made = [load_expression(encoding, field) for field, encoding in zip(fields, table.encodings, strict=True)]
        if not any(made):
            return f"{into}VALUES ".encode(), b""
        chosen = ", ".join(expression or field for field, expression in zip(fields, made, strict=True))
        return f"{into}WITH v ({', '.join(fields)}) AS (VALUES ".encode(), f") SELECT {chosen} FROM v".encode()

    def _warned(self, link: Connection, table: Table) -> tuple[int, set[object]]:
        """How many warnings the last statement gave, and their numbers; the answer itself counts to 65535 only."""
        with server_errors(self._place, f"loading table {table.name}", subject=table.name):
            count = int(str(run(link, "SHOW COUNT(*) WARNINGS")[0][0]))
            return count, {row[1] for row in run(link, "SHOW WARNINGS")}

    def _excuse(self, link: Connection, table: Table, warnings: int, numbers: set[object]) -> None:
        """Warnings are failures, but for those that an ENUM's invalid value cannot come without.

        Raises:
            Failed: some value was not taken as it is.
        """
        excused = 0
        rows = quote_name(table.name) + (" FOR SYSTEM_TIME ALL" if table.versioned else "")
        with server_errors(self._place, f"loading table {table.name}", subject=table.name):
            for column in table.columns:
                if column.kind == "enum" and numbers == {_CUT_SHORT}:
                    counted_rows = run(link, f"SELECT COUNT(*) FROM {rows} WHERE {quote_name(column.name)} + 0 = 0")
                    excused += int(str(counted_rows[0][0]))
        if excused < warnings:
            raise Failed(
                f"the server did not take {warnings} values of table {table.name} as they are "
                f"(warning {sorted(map(str, numbers))[:1]})",
                object_name=table.name,
                hint="restore to the server's own version, or export the snapshot",
            )


def keep_alive(link: Connection) -> None:
    """Have a connection last for hours: a server that stalls is waited for, and a silent line is kept open."""
    driver = inner(link)
    driver._write_timeout = _STALL
    if driver._sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    driver._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for word, value in _KEEPALIVE:
        if hasattr(socket, word):
            driver._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, word), value)


def settle(place: ServerPlace, link: Connection) -> None:
    """Session settings for definitions and rows that are to be what they were."""
    for statement in SESSION:
        with server_errors(place, "setting the session up"):
            run(link, statement)
    for statement in OPTIONAL_SESSION:
        try:
            run(link, statement)
        except pymysql.Error as error:
            if error_number(error) != 1193:  # an unknown variable
                raise explain(error_number(error), place, "setting the session up") from None


def send_rows(link: Connection, statement: str, buffers: Iterator[bytes]) -> int:
    """Run a LOAD DATA LOCAL statement with these rows for its file; the number of warnings.

    The name of the file that the server asks for is not looked at. The driver's errors come as they are.

    Raises:
        SafetyRefused: the server does not ask for a file.
    """
    driver = inner(link)
    driver._execute_command(COMMAND.COM_QUERY, statement)
    packet = driver._read_packet()
    if not packet.is_load_local_packet():
        raise SafetyRefused("the server does not take rows from its client", hint="set local_infile = ON on the server")
    count = 0
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), _PACKET):
            driver.write_packet(bytes(view[start : start + _PACKET]))
            count += 1
            if count % _LOOK_EVERY == 0 and _has_answer(link):
                packet = driver._read_packet()  # raises: before the end, an answer is an error
                raise Failed("the server stopped taking rows", hint="see the server's log")
    driver.write_packet(b"")
    packet = driver._read_packet()
    return int(OKPacketWrapper(packet).warning_count)


def _has_answer(link: Connection) -> bool:
    poll = select.poll()
    poll.register(inner(link)._sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def counted(streams: Sequence[StoredStream], name: str, total: list[int]) -> Iterator[bytes]:
    """The buffers of all streams; each stream must be as long as it should be, and end with a row.

    Raises:
        IntegrityError: it is not.
    """
    for stream in streams:
        size, last = 0, b"\n"
        for buffer in stream.open():
            if buffer:
                size += len(buffer)
                last = bytes(buffer[-1:])
                yield buffer
        if (size != stream.size and not stream.sieved) or last != b"\n":
            raise IntegrityError(f"the rows of table {name} end early", object_name=name, hint="verify the snapshot")
        total[0] += size


def whole_rows(buffers: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """The same bytes, cut behind rows, in pieces of about `limit` bytes; a longer row is a piece of its own."""
    pending, searched = bytearray(), 0
    for buffer in buffers:
        pending += buffer
        while len(pending) >= limit:
            cut = pending.rfind(b"\n", searched, limit) + 1 or pending.find(b"\n", searched) + 1
            searched = 0 if cut else len(pending)
            if not cut:
                break
            yield bytes(pending[:cut])
            del pending[:cut]
    if pending:
        yield bytes(pending)


def values(rows: bytes, row: bytes) -> bytes:
    """Rows as the VALUES of an INSERT: the same escapes, quotes around every field, NULL for a field of `\\N`."""
    begin = row + b"'"
    body = rows[:-1].replace(b"'", b"''").replace(b"\t", b"','").replace(b"\n", b"')," + begin)
    return (begin + body + b"')").replace(b"'\\N'", b"NULL")
