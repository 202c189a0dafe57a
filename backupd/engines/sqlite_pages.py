"""Pages of an SQLite database as a stream: what watches SQLite read, and what receives the pages of a backup.

SQLite's backup API copies pages in order, but it delivers page 1 near the end and with its counters changed, and it
never delivers the page of the lock byte. So page 1 is taken from the other side: a VFS sits below the source
connection, and when SQLite itself reads page 1 for the pinned moment (from the file or from the WAL, as its own rules
decide) the bytes are kept. The last image read before the pin is the right one, because SQLite reads page 1 again
whenever the one in its cache is no longer current. No WAL is parsed here and nothing is guessed. When the copied page 1
arrives at last, it must equal the kept one in every byte that a backup leaves alone; otherwise the capture fails.

Nothing here opens a file by itself: a second descriptor on the source, once closed, would drop SQLite's locks.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from backupd.engines.sqlite_vfs import OwnFile
from backupd.errors import SourceIncomplete

BUFFER = 1 << 20
LOCK_BYTE = 1 << 30

_MIN_PAGE = 512
_WAL_HEADER = 32
_FRAME_HEADER = 24
# Of page 1, a backup changes the change counter (24), the page count (28), the schema cookie (40), and the pair at 92
# that says for which change counter, and by which version, they were written.
_CHANGED_BY_BACKUP = ((24, 32), (40, 44), (92, 100))

_numbers = itertools.count(1)


class Watch:
    """What was seen while a source was read.

    Attributes:
        page_one: the last image of page 1 that SQLite read before `pinned`; None for a database of no pages.
        pinned: set once the moment is pinned; page 1 is not looked for any more.
    """

    def __init__(self) -> None:
        self.page_one: bytes | None = None
        self.pinned = False
        self.vfs: apsw.VFS | None = None  # kept alive as long as its connection may call it


class _WatchedFile(apsw.VFSFile):
    """The database file itself."""

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], watch: Watch) -> None:
        super().__init__("", name, flags)
        self._watch = watch

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        data = super().xRead(amount, offset)
        if not self._watch.pinned and offset == 0 and amount >= _MIN_PAGE:
            self._watch.page_one = data.ljust(amount, b"\0")
        return data


class _WatchedWal(apsw.VFSFile):
    """The write-ahead log: a header of 32 bytes, then frames: 24 bytes, beginning with the page number, and a page."""

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], watch: Watch) -> None:
        super().__init__("", name, flags)
        self._watch = watch

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        data = super().xRead(amount, offset)
        if not self._watch.pinned and _is_frame_body(amount, offset):
            number = super().xRead(4, offset - _FRAME_HEADER)
            if number.rjust(4, b"\0") == b"\0\0\0\1":
                self._watch.page_one = data.ljust(amount, b"\0")
        return data


def _is_frame_body(amount: int, offset: int) -> bool:
    first = _WAL_HEADER + _FRAME_HEADER
    return amount >= _MIN_PAGE and offset >= first and (offset - first) % (amount + _FRAME_HEADER) == 0


class _WatchedVfs(apsw.VFS):
    """The system's own VFS, with a watch on the reads of one database and its WAL."""

    def __init__(self, watch: Watch) -> None:
        self.name = f"backupd-source-{next(_numbers)}"
        self._watch = watch
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return _WatchedFile(name, flags, self._watch)
        if flags[0] & apsw.SQLITE_OPEN_WAL:
            return _WatchedWal(name, flags, self._watch)
        return apsw.VFSFile("", name, flags)


def watched_connection(path: Path, flags: int) -> tuple[apsw.Connection, Watch]:
    """Open a database with a watch on its reads; no lock is taken yet.

    `path` must be free of symbolic links: the driver takes SQLite's word that there was one for an error.
    """
    watch = Watch()
    vfs = _WatchedVfs(watch)
    try:
        watch.vfs = vfs
        return apsw.Connection(str(path), flags=flags, vfs=vfs.name), watch
    finally:
        vfs.unregister()


class PageSink:
    """Receives the pages of one backup and gives them back in order, as buffers of 1 MiB (the last may be shorter).

    Args:
        page_size: bytes.
        page_count: pages of the pinned moment.
        page_one: page 1 as the source has it.
        lock_page: what the file holds in the page of the lock byte; used only if the database reaches that far.
    """

    def __init__(self, page_size: int, page_count: int, page_one: bytes, lock_page: bytes) -> None:
        self._page_size = page_size
        self._total = page_size * page_count
        self._page_one = page_one
        self._lock_page = lock_page
        self._copied_page_one: bytes | None = None
        self._ready: list[bytes] = []
        self._filling: list[bytes] = []
        self._expected = 0
        self.fault: str | None = None
        self._append(page_one)

    @property
    def extent(self) -> int:
        """Bytes received so far, as SQLite may ask for the file's size."""
        return self._expected if self._copied_page_one is not None or self._expected > self._page_size else 0

    def write(self, data: bytes, offset: int) -> None:
        """Take one page; a page that is not the next one is a fault, which `finish` reports."""
        if self.fault is not None:
            return
        if len(data) != self._page_size:
            self.fault = f"a write of {len(data)} bytes instead of a page"
        elif offset == 0 and self._copied_page_one is None:
            self._copied_page_one = bytes(data)
        elif offset != self._expected or offset >= self._total:
            self.fault = f"byte {offset} arrived where byte {self._expected} was due"
        else:
            self._append(data)

    def _append(self, page: bytes) -> None:
        self._filling.append(bytes(page))
        self._expected += self._page_size
        if self._expected % BUFFER == 0:
            self._ready.append(b"".join(self._filling))
            self._filling.clear()
        if self._expected == LOCK_BYTE < self._total:
            self._append(self._lock_page)

    def take(self) -> Iterator[bytes]:
        """Give up the full buffers."""
        ready, self._ready = self._ready, []
        yield from ready

    def finish(self) -> bytes:
        """Give up the last buffer, once every page has arrived exactly once.

        Raises:
            SourceIncomplete: a page is missing or came twice, or page 1 belongs to another moment.
        """
        if self.fault is None and self._expected != self._total:
            self.fault = f"{self._expected} of {self._total} bytes arrived"
        if self.fault is None and _unchanged(self._copied_page_one or b"") != _unchanged(self._page_one):
            self.fault = "page 1 belongs to another moment"
        if self.fault is not None:
            raise SourceIncomplete(f"the copy of the database went wrong: {self.fault}", hint="run again")
        return b"".join(self._filling)


def _unchanged(page: bytes) -> bytes:
    kept = bytearray(page)
    for start, end in _CHANGED_BY_BACKUP:
        kept[start:end] = bytes(end - start)
    return bytes(kept)


class _SinkFile(OwnFile):
    """The destination of the backup, as SQLite sees it: a file that can only grow."""

    def __init__(self, sink: PageSink) -> None:
        self._sink = sink

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: ARG002, N802
        return bytes(amount)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._sink.write(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Nothing to cut: the sink counts pages by itself."""

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Nothing to sync."""

    def xFileSize(self) -> int:  # noqa: N802
        return self._sink.extent

    def xSectorSize(self) -> int:  # noqa: N802
        return _MIN_PAGE

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0


class _SinkVfs(apsw.VFS):
    def __init__(self, sink: PageSink) -> None:
        self.name = f"backupd-sink-{next(_numbers)}"
        self._sink = sink
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: ARG002, N802
        flags[1] = flags[0]
        return _SinkFile(self._sink)  # type: ignore[return-value]

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: ARG002, N802
        return False

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """There are no files to delete."""

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


@contextmanager
def sink_connection(sink: PageSink) -> Iterator[apsw.Connection]:
    """A connection whose file is the sink: no journal, a cache of 16 pages, so that pages leave as they come."""
    vfs = _SinkVfs(sink)
    try:
        connection = apsw.Connection("pages", vfs=vfs.name)
        try:
            for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=16", "locking_mode=EXCLUSIVE"):
                connection.execute(f"PRAGMA {setting}").fetchall()
            yield connection
        finally:
            connection.close(True)
    finally:
        vfs.unregister()
