"""The script that psql loads exported rows with: part of every snapshot, so that nobody needs backupd to restore one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backupd.engines.base import StreamInfo
from backupd.engines.postgres.names import literal, quoted
from backupd.engines.postgres.objects import LOADS as OBJECT_LOADS

NAME = "load.sql"
_HEAD = """-- The rows of this snapshot, for psql {major} or newer, run in the folder of the exported files:
--   createdb NAME
--   pg_restore --section=pre-data -d NAME schema.dump
--   psql -X -v ON_ERROR_STOP=1 -d NAME -f load.sql
--   pg_restore --section=post-data -d NAME schema.dump
\\set ON_ERROR_STOP on
SET client_encoding = {encoding};
SET search_path = '';
SET row_security = off;
SET DateStyle = 'ISO';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET xmloption = content;
SET lc_monetary = 'C';
"""
_OBJECTS = """CREATE TEMPORARY TABLE {columns};
\\copy pg_temp.{table} from {file}
{use};
"""


def load_script(
    streams: Sequence[StreamInfo],
    tables: Mapping[str, Mapping[str, Any]],
    sequences: Sequence[Sequence[Any]],
    *,
    encoding: str,
    major: int,
) -> Iterator[bytes]:
    """The script's text, in the database's encoding as far as names go.

    Args:
        streams: all of the snapshot, in order: an export numbers its files by it.
        tables: what the facts tell of each table.
        sequences: as `read_sequences` gives them.
        encoding: of the rows.
        major: of the server.
    """
    yield _HEAD.format(major=major, encoding=literal(encoding)).encode()
    for position, stream in enumerate(streams):
        if stream.kind != "rows":
            continue
        file = literal(f"rows/{position:04d}.tsv")
        if stream.name in OBJECT_LOADS:
            columns, use = OBJECT_LOADS[stream.name]
            text = _OBJECTS.format(columns=columns, table=columns.split(" ")[0], file=file, use=use.strip())
            yield text.encode()
            continue
        table = tables[stream.name]
        columns = ", ".join(map(quoted, table["columns"]))
        place = quoted(table["schema"], table["table"])
        yield f"\\copy {place}{f' ({columns})' if columns else ''} from {file}\n".encode()
    for schema, name, value, called in sequences:
        place = literal(quoted(schema, name))
        yield f"SELECT pg_catalog.setval({place}, {int(value)}, {'true' if called else 'false'});\n".encode()
    yield b"ANALYZE;\n"
