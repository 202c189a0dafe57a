"""The scripts that load exported rows by the native client: part of every snapshot, so that nobody needs backupd for it.

The definitions (`schema.sql`) hold triggers and events, which must not work on rows that are only coming back: `load.sql`
puts them aside before it loads, and `after.sql` brings them back.
"""

from collections.abc import Iterator, Mapping, Sequence

from backupd.engines.base import StreamInfo
from backupd.engines.mariadb.catalog import Stored, Table
from backupd.engines.mariadb.client import quote_name
from backupd.engines.mariadb.formats import load_clauses

SCHEMA, LOAD, AFTER = "schema.sql", "load.sql", "after.sql"
_HEAD = """-- The rows of this snapshot, for the {client} client, run in the folder of the exported files:
--   {admin} create NAME
--   {client} NAME < schema.sql
--   {client} --local-infile=1 NAME < load.sql
--   {client} NAME < after.sql
SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES';
SET SESSION foreign_key_checks = 0, time_zone = '+00:00';
SET NAMES utf8mb4;
"""


def load_script(
    streams: Sequence[StreamInfo], tables: Mapping[str, Table], stored: Sequence[Stored], *, vendor: str
) -> Iterator[bytes]:
    """What loads the rows.

    Args:
        streams: all of the snapshot, in order: an export numbers its files by it.
        tables: those that have streams.
        stored: triggers, and events that are at work, are put aside.
        vendor: "mariadb" or "mysql".
    """
    client, admin = ("mysql", "mysqladmin") if vendor == "mysql" else ("mariadb", "mariadb-admin")
    yield _HEAD.format(client=client, admin=admin).encode()
    for thing in stored:
        if thing.kind == "trigger":
            yield f"DROP TRIGGER IF EXISTS {quote_name(thing.name)};\n".encode()
        elif _is_at_work(thing):
            yield f"ALTER EVENT {quote_name(thing.name)} DISABLE;\n".encode()
    if vendor == "mariadb":
        yield b"SET SESSION check_constraint_checks = 0;\n"
    for position, stream in enumerate(streams):
        if stream.kind != "rows":
            continue
        table = tables[stream.name]
        names, settings = load_clauses(table.columns, table.encodings)
        history = f"SET SESSION system_versioning_insert_history = {int(table.versioned)};\n" if table.versioned else ""
        yield (
            f"{history}LOAD DATA LOCAL INFILE 'rows/{position:04d}.tsv' INTO TABLE {quote_name(table.name)} "
            rf"CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' ({names}){settings};"
            "\n"
        ).encode()


def after_script(triggers: bytes, stored: Sequence[Stored]) -> Iterator[bytes]:
    """What brings triggers and events back.

    Args:
        triggers: their definitions, as the dump program prints them.
        stored: events that were at work are set to work again.
    """
    yield triggers
    for thing in stored:
        if _is_at_work(thing):
            yield f"ALTER EVENT {quote_name(thing.name)} ENABLE;\n".encode()


def _is_at_work(thing: Stored) -> bool:
    """Whether it is an event that runs; one that is disabled, here or on replicas only, is left as it is."""
    return thing.kind == "event" and thing.state[-1] == "ENABLED"
