"""SQLite over bytes that lie somewhere else: a VFS that reads what SQLite asks for, and the schema that it finds there.

So a schema, or one record, costs the pages on the way to it and not the file. The bytes may have been written by
somebody else: connections are hardened, nothing of the file is ever written, and no statement of its schema is run.
"""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from backupd.engines.sqlite_open import harden
from backupd.engines.sqlite_vfs import OwnFile
from backupd.errors import BackupdError, IntegrityError
from backupd.model import Bytes, PagedColumn, PagedSchema, PagedTable

_SECTOR = 512
_CODECS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
_LITERAL = re.compile(r"[+-]?\s*[0-9.]+(e[+-]?[0-9]+)?|x?'([^']|'')*'|null|true|false", re.IGNORECASE)
_TABLES = (
    "SELECT s.name, s.rootpage, l.wr, l.type, l.strict FROM sqlite_schema AS s JOIN pragma_table_list AS l ON l.name = s.name"
    " WHERE s.type = 'table' AND l.schema = 'main' AND l.type IN ('table', 'virtual')"
    " AND s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY s.name"
)
_COLUMNS = (
    "SELECT cid, name, type, dflt_value, pk FROM pragma_table_xinfo(?, 'main') WHERE hidden IN (0, 3) ORDER BY cid"
)
_KEY_INDEX = "SELECT name FROM pragma_index_list(?, 'main') WHERE origin = 'pk'"
_ORDER = "SELECT cid FROM pragma_index_xinfo(?, 'main') ORDER BY seqno"
_AFFINITIES = (
    ("INTEGER", ("INT",)),
    ("TEXT", ("CHAR", "CLOB", "TEXT")),
    ("BLOB", ("BLOB",)),
    ("REAL", ("REAL", "FLOA", "DOUB")),
)
_OTHERS = "SELECT type, name, sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL"
_numbers = itertools.count(1)


class _File(OwnFile):
    """The bytes, as SQLite sees them: a file that cannot change."""

    def __init__(self, data: Bytes, failed: list[BackupdError]) -> None:
        self._data, self._failed = data, failed

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        try:
            return self._data.read(offset, amount)
        except BackupdError as error:
            self._failed.append(error)
            raise apsw.IOError from error

    def xFileSize(self) -> int:  # noqa: N802
        return self._data.size

    def xSectorSize(self) -> int:  # noqa: N802
        return _SECTOR

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return int(apsw.SQLITE_IOCAP_IMMUTABLE)


class _Vfs(apsw.VFS):
    def __init__(self, data: Bytes, failed: list[BackupdError]) -> None:
        self.name = f"backupd-lazy-{next(_numbers)}"
        self._made = data, failed
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: ARG002, N802
        if not flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            raise apsw.CantOpenError
        flags[1] = flags[0]
        return _File(*self._made)  # type: ignore[return-value]

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: ARG002, N802
        return False

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


@contextmanager
def lazy_connection(data: Bytes) -> Iterator[apsw.Connection]:
    """A read-only connection to the database whose bytes these are.

    Raises:
        IntegrityError: they are no sound database.
        BackupdError: what reading them raised.
    """
    failed: list[BackupdError] = []
    vfs = _Vfs(data, failed)
    try:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection("file:pages?immutable=1", flags=flags, vfs=vfs.name)
        try:
            harden(connection)
            yield connection
        finally:
            connection.close(True)
    except apsw.Error as error:
        if failed:
            raise failed[0] from None
        raise IntegrityError(
            f"the pages are not those of a sound SQLite database ({type(error).__name__})",
            hint="restore the snapshot and run PRAGMA integrity_check on it",
        ) from None
    finally:
        vfs.unregister()


def read_schema(data: Bytes) -> PagedSchema:
    """What the database says of its tables; reads the pages of its schema.

    Raises:
        IntegrityError: it is no sound database.
    """
    if data.size == 0:
        return PagedSchema("utf-8", (), (), {})
    with lazy_connection(data) as link:
        return schema_of(link)


def schema_of(link: apsw.Connection) -> PagedSchema:
    """What the database behind a connection says of its tables."""
    with scratch_connection() as scratch:
        encoding = _CODECS.get(str(link.pragma("encoding")), "utf-8")
        tables, virtual = [], []
        for name, root, without, kind, strict in link.execute(_TABLES).fetchall():
            if kind == "virtual":
                virtual.append(str(name))
            elif isinstance(root, int) and root > 0:
                tables.append(_table(link, scratch, str(name), root, (bool(without), bool(strict))))
        others = {f"{kind} {name}": str(sql) for kind, name, sql in link.execute(_OTHERS).fetchall()}
        return PagedSchema(encoding, tuple(tables), tuple(virtual), others)


@contextmanager
def scratch_connection() -> Iterator[apsw.Connection]:
    """An empty database in memory, for `literal_default`."""
    connection = apsw.Connection(":memory:")
    try:
        yield connection
    finally:
        connection.close(True)


def _table(
    link: apsw.Connection, scratch: apsw.Connection, name: str, root: int, options: tuple[bool, bool]
) -> PagedTable:
    without_rowid, strict = options
    found = link.execute(_COLUMNS, (name,)).fetchall()
    places = {cid: at for at, (cid, *_) in enumerate(found)}
    columns = tuple(
        PagedColumn(str(column), str(kind or ""), affine, literal_default(scratch, affine, default))
        for _, column, kind, default, _ in found
        for affine in (affinity(str(kind or ""), strict=strict),)
    )
    key = [(int(str(pk)), at) for at, (*_, pk) in enumerate(found) if pk]
    index = link.execute(_KEY_INDEX, (name,)).fetchall()
    alias = None
    storage = tuple(range(len(found)))
    if without_rowid and index:
        storage = tuple(places[cid] for (cid,) in link.execute(_ORDER, index[0]).fetchall() if cid in places)
    elif len(key) == 1 and not index and columns[key[0][1]].type.upper() == "INTEGER":
        alias = key[0][1]
    names = tuple(columns[at].name for _, at in sorted(key))
    return PagedTable(name, root, columns, names, alias, storage, not without_rowid)


def affinity(kind: str, *, strict: bool) -> str:
    """The affinity of a column of a declared type ("Datatypes In SQLite", section 3.1; "STRICT Tables", section 2)."""
    word = kind.upper()
    if strict and word == "ANY":
        return "BLOB"
    for name, parts in _AFFINITIES:
        if any(part in word for part in parts):
            return name
    return "NUMERIC" if word else "BLOB"


def literal_default(scratch: apsw.Connection, affine: str, text: object) -> int | float | str | bytes | None:
    """The value of a default that is a literal, as a column of that affinity holds it. Only such a one can be added later."""
    if not isinstance(text, str) or not _LITERAL.fullmatch(text.strip().strip("()").strip()):
        return None
    try:
        scratch.execute(f"CREATE TEMP TABLE d (x {affine} DEFAULT ({text}))").fetchall()
        value = scratch.execute("INSERT INTO temp.d DEFAULT VALUES RETURNING x").fetchall()[0][0]
    except apsw.Error:
        return None
    finally:
        scratch.execute("DROP TABLE IF EXISTS temp.d").fetchall()
    return value  # type: ignore[no-any-return,unused-ignore]
