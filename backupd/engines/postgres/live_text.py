"""Changes of rows as SQL, in plain ASCII but for names, so that they mean the same in every session and from every file.

Each value goes through `literal`, each name through `names.quoted`, and operators are named with their schema: whoever may
create operators must not decide what is compared. Whatever a value holds, it can only be a value.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from backupd.engines.postgres.client import TEXT_SETTINGS
from backupd.engines.postgres.live_schema import Known
from backupd.engines.postgres.live_types import EQUAL, Facets
from backupd.engines.postgres.names import quoted
from backupd.errors import Failed
from backupd.model import Cell, Cells, Change

_UNPLAIN = re.compile(rb"[^\x20-\x7e]|\\")
# How each byte is written between quotes, where a backslash means something.
_ESCAPED = [chr(code) if 0x20 <= code < 0x7F and chr(code) not in "'\\" else f"\\x{code:02x}" for code in range(256)]
_TEXT = "pg_catalog.text"


def literal(cell: Cell) -> str:
    """A cell as a constant. Bytes beyond ASCII are written by their numbers, which are those of the server's encoding.

    Raises:
        TypeError: it is no cell of a server.
    """
    if cell is None:
        return "NULL"
    if not isinstance(cell, bytes):
        raise TypeError("a server's cells are bytes")
    if _UNPLAIN.search(cell):
        return "E'" + cell.decode("latin-1").translate(_ESCAPED) + "'"
    return "'" + cell.decode("ascii").replace("'", "''") + "'"


def preamble(*, triggers: bool) -> list[str]:
    """What a transaction begins with in which statements are executed, by whatever client."""
    settings = (*TEXT_SETTINGS, ("standard_conforming_strings", "on"))
    words = [f"SET LOCAL {name} = '{value}'" for name, value in settings]
    if not triggers:
        words.append("SET LOCAL session_replication_role = replica")
    return [*words, "SET CONSTRAINTS ALL DEFERRED"]


def found_by(known: Known, by: Sequence[str], values: Iterable[Cells]) -> str:
    """The condition that finds the rows whose columns equal one of the values, and perhaps some more; uses indexes.

    The table must be called `t` there.
    """
    facets = [facets_of(known, name) for name in by]
    names = ["t." + quoted(n) + ("" if f.equal else f"::{_TEXT}") for n, f in zip(by, facets, strict=True)]
    casts = [f.cast if f.equal else _TEXT for f in facets]
    if len(by) == 1 and not casts[0].endswith("[]"):  # an array of arrays is one of their elements
        listed = ", ".join(f"{literal(value)}::{casts[0]}" for (value,) in values)
        return f"{names[0]} {facets[0].equal or EQUAL} ANY (ARRAY[{listed}])"
    joined = [
        f"v.c{place} {facet.equal or EQUAL} {name}"
        for place, (facet, name) in enumerate(zip(facets, names, strict=True))
    ]
    rows = ", ".join(
        "(" + ", ".join(f"{literal(value)}::{cast}" for value, cast in zip(row, casts, strict=True)) + ")"
        for row in values
    )
    columns = ", ".join(f"c{place}" for place in range(len(by)))
    return f"EXISTS (SELECT FROM (VALUES {rows}) AS v({columns}) WHERE {' AND '.join(joined)})"


def numbered(known: Known, columns: Sequence[str], values: Iterable[Cells]) -> str:
    """The query that gives each value its place and a number: equal ones to those that the columns take for one."""
    facets = [facets_of(known, name) for name in columns]
    rows = ", ".join(
        f"({place}, {', '.join(_compared(facet, cell) for facet, cell in zip(facets, row, strict=True))})"
        for place, row in enumerate(values)
    )
    names = ", ".join(f"c{at}" for at in range(len(columns)))
    return f"SELECT n, pg_catalog.dense_rank() OVER (ORDER BY {names}) FROM (VALUES {rows}) AS v(n, {names})"


def _compared(facets: Facets, cell: Cell) -> str:
    """A value as its column compares it."""
    text = f"{literal(cell)}::{facets.cast if facets.equal else _TEXT}"
    return f"{text} COLLATE {facets.collation}" if facets.collation else text


def statement(known: Known, change: Change) -> str:
    """A change as one statement.

    Raises:
        Failed: the table has no such column.
    """
    if change.kind == "insert":
        return inserts(known, [change])
    if change.kind == "delete":
        return f"DELETE FROM {known.only} WHERE {_condition(known, change)}"
    written = _writable(known, change.new)
    changed = [name for name in written if name not in change.old or change.old[name] != change.new[name]]
    sets = ", ".join(f"{quoted(name)} = {literal(change.new[name])}" for name in changed or written)
    return f"UPDATE {known.only} SET {sets} WHERE {_condition(known, change)}"


def inserts(known: Known, changes: Sequence[Change]) -> str:
    """Inserts into one table, of the same columns, as one statement."""
    names = _writable(known, changes[0].new)
    target = f"INSERT INTO {known.relation.quoted}"
    if not names:
        return f"{target} DEFAULT VALUES"
    identity = {column.name for column in known.table.columns if column.identity}
    overriding = " OVERRIDING SYSTEM VALUE" if identity & set(names) else ""
    rows = ", ".join("(" + ", ".join(literal(change.new[name]) for name in names) + ")" for change in changes)
    return f"{target} ({', '.join(map(quoted, names))}){overriding} VALUES {rows}"


def deletes(known: Known, changes: Sequence[Change]) -> str:
    """Deletes from one table that has a key, as one statement."""
    return f"DELETE FROM {known.only} WHERE " + " OR ".join(f"({_condition(known, change)})" for change in changes)


def together(statements: Sequence[str]) -> str:
    """Inserts, or deletes, as one statement, which says how many rows they were."""
    parts = ", ".join(f"s{place} AS ({text} RETURNING 1)" for place, text in enumerate(statements))
    counts = " + ".join(f"(SELECT pg_catalog.count(*) FROM s{place})" for place in range(len(statements)))
    return f"WITH {parts} SELECT {counts}"


def facets_of(known: Known, name: str) -> Facets:
    """A column's facets.

    Raises:
        Failed: the table has no such column.
    """
    found = known.facets.get(name)
    if found is None:
        table = known.table.name
        raise Failed(f"{table} has no column {name!a} now", object_name=table, hint="look at the table, and plan again")
    return found


def _writable(known: Known, cells: Mapping[str, Cell]) -> list[str]:
    """The columns that are written, in the table's order; without those that the database computes."""
    for name in cells:
        facets_of(known, name)
    return [column.name for column in known.table.columns if column.name in cells and not column.generated]


def _condition(known: Known, change: Change) -> str:
    """That a row is what it is expected to be; for a table without a key, of rows that are equal any one."""
    pairs = dict.fromkeys([*change.key.items(), *change.old.items()])
    words = " AND ".join(_is(known, name, cell) for name, cell in pairs) or "true"
    if known.table.key:
        return words
    place = "tableoid, ctid"
    return f"({place}) {EQUAL} (SELECT {place} FROM {known.only} WHERE {words} LIMIT 1)"


def _is(known: Known, name: str, cell: Cell) -> str:
    """That a column has this value, or is NULL if that is it."""
    facets = facets_of(known, name)
    if cell is None:
        return f"{quoted(name)} IS NULL"
    if not facets.same:
        return f"{quoted(name)}::{_TEXT} {EQUAL} {literal(cell)}"
    column = f'({quoted(name)} COLLATE pg_catalog."C")' if facets.loose else quoted(name)
    return f"{column} {EQUAL} {literal(cell)}::{facets.cast}"
