"""What a database holds: its tables, their columns and keys, sizes and statistics, read from the catalogs.

The list is read twice, before the locks and under the snapshot; `Relation.identity` decides whether both are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from backupd.engines.postgres.names import label, quoted

Session = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is not dropped. `type` is written as PostgreSQL writes it, with its modifier."""

    name: str
    type: str
    type_oid: int
    number: int
    generated: bool
    not_null: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, a partitioned table, a foreign table, a materialized view or a sequence.

    Attributes:
        kind: of pg_class.relkind: r, p, f, m or S.
        persistence: p, or u for unlogged.
        file: relfilenode.
        readable: whether this role has the privilege SELECT.
        filtered: whether row-level security would hide rows from this role.
        parent: of a partition, the table that it is attached to.
        condition: of an extension's configuration table, which of its rows are the user's, e.g. `WHERE a > 1`; may be empty.
        extension: the extension that it belongs to.
    """

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    file: int
    readable: bool
    filtered: bool
    parent: int | None
    owner: str
    method: str
    extension: str | None
    condition: str | None
    columns: tuple[Column, ...] = ()

    @property
    def label(self) -> str:
        """Its name in the manifest."""
        return label(self.schema, self.name)

    @property
    def quoted(self) -> str:
        """Its name in SQL."""
        return quoted(self.schema, self.name)

    @property
    def identity(self) -> tuple[object, ...]:
        """What must not change between the list and the snapshot."""
        return (self.oid, self.schema, self.name, self.kind, self.file, self.parent, self.columns)


@dataclass(frozen=True, slots=True)
class Measure:
    """A table's size and what the planner knows of it.

    Attributes:
        bytes: of the heap and what belongs to it, without indexes.
        blocks: of the heap.
        key: columns of its primary key, else of another unique key that is never NULL.
        correlation: of the key's first column with the order of the heap; None if not analyzed.
        bounds: values of that column that part the table into equal shares, as text.
    """

    bytes: int
    blocks: int
    key: tuple[str, ...] = ()
    correlation: float | None = None
    bounds: tuple[str, ...] = field(default=(), repr=False)


_RELATIONS = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relfilenode::bigint,
       CASE WHEN c.relkind = 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
            ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END
         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       c.relrowsecurity AND pg_catalog.row_security_active(c.oid),
       CASE WHEN c.relispartition THEN
         (SELECT i.inhparent::bigint FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1) END,
       pg_catalog.pg_get_userbyid(c.relowner), coalesce(a.amname, ''), e.extname, f.condition
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
        AND d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
  LEFT JOIN LATERAL (SELECT e.extcondition[u.place] AS condition
                       FROM unnest(e.extconfig) WITH ORDINALITY AS u(oid, place) WHERE u.oid = c.oid) f ON true
 WHERE c.relkind IN ('r', 'p', 'f', 'm', 'S') AND c.relpersistence <> 't'
   AND (n.nspname !~ '^pg_' OR f.condition IS NOT NULL)
   AND n.nspname <> 'information_schema' AND (e.oid IS NULL OR f.condition IS NOT NULL)
 ORDER BY c.oid
"""
_COLUMNS = """
SELECT a.attrelid::bigint, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid::bigint, a.attnum,
       a.attgenerated <> '', a.attnotnull
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = ANY (%s::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum
"""
_SIZES = """
SELECT t.oid::bigint, coalesce(pg_catalog.pg_table_size(t.oid::pg_catalog.regclass), 0),
       coalesce(pg_catalog.pg_relation_size(t.oid::pg_catalog.regclass), 0)
         / pg_catalog.current_setting('block_size')::bigint
  FROM unnest(%s::pg_catalog.oid[]) AS t(oid)
"""
_KEYS = """
SELECT DISTINCT ON (i.indrelid) i.indrelid::bigint,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts ORDER BY k.place)
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = ANY (%s::pg_catalog.oid[]) AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL
   AND NOT EXISTS (SELECT 1 FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                    WHERE k.place <= i.indnkeyatts AND (NOT a.attnotnull OR a.attgenerated <> '')){validated}
 ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid
"""
# Since version 18 a column may be NOT NULL while rows of before are not.
_VALIDATED = """
   AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k
                    WHERE k.conrelid = i.indrelid AND k.contype = 'n' AND NOT k.convalidated
                      AND k.conkey[1] = ANY (i.indkey::int2[]))"""
_STATISTICS = """
SELECT s.attname, s.correlation, s.histogram_bounds::text::text[]
  FROM pg_catalog.pg_stats s
 WHERE s.schemaname = %s AND s.tablename = %s AND s.attname = %s AND NOT s.inherited
"""


def relations(session: Session) -> list[Relation]:
    """All tables, sequences and materialized views that a dump must know of."""
    rows = session.execute(_RELATIONS.encode()).fetchall()
    columns: dict[int, list[Column]] = {}
    for relation, *column in session.execute(_COLUMNS.encode(), ([row[0] for row in rows if row[3] != "S"],)):
        columns.setdefault(relation, []).append(Column(*column))
    return [Relation(*(*row, tuple(columns.get(row[0], ())))) for row in rows]


def keys(session: Session, oids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Of each table that has one, the columns of a key that is never NULL."""
    query = _KEYS.format(validated=_VALIDATED if session.info.server_version >= 180000 else "")
    return {oid: tuple(names) for oid, names in session.execute(query.encode(), (list(oids),)).fetchall()}


def measures(session: Session, tables: Sequence[Relation]) -> dict[int, Measure]:
    """Sizes, keys and, of tables for which it matters (over a few pages), statistics; by oid."""
    oids = [table.oid for table in tables]
    found_keys = keys(session, oids)
    found = {}
    by_oid = {table.oid: table for table in tables}
    for oid, size, blocks in session.execute(_SIZES.encode(), (oids,)).fetchall():
        table, key = by_oid[oid], found_keys.get(oid, ())
        correlation, bounds = None, None
        if key and blocks > 1024:
            row = session.execute(_STATISTICS.encode(), (table.schema, table.name, key[0])).fetchone()
            if row is not None:
                _, correlation, bounds = row
        found[oid] = Measure(size, blocks, key, correlation, tuple(bounds or ()))
    return found


_TYPES = """
SELECT t.oid::bigint, t.typtype::text, n.nspname, t.typname, t.typbasetype::bigint, t.typelem::bigint,
       t.typcategory::text, t.typcollation <> 0,
       ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder),
       ARRAY(SELECT a.atttypid::bigint FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       (SELECT r.rngsubtype::bigint FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid)
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE t.oid = ANY (%s::pg_catalog.oid[])
"""

# Arrays by their category, but without an array's operators.
_VECTORS = frozenset({"pg_catalog.int2vector", "pg_catalog.oidvector"})


@dataclass(frozen=True, slots=True)
class Type:
    """A type: what decides how its values are written as text."""

    kind: str
    name: str
    collatable: bool
    labels: tuple[str, ...]
    parts: tuple[int, ...]


class Types:
    """The types that a database's columns have, and those that they are made of."""

    def __init__(self, session: Session, oids: set[int]) -> None:
        self._types: dict[int, Type] = {}
        wanted = set(oids)
        while wanted:
            for row in session.execute(_TYPES.encode(), (sorted(wanted),)).fetchall():
                self._take(*row)
            known = self._types.keys()
            wanted = {part for found in self._types.values() for part in found.parts if part not in known} - wanted

    def _take(self, oid: int, kind: str, schema: str, name: str, *rest: Any) -> None:
        base, element, category, collatable, labels, attributes, subtype = rest
        parts = [part for part in (base, element if category == "A" else 0, subtype or 0) if part]
        self._types[oid] = Type(kind, f"{schema}.{name}", collatable, tuple(labels), (*parts, *attributes))

    def is_plain(self, oid: int, names: frozenset[str]) -> bool:
        """Whether it is one of PostgreSQL's own types of these names."""
        return oid in self._types and self._types[oid].name in {f"pg_catalog.{name}" for name in names}

    def base(self, oid: int) -> int:
        """What a domain is made of, in the end; any other type itself."""
        found = self._types.get(oid)
        return self.base(found.parts[0]) if found is not None and found.kind == "d" and found.parts else oid

    def is_made_of(self, oid: int, names: frozenset[str]) -> bool:
        """Whether it is one of PostgreSQL's own types of these names, an enum, or an array, a range or a domain of such."""
        found = self._types.get(oid)
        if found is None or found.name in _VECTORS:
            return False
        if found.kind == "e" or self.is_plain(oid, names):
            return True
        return found.kind in "bdrm" and bool(found.parts) and all(self.is_made_of(part, names) for part in found.parts)

    def name(self, oid: int) -> str:
        """A type's name, qualified and not quoted, as `is_plain` knows it."""
        return self._types[oid].name

    def is_collatable(self, oid: int) -> bool:
        """Whether its order depends on a collation."""
        return oid in self._types and self._types[oid].collatable

    def description(self, oid: int, seen: frozenset[int] = frozenset()) -> str:
        """Everything of a type that shows in its values' text, down to the labels of enums."""
        found = self._types.get(oid)
        if found is None or oid in seen or (found.name.startswith("pg_catalog.") and not found.parts):
            return found.name if found is not None else str(oid)
        inner = ",".join(self.description(part, seen | {oid}) for part in found.parts)
        return f"{found.kind}:{found.name}({inner})[{','.join(map(repr, found.labels))}]"


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How a partitioned table is split: h, l or r, and the types of its key's columns (0 for an expression)."""

    strategy: str
    types: tuple[int, ...]


def partitionings(session: Session) -> Mapping[int, Partitioning]:
    """Of all partitioned tables, by oid."""
    rows = session.execute(
        b"""SELECT p.partrelid::bigint, p.partstrat::text,
                   ARRAY(SELECT coalesce(a.atttypid, 0)::bigint
                           FROM unnest(p.partattrs::int2[]) WITH ORDINALITY AS k(number, place)
                           LEFT JOIN pg_catalog.pg_attribute a
                                  ON a.attrelid = p.partrelid AND a.attnum = k.number AND k.number > 0 ORDER BY k.place)
              FROM pg_catalog.pg_partitioned_table p"""
    ).fetchall()
    return {oid: Partitioning(strategy, tuple(types)) for oid, strategy, types in rows}
