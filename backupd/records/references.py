"""References that the database does not know: what somebody writes on a command line, or says in a policy."""

import re
from collections.abc import Sequence
from typing import cast

from backupd.errors import UsageError
from backupd.model import OnDelete, Reference

_REFERENCE = re.compile(
    r"\s*(?P<table>.+?)\s*\((?P<columns>[^()]+)\)\s*->\s*(?P<parent>.+?)\s*\((?P<to>[^()]+)\)"
    r"(\s+on\s+delete\s+(?P<action>cascade|set\s+null|set\s+default|restrict))?\s*",
    re.IGNORECASE,
)


def parse_reference(text: str) -> Reference:
    """A reference from `orders(customer_id) -> customers(id)`, with `on delete set null` behind it if that is so.

    Raises:
        UsageError: it is none.
    """
    match = _REFERENCE.fullmatch(text)
    columns, to = ([part.strip() for part in match[n].split(",")] for n in ("columns", "to")) if match else ([], [])
    if match is None or len(columns) != len(to) or "" in {*columns, *to}:
        raise UsageError(
            "a reference is written as table(column) -> parent(column)",
            hint='such as --reference "orders(customer_id) -> customers(id)"',
        )
    action = cast(OnDelete, " ".join((match["action"] or "restrict").lower().split()))
    return undeclared(match["table"], columns, match["parent"], to, action)


def undeclared(
    table: str, columns: Sequence[str], parent: str, parent_columns: Sequence[str], on_delete: OnDelete
) -> Reference:
    """A reference that the database does not know."""
    name = f"{table}({', '.join(columns)})"
    return Reference(name, table, tuple(columns), parent, tuple(parent_columns), on_delete, declared=False)
