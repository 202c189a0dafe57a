"""What a database holds, as information_schema tells it, in a form in which two looks can be compared."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pymysql

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import LOST, Connection, Row, Server, error_number, run, server_errors
from backupd.engines.mariadb.formats import INTEGERS, Column, Encoding, encoding_of

TRANSACTIONAL = frozenset({"innodb", "rocksdb"})
"""Engines whose rows are part of a consistent snapshot."""

ELSEWHERE = frozenset({"mrg_myisam", "federated", "connect", "spider", "blackhole", "oqgraph", "sphinx"})
"""Engines that hold no rows of their own."""

SYSTEM_SCHEMAS = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
_SURE_ORDER = INTEGERS | {"binary", "varbinary"}
_BYTEWISE = frozenset(
    {"utf8mb4_nopad_bin", "utf8mb3_nopad_bin", "utf8_nopad_bin", "ascii_nopad_bin", "utf8mb4_0900_bin"}
)
"""Collations of UTF-8 that compare byte by byte: the others pad with spaces, or know more of letters."""
_ROW_START, _ROW_END = "ROW START", "ROW END"
_PARTITION = re.compile("#[Pp]#")
_FILE_SIGN = re.compile(r"[^0-9A-Za-z_/]")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with rows.

    Attributes:
        key: the columns of its primary key, or of a unique key without NULLs.
        clustered: whether the key is a primary key of whole columns, so that rows lie in its order.
        versioned: whether it keeps its history, which then has row_start and row_end at the end of each row.
        size: bytes, as the server estimates them.
        state: what must be the same at two looks at the same table.
    """

    name: str
    engine: str
    columns: tuple[Column, ...]
    encodings: tuple[Encoding, ...]
    key: tuple[str, ...]
    clustered: bool
    versioned: bool
    size: int
    state: tuple[object, ...] = field(repr=False)

    @property
    def is_transactional(self) -> bool:
        """Whether its rows are part of a consistent snapshot."""
        return self.engine.lower() in TRANSACTIONAL

    @property
    def key_positions(self) -> tuple[int, ...]:
        """Where the key's columns are in a row; empty unless all are."""
        names = [column.name for column in self.columns]
        return tuple(names.index(name) for name in self.key) if set(self.key) <= set(names) else ()

    @property
    def ordered(self) -> bool:
        """Whether rows come in the order of a key of integers, bytes, and texts that are compared like bytes."""
        sure = {column.name for column in self.columns if column.kind in _SURE_ORDER or column.bytewise}
        return self.clustered and bool(self.key) and sure.issuperset(self.key)


@dataclass(frozen=True, slots=True)
class Stored:
    """A view, routine, trigger or event; `hidden` if its body is not shown to this user."""

    kind: str
    name: str
    definer: str
    hidden: bool
    state: tuple[object, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a database holds.

    Attributes:
        tables: those with rows that are read.
        others: sequences and tables without rows of their own: name and engine.
        stored: views, routines, triggers and events.
        broken: tables that the server itself cannot open, and its number of the reason where there is one.
        odd: tables of which a part is not captured, and which.
    """

    charset: str
    collation: str
    tables: Mapping[str, Table]
    others: Mapping[str, str]
    stored: tuple[Stored, ...]
    broken: tuple[str, ...]
    odd: Mapping[str, str]

    def difference(self, later: "Catalog") -> str | None:
        """The first object that is not the same in a later look; None if all are."""
        mine = {**{name: table.state for name, table in self.tables.items()}, **self.others}
        theirs = {**{name: table.state for name, table in later.tables.items()}, **later.others}
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                return f"table {name}"
        ours = {(stored.kind, stored.name): stored.state for stored in self.stored}
        others = {(stored.kind, stored.name): stored.state for stored in later.stored}
        for kind, name in sorted({*ours, *others}):
            if ours.get((kind, name)) != others.get((kind, name)):
                return f"{kind} {name}"
        return None


def is_system(database: str) -> bool:
    """Whether a database is the server's own."""
    return database.lower() in SYSTEM_SCHEMAS


class Reader:
    """Looks at one database through a connection; keeps what does not change between two looks."""

    def __init__(self, place: ServerPlace, link: Connection, server: Server) -> None:
        self._place = place
        self._link = link
        self._server = server
        self._round_trips: dict[str, bool] = {}
        self._partitioned = False
        self._may_see_ids = True

    def read(self, exclude: Sequence[str] = ()) -> Catalog:
        """Look at everything but the rows and triggers of the excluded tables.

        Raises:
            Unreachable: there is no such database.
        """
        with server_errors(self._place, "reading the catalogue"):
            charset, collation = self._database()
            columns, keys, parts = self._columns(None), self._keys(None), self._partitions(None)
            self._partitioned = self._partitioned or bool(parts)
            ids = self._ids(None)
            tables: dict[str, Table] = {}
            others: dict[str, str] = {}
            broken: list[str] = []
            odd: dict[str, str] = {}
            for name, kind, engine, created, size in self._tables(None):
                if kind == "VIEW" or name in exclude:
                    continue
                if engine is None:
                    broken.append(name)
                elif kind == "SEQUENCE" or engine.lower() in ELSEWHERE:
                    others[name] = "sequence" if kind == "SEQUENCE" else engine
                else:
                    state = (created, parts.get(name, ()), ids.get(name, ()))
                    tables[name] = self._table(
                        name, kind, engine, state, size, columns.get(name, []), keys.get(name, [])
                    )
                    if kind == "SYSTEM VERSIONED" and not tables[name].versioned:
                        odd[name] = "the history of a table with transaction-precise versioning"
            stored = tuple(stored for stored in self._stored() if not self._is_excluded(stored, exclude))
            return Catalog(charset, collation, tables, others, stored, tuple(broken), odd)

    def state_of(self, name: str) -> tuple[object, ...] | None:
        """The state of one table as it is now; None if it is gone."""
        with server_errors(self._place, f"looking at table {name}", subject=name):
            found = self._tables(name)
            if not found or found[0][2] is None:
                return None
            _, kind, engine, created, size = found[0]
            parts = self._partitions(name).get(name, ())
            columns, keys = self._columns(name).get(name, []), self._keys(name).get(name, [])
            state = (created, parts, self._ids(name).get(name, ()))
            return self._table(name, kind, str(engine), state, size, columns, keys).state

    def _table(
        self,
        name: str,
        kind: str,
        engine: str,
        state: tuple[object, ...],
        size: int,
        columns: list[Row],
        keys: list[Row],
    ) -> Table:
        kept, versioned = self._kept(columns, kind == "SYSTEM VERSIONED")
        key, clustered = _key(keys)
        if versioned and key and kept[-1].name not in key:
            key = (*key, kept[-1].name)
        charsets = {column.charset for column in kept if column.charset}
        single = frozenset(charset for charset in charsets if self._survives(charset))
        encodings = tuple(encoding_of(column, single) for column in kept)
        whole = (engine, kind, *state, tuple(columns), tuple(keys))
        return Table(name, engine, kept, encodings, key, clustered, versioned, size, whole)

    def _kept(self, columns: list[Row], versioned: bool) -> tuple[tuple[Column, ...], bool]:
        """The columns whose values are stored; and whether the history can be read with them."""
        kept: list[Column] = []
        periods: list[Column] = []
        for name, kind, whole, charset, nullable, extra, expression, collation in columns:
            word = str(expression or "").upper()
            column = Column(
                str(name),
                str(kind).lower(),
                str(whole),
                _word(charset),
                nullable == "YES",
                "auto_increment" in str(extra).lower(),
                str(kind).lower() == "varchar" and str(collation).lower() in _BYTEWISE,
            )
            if versioned and word in (_ROW_START, _ROW_END):
                periods.append(column)
            elif "GENERATED" not in str(extra or "").upper() or "DEFAULT_GENERATED" in str(extra or "").upper():
                kept.append(column)
        if not versioned:
            return tuple(kept), False
        if not periods:
            periods = [Column(name, "timestamp", "timestamp(6)", None, False) for name in ("row_start", "row_end")]
        if any(column.kind != "timestamp" for column in periods):
            return tuple(kept), False
        return (*kept, *periods), True

    def _survives(self, charset: str) -> bool:
        """Whether every byte of a one-byte character set is the same after the way to UTF-8 and back."""
        if charset not in self._round_trips:
            found = run(
                self._link,
                "SELECT MAXLEN FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME = %s",
                (charset,),
            )
            survives = False
            if found and found[0][0] == 1 and charset.isalnum() and charset != "binary":
                every = bytes(range(256)).hex()
                there = f"CONVERT(_{charset} X'{every}' USING utf8mb4)"
                back = run(self._link, f"SELECT HEX(CONVERT({there} USING {charset})) = HEX(X'{every}')")
                survives = back[0][0] == 1
            self._round_trips[charset] = survives
        return self._round_trips[charset]

    def _database(self) -> tuple[str, str]:
        columns = "DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME"
        rows = self._ask("SCHEMATA", "SCHEMA_NAME", columns, name=None)
        return (str(rows[0][0]), str(rows[0][1])) if rows else ("", "")

    def _ask(
        self, view: str, schema: str, columns: str, *, name: str | None, column: str = "TABLE_NAME", order: str = ""
    ) -> list[Row]:
        """Rows of information_schema about this database, or about one table of it; a constant name opens that table only."""
        statement = f"SELECT {columns} FROM information_schema.{view} WHERE {schema} = %s"
        values = [self._place.database]
        if name is not None:
            statement += f" AND {column} = %s"
            values.append(name)
        return run(self._link, statement + (f" ORDER BY {order}" if order else ""), values)

    def _tables(self, name: str | None) -> list[tuple[str, str, str | None, str, int]]:
        columns = "TABLE_NAME, TABLE_TYPE, ENGINE, CREATE_TIME, DATA_LENGTH"
        rows = self._ask("TABLES", "TABLE_SCHEMA", columns, name=name, order="TABLE_NAME")
        return [
            (str(label), str(kind), _word(engine), str(created), size if isinstance(size, int) else 0)
            for label, kind, engine, created, size in rows
        ]

    def _columns(self, name: str | None) -> dict[str, list[Row]]:
        columns = (
            "TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, IS_NULLABLE, EXTRA, GENERATION_EXPRESSION,"
            " COLLATION_NAME"
        )
        return _grouped(self._ask("COLUMNS", "TABLE_SCHEMA", columns, name=name, order="TABLE_NAME, ORDINAL_POSITION"))

    def _keys(self, name: str | None) -> dict[str, list[Row]]:
        columns = "TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART, NULLABLE, NON_UNIQUE"
        order = "TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
        rows = self._ask("STATISTICS", "TABLE_SCHEMA", columns, name=name, order=order)
        return _grouped([row for row in rows if str(row[5]) == "0"])

    def _partitions(self, name: str | None) -> dict[str, tuple[object, ...]]:
        columns = "TABLE_NAME, PARTITION_NAME, SUBPARTITION_NAME, CREATE_TIME"
        rows = self._ask("PARTITIONS", "TABLE_SCHEMA", columns, name=name, order="1, 2, 3")
        found = _grouped([row for row in rows if row[1] is not None])
        return {label: tuple((part, sub, str(created)) for part, sub, created in rows) for label, rows in found.items()}

    def _ids(self, name: str | None) -> dict[str, tuple[object, ...]]:
        """InnoDB's own numbers of the tables, which alone tell of an exchanged partition; nothing without PROCESS.

        They are asked for only where there are partitions, because each look goes through all tables of the server.
        """
        if not (self._partitioned and self._may_see_ids):
            return {}
        view = "INNODB_TABLES" if self._server.vendor == "mysql" else "INNODB_SYS_TABLES"
        try:
            rows = run(self._link, f"SELECT NAME, TABLE_ID FROM information_schema.{view} ORDER BY TABLE_ID")
        except pymysql.Error as error:
            if error_number(error) in LOST:
                raise
            self._may_see_ids = False
            return {}
        files = self._files(name)
        found: dict[str, tuple[object, ...]] = defaultdict(tuple)
        for file, number in rows:
            if (owner := files.get(_PARTITION.split(str(file))[0])) is not None:
                found[owner] += (number,)
        return found

    def _files(self, name: str | None) -> dict[str, str]:
        """Tables by the names that InnoDB has for them: those of files. MySQL lets nobody convert what is not ASCII."""
        if self._server.vendor == "mysql":
            rows = self._ask("TABLES", "TABLE_SCHEMA", "TABLE_NAME, TABLE_SCHEMA", name=name)
            labels = ((str(table), f"{schema}/{table}") for table, schema in rows)
            return {_FILE_SIGN.sub(_file_code, label): table for table, label in labels if label.isascii()}
        encoded = "CAST(CONVERT({} USING filename) AS BINARY)"
        columns = f"TABLE_NAME, {encoded.format('TABLE_SCHEMA')}, {encoded.format('TABLE_NAME')}"
        rows = self._ask("TABLES", "TABLE_SCHEMA", columns, name=name)
        return {f"{_plain(schema)}/{_plain(file)}": str(table) for table, schema, file in rows}

    def _stored(self) -> list[Stored]:
        views = self._ask(
            "VIEWS", "TABLE_SCHEMA", "'view', TABLE_NAME, DEFINER, SHA2(VIEW_DEFINITION, 256), SECURITY_TYPE", name=None
        )
        routines = self._ask(
            "ROUTINES", "ROUTINE_SCHEMA",
            "LOWER(ROUTINE_TYPE), ROUTINE_NAME, DEFINER, SHA2(ROUTINE_DEFINITION, 256), SECURITY_TYPE, LAST_ALTERED, SQL_MODE",
            name=None,
        )  # fmt: skip
        triggers = self._ask(
            "TRIGGERS", "TRIGGER_SCHEMA",
            "'trigger', TRIGGER_NAME, DEFINER, SHA2(ACTION_STATEMENT, 256), EVENT_OBJECT_TABLE, CREATED, ACTION_ORDER", name=None,
        )  # fmt: skip
        events = self._ask(
            "EVENTS",
            "EVENT_SCHEMA",
            "'event', EVENT_NAME, DEFINER, SHA2(EVENT_DEFINITION, 256), LAST_ALTERED, STATUS",
            name=None,
        )
        return [
            Stored(str(kind), str(name), str(definer), body is None, (definer, body, *rest))
            for kind, name, definer, body, *rest in (*views, *routines, *triggers, *events)
        ]

    def _is_excluded(self, stored: Stored, exclude: Sequence[str]) -> bool:
        owner = stored.state[2] if stored.kind == "trigger" else stored.name if stored.kind == "view" else None
        return owner in exclude


def _key(rows: list[Row]) -> tuple[tuple[str, ...], bool]:
    """The primary key, else the first unique key of whole columns without NULLs; and whether rows lie in its order."""
    indexes: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        indexes[str(row[0])].append(row)
    if primary := indexes.pop("PRIMARY", None):
        return tuple(str(row[1]) for row in primary), all(row[2] is None for row in primary)
    for parts in indexes.values():
        if all(row[2] is None and row[3] != "YES" and row[1] is not None for row in parts):
            return tuple(str(row[1]) for row in parts), False
    return (), False


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by their first column, without it."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[str(row[0])].append(row[1:])
    return found


def _file_code(sign: re.Match[str]) -> str:
    return f"@{ord(sign[0]):04x}"


def _plain(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _word(value: object) -> str | None:
    return None if value is None else str(value)
