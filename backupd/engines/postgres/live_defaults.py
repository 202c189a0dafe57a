"""What ON DELETE SET DEFAULT writes, where a column's default is a constant. Any other default is never evaluated here."""

import re
from collections.abc import Sequence

from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.live_cells import cells, copied
from backupd.engines.postgres.names import literal
from backupd.model import Cell

# Not of a domain: its checks may be anybody's functions.
_DEFAULTS = """
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.pg_get_expr(d.adbin, d.adrelid)
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype <> 'd'
  JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %s::pg_catalog.oid AND a.attname = ANY (%s) AND a.attgenerated = ''
"""
_CONSTANT = re.compile(
    r"\(*\s*('(?:[^']|'')*'|-?[0-9]+(\.[0-9]+)?|NULL|true|false)\s*\)*"
    r"(::(\"(?:[^\"]|\"\")+\"|[a-z_][a-z0-9_ ]*)(\.(\"(?:[^\"]|\"\")+\"|[a-z_][a-z0-9_ ]*))?(\([0-9, ]+\))?(\[\])?\)*)*"
)


def fallbacks(session: Session, table: int, columns: Sequence[str], encoding: str) -> dict[str, Cell]:
    """The constants among the defaults of some columns, as cells.

    Raises:
        psycopg.Error: the database refused.
    """
    found = [
        (name, kind, text)
        for name, kind, text in session.execute(_DEFAULTS.encode(), (table, list(columns))).fetchall()
        if _CONSTANT.fullmatch(text)
    ]
    if not found:
        return {}
    words = ", ".join(f"({text})::{kind}" for _, kind, text in found)
    copy = f"COPY (SELECT {words}) TO STDOUT (ENCODING {literal(encoding)})"
    with copied(session, copy) as stream:
        (row,) = cells(stream, len(found))
    return dict(zip((name for name, *_ in found), row, strict=True))
