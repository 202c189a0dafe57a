"""From tables to row streams: the columns, the order, the statement of each stream, and where large tables are split.

Rows come in the order of the key where that is nearly free: the key correlates with the heap, or the table is small
enough to be sorted in memory. Whether an order is right never matters for what is captured; ranges of a split table cover
it whole because the first and the last are open, and each begins where the one before ends. An index may lack rows, if it
is damaged. So tables are read from the heap and sorted; where that would take too much, by the index, and then the rows that
came are counted and compared with the heap's.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from backupd.engines.base import StreamInfo, TableInfo
from backupd.engines.postgres.catalog import Column, Measure, Partitioning, Relation, Types
from backupd.engines.postgres.client import TEXT_SETTINGS
from backupd.engines.postgres.condition import sound
from backupd.engines.postgres.names import literal, quoted
from backupd.errors import SourceIncomplete

MIB = 1024 * 1024
SORT_BYTES = 64 * MIB
SPLIT_BYTES = 256 * MIB
PIECE_BYTES = 128 * MIB
MOST_PIECES = 256
CORRELATED = 0.9
FORMAT_VERSION = 1
# Types whose order is the same on every host, so that ranges of keys may be trusted.
_SURE_ORDER = frozenset({"int2", "int4", "int8", "oid", "uuid", "date", "timestamp", "timestamptz"})
# Types that the collation "C" sorts as their bytes are sorted.
_BYTEWISE = frozenset({"text", "varchar", "bytea"})
# Types whose hash is the same in every database, so that rows of hash partitions find their partition again.
_SURE_HASH = _SURE_ORDER | {"bool", "text", "varchar", "bpchar", "bytea", "numeric", "time", "timetz", "interval"}


def _switches(*, index: bool, sort: bool) -> str:
    """Settings of one statement: all that decide how it is planned, because each outlives its piece."""
    switches = {
        "seqscan": True,
        "tidscan": True,
        "indexscan": index,
        "indexonlyscan": False,
        "bitmapscan": False,
        "sort": sort,
    }
    words = "".join(f"SET enable_{name} = {'on' if value else 'off'}; " for name, value in switches.items())
    return words + "SET work_mem = '96MB';"


# From the heap; in the order of an index; and as the planner likes, for statements about the catalogs.
FROM_HEAP = _switches(index=False, sort=True)
BY_INDEX = _switches(index=True, sort=False)
FREELY = _switches(index=True, sort=True)


@dataclass(frozen=True, slots=True)
class Piece:
    """One row stream: what the manifest says of it, and how a worker reads it.

    Attributes:
        lock: the table to lock, in SQL; empty for the large objects.
        settings: statements before the COPY.
        copy: the COPY statement.
        table: the table's name for messages.
        counted: what to count the rows of, in SQL, if they come in the order of an index that might lack some; else empty.
    """

    info: StreamInfo
    lock: str
    settings: str
    copy: str
    table: str
    counted: str = ""


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A table of the manifest and its pieces. `target` is where its rows are loaded to: a partition's root, if need be."""

    info: TableInfo
    target: Relation
    through_root: bool
    bytes: int
    pieces: tuple[Piece, ...]


class Planner:
    """Plans the row streams of a database.

    Args:
        measures: of each table that holds rows, by oid.
        roots: which partitioned table the rows of a partition must be loaded through, by the partition's oid.
        encoding: the server's.
        major: the server's major version.
        jobs: how many streams may be read at the same time.
    """

    def __init__(
        self,
        types: Types,
        measures: Mapping[int, Measure],
        roots: Mapping[int, Relation],
        encoding: str,
        major: int,
        jobs: int,
    ) -> None:
        self._types = types
        self._measures = measures
        self._roots = roots
        self._encoding = encoding
        self._major = major
        self._jobs = jobs

    def tables(self, relations: Sequence[Relation]) -> list[TablePlan]:
        """The plan of every table, the largest first."""
        groups: dict[int, list[Relation]] = {}
        targets = {}
        for relation in relations:
            target = self._roots.get(relation.oid, relation)
            groups.setdefault(target.oid, []).append(relation)
            targets[target.oid] = target
        plans = [self._table(targets[oid], members) for oid, members in groups.items()]
        return sorted(plans, key=lambda plan: (-plan.bytes, plan.info.name))

    def _table(self, target: Relation, members: Sequence[Relation]) -> TablePlan:
        columns = [column for column in target.columns if not column.generated]
        through_root = [member.oid for member in members] != [target.oid]
        measure = Measure(sum(self._measures[member.oid].bytes for member in members), 0)
        if not through_root:
            measure = self._measures[target.oid]
        ordered = not through_root and self._is_ordered(target, measure)
        info = TableInfo(
            name=target.label,
            key=measure.key,
            rows=None,
            columns=tuple((column.name, column.type) for column in columns),
            format=self._format(columns),
            ordered=ordered and self._is_told(target, measure),
        )
        names = [column.name for column in columns]
        pieces = []
        for member in members:
            member_measure = self._measures[member.oid]
            parts = list(self._parts(member, member_measure, names, ordered))
            hint = max(member_measure.bytes // len(parts), 1)
            stream = StreamInfo(info.name, "rows", hint, key=tuple(names.index(name) for name in measure.key))
            for settings, copy in parts:
                counted = member.quoted if settings == BY_INDEX else ""
                pieces.append(Piece(stream, member.quoted, settings, copy, member.label, counted))
        return TablePlan(info, target, through_root, measure.bytes, tuple(pieces))

    def _format(self, columns: Sequence[Column]) -> str:
        made_of = [(column.name, column.type, self._types.description(column.type_oid)) for column in columns]
        text = repr((FORMAT_VERSION, self._major, TEXT_SETTINGS, self._encoding, made_of))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]

    def _is_sure(self, table: Relation, name: str) -> bool:
        return any(c.name == name and self._types.is_plain(c.type_oid, _SURE_ORDER) for c in table.columns)

    def _is_told(self, table: Relation, measure: Measure) -> bool:
        """Whether rows that come in the order of the key are told to: texts only where they are sorted byte by byte."""
        bytewise = {c.name for c in table.columns if self._types.is_plain(c.type_oid, _BYTEWISE)}
        if measure.bytes < SORT_BYTES:
            return all(self._is_sure(table, name) or name in bytewise for name in measure.key)
        return all(self._is_sure(table, name) for name in measure.key)

    def _is_ordered(self, table: Relation, measure: Measure) -> bool:
        if not measure.key:
            return False
        if measure.bytes < SORT_BYTES:
            return True
        # Beyond what is sorted in memory only an index will do, whose order must not be the collation's.
        return (measure.correlation or 0.0) > CORRELATED and self._is_sure(table, measure.key[0])

    def _order(self, table: Relation, measure: Measure) -> str:
        collatable = {c.name for c in table.columns if self._types.is_collatable(c.type_oid)}
        small = measure.bytes < SORT_BYTES
        words = [
            quoted(name) + (' COLLATE pg_catalog."C"' if name in collatable and small else "") for name in measure.key
        ]
        return " ORDER BY " + ", ".join(words)

    def _parts(self, table: Relation, measure: Measure, names: list[str], ordered: bool) -> Iterator[tuple[str, str]]:
        """The settings and the COPY statement of each piece of a table."""
        columns = ", ".join(map(quoted, names))
        encoding = f"TO STDOUT (ENCODING {literal(self._encoding)})"

        def select(condition: str, order: str) -> str:
            where = f" WHERE {condition}" if condition else ""
            return f"COPY (SELECT {columns} FROM ONLY {table.quoted}{where}{order}) {encoding}"

        if table.condition is not None:
            condition = sound(table.condition, table.label)
            yield FROM_HEAP, f"COPY (SELECT {columns} FROM ONLY {table.quoted} {condition}) {encoding}"
        elif ordered:
            order = self._order(table, measure)
            settings = BY_INDEX if measure.bytes >= SORT_BYTES else FROM_HEAP
            for condition in self._key_ranges(self._key_bounds(table, measure), quoted(measure.key[0])):
                yield settings, select(condition, order)
        elif table.method == "heap" and self._count(measure) > 1:
            shares = self._count(measure)
            bounds = [f"'({measure.blocks * share // shares},0)'::pg_catalog.tid" for share in range(1, shares)]
            for condition in _ranges(bounds, "ctid"):
                yield FROM_HEAP, select(condition, "")
        elif not names:
            yield FROM_HEAP, select("", "")
        else:
            yield FROM_HEAP, f"COPY {table.quoted} ({columns}) {encoding}"

    def _count(self, measure: Measure) -> int:
        """Into how many pieces a table is split."""
        if self._jobs < 2 or measure.bytes < SPLIT_BYTES:
            return 1
        wanted = -(-measure.bytes // PIECE_BYTES)
        return max(1, min(wanted, MOST_PIECES, measure.blocks))

    def _key_bounds(self, table: Relation, measure: Measure) -> list[str]:
        """Where to split by the key: at the planner's histogram of it."""
        name, count = measure.key[0], self._count(measure)
        steps = len(measure.bounds) - 1
        if count < 2 or steps < 2 or not self._is_sure(table, name):
            return []
        (column,) = (column for column in table.columns if column.name == name)
        chosen = dict.fromkeys(measure.bounds[steps * share // count] for share in range(1, count))
        kind = self._types.name(column.type_oid)
        return [f"{literal(bound)}::{kind}" for bound in chosen if bound != measure.bounds[0]]

    def _key_ranges(self, bounds: Sequence[str], name: str) -> Iterator[str]:
        """As `_ranges`, and since version 18, where a column that is NOT NULL may have older rows that are, those too.

        It is a piece of its own, which costs nothing: as one more condition of the last piece it would keep that from using
        the index, so that the whole table would be read once more.
        """
        yield from _ranges(bounds, name)
        if bounds and self._major >= 18:
            yield f"{name} IS NULL"


def _ranges(bounds: Sequence[str], name: str) -> Iterator[str]:
    """Conditions that together hold for every row whose value is not NULL, each for other rows."""
    if not bounds:
        yield ""
        return
    yield f"{name} < {bounds[0]}"
    for low, high in pairwise(bounds):
        yield f"{name} >= {low} AND {name} < {high}"
    yield f"{name} >= {bounds[-1]}"


def loading_roots(
    relations: Sequence[Relation], partitionings: Mapping[int, Partitioning], types: Types
) -> dict[int, Relation]:
    """Partitions whose rows must be loaded through the topmost table, and that table.

    Where rows are spread by the hash of an enum, they land elsewhere in a restored database, because the hash is of the
    label's number there; and of an expression or another unusual type nothing is known.
    """
    by_oid = {relation.oid: relation for relation in relations}
    found = {}
    for relation in relations:
        if relation.kind != "r" or relation.parent is None:
            continue
        top, unsure = relation, False
        while top.parent is not None and top.parent in by_oid:
            top = by_oid[top.parent]
            how = partitionings.get(top.oid)
            if how is not None and how.strategy == "h":
                unsure = unsure or not all(types.is_plain(oid, _SURE_HASH) for oid in how.types)
        if unsure and top is not relation:
            found[relation.oid] = top
    return found


def refuse_foreign(relations: Sequence[Relation], chosen: Sequence[Relation], roots: Mapping[int, Relation]) -> None:
    """Refuse tables whose rows would be loaded through a root that has foreign partitions: they might end up elsewhere.

    Raises:
        SourceIncomplete: there is one.
    """
    by_oid = {relation.oid: relation for relation in relations}
    wanted = {roots[table.oid].oid for table in chosen if table.oid in roots}
    for relation in relations:
        above: Relation | None = relation if relation.kind == "f" else None
        while above is not None and above.oid not in wanted:
            above = by_oid.get(above.parent) if above.parent is not None else None
        if above is not None:
            raise SourceIncomplete(
                f"the partitions of {above.label} can only be loaded through it, and {relation.label} is a foreign one:"
                " a restore would write to another server",
                object_name=relation.label,
                hint=f"detach the foreign partition, or exclude the partitions of {above.label}",
            )
