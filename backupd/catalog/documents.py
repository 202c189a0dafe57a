"""Text and JSON as the catalog keeps them."""

import json
from collections.abc import Mapping
from typing import Any

from backupd.catalog.queue import Json
from backupd.errors import IntegrityError


def plain(text: str) -> str:
    """Text that every database takes: what is no character (a byte of a file's name, a zero) is written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def canonical(value: Mapping[str, Json]) -> str:
    """The one way to write a document as JSON: keys in order, no spaces, ASCII.

    Raises:
        ValueError: it holds something that is not JSON, such as a NaN.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parsed(text: str, what: str) -> dict[str, Any]:
    """A document that the catalog holds.

    Raises:
        IntegrityError: it is none.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise IntegrityError(
            f"the catalog holds {what} that cannot be read",
            object_name=what,
            hint="restore the catalog from a copy, or move it away and make it anew with `backupctl catalog rebuild`",
        )
    return found
