"""What the columns of stored tables are to DuckDB, and rows that it can take apart itself.

Types of servers come over where every value that the server writes is one of DuckDB's type, or nearly every; everything else is
text. Types are built from known words and numbers only: what a snapshot says of a type may be anybody's.
"""

import re

_DECIMAL = re.compile(r"(?:numeric|decimal)\((\d{1,2})(?:,(\d{1,2}))?\)(?: unsigned)?")
_MOST_DIGITS = 38
_SERVER = (
    (re.compile(r"double( precision)?( unsigned)?|float( unsigned)?"), "DOUBLE"),
    (re.compile(r"real"), "FLOAT"),
    (re.compile(r"boolean"), "BOOLEAN"),
    (re.compile(r"date"), "DATE"),
    (re.compile(r"timestamp(\(\d\))? with time zone"), "TIMESTAMPTZ"),
    (re.compile(r"(timestamp|datetime)(\(\d\))?( without time zone)?"), "TIMESTAMP"),
    (re.compile(r"time(\(\d\))?( without time zone)?"), "TIME"),
    (re.compile(r"uuid"), "UUID"),
)
_FILE = {"INTEGER": "BIGINT", "REAL": "DOUBLE", "BLOB": "BLOB"}


def server_type(kind: str, way: str, *, whole: bool, raw: bool) -> str:
    """DuckDB's type for a server's.

    Args:
        kind: the server's word.
        way: how MariaDB writes it.
        whole, raw: whether its cells are whole numbers, or bytes.
    """
    if whole:
        return "UBIGINT" if kind.startswith("bigint") and "unsigned" in kind else "BIGINT"
    if raw:
        return "BLOB"
    if way not in ("", "plain", "cast", "float"):
        return "VARCHAR"
    if decimal := _DECIMAL.fullmatch(kind):
        digits, behind = int(decimal[1]), int(decimal[2] or 0)
        return f"DECIMAL({digits},{behind})" if 0 < digits <= _MOST_DIGITS and behind <= digits else "VARCHAR"
    return next((found for words, found in _SERVER if words.fullmatch(kind)), "VARCHAR")


def file_type(kind: str, affinity: str) -> str:
    """DuckDB's type for a column of a file: what it should hold by its declaration."""
    if affinity == "NUMERIC":
        word = kind.upper().partition("(")[0].strip()
        return {"DATE": "DATE", "DATETIME": "TIMESTAMP", "TIMESTAMP": "TIMESTAMP"}.get(word, "DOUBLE")
    if affinity == "BLOB" and "BLOB" not in kind.upper():  # of no type, or of any
        return "VARCHAR"
    return _FILE.get(affinity, "VARCHAR")


def as_it_stands(data: bytes) -> str | None:
    """Rows as text, if no field is written in a special way but for NULL and doubled backslashes; None if one is."""
    if b"\\" in data and b"\\" in data.replace(b"\\\\", b"").replace(b"\\N", b""):
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
