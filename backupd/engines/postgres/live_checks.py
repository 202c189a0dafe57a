"""What is checked when rows were written: foreign keys that the server did not check, and where sequences stand."""

from collections.abc import Collection, Iterable

from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.live_schema import ForeignKey, Known
from backupd.engines.postgres.names import label, quoted

_SEQUENCE = """
SELECT n.nspname, c.relname, s.seqincrement, s.seqmin, s.seqmax
  FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE s.seqrelid = %s::pg_catalog.oid
"""
_WHOLE = frozenset({"smallint", "integer", "bigint"})


def broken(session: Session, keys: Iterable[ForeignKey], tables: Collection[str]) -> list[str]:
    """The foreign keys of these tables, or to them, that a row breaks. Those that are NOT VALID say nothing of older rows.

    Raises:
        psycopg.Error: the database refused.
    """
    return [name for name, text in queries(keys, tables).items() if session.execute(text.encode()).fetchall()]


def queries(keys: Iterable[ForeignKey], tables: Collection[str]) -> dict[str, str]:
    """Of the foreign keys of these tables, or to them, what finds a row that breaks one."""
    concerned = (key for key in keys if key.checked and not set(tables).isdisjoint((*key.children, *key.parents)))
    return {f"{key.name} of {key.children[0]}": _orphan(key) for key in concerned}


def _orphan(key: ForeignKey) -> str:
    child = [f"c.{quoted(name)}" for name in key.columns]
    parent = [f"p.{quoted(name)}" for name in key.parent_columns]
    pairs = zip(parent, key.operators, child, strict=True)
    match = " AND ".join(f"{left} {operator} {right}" for left, operator, right in pairs)
    none = f"NOT EXISTS (SELECT FROM {key.parent} AS p WHERE {match})"
    whole = " AND ".join(f"{name} IS NOT NULL" for name in child)
    condition = f"{whole} AND {none}"
    if key.full:
        some = " OR ".join(f"{name} IS NOT NULL" for name in child)
        condition = f"({some}) AND (NOT ({whole}) OR {none})"
    return f"SELECT 1 FROM {key.child} AS c WHERE {condition} LIMIT 1"


def raise_sequences(session: Session, tables: Iterable[Known]) -> list[str]:
    """Move sequences on where a row has a number that they have still to give; returns their names.

    That is never undone, even if the transaction is. The table is locked against writers in between, because a sequence
    that somebody else moved on meanwhile would be moved back.

    Raises:
        psycopg.Error: the database refused.
    """
    raised: dict[str, None] = {}
    for known in tables:
        for column, sequences in known.counters.items():
            if known.facets[column].cast not in _WHOLE:
                continue
            for sequence in sequences:
                if name := _raise(session, known, column, sequence):
                    raised[name] = None
    return list(raised)


def _raise(session: Session, known: Known, column: str, sequence: int) -> str | None:
    row = session.execute(_SEQUENCE.encode(), (sequence,)).fetchone()
    if row is None:
        return None
    schema, name, step, low, high = row
    number = f"{quoted(column)}::pg_catalog.int8"
    last = f"pg_catalog.max({number})" if step > 0 else f"pg_catalog.min({number})"
    beyond = "<=" if step > 0 else ">="
    # The next number is the last one and a step, unless none was given yet.
    query = f"""
        SELECT r.last FROM {quoted(schema, name)} s,
               (SELECT {last} AS last FROM {known.only} WHERE {number} BETWEEN {low} AND {high}) r
         WHERE CASE WHEN s.is_called THEN s.last_value::pg_catalog.numeric + ({step}) ELSE s.last_value END {beyond} r.last"""
    if session.execute(query.encode()).fetchone() is None:
        return None
    session.execute(f"LOCK TABLE {known.only} IN SHARE ROW EXCLUSIVE MODE".encode())
    row = session.execute(query.encode()).fetchone()
    if row is None:
        return None
    session.execute(b"SELECT pg_catalog.setval(%s::pg_catalog.oid::pg_catalog.regclass, %s)", (sequence, row[0]))
    return label(schema, name)
