"""Counts the rows that came in the order of an index, and compares them with the heap's: a damaged index may lack rows."""

from collections.abc import Iterable, Sequence

from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.client import QUERY_SECONDS, patience
from backupd.engines.postgres.plan import FROM_HEAP, Piece
from backupd.errors import SourceIncomplete

# A heap is read at least as fast as that; who is slower counts as lost.
_BYTES_PER_SECOND = 4 * 1024 * 1024


class RowCounts:
    """How many rows came of each piece that must be counted.

    Args:
        pieces: all pieces of a view.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._tables: dict[str, list[Piece]] = {}
        for piece in pieces:
            if piece.counted:
                self._tables.setdefault(piece.counted, []).append(piece)
        self._rows: dict[int, int] = {}
        self._read: set[int] = set()

    def was_read(self, piece: Piece) -> None:
        """All rows of a piece have been given to the reader, who will say how many they were."""
        self._read.add(id(piece))

    def came(self, piece: Piece, rows: int) -> None:
        """So many rows the reader has counted."""
        self._rows[id(piece)] = rows

    def check(self, session: Session) -> None:
        """Compare, within the snapshot; tables of which not every piece was read are left alone.

        Raises:
            SourceIncomplete: the heap has another number of rows than came.
            psycopg.Error: they could not be counted.
        """
        read = [pieces for pieces in self._tables.values() if all(id(piece) in self._read for piece in pieces)]
        for piece in (piece for pieces in read for piece in pieces):
            if id(piece) not in self._rows:
                raise SourceIncomplete(
                    f"nobody has counted the rows of {piece.table}",
                    object_name=piece.table,
                    hint="please report this: it is a bug",
                )
        if not read:
            return
        with patience(session):
            session.execute(FROM_HEAP.encode())
        for pieces in read:
            came, there = sum(self._rows[id(piece)] for piece in pieces), _count(session, pieces)
            if came != there:
                raise SourceIncomplete(
                    f"{pieces[0].table} has {there} rows, and its key's index gave {came} of them: the index is damaged",
                    object_name=pieces[0].table,
                    hint=f"REINDEX TABLE {pieces[0].counted}, and look for what damaged it",
                )


def _count(session: Session, pieces: Sequence[Piece]) -> int:
    expected = sum(piece.info.size_hint or 0 for piece in pieces)
    with patience(session, QUERY_SECONDS + expected / _BYTES_PER_SECOND):
        row = session.execute(f"SELECT pg_catalog.count(*) FROM ONLY {pieces[0].counted}".encode()).fetchone()
    assert row is not None
    return int(row[0])
