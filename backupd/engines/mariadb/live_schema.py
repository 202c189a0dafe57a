"""What a live database's tables are, by the names and columns that manifests have, and what writing a row must know of them.

Reads information_schema only, never a row.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.catalog import Reader, Table
from backupd.engines.mariadb.client import Connection, Row, Server, run, server_errors
from backupd.engines.mariadb.formats import Column, Encoding
from backupd.model import CELLS, Equality, LiveColumn, LiveSchema, LiveTable, OnDelete, Reference

_COLUMNS = """SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME, COLLATION_NAME, IS_NULLABLE,
       COLUMN_DEFAULT, EXTRA
  FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s ORDER BY TABLE_NAME, ORDINAL_POSITION"""
_UNIQUES = """SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS
 WHERE TABLE_SCHEMA = %s AND NON_UNIQUE = 0 ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"""
_TRIGGERS = """SELECT EVENT_OBJECT_TABLE, TRIGGER_NAME FROM information_schema.TRIGGERS
 WHERE EVENT_OBJECT_SCHEMA = %s ORDER BY EVENT_OBJECT_TABLE, TRIGGER_NAME"""
_FOREIGN_KEYS = """SELECT k.TABLE_NAME, k.CONSTRAINT_NAME, k.REFERENCED_TABLE_NAME, k.COLUMN_NAME, k.REFERENCED_COLUMN_NAME,
       c.DELETE_RULE, c.UPDATE_RULE
  FROM information_schema.KEY_COLUMN_USAGE k JOIN information_schema.REFERENTIAL_CONSTRAINTS c
    ON c.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND c.CONSTRAINT_NAME = k.CONSTRAINT_NAME AND c.TABLE_NAME = k.TABLE_NAME
 WHERE k.TABLE_SCHEMA = %s AND k.REFERENCED_TABLE_SCHEMA = k.TABLE_SCHEMA ORDER BY 1, 2, k.ORDINAL_POSITION"""
_ON_DELETE: Mapping[str, OnDelete] = {"CASCADE": "cascade", "SET NULL": "set null", "SET DEFAULT": "set default"}
# Collations that tell texts of printable ASCII apart by their letters alone, whatever their case. Those of a language may not.
LETTERS = re.compile(
    r"(utf8|utf8mb3|utf8mb4|ucs2|utf16|utf16le|utf32)_(general|unicode|unicode_520|uca1400|0900)(_nopad)?(_a[is])?_ci"
    r"|(latin1_swedish|latin1_general|ascii_general)(_nopad)?_ci"
)
_NEXT = re.compile(r"nextval\(`((?:[^`]|``)+)`\.`((?:[^`]|``)+)`\)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Known:
    """A table, and what else SQL about it must know.

    Attributes:
        stored: as a capture sees it.
        renewed: columns that the server would change by itself at an update (ON UPDATE CURRENT_TIMESTAMP).
        sequences: by column, the quoted name of the sequence that its default reads.
        collations: by column; of what is no text, the word None.
    """

    table: LiveTable
    stored: Table
    renewed: tuple[str, ...]
    sequences: Mapping[str, str]
    collations: Mapping[str, str]

    def format(self, name: str) -> tuple[Column, Encoding] | None:
        """A column and how it is written; None if its values are not stored."""
        for column, encoding in zip(self.stored.columns, self.stored.encodings, strict=True):
            if column.name == name:
                return column, encoding
        return None


@dataclass(frozen=True, slots=True)
class Shape:
    """A live database as it is now."""

    schema: LiveSchema
    known: Mapping[str, Known]


def read_shape(place: ServerPlace, link: Connection, server: Server) -> Shape:
    """Read the catalogue.

    Raises:
        Unreachable, TryAgain, Failed.
    """
    catalog = Reader(place, link, server).read()
    with server_errors(place, "reading the catalogue"):
        columns, uniques, triggers, keys = (
            _grouped(run(link, query, (place.database,))) for query in (_COLUMNS, _UNIQUES, _TRIGGERS, _FOREIGN_KEYS)
        )
    known = {
        name: _known(table, columns.get(name, []), uniques.get(name, []), triggers.get(name, []))
        for name, table in catalog.tables.items()
    }
    schema = LiveSchema({name: one.table for name, one in known.items()}, tuple(_references(keys)))
    return Shape(schema, known)


def _known(table: Table, columns: list[Row], uniques: list[Row], triggers: list[Row]) -> Known:
    stored = {column.name: column for column in table.columns}
    formats = {column.name: encoding for column, encoding in zip(table.columns, table.encodings, strict=True)}
    found, renewed = [], []
    sequences: dict[str, str] = {}
    collations: dict[str, str] = {}
    for name, kind, charset, collation, nullable, default, extra in columns:
        label, words = str(name), str(extra or "").lower()
        column = stored.get(label)
        if sequence := _NEXT.fullmatch(str(default)):
            sequences[label] = f"`{sequence[1]}`.`{sequence[2]}`"
        if "on update" in words:
            renewed.append(label)
        counts = column is not None and column.counts
        collations[label] = str(collation)
        found.append(
            LiveColumn(
                label,
                column.label if column else f"{kind} {charset}" if charset else str(kind),
                required=nullable == "NO",
                default=counts or (default is not None and str(default) != "NULL"),
                generated=column is None,
                counter=counts or label in sequences,
                equality=_equality(column, formats[label], str(collation)) if column else CELLS,
            )
        )
    # The times of a versioned table's rows may be columns that the table itself does not show.
    shown = {column.name for column in found}
    found += [LiveColumn(c.name, c.label, generated=True) for c in table.columns if c.name not in shown]
    indexes: dict[str, list[Row]] = defaultdict(list)
    for index, name, part in uniques:
        indexes[str(index)].append((name, part))
    key = table.key if table.key_positions else ()
    sets = [
        tuple(str(name) for name, _ in rows)
        for rows in indexes.values()
        if all(part is None and name in stored for name, part in rows)
    ]
    others = tuple(names for names in dict.fromkeys(sets) if names != key)
    live = LiveTable(table.name, tuple(found), key, others, tuple(str(row[0]) for row in triggers))
    return Known(live, table, tuple(renewed), sequences, collations)


def _equality(column: Column, encoding: Encoding, collation: str) -> Equality:
    """Which values of a column are one.

    Foreign keys need equal collations and integers of one size, so only texts have several spellings, and numbers that are
    filled up with zeros or have a sign where they are zero.
    """
    if column.kind in ("float", "double") or "zerofill" in column.type:
        return Equality("numbers")
    if column.charset in (None, "binary") or column.kind in ("enum", "set"):
        return CELLS
    if encoding == "hex":
        return Equality("asked", rule=collation)
    if collation.endswith("_bin"):
        return CELLS if "nopad" in collation or "0900" in collation else Equality("padded")
    return Equality("letters" if LETTERS.fullmatch(collation) else "asked", rule=collation)


def _references(keys: Mapping[str, list[Row]]) -> list[Reference]:
    found = []
    for table, rows in keys.items():
        by_name: dict[str, list[Row]] = defaultdict(list)
        for name, *rest in rows:
            by_name[str(name)].append(tuple(rest))
        for name, pairs in by_name.items():
            columns = tuple(str(pair[1]) for pair in pairs)
            parents = tuple(str(pair[2]) for pair in pairs)
            on_delete = _ON_DELETE.get(str(pairs[0][3]), "restrict")
            moving = str(pairs[0][4]) == "CASCADE"
            found.append(Reference(name, table, columns, str(pairs[0][0]), parents, on_delete, moving=moving))
    return found


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for name, *rest in rows:
        found[str(name)].append(tuple(rest))
    return found
