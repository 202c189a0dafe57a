"""The difference between two texts of rows of which few differ, found by walking both from one difference to the next.

Nothing is made of the rows that are alike: texts are compared as bytes, and rows are counted by their line feeds. Where too
much differs, or rows moved, it gives up, and the caller finds the difference by the rows themselves.
"""

from dataclasses import dataclass, field

_MOST = 48
"""So many differences are walked to: from there on other ways cost less."""
_RUN = 6
"""So many rows in a row may have come, gone or changed for the walk to find where both texts go on alike."""
_WAYS = sorted(
    ((gone, come) for gone in range(_RUN + 1) for come in range(_RUN + 1) if gone or come),
    key=lambda way: (max(way), min(way) not in (0, max(way)), way[0] != way[1]),
)
"""How many rows went and how many came, the likelier first: so many changed, or went, or came."""
_BLOCK, _SMALL = 4096, 32


@dataclass(slots=True)
class Difference:
    """How many rows there are in both, and what to remove from the old and add for the new ones, each row with its place."""

    old: int = 0
    new: int = 0
    removed: list[tuple[int, bytes]] = field(default_factory=list, repr=False)
    added: list[tuple[int, bytes]] = field(default_factory=list, repr=False)


def walk(old: bytes, new: bytes) -> Difference | None:
    """What differs between two texts of whole rows.

    Returns:
        None if it is not found this way: rows moved, many differ, or a text does not end with its row.
    """
    if not (old.endswith(b"\n") and new.endswith(b"\n")):
        return None
    found = Difference()
    x = y = 0
    for _ in range(_MOST):
        at = old.rfind(b"\n", x, x + _alike(old, x, new, y)) + 1 or x  # behind the last whole row that both have here
        rows = old.count(b"\n", x, at)
        y += at - x
        x = at
        found.old += rows
        found.new += rows
        if x == len(old) and y == len(new):
            return found if _none_moved(found) else None
        differing = _apart(_rows(old, x), _rows(new, y))
        if differing is None:
            return None
        gone, come = differing
        found.removed += enumerate(gone, found.old)
        found.added += enumerate(come, found.new)
        found.old += len(gone)
        found.new += len(come)
        x += sum(map(len, gone))
        y += sum(map(len, come))
    return None


def _alike(a: bytes, x: int, b: bytes, y: int) -> int:
    """How many bytes are the same, from a place in each on."""
    most = min(len(a) - x, len(b) - y)
    n, size = 0, _BLOCK
    while n < most:
        size = min(size, most - n)
        if a[x + n : x + n + size] == b[y + n : y + n + size]:
            n += size
        elif size <= _SMALL:
            break
        else:
            size //= 2
            continue
    while n < most and a[x + n] == b[y + n]:
        n += 1
    return n


def _rows(text: bytes, at: int) -> list[bytes]:
    """The next rows, one more than may differ in a row."""
    out = []
    for _ in range(_RUN + 1):
        end = text.find(b"\n", at) + 1
        if not end:
            break
        out.append(text[at:end])
        at = end
    return out


def _apart(old: list[bytes], new: list[bytes]) -> tuple[list[bytes], list[bytes]] | None:
    """The first rows of each, up to where both go on alike; a list that is short of rows ends with its text."""
    for gone, come in _WAYS:
        if gone <= len(old) and come <= len(new) and old[gone : gone + 1] == new[come : come + 1]:
            return old[:gone], new[:come]
    return None


def _none_moved(found: Difference) -> bool:
    return {row for _, row in found.removed}.isdisjoint(row for _, row in found.added)
