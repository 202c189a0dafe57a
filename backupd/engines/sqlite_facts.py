"""What the manifest says about an SQLite database: its settings and its tables, read inside the pinned moment.

It counts rows and never reads one: no column of a user's table is ever selected here.
"""

from collections.abc import Mapping

import apsw

from backupd.engines.source import TableInfo

_SETTINGS = (
    "page_size",
    "page_count",
    "encoding",
    "user_version",
    "application_id",
    "auto_vacuum",
    "journal_mode",
    "schema_version",
    "freelist_count",
)
_TABLES = (
    "SELECT name, type FROM pragma_table_list"
    " WHERE schema = 'main' AND type IN ('table', 'virtual') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
)
_KEY = "SELECT name FROM pragma_table_info(?, 'main') WHERE pk > 0 ORDER BY pk"


def read_facts(connection: apsw.Connection, page_one: bytes | None) -> Mapping[str, object]:
    """The settings of the database and the versions of SQLite that wrote it last and that read it now."""
    facts: dict[str, object] = {name: connection.pragma(name) for name in _SETTINGS}
    facts["engine_version"] = _version(page_one)
    facts["library_version"] = apsw.sqlite_lib_version()
    return facts


def _version(page_one: bytes | None) -> str | None:
    """The version that wrote the file last: a number such as 3054001 at byte 96 of page 1; 0 before SQLite 3.7."""
    number = int.from_bytes(page_one[96:100], "big") if page_one else 0
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}" if number else None


def list_tables(connection: apsw.Connection) -> list[tuple[str, str]]:
    """Name and type of every table of the schema `main`, by name.

    Views, SQLite's own tables and the shadow tables of virtual tables are left out: the rows of a shadow table are
    those of its virtual table.
    """
    return [(str(name), str(kind)) for name, kind in connection.execute(_TABLES).fetchall()]


def read_table(connection: apsw.Connection, name: str, kind: str) -> TableInfo:
    """One of these tables with its declared key, empty if it has none, and its rows, None if they cannot be counted."""
    key: tuple[str, ...] = ()
    if kind == "table":
        key = tuple(str(row[0]) for row in connection.execute(_KEY, (name,)))
    return TableInfo(name, key, _count(connection, name))


def _count(connection: apsw.Connection, name: str) -> int | None:
    quoted = name.replace('"', '""')
    try:
        count = connection.execute(f'SELECT count(*) FROM main."{quoted}"').fetchall()[0][0]  # noqa: S608 - quoted
    except apsw.SQLError:
        return None
    return int(str(count))
