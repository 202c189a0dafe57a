"""Reads restored tables back, as they were read when they were captured, so that they can be compared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg

from backupd.engines.base import TableInfo
from backupd.engines.postgres.client import Server, child_environment
from backupd.engines.postgres.condition import sound
from backupd.engines.postgres.facts import as_mapping
from backupd.engines.postgres.loading import Crew, run_parallel
from backupd.engines.postgres.names import LARGE_OBJECTS, OBJECTS_METADATA, literal, parse_label, quoted
from backupd.engines.postgres.objects import copy_statement
from backupd.engines.postgres.plan import FREELY, FROM_HEAP
from backupd.engines.postgres.problems import target_error
from backupd.engines.postgres.tools import find_tools
from backupd.engines.postgres.worker import Worker

_FILTERED = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND pg_catalog.row_security_active(c.oid)
"""
_CONDITIONS = """
SELECT n.nspname, c.relname, u.condition FROM pg_catalog.pg_extension e,
       LATERAL unnest(e.extconfig, e.extcondition) AS u(oid, condition)
  JOIN pg_catalog.pg_class c ON c.oid = u.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""

Compare = Callable[[str, Iterator[bytes | bytearray]], None]


def compare_tables(
    server: Server,
    database: str,
    tables: Sequence[TableInfo],
    facts: Mapping[str, Any],
    bin_folders: Sequence[str],
    jobs: int,
    compare: Compare,
) -> list[str]:
    """Give the rows of each table to `compare`; returns warnings for those that cannot be read.

    Raises:
        IntegrityError: from `compare`.
        SourceIncomplete, Failed: a table could not be read back.
    """
    statements, warnings = _statements(server, database, tables, facts)
    tools = find_tools(bin_folders, at_least=server.major, nearest=server.major)
    with child_environment(server) as (environment, inherited):

        def begin(crew: Crew) -> Callable[[str], None]:
            worker = Worker(tools, server, database, environment, inherited)
            crew.on_end(worker.kill)
            worker.connect()
            worker.ready()
            return lambda name: compare(name, worker.query(statements[name], name))

        run_parallel(list(statements), jobs, begin)
    return warnings


def _statements(
    server: Server, database: str, tables: Sequence[TableInfo], facts: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """How to read each table, the large ones first."""
    details = as_mapping(facts.get("tables"))
    encoding = literal(str(as_mapping(facts.get("database"))["encoding"]))
    try:
        with server.connect(database) as session:
            filtered = {(row[0], row[1]) for row in session.execute(_FILTERED.encode()).fetchall()}
            conditions = {(row[0], row[1]): row[2] for row in session.execute(_CONDITIONS.encode()).fetchall()}
    except psycopg.Error as error:
        raise target_error(error, "the restored tables could not be listed", database) from None
    found, warnings = {}, []
    for table in tables:
        if table.name in {LARGE_OBJECTS, OBJECTS_METADATA}:
            copy = copy_statement(table.name, str(as_mapping(facts.get("database"))["encoding"]))
            found[table.name] = f"{FREELY}\n{copy}"
            continue
        place = parse_label(table.name)
        if place in filtered:
            warnings.append(f"{table.name} was not compared: row-level security hides its rows from this role")
            continue
        columns = ", ".join(quoted(name) for name, _ in table.columns)
        only = "" if as_mapping(details.get(table.name)).get("through_root") else "ONLY "
        condition = sound(conditions.get(place) or "", table.name)
        query = f"SELECT {columns} FROM {only}{quoted(*place)} {condition}"
        found[table.name] = f"{FROM_HEAP}\nCOPY ({query}) TO STDOUT (ENCODING {encoding})"
    return found, warnings
