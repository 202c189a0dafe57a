"""How the tests are shared among the processes of pytest-xdist: a module goes whole to one of them.

What a module makes for its tests (a server's database, a history of snapshots) is then made once. The tests of the real
S3 server are one unit, wherever they stand, so that it starts once. Units with slow tests go out first, so that no
process is left alone with a long one at the end.
"""

from collections import Counter
from collections.abc import Sequence

import pytest
from xdist.scheduler import LoadScopeScheduling

S3_UNIT = "s3server"
S3_MODULES = tuple(f"tests/cli/test_{name}.py" for name in ("iam", "locks", "newcomer", "s3"))


def unit_of(nodeid: str) -> str:
    """The unit that a test belongs to; the other process knows nothing of it but its id."""
    module, _, name = nodeid.partition("::")
    return S3_UNIT if module in S3_MODULES or "[s3server" in name or "real_s3_server" in name else module


class ByModule(LoadScopeScheduling):
    """Gives units out in the order of the collection."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The items, those of one unit together, the units with most slow tests first.

    Raises:
        pytest.UsageError: a test of the real S3 server stands outside its unit, which would start a second one.
    """
    slow: Counter[str] = Counter()
    for item in items:
        real_s3 = item.get_closest_marker("s3server") is not None
        if real_s3 != (unit_of(item.nodeid) == S3_UNIT):
            raise pytest.UsageError(f"{item.nodeid}: tests/sharing.py and the mark s3server disagree")
        slow[unit_of(item.nodeid)] += real_s3 or item.get_closest_marker("slow") is not None
    return sorted(items, key=lambda item: (-slow[unit_of(item.nodeid)], unit_of(item.nodeid)))
