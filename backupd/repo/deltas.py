"""From two versions of a chunk to the difference between them. FORMAT.md, section 6; `codecs` undoes what is made here.

A row delta keeps what it removes as well as what it adds, so that whoever asks what changed reads the delta and not the
table. Rows are a multiset with an order: what moved is removed here and added there.
"""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import filterfalse
from typing import TYPE_CHECKING

from backupd.repo.codecs import MAX_DELTA, row_ends, split_rows
from backupd.repo.compression import MIN_DICTIONARY, compress, compress_with
from backupd.repo.rowwalk import Difference, walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Placed = list[tuple[int, bytes]]
_FEW = 8
_IN_PLACE = 4
"""Where more than one row of so many changed, the other way of finding changes is as fast."""


def encode_row_delta(bases: Sequence[bytes], result: bytes, level: int) -> bytes | None:
    """The payload of codec 2: `result` as rows removed from and added to those of its bases.

    Returns:
        None if the versions are so different that no delta may hold them.
    """
    found = walk(bases[0], result) if len(bases) == 1 else None
    if found is None:
        old, new = Rows.of(bases), Rows.of([result])
        changes = _in_place(old, new)
        if changes is None:
            changes = row_changes([row for base in bases for row in split_rows(base)], split_rows(result))
        found = Difference(len(old.ends), len(new.ends), *changes)
    plain = _joined(found)
    return compress(plain, level) if len(plain) <= MAX_DELTA else None


def encode_dictionary_delta(bases: Sequence[bytes], result: bytes, level: int) -> bytes | None:
    """The payload of codec 3: `result` compressed with its bases as dictionary; None if they are too short for one."""
    dictionary = b"".join(bases)
    return compress_with(result, dictionary, level) if len(dictionary) >= MIN_DICTIONARY else None


class Rows:
    """Rows in one text, and where each ends: nothing is cut out of it before it is asked for."""

    __slots__ = ("data", "ends")

    def __init__(self, data: bytes, ends: "NDArray[np.int64]") -> None:
        self.data, self.ends = data, ends

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> "Rows":
        """The rows of all pieces."""
        return cls(*row_ends(pieces))

    def start(self, row: int) -> int:
        """Where a row begins; of the number of rows, where the text ends."""
        return int(self.ends[row - 1]) if row else 0

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.start(row) : self.start(row + 1)]


def _in_place(old: Rows, new: Rows) -> tuple[_Placed, _Placed] | None:
    """What `row_changes` finds, where some rows were changed and none came, went or moved; None if that is not so.

    Rows of other lengths are found by their ends alone; what lies between them is compared in runs.
    """
    import numpy as np

    rows = len(old.ends)
    if rows != len(new.ends):
        return None
    longer = np.flatnonzero(np.diff(old.ends - new.ends, prepend=0))  # each such row moves what follows it
    if len(longer) * _IN_PLACE > rows:
        return None
    places: list[int] = []
    first = 0
    for row in [*longer.tolist(), rows]:
        places += _changed_between(old, new, first, row)
        if row < rows:
            places.append(row)
        first = row + 1
    if len(places) * _IN_PLACE > rows:
        return None
    removed, added = [(at, old[at]) for at in places], [(at, new[at]) for at in places]
    moved = {row for _, row in removed} & {row for _, row in added}
    return None if moved else (removed, added)


def _changed_between(old: Rows, new: Rows, first: int, end: int) -> list[int]:
    """Of two runs of rows of the same lengths, the places of those that differ."""
    import numpy as np

    a, b = old.start(first), old.start(end)
    c, d = new.start(first), new.start(end)
    before, after = old.data[a:b], new.data[c:d]
    if before == after:
        return []
    differ = np.frombuffer(before, dtype=np.uint8) != np.frombuffer(after, dtype=np.uint8)
    at = np.searchsorted(old.ends, np.flatnonzero(differ) + a, side="right")
    found: list[int] = np.unique(at).tolist()
    return found


def row_changes(old: Sequence[bytes], new: Sequence[bytes]) -> tuple[_Placed, _Placed]:
    """What to remove from `old`, and what to add for `new`, each row with its place.

    Rows that stand in both keep their order; where they do not, as few as possible move.
    """
    before, after = set(old), set(new)
    if len(before) == len(old) and len(after) == len(new):
        gone, fresh = before - after, after - before
        if list(filterfalse(gone.__contains__, old)) == list(filterfalse(fresh.__contains__, new)):
            return _found(old, gone), _found(new, fresh)
    return _with_moves(old, new)


def _found(rows: Sequence[bytes], some: set[bytes]) -> _Placed:
    if len(some) <= _FEW:
        return sorted((rows.index(row), row) for row in some)
    return [(at, row) for at, row in enumerate(rows) if row in some]


def _with_moves(old: Sequence[bytes], new: Sequence[bytes]) -> tuple[_Placed, _Placed]:
    """The same where rows are there more than once, or stand in another order."""
    places: defaultdict[bytes, deque[int]] = defaultdict(deque)
    for at, row in enumerate(old):
        places[row].append(at)
    matched = [(places[row].popleft(), at) for at, row in enumerate(new) if places.get(row)]
    kept = _rising(matched)
    kept_old = {a for a, _ in kept}
    kept_new = {b for _, b in kept}
    removed = [(at, row) for at, row in enumerate(old) if at not in kept_old]
    return removed, [(at, row) for at, row in enumerate(new) if at not in kept_new]


def _rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest run of pairs, of rising second numbers, whose first numbers rise as well."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for n, (first, _) in enumerate(pairs):
        at = bisect_left(tails, first)
        before.append(ends[at - 1] if at else -1)
        if at == len(tails):
            tails.append(first)
            ends.append(n)
        else:
            tails[at], ends[at] = first, n
    out: list[tuple[int, int]] = []
    n = ends[-1] if ends else -1
    while n >= 0:
        out.append(pairs[n])
        n = before[n]
    return out[::-1]


def _joined(found: Difference) -> bytes:
    removed, added = found.removed, found.added
    numbers = [found.old, found.new, len(removed), len(added)]
    numbers += _gaps(at for at, _ in removed)
    numbers += _gaps(at for at, _ in added)
    numbers += [len(row) for _, row in removed]
    numbers += [len(row) for _, row in added]
    return b"".join([_varints(numbers), *(row for _, row in removed), *(row for _, row in added)])


def _gaps(places: Iterable[int]) -> list[int]:
    out, before = [], -1
    for at in places:
        out.append(at - before - 1)
        before = at
    return out


def _varints(numbers: Iterable[int]) -> bytes:
    """LEB128, one after the other."""
    out = bytearray()
    for number in numbers:
        n = number
        while n >= 0x80:
            out.append(n & 0x7F | 0x80)
            n >>= 7
        out.append(n)
    return bytes(out)
