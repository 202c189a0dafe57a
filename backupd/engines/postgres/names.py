"""Names of objects: as the manifest writes them, and quoted as SQL wants them.

A name part is written as it is if it is a plain lower-case identifier, else in double quotes, doubled inside; tables are
qualified by their schema except in `public`. Names in `public` that begin with `pg_` are qualified too, because
`pg_largeobject` alone stands for the contents of the large objects, and `pg_largeobject_metadata` for what they are.
"""

import re

LARGE_OBJECTS = "pg_largeobject"
OBJECTS_METADATA = "pg_largeobject_metadata"
ARCHIVE = "schema.dump"
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*\Z")
_PART = re.compile(r'([a-z_][a-z0-9_$]*)|"((?:[^"]|"")+)"')


def quoted(*parts: str) -> str:
    """An identifier, qualified if several parts are given, always in double quotes."""
    if any("\0" in part for part in parts):
        raise ValueError("a name holds a NUL")
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(text: str) -> str:
    """A string constant, for sessions with standard_conforming_strings on."""
    if "\0" in text:
        raise ValueError("a text holds a NUL")
    return "'" + text.replace("'", "''") + "'"


def label(schema: str, name: str) -> str:
    """The manifest's name of a table."""
    if schema == "public" and not name.startswith("pg_"):
        return _written(name)
    return f"{_written(schema)}.{_written(name)}"


def _written(part: str) -> str:
    return part if _PLAIN.match(part) else quoted(part)


def parse_label(text: str) -> tuple[str, str]:
    """The schema and the name of a table from the manifest's name; the inverse of `label`.

    Raises:
        ValueError: it is no such name.
    """
    parts = []
    position = 0
    while True:
        found = _PART.match(text, position)
        if found is None:
            raise ValueError(f"not a table's name: {text!a}")
        parts.append(found[1] or found[2].replace('""', '"'))
        position = found.end()
        if position == len(text):
            break
        if text[position] != "." or len(parts) == 2:
            raise ValueError(f"not a table's name: {text!a}")
        position += 1
    return ("public", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
