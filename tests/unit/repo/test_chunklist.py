"""Lists of equal chunks read as they are asked: the truth is a walk over all of it, and what is not asked for is not read."""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.chunklist import ChunkList, Nodes
from backupd.repo.codecs import ZSTD
from backupd.repo.nodes import STRUCTURE, ChunkRef, Entry, PackPlace, encode_node
from backupd.repo.snapshot import StreamRoot
from backupd.repo.trees import TreeBuilder, finish_trees, walk

SIZE = 65_536
PLACE = PackPlace(bytes(32))


def chunk(content: int, length: int = SIZE) -> ChunkRef:
    name = hashlib.blake2b(b"%d %d" % (content, length), digest_size=32).digest()
    return ChunkRef(name, PLACE, content % 1000, 30_000, length, ZSTD)


class Shelf:
    """Where nodes are stored, and which of them were read."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.read: list[bytes] = []
        self.nodes = Nodes()

    def store(self, plain: bytes) -> ChunkRef:
        name = hashlib.blake2b(plain, digest_size=32).digest()
        self.held[name] = plain
        return ChunkRef(name, PLACE, 0, len(plain), len(plain), ZSTD)

    def load(self, ref: ChunkRef) -> bytes:
        self.read.append(ref.id)
        return self.held[ref.id]

    def root(self, refs: Sequence[ChunkRef]) -> StreamRoot:
        builder = TreeBuilder(self.store)
        for ref in refs:
            builder.add(ref)
        finish_trees([builder], lambda: None)
        assert builder.top is not None
        return StreamRoot(Kind.PAGES, 0, len(refs), sum(ref.plain_length for ref in refs), builder.top)

    def open(self, root: StreamRoot, owner: object = "one", nodes: Nodes | None = None) -> ChunkList:
        return ChunkList(root, SIZE, self.load, owner=owner, nodes=nodes or self.nodes, name="snapshots/1")


def ids(refs: Iterable[ChunkRef]) -> list[bytes]:
    return [ref.id for ref in refs]


edits = st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 9)), max_size=12)


@settings(max_examples=20, deadline=None)
@given(
    counts=st.tuples(st.integers(0, 2000), st.integers(0, 2000)),
    rest=st.integers(1, SIZE),
    changed=edits,
    asked=st.lists(st.integers(0, 2999), max_size=6),
)
def test_it_is_the_list_that_a_walk_gives(
    counts: tuple[int, int], rest: int, changed: list[tuple[int, int]], asked: list[int]
) -> None:
    """By number, in order, and chunk by chunk compared with another version, of any length and however little is kept."""
    shelf = Shelf()
    old = [chunk(n) for n in range(counts[0])]
    new = [chunk(n) for n in range(counts[1])]
    for at, content in changed:
        if at < len(new):
            new[at] = chunk(10_000 + content)
    if new:
        new[-1] = chunk(5, rest)
    roots = shelf.root(old), shelf.root(new)
    for nodes in (Nodes(), Nodes(most=0)):
        lists = [shelf.open(root, nodes=nodes) for root in roots]
        assert [len(one) for one in lists] == list(map(len, (old, new)))
        for number in asked:
            if number < len(new):
                assert lists[1][number].id == new[number].id
        same = [a.id == b.id for a, b in zip(old, new, strict=False)]
        assert list(map(bool, lists[0].same(lists[1]))) == same == list(map(bool, lists[1].same(lists[0])))
        assert ids(lists[1]) == ids(new) == ids(walk(roots[1].top, Kind.PAGES, shelf.load))
        for beyond in (-1, len(new)):
            with pytest.raises(IndexError):
                lists[1][beyond]


def test_a_look_up_reads_the_way_to_its_chunk_and_each_node_once() -> None:
    """One chunk of 20,000 costs a node for each level; another version costs those that changed, and nothing if none did."""
    shelf = Shelf()
    refs = [chunk(n) for n in range(20_000)]
    first = shelf.open(shelf.root(refs))
    assert first[15_234].id == refs[15_234].id
    way = len(shelf.read)
    assert 1 <= way <= 3
    assert first[15_234].id == refs[15_234].id
    refs[5] = chunk(-1)
    second = shelf.open(shelf.root(refs))
    shelf.read.clear()
    assert second[15_234].id == refs[15_234].id
    assert len(shelf.read) < way
    assert second[5].id == refs[5].id
    assert len(shelf.read) <= way
    shelf.read.clear()
    differing = [at for at, equal in enumerate(first.same(second)) if not equal]
    assert differing == [5]
    assert len(shelf.read) <= 2 * way
    assert len(shelf.held) > 50
    shelf.read.clear()
    shelf.open(shelf.root(refs), owner="another writer")[5]
    assert len(shelf.read) == way


def _level_0(*refs: ChunkRef) -> tuple[bytes, int, int]:
    return encode_node(STRUCTURE, 0, [Entry(ref) for ref in refs]), len(refs), sum(ref.plain_length for ref in refs)


Made = Callable[[Shelf], StreamRoot]


def _over(*nodes: tuple[bytes, int, int], level: int = 1, chunks: int | None = None) -> Made:
    """A list of nodes, with what its parent says of each."""

    def made(shelf: Shelf) -> StreamRoot:
        entries = [Entry(shelf.store(plain), count, size) for plain, count, size in nodes]
        total = sum(count for _, count, _ in nodes) if chunks is None else chunks
        top = encode_node(STRUCTURE, level, entries)
        return StreamRoot(Kind.PAGES, 0, total, sum(size for _, _, size in nodes), top)

    return made


WHOLE, SHORT = _level_0(chunk(1), chunk(2)), _level_0(chunk(3), chunk(4, 9))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (_over(SHORT, WHOLE), "not whole groups"),
        (_over(_level_0(chunk(1, 9), chunk(2, 2 * SIZE - 9)), WHOLE), "not whole groups"),
        (_over(WHOLE, _level_0(chunk(1), chunk(2, SIZE + 1))), "not whole groups"),
        (_over(WHOLE, (WHOLE[0], 3, 3 * SIZE)), "other totals than its parent"),
        (_over((WHOLE[0], 3, 3 * SIZE), SHORT), "other totals than its parent"),
        (_over(WHOLE, SHORT, chunks=5), "other totals than its snapshot"),
        (_over(WHOLE, SHORT, level=2), "wrong level"),
        (_over((WHOLE[0], 0, 0), WHOLE), "without chunks"),
        (_over(WHOLE, (b"\1\0", 2, 2 * SIZE)), "truncated"),
    ],
)
def test_a_list_that_is_not_what_it_says_is_refused(made: Made, said: str) -> None:
    """Chunks that are no whole groups, totals that differ, levels that do not follow: reading what is wrong is an error."""
    shelf = Shelf()
    root = made(shelf)
    with pytest.raises(IntegrityError, match=said) as caught:
        list(shelf.open(root))
    assert caught.value.object_name == "snapshots/1"
