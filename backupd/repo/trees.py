"""Building the trees of a stream while it is read, and walking them. FORMAT.md, section 9.

The structure tree says where each chunk is; of rows, the content tree says what is in it. Leaves of both are cut at the
same places. Memory follows the depth of a tree, never its length.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.nodes import (
    CONTENT,
    STRUCTURE,
    TOP_ENTRIES,
    ChunkRef,
    ContentEntry,
    Entry,
    Node,
    decode_node,
    encode_node,
    is_cut,
)

Store = Callable[[bytes], ChunkRef]


@dataclass(slots=True)
class _Level:
    """One level: the open node, and cut nodes that wait for the packs of their entries."""

    entries: list[Entry]
    content: list[ContentEntry]
    refs: int
    line: list[tuple[list[Entry], list[ContentEntry]]]


class _Tree:
    """The levels of one tree. A node can be written only when the packs of all its entries are complete."""

    def __init__(self, tree: int, lowest: int, store: Store) -> None:
        self._tree = tree
        self._lowest = lowest
        self._store = store
        self._levels: list[_Level] = []
        self.at = lowest
        self.top: bytes | None = None

    @property
    def waiting(self) -> int:
        return sum(len(level.line) for level in self._levels)

    def _level(self, level: int) -> _Level:
        while level - self._lowest >= len(self._levels):
            self._levels.append(_Level([], [], 0, []))
        return self._levels[level - self._lowest]

    def extend(self, refs: Sequence[ChunkRef]) -> Iterator[int]:
        """Append chunks at the lowest level; after each that ended a node, gives how many were appended."""
        here = self._level(self._lowest)
        for n, ref in enumerate(refs, 1):
            here.entries.append(Entry(ref, 1, ref.plain_length))
            here.refs += 1 + _family(ref) if ref.bases else 1
            if is_cut(ref.id, len(here.entries), here.refs):
                self.cut(self._lowest)
                yield n

    def add(self, level: int, entry: Entry, content: ContentEntry | None = None) -> None:
        """Append an entry."""
        here = self._level(level)
        here.entries.append(entry)
        if content is not None:
            here.content.append(content)
        ref = entry.ref
        here.refs += 1 + _family(ref) if ref.bases else 1
        if is_cut(ref.id, len(here.entries), here.refs):
            self.cut(level)

    def cut(self, level: int) -> None:
        here = self._level(level)
        here.line.append((here.entries, here.content))
        here.entries, here.content, here.refs = [], [], 0
        self.drain(level)

    def drain(self, level: int) -> None:
        """Write the nodes whose packs are complete, in order."""
        line = self._level(level).line
        while line and all(_complete(entry.ref) for entry in line[0][0]):
            entries, content = line.pop(0)
            ref = self._store(encode_node(self._tree, level, entries, content))
            above = Entry(ref, sum([e.chunks for e in entries]), sum([e.bytes for e in entries]))
            self.add(level + 1, above, summary(content) if content else None)

    def drain_all(self) -> None:
        for n in range(len(self._levels)):
            self.drain(self._lowest + n)

    def step(self) -> None:
        """With every pack complete, write one more level; sets `top` once there is one."""
        here = self._level(self.at)
        self.drain(self.at)
        highest = self.at - self._lowest == len(self._levels) - 1
        if highest and not here.line and len(here.entries) <= TOP_ENTRIES:
            self.top = encode_node(self._tree, self.at, here.entries, here.content)
            return
        if here.entries:
            self.cut(self.at)
        self.at += 1


def summary(content: Sequence[ContentEntry]) -> ContentEntry:
    """What a node says of the stretch below it."""
    return ContentEntry(sum(c.rows for c in content), content[0].first, content[-1].last)


class TreeBuilder:
    """Builds a stream's structure tree and, if chunks are added with what is in them, its content tree.

    Cut nodes wait in line until their packs are complete; `waiting` tells how many, and the owner completes open packs
    before the line grows long.

    Args:
        store: writes a structure node's plaintext as a chunk and returns where it is.
        store_content: the same for content nodes; needed for streams of rows only.
    """

    def __init__(self, store: Store, store_content: Store | None = None) -> None:
        self._structure = _Tree(STRUCTURE, 0, store)
        self._content = _Tree(CONTENT, 1, store_content) if store_content else None
        self._store_content = store_content
        self._open: list[ContentEntry] = []

    @property
    def waiting(self) -> int:
        """How many cut nodes wait for a pack, at all levels of both trees."""
        return self._structure.waiting + (self._content.waiting if self._content else 0)

    def add(self, ref: ChunkRef, content: ContentEntry | None = None) -> None:
        """Append a chunk to the stream."""
        self.extend((ref,), None if content is None else (content,))

    def extend(self, refs: Sequence[ChunkRef], content: Sequence[ContentEntry] | None = None) -> None:
        """Append chunks to the stream; of rows, with what is in each.

        Raises:
            ValueError: something is said of more chunks than there are, or of fewer.
        """
        if content is not None and len(content) != len(refs):
            raise ValueError("not every chunk is described once")
        said, taken = content or (), 0
        for upto in self._structure.extend(refs):
            self._open += said[taken:upto]
            taken = upto
            self._end_leaf()
        self._open += said[taken:]

    def _end_leaf(self) -> None:
        if self._content is None or not self._open:
            return
        assert self._store_content is not None
        content, self._open = self._open, []
        ref = self._store_content(encode_node(CONTENT, 0, (), content))
        self._content.add(1, Entry(ref), summary(content))

    def drain_all(self) -> None:
        """Write what can be written at every level."""
        self._structure.drain_all()
        if self._content:
            self._content.drain_all()

    def step(self) -> None:
        """With every pack complete, write one more level of the structure tree, or else of the content tree."""
        if self.top is None:
            self._structure.step()
            if self._structure.at == 1:
                self._end_leaf()
        elif self._content is not None and self.content_top is None:
            self._content.step()

    @property
    def top(self) -> bytes | None:
        """The top node of the structure tree, once it is known."""
        return self._structure.top

    @property
    def content_top(self) -> bytes | None:
        """The top node of the content tree, once it is known."""
        if self._content is None or self._structure.top is None:
            return None
        if self._structure.at == 0:
            return encode_node(CONTENT, 0, (), self._open)
        return self._content.top

    @property
    def done(self) -> bool:
        """Whether all top nodes are known."""
        return self.top is not None and (self._content is None or self.content_top is not None)


def finish_trees(builders: Sequence[TreeBuilder], complete_packs: Callable[[], None]) -> None:
    """End streams: all of them together, level by level, so that their nodes share packs.

    Args:
        builders: the trees of streams whose chunks have all been added.
        complete_packs: completes every open pack, so that all places are known.
    """
    waiting = [builder for builder in builders if not builder.done]
    while waiting:
        complete_packs()
        for builder in waiting:
            builder.step()
        waiting = [builder for builder in waiting if not builder.done]


def _family(ref: ChunkRef) -> int:
    return sum(1 + _family(base) for base in ref.bases)


def _complete(ref: ChunkRef) -> bool:
    return ref.place.digest is not None and (not ref.bases or all(_complete(base) for base in ref.bases))


def walk(
    top: bytes,
    kind: Kind,
    load: Callable[[ChunkRef], bytes],
    seen: Callable[[ChunkRef], bool] = lambda _: False,
    *,
    totals: tuple[int, int] | None = None,
) -> Iterator[ChunkRef]:
    """The chunks of a structure tree, in order.

    Args:
        top: the top node's plaintext.
        totals: the chunks and bytes that the snapshot says the stream has.
        kind: what the stream's chunks are.
        load: reads a node's chunk, checked against its id.
        seen: asked before a node is loaded; True leaves the node and all below it out.

    Raises:
        IntegrityError: a node is not as the format says.
    """
    node = decode_node(top, STRUCTURE, kind)
    if totals is not None and totals_of(node) != totals:
        raise IntegrityError("a stream's list holds other totals than its snapshot says")
    yield from _walk(node, kind, load, seen)


def totals_of(node: Node) -> tuple[int, int]:
    """The chunks and bytes below a structure node."""
    return sum(e.chunks for e in node.entries), sum(e.bytes for e in node.entries)


def _walk(
    node: Node, kind: Kind, load: Callable[[ChunkRef], bytes], seen: Callable[[ChunkRef], bool]
) -> Iterator[ChunkRef]:
    for entry in node.entries:
        if node.level == 0:
            yield entry.ref
        elif not seen(entry.ref):
            yield from _walk(below(node.level, entry, kind, load), kind, load, seen)


def below(level: int, entry: Entry, kind: Kind, load: Callable[[ChunkRef], bytes]) -> Node:
    """The node that an entry of a structure node at that level, which is above 0, stands for.

    Raises:
        IntegrityError: it is not what its parent says.
    """
    child = _child(level, decode_node(load(entry.ref), STRUCTURE, kind))
    if totals_of(child) != (entry.chunks, entry.bytes):
        raise IntegrityError("a list node holds other totals than its parent says")
    return child


def _child(level: int, child: Node) -> Node:
    if child.level != level - 1:
        raise IntegrityError("a list node stands at the wrong level")
    return child


def walk_content(top: bytes, load: Callable[[ChunkRef], bytes], *, rows: int | None = None) -> Iterator[ContentEntry]:
    """What the content tree says of each chunk, in order.

    Args:
        top: the top node's plaintext.
        load: reads a content node's chunk, checked against its id.
        rows: how many rows the manifest says the stream has.

    Raises:
        IntegrityError: a node is not as the format says.
    """
    node = decode_node(top, CONTENT, Kind.ROWS)
    if rows is not None and sum(c.rows for c in node.content) != rows:
        raise IntegrityError("a stream's content list counts other rows than its snapshot says")
    yield from _walk_content(node, load)


def _walk_content(node: Node, load: Callable[[ChunkRef], bytes]) -> Iterator[ContentEntry]:
    if node.level == 0:
        yield from node.content
        return
    for entry, said in zip(node.entries, node.content, strict=True):
        yield from _walk_content(content_below(node.level, entry, said, load), load)


def content_below(level: int, entry: Entry, said: ContentEntry, load: Callable[[ChunkRef], bytes]) -> Node:
    """The node that an entry of a content node at that level, which is above 0, stands for.

    Raises:
        IntegrityError: it is not what its parent says.
    """
    child = _child(level, decode_node(load(entry.ref), CONTENT, Kind.ROWS))
    if not child.content or summary(child.content) != ContentEntry(said.rows, said.first, said.last):
        raise IntegrityError("a content node says other than its parent")
    return child
