"""What changed between two versions of a chunk of rows, from the deltas between them and nothing else.

A row delta holds what it removes and what it adds. Between two versions lies a way down one chain and up another one, and
the rows on that way, as multisets with those that cancel each other left out, are the difference.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from backupd.repo.codecs import ROW_DELTA, RowDelta
from backupd.repo.nodes import ChunkRef


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Rows that only the older version has, and rows that only the newer one has; each as often as it is there more."""

    removed: Counter[bytes] = field(repr=False)
    added: Counter[bytes] = field(repr=False)


def changes_between(old: ChunkRef, new: ChunkRef, delta_of: Callable[[ChunkRef], RowDelta]) -> RowChanges | None:
    """The difference of two versions of a chunk, read from deltas alone.

    Args:
        old: the older version, with all that it leans on.
        new: the newer one.
        delta_of: reads a row delta (`ChunkReader.row_delta`).

    Returns:
        None if no way of row deltas leads from one to the other: then both have to be read.

    Raises:
        IntegrityError: a delta on the way is missing or damaged.
    """
    down, up = _chain(old), _chain(new)
    places = {ref.id: n for n, ref in enumerate(down)}
    meeting = next((n for n, ref in enumerate(up) if ref.id in places), None)
    if meeting is None:
        return None
    removed: Counter[bytes] = Counter()
    added: Counter[bytes] = Counter()
    for ref in up[:meeting]:
        delta = delta_of(ref)
        removed.update(row for _, row in delta.removed)
        added.update(row for _, row in delta.added)
    for ref in down[: places[up[meeting].id]]:
        delta = delta_of(ref)
        removed.update(row for _, row in delta.added)
        added.update(row for _, row in delta.removed)
    return RowChanges(removed - added, added - removed)


def _chain(ref: ChunkRef) -> list[ChunkRef]:
    """The chunk and the versions below it, as far as row deltas on one base lead."""
    out = [ref]
    while ref.codec == ROW_DELTA and len(ref.bases) == 1:
        ref = ref.bases[0]
        out.append(ref)
    return out
