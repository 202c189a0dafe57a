"""What ON DELETE SET DEFAULT writes, where a column's default is a constant. Any other default is never evaluated here."""

import re
from collections.abc import Collection, Mapping, Sequence

from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.live_cells import cells, copied
from backupd.engines.postgres.names import literal
from backupd.model import Cell, Cells

_AT_ONCE = 500

# Not of a domain: its checks may be anybody's functions.
_DEFAULTS = """
SELECT a.attrelid::bigint, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.pg_get_expr(d.adbin, d.adrelid)
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype <> 'd'
  JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = ANY (%s::pg_catalog.oid[]) AND a.attgenerated = ''
"""
_CONSTANT = re.compile(
    r"\(*\s*('(?:[^']|'')*'|-?[0-9]+(\.[0-9]+)?|NULL|true|false)\s*\)*"
    r"(::(\"(?:[^\"]|\"\")+\"|[a-z_][a-z0-9_ ]*)(\.(\"(?:[^\"]|\"\")+\"|[a-z_][a-z0-9_ ]*))?(\([0-9, ]+\))?(\[\])?\)*)*"
)


def fallbacks(session: Session, columns: Mapping[int, Collection[str]], encoding: str) -> dict[int, dict[str, Cell]]:
    """By table, the constants among the defaults of some columns, as cells.

    Raises:
        psycopg.Error: the database refused.
    """
    found = [
        (table, name, kind, text)
        for table, name, kind, text in session.execute(_DEFAULTS.encode(), (list(columns),)).fetchall()
        if name in columns[table] and _CONSTANT.fullmatch(text)
    ]
    known: dict[int, dict[str, Cell]] = {table: {} for table in columns}
    for at in range(0, len(found), _AT_ONCE):
        some = found[at : at + _AT_ONCE]
        for (table, name, *_), cell in zip(some, _evaluated(session, some, encoding), strict=True):
            known[table][name] = cell
    return known


def _evaluated(session: Session, found: Sequence[tuple[int, str, str, str]], encoding: str) -> Cells:
    words = ", ".join(f"({text})::{kind}" for *_, kind, text in found)
    copy = f"COPY (SELECT {words}) TO STDOUT (ENCODING {literal(encoding)})"
    with copied(session, copy) as stream:
        (row,) = cells(stream, len(found))
    return row
