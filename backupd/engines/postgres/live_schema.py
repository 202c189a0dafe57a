"""What a live database's tables are: those of manifests, by their names there, and all that writing a row must know of them.

Reads the catalogs only, never a row. Tables are the ones that a capture has rows of, so a partitioned table stands here by
its partitions (or by itself, where rows can only be loaded through it), and its foreign keys are those of each of them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backupd.engines.postgres import catalog
from backupd.engines.postgres.catalog import Relation, Session, Types
from backupd.engines.postgres.live_defaults import fallbacks
from backupd.engines.postgres.live_generated import expressions
from backupd.engines.postgres.live_types import Facets, read_facets
from backupd.engines.postgres.plan import loading_roots
from backupd.model import Cell, LiveColumn, LiveSchema, LiveTable, OnDelete, Reference

_COLUMNS = """
SELECT a.attrelid::bigint, a.attname, a.attidentity::text, a.atthasdef AND a.attgenerated = '' FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = ANY (%s::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped
"""
# Sequences that a column owns, and those that its default reads.
_SEQUENCES = """
SELECT d.refobjid::bigint, a.attname, s.oid::bigint FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
   AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
UNION
SELECT f.adrelid::bigint, a.attname, s.oid::bigint FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid JOIN pg_catalog.pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
  JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
 WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
"""
_UNIQUES = """
SELECT i.indrelid::bigint,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts ORDER BY k.place)
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = ANY (%s::pg_catalog.oid[]) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
   AND NOT EXISTS (SELECT 1 FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                    WHERE k.place <= i.indnkeyatts AND a.attgenerated <> '')
 ORDER BY i.indexrelid
"""
# Rules count as triggers. Those that a partition has of its table are internal before version 15.
_TRIGGERS = """
SELECT g.tgrelid::bigint, g.tgname, g.tgenabled::text FROM pg_catalog.pg_trigger g
  LEFT JOIN pg_catalog.pg_constraint k ON k.oid = g.tgconstraint
 WHERE g.tgenabled <> 'D' AND g.tgtype & 28 <> 0 AND g.tgrelid = ANY (%s::pg_catalog.oid[])
   AND (NOT g.tgisinternal OR (g.tgparentid <> 0 AND (k.oid IS NULL OR k.contype = 't')))
UNION ALL
SELECT w.ev_class::bigint, w.rulename, w.ev_enabled::text FROM pg_catalog.pg_rewrite w
 WHERE w.ev_enabled <> 'D' AND w.ev_type IN ('2', '3', '4') AND w.ev_class = ANY (%s::pg_catalog.oid[])
 ORDER BY 1, 2
"""
_FOREIGN_KEYS = """
SELECT k.conname, k.conrelid::bigint, {child}, k.confrelid::bigint, {parent}, k.confdeltype::text,
       k.confupdtype = 'c', k.condeferrable,
       k.confmatchtype = 'f', k.convalidated, {enforced},
       ARRAY(SELECT ARRAY[pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname), (o.oprleft <> o.oprright)::text]
               FROM unnest(k.conpfeqop) WITH ORDINALITY AS u(oid, place)
               JOIN pg_catalog.pg_operator o ON o.oid = u.oid JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
              ORDER BY u.place), {cleared}, {period}
  FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0 ORDER BY k.conrelid, k.conname
"""
_NAMES = """ARRAY(SELECT a.attname::text FROM unnest(k.{numbers}) WITH ORDINALITY AS u(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.{relation} AND a.attnum = u.number ORDER BY u.place)"""
_ON_DELETE: Mapping[str, OnDelete] = {
    "a": "restrict",
    "r": "restrict",
    "c": "cascade",
    "n": "set null",
    "d": "set default",
}
# What runs for an ordinary session, and what would run under session_replication_role = replica.
_ORDINARY, _REPLICA = "OA", "RA"


@dataclass(frozen=True, slots=True)
class Known:
    """A table, and what else SQL about it must know.

    Attributes:
        relation: where its rows are read and written.
        facets: of each column.
        unstoppable: triggers that run in a replica's session, too.
        counters: by column, the sequences that number it: its own and those of the tables that it is a partition of.
        expressions: of generated columns, as far as they may be evaluated, in SQL.
    """

    table: LiveTable
    relation: Relation
    facets: Mapping[str, Facets]
    unstoppable: tuple[str, ...]
    counters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    expressions: Mapping[str, str] = field(default_factory=dict)

    @property
    def only(self) -> str:
        """The table in SQL, without what inherits from it; of a partitioned table, with its partitions."""
        return _only(self.relation)

    def with_fallbacks(self, lost: Collection[str], values: Mapping[str, Cell]) -> "Known":
        """The same, with what ON DELETE SET DEFAULT writes into the columns that it is about."""
        columns = tuple(
            replace(c, fallback=values.get(c.name), varying=c.default and c.name not in values) if c.name in lost else c
            for c in self.table.columns
        )
        return replace(self, table=replace(self.table, columns=columns))


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key as the catalogs have it.

    Attributes:
        child, parent: in SQL.
        children, parents: the tables of manifests that are on either side.
        operators: of each pair of columns, what compares the parent's with the child's, in SQL.
        crossed: and whether that compares two types, and not two values of the parent's.
        full: MATCH FULL.
        checked: whether every row was checked when it was made.
    """

    name: str
    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    operators: tuple[str, ...]
    crossed: tuple[bool, ...]
    full: bool
    checked: bool
    children: tuple[str, ...]
    parents: tuple[str, ...]

    def is_of(self, reference: Reference) -> bool:
        """Whether a reference is this foreign key, or the part of it that two of its tables have."""
        ours = reference.declared and reference.name == self.name
        columns = (reference.columns, reference.parent_columns) == (self.columns, self.parent_columns)
        return ours and columns and reference.table in self.children and reference.parent in self.parents


@dataclass(frozen=True, slots=True)
class Shape:
    """A live database as it is now. `encoding` is the server's."""

    schema: LiveSchema
    known: Mapping[str, Known]
    foreign_keys: tuple[ForeignKey, ...]
    encoding: str


def read_shape(session: Session) -> Shape:
    """Read the catalogs.

    Raises:
        psycopg.Error: they could not be read.
    """
    found = catalog.relations(session)
    types = Types(session, {column.type_oid for relation in found for column in relation.columns})
    roots = loading_roots(found, catalog.partitionings(session), types)
    targets: dict[int, Relation] = {}
    through_root = set()
    for relation in found:
        if relation.kind == "r":
            target = roots.get(relation.oid, relation)
            targets[target.oid] = target
            if target is not relation:
                through_root.add(target.oid)
    details = _Details(session, list(targets), found, types)
    known = {target.label: details.known(target, keyless=target.oid in through_root) for target in targets.values()}
    names = _manifest_names(found, targets, roots)
    keys, references = _foreign_keys(session, {relation.oid: relation for relation in found}, names)
    row = session.execute(b"SELECT pg_catalog.current_setting('server_encoding')").fetchone()
    assert row is not None
    encoding = str(row[0])
    defaulted = {known[name].relation.oid: columns for name, columns in _defaulted(references).items() if name in known}
    values = fallbacks(session, defaulted, encoding) if defaulted else {}
    for name, one in known.items():
        if one.relation.oid in values:
            known[name] = one.with_fallbacks(defaulted[one.relation.oid], values[one.relation.oid])
    schema = LiveSchema({name: one.table for name, one in known.items()}, references, encoding)
    return Shape(schema, known, keys, encoding)


def _defaulted(references: Iterable[Reference]) -> dict[str, set[str]]:
    """The columns that ON DELETE SET DEFAULT is about, by table."""
    found: dict[str, set[str]] = defaultdict(set)
    for one in references:
        if one.on_delete == "set default":
            found[one.table].update(one.losing)
    return found


class _Details:
    """What the catalogs say of each table, by oid."""

    def __init__(self, session: Session, oids: list[int], found: Sequence[Relation], types: Types) -> None:
        def grouped(query: str, times: int = 1) -> dict[int, list[Any]]:
            rows: dict[int, list[Any]] = defaultdict(list)
            for oid, *rest in session.execute(query.encode(), (oids,) * times).fetchall():
                rows[oid].append(rest)
            return rows

        by_oid = {relation.oid: relation for relation in found}
        self._parents = {oid: by_oid.get(relation.parent or 0) for oid, relation in by_oid.items()}
        self._columns = grouped(_COLUMNS)
        self._uniques = grouped(_UNIQUES)
        self._triggers = grouped(_TRIGGERS, 2)
        self._sequences = grouped(_SEQUENCES, 0)
        self._keys = catalog.keys(session, oids)
        self._expressions = expressions(session, oids)
        self._facets = read_facets(session, [by_oid[oid] for oid in oids], types)

    def known(self, relation: Relation, *, keyless: bool) -> Known:
        """All of one table."""
        key = () if keyless else self._keys.get(relation.oid, ())
        counters = self._counters(relation)
        said = {name: (identity, default) for name, identity, default in self._columns.get(relation.oid, ())}
        made = self._expressions.get(relation.oid, {})
        columns = []
        for column in relation.columns:
            identity, default = said.get(column.name, ("", False))
            columns.append(
                LiveColumn(
                    column.name,
                    column.type,
                    required=column.not_null,
                    default=bool(default or identity),
                    generated=column.generated,
                    identity=identity == "a",
                    counter=bool(identity) or column.name in counters,
                    made_of=made[column.name][1] if column.name in made else None,
                    equality=self._facets[relation.oid][column.name].equality,
                )
            )
        uniques = dict.fromkeys(tuple(names) for (names,) in self._uniques.get(relation.oid, ()))
        triggers = self._triggers.get(relation.oid, ())
        table = LiveTable(
            relation.label,
            tuple(columns),
            key,
            tuple(names for names in uniques if names != key),
            tuple(name for name, enabled in triggers if enabled in _ORDINARY),
        )
        unstoppable = tuple(name for name, enabled in triggers if enabled in _REPLICA)
        texts = {name: text for name, (text, _) in made.items()}
        return Known(table, relation, self._facets[relation.oid], unstoppable, counters, texts)

    def _counters(self, relation: Relation) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        above: Relation | None = relation
        while above is not None:
            for name, sequence in self._sequences.get(above.oid, ()):
                found[name] = tuple(dict.fromkeys((*found.get(name, ()), sequence)))
            above = self._parents.get(above.oid)
        return found


def _manifest_names(
    found: Sequence[Relation], targets: Mapping[int, Relation], roots: Mapping[int, Relation]
) -> dict[int, tuple[str, ...]]:
    """Of every table, the names under which manifests have its rows: a partitioned table's are those of its partitions."""
    names: dict[int, dict[str, None]] = defaultdict(dict)
    by_oid = {relation.oid: relation for relation in found}
    for relation in found:
        if relation.kind != "r":
            continue
        label = roots.get(relation.oid, relation).label
        above: Relation | None = relation
        while above is not None:
            names[above.oid][label] = None
            above = by_oid.get(above.parent) if above.parent is not None else None
    # An empty partitioned table has rows nowhere.
    return {oid: tuple(labels) for oid, labels in names.items()} | {oid: (r.label,) for oid, r in targets.items()}


def _foreign_key_rows(session: Session) -> list[tuple[Any, ...]]:
    version = session.info.server_version
    query = _FOREIGN_KEYS.format(
        child=_NAMES.format(numbers="conkey", relation="conrelid"),
        parent=_NAMES.format(numbers="confkey", relation="confrelid"),
        enforced="k.conenforced" if version >= 180000 else "true",
        cleared=_NAMES.format(numbers="confdelsetcols", relation="conrelid")
        if version >= 150000
        else "ARRAY[]::text[]",
        period="k.conperiod" if session.info.server_version >= 180000 else "false",
    )
    return session.execute(query.encode()).fetchall()


def _foreign_keys(
    session: Session, by_oid: Mapping[int, Relation], names: Mapping[int, Sequence[str]]
) -> tuple[tuple[ForeignKey, ...], tuple[Reference, ...]]:
    keys: list[ForeignKey] = []
    references: list[Reference] = []
    for row in _foreign_key_rows(session):
        (
            name,
            child,
            columns,
            parent,
            parent_columns,
            on_delete,
            moving,
            deferrable,
            full,
            valid,
            enforced,
            compared,
            cleared,
            has_period,
        ) = row
        if child not in by_oid or parent not in by_oid:
            continue
        children, parents = tuple(names.get(child, ())), tuple(names.get(parent, ()))
        key = ForeignKey(
            name,
            _only(by_oid[child]),
            tuple(columns),
            _only(by_oid[parent]),
            tuple(parent_columns),
            tuple(operator for operator, _ in compared),
            tuple(crossed == "true" for _, crossed in compared),
            full,
            valid,
            children,
            parents,
        )
        if enforced:
            keys.append(key)
        compared = len(columns) - has_period  # a PERIOD lies within those of parents, and equals none: it comes last
        one = Reference(
            name,
            "",
            tuple(columns[:compared]),
            "",
            tuple(parent_columns[:compared]),
            _ON_DELETE[on_delete],
            deferrable,
            declared=enforced,
            cleared=tuple(cleared),
            moving=moving,
        )
        # one for each pair of tables: those of one name and one referring table say that the parent is in one of theirs
        references += [replace(one, table=table, parent=to) for table in children for to in parents]
    return tuple(keys), tuple(references)


def _only(relation: Relation) -> str:
    return relation.quoted if relation.kind == "p" else f"ONLY {relation.quoted}"
