"""Which of many values a database takes for one, asked a part at a time, so that no statement grows with what is asked.

The database puts each part in its own order, and the parts are merged as it is done with files that do not fit into memory:
of two of them the beginnings are asked together, and what stands before the end of the shorter one is settled.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from backupd.engines.grouping import batches
from backupd.errors import Failed
from backupd.model import Cells

RANKED, RANKED_BYTES = 2000, 1 << 20
"""What one statement asks of a server."""
Ask = Callable[[Sequence[Cells]], Iterable[tuple[int, int]]]
"""Gives for each value its place among those that were asked, and its rank: the same one to equal values."""
_Alike = list[Cells]


def ranked(values: Collection[Cells], ask: Ask, count: int, size: int) -> Mapping[Cells, int]:
    """For each value a number: equal ones for values that the database takes for one.

    Args:
        values: each of them once.
        ask: asks the database; its order of two values must always be the same.
        count, size: so many values, and little more than so many bytes of them, are asked at a time.

    Raises:
        Failed: it does not tell of all of them.
    """
    runs = deque(_in_order([[value] for value in batch], ask) for batch in batches(values, count, size))
    while len(runs) > 1:
        runs.append(_merged(deque(runs.popleft()), deque(runs.popleft()), ask, (count // 2, size // 2)))
    return {value: number for number, alike in enumerate(runs[0] if runs else ()) for value in alike}


def _ranks(classes: Sequence[_Alike], ask: Ask) -> list[int]:
    """The ranks of classes of equal values: one of each is asked."""
    found = dict(ask([alike[0] for alike in classes]))
    if found.keys() != set(range(len(classes))):
        raise Failed("the database did not say of all values which are the same", hint="run again")
    return [found[place] for place in range(len(classes))]


def _in_order(classes: Sequence[_Alike], ask: Ask) -> list[_Alike]:
    return _by_rank(zip(_ranks(classes, ask), classes, strict=True))


def _by_rank(classes: Iterable[tuple[int, _Alike]]) -> list[_Alike]:
    found: dict[int, _Alike] = {}
    for rank, alike in classes:
        found.setdefault(rank, []).extend(alike)
    return [found[rank] for rank in sorted(found)]


def _merged(one: deque[_Alike], two: deque[_Alike], ask: Ask, half: tuple[int, int]) -> list[_Alike]:
    out: list[_Alike] = []
    while one and two:
        mine, theirs = _beginning(one, *half), _beginning(two, *half)
        ranks = _ranks([*mine, *theirs], ask)
        ends = [ranks[len(mine) - 1]] if one else []
        ends += [ranks[-1]] if two else []
        settled = min(ends, default=max(ranks))
        both = list(zip(ranks, [*mine, *theirs], strict=True))
        out += _by_rank((rank, alike) for rank, alike in both if rank <= settled)
        for run, part in ((one, both[: len(mine)]), (two, both[len(mine) :])):
            run.extendleft(alike for rank, alike in reversed(part) if rank > settled)
    return [*out, *one, *two]


def _beginning(run: deque[_Alike], count: int, size: int) -> list[_Alike]:
    """The first classes of a run, at least one; they are taken from it."""
    part: list[_Alike] = []
    taken = 0
    while run and (not part or (len(part) < count and taken < size)):
        part.append(run.popleft())
        taken += sum(len(cell) for cell in part[-1][0] if isinstance(cell, bytes))
    return part
