"""Captures a database of a MariaDB or MySQL server: several consistent snapshots of one moment, one child each.

The order is: look at the catalogue, set the barrier, open the snapshots, lift the barrier, look again. Each table is looked
at once more after its last row, while the reading transaction still keeps others from altering it; so a table that was
altered, truncated, dropped or swapped between the moment and its reading fails by name, and one that is altered after it
was read does no harm. The definitions are dumped after the moment and must be those of the moment, too.
"""

import queue
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from backupd.engines.base import ServerPlace, StreamInfo, TableInfo
from backupd.engines.mariadb import schema, script
from backupd.engines.mariadb.barrier import Moment, position_of
from backupd.engines.mariadb.catalog import Catalog, Reader, Table
from backupd.engines.mariadb.client import (
    Connection,
    Server,
    quote_name,
    run,
    server_errors,
)
from backupd.engines.mariadb.formats import INTEGERS, fingerprint, read_expression
from backupd.engines.mariadb.locker import Locker
from backupd.engines.mariadb.tools import Tools
from backupd.engines.mariadb.worker import Worker
from backupd.errors import SourceIncomplete, SourceMoved

_ATTEMPTS = 5
_PART = 128 << 20
_LARGE = 256 << 20
_BUFFER = 1 << 20
_STALL = 900.0
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Part:
    """A table, or a range of its key."""

    table: Table
    condition: str = ""


@dataclass(slots=True)
class Opened:
    """What a view is made of."""

    place: ServerPlace
    tools: Tools
    link: Connection
    server: Server
    reader: Reader
    catalog: Catalog
    moment: Moment
    workers: list[Worker]
    locker: Locker | None
    exclude: Sequence[str]
    globals: bool
    warnings: list[str]
    settings: Mapping[str, object] = field(default_factory=dict)


class MariaView:
    """One moment of a database; made by `MariaSource.view`, which also ends it."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._marker = "N" + secrets.token_hex(12)  # drawn now, so no row of the moment can hold it
        self._link_lock = threading.Lock()
        self._locker_lock = threading.Lock()
        self._definitions_lock = threading.Lock()
        self._schema: bytes | None = None
        self._triggers: bytes | None = None
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in opened.workers:
            self._free.put(worker)
        self._locked_since = time.monotonic()
        self._locked_left = 0
        self._parts: dict[int, Part] = {}
        self._begun = self._ended = 0
        self.streams: Sequence[StreamInfo] = tuple(self._list_streams())
        self.tables: Sequence[TableInfo] = tuple(
            _table_info(table, opened.server) for table in opened.catalog.tables.values()
        )
        self.facts: Mapping[str, object] = _facts(opened)

    @property
    def warnings(self) -> Sequence[str]:
        """What is not as it should be; final after the last stream."""
        return tuple(self._opened.warnings)

    @property
    def parallel(self) -> int:
        """One for each snapshot that is open."""
        return len(self._opened.workers)

    @property
    def pressing(self) -> bool:
        """True once writers of tables without transactions have waited for half a minute."""
        return self._locked_left > 0 and time.monotonic() - self._locked_since > _PATIENCE

    def read(self, stream: StreamInfo) -> Iterator[bytes]:
        """A stream's bytes, in buffers of up to 1 MiB.

        Raises:
            SourceMoved: the table, or a definition, is not what it was at the moment.
            SourceIncomplete, Unreachable: not all of it came.
        """
        if stream.kind == "rows":
            return self._read_rows(self._parts[id(stream)])
        if stream.secret:
            return self._read_globals()
        return self._read_script(stream.name) if stream.name != script.SCHEMA else self._read_schema()

    def counted(self, stream: StreamInfo, rows: int) -> None:
        """Nothing: InnoDB's rows are in the index that they are read by."""

    def finish(self) -> None:
        """Every stream that was begun has been read to its end, in the snapshots that were opened.

        Raises:
            SourceIncomplete, SourceMoved.
        """
        if self._begun != self._ended:
            raise SourceIncomplete(
                "a stream was not read to its end", object_name=str(self._opened.place), hint="run again"
            )
        moment = self._opened.moment
        for worker in self._opened.workers:
            if (
                self._opened.server.vendor == "mysql"
            ):  # it does not tell, but a lost snapshot has lost its savepoint, too
                worker.ask("ROLLBACK TO SAVEPOINT backupd")
                continue
            position = position_of(worker.ask("SHOW STATUS LIKE 'binlog_snapshot_%'"))
            if moment.proven and position != (moment.file, moment.position):
                raise SourceMoved(
                    "a snapshot was lost while it was read", object_name=str(self._opened.place), hint="run again"
                )

    def _list_streams(self) -> Iterator[StreamInfo]:
        catalog = self._opened.catalog
        yield StreamInfo(script.SCHEMA, "schema", None)
        if self._opened.globals:
            yield StreamInfo("globals.sql", "schema", None, secret=True)
        tables = sorted(catalog.tables.values(), key=lambda table: (table.is_transactional, -table.size, table.name))
        for table in tables:
            parts = self._split(table)
            self._locked_left += 0 if table.is_transactional else len(parts)
            for part in parts:
                stream = StreamInfo(table.name, "rows", table.size // len(parts), key=table.key_positions)
                self._parts[id(stream)] = part
                yield stream
        yield StreamInfo(script.LOAD, "schema", None)
        yield StreamInfo(script.AFTER, "schema", None)

    def _split(self, table: Table) -> list[Part]:
        """A large table with a key of integers, in ranges of that key of which the first and the last are open."""
        first = next((column for column in table.columns if table.key[:1] == (column.name,)), None)
        if (
            table.size <= _LARGE
            or not (table.clustered and table.is_transactional)
            or first is None
            or first.kind not in INTEGERS
        ):
            return [Part(table)]
        name = quote_name(first.name)
        with server_errors(self._opened.place, f"looking at table {table.name}", subject=table.name):
            low, high = run(self._opened.link, f"SELECT MIN({name}), MAX({name}) FROM {quote_name(table.name)}")[0]
        if not (isinstance(low, int) and isinstance(high, int)):
            return [Part(table)]
        count = min(table.size // _PART, 64, max(1, high - low))
        edges = [low + (high - low) * number // count for number in range(1, count)]
        if not edges:
            return [Part(table)]
        ranges = [f"{name} < {edges[0]}"]
        ranges += [f"{name} >= {low} AND {name} < {high}" for low, high in pairwise(edges)]
        return [Part(table, condition) for condition in (*ranges, f"{name} >= {edges[-1]}")]

    def _read_rows(self, part: Part) -> Iterator[bytes]:
        self._begun += 1
        statement = select(part.table, self._marker, part.condition)
        if part.table.is_transactional or self._opened.locker is None:
            worker = self._free.get()
            try:
                yield from worker.rows(statement, self._marker, part.table.name)
                self._require_same(part.table)
                worker.ask("ROLLBACK TO SAVEPOINT backupd")  # lets go of the table, not of the moment
            finally:
                self._free.put(worker)
        else:
            yield from self._opened.locker.rows(statement, self._marker, part.table.name)
            with self._locker_lock:
                self._locked_left -= 1
                if self._locked_left == 0:
                    self._opened.locker.release()
        self._ended += 1

    def _require_same(self, table: Table) -> None:
        with self._link_lock:
            now = self._opened.reader.state_of(table.name)
        if now != table.state:
            raise SourceMoved(
                f"table {table.name} was dropped, truncated or altered while the database was read",
                object_name=table.name,
                hint="run again when no migration is running",
            )

    def _read_schema(self) -> Iterator[bytes]:
        self._begun += 1
        with self._definitions_lock:
            if self._schema is None:
                self._dump()
            text, self._schema = self._schema or b"", None
        yield from _pieces(text)
        self._ended += 1

    def _dump(self) -> None:
        """Dump all definitions and those of the triggers, both of the moment."""
        opened = self._opened
        text = schema.dump(opened.tools, opened.place, opened.server, opened.exclude)
        triggers = schema.dump_triggers(opened.tools, opened.place, opened.server, opened.exclude)
        self._require_unmoved()
        warning = schema.check(text, triggers, opened.catalog)
        if warning is not None and warning not in opened.warnings:
            opened.warnings.append(warning)
        self._schema, self._triggers = text, triggers

    def _require_unmoved(self) -> None:
        """The definitions are still those of the moment."""
        opened = self._opened
        with self._link_lock:
            moved = opened.catalog.difference(opened.reader.read(opened.exclude))
        if moved is not None:
            raise SourceMoved(
                f"{moved} changed while the definitions were read",
                object_name=moved,
                hint="run again when no migration is running",
            )

    def _read_script(self, name: str) -> Iterator[bytes]:
        """What the native client restores an export with; it goes with `schema.sql`, so it is of the same moment."""
        self._begun += 1
        opened = self._opened
        if name == script.LOAD:
            tables, stored = opened.catalog.tables, opened.catalog.stored
            yield from script.load_script(self.streams, tables, stored, vendor=opened.server.vendor)
        else:
            with self._definitions_lock:
                if self._triggers is None:
                    self._dump()
            yield from script.after_script(self._triggers or b"", opened.catalog.stored)
        self._ended += 1

    def _read_globals(self) -> Iterator[bytes]:
        self._begun += 1
        opened = self._opened
        schema.require_all_rows(opened.settings)
        yield from _pieces(schema.dump_globals(opened.tools, opened.server))
        self._ended += 1


def select(table: Table, marker: str, condition: str = "") -> str:
    """The statement that prints a table's rows in their clustered order."""
    pairs = zip(table.columns, table.encodings, strict=True)
    fields = ", ".join(read_expression(column, encoding, marker) for column, encoding in pairs) or "''"
    statement = f"SELECT {fields} FROM {quote_name(table.name)}"
    if table.versioned:
        statement += " FOR SYSTEM_TIME ALL"
    statement += " FORCE INDEX (PRIMARY)" if table.clustered else " USE INDEX ()"
    if condition:
        statement += f" WHERE {condition}"
    if table.clustered:
        statement += " ORDER BY " + ", ".join(quote_name(name) for name in table.key)
    return statement


def _table_info(table: Table, server: Server) -> TableInfo:
    columns = tuple((column.name, column.label) for column in table.columns)
    key = table.key if table.key_positions else ()
    form = fingerprint(server.release, table.columns, table.encodings)
    return TableInfo(table.name, key, None, columns, form, table.ordered)


def _facts(opened: Opened) -> dict[str, object]:
    moment, catalog, server = opened.moment, opened.catalog, opened.server
    return {
        "engine_version": server.text,
        "vendor": server.vendor,
        "version": list(server.version),
        "version_text": server.text,
        "database": opened.place.database,
        "charset": catalog.charset,
        "collation": catalog.collation,
        "settings": dict(opened.settings),
        "barrier": {"kind": moment.barrier, "held_seconds": round(moment.held, 6), "proven": moment.proven},
        "binlog": {"file": moment.file, "position": moment.position, "gtid": moment.gtid},
        "connections": len(opened.workers),
        "tables": {
            table.name: {"engine": table.engine, "encodings": list(table.encodings), "versioned": table.versioned}
            for table in catalog.tables.values()
        },
        "others": dict(catalog.others),
        "definers": sorted({stored.definer for stored in catalog.stored if stored.definer}),
        "excluded": list(opened.exclude),
    }


def _pieces(text: bytes) -> Iterator[bytes]:
    for start in range(0, len(text), _BUFFER):
        yield text[start : start + _BUFFER]
