"""Which values SQLite takes for one: they are put into columns that compare in the same way, and it says so itself.

The database in memory has nothing of anybody else's but the values, which are bound and never written into a statement.
"""

from collections.abc import Collection, Mapping, Sequence

from backupd.engines.sqlite_lazy import scratch_connection
from backupd.model import Cells, Equality

_AFFINITIES = {"text": "TEXT", "number": "NUMERIC", "": "BLOB"}
_COLLATIONS = {"nocase": "NOCASE", "padded": "RTRIM"}


def numbered(equalities: Sequence[Equality], values: Collection[Cells]) -> Mapping[Cells, int]:
    """For each value that has no NULL a number: equal ones for values that columns of these equalities take for one."""
    asked = [value for value in values if None not in value]
    names = [f"c{at}" for at in range(len(equalities))]
    columns = [
        f"{name} {_AFFINITIES[equality.affinity]} COLLATE {_COLLATIONS.get(equality.kind, 'BINARY')}"
        for name, equality in zip(names, equalities, strict=True)
    ]
    listed = ", ".join(names)
    with scratch_connection() as link:
        link.execute(f"CREATE TABLE v (n INTEGER PRIMARY KEY, {', '.join(columns)})").fetchall()
        with link:
            insert = f"INSERT INTO v VALUES (?{', ?' * len(names)})"  # noqa: S608 - names made here
            link.executemany(insert, ((place, *value) for place, value in enumerate(asked)))
        found = link.execute(f"SELECT n, dense_rank() OVER (ORDER BY {listed}) FROM v").fetchall()  # noqa: S608 - as above
    return {asked[int(str(place))]: int(str(number)) for place, number in found}
