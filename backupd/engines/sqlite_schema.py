"""What a live SQLite database says of its tables, and of what refers to what."""

from collections.abc import Iterator, Mapping
from typing import Literal

import apsw

from backupd.engines.sqlite_lazy import affinity, literal_default, scratch_connection
from backupd.model import Equality, Kind, LiveColumn, LiveSchema, LiveTable, OnDelete, Reference

_TABLES = (
    "SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
    " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
)
_COLUMNS = (
    "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?, 'main')"
    " WHERE hidden IN (0, 2, 3) ORDER BY cid"
)
_UNIQUES = "SELECT name, origin FROM pragma_index_list(?, 'main') WHERE \"unique\" AND NOT partial ORDER BY seq"
_INDEXED = "SELECT name FROM pragma_index_info(?, 'main') ORDER BY seqno"
_TRIGGERS = "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = lower(?) ORDER BY name"
_KEYS = (
    'SELECT id, "table", "from", "to", on_delete, on_update FROM pragma_foreign_key_list(?, \'main\') ORDER BY id, seq'
)
_KINDS: Mapping[str, Kind] = {"NOCASE": "nocase", "RTRIM": "padded"}
_COMPARED: Mapping[str, Literal["", "text"]] = {"TEXT": "text", "BLOB": ""}
_ON_DELETE: Mapping[str, OnDelete] = {"CASCADE": "cascade", "SET NULL": "set null", "SET DEFAULT": "set default"}


def read_live_schema(link: apsw.Connection) -> tuple[LiveSchema, Mapping[tuple[str, int], str]]:
    """The tables, what refers to what, and the name of each foreign key by its table and the number that SQLite gives it."""
    with scratch_connection() as scratch:
        found = link.execute(_TABLES).fetchall()
        tables = {str(t): _table(link, scratch, str(t), (bool(without), bool(strict))) for t, without, strict in found}
    known = {name.lower(): name for name in tables}
    references: list[Reference] = []
    numbers: dict[tuple[str, int], str] = {}
    for name in tables:
        for number, reference in _references(link, name, known, tables):
            references.append(reference)
            numbers[name, number] = reference.name
    return LiveSchema(tables, tuple(references)), numbers


def _table(link: apsw.Connection, scratch: apsw.Connection, name: str, options: tuple[bool, bool]) -> LiveTable:
    without_rowid, strict = options
    rows = link.execute(_COLUMNS, (name,)).fetchall()
    key = [str(column) for column, *_, pk, _ in sorted(rows, key=lambda row: int(str(row[4]))) if pk]
    indexes = link.execute(_UNIQUES, (name,)).fetchall()
    alias = None
    if len(key) == 1 and not without_rowid and not any(origin == "pk" for _, origin in indexes):
        alias = key[0]
    columns = tuple(
        LiveColumn(
            str(column),
            str(kind or ""),
            required=bool(required) or (without_rowid and bool(pk)),
            default=default is not None or column == alias,
            generated=hidden != 0,
            counter=column == alias,
            fallback=(fallback := literal_default(scratch, affine, default)),
            varying=fallback is None and str(default or "NULL").strip("() ").upper() != "NULL",
            equality=_equality(link, name, str(column), affine),
        )
        for column, kind, required, default, pk, hidden in rows
        for affine in (affinity(str(kind or ""), strict=strict),)
    )
    uniques = []
    for index, origin in indexes:
        names = [column for (column,) in link.execute(_INDEXED, (index,)).fetchall()]
        if origin != "pk" and None not in names:
            uniques.append(tuple(map(str, names)))
    triggers = tuple(str(row[0]) for row in link.execute(_TRIGGERS, (name,)).fetchall())
    return LiveTable(name, columns, tuple(key), tuple(dict.fromkeys(uniques)), triggers)


def _equality(link: apsw.Connection, table: str, column: str, affine: str) -> Equality:
    collation = link.column_metadata("main", table, column)[1]
    return Equality(_KINDS.get(collation.upper(), "cells"), _COMPARED.get(affine, "number"))


def _references(
    link: apsw.Connection, table: str, known: Mapping[str, str], tables: Mapping[str, LiveTable]
) -> Iterator[tuple[int, Reference]]:
    """Foreign keys to tables that are there; names mean what they mean to SQLite, whatever their case."""
    grouped: dict[int, list[tuple[str, str, str | None, str, str]]] = {}
    for number, parent, child, to, action, moving in link.execute(_KEYS, (table,)).fetchall():
        grouped.setdefault(int(str(number)), []).append(
            (str(parent), str(child), None if to is None else str(to), str(action), str(moving))
        )
    for number, rows in grouped.items():
        parent = known.get(rows[0][0].lower())
        if parent is None:
            continue
        columns = tuple(_spelled(tables[table], row[1]) for row in rows)
        targets = tuple(_spelled(tables[parent], row[2]) for row in rows if row[2] is not None) or tables[parent].key
        if len(targets) == len(columns):
            name = f"{table}({', '.join(columns)})"
            action = _ON_DELETE.get(rows[0][3].upper(), "restrict")
            moving = rows[0][4].upper() == "CASCADE"
            yield number, Reference(name, table, columns, parent, targets, action, deferrable=True, moving=moving)


def _spelled(table: LiveTable, column: str) -> str:
    """A column as its table spells it."""
    return next((c.name for c in table.columns if c.name.lower() == column.lower()), column)
