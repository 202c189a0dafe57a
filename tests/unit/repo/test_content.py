"""What a thief of a write key may sign as a snapshot's content: everything that is not what it must be is damage."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from backupd.crypto.chunks import Kind
from backupd.repo.content import check_content

KINDS = [Kind.SCHEMA, Kind.ROWS, Kind.ROWS, Kind.CONTENT]
DIGEST = "ab" * 32
Document = dict[str, Any]


def stream(name: str, kind: str, **more: object) -> Document:
    return {"name": name, "kind": kind, "unit": 0, "rows": None, "content": None, "digest": None, **more}


def document() -> Document:
    rows: Document = {"rows": 3, "content": "AAAA", "digest": DIGEST, "key": [0]}
    table = {
        "name": "t",
        "key": ["id"],
        "rows": 6,
        "columns": [["id", "int"]],
        "format": "f",
        "ordered": True,
        "digest": DIGEST,
    }
    return {
        "engine": "postgresql",
        "facts": {},
        "warnings": ["one"],
        "note": "",
        "streams": [
            stream("schema.sql", "schema"),
            stream("t", "rows", **rows),
            stream("t", "rows", **rows),
            stream("", "content"),
        ],
        "tables": [table, {"name": "unread", "key": [], "rows": None}],
    }


def test_what_is_in_order_passes() -> None:
    """The content of a usual snapshot passes."""
    check_content(document(), KINDS)


Change = Callable[[Document], object]
FORGERIES: list[Change] = [
    lambda d: d.pop("streams"),
    lambda d: d.pop("tables"),
    lambda d: d.update(tables={}),
    lambda d: d.update(streams={}),
    lambda d: d.update(engine=5),
    lambda d: d.update(engine="x\x1b[2J"),
    lambda d: d.update(facts=[]),
    lambda d: d.update(note=None),
    lambda d: d.update(warnings={}),
    lambda d: d.update(warnings=[1]),
    lambda d: d["streams"].pop(),
    lambda d: d["streams"].reverse(),
    lambda d: d["streams"][1].pop("kind"),
    lambda d: d["streams"][1].update(kind="content"),
    lambda d: d["streams"][0].update(kind="rows"),
    lambda d: d["streams"][1].update(kind=[]),
    lambda d: d["streams"][1].update(name=5),
    lambda d: d["streams"][1].update(name="x" * 100_000),
    lambda d: d["streams"][1].update(name="of no table"),
    lambda d: d["streams"][1].update(rows=None),
    lambda d: d["streams"][1].update(rows=-5),
    lambda d: d["streams"][1].update(rows=1.5),
    lambda d: d["streams"][1].update(rows=True),
    lambda d: d["streams"][1].pop("content"),
    lambda d: d["streams"][1].update(content=None),
    lambda d: d["streams"][1].update(digest=None),
    lambda d: d["streams"][1].update(digest=DIGEST.upper()),
    lambda d: d["streams"][1].update(digest=5),
    lambda d: d["streams"][1].update(key=5),
    lambda d: d["streams"][1].update(key=[-1]),
    lambda d: d["streams"][1].update(key=[1 << 40]),
    lambda d: d["streams"][1].update(unit=None),
    lambda d: d["streams"][0].update(rows=1),
    lambda d: d["streams"][0].update(content=""),
    lambda d: d["streams"].__setitem__(1, 5),
    lambda d: d["tables"].append(copy.deepcopy(d["tables"][0])),
    lambda d: d["tables"].pop(0),
    lambda d: d["tables"].append(7),
    lambda d: d["tables"][0].update(name=None),
    lambda d: d["tables"][0].update(key=[1, {}]),
    lambda d: d["tables"][0].update(key="id"),
    lambda d: d["tables"][0].update(rows=None),
    lambda d: d["tables"][0].update(rows=-1),
    lambda d: d["tables"][0].update(columns=7),
    lambda d: d["tables"][0].update(columns=[5]),
    lambda d: d["tables"][0].update(columns=[["id", 5]]),
    lambda d: d["tables"][0].update(columns=[["id"]]),
    lambda d: d["tables"][0].pop("digest"),
    lambda d: d["tables"][0].update(digest=None),
    lambda d: d["tables"][0].update(digest="xy" * 32),
    lambda d: d["tables"][0].update(format=7),
    lambda d: d["tables"][1].update(rows="many"),
]


@pytest.mark.parametrize("number", range(len(FORGERIES)))
def test_forgeries_are_damage(number: int) -> None:
    """Every forgery raises one of the errors that become an integrity error."""
    forged = document()
    FORGERIES[number](forged)
    with pytest.raises((KeyError, ValueError, TypeError)):
        check_content(forged, KINDS)


def test_a_list_of_content_nodes_is_last() -> None:
    """Lists in the middle would let a table stand under another's name."""
    forged = document()
    forged["streams"].insert(0, forged["streams"].pop())
    with pytest.raises(ValueError, match="not the last"):
        check_content(forged, [Kind.CONTENT, Kind.SCHEMA, Kind.ROWS, Kind.ROWS])
