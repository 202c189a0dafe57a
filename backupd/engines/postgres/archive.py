"""Reads the table of contents of a pg_dump archive (format "custom", versions 1.14 to 1.16).

What pg_restore executes is the `defn` of each entry, framed by statements that it builds itself from quoted names. Judging
a snapshot by its plain text or by what its manifest says would leave ways around that; so the entries themselves are read.
The layout is that of PostgreSQL's pg_backup_archiver.c (ReadHead, ReadToc) and pg_backup_custom.c (_ReadExtraToc).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from backupd.errors import IntegrityError

_MAGIC = b"PGDMP"
_CUSTOM = 1
_MOST_ENTRIES = 10_000_000
_LONGEST = 256 * 1024 * 1024
_BLOCK = 256 * 1024
_COMPRESSION_BYTE = (1, 15)
_RELKIND = (1, 16)
_OLDEST, _NEWEST = (1, 14), (1, 16)
_MOST = 2**31 - 1
_DESCRIPTION = re.compile(r"[A-Za-z _]*\Z")

Reader = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `section` is 1 none, 2 pre-data, 3 data, 4 post-data; `has_data` is whether rows belong to it."""

    number: int
    has_data: bool
    tag: str
    desc: str
    section: int
    defn: str = field(repr=False)
    drop: str = field(repr=False)
    copy: str = field(repr=False)
    namespace: str
    owner: str
    depends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive's table of contents. `size` is where it ends."""

    entries: tuple[Entry, ...]
    server_version: str
    dump_version: str
    size: int


class _Cursor:
    """Reads the archive's own numbers and strings, with bounds."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._block = b""
        self._begin = 0
        self.position = 0
        self.int_size = 4

    def take(self, count: int) -> bytes:
        if not 0 <= count <= _LONGEST:
            raise _damaged("a length is not plausible")
        start = self.position - self._begin
        if start + count > len(self._block):
            self._block = self._read(self.position, max(count, _BLOCK))
            self._begin, start = self.position, 0
        found = self._block[start : start + count]
        if len(found) != count:
            raise IntegrityError("the schema's archive is cut off", hint="verify the snapshot; restore another one")
        self.position += count
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        sign = self.byte()
        value = int.from_bytes(self.take(self.int_size), "little")
        if value > _MOST:
            raise _damaged("a number is out of range")
        return -value if sign else value

    def text(self) -> str | None:
        length = self.number()
        if length < 0:
            return None
        found = self.take(length)
        if b"\0" in found:
            # pg_restore would read no further than that.
            raise _damaged("a text holds a NUL")
        return found.decode("utf-8", "surrogateescape")


def read_archive(read: Reader) -> Archive:
    """Read the table of contents.

    Args:
        read: gives at most so many bytes from an offset.

    Raises:
        IntegrityError: it is no such archive.
    """
    cursor = _Cursor(read)
    version = _head(cursor)
    cursor.text()
    server_version, dump_version = cursor.text() or "", cursor.text() or ""
    count = cursor.number()
    if not 0 <= count <= _MOST_ENTRIES:
        raise _damaged("its count is not plausible")
    entries = tuple(_entry(cursor, version) for _ in range(count))
    _require_own_numbers(entries)
    return Archive(entries, server_version, dump_version, cursor.position)


def _damaged(how: str) -> IntegrityError:
    return IntegrityError(f"the schema's archive is damaged: {how}", hint="verify the snapshot")


def _require_own_numbers(entries: Iterable[Entry]) -> None:
    """Refuse two entries of one number: pg_restore is told by numbers what to execute."""
    seen: set[int] = set()
    for entry in entries:
        if entry.number <= 0 or entry.number in seen:
            raise _damaged("the number of an entry is not its own")
        seen.add(entry.number)


def _head(cursor: _Cursor) -> tuple[int, int]:
    if cursor.take(5) != _MAGIC:
        raise IntegrityError("the schema's stream is no pg_dump archive", hint="verify the snapshot")
    version = (cursor.byte(), cursor.byte())
    cursor.byte()
    cursor.int_size, offset_size, form = cursor.byte(), cursor.byte(), cursor.byte()
    if not _OLDEST <= version <= _NEWEST or form != _CUSTOM or cursor.int_size != 4 or offset_size != 8:
        raise IntegrityError(
            f"the schema's archive has version {version[0]}.{version[1]}, which is not known", hint="update backupd"
        )
    if version >= _COMPRESSION_BYTE:
        cursor.byte()
    else:
        cursor.number()
    for _ in range(7):
        cursor.number()
    return version


def _entry(cursor: _Cursor, version: tuple[int, int]) -> Entry:
    number, has_data = cursor.number(), cursor.number() != 0
    cursor.text()
    cursor.text()
    tag, desc = cursor.text() or "", cursor.text() or ""
    if not _DESCRIPTION.match(desc):
        raise _damaged("the kind of an entry is no word")
    section = cursor.number()
    defn, drop, copy = cursor.text() or "", cursor.text() or "", cursor.text() or ""
    namespace = cursor.text() or ""
    cursor.text()
    cursor.text()
    if version >= _RELKIND:
        cursor.number()
    owner = cursor.text() or ""
    cursor.text()
    depends = []
    while (dependency := cursor.text()) is not None:
        if not dependency.isascii() or not dependency.isdigit():
            raise _damaged("a dependency is no number")
        depends.append(int(dependency))
    cursor.take(1 + 8)
    return Entry(number, has_data, tag, desc, section, defn, drop, copy, namespace, owner, tuple(depends))


def major_of(version: str) -> int:
    """The major version in e.g. "15.18 (Debian 15.18-1)"; 0 if there is none."""
    digits = version.split(".", 1)[0].split(" ", 1)[0]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
