"""How values of a column are compared: as what they are, or as the text that the row format has for them.

The database's equality may take different texts for one value (`1.0` and `1.00`), and some types have none, or one that says
something else (boxes of one area). So what must stand in a row is compared by its type only where that is as good as the
text, and independent of a session's settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backupd.engines.postgres.catalog import Relation, Session, Types
from backupd.engines.postgres.names import quoted
from backupd.model import CELLS, Equality

# Of PostgreSQL's own types, those of which equal values are the same value.
_SAME = frozenset({"bool", "int2", "int4", "int8", "oid", "text", "varchar", "bpchar", "name"}) | {
    *(
        "bytea",
        "uuid",
        "date",
        "time",
        "timetz",
        "timestamp",
        "timestamptz",
        "bit",
        "varbit",
        "inet",
        "cidr",
    ),
    *("macaddr", "macaddr8", "money", "pg_lsn", "char", "xid8"),
}
# And those whose equality will do for finding rows.
_FOUND = _SAME | {"float4", "float8", "interval", "numeric", "jsonb"}
EQUAL = "OPERATOR(pg_catalog.=)"

_TYPE_NAMES = """
SELECT t.oid::bigint, pg_catalog.format_type(t.oid, -1) FROM pg_catalog.pg_type t WHERE t.oid = ANY (%s::pg_catalog.oid[])
"""
_OPERATORS = """
SELECT c.opcintype::bigint, n.nspname, o.oprname
  FROM pg_catalog.pg_opclass c JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
  JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amoplefttype = c.opcintype
        AND p.amoprighttype = c.opcintype AND p.amopstrategy = 3
  JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
 WHERE c.opcdefault AND c.opcintype = ANY (%s::pg_catalog.oid[])
"""
_LOOSE = """
SELECT a.attrelid::bigint, a.attname, n.nspname, c.collname FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation AND NOT c.collisdeterministic
  JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
 WHERE a.attrelid = ANY (%s::pg_catalog.oid[]) AND a.attnum > 0
"""


# What citext compares by: not everywhere is I another i.
_PLAIN_LOWER = "SELECT pg_catalog.lower('ABCDEFGHIJKLMNOPQRSTUVWXYZ') = 'abcdefghijklmnopqrstuvwxyz'"
_NUMBERS = frozenset({"numeric", "float4", "float8"})


@dataclass(frozen=True, slots=True)
class Facets:
    """What comparing a column needs.

    Attributes:
        kind: its type without a domain, qualified and not quoted.
        cast: the same without a modifier, in SQL: a cast to that takes nothing from a value.
        same: whether equal values are the same value.
        equal: the operator that rows are found by, in SQL; None if the type has none.
        collation: in SQL, if it takes different texts for equal.
        equality: which of its values are one.
    """

    kind: str
    cast: str
    same: bool
    equal: str | None
    collation: str
    equality: Equality

    @property
    def loose(self) -> bool:
        """Whether its collation takes different texts for equal."""
        return bool(self.collation)


def read_facets(session: Session, relations: Sequence[Relation], types: Types) -> dict[int, Mapping[str, Facets]]:
    """Of each table, by oid and column.

    Raises:
        psycopg.Error: the catalogs could not be read.
    """
    oids = [relation.oid for relation in relations]
    bases = {column.type_oid: types.base(column.type_oid) for relation in relations for column in relation.columns}
    wanted = sorted(set(bases.values()))
    names = dict(session.execute(_TYPE_NAMES.encode(), (wanted,)).fetchall())
    operators = {
        oid: f"OPERATOR({quoted(schema)}.{operator})"
        for oid, schema, operator in session.execute(_OPERATORS.encode(), (wanted,)).fetchall()
    }
    loose = {
        (oid, name): quoted(schema, collation)
        for oid, name, schema, collation in session.execute(_LOOSE.encode(), (oids,)).fetchall()
    }
    plain = session.execute(_PLAIN_LOWER.encode()).fetchone() == (True,)
    found: dict[int, Mapping[str, Facets]] = {}
    for relation in relations:
        columns = {}
        for column in relation.columns:
            base = bases[column.type_oid]
            equal = EQUAL if types.is_made_of(base, _FOUND) else operators.get(base)
            same, collation = types.is_made_of(base, _SAME), loose.get((relation.oid, column.name), "")
            kind = types.name(base)
            equality = _equality(kind, collation, same=same, plain=plain)
            columns[column.name] = Facets(kind, names[base], same, equal, collation, equality)
        found[relation.oid] = columns
    return found


def _equality(kind: str, collation: str, *, same: bool, plain: bool) -> Equality:
    schema, _, name = kind.rpartition(".")
    if collation:
        return Equality("asked", rule=collation)
    if name == "citext" and plain:
        return Equality("letters", rule=kind)
    if schema == "pg_catalog" and name in _NUMBERS:
        return Equality("numbers")
    if schema == "pg_catalog" and name == "bpchar":
        return Equality("padded")
    return CELLS if same else Equality("asked", rule=kind)
