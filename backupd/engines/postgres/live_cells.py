"""What COPY sends, as cells: each field's text in the server's encoding, without its escapes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from psycopg import Copy
from psycopg.abc import Buffer
from psycopg.adapt import Loader

from backupd.engines.postgres.catalog import Session
from backupd.model import Cells


class _Raw(Loader):
    """A field's text as it is."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def copied(session: Session, copy: str) -> AbstractContextManager[Copy]:
    """Run a COPY ... TO STDOUT.

    Raises:
        psycopg.Error: the database refused.
    """
    cursor: Any = session.cursor()
    cursor.adapters.register_loader("text", _Raw)
    return cursor.copy(copy.encode())  # type: ignore[no-any-return]


def cells(stream: Copy, width: int) -> Iterator[Cells]:
    """Its rows."""
    if not width:
        yield from (() for _ in stream)
        return
    stream.set_types(["text"] * width)
    yield from stream.rows()
