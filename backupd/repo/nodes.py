"""Lists as data: the structure tree and the content tree of a stream. FORMAT.md, section 9.

A node is self-contained: it names the packs, places and bases of everything its entries need. Trees are cut by content,
so that an unchanged stretch of a stream gives the same nodes, stored once. Memory follows the depth of the tree, never
its length.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from backupd.crypto.chunks import Kind
from backupd.errors import IntegrityError
from backupd.repo.codecs import MAX_CHUNK, MAX_FAMILY, MAX_LINKS, check_shape

STRUCTURE, CONTENT = 1, 2
MIN_ENTRIES, MAX_ENTRIES, MAX_REFS = 16, 1024, 8192
TOP_ENTRIES = 64
MAX_DEPTH = 8
CUT_MASK = 0x7F
NO_BASE = 0xFFFF
_HEAD = struct.Struct("<BBHIII")


@dataclass(slots=True)
class PackPlace:
    """The pack that a chunk is in; its digest is known once the pack is complete."""

    digest: bytes | None = None


@dataclass(slots=True, eq=False)
class ChunkRef:
    """Where a stored chunk is and what it leans on; never changed, and not frozen because so many are made."""

    id: bytes
    place: PackPlace
    offset: int
    payload_length: int
    plain_length: int
    codec: int
    bases: tuple["ChunkRef", ...] = ()

    @property
    def spot(self) -> tuple[object, ...]:
        """Its pack, which must be complete, its offset there, and its id."""
        return self.place.digest, self.offset, self.id

    @property
    def pack(self) -> bytes:
        """The digest of its pack, which must be complete."""
        assert self.place.digest is not None
        return self.place.digest


@dataclass(slots=True)
class Entry:
    """An entry of a structure node: a chunk, or a node with what lies below it; not frozen for the same reason."""

    ref: ChunkRef
    chunks: int = 1
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class ContentEntry:
    """What the content tree says of a chunk, or of a node below (then without flags)."""

    rows: int
    first: bytes = field(repr=False)
    last: bytes = field(repr=False)
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A decoded node. `content` is empty for structure nodes, `entries` for content leaves."""

    tree: int
    level: int
    entries: tuple[Entry, ...]
    content: tuple[ContentEntry, ...] = ()


def is_cut(ref_id: bytes, entries: int, refs: int) -> bool:
    """Whether a node ends behind an entry of that id."""
    return entries >= MAX_ENTRIES or refs >= MAX_REFS or (entries >= MIN_ENTRIES and ref_id[-1] & CUT_MASK == 0)


class Leaning(Protocol):
    """Something that lies at a place and leans on others of its kind."""

    @property
    def spot(self) -> tuple[object, ...]:
        """Where it lies: equal spots hold the same."""

    @property
    def bases(self) -> Sequence[Self]:
        """What it leans on."""


_Item = TypeVar("_Item", bound=Leaning)


def closure(items: Sequence[_Item]) -> tuple[list[_Item], dict[tuple[object, ...], int]]:
    """The items themselves, then their bases, then the bases' bases, each once; equal stretches give equal stretches.

    Returns:
        all of them, and the number of the first at each spot.
    """
    out = list(items)
    number: dict[tuple[object, ...], int] = {}
    for n, item in enumerate(out):
        number.setdefault(item.spot, n)
    for item in out:  # which grows meanwhile
        for base in item.bases:
            if base.spot not in number:
                number[base.spot] = len(out)
                out.append(base)
    return out, number


def encode_node(tree: int, level: int, entries: Sequence[Entry], content: Sequence[ContentEntry] = ()) -> bytes:
    """The plaintext of a node. A content leaf has `content` and no `entries`."""
    refs = [entry.ref for entry in entries]
    if any(ref.bases for ref in refs):
        refs, number = closure(refs)
        bases = [
            (*[number[b.spot] for b in ref.bases], NO_BASE, NO_BASE)[:2] if ref.bases else (NO_BASE, NO_BASE)
            for ref in refs
        ]
    else:  # as in most nodes of a first snapshot: nothing to look for
        bases = [(NO_BASE, NO_BASE)] * len(refs)
    packs: dict[bytes, int] = {}
    in_packs = [packs.setdefault(ref.pack, len(packs)) for ref in refs]
    count = len(content) if tree == CONTENT else len(entries)
    n = len(refs)
    return b"".join(
        [
            _HEAD.pack(tree, level, 0, len(packs), n, count),
            *packs,
            *[ref.id for ref in refs],
            struct.pack(f"<{n}I", *[ref.offset for ref in refs]),
            struct.pack(f"<{n}I", *[ref.payload_length for ref in refs]),
            struct.pack(f"<{n}I", *[ref.plain_length for ref in refs]),
            struct.pack(f"<{n}H", *in_packs),
            struct.pack(f"<{n}H", *[first for first, _ in bases]),
            struct.pack(f"<{n}H", *[second for _, second in bases]),
            bytes([ref.codec for ref in refs]),
            _encode_tail(tree, level, entries, content),
        ]
    )


def _encode_tail(tree: int, level: int, entries: Sequence[Entry], content: Sequence[ContentEntry]) -> bytes:
    n = len(entries)
    if tree == STRUCTURE:
        if level == 0:
            return b""
        return struct.pack(f"<{n}Q", *(e.chunks for e in entries)) + struct.pack(f"<{n}Q", *(e.bytes for e in entries))
    n = len(content)
    rows = struct.pack(f"<{n}{'Q' if level else 'I'}", *(c.rows for c in content))
    flags = b"" if level else bytes(c.flags for c in content)
    lengths = struct.pack(f"<{n}I", *(len(c.first) for c in content)) + struct.pack(
        f"<{n}I", *(len(c.last) for c in content)
    )
    return rows + flags + lengths + b"".join(c.first + c.last for c in content)


class _Columns:
    """Takes columns off a node's plaintext."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def raw(self, n: int) -> bytes:
        piece = self.data[self.at : self.at + n]
        if len(piece) != n:
            raise IntegrityError("a list node is truncated")
        self.at += n
        return piece

    def ints(self, n: int, code: str) -> tuple[int, ...]:
        layout = struct.Struct(f"<{n}{code}")
        return layout.unpack(self.raw(layout.size))


def decode_node(data: bytes, tree: int, kind: Kind) -> Node:
    """Parse a node's plaintext with every bound checked.

    Args:
        data: the authenticated plaintext.
        tree: STRUCTURE or CONTENT.
        kind: the kind of chunk that level 0 lists.

    Raises:
        IntegrityError: it is no such node.
    """
    columns = _Columns(data)
    found, level, zero, packs_n, n, count = _HEAD.unpack(columns.raw(_HEAD.size))
    if (found, zero) != (tree, 0) or level >= MAX_DEPTH or count > MAX_ENTRIES or n > 3 * MAX_REFS or packs_n > n:
        raise IntegrityError("a list node has an impossible head")
    if tree == CONTENT and level == 0 and n:
        raise IntegrityError("a content leaf lists chunks")
    if not (tree == CONTENT and level == 0) and count > n:
        raise IntegrityError("a list node counts more entries than refs")
    child = (Kind.STRUCTURE if tree == STRUCTURE else Kind.CONTENT) if level else kind
    refs = _decode_refs(columns, packs_n, n, child)
    entries, content = _decode_tail(columns, tree, level, count, refs)
    if columns.at != len(data):
        raise IntegrityError("a list node has bytes behind its end")
    return Node(tree, level, entries, content)


def _decode_refs(columns: _Columns, packs_n: int, n: int, kind: Kind) -> list[ChunkRef]:
    places = [PackPlace(columns.raw(32)) for _ in range(packs_n)]
    ids = [columns.raw(32) for _ in range(n)]
    offsets, payloads, plains = (columns.ints(n, "I") for _ in range(3))
    packs, first, second = (columns.ints(n, "H") for _ in range(3))
    codecs = columns.raw(n)
    if n and max(packs) >= packs_n:
        raise IntegrityError("a list node names a pack that it does not list")
    refs: list[ChunkRef | None] = [None] * n
    links = [0] * n
    family: list[frozenset[int]] = [frozenset()] * n

    def build(at: int, depth: int) -> ChunkRef:
        ready = refs[at]
        if depth + links[at] > MAX_LINKS:
            raise IntegrityError("a chain of deltas is too long, or turns on itself")
        if ready is not None:
            return ready
        if first[at] == second[at] == NO_BASE:  # as nearly all of them: what follows would find nothing more
            check_shape(kind, codecs[at], 0, payloads[at], plains[at])
            ref = ChunkRef(ids[at], places[packs[at]], offsets[at], payloads[at], plains[at], codecs[at])
            refs[at] = ref
            return ref
        named = [b for b in (first[at], second[at]) if b != NO_BASE]
        if any(b >= n for b in named) or (first[at] == NO_BASE and named):
            raise IntegrityError("a list node names a base that it does not list")
        check_shape(kind, codecs[at], len(named), payloads[at], plains[at])
        bases = tuple(build(b, depth + 1) for b in named)
        for b in named:
            links[at] = max(links[at], links[b] + 1)
            family[at] |= family[b] | {b}
        if len(family[at]) > MAX_FAMILY:
            raise IntegrityError("a chunk leans on too many others")
        if any(ids[b] == ids[at] for b in family[at]):
            raise IntegrityError("a chunk stands among its own bases")
        ref = ChunkRef(ids[at], places[packs[at]], offsets[at], payloads[at], plains[at], codecs[at], bases)
        refs[at] = ref
        return ref

    return [build(at, 0) for at in range(n)]


def _decode_tail(
    columns: _Columns, tree: int, level: int, count: int, refs: list[ChunkRef]
) -> tuple[tuple[Entry, ...], tuple[ContentEntry, ...]]:
    if tree == STRUCTURE:
        if level == 0:
            return tuple(Entry(ref, 1, ref.plain_length) for ref in refs[:count]), ()
        below = zip(refs, columns.ints(count, "Q"), columns.ints(count, "Q"), strict=False)
        return tuple(Entry(ref, chunks, size) for ref, chunks, size in below), ()
    rows = columns.ints(count, "Q" if level else "I")
    flags = bytes(count) if level else columns.raw(count)
    firsts, lasts = columns.ints(count, "I"), columns.ints(count, "I")
    content = tuple(
        ContentEntry(r, columns.raw(a), columns.raw(b), f)
        for r, a, b, f in zip(rows, firsts, lasts, flags, strict=True)
    )
    return tuple(Entry(ref) for ref in refs[:count]) if level else (), content


assert MAX_REFS * 60 < MAX_CHUNK
