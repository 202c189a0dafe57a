"""The protocol of garbage collection, over every order of its steps on a small clock, and without each of its rules.

One pack P that is garbage, one session that may lean on it, one prune. Times are whole numbers. What must never be: a
snapshot that counts, and needs P, while P is deleted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

HORIZON, LONGEST, DELAY = 12, 3, 1
"""Ticks; how long a session may last; how long its last write may be under way."""


@dataclass(frozen=True)
class Rules:
    """What the writer and the prune keep to."""

    fence: bool = True
    grace: bool = True
    obeys_marks: bool = True
    lists_again: bool = True


def violations(rules: Rules) -> Iterator[tuple[int, ...]]:
    """Every order of steps in which a snapshot loses P."""
    wait = LONGEST + DELAY if rules.grace else 1
    for began in range(HORIZON):
        for looked in range(began, HORIZON):  # the session reads the marks
            for listed in range(HORIZON):  # the prune lists snapshots: P is needed by none that is visible
                for marked in range(listed, HORIZON):
                    if rules.obeys_marks and marked <= looked:
                        continue
                    yield from _session(rules, began, looked, listed, marked, marked + wait)


def _session(
    rules: Rules, began: int, looked: int, listed: int, marked: int, earliest: int
) -> Iterator[tuple[int, ...]]:
    for again in range(earliest, earliest + HORIZON):
        for deleted in (again, again + 1, again + 3):
            if deleted <= looked:
                continue  # it is gone: the session does not lean on it
            for committed in range(looked, HORIZON + LONGEST + DELAY):
                if rules.fence and committed - began > LONGEST:
                    continue
                for delay in range(DELAY + 1):
                    visible = committed + delay
                    seen_first = visible <= listed
                    seen_again = visible <= (again if rules.lists_again else listed)
                    if not seen_first and not seen_again:
                        yield began, looked, listed, marked, again, deleted, committed, visible


def test_nothing_is_lost() -> None:
    """With all four rules no order of steps loses anything."""
    assert next(violations(Rules()), None) is None


@pytest.mark.parametrize("missing", ["fence", "grace", "obeys_marks", "lists_again"])
def test_each_rule_is_needed(missing: str) -> None:
    """Without any one of them something is lost."""
    assert next(violations(Rules(**{missing: False})), None) is not None
