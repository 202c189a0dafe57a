"""How each column is written as text in a row, and how the text becomes the same value again.

The server's client program escapes what it prints (NUL, tab, newline and backslash), so the server only has to say which
value is NULL: by a marker that was drawn at random after the snapshot was opened, and that the reader replaces by `\\N`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from backupd.engines.mariadb.client import quote_name

Encoding = Literal["plain", "cast", "text", "utf8", "hex", "float", "bit", "index", "json"]
"""How a column is written.

- plain: numbers, dates and the like, as the server writes them;
- cast: UUIDs and network addresses, which a marker beside them would be mistaken for;
- text: text whose bytes are UTF-8 as they are stored;
- utf8: text of another character set, as UTF-8, where every value survives the way there and back;
- hex: bytes, and text of the other character sets, as hexadecimal digits;
- float: a FLOAT as the DOUBLE that it is, because its own text has six digits only;
- bit: a BIT as hexadecimal digits;
- index: an ENUM or SET by its number, where '' is a member and would look like the invalid value;
- json: MySQL's JSON as the text that it is after it has been read from its text once, because no text brings back what its
  own type holds besides: a DECIMAL becomes a DOUBLE, a date or bytes become text.
"""

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
FORMAT_VERSION = 2

_AS_STORED = frozenset({"utf8mb4", "utf8mb3", "utf8", "ascii"})
_WIDE = frozenset({"utf16", "utf16le", "utf32"})
_BYTES = frozenset({"tinyblob", "blob", "mediumblob", "longblob", "binary", "varbinary", "vector"}) | frozenset(
    {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"}
    | {"geometrycollection", "geomcollection"}
)
INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
_PLAIN = INTEGERS | frozenset({"decimal", "double", "date", "datetime", "timestamp", "time", "year"})
_CAST = frozenset({"uuid", "inet4", "inet6"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column whose values are stored, in a row's order.

    Attributes:
        kind: the type's first word, in lower case.
        type: the whole type.
        charset: of text, its character set.
        counts: whether it is the table's AUTO_INCREMENT.
        bytewise: whether it is text that is compared byte by byte.
    """

    name: str
    kind: str
    type: str
    charset: str | None
    nullable: bool
    counts: bool = False
    bytewise: bool = False

    @property
    def label(self) -> str:
        """The type with what else decides a value's meaning."""
        return f"{self.type} {self.charset}" if self.charset else self.type


def encoding_of(column: Column, round_trips: frozenset[str]) -> Encoding:
    """How to write a column; `round_trips` are the one-byte character sets that survive the way to UTF-8 and back."""
    if column.kind in ("enum", "set"):
        return "index" if _has_empty_member(column.type) else _text(column.charset, round_trips, "index")
    if column.kind == "float":
        return "float"
    if column.kind == "bit":
        return "bit"
    if column.kind in _BYTES or column.charset == "binary":
        return "hex"
    if column.charset is not None:
        return _text(column.charset, round_trips, "hex")
    if column.kind in _CAST:
        return "cast"
    if column.kind == "json":
        return "json"
    return "plain" if column.kind in _PLAIN else "hex"


def _text(charset: str | None, round_trips: frozenset[str], otherwise: Encoding) -> Encoding:
    if charset in _AS_STORED:
        return "text"
    return "utf8" if charset in _WIDE or charset in round_trips else otherwise


def _has_empty_member(kind: str) -> bool:
    """Whether '' is among the members of an ENUM or SET, as the catalogue writes its type: quotes are doubled."""
    body = kind[kind.find("(") + 1 : kind.rfind(")")]
    position = 0
    while position < len(body):
        end = position + 1
        while end < len(body):
            if body[end] == "'":
                if body[end + 1 : end + 2] != "'":
                    break
                end += 1
            end += 1
        if not body[position + 1 : end].rstrip(" "):
            return True
        position = end + 2
    return False


def read_expression(column: Column, encoding: Encoding, marker: str) -> str:
    """The SQL expression that prints a column; NULL comes as the marker."""
    name = quote_name(column.name)
    expression = {
        "plain": name,
        "cast": f"CAST({name} AS CHAR)",
        "text": name,
        "utf8": f"CONVERT({name} USING utf8mb4)",
        "hex": f"HEX({name})",
        "float": f"CAST({name} AS DOUBLE)",
        "bit": f"HEX({name} + 0)",
        "index": f"{name} | 0",  # `+ 0` would make the 64th member of a SET a sign
        "json": f"CAST(CAST(CAST({name} AS CHAR) AS JSON) AS CHAR)",
    }[encoding]
    return f"IFNULL({expression}, '{marker}')" if column.nullable else expression


def load_expression(encoding: Encoding, value: str) -> str | None:
    """The SQL expression that makes a field's value out of its text; None where the text itself will do."""
    if encoding == "hex":
        return f"UNHEX({value})"
    if encoding == "bit":
        return f"CAST(CONV({value}, 16, 10) AS UNSIGNED)"
    return f"CAST({value} AS UNSIGNED)" if encoding == "index" else None


def load_clauses(columns: Sequence[Column], encodings: Sequence[Encoding]) -> tuple[str, str]:
    """The column list and the SET clause (empty, or with its word) of a LOAD DATA statement."""
    fields = [f"@f{number}" for number in range(len(columns))]
    made = [load_expression(encoding, field) for encoding, field in zip(encodings, fields, strict=True)]
    if any(made):
        # With a SET clause, the server takes a 0 for "the next number" unless that column is set there as well.
        made = [field if column.counts else value for column, field, value in zip(columns, fields, made, strict=True)]
    names = [
        quote_name(column.name) if value is None else field
        for column, field, value in zip(columns, fields, made, strict=True)
    ]
    settings = [
        f"{quote_name(column.name)} = {value}" for column, value in zip(columns, made, strict=True) if value is not None
    ]
    # Where every column is generated, a row is an empty line.
    return ", ".join(names) or "@f0", " SET " + ", ".join(settings) if settings else ""


def fingerprint(release: str, columns: Sequence[Column], encodings: Sequence[Encoding]) -> str:
    """What decides how a row is written: equal fingerprints mean that equal rows are equal texts."""
    parts = [FORMAT_VERSION, release, [[c.name, c.label, e] for c, e in zip(columns, encodings, strict=True)]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def known_encodings(words: object, count: int) -> tuple[Encoding, ...] | None:
    """The encodings that a manifest lists for a table; None unless they are what they should be."""
    if not isinstance(words, Sequence) or isinstance(words, str) or len(words) != count:
        return None
    known: Mapping[str, Encoding] = {word: word for word in ENCODINGS}
    found = tuple(known[word] for word in words if isinstance(word, str) and word in known)
    return found if len(found) == count else None
