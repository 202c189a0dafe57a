"""What two streams of rows have in common, told from their lists and their deltas, so that only the rest is read.

Lists first: nodes, then chunks, that stand on both sides cancel out, as often as they stand on both, wherever they stand.
What is left is a sum: each chunk of the new side counts plus one, each of the old side minus one, and a chunk that is a row
delta is its bases' rows without the removed and with the added ones. So it may be replaced by its bases and a few rows,
and where both sides come down to the same base, the base cancels out unread. Any order of rows and any cutting gives the
right sum; only what it costs depends on them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.codecs import MAX_CHUNK, ROW_DELTA, RowDelta, split_rows
from backupd.repo.content import tree_top
from backupd.repo.nodes import STRUCTURE, ChunkRef, Entry, Node, decode_node
from backupd.repo.reading import ChunkReader
from backupd.repo.rowdigest import ENDS_INSIDE, STARTS_INSIDE
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import below, walk, walk_content

_T = TypeVar("_T")
Rows = list[bytes]
Unit = tuple[ChunkRef, ...]
"""A chunk of whole rows, or the chunks that one row of more than a mebibyte is cut into."""


@dataclass(frozen=True, slots=True)
class RowStreams:
    """The streams of one table in one snapshot, as their snapshot describes them, and what reads their chunks."""

    streams: Sequence[tuple[StreamRoot, Mapping[str, Any]]]
    reader: ChunkReader


@dataclass(frozen=True, slots=True)
class Side:
    """What one table has that the other one has not: chunks of whole rows, and long rows in pieces."""

    chunks: list[ChunkRef] = field(default_factory=list)
    long: list[Unit] = field(default_factory=list)


@dataclass(slots=True)
class _Item:
    """An entry of a visited node. `before` tells of the chunk that stands before it, or before what is below it."""

    entry: Entry
    before: Callable[[], ChunkRef | None]


class _Lists:
    """The lists of one side, level by level from the top, as far down as they are not those of the other side."""

    def __init__(self, table: RowStreams) -> None:
        self._load = table.reader.node_loader()
        self.levels: dict[int, list[_Item]] = {}
        self._ends: dict[bytes, ChunkRef] = {}
        for root, _ in table.streams:
            node = decode_node(root.top, STRUCTURE, root.kind)
            self._add(node, lambda: None)

    def _add(self, node: Node, before: Callable[[], ChunkRef | None]) -> None:
        items = self.levels.setdefault(node.level, [])
        for entry in node.entries:
            items.append(_Item(entry, before))
            before = self._last(node.level, entry)

    def _last(self, level: int, entry: Entry) -> Callable[[], ChunkRef]:
        def last() -> ChunkRef:
            if level == 1 and (known := self._ends.get(entry.ref.id)) is not None:
                return known
            here, at = entry, level
            while at:
                node = below(at, here, Kind.ROWS, self._load)
                here, at = node.entries[-1], node.level
            return here.ref

        return last

    def open(self, level: int, item: _Item) -> None:
        """Add what a node at a level lists."""
        node = below(level, item.entry, Kind.ROWS, self._load)
        if level == 1:
            self._ends[item.entry.ref.id] = node.entries[-1].ref
        self._add(node, item.before)


def remaining(old: RowStreams, new: RowStreams) -> tuple[Side, Side]:
    """What each of two tables of one row format has that the other one has not.

    Raises:
        IntegrityError: a list is missing, damaged, or not as the format says.
    """
    sides = _Lists(old), _Lists(new)
    for level in range(max(max(side.levels, default=0) for side in sides), 0, -1):
        left = [side.levels.pop(level, []) for side in sides]
        _cancel(*left)
        for table, nodes in zip((old, new), left, strict=True):
            table.reader.expect([item.entry.ref for item in nodes])
        for item, times in _mixed(*left):
            sides[times > 0].open(level, item)
    items = [side.levels.get(0, []) for side in sides]
    _cancel(*items)
    if any(map(_may_be_inside, (item for some in items for item in some))):
        return _remaining_units(old, new)
    before, after = ([item.entry.ref for item in some] for some in items)
    return Side(before), Side(after)


def _cancel(old: list[_Item], new: list[_Item]) -> None:
    common = Counter(item.entry.ref.id for item in old) & Counter(item.entry.ref.id for item in new)
    for items in (old, new):
        left = common.copy()
        kept = []
        for item in items:
            if left[item.entry.ref.id] > 0:
                left[item.entry.ref.id] -= 1
            else:
                kept.append(item)
        items[:] = kept


def _may_be_inside(item: _Item) -> bool:
    """Whether a chunk may be a piece of a row: such rows are cut into pieces of 1 MiB and a rest."""
    if item.entry.ref.plain_length == MAX_CHUNK:
        return True
    before = item.before()
    return before is not None and before.plain_length == MAX_CHUNK


def _remaining_units(old: RowStreams, new: RowStreams) -> tuple[Side, Side]:
    """The same, with whole lists: long rows are compared as wholes, for a piece of one says nothing by itself."""
    tables = old, new
    common: Counter[tuple[bytes, ...]] = Counter(map(_name, units(old)))
    common &= Counter(map(_name, units(new)))
    sides = Side(), Side()
    for table, side in zip(tables, sides, strict=True):
        left = common.copy()
        for unit in units(table):
            if left[_name(unit)] > 0:
                left[_name(unit)] -= 1
            elif len(unit) == 1:
                side.chunks.append(unit[0])
            else:
                side.long.append(unit)
    return sides


def _name(unit: Unit) -> tuple[bytes, ...]:
    return tuple(ref.id for ref in unit)


def units(table: RowStreams) -> Iterator[Unit]:
    """All that a table's lists name, the pieces of a row together.

    Raises:
        IntegrityError: a list is damaged, or a row has no beginning or no end.
    """
    load = table.reader.node_loader()
    for root, described in table.streams:
        content = walk_content(tree_top(described), lambda ref: table.reader.read(ref, Kind.CONTENT))
        held: list[ChunkRef] = []
        try:
            for ref, said in zip(walk(root.top, root.kind, load, totals=root.totals), content, strict=True):
                if bool(said.flags & STARTS_INSIDE) != bool(held):
                    raise IntegrityError(f"the lists of {described['name']} tell of a row without a beginning")
                held.append(ref)
                if not said.flags & ENDS_INSIDE:
                    yield tuple(held)
                    held = []
        except ValueError:
            raise IntegrityError(f"the lists of {described['name']} tell of different numbers of chunks") from None
        if held:
            raise IntegrityError(f"the lists of {described['name']} tell of a row without an end")


Count = tuple[Rows, int]
"""Rows, and how often each counts."""


def differing_rows(
    old: Sequence[ChunkRef],
    new: Sequence[ChunkRef],
    deltas_of: Callable[[Iterable[ChunkRef]], Iterator[RowDelta]],
    chunks_of: Callable[[Iterable[ChunkRef]], Iterator[bytes]],
) -> Iterator[Count]:
    """The rows of the new chunks less those of the old ones, in parts that add up to it.

    Args:
        old, new: chunks of whole rows of one writer's key.
        deltas_of: reads row deltas, in the order in which they are asked for.
        chunks_of: reads chunks.

    Raises:
        IntegrityError: a chunk that is needed is missing or damaged.
    """
    total: Counter[bytes] = Counter()
    forms = _Forms()
    for ref, times in _mixed(old, new):
        total[ref.id] += times
        forms.add(ref)
    for links in range(forms.deepest, 0, -1):
        left = [(ref, times) for ref in forms.of(links) if (times := total[ref.id])]
        for (ref, times), delta in zip(left, deltas_of(ref for ref, _ in left), strict=True):
            yield [row for _, row in delta.added], times
            yield [row for _, row in delta.removed], -times
            for base in ref.bases:
                total[base.id] += times
    left = _bases_first({ref.id: (ref, times) for ref in forms.of(0) if (times := total[ref.id])})
    for (_, times), data in zip(left, chunks_of(ref for ref, _ in left), strict=True):
        yield split_rows(data), times


def _bases_first(wanted: dict[bytes, tuple[ChunkRef, int]]) -> list[tuple[ChunkRef, int]]:
    """Chunks in their order, but none before one that it leans on and that is wanted too: its reader has it at hand then."""
    out = []
    for name in list(wanted):
        for base in wanted[name][0].bases if name in wanted else ():
            if base.id in wanted:
                out.append(wanted.pop(base.id))
        if name in wanted:
            out.append(wanted.pop(name))
    return out


class _Forms:
    """One stored form of each chunk: the one with the shortest way to chunks that have to be read as wholes.

    An id may be stored as different payloads. Because only the shortest is used, no chunk leads back to itself.
    """

    def __init__(self) -> None:
        self._links: dict[bytes, int] = {}
        self._refs: dict[bytes, ChunkRef] = {}
        self.deepest = 0

    def add(self, ref: ChunkRef) -> int:
        """Take a chunk and what it leans on; returns how many row deltas stand between it and the last of them."""
        links = 0
        if ref.codec == ROW_DELTA:
            links = 1 + max(map(self.add, ref.bases))
        if links < self._links.get(ref.id, links + 1):
            self._links[ref.id], self._refs[ref.id] = links, ref
        self.deepest = max(self.deepest, links)
        return links

    def of(self, links: int) -> Iterator[ChunkRef]:
        """The chunks of that many links."""
        return (self._refs[name] for name, found in self._links.items() if found == links)


def _mixed(old: Sequence[_T], new: Sequence[_T]) -> Iterator[tuple[_T, int]]:
    """What both sides list, each where it stands in its table: what belongs together comes soon after each other."""
    places = [(at / len(old), -1, at) for at in range(len(old))] + [(at / len(new), 1, at) for at in range(len(new))]
    for _, times, at in sorted(places):
        yield (old if times < 0 else new)[at], times
