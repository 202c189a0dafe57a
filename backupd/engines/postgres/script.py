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
SET standard_conforming_strings = on;
SET client_encoding = {encoding};
SET search_path = '';
SET row_security = off;
SET DateStyle = 'ISO';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET xmloption = content;
SET lc_monetary = 'C';
"""
# A name that holds a line break cannot be part of \\copy, which ends with the line.
_DETOUR = """CREATE TEMPORARY TABLE loaded AS SELECT {names} FROM {place} WITH NO DATA;
\\copy pg_temp.loaded from {file}
INSERT INTO {place}{listed} OVERRIDING SYSTEM VALUE SELECT {plain} FROM pg_temp.loaded;
DROP TABLE pg_temp.loaded;
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
        yield _load(str(table["schema"]), str(table["table"]), table["columns"], file).encode()
    for schema, name, value, called in sequences:
        place = literal(quoted(schema, name))
        yield f"SELECT pg_catalog.setval({place}, {int(value)}, {'true' if called else 'false'});\n".encode()
    yield b"ANALYZE;\n"


def _load(schema: str, table: str, columns: Sequence[str], file: str) -> str:
    """How one file is loaded."""
    place, names = _in_a_line(schema, table), [_in_a_line(name) for name in columns]
    if not any(mark in text for text in (schema, table, *columns) for mark in "\n\r"):
        listed = f" ({', '.join(names)})" if names else ""
        return f"\\copy {place}{listed} from {file}\n"
    plain = [f"c{number}" for number in range(len(names))]
    return _DETOUR.format(
        names=", ".join(f"{name} AS {other}" for name, other in zip(names, plain, strict=True)),
        place=place,
        file=file,
        listed=f" ({', '.join(names)})" if names else "",
        plain=", ".join(plain),
    )


def _in_a_line(*parts: str) -> str:
    """A quoted name; as U&"..." if it holds a line break."""
    found = []
    for part in parts:
        name = quoted(part)
        if "\n" in part or "\r" in part:
            name = "U&" + name.replace("\\", "\\\\").replace("\n", "\\000a").replace("\r", "\\000d")
        found.append(name)
    return ".".join(found)
