"""What would keep a capture from being whole, found before anything is read; and what should be known beforehand."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import psycopg

from backupd.engines.base import Finding, ServerPlace
from backupd.engines.postgres.catalog import Relation, Session, relations
from backupd.engines.postgres.client import Server, open_connection, patience
from backupd.engines.postgres.condition import HINT, is_sound, problem
from backupd.engines.postgres.problems import source_error
from backupd.engines.postgres.tools import Tools, find_tools, installed
from backupd.errors import Failed, SourceIncomplete

# Extensions that keep rows where pg_dump does not find them, or need a procedure of their own around a restore.
_OWN_PROCEDURE = frozenset({"timescaledb", "citus", "pg_pathman"})
_KINDS = {"r": "table", "p": "table", "S": "sequence", "m": "materialized view", "f": "foreign table"}
_UNREADABLE_OBJECTS = """
SELECT count(*), min(m.oid)::bigint FROM pg_catalog.pg_largeobject_metadata m
 WHERE NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
   AND NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE')
   AND pg_catalog.current_setting('lo_compat_privileges') <> 'on'
   AND NOT EXISTS (SELECT 1 FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
                      AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))
"""


def is_excluded(name: str, patterns: Sequence[str]) -> bool:
    """Whether a table's rows are left out; `*` in a pattern stands for anything."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def judge(session: Session, found: Sequence[Relation], exclude: Sequence[str], *, native: bool) -> Iterator[Finding]:
    """What this role may not read, and what a capture of its own kind cannot do."""
    for relation in found:
        yield from _judge_relation(relation, exclude)
        if not native and relation.kind == "r" and not is_excluded(relation.label, exclude):
            yield from _judge_condition(relation)
    for (name,) in session.execute(b"SELECT extname FROM pg_catalog.pg_extension").fetchall():
        if name in _OWN_PROCEDURE and not native:
            hint = "use capture: native, and follow the extension's own procedure when restoring"
            yield Finding("error", name, f"the extension {name} has a dump procedure of its own", hint)
    row = session.execute(_UNREADABLE_OBJECTS.encode()).fetchone()
    if row is not None and row[0]:
        hint = "grant SELECT on the large objects, or use a superuser"
        yield Finding("error", f"large object {row[1]}", f"{row[0]} large objects may not be read by this role", hint)
    for (name,) in session.execute(
        b"SELECT subname FROM pg_catalog.pg_stat_subscription WHERE subid IS NOT NULL"
    ).fetchall():
        yield Finding("note", name, f"the subscription {name} is restored only if it is allowed by name")


def _judge_relation(relation: Relation, exclude: Sequence[str]) -> Iterator[Finding]:
    name, kind = relation.label, _KINDS[relation.kind]
    if relation.kind == "f":
        yield Finding(
            "warning", name, f"the foreign table {name} is restored without rows", "back up the server that has them"
        )
        return
    if relation.kind == "m" or (relation.kind in "rp" and is_excluded(name, exclude)):
        return
    if not relation.readable:
        grant = f"GRANT USAGE ON SCHEMA {relation.schema}, GRANT SELECT ON {name}; or GRANT pg_read_all_data"
        yield Finding("error", name, f"the role may not read the {kind} {name}: SELECT is missing", grant)
    elif relation.filtered:
        hint = "use a role with BYPASSRLS, or the owner where row security is not forced"
        yield Finding("error", name, f"row-level security would hide rows of {name} from this role", hint)
    elif relation.persistence == "u" and relation.kind == "r":
        detail = f"{name} is unlogged: a crash or a failover of the source empties it"
        yield Finding("warning", name, detail, "ALTER TABLE ... SET LOGGED if its rows matter")


def _judge_condition(relation: Relation) -> Iterator[Finding]:
    if relation.condition is not None and not is_sound(relation.condition):
        yield Finding("error", relation.label, problem(relation.label), HINT)


def refuse(findings: Sequence[Finding], place: str) -> None:
    """Give up if something cannot be captured, naming all of it.

    Raises:
        SourceIncomplete: there is an error among the findings.
    """
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return
    more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
    raise SourceIncomplete(
        f"{place} cannot be captured whole: " + "; ".join(finding.detail for finding in errors[:5]) + more,
        object_name=errors[0].object,
        hint=errors[0].hint,
    )


def examine(place: ServerPlace, *, timeout: float, bin_folders: Sequence[str]) -> list[Finding]:
    """Everything that `doctor --source URL` says of a PostgreSQL database.

    Raises:
        Unreachable: no connection.
    """
    connection, server = open_connection(place, timeout=timeout)
    try:
        with patience(connection, max(timeout, 60.0)):
            findings = list(judge(connection, relations(connection), (), native=False))
            findings += _judge_server(connection, server)
    except psycopg.Error as error:
        raise source_error(error.sqlstate, f"{place} could not be examined", str(place)) from error
    finally:
        connection.close()
    return [*_judge_tools(server, bin_folders), *findings]


def _judge_tools(server: Server, bin_folders: Sequence[str]) -> Iterator[Finding]:
    try:
        tools = find_tools(bin_folders, at_least=server.major, nearest=server.major)
    except Failed as error:
        yield Finding("error", "pg_dump", error.message, error.hint)
        return
    yield Finding(
        "note", "pg_dump", f"PostgreSQL's programs of version {tools.version} are used for version {server.major}"
    )
    yield from warn_of_tools(tools)
    older = [other.version for other in installed(bin_folders) if other.major < server.major]
    if older:
        yield Finding(
            "note", "pg_dump", f"programs of older versions are here too and are not used: {', '.join(older)}"
        )


def warn_of_tools(tools: Tools) -> Iterator[Finding]:
    """Known faults of the programs that will be used."""
    if tools.vulnerable:
        detail = f"pg_dump {tools.version} has known vulnerabilities (CVE-2025-8714, CVE-2025-8715)"
        yield Finding("warning", "pg_dump", detail, "install the newest minor release of PostgreSQL's client programs")


def _judge_server(session: Session, server: Server) -> Iterator[Finding]:
    row = session.execute(
        b"""SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('hot_standby_feedback'),
                   pg_catalog.current_setting('max_standby_streaming_delay'),
                   coalesce((SELECT checksum_failures FROM pg_catalog.pg_stat_database
                              WHERE datname = pg_catalog.current_database()), 0),
                   pg_catalog.current_setting('data_checksums'),
                   (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)"""
    ).fetchone()
    assert row is not None
    standby, feedback, delay, failures, checksums, superuser = row
    yield Finding("note", "server", f"PostgreSQL {server.major} with data checksums {checksums}")
    if standby and feedback == "off":
        detail = f"a standby without hot_standby_feedback cancels queries that last longer than {delay}"
        yield Finding("warning", "hot_standby_feedback", detail, "set hot_standby_feedback = on at the standby")
    if failures:
        hint = "check the server's disks; restore the damaged tables from an older snapshot"
        yield Finding("error", "data checksums", f"the server has found {failures} damaged pages", hint)
    if superuser:
        hint = "create a role with LOGIN and pg_read_all_data, and with BYPASSRLS if row-level security is in use"
        yield Finding("warning", "role", "the role is a superuser, which a backup need not be", hint)
