"""The difference of two multisets of rows, as records: added, removed, changed.

Rows come in any order and from both sides mixed; equal ones cancel out. What is left is paired by key. Memory is bounded:
beyond it rows are parted by a hash of their keys and wait in a spool, which its owner has to seal. At the end every part is
small enough, or is parted again.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from backupd.model import Cells
from backupd.records.shapes import Shape
from backupd.records.values import Op, Record, Value, is_same, order

BUDGET = 64 * 1024 * 1024
PARTS = 64
_DEEPEST = 4
_FLOOD = 64
"""So many rows for each key are no database's: they are parted by themselves, and need not be paired."""
_OVERHEAD = 160
"""What an entry takes beside its row."""
_HEAD = struct.Struct("<qI")


class Spool(Protocol):
    """Blocks that wait outside of memory, sealed."""

    def write(self, data: bytes) -> int:
        """Keep a block; returns its number."""

    def read(self, number: int) -> bytes:
        """A block."""

    def close(self) -> None:
        """Give everything back."""


class Difference:
    """Collects rows of two sides, and tells what only one of them has.

    Args:
        shape: of the rows.
        spool: makes a place for what memory does not hold.
        budget: bytes of memory.
        hidden: of a row's cells, the places whose values count as NULL, or None if it is left out of what is told; None for none.
    """

    def __init__(
        self,
        shape: Shape,
        spool: Callable[[], Spool],
        *,
        budget: int = BUDGET,
        hidden: Callable[[Cells], tuple[int, ...] | None] | None = None,
        depth: int = 0,
    ) -> None:
        self.shape, self._make, self._budget, self._hidden, self._depth = shape, spool, budget, hidden, depth
        self._net: dict[bytes, int] = {}
        self._held = 0
        self._spool: Spool | None = None
        self._parts: list[list[int]] = []
        self._flooded = False

    def add(self, rows: Iterable[bytes], times: int) -> None:
        """Count rows in: on the new side with `times` above zero, on the old side below it."""
        net = self._net
        held = self._held
        for row in rows:
            found = net.get(row)
            if found is None:
                net[row] = times
                held += len(row) + _OVERHEAD
            elif found + times:
                net[row] = found + times
            else:
                del net[row]
                held -= len(row) + _OVERHEAD
        self._held = held
        if held > self._budget and self._depth < _DEEPEST:
            self._part()

    def _part(self) -> None:
        """Move everything from memory to the spool, each row to the part that its key belongs to."""
        if self._spool is None:
            self._spool, self._parts = self._make(), [[] for _ in range(PARTS)]
            self._flooded = self._depth > 0 and self._is_flood()
        key = _nothing if self._flooded else self.shape.key
        waiting: list[list[bytes]] = [[] for _ in range(PARTS)]
        for row, times in self._net.items():
            part = waiting[hash((self._depth, key(row) or row)) % PARTS]
            part.append(_HEAD.pack(times, len(row)))
            part.append(row)
        self._net.clear()
        self._held = 0
        for blocks, part in zip(self._parts, waiting, strict=True):
            if part:
                blocks.append(self._spool.write(b"".join(part)))

    def _is_flood(self) -> bool:
        return len(self._net) >= _FLOOD * len({self.shape.key(row) or row for row in self._net})

    def records(self) -> Iterator[Record]:
        """What differs; in the order of the keys if it all stayed in memory. Nothing may be added afterwards."""
        for part in self._leaves():
            yield from part._paired(part._net)

    def counts(self) -> Counter[Op]:
        """How many records differ, without looking at their values where that is not needed. Nothing may be added afterwards."""
        found: Counter[Op] = Counter()
        for part in self._leaves():
            if self.shape.exact and self._hidden is None:
                part._count(found)
            else:
                found.update(record.op for record in part._paired(part._net))
        return found

    def _leaves(self) -> Iterator["Difference"]:
        """The parts that stayed in memory, one after the other; this one if it never had to be parted."""
        if self._spool is None:
            yield self
            return
        self._part()
        for blocks in self._parts:
            child = Difference(self.shape, self._make, budget=self._budget, hidden=self._hidden, depth=self._depth + 1)
            try:
                for number in blocks:
                    for times, rows in _unpacked(self._spool.read(number)).items():
                        child.add(rows, times)
                yield from child._leaves()
            finally:
                child.close()

    def _count(self, found: Counter[Op]) -> None:
        key_of = self.shape.key
        gone: Counter[bytes] = Counter()
        for row, times in self._net.items():
            key = key_of(row) if times < 0 else None
            if key is not None:
                gone[key] -= times
            elif times < 0:
                found["removed"] -= times
        for row, times in self._net.items():
            if times > 0:
                key = key_of(row)
                both = 0 if key is None else min(times, gone[key])
                if key is not None and both:
                    gone[key] -= both
                found["changed"] += both
                found["added"] += times - both
        found["removed"] += gone.total()

    def close(self) -> None:
        """Give the spool back."""
        if self._spool is not None:
            self._spool.close()

    def _paired(self, net: Mapping[bytes, int]) -> Iterator[Record]:
        by_key: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
        alone: list[tuple[bytes, int]] = []
        for row, times in net.items():
            key = self.shape.key(row)
            if key is None:
                alone.append((row, times))
                continue
            sides = by_key.setdefault(key, ([], []))
            sides[times > 0].extend([row] * abs(times))
        found = [record for old, new in by_key.values() for record in self._of_key(sorted(old), sorted(new))]
        found.sort(key=lambda record: tuple(map(order, record.key)))
        yield from found
        for row, times in sorted(alone):
            for record in self._told(row if times < 0 else None, row if times > 0 else None):
                yield from (record for _ in range(abs(times)))

    def _of_key(self, old: list[bytes], new: list[bytes]) -> Iterator[Record]:
        both = min(len(old), len(new))
        for before, after in zip(old, new, strict=False):
            yield from self._told(before, after)
        for row in old[both:]:
            yield from self._told(row, None)
        for row in new[both:]:
            yield from self._told(None, row)

    def _told(self, old: bytes | None, new: bytes | None) -> Iterator[Record]:
        before = None if old is None else self._seen(old)
        after = None if new is None else self._seen(new)
        shape = self.shape
        if before is None and after is None:
            return
        if before is None or after is None:
            yield Record("removed" if after is None else "added", shape.columns, shape.keyed, before, after)
        elif not all(map(is_same, before, after)):
            yield Record("changed", shape.columns, shape.keyed, before, after)

    def _seen(self, row: bytes) -> tuple[Value, ...] | None:
        values = self.shape.values(row)
        if self._hidden is None:
            return values
        found = self._hidden(self.shape.cells(row))
        return None if found is None else tuple(None if at in found else v for at, v in enumerate(values))


def _nothing(_: bytes) -> bytes | None:
    return None


def _unpacked(block: bytes) -> dict[int, list[bytes]]:
    """The rows of a block, by how often they count."""
    out: dict[int, list[bytes]] = {}
    at = 0
    while at < len(block):
        times, length = _HEAD.unpack_from(block, at)
        at += _HEAD.size + length
        out.setdefault(times, []).append(block[at - length : at])
    return out
