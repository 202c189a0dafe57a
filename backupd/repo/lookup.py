"""The chunks of a stream of rows that may hold a key: both trees are read from the top, and leaves only where it can be.

The leaves of the two trees are cut at the same places, so the content tree says which of the structure tree's leaves are
needed. What it says is a hint of the writer's: whoever asks decides by it, and looks at the rows themselves.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.comparing import Unit
from backupd.repo.content import tree_top
from backupd.repo.nodes import CONTENT, STRUCTURE, ChunkRef, ContentEntry, Entry, Node, decode_node
from backupd.repo.reading import ChunkReader
from backupd.repo.rowdigest import ENDS_INSIDE, STARTS_INSIDE
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import below, content_below, totals_of

Wanted = Callable[[ContentEntry], bool]
"""Whether a chunk, or a stretch of chunks, may hold what is looked for."""


class Lists:
    """The lists of one stream of rows; what was read of them is kept, without the leaves.

    Args:
        root: of the structure tree.
        described: what the manifest says of the stream.
        reader: reads nodes.
    """

    def __init__(self, root: StreamRoot, described: Mapping[str, Any], reader: ChunkReader) -> None:
        self._root, self._described, self._reader = root, described, reader
        self._load = reader.node_loader()
        self._leaves: list[tuple[Callable[[], Node], ContentEntry, Callable[[], Node]]] | None = None

    def chunks(self, wanted: Wanted) -> Iterator[Unit]:
        """The chunks that may hold it, in order, the pieces of a row together.

        Raises:
            IntegrityError: a list is missing, damaged, or not as the format says.
        """
        held: list[ChunkRef] = []
        for structure, said, content in self._all():
            if not wanted(said):
                continue
            entries, descriptions = structure().entries, content().content
            if len(entries) != len(descriptions):
                raise self._damage("different numbers of chunks")
            for entry, about in zip(entries, descriptions, strict=True):
                if not wanted(about):
                    continue
                if bool(about.flags & STARTS_INSIDE) != bool(held):
                    raise self._damage("a row without a beginning")
                held.append(entry.ref)
                if not about.flags & ENDS_INSIDE:
                    yield tuple(held)
                    held = []
        if held:
            raise self._damage("a row without an end")

    @property
    def ends(self) -> tuple[bytes, bytes] | None:
        """The first and the last key, as the list says; None where there are no rows."""
        top = decode_node(tree_top(self._described), CONTENT, Kind.ROWS)
        return (top.content[0].first, top.content[-1].last) if top.content else None

    def _damage(self, what: str) -> IntegrityError:
        return IntegrityError(f"the lists of {self._described['name']} tell of {what}")

    def _all(self) -> list[tuple[Callable[[], Node], ContentEntry, Callable[[], Node]]]:
        if self._leaves is None:
            top = decode_node(self._root.top, STRUCTURE, Kind.ROWS)
            if totals_of(top) != self._root.totals:
                raise self._damage("other totals than the snapshot")
            about = decode_node(tree_top(self._described), CONTENT, Kind.ROWS)
            if sum(entry.rows for entry in about.content) != self._described["rows"]:
                raise self._damage("other rows than the snapshot")
            places, said = list(self._places(top)), list(self._descriptions(about))
            if len(places) != len(said):
                raise self._damage("different numbers of leaves")
            self._leaves = [(place, *what) for place, what in zip(places, said, strict=True)]
        return self._leaves

    def _places(self, node: Node) -> Iterator[Callable[[], Node]]:
        if node.level == 0:
            yield lambda: node
        for entry in node.entries if node.level else ():
            if node.level == 1:
                yield self._leaf(entry)
            else:
                yield from self._places(below(node.level, entry, Kind.ROWS, self._load))

    def _leaf(self, entry: Entry) -> Callable[[], Node]:
        return lambda: below(1, entry, Kind.ROWS, self._load)

    def _descriptions(self, node: Node) -> Iterator[tuple[ContentEntry, Callable[[], Node]]]:
        if node.level == 0:
            if node.content:
                first, last = node.content[0].first, node.content[-1].last
                yield ContentEntry(sum(e.rows for e in node.content), first, last), lambda: node
            else:
                yield ContentEntry(0, b"", b""), lambda: node
            return
        for entry, said in zip(node.entries, node.content, strict=True):
            if node.level == 1:
                yield said, self._described_leaf(entry, said)
            else:
                yield from self._descriptions(content_below(node.level, entry, said, self._load_content))

    def _described_leaf(self, entry: Entry, said: ContentEntry) -> Callable[[], Node]:
        return lambda: content_below(1, entry, said, self._load_content)

    def _load_content(self, ref: ChunkRef) -> bytes:
        return self._reader.read(ref, Kind.CONTENT)
