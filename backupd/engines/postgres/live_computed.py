"""What generated columns are for values that no row has.

Expressions are evaluated over rows of the table's own type, so that the columns' types and collations are what they are in the
table.
"""

from collections.abc import Collection, Mapping, Sequence

from backupd.engines.grouping import batches
from backupd.engines.postgres.catalog import Relation, Session
from backupd.engines.postgres.live_cells import cells, copied
from backupd.engines.postgres.live_text import literal
from backupd.engines.postgres.names import quoted
from backupd.model import Cells

_AT_ONCE = 500
_BYTES_AT_ONCE = 1 << 20


def compute(
    session: Session,
    relation: Relation,
    texts: Sequence[str],
    by: Sequence[str],
    values: Collection[Cells],
    encoding: str,
) -> Mapping[Cells, Cells]:
    """What expressions of a table give for values of some of its columns.

    Raises:
        psycopg.Error: the database refused.
    """
    taken = {column.name for column in relation.columns}
    place = next(name for n in range(len(taken) + 1) if (name := f"place{n}") not in taken)
    found: dict[Cells, Cells] = {}
    for batch in batches(values, _AT_ONCE, _BYTES_AT_ONCE):
        rows = ", ".join(f"({at}, {_row(relation, by, value)})" for at, value in enumerate(batch))
        source = f"(SELECT v.n AS {place}, (v.r).* FROM (VALUES {rows}) AS v(n, r)) AS t"
        words = ", ".join(f"({text})" for text in texts)
        copy = f"COPY (SELECT {place}, {words} FROM {source}) TO STDOUT (ENCODING {literal(encoding.encode())})"
        with copied(session, copy) as stream:
            for at, *made in cells(stream, 1 + len(texts)):
                found[batch[int(at or 0)]] = tuple(made)
    return found


def _row(relation: Relation, by: Sequence[str], value: Cells) -> str:
    known = dict(zip(by, value, strict=True))
    words = ", ".join(literal(known.get(column.name)) for column in relation.columns)
    return f"ROW({words})::{quoted(relation.schema, relation.name)}"
