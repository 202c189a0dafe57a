"""Captures an SQLite database: one pinned read transaction, its pages streamed in order.

Because the transaction is pinned before the copy starts, the copy never restarts, however busy the writers are. In WAL
mode writers are not held up, but no checkpoint gets past the pinned moment; in rollback mode they wait until it ends.

Where the moment lies in a WAL, the pages come through the backup API. Where the file itself is the moment, it is read
through the pinned connection's own descriptor, 1 MiB at a time: in rollback mode, because nobody can write it while the
shared lock is held; in WAL mode with an empty WAL, because a reader of an empty WAL holds the lock that keeps checkpoints
from writing the file at all. That is several times faster, and leaves the interpreter to the threads that compress.

It must never change what the source is, beyond what any reader of SQLite does: a hot journal is rolled back (and said
so), a WAL is never written into the database while another program has it open, and the folder is left with the files
that it had. It must never open the source by another way than SQLite, because closing any other descriptor drops
SQLite's locks.
"""

import inspect
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from backupd.engines.source import StreamInfo, TableInfo
from backupd.engines.sqlite_facts import list_tables, read_facts, read_table
from backupd.engines.sqlite_open import first_fault, harden, require_regular, source_errors
from backupd.engines.sqlite_pages import BUFFER, LOCK_BYTE, PageSink, sink_connection, watched_connection
from backupd.engines.sqlite_standstill import standstill
from backupd.errors import SourceIncomplete, Unreachable

_WAL_MODE = 2
_PAGE_ONE_TRIES = 50
_CLOSING_TRIES, _CLOSING_PAUSE = 120, 0.25
COUNT_AFTER = 16 * BUFFER
"""Bytes of a copy after which its readers have enough before them for a while."""
# A hot journal; a write lock asked for on a read-only descriptor; a journal that its writer removed meanwhile.
_NEEDS_WRITING = (apsw.ReadOnlyError, apsw.IOError, apsw.CantOpenError)


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pinned moment: `page_one` is set where the moment lies in a WAL, None where the file itself is the moment."""

    connection: apsw.Connection
    page_one: bytes | None
    notes: tuple[str, ...]


class _Stream:
    """The buffers of one copy. Cut short by the end of its view, it fails instead of looking complete."""

    def __init__(self, copy: Generator[bytes, None, None]) -> None:
        self._copy = copy
        self._cut = False
        self._step = threading.Lock()

    def __iter__(self) -> "_Stream":
        return self

    def __next__(self) -> bytes:
        with self._step:
            if self._cut:
                raise SourceIncomplete("the view was closed before its stream had been read", hint="run again")
            return next(self._copy)

    def close(self, seconds: float) -> bool:
        """End the copy; a copy that is finished stays finished. False if another thread is still in the middle of a step."""
        if not self._step.acquire(timeout=seconds):
            return False
        try:
            self._cut = inspect.getgeneratorstate(self._copy) != inspect.GEN_CLOSED
            self._copy.close()
        finally:
            self._step.release()
        return True


class SqliteView:
    """One pinned moment of an SQLite database; made by `SqliteSource.view`, which also ends it."""

    def __init__(self, path: Path, timeout: float, patience: float, pinned: Pinned) -> None:
        self._path = path
        self._timeout = timeout
        self._patience = patience
        self._pinned = pinned
        self._connection = connection = pinned.connection
        self._pinned_at = time.monotonic()
        self._wal_size = _size(connection.filename_wal)
        self._page_size = int(connection.pragma("page_size"))
        self._page_count = int(connection.pragma("page_count"))
        self._is_short = _size(connection.filename) < self._page_size * self._page_count
        self._page_one = self._first_page()
        self.facts: Mapping[str, object] = read_facts(connection, self._page_one)
        self.streams: Sequence[StreamInfo] = (
            StreamInfo("main", "pages", self._page_size * self._page_count, self._page_size),
        )
        self._tables: list[TableInfo] = []
        self._uncounted: list[tuple[str, str]] | None = None
        self._copies: list[_Stream] = []
        self._closed = False

    @property
    def tables(self) -> Sequence[TableInfo]:
        """The tables of this moment. Each is counted once, in the middle of a copy: those who cut and seal it go on meanwhile."""
        self._count()
        return self._tables

    @property
    def warnings(self) -> Sequence[str]:
        """Of the tables, and of how the moment was pinned."""
        unknown = [table.name for table in self.tables if table.rows is None]
        why = "could not be counted: it needs a module or function of its own"
        return (*self._pinned.notes, *(f"the rows of table {name} {why}" for name in unknown))

    def _count(self, most: int | None = None) -> None:
        """Count the rows of tables that are left, but of no more than so many: nothing of the file is read meanwhile."""
        with source_errors(self._path, self._timeout):
            if self._uncounted is None:
                self._uncounted = list_tables(self._connection)
            for name, kind in self._uncounted[:most]:
                self._tables.append(read_table(self._connection, name, kind))
                del self._uncounted[0]

    @property
    def parallel(self) -> int:
        """One: a database is one stream."""
        return 1

    def counted(self, stream: StreamInfo, rows: int) -> None:
        """Nothing: there are no streams of rows."""

    def finish(self) -> None:
        """Nothing: the pinned moment was one."""

    @property
    def pressing(self) -> bool:
        """True after the patience in rollback mode, where writers wait; or once the WAL grew by a quarter of the database."""
        if self.facts["journal_mode"] == "wal":
            grown = _size(self._connection.filename_wal) - self._wal_size
            return grown * 4 > self._page_size * self._page_count
        return time.monotonic() - self._pinned_at > self._patience

    def read(self, stream: StreamInfo) -> Iterator[bytes]:
        """The database file of this moment, in buffers of 1 MiB; at most about 4 MiB are held at a time.

        Raises:
            SourceIncomplete: a page could not be read, or the copy is not exactly the pages of this moment.
        """
        if stream != self.streams[0]:
            raise ValueError(f"no such stream: {stream.name}")
        if self._closed:
            raise SourceIncomplete("the view is closed", object_name=str(self._path), hint="run again")
        copy = _Stream(self._copy())
        self._copies.append(copy)
        return copy

    def close(self) -> None:
        """End a copy that its reader left half-way, and whatever the engine is doing for it in another thread."""
        self._closed = True
        for copy in self._copies:
            for _ in range(_CLOSING_TRIES):
                self._connection.interrupt()
                if copy.close(_CLOSING_PAUSE):
                    break

    def _copy(self) -> Generator[bytes, None, None]:
        if self._page_count == 0:
            return
        with source_errors(self._path, self._timeout):
            last = yield from self._copy_file() if self._pinned.page_one is None else self._copy_backup()
            self._count()
            if self._is_short:
                self._require_sound()
            if last:
                yield last

    def _copy_file(self) -> Generator[bytes, None, bytes]:
        """The file is the moment: read it. The last buffer is returned, not yielded, until the copy is known to be good."""
        total = self._page_size * self._page_count
        last = b""
        for offset in range(0, total, BUFFER):
            if last:
                yield last
            if offset >= COUNT_AFTER:
                self._count(1)
            whole, last = self._connection.read("main", 0, offset, min(BUFFER, total - offset))
            self._is_short = self._is_short or not whole
        return last

    def _copy_backup(self) -> Generator[bytes, None, bytes]:
        """The moment lies in the file and the WAL: the backup API puts it together."""
        sink = PageSink(self._page_size, self._page_count, self._page_one, self._lock_page())
        with sink_connection(sink) as target, target.backup("main", self._connection, "main") as backup:
            while not backup.done:
                backup.step(BUFFER // self._page_size)
                yield from sink.take()
                if sink.extent >= COUNT_AFTER:
                    self._count(1)
        return sink.finish()

    def _first_page(self) -> bytes:
        """Page 1 as the source has it."""
        if self._page_count == 0:
            return b""
        page = self._pinned.page_one
        if page is None:
            page = self._connection.read("main", 0, 0, self._page_size)[1]
        if len(page) != self._page_size:
            name = str(self._path)
            raise SourceIncomplete(f"page 1 of {name} was not seen", object_name=name, hint="run again")
        return page

    def _lock_page(self) -> bytes:
        if self._page_size * self._page_count <= LOCK_BYTE:
            return b""
        return self._connection.read("main", 0, LOCK_BYTE, self._page_size)[1]

    def _require_sound(self) -> None:
        """A file too short for its pages was cut off, unless the engine finds that the missing pages are unused."""
        if (fault := first_fault(self._connection, full=False)) is not None:
            raise SourceIncomplete(
                f"{self._path} is cut off: {fault}",
                object_name=str(self._path),
                hint="run PRAGMA integrity_check on it; restore an older snapshot if it is damaged",
            )


class SqliteSource:
    """An SQLite database file.

    Args:
        path: the file; every name that the system allows, never read as a URI.
        timeout: seconds to wait for a lock.
        patience: seconds that writers may be kept waiting in rollback mode before the view says that it is pressing.
    """

    engine = "sqlite"

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 30.0, patience: float = 30.0) -> None:
        self._path = Path(path).absolute()
        self._timeout = timeout
        self._patience = patience

    @property
    def default_name(self) -> str:
        """The file's name without its suffix."""
        return self._path.stem

    def standstill(self) -> str | None:
        """The file and its WAL as the file system tells of them; see `sqlite_standstill`."""
        return standstill(self._path)

    @contextmanager
    def view(self, *, check: bool = False) -> Iterator[SqliteView]:
        """Pin one moment; with `check`, `PRAGMA quick_check` of that moment must say ok.

        Raises:
            Unreachable: missing, encrypted, no database, or no access.
            TryAgain: locked for longer than the timeout.
            SourceIncomplete: corrupt, cut off, or the check failed.
        """
        require_regular(self._path)
        with source_errors(self._path, self._timeout):
            pinned = self._pin()
            try:
                view = SqliteView(self._path, self._timeout, self._patience, pinned)
                if check:
                    self._check(pinned.connection)
            except BaseException:
                pinned.connection.close(True)
                raise
        try:
            yield view
        finally:
            try:
                view.close()
            finally:
                with source_errors(self._path, self._timeout):
                    pinned.connection.close(True)

    def _check(self, connection: apsw.Connection) -> None:
        try:
            fault = first_fault(connection, full=False)
        except apsw.SQLError as error:
            raise SourceIncomplete(
                f"{self._path} cannot be checked: it needs a collation, function or module of its own",
                object_name=str(self._path),
                hint="back it up without the check",
            ) from error
        if fault is not None:
            raise SourceIncomplete(
                f"{self._path} fails SQLite's quick_check: {fault}",
                object_name=str(self._path),
                hint="repair the database, or back it up as it is, without the check",
            )

    def _pin(self) -> Pinned:
        """Open and pin: read-only, unless SQLite has to roll back first or would leave files of its own behind.

        A connection that may not write cannot delete the -wal and -shm files that it had to create, so a WAL database
        that nobody has open is opened for writing: SQLite then removes both again. If a WAL is there already, whether
        a running program's or a killed one's, the connection stays read-only and leaves it alone.
        """
        notes: tuple[str, ...] = ()
        connection = self._connect(apsw.SQLITE_OPEN_READONLY)
        try:
            if self._is_wal(connection) and not self._has_wal(connection):
                connection.close()
                connection = self._connect(apsw.SQLITE_OPEN_READWRITE)
            try:
                _begin(connection)
            except _NEEDS_WRITING as error:
                connection.close(True)
                connection = self._connect(apsw.SQLITE_OPEN_READWRITE)
                _begin(connection)
                if isinstance(error, apsw.ReadOnlyError):
                    notes = ("what a killed program had left half-way was rolled back by SQLite",)
            if connection.pragma("journal_mode") != "wal" or _size(connection.filename_wal) == 0:
                return Pinned(connection, None, notes)
            return self._pin_in_wal(connection, notes)
        except BaseException:
            connection.close(True)
            raise

    def _pin_in_wal(self, connection: apsw.Connection, notes: tuple[str, ...]) -> Pinned:
        """Pin a moment that lies in a WAL, and learn its page 1.

        A second connection with a watch on its reads looks at page 1 before and after the first one is pinned: if it saw
        the same page both times, it is the page of the moment between, because each change of page 1 changes it for
        good (its counters only rise). Where writers change page 1 all the time, the watched connection itself is used.
        """
        watched, watch = watched_connection(self._path.resolve(), apsw.SQLITE_OPEN_READONLY)
        try:
            watched.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            watched.set_busy_timeout(round(self._timeout * 1000))
            harden(watched)
            for _ in range(_PAGE_ONE_TRIES):
                connection.execute("ROLLBACK").fetchall()
                _begin(watched)
                before = watch.page_one
                watched.execute("ROLLBACK").fetchall()
                _begin(connection)
                _begin(watched)
                after = watch.page_one
                if before is not None and before == after:
                    watched.close(True)
                    return Pinned(connection, before, notes)
                watched.execute("ROLLBACK").fetchall()
            _begin(watched)
            watch.pinned = True
        except BaseException:
            watched.close(True)
            raise
        connection.close(True)
        return Pinned(watched, watch.page_one or b"", notes)

    def _connect(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(self._path.resolve()), flags=flags)
        try:
            # A WAL that is there stays as it is; and on a read-only descriptor the lock for a checkpoint would fail.
            if flags & apsw.SQLITE_OPEN_READONLY or Path(connection.filename_wal).exists():
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.set_busy_timeout(round(self._timeout * 1000))
            harden(connection)
        except BaseException:
            connection.close(True)
            raise
        return connection

    def _is_wal(self, connection: apsw.Connection) -> bool:
        header = connection.read("main", 0, 0, 100)[1]
        return _WAL_MODE in header[18:20]

    def _has_wal(self, connection: apsw.Connection) -> bool:
        """Whether the WAL is there already; if files must be created, this user must be one who may write the database.

        Raises:
            Unreachable: files would be left behind that the database's own programs might not be able to write.
        """
        wal = Path(connection.filename_wal)
        shm = wal.with_name(wal.name.removesuffix("-wal") + "-shm")
        if not (wal.exists() and shm.exists()) and not os.access(self._path, os.W_OK):
            raise Unreachable(
                f"{self._path} is in WAL mode, no program has it open, and this user may not write it",
                object_name=str(self._path),
                hint="let this user write the file and its folder, or back it up while its program runs",
            )
        return wal.exists()


def _begin(connection: apsw.Connection) -> None:
    """Pin the moment: the first read inside BEGIN takes the lock (or the WAL's end mark) that holds until the end."""
    connection.execute("BEGIN").fetchall()
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0
