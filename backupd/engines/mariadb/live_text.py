"""Changes of rows as SQL, in plain ASCII but for names, so that they mean the same in every session and from every file.

Each value goes through `literal` or `digits`, each name through `quote_name`. A literal has no backslash, which some
sessions would read as one and others as the beginning of an escape: such texts are written as their bytes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from backupd.engines.mariadb.client import quote_name
from backupd.engines.mariadb.formats import INTEGERS, Column, Encoding, load_expression, read_expression
from backupd.engines.mariadb.live_schema import Known
from backupd.errors import Failed
from backupd.model import Cell, Cells, Change

_PLAIN = re.compile(rb"[\x20-\x5b\x5d-\x7e]*\Z")
_NUMBER = re.compile(rb"-?\d{1,70}(?:\.\d{1,40})?\Z")
_HEX = re.compile(rb"(?:[0-9A-F]{2})*\Z")
_NUMERIC = INTEGERS | {"decimal", "year"}
SQL_MODE = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"
"""Values are refused and not bent; zero dates, the 31st of February and a zero in an AUTO_INCREMENT are what they are."""

_SETTINGS = (
    "SET NAMES utf8mb4",
    f"SET SESSION sql_mode = '{SQL_MODE}', time_zone = '+00:00', foreign_key_checks = 1, unique_checks = 1",
    "SET SESSION sql_safe_updates = 0, sql_select_limit = 18446744073709551615",
)
CHECKS_OFF = "SET SESSION foreign_key_checks = 0"
CHECKS_ON = "SET SESSION foreign_key_checks = 1"


def literal(cell: Cell) -> str:
    """A cell as a constant text; one that is not plain ASCII by its bytes.

    Raises:
        TypeError: it is no cell of a server.
    """
    if cell is None:
        return "NULL"
    if not isinstance(cell, bytes):
        raise TypeError("a server's cells are bytes")
    if _PLAIN.match(cell):
        return "'" + cell.decode("ascii").replace("'", "''") + "'"
    return f"_utf8mb4 X'{cell.hex()}'"


def digits(cell: bytes) -> str:
    """The bytes that hexadecimal digits stand for; of what is none, the text itself, which the server will refuse."""
    return f"X'{cell.decode('ascii')}'" if _HEX.match(cell) else f"UNHEX({literal(cell)})"


def preamble() -> list[str]:
    """What comes before the statements, by whatever client they are executed."""
    return list(_SETTINGS)


def value(encoding: Encoding, cell: Cell) -> str:
    """What is written to a column."""
    if not isinstance(cell, bytes):
        return literal(cell)
    if encoding == "hex":
        return digits(cell)
    text = literal(cell)
    return load_expression(encoding, text) or text


def found_by(known: Known, by: Sequence[str], values: Iterable[Cells]) -> str:
    """The condition that finds the rows whose columns equal one of the values, and perhaps some more; uses indexes."""
    formats = [format_of(known, name) for name in by]
    if len(by) == 1:
        ((column, encoding),) = formats
        left = _key_side(column, encoding)
        return f"{left} IN ({', '.join(_key_value(column, encoding, cell) for (cell,) in values)})"
    rows = []
    for row in values:
        pairs = zip(formats, row, strict=True)
        words = (f"{_key_side(*form)} = {_key_value(*form, cell)}" for form, cell in pairs)
        rows.append("(" + " AND ".join(words) + ")")
    return " OR ".join(rows)


def numbered(known: Known, columns: Sequence[str], values: Sequence[Cells], vendor: str) -> str:
    """The query that gives each value its place and a number: equal ones to those that the columns take for one."""
    formats = [format_of(known, name) for name in columns]
    word = "ROW" if vendor == "mysql" else ""
    rows = ", ".join(
        f"{word}({place}, {', '.join(_compared(known, *form, cell) for form, cell in zip(formats, row, strict=True))})"
        for place, row in enumerate(values)
    )
    names = ", ".join(f"c{at}" for at in range(len(columns)))
    return f"WITH v (n, {names}) AS (VALUES {rows}) SELECT n, DENSE_RANK() OVER (ORDER BY {names}) FROM v"


def _compared(known: Known, column: Column, encoding: Encoding, cell: Cell) -> str:
    """A value as the column compares it."""
    collation = known.collations.get(column.name, "None")
    if column.charset is None or not isinstance(cell, bytes) or encoding == "index" or collation == "None":
        return _key_value(column, encoding, cell)
    text = digits(cell) if encoding == "hex" else literal(cell)
    return f"CONVERT({text} USING {quote_name(column.charset)}) COLLATE {quote_name(collation)}"


def read_columns(known: Known, names: Sequence[str], marker: str) -> str:
    """The expressions that a capture reads these columns by; NULL comes as the marker."""
    return ", ".join(read_expression(*format_of(known, name), marker) for name in names) or "''"


def statement(known: Known, change: Change) -> str:
    """A change as one statement.

    Raises:
        Failed: the table has no such column.
    """
    name = quote_name(known.table.name)
    if change.kind == "insert":
        return bundle(known, [change])
    # Of equal rows without a key, any one.
    end = _condition(known, change) + ("" if known.table.key else " LIMIT 1")
    if change.kind == "delete":
        return f"DELETE FROM {name} WHERE {end}"
    written = _writable(known, change.new)
    changed = [one for one in written if one not in change.old or change.old[one] != change.new[one]] or written
    sets = [f"{quote_name(one)} = {value(format_of(known, one)[1], change.new[one])}" for one in changed]
    sets += [f"{quote_name(one)} = {quote_name(one)}" for one in known.renewed if one not in changed]
    return f"UPDATE {name} SET {', '.join(sets)} WHERE {end}"


def bundle(known: Known, changes: Sequence[Change]) -> str:
    """Inserts of the same columns into one table, or deletes from one that has a key, as one statement."""
    name = quote_name(known.table.name)
    if changes[0].kind == "delete":
        near = found_by(known, known.table.key, [tuple(one.key[c] for c in known.table.key) for one in changes])
        exactly = " OR ".join(f"({_condition(known, change)})" for change in changes)
        return f"DELETE FROM {name} WHERE ({near}) AND ({exactly})"
    formats = {one: format_of(known, one)[1] for one in _writable(known, changes[0].new)}
    rows = (
        "(" + ", ".join(value(encoding, change.new[one]) for one, encoding in formats.items()) + ")"
        for change in changes
    )
    return f"INSERT INTO {name} ({', '.join(map(quote_name, formats))}) VALUES {', '.join(rows)}"


def format_of(known: Known, name: str) -> tuple[Column, Encoding]:
    """A column and how it is written.

    Raises:
        Failed: the table has no such column.
    """
    found = known.format(name)
    if found is None:
        table = known.table.name
        raise Failed(
            f"{table} has no column {name!a} with values of its own now",
            object_name=table,
            hint="look at the table, and plan again",
        )
    return found


def _writable(known: Known, cells: Mapping[str, Cell]) -> list[str]:
    generated = {column.name for column in known.table.columns if column.generated}
    for name in cells:
        if name not in generated:
            format_of(known, name)
    return [column.name for column in known.table.columns if column.name in cells and not column.generated]


def _condition(known: Known, change: Change) -> str:
    pairs = dict.fromkeys([*change.key.items(), *change.old.items()])
    words = [_is(known, name, cell) for name, cell in pairs]
    if known.table.key:  # once more, in the form that finds it by the index
        key = [name for name in known.table.key if change.key.get(name) is not None]
        found = (found_by(known, [name], [(change.key[name],)]) for name in key if not _is_numeric(known, name))
        words = [*found, *words]
    return " AND ".join(words) or "TRUE"


def _is_numeric(known: Known, name: str) -> bool:
    column, encoding = format_of(known, name)
    return encoding == "plain" and column.kind in _NUMERIC


def _is(known: Known, name: str, cell: Cell) -> str:
    """That a column has this value, by its text in the row format."""
    column, encoding = format_of(known, name)
    if cell is None or not isinstance(cell, bytes):
        return f"{quote_name(name)} <=> {literal(cell)}"
    if encoding == "index" or _is_numeric(known, name):
        return f"{_read(column, encoding)} <=> {_number(cell)}"
    return f"CAST({_read(column, encoding)} AS BINARY) <=> CAST({literal(cell)} AS BINARY)"


def _read(column: Column, encoding: Encoding) -> str:
    """What a capture reads, but NULL as NULL."""
    return read_expression(replace(column, nullable=False), encoding, "")


def _number(cell: bytes) -> str:
    return cell.decode("ascii") if _NUMBER.match(cell) else literal(cell)


def _key_side(column: Column, encoding: Encoding) -> str:
    return f"CAST({quote_name(column.name)} AS DOUBLE)" if encoding == "float" else quote_name(column.name)


def _key_value(column: Column, encoding: Encoding, cell: Cell) -> str:
    if isinstance(cell, bytes) and encoding == "plain" and column.kind in _NUMERIC:
        return _number(cell)
    if isinstance(cell, bytes) and encoding == "float":
        return f"CAST({literal(cell)} AS DOUBLE)"
    return value(encoding, cell)
