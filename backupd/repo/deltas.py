"""From two versions of a chunk to the difference between them. FORMAT.md, section 6; `codecs` undoes what is made here.

A row delta keeps what it removes as well as what it adds, so that whoever asks what changed reads the delta and not the
table. Rows are a multiset with an order: what moved is removed here and added there.
"""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import filterfalse

from backupd.repo.codecs import MAX_DELTA, split_rows
from backupd.repo.compression import MIN_DICTIONARY, compress, compress_with

_Placed = list[tuple[int, bytes]]
_FEW = 8


def encode_row_delta(bases: Sequence[bytes], result: bytes, level: int) -> bytes | None:
    """The payload of codec 2: `result` as rows removed from and added to those of its bases.

    Returns:
        None if the versions are so different that no delta may hold them.
    """
    old = [row for base in bases for row in split_rows(base)]
    new = split_rows(result)
    removed, added = row_changes(old, new)
    plain = _joined(len(old), len(new), removed, added)
    return compress(plain, level) if len(plain) <= MAX_DELTA else None


def encode_dictionary_delta(bases: Sequence[bytes], result: bytes, level: int) -> bytes | None:
    """The payload of codec 3: `result` compressed with its bases as dictionary; None if they are too short for one."""
    dictionary = b"".join(bases)
    return compress_with(result, dictionary, level) if len(dictionary) >= MIN_DICTIONARY else None


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


def _joined(old: int, new: int, removed: _Placed, added: _Placed) -> bytes:
    numbers = [old, new, len(removed), len(added)]
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
