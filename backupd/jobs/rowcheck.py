"""Are these rows the ones that a manifest tells of? Asked of stored streams, of restored tables, and of live ones."""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.jobs.capture import digest_rows
from backupd.repo.reading import ChunkReader
from backupd.repo.rowdigest import RowDigest
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import walk_content


def hash_rows(buffers: Iterator[bytes | bytearray], id_key: bytes) -> RowDigest:
    """The digest of rows, as the writer of that key makes it.

    Raises:
        IntegrityError: they end inside a row.
    """
    from backupd.repo.rows import RowHasher

    try:
        return digest_rows(buffers, RowHasher.of(id_key))
    except ValueError:
        raise IntegrityError("the rows end in the middle of one") from None


def check_rows(
    root: StreamRoot, described: Mapping[str, Any], reader: ChunkReader, rows: Iterator[bytes], id_key: bytes
) -> None:
    """A stored stream of rows is what its manifest says: digest, counts, and the content tree.

    Raises:
        IntegrityError: it is not.
    """
    found = hash_rows(rows, id_key)
    if (found.hexdigest(), found.rows) != (described["digest"], described["rows"]):
        raise IntegrityError(f"the stored rows of {described['name']} are not the ones that were captured")
    try:
        top = base64.b64decode(described["content"], validate=True)
    except (TypeError, binascii.Error):
        raise IntegrityError(f"the list of what is in {described['name']} cannot be read") from None
    entries = sum(1 for _ in walk_content(top, lambda ref: reader.read(ref, Kind.CONTENT), rows=found.rows))
    if entries != root.chunks:
        raise IntegrityError(f"the lists of {described['name']} tell of different numbers of chunks")


def comparer(tables: Sequence[Mapping[str, Any]], id_key: bytes) -> Callable[[str, Iterator[bytes | bytearray]], None]:
    """What compares a table's rows with the manifest.

    Args:
        tables: of the manifest.
        id_key: of the snapshot's writer.

    Returns:
        A function of a table's name and its rows, in any order, that raises IntegrityError unless they are what was stored.
    """
    wanted = {table["name"]: table for table in tables}

    def compare(name: str, rows: Iterator[bytes | bytearray]) -> None:
        found, table = hash_rows(rows, id_key), wanted[name]
        if found.hexdigest() != table["digest"]:
            raise IntegrityError(
                f"table {name} is not what the snapshot holds: {found.rows:,} rows instead of {table['rows']:,}"
                if found.rows != table["rows"]
                else f"table {name} is not what the snapshot holds: rows differ",
                object_name=name,
            )

    return compare
