"""What the content part of a snapshot must be before anybody works with it. FORMAT.md, section 10.

A thief of a write key can seal and sign any JSON. Here it becomes either what the rest of the program expects, or damage.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.format import label, natural

WORDS = {Kind.ROWS: "rows", Kind.PAGES: "pages", Kind.SCHEMA: "schema", Kind.CONTENT: "content"}
_MOST_COLUMNS = 65_535
_HEX = re.compile("[0-9a-f]{64}")


def check_content(document: dict[str, Any], kinds: Sequence[Kind]) -> None:
    """Check types, bounds, and that the parts fit each other.

    Args:
        document: the content part.
        kinds: of the streams, as the structure part lists them.

    Raises:
        KeyError, ValueError, TypeError: it is not what such a part is.
    """
    streams, tables = _list(document["streams"]), _list(document["tables"])
    label(document["engine"])
    _text(document["note"])
    if not isinstance(document["facts"], dict):
        raise ValueError("facts are no object")
    for warning in _list(document["warnings"]):
        _text(warning)
    if [s["kind"] for s in streams] != [WORDS[kind] for kind in kinds]:
        raise ValueError("other streams than the structure part lists")
    if Kind.CONTENT in kinds[:-1]:
        raise ValueError("a list of content nodes that is not the last stream")
    for stream in streams:
        _stream(stream)
    rows = {s["name"] for s in streams if s["kind"] == "rows"}
    names = [_name(t["name"]) for t in tables]
    if len(set(names)) != len(names) or not rows <= set(names):
        raise ValueError("tables that stand twice, or streams of no table")
    for table in tables:
        _table(table, stored=table["name"] in rows)


def tree_top(stream: Mapping[str, Any]) -> bytes:
    """The top node of the content tree of a stream of rows.

    Raises:
        IntegrityError: there is none.
    """
    try:
        return base64.b64decode(stream["content"], validate=True)
    except (TypeError, binascii.Error):
        raise IntegrityError(f"the list of what is in {stream['name']} cannot be read") from None


def _stream(stream: dict[str, Any]) -> None:
    _name(stream["name"])
    _digest(stream["digest"])
    natural(stream["unit"])
    if stream["kind"] != "rows":
        if stream["rows"] is not None or stream["content"] is not None:
            raise ValueError("rows where there are none")
        return
    natural(stream["rows"])
    _text(stream["content"])
    if stream["digest"] is None:
        raise ValueError("rows without a digest")
    for position in _list(stream["key"]):
        natural(position, _MOST_COLUMNS)


def _table(table: dict[str, Any], *, stored: bool) -> None:
    for column in _list(table["key"]):
        _name(column)
    if table["rows"] is not None or stored:
        natural(table["rows"])
    if not stored:
        return
    if _digest(table["digest"]) is None:
        raise ValueError("a table without a digest")
    if table["format"] is not None:
        label(table["format"])
    for name, kind in _list(table["columns"]):
        _name(name)
        _text(kind)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("no list")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("no text")
    return value


def _name(value: Any) -> str:
    if len(_text(value)) > 4096:
        raise ValueError("a name that is too long")
    return str(value)


def _digest(value: Any) -> str | None:
    if value is not None and not (type(value) is str and _HEX.fullmatch(value)):
        raise ValueError("no digest")
    return value
