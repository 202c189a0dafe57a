"""How foreign keys compare values of two types: what the child's value becomes, as the parent's column spells it.

The server itself either compares values of the two types, or makes one of the parent's type of the child's. The same is done
here, and where a value of the child's equals none of the parent's type, the answer is NULL. Nothing here may raise for a value
that the server would just not find.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from backupd.engines.grouping import batches
from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.live_cells import cells, copied
from backupd.engines.postgres.live_schema import Shape
from backupd.engines.postgres.live_text import literal
from backupd.engines.postgres.live_types import EQUAL, Facets
from backupd.model import Cells, Reference, Spelling

_AT_ONCE = 500
_BYTES_AT_ONCE = 1 << 20

# Types of which equal values of two have equal texts, or texts that the parent's own equality takes for one.
_TEXTS = frozenset({"text", "varchar", "name", "char"})
_WHOLE = frozenset({"int2", "int4", "int8"})
_ALIKE = (
    (_TEXTS, frozenset({"text", "varchar", "bpchar"})),
    (frozenset({"text"}), frozenset({"name"})),
    (_WHOLE, _WHOLE | {"numeric"}),
    (frozenset({"int2", "int4"}), frozenset({"float8"})),
    (frozenset({"int2"}), frozenset({"float4"})),
    (frozenset({"bit", "varbit"}), frozenset({"bit", "varbit"})),
)
_PLAIN: dict[tuple[str, str], Spelling] = {
    ("bpchar", "text"): "trimmed",
    ("bpchar", "varchar"): "trimmed",
    ("date", "timestamp"): "timed",
    ("timestamp", "date"): "dated",
}
_ZONED = frozenset({"timestamptz", "timetz"})
_TIMES = frozenset({"date", "timestamp", "time"}) | _ZONED
# A float4 is nothing smaller and nothing bigger: the cast of such a float8 would be refused.
_SINGLE = "'1.401298464324817e-45'::pg_catalog.float8 AND '3.4028234663852886e+38'::pg_catalog.float8"
_ZONE = "(SELECT s.reset_val AS zone FROM pg_catalog.pg_settings s WHERE s.name = 'TimeZone') AS z"


@dataclass(frozen=True, slots=True)
class Pair:
    """A column that refers, and the one that it refers to.

    Attributes:
        operator: that compares the parent's value with the child's, in SQL.
        crossed: whether it compares two types, and not two values of the parent's.
    """

    child: Facets
    parent: Facets
    operator: str
    crossed: bool

    @property
    def spelling(self) -> Spelling:
        """How the child spells the parent's values."""
        return spelling(self.child.kind, self.parent.kind)


def spelling(child: str, parent: str) -> Spelling:
    """How values of one type spell those of another; by their qualified names."""
    if child == parent:
        return ""
    own = "pg_catalog."
    of, to = child.removeprefix(own), parent.removeprefix(own)
    if child == of and not (of == "citext" or of.endswith(".citext")):
        return "asked"
    if parent == to:
        return "asked"
    if of.endswith("citext"):
        return "" if to in _TEXTS else "asked"
    if any(of in children and to in parents for children, parents in _ALIKE):
        return ""
    if {of, to} & _ZONED and {of, to} <= _TIMES:
        return "zoned"
    return _PLAIN.get((of, to), "asked")


def pairs(shape: Shape, reference: Reference) -> list[Pair]:
    """What a reference compares; nothing if a column is not there."""
    child, parent = shape.known.get(reference.table), shape.known.get(reference.parent)
    if child is None or parent is None:
        return []
    key = next((one for one in shape.foreign_keys if one.is_of(reference)), None)
    found = []
    for at, (column, to) in enumerate(zip(reference.columns, reference.parent_columns, strict=True)):
        sides = child.facets.get(column), parent.facets.get(to)
        if sides[0] is None or sides[1] is None:
            return []
        found.append(Pair(sides[0], sides[1], *((key.operators[at], key.crossed[at]) if key else (EQUAL, False))))
    return found


def become(
    session: Session, pairs: Sequence[Pair], values: Collection[Cells], encoding: str
) -> dict[Cells, Cells | None]:
    """What values of the referring columns become; None for what equals nothing.

    Raises:
        psycopg.Error: the database refused.
    """
    found: dict[Cells, Cells | None] = {}
    for batch in batches(values, _AT_ONCE, _BYTES_AT_ONCE):
        with copied(session, _question(pairs, batch, encoding)) as stream:
            rows = list(cells(stream, 1 + sum(1 for pair in pairs if pair.spelling)))
        for place, *parts in rows:
            value, answers = batch[int(place or 0)], iter(parts)
            whole = tuple(next(answers) if pair.spelling else cell for pair, cell in zip(pairs, value, strict=True))
            found[value] = None if None in whole else whole
    return found


def _question(pairs: Sequence[Pair], values: Collection[Cells], encoding: str) -> str:
    """The COPY that gives each value its place and what it becomes, column by column; NULL for what equals nothing.

    Columns that are spelled alike are left out.
    """
    asked = [at for at, pair in enumerate(pairs) if pair.spelling]
    rows = ", ".join(
        f"({place}, {', '.join(f'{literal(value[at])}::{pairs[at].child.cast}' for at in asked)})"
        for place, value in enumerate(values)
    )
    names = ", ".join(f"c{at}" for at in asked)
    words = ", ".join(_becoming(pairs[at], f"v.c{at}") for at in asked)
    zone = f", {_ZONE}" if any(pairs[at].spelling == "zoned" for at in asked) else ""
    return (
        f"COPY (SELECT v.n, {words} FROM (VALUES {rows}) AS v(n, {names}){zone})"
        f" TO STDOUT (ENCODING {literal(encoding.encode())})"
    )


def _becoming(pair: Pair, value: str) -> str:
    of, to = (facets.kind.removeprefix("pg_catalog.") for facets in (pair.child, pair.parent))
    if pair.spelling == "zoned" and "timestamptz" in (of, to):
        moment = (
            f"({value}::pg_catalog.timestamp AT TIME ZONE z.zone)" if of == "date" else f"({value} AT TIME ZONE z.zone)"
        )
        midnight = (
            f"CASE WHEN {moment}::pg_catalog.date OPERATOR(pg_catalog.=) {moment} THEN {moment}::pg_catalog.date END"
        )
        return midnight if to == "date" else moment
    if (of, to) == ("date", "timestamp"):
        last = f"{value} OPERATOR(pg_catalog.>) '294276-12-31'::pg_catalog.date AND pg_catalog.isfinite({value})"
        return f"CASE WHEN {last} THEN NULL ELSE {value}::pg_catalog.timestamp END"
    become = f"{value}::{pair.parent.cast}"
    if not pair.crossed:
        return become
    same = f"{become} {pair.operator} {value}"
    if (of, to) == ("float8", "float4"):
        size = f"pg_catalog.abs({value})"
        odd = f"{size} OPERATOR(pg_catalog.=) ANY ('{{0,infinity,nan}}'::pg_catalog.float8[])"
        same = f"CASE WHEN {odd} OR {size} BETWEEN {_SINGLE} THEN {same} END"
    return f"CASE WHEN {same} THEN {become} END"
