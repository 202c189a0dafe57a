"""What the manifest keeps of a PostgreSQL database besides its rows: all that a restore needs to know, as JSON values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backupd.engines.postgres.catalog import Relation, Session
from backupd.engines.postgres.client import Server
from backupd.engines.postgres.plan import TablePlan
from backupd.engines.postgres.tools import Tools

_SEQUENCES_AT_ONCE = 200
_DATABASE = """
SELECT pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, pg_catalog.pg_get_userbyid(d.datdba),
       d.datconnlimit, pg_catalog.shobj_description(d.oid, 'pg_database'), {provider}, {locale}, {rules}, {version}
  FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
_GRANTS = """
SELECT pg_catalog.pg_get_userbyid(a.grantor), CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
       a.privilege_type, a.is_grantable
  FROM pg_catalog.pg_database d, LATERAL pg_catalog.aclexplode(d.datacl) a
 WHERE d.datname = pg_catalog.current_database()
"""
_SETTINGS = """
SELECT CASE WHEN s.setrole = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(s.setrole) END, s.setconfig
  FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
 WHERE d.datname = pg_catalog.current_database() ORDER BY 1 NULLS FIRST
"""
_EXTENSIONS = """
SELECT e.extname, e.extversion, n.nspname FROM pg_catalog.pg_extension e
  JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY 1
"""
_ROLES = """
SELECT DISTINCT r.rolname FROM pg_catalog.pg_roles r WHERE r.oid IN (
  SELECT s.refobjid FROM pg_catalog.pg_shdepend s
   WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.dbid IN
     (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
     AND (s.dbid <> 0 OR (s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND s.objid =
       (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())))
  UNION SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
  UNION SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid >= 16384)
  ORDER BY 1
"""
_TABLESPACES = """
SELECT DISTINCT t.spcname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_tablespace t ON t.oid = c.reltablespace
 WHERE t.spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1
"""
_COLLATIONS = """
SELECT n.nspname || '.' || c.collname, c.collversion FROM pg_catalog.pg_collation c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
 WHERE c.oid >= 16384 AND c.collversion IS NOT NULL ORDER BY 1
"""
_STANDING = """
SELECT pg_catalog.pg_is_in_recovery(),
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_lsn() END::text, pg_catalog.pg_current_snapshot()::text
"""


def read_database(session: Session, server: Server) -> dict[str, object]:
    """The database's own properties: encoding, locale, owner, grants, settings, comment."""
    columns = {
        "provider": "d.datlocprovider::text" if server.major >= 15 else "'c'",
        "locale": "d.datlocale" if server.major >= 17 else "d.daticulocale" if server.major >= 15 else "NULL",
        "rules": "d.daticurules" if server.major >= 16 else "NULL",
        "version": "d.datcollversion" if server.major >= 15 else "NULL",
    }
    row = session.execute(_DATABASE.format(**columns).encode()).fetchone()
    assert row is not None
    names = ("encoding", "collate", "ctype", "owner", "connection_limit", "comment", "provider", "locale", "icu_rules")
    found = dict(zip((*names, "collation_version"), row, strict=True))
    has_grants = session.execute(
        b"SELECT datacl IS NOT NULL FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
    ).fetchone()
    found["grants"] = None
    if has_grants is not None and has_grants[0]:
        found["grants"] = [list(grant) for grant in session.execute(_GRANTS.encode()).fetchall()]
    found["settings"] = [[role, list(values)] for role, values in session.execute(_SETTINGS.encode()).fetchall()]
    return found


def read_facts(session: Session, server: Server, tools: Tools, database: str) -> dict[str, object]:
    """What is known when the snapshot begins."""
    standing = session.execute(_STANDING.encode()).fetchone()
    assert standing is not None

    def first(query: str) -> list[Any]:
        return [row[0] for row in session.execute(query.encode()).fetchall()]

    return {
        "engine_version": ".".join(map(str, divmod(server.version, 10000))),
        "server_version_num": server.version,
        "pg_dump": tools.version,
        "database_name": database,
        "database": read_database(session, server),
        "extensions": [list(row) for row in session.execute(_EXTENSIONS.encode()).fetchall()],
        "roles": first(_ROLES),
        "tablespaces": first(_TABLESPACES),
        "collations": dict(session.execute(_COLLATIONS.encode()).fetchall()),
        "standby": standing[0],
        "lsn": standing[1],
        "snapshot": standing[2],
    }


def table_facts(plans: Iterable[TablePlan]) -> dict[str, object]:
    """What a restore must know of each table."""
    return {
        plan.info.name: {
            "schema": plan.target.schema,
            "table": plan.target.name,
            "columns": [name for name, _ in plan.info.columns],
            "through_root": plan.through_root,
            "owner": plan.target.owner,
            "extension": plan.target.extension,
            "bytes": plan.bytes,
        }
        for plan in plans
    }


def read_sequences(session: Session, sequences: Sequence[Relation]) -> list[list[object]]:
    """Each sequence as [schema, name, last value, is called], as it stands now: sequences belong to no snapshot."""
    found: list[list[object]] = []
    for start in range(0, len(sequences), _SEQUENCES_AT_ONCE):
        some = sequences[start : start + _SEQUENCES_AT_ONCE]
        parts = [f"SELECT {place}, last_value, is_called FROM {sequence.quoted}" for place, sequence in enumerate(some)]
        for place, value, called in session.execute(" UNION ALL ".join(parts).encode()).fetchall():
            found.append([some[place].schema, some[place].name, value, called])
    return sorted(found, key=lambda sequence: (str(sequence[0]), str(sequence[1])))


def as_mapping(value: object) -> Mapping[str, Any]:
    """A part of the facts that must be an object."""
    return value if isinstance(value, Mapping) else {}
