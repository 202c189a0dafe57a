"""Generated columns: of what they are made, and which of their expressions may be evaluated for values that no row has.

Only those of PostgreSQL's own functions may: others may be anybody's code.
"""

from collections.abc import Sequence

from backupd.engines.postgres.catalog import Session

# The dependencies of an expression are its own, or its column's; the latter's type may be an enum. What is built in has none.
_OF = """(p.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND p.objid = d.oid
        OR p.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND p.objid = d.adrelid AND p.objsubid = d.adnum)"""
_EXPRESSIONS = f"""
SELECT d.adrelid::bigint, a.attname, pg_catalog.pg_get_expr(d.adbin, d.adrelid),
       ARRAY(SELECT DISTINCT s.attname::text FROM pg_catalog.pg_depend p
               JOIN pg_catalog.pg_attribute s ON s.attrelid = p.refobjid AND s.attnum = p.refobjsubid
              WHERE {_OF} AND p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND p.refobjid = d.adrelid
                AND p.refobjsubid > 0 AND p.refobjsubid <> d.adnum ORDER BY 1)
  FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
 WHERE d.adrelid = ANY (%s::pg_catalog.oid[]) AND a.attgenerated <> ''
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute o JOIN pg_catalog.pg_type t ON t.oid = o.atttypid
                    WHERE o.attrelid = d.adrelid AND o.attnum > 0 AND NOT o.attisdropped AND t.typtype = 'd')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend p WHERE {_OF}
                      AND NOT (p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND p.refobjid = d.adrelid
                               OR p.refclassid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                               OR p.refclassid = 'pg_catalog.pg_collation'::pg_catalog.regclass
                               OR p.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
                                  AND (SELECT t.typtype FROM pg_catalog.pg_type t WHERE t.oid = p.refobjid) = 'e'))
"""


def expressions(session: Session, oids: Sequence[int]) -> dict[int, dict[str, tuple[str, tuple[str, ...]]]]:
    """By table and column, the expressions that may be evaluated, and the columns that they are made of.

    Raises:
        psycopg.Error: the catalogs could not be read.
    """
    found: dict[int, dict[str, tuple[str, tuple[str, ...]]]] = {}
    for oid, name, text, sources in session.execute(_EXPRESSIONS.encode(), (list(oids),)).fetchall():
        found.setdefault(oid, {})[name] = text, tuple(sources)
    return found
