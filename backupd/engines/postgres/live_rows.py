"""Rows of a live table as cells: read by COPY in the server's encoding, so that they are the very texts of a capture.

Must never give a row that was not asked for: what the database takes for equal is compared once more as cells.
"""

from collections.abc import Collection, Iterator, Sequence

from backupd.engines.grouping import batches
from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.condition import sound
from backupd.engines.postgres.live_cells import cells, copied
from backupd.engines.postgres.live_schema import Known
from backupd.engines.postgres.live_text import facets_of, found_by
from backupd.engines.postgres.names import literal, quoted
from backupd.errors import Failed
from backupd.model import Cells

_AT_ONCE = 500
_BYTES_AT_ONCE = 1 << 20
# Blocks whoever writes or deletes the row, and nobody who only refers to it.
ROW_LOCK = " FOR NO KEY UPDATE OF t"
# Blocks those, too: what is going to be deleted must not be referred to meanwhile.
KEY_LOCK = " FOR UPDATE OF t"


class Rows:
    """Reads rows through a session. While a whole table is being read, nothing else can be."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.reading = ""
        self.lock = ROW_LOCK

    def require_idle(self) -> None:
        """Refuse to do two things at a time.

        Raises:
            Failed: a table is still being read.
        """
        if self.reading:
            raise Failed(
                f"the rows of {self.reading} have not been read to their end",
                object_name=self.reading,
                hint="please report this: it is a bug",
            )

    def all(self, known: Known, encoding: str, columns: Sequence[str], *, lock: bool) -> Iterator[Cells]:
        """Every row.

        Raises:
            psycopg.Error: the database refused.
        """
        self.require_idle()
        self.reading = known.table.name
        try:
            yield from self._copied(
                _copy(known, encoding, columns, "", self.lock if lock else ""), len(columns), drain=lock
            )
        finally:
            self.reading = ""

    def some(
        self,
        known: Known,
        encoding: str,
        columns: Sequence[str],
        by: Sequence[str],
        values: Collection[Cells],
        *,
        lock: bool,
    ) -> Iterator[Cells]:
        """Rows whose columns equal one of the values; between two batches other things may be done.

        Raises:
            psycopg.Error: the database refused.
        """
        wanted = {value for value in values if None not in value}
        for batch in batches(wanted, _AT_ONCE, _BYTES_AT_ONCE):
            self.require_idle()
            copy = _copy(known, encoding, columns, found_by(known, by, batch), self.lock if lock else "")
            rows = list(self._copied(copy, len(columns)))
            yield from rows

    def _copied(self, copy: str, width: int, *, drain: bool = False) -> Iterator[Cells]:
        with copied(self._session, copy) as stream:
            rows = cells(stream, width)
            try:
                for row in rows:  # noqa: UP028 - `yield from` would close the rows as well
                    yield row
            except GeneratorExit:
                if drain:  # to cancel it would end the transaction, too
                    for _ in rows:
                        pass
                raise


def _copy(known: Known, encoding: str, columns: Sequence[str], condition: str, lock: str) -> str:
    for name in columns:
        facets_of(known, name)
    source = f"{known.only} AS t"
    relation = known.relation
    if relation.condition:
        source = f"(SELECT * FROM {known.only} {sound(relation.condition, relation.label)}) AS t"
    where = f" WHERE {condition}" if condition else ""
    names = ", ".join(map(quoted, columns))
    return f"COPY (SELECT {names} FROM {source}{where}{lock}) TO STDOUT (ENCODING {literal(encoding)})"
