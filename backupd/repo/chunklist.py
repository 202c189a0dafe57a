"""The list of a stream's chunks, read as it is asked, where all chunks but the last have one size, as those of pages do.

Of the tree only the nodes on the way to a chunk are read, each checked against its id and against what its parent says is
below it: so the place of a chunk is proven by the sums on that way, and what was not read is not relied on. A node that
several snapshots share is read and taken apart once. Not safe for several threads.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from backupd.errors import IntegrityError
from backupd.repo.nodes import STRUCTURE, ChunkRef, Entry, Node, decode_node
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import totals_of

MOST_REFS = 100_000
"""So many chunks' places are kept in memory, with what they lean on."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A node with what follows from it alone: where its entries end, and whether all of them, or all but the last, are whole."""

    node: Node
    ends: list[int]
    totals: tuple[int, int]
    whole: bool
    whole_before: bool


class Nodes:
    """The nodes that were read last, by whose they are and their ids: ids of two owners have nothing in common."""

    def __init__(self, most: int = MOST_REFS) -> None:
        self._most, self._refs = most, 0
        self._known: OrderedDict[tuple[object, bytes], tuple[_Known, int]] = OrderedDict()

    def get(self, owner: object, name: bytes, read: Callable[[], _Known]) -> _Known:
        """A node, read if it is not here."""
        place = owner, name
        found = self._known.get(place)
        if found is not None:
            self._known.move_to_end(place)
            return found[0]
        known = read()
        refs = sum(1 + len(entry.ref.bases) for entry in known.node.entries)
        self._known[place] = known, refs
        self._refs += refs
        while self._refs > self._most and len(self._known) > 1:
            self._refs -= self._known.popitem(last=False)[1][1]
        return known


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of the list: an entry of a node at a level, and whether the list ends with it."""

    level: int
    entry: Entry
    last: bool


class ChunkList:
    """The chunks of a stream.

    Args:
        root: of its tree.
        size: bytes of each chunk; the last one may be shorter.
        load: reads a node's chunk, checked against its id.
        owner: whose the nodes are: under equal owners, equal nodes have equal ids.
        nodes: those that were read already.
        name: of the snapshot's object, for errors.

    Raises:
        IntegrityError: the top node is not as the format says, or the snapshot says other than it.
    """

    def __init__(
        self,
        root: StreamRoot,
        size: int,
        load: Callable[[ChunkRef], bytes],
        *,
        owner: object,
        nodes: Nodes,
        name: str,
    ) -> None:
        self._kind, self._size, self._load = root.kind, size, load
        self._owner, self._nodes, self._name = owner, nodes, name
        self._top = self._decoded(root.top)
        if self._top.totals != root.totals:
            raise self._damage("a stream's list holds other totals than its snapshot says")
        self._require_whole(self._top, last=True)
        self._leaf, self._from = self._top.node if self._top.node.level == 0 else None, 0

    def __len__(self) -> int:
        return self._top.totals[0]

    def __iter__(self) -> Iterator[ChunkRef]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> ChunkRef:
        """A chunk by its number.

        Raises:
            IndexError: there are not so many.
            IntegrityError: a node on the way to it is missing, damaged, or not what its parent says.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        leaf, start = self._leaf, self._from
        if leaf is None or not start <= number < start + len(leaf.entries):
            leaf, start = self._find(number)
            self._leaf, self._from = leaf, start
        return leaf.entries[number - start].ref

    def _find(self, number: int) -> tuple[Node, int]:
        """The leaf that lists a chunk, and the number of its first one."""
        known, start, last = self._top, 0, True
        while known.node.level:
            at = bisect_right(known.ends, number - start)
            last = last and at == len(known.ends) - 1
            start += known.ends[at - 1] if at else 0
            known = self._below(_Part(known.node.level, known.node.entries[at], last))
        return known.node, start

    def _below(self, part: _Part) -> _Known:
        """The node that an entry stands for."""
        entry = part.entry
        known = self._nodes.get(self._owner, entry.ref.id, lambda: self._decoded(self._load(entry.ref)))
        if known.node.level != part.level - 1:
            raise self._damage("a list node stands at the wrong level")
        if known.totals != (entry.chunks, entry.bytes):
            raise self._damage("a list node holds other totals than its parent says")
        self._require_whole(known, last=part.last)
        return known

    def _decoded(self, plain: bytes) -> _Known:
        try:
            return _known(decode_node(plain, STRUCTURE, self._kind), self._size)
        except IntegrityError as error:
            raise self._damage(error.message) from None

    def _require_whole(self, known: _Known, *, last: bool) -> None:
        if not (known.whole_before if last else known.whole):
            raise self._damage("the chunks of the database file are not whole groups of pages")

    def _damage(self, what: str) -> IntegrityError:
        return IntegrityError(what, object_name=self._name)

    # ---- two lists

    def same(self, other: "ChunkList") -> bytearray:
        """Of each chunk that both have, whether it is the same: 1 or 0. A stretch whose nodes have one id is not read.

        Raises:
            IntegrityError: see `__getitem__`.
        """
        found = bytearray(min(len(self), len(other)))
        mine, theirs = self._parts(self._top, last=True), other._parts(other._top, last=True)
        at = 0
        while mine and theirs:
            one, two = mine[-1], theirs[-1]
            if one.entry.ref.id == two.entry.ref.id and one.level == two.level:
                if one.entry.chunks != two.entry.chunks:
                    raise self._damage("two lists tell of different totals of one node")
                found[at : at + one.entry.chunks] = b"\1" * one.entry.chunks
                at += one.entry.chunks
                del mine[-1], theirs[-1]
            elif one.level == two.level == 0:
                at += 1
                del mine[-1], theirs[-1]
            else:
                if one.level >= two.level:
                    mine += self._taken_apart(mine.pop())
                if two.level >= one.level:
                    theirs += other._taken_apart(theirs.pop())
        return found

    def _taken_apart(self, part: _Part) -> list[_Part]:
        return self._parts(self._below(part), last=part.last)

    @staticmethod
    def _parts(known: _Known, *, last: bool) -> list[_Part]:
        """The entries of a node, the first one at the end."""
        level, final = known.node.level, len(known.node.entries) - 1
        return [_Part(level, entry, last and at == final) for at, entry in enumerate(known.node.entries)][::-1]


def _known(node: Node, size: int) -> _Known:
    entries = node.entries
    if any(entry.chunks < 1 for entry in entries):
        raise IntegrityError("a list node names a stretch without chunks")
    before = all(entry.bytes == entry.chunks * size for entry in entries[:-1])
    ending = entries[-1].chunks * size - entries[-1].bytes if entries else 0
    ends = list(accumulate(entry.chunks for entry in entries))
    return _Known(node, ends, totals_of(node), before and ending == 0, before and 0 <= ending < size)
