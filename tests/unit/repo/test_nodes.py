"""Lists as data: nodes come back as they were, trees give the same sequence, and hostile nodes are refused."""

import hashlib
import os
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.codecs import DICT_DELTA, MAX_CHUNK, ROW_DELTA, ZSTD
from backupd.repo.nodes import (
    CONTENT,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_REFS,
    MIN_ENTRIES,
    STRUCTURE,
    TOP_ENTRIES,
    ChunkRef,
    ContentEntry,
    Entry,
    PackPlace,
    decode_node,
    encode_node,
    is_cut,
)
from backupd.repo.trees import TreeBuilder, finish_trees, walk, walk_content

PLACES = [PackPlace(bytes([n]) * 32) for n in range(3)]
Shape = tuple[object, ...]


def ref(n: int, *bases: ChunkRef, codec: int | None = None, chunk_id: bytes | None = None) -> ChunkRef:
    """A ref whose every field follows from its number."""
    name = chunk_id or hashlib.sha256(b"%d" % n).digest()
    use = codec if codec is not None else (ROW_DELTA if bases else ZSTD)
    return ChunkRef(name, PLACES[n % 3], 1000 + n, 100 + n % 50, 1 + n % 1000, use, bases)


def shape(item: ChunkRef) -> Shape:
    """A ref as a value: refs themselves compare by identity."""
    return (
        item.id,
        item.pack,
        item.offset,
        item.payload_length,
        item.plain_length,
        item.codec,
        tuple(shape(base) for base in item.bases),
    )


def chain(links: int, first: int = 0) -> ChunkRef:
    """A chunk with so many links down to one in full."""
    at = ref(first)
    for n in range(1, links + 1):
        at = ref(first + n, at)
    return at


DIAMOND_BOTTOM = ref(1)
DIAMOND = ref(4, ref(2, DIAMOND_BOTTOM), ref(3, DIAMOND_BOTTOM))
REFS = [ref(10), ref(11, ref(12)), ref(13, ref(14), ref(15)), DIAMOND, chain(8, 20), ref(16, codec=DICT_DELTA)]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_structure_leaves_round_trip(count: int) -> None:
    """A leaf with entries of 0, 1 and 2 bases, a diamond and a chain of 8 comes back, bases shared as they were."""
    entries = [Entry(item, 1, item.plain_length) for item in REFS[:count]]
    node = decode_node(encode_node(STRUCTURE, 0, entries), STRUCTURE, Kind.ROWS)
    assert (node.tree, node.level, node.content) == (STRUCTURE, 0, ())
    assert [shape(e.ref) for e in node.entries] == [shape(e.ref) for e in entries]
    assert [(e.chunks, e.bytes) for e in node.entries] == [(1, e.ref.plain_length) for e in entries]
    if count == 5:
        left, right = node.entries[3].ref.bases
        assert left.bases[0] is right.bases[0]


def test_structure_inner_nodes_round_trip() -> None:
    """An inner node comes back with the chunks and bytes below each entry, up to 64 bits."""
    entries = [Entry(ref(n), 1 << (n * 8), (1 << 64) - 1 - n) for n in range(8)]
    node = decode_node(encode_node(STRUCTURE, 3, entries), STRUCTURE, Kind.ROWS)
    assert node.level == 3
    assert [(shape(e.ref), e.chunks, e.bytes) for e in node.entries] == [
        (shape(e.ref), e.chunks, e.bytes) for e in entries
    ]


def test_content_nodes_round_trip() -> None:
    """Content leaves and inner nodes come back with rows, flags and keys, empty keys included."""
    content = [ContentEntry(3, b"a", b"zz", 1), ContentEntry(0, b"", b"", 3), ContentEntry(9, b"\xff" * 300, b"k", 2)]
    leaf = decode_node(encode_node(CONTENT, 0, [], content), CONTENT, Kind.ROWS)
    assert (leaf.content, leaf.entries) == (tuple(content), ())
    below = [ContentEntry(1 << 40, b"a", b"b"), ContentEntry(2, b"c", b"")]
    inner = decode_node(encode_node(CONTENT, 1, [Entry(ref(1)), Entry(ref(2))], below), CONTENT, Kind.ROWS)
    assert inner.content == tuple(below)
    assert [shape(e.ref) for e in inner.entries] == [shape(ref(1)), shape(ref(2))]


def test_layout_is_the_documented_one() -> None:
    """The columns stand where FORMAT.md, section 9, puts them."""
    base, entry = ref(3), ref(4)
    data = encode_node(STRUCTURE, 0, [Entry(ref(7, base, entry)), Entry(entry)])
    head = struct.pack("<BBHIII", 1, 0, 0, 2, 3, 2)
    refs = [ref(7), entry, base]
    assert data == b"".join(
        [
            head,
            PLACES[1].digest or b"",
            PLACES[0].digest or b"",
            *(r.id for r in refs),
            struct.pack("<3I", *(r.offset for r in refs)),
            struct.pack("<3I", *(r.payload_length for r in refs)),
            struct.pack("<3I", *(r.plain_length for r in refs)),
            struct.pack("<3H", 0, 0, 1),
            struct.pack("<3H", 2, 0xFFFF, 0xFFFF),
            struct.pack("<3H", 1, 0xFFFF, 0xFFFF),
            bytes([ROW_DELTA, ZSTD, ZSTD]),
        ]
    )


def test_each_base_stands_in_a_node_once() -> None:
    """A base of many entries, and one that is an entry itself, takes one ref."""
    base = ref(1)
    entries = [Entry(base), *(Entry(ref(n, base)) for n in range(2, 10))]
    data = encode_node(STRUCTURE, 0, entries)
    assert struct.unpack_from("<I", data, 8) == (9,)
    node = decode_node(data, STRUCTURE, Kind.ROWS)
    assert all(e.ref.bases[0] is node.entries[0].ref for e in node.entries[1:])


@pytest.mark.parametrize("links", range(10))
def test_chains_have_at_most_eight_links(links: int) -> None:
    """A chain of 8 links is read, one of 9 refused, also where its parts stand in any order."""
    data = encode_node(STRUCTURE, 0, [Entry(chain(links))])
    if links <= 8:
        (entry,) = decode_node(data, STRUCTURE, Kind.ROWS).entries
        assert shape(entry.ref) == shape(chain(links))
    else:
        with pytest.raises(IntegrityError, match="chain"):
            decode_node(data, STRUCTURE, Kind.ROWS)


@given(st.permutations(range(11)), st.integers(8, 10))
@settings(max_examples=60, deadline=None)
def test_long_chains_are_found_from_any_side(order: list[int], links: int) -> None:
    """Whichever of a chain's refs a reader meets first, the longest way decides."""
    whole = [chain(n, 0) for n in range(1)]
    for n in range(1, links + 1):
        whole.append(ref(n, whole[-1]))
    entries = [Entry(whole[n]) for n in order if n <= links]
    data = encode_node(STRUCTURE, 0, entries)
    if links <= 8:
        decode_node(data, STRUCTURE, Kind.ROWS)
    else:
        with pytest.raises(IntegrityError):
            decode_node(data, STRUCTURE, Kind.ROWS)


def forge(
    n: int,
    bases: dict[int, tuple[int, int]],
    *,
    ids: list[bytes] | None = None,
    packs: int = 1,
    pack_of: int = 0,
    entries: int = 1,
    kind: int = 0,
    codec: int | None = None,
    plain: int = 50,
    level: int = 0,
    tail: bytes = b"",
) -> bytes:
    """A leaf put together by hand."""
    pairs = [bases.get(i, (0xFFFF, 0xFFFF)) for i in range(n)]
    codecs = [(ROW_DELTA if p != (0xFFFF, 0xFFFF) else ZSTD) if codec is None else codec for p in pairs]
    return b"".join(
        [
            struct.pack("<BBHIII", STRUCTURE, level, kind, packs, n, entries),
            *(bytes([i]) * 32 for i in range(packs)),
            *(ids or [i.to_bytes(32, "little") for i in range(n)]),
            struct.pack(f"<{n}I", *([1] * n)),
            struct.pack(f"<{n}I", *([60] * n)),
            struct.pack(f"<{n}I", *([plain] * n)),
            struct.pack(f"<{n}H", *([pack_of] * n)),
            struct.pack(f"<{n}H", *(a for a, _ in pairs)),
            struct.pack(f"<{n}H", *(b for _, b in pairs)),
            bytes(codecs),
            tail,
        ]
    )


NONE = 0xFFFF


def test_forged_leaves_are_leaves() -> None:
    """What the next tests bend is read while it is straight."""
    node = decode_node(forge(3, {0: (1, 2), 1: (2, NONE)}), STRUCTURE, Kind.ROWS)
    assert [base.id[0] for base in node.entries[0].ref.bases] == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        forge(1, {0: (0, NONE)}),
        forge(2, {0: (1, NONE), 1: (0, NONE)}),
        forge(4, {0: (1, 2), 1: (3, NONE), 2: (1, 3), 3: (0, NONE)}),
        forge(3, {1: (2, NONE), 2: (1, NONE)}),
        forge(2, {0: (2, NONE)}),
        forge(2, {0: (NONE, 1)}),
        forge(2, {0: (1, 0xFFFE)}),
        forge(1, {}, pack_of=1),
        forge(1, {}, packs=2),
        forge(0, {}, entries=1),
        forge(1, {}, entries=2),
        forge(1, {}, kind=1),
        forge(1, {}, codec=9),
        forge(1, {}, codec=ROW_DELTA),
        forge(2, {0: (1, NONE)}, codec=ZSTD),
        forge(1, {}, plain=0),
        forge(1, {}, plain=MAX_CHUNK + 1),
        forge(1, {}, level=MAX_DEPTH, tail=bytes(16)),
        forge(1, {}, level=255, tail=bytes(16)),
        forge(1, {}, tail=b"\0"),
        forge(1, {})[:-1],
        forge(1, {}, packs=0),
        forge(MAX_ENTRIES + 1, {}, entries=MAX_ENTRIES + 1),
        b"",
        bytes(15),
        b"\2" + forge(1, {})[1:],
        struct.pack("<BBHIII", 1, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 1),
        struct.pack("<BBHIII", 1, 0, 0, 1, 20000, 1) + bytes(500),
        struct.pack("<BBHIII", 2, 0, 0, 0, 0, 1024),
        struct.pack("<BBHIIIIBII", 2, 0, 0, 0, 0, 1, 5, 0, 0xFFFFFFFF, 0),
    ],
)
def test_hostile_nodes_are_refused(data: bytes) -> None:
    """Cycles, bases and packs that are not listed, wrong counts, levels, codecs and lengths are refused in little memory."""
    tracemalloc.start()
    try:
        for tree in (STRUCTURE, CONTENT):
            with pytest.raises(IntegrityError):
                decode_node(data, tree, Kind.ROWS)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("bases", "twins"),
    [
        ({0: (1, NONE)}, (0, 1)),
        ({0: (1, NONE), 1: (2, NONE)}, (0, 2)),
        ({0: (3, 1), 1: (2, NONE), 2: (4, NONE)}, (1, 4)),
    ],
)
def test_no_id_stands_on_its_own_way(bases: dict[int, tuple[int, int]], twins: tuple[int, int]) -> None:
    """A chunk that leans on another copy of itself, near or far, is refused; twins side by side are fine."""
    ids = [i.to_bytes(32, "little") for i in range(5)]
    decode_node(forge(5, bases, ids=ids), STRUCTURE, Kind.ROWS)
    ids[twins[1]] = ids[twins[0]]
    with pytest.raises(IntegrityError, match="own bases"):
        decode_node(forge(5, bases, ids=ids), STRUCTURE, Kind.ROWS)
    twin = [ids[0]] * 5
    decode_node(forge(5, {}, ids=twin, entries=5), STRUCTURE, Kind.ROWS)


def test_row_deltas_stand_in_row_streams_alone() -> None:
    """A row delta in the leaf of a page stream, or among the nodes themselves, is refused."""
    with pytest.raises(IntegrityError):
        decode_node(forge(2, {0: (1, NONE)}), STRUCTURE, Kind.PAGES)
    with pytest.raises(IntegrityError):
        decode_node(forge(2, {0: (1, NONE)}, level=1, tail=bytes(16)), STRUCTURE, Kind.ROWS)


def _layers(layers: int, width: int) -> bytes:
    bases = {
        layer * width + n: ((layer + 1) * width + n, (layer + 1) * width + (n + 1) % width)
        for layer in range(layers - 1)
        for n in range(width)
    }
    return forge(layers * width, bases, entries=1000)


def test_a_chunk_leans_on_16_others_at_most() -> None:
    """Two bases over five layers (14 others) are read; over six (20 others) they are refused."""
    decode_node(_layers(5, 2000), STRUCTURE, Kind.ROWS)
    with pytest.raises(IntegrityError, match="too many"):
        decode_node(_layers(6, 2000), STRUCTURE, Kind.ROWS)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_nodes_never_crash(data: st.DataObject) -> None:
    """A node with any bytes changed is read as another node or refused, nothing else."""
    whole = bytearray(encode_node(STRUCTURE, 0, [Entry(item) for item in REFS[:5]]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        decode_node(bytes(whole), STRUCTURE, Kind.ROWS)
    except IntegrityError:
        return


def test_cuts_follow_the_ids() -> None:
    """A node ends behind an id with seven zero bits once it has 16 entries, at 1,024 entries, or at 8,192 refs."""
    zero, other = bytes(31) + b"\x80", bytes(31) + b"\x01"
    assert is_cut(zero, MIN_ENTRIES, 16)
    assert not is_cut(zero, MIN_ENTRIES - 1, 15)
    assert not is_cut(other, MAX_ENTRIES - 1, MAX_REFS - 1)
    assert is_cut(other, MAX_ENTRIES, MAX_ENTRIES)
    assert is_cut(other, 1, MAX_REFS)


class NodeStore:
    """Keeps nodes by id; a node's ref is complete at once, or when `complete` is called."""

    def __init__(self, *, late: bool = False) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.late = late
        self.open = PackPlace() if late else PLACES[0]
        self.written = 0
        self.loaded = 0

    def store(self, plain: bytes) -> ChunkRef:
        name = hashlib.sha256(plain).digest()
        self.nodes[name] = plain
        self.written += 1
        return ChunkRef(name, self.open, 7, len(plain), len(plain), 0)

    def complete(self) -> None:
        if self.late:
            self.open.digest, self.open = os.urandom(32), PackPlace()

    def load(self, item: ChunkRef) -> bytes:
        self.loaded += 1
        return self.nodes[item.id]


def build(refs: Iterable[ChunkRef], store: NodeStore, complete: Callable[[], None] | None = None) -> bytes:
    tree = TreeBuilder(store.store)
    for item in refs:
        tree.add(item)
    return finished(tree, complete or store.complete)


def finished(tree: TreeBuilder, complete: Callable[[], None]) -> bytes:
    finish_trees([tree], complete)
    assert tree.top is not None
    return tree.top


def random_refs(count: int, seed: int = 0) -> list[ChunkRef]:
    made = random.Random(seed)
    return [ChunkRef(made.randbytes(32), PLACES[n % 3], n, 100, 200, ZSTD) for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 63, 64, 65, 127, 1024, 1025, 5000])
def test_trees_give_their_sequence_back(count: int) -> None:
    """Any number of chunks comes back in order, the top node has at most 64 entries, and no node is over a MiB."""
    refs, store = random_refs(count), NodeStore()
    top = build(refs, store)
    assert [shape(r) for r in walk(top, Kind.ROWS, store.load)] == [shape(r) for r in refs]
    node = decode_node(top, STRUCTURE, Kind.ROWS)
    assert len(node.entries) <= TOP_ENTRIES
    assert sum(e.chunks for e in node.entries) == count
    assert sum(e.bytes for e in node.entries) == 200 * count
    assert all(len(plain) <= MAX_CHUNK for plain in store.nodes.values())


@pytest.mark.parametrize("batch", [1, 7, 16, 400, 5000])
def test_batches_of_chunks_give_the_trees_of_single_ones(batch: int) -> None:
    """However many chunks are added at a time, both trees are the same, and each leaf describes the chunks it lists."""
    refs = random_refs(3000)
    said = [ContentEntry(n, b"%d" % n, b"%d" % (n + 1)) for n in range(len(refs))]
    store, single = NodeStore(), NodeStore()
    trees = TreeBuilder(store.store, store.store), TreeBuilder(single.store, single.store)
    for at in range(0, len(refs), batch):
        trees[0].extend(refs[at : at + batch], said[at : at + batch])
    for item, about in zip(refs, said, strict=True):
        trees[1].add(item, about)
    tops = [(finished(tree, NodeStore().complete), tree.content_top) for tree in trees]
    assert tops[0] == tops[1]
    assert tops[0][1] is not None
    assert store.nodes == single.nodes
    assert list(walk_content(tops[0][1], store.load)) == said


def test_chunks_and_what_is_said_of_them_go_together() -> None:
    """A batch with more or fewer descriptions than chunks is refused."""
    store = NodeStore()
    tree = TreeBuilder(store.store, store.store)
    with pytest.raises(ValueError, match="described"):
        tree.extend(random_refs(2), [ContentEntry(1, b"a", b"b")])


@given(
    ends=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.booleans()), max_size=400),
    late=st.booleans(),
    repeat=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_trees_of_any_sequence(ends: list[tuple[int, int, bool]], late: bool, repeat: int) -> None:
    """Sequences with many cuts, repeats, bases and late packs come back, and the same sequence gives the same nodes."""
    base = ref(0)
    refs = [
        ref(
            n,
            *((base,) * bases if bases < 3 else (ref(n + 1, base), base)),
            chunk_id=bytes(30) + bytes([n % 250, end % 4]),
        )
        if deep
        else ref(n, chunk_id=bytes(30) + bytes([n % 250, end]))
        for n, (end, bases, deep) in enumerate(ends)
    ] * repeat
    refs = [r for r in refs if r.id not in {b.id for b in r.bases}]
    store, again = NodeStore(late=late), NodeStore()
    top = build(refs, store)
    assert [shape(r) for r in walk(top, Kind.ROWS, store.load)] == [shape(r) for r in refs]
    assert [shape(r) for r in walk(build(refs, again), Kind.ROWS, again.load)] == [shape(r) for r in refs]
    if not late:
        assert build(refs, NodeStore()) == top


def test_the_worst_ids_still_make_trees() -> None:
    """Chunks that all end in zero bits, or none of which do, give trees within the limits."""
    for last, most in ((0, 16), (1, 1024)):
        refs = [ChunkRef(n.to_bytes(31, "little") + bytes([last]), PLACES[0], n, 9, 9, ZSTD) for n in range(20_000)]
        store = NodeStore()
        top = build(refs, store)
        assert sum(1 for _ in walk(top, Kind.ROWS, store.load)) == 20_000
        leaves = [n for n in (decode_node(p, STRUCTURE, Kind.ROWS) for p in store.nodes.values()) if n.level == 0]
        assert max(len(n.entries) for n in leaves) == most


def test_big_families_cut_a_node_early() -> None:
    """Entries with long chains of bases end a node at 8,192 refs, so that it stays below a MiB."""
    refs = [chain(8, 10 * n) for n in range(2000)]
    store = NodeStore()
    top = build(refs, store)
    assert [shape(r) for r in walk(top, Kind.ROWS, store.load)] == [shape(r) for r in refs]
    assert max(len(p) for p in store.nodes.values()) <= 60 * (MAX_REFS + 9)


def test_nodes_wait_for_their_packs() -> None:
    """A node is written only when the packs of all its entries and bases are complete, and then in order."""
    open_pack, base_pack = PackPlace(), PackPlace()
    base = ChunkRef(bytes(32), base_pack, 1, 9, 9, ZSTD)
    refs = [ChunkRef(n.to_bytes(31, "little") + b"\x80", open_pack, n, 9, 9, ROW_DELTA, (base,)) for n in range(64)]
    store = NodeStore()
    tree = TreeBuilder(store.store)
    for item in refs:
        tree.add(item)
    assert (tree.waiting, store.written) == (4, 0)
    tree.drain_all()
    open_pack.digest = bytes(32)
    tree.drain_all()
    assert (tree.waiting, store.written) == (4, 0), "the bases' pack is still open"
    base_pack.digest = b"\1" * 32
    tree.drain_all()
    assert (tree.waiting, store.written) == (0, 4)
    top = finished(tree, store.complete)
    assert [r.id for r in walk(top, Kind.ROWS, store.load)] == [r.id for r in refs]


def test_inner_nodes_wait_for_their_packs() -> None:
    """Nodes of nodes wait for the packs that the nodes below went into."""
    store = NodeStore(late=True)
    refs = [ChunkRef(n.to_bytes(31, "little") + b"\x80", PLACES[0], n, 9, 9, ZSTD) for n in range(16 * 16 * 40)]
    names = iter(range(1 << 30))

    def write(plain: bytes) -> ChunkRef:
        made = store.store(plain)
        name = next(names).to_bytes(31, "little") + b"\x80"
        store.nodes[name] = plain
        return ChunkRef(name, made.place, 7, len(plain), len(plain), 0)

    tree = TreeBuilder(write)
    for item in refs:
        tree.add(item)
    assert store.written == 16 * 40
    assert tree.waiting == 40
    store.complete()
    tree.drain_all()
    assert store.written == 16 * 40 + 40
    top = finished(tree, store.complete)
    assert [r.id for r in walk(top, Kind.ROWS, store.load)] == [r.id for r in refs]


def test_an_edit_changes_only_the_way_to_the_top() -> None:
    """A chunk replaced, inserted or removed in the middle of 20,000 writes a few new nodes, the rest is shared."""
    refs = random_refs(20_000)
    before = NodeStore()
    build(refs, before)
    fresh = random_refs(1, seed=99)
    for edited in (
        refs[:10_000] + fresh + refs[10_001:],
        refs[:10_000] + fresh + refs[10_000:],
        refs[:10_000] + refs[10_001:],
        [*refs, *fresh],
        [*fresh, *refs],
    ):
        after = NodeStore()
        build(edited, after)
        levels = {decode_node(p, STRUCTURE, Kind.ROWS).level for p in after.nodes.values()}
        assert len(after.nodes.keys() - before.nodes.keys()) <= 3 * (len(levels) + 1)
        assert len(before.nodes) > 100


def test_a_walk_leaves_out_what_was_seen() -> None:
    """A node that `seen` claims is neither loaded nor walked."""
    refs, store = random_refs(3000), NodeStore()
    top = build(refs, store)
    first = decode_node(top, STRUCTURE, Kind.ROWS).entries[0]
    left = list(walk(top, Kind.ROWS, store.load, lambda item: item.id == first.ref.id))
    assert [r.id for r in left] == [r.id for r in refs[first.chunks :]]
    store.loaded = 0
    assert list(walk(top, Kind.ROWS, store.load, lambda _: True)) == []
    assert store.loaded == 0


def test_a_walk_checks_levels_and_totals() -> None:
    """A node at the wrong level, or with other totals than its parent says, is refused."""
    store = NodeStore()
    leaf = store.store(encode_node(STRUCTURE, 0, [Entry(ref(1), 1, ref(1).plain_length)]))
    size = ref(1).plain_length
    assert len(list(walk(encode_node(STRUCTURE, 1, [Entry(leaf, 1, size)]), Kind.ROWS, store.load))) == 1
    for level, chunks, size_said in ((2, 1, size), (1, 2, size), (1, 1, size + 1), (1, 0, 0)):
        top = encode_node(STRUCTURE, level, [Entry(leaf, chunks, size_said)])
        with pytest.raises(IntegrityError):
            list(walk(top, Kind.ROWS, store.load))


def _id(n: int) -> bytes:
    """Ids that end in seven zero bits as often as random ones do, and cost little to make."""
    return (n * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "little") * 4


def _stream(count: int) -> Iterator[ChunkRef]:
    for n in range(count):
        yield ChunkRef(_id(n), PLACES[n % 3], n, 100, 200, ZSTD)


class FileStore(NodeStore):
    """Keeps nodes in a file, so that they do not count as memory."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)
        self.end = 0

    def store(self, plain: bytes) -> ChunkRef:
        os.pwrite(self.file, plain, self.end)
        at, self.end = self.end, self.end + len(plain)
        return ChunkRef(hashlib.sha256(plain).digest(), PLACES[0], at, len(plain), len(plain), 0)

    def load(self, item: ChunkRef) -> bytes:
        return os.pread(self.file, item.payload_length, item.offset)


@pytest.mark.slow
def test_memory_follows_the_depth_not_the_length(tmp_path: Path) -> None:
    """Building and walking 60,000 chunks takes less than 4 MiB, a sixth of what their refs would."""
    count, store = 60_000, FileStore(str(tmp_path / "nodes"))
    tracemalloc.start()
    try:
        top = build(_stream(count), store)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        number = 0
        for got in walk(top, Kind.ROWS, store.load):
            assert got.id == _id(number)
            number += 1
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
        os.close(store.file)
    assert number == count
