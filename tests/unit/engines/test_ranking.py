"""Which values are one, asked in parts: the same as asked at once, whatever the parts, and no part is larger than allowed."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.engines.ranking import ranked
from backupd.errors import Failed
from backupd.model import Cells

texts = st.text(alphabet="aAbBcC", max_size=4).map(str.encode)


@settings(max_examples=150, deadline=None)
@given(
    values=st.sets(st.tuples(texts) | st.tuples(st.binary(min_size=30, max_size=40).map(bytes.hex).map(str.encode))),
    count=st.integers(1, 9),
    size=st.integers(1, 60),
)
def test_parts_say_what_the_whole_says(values: set[Cells], count: int, size: int) -> None:
    """Of a database that takes letters of both cases for one."""
    longest = max((len(str(v[0])) for v in values), default=0)

    def ask(some: Sequence[Cells]) -> list[tuple[int, int]]:
        assert len(some) <= max(count, 2)
        assert sum(len(value[0]) for value in some[:-1]) <= size + 2 * longest  # type: ignore[misc,arg-type]
        order = sorted({value[0].lower() for value in some})  # type: ignore[union-attr,type-var]
        return [(place, 7 + order.index(value[0].lower())) for place, value in enumerate(some)][::-1]  # type: ignore[union-attr]

    found = ranked(values, ask, count, size)
    assert found.keys() == values
    folded = {value: value[0].lower() for value in values}  # type: ignore[union-attr]
    numbers = {number: {folded[v] for v in values if found[v] == number} for number in found.values()}
    assert all(len(some) == 1 for some in numbers.values())
    assert len(numbers) == len(set(folded.values()))


@pytest.mark.parametrize("said", [[], [(0, 1)], [(0, 1), (5, 1)]])
def test_a_database_that_does_not_say_of_all_is_refused(said: list[tuple[int, int]]) -> None:
    """Rather than taking what it left out for something."""
    with pytest.raises(Failed, match="did not say"):
        ranked({(b"a",), (b"b",)}, lambda _: said, 10, 100)
