"""However rows are searched, the same rows come out as by a look at every one of them."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backupd.jobs.rowfilter import FEW_PLACES, RowFilter
from backupd.model import Cells
from backupd.records.rowtext import NULL, field_of, row_of
from backupd.repo.codecs import split_rows

# prefixes of one another, of eight bytes and around it, with the bytes that part rows and fields, numbers in many spellings
CELLS = st.sampled_from(
    [None, b"", b"1", b"10", b"01", b"+1", b"1.0", b"a\tb", b"a\nb", b"a", b"\\", b"\\N", b"N", b"\r", b"\0", b"\0\0"]
    + [b"12345678", b"1234567", b"123456789", b"12345678\0", b"12345678" * 2, b"x2345678" + b"1" * 8, b"\xff" * 8]
    + [b"12345678" + b"m" * n + b"12345678" for n in (1, 2, 300)]
) | st.binary(max_size=12)
FEW = st.sampled_from([0, 10**9])
"""Bytes that are searched without arrays: none or all."""


def plainly(positions: Sequence[int], values: Sequence[Cells], chunks: Sequence[bytes]) -> list[bytes]:
    """The rows by a look at every one of them."""
    wanted = {tuple(field_of(c) if isinstance(c, bytes) else None for c in value) for value in values}
    found = []
    for row in (row for chunk in chunks for row in split_rows(chunk)):
        fields = row.removesuffix(b"\n").split(b"\t")
        if len(fields) > max(positions) and tuple(fields[at] for at in positions) in wanted:
            found.append(row)
    return found


@st.composite
def _asked(draw: st.DrawFn) -> tuple[list[int], int, list[Cells], list[bytes], int]:
    columns = draw(st.integers(1, 5))
    cells = draw(st.lists(CELLS, min_size=1, max_size=6))  # few, so that they meet
    one = st.sampled_from(cells)
    rows = st.lists(st.tuples(*[one] * columns).map(row_of), max_size=40).map(b"".join)
    chunks = draw(st.lists(rows.filter(bool), max_size=6))
    positions = draw(st.permutations(range(columns)).flatmap(lambda p: st.integers(1, columns).map(lambda n: p[:n])))
    values = draw(st.lists(st.tuples(*[one | CELLS] * len(positions)), min_size=1, max_size=8))
    return list(positions), columns, values, chunks, draw(FEW)


@settings(deadline=None)
@given(_asked())
@example(([0], 1, [(b"",)], [b"\n\n\n"], 0))
@example(([1], 2, [(b"1",)], [b"1\t1\n" * (FEW_PLACES + 2)], 0))
@example(([1], 2, [(b"1",)], [b"1\t2\n" * (FEW_PLACES + 2) + b"1\t1\n"], 10**9))
@example(([2], 3, [(b"12345678" * 2,), (b"x2345678",), (b"1",)], [b"1\t1\t12345678\n1\t1\t1234567812345678\n"], 0))
def test_every_search_finds_what_a_look_at_every_row_finds(
    asked: tuple[list[int], int, list[Cells], list[bytes], int],
) -> None:
    positions, columns, values, chunks, few = asked
    assert RowFilter(positions, columns, values, few=few)(chunks) == plainly(positions, values, chunks)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([b"1", b"22", b"\t", b"\n", b"\\N", b"\r"]), max_size=60).map(b"".join), max_size=4
    ),
    st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    st.lists(st.sampled_from([b"1", b"22", b"", b"122"]), min_size=1, max_size=4),
    FEW,
)
def test_rows_that_are_none_of_the_table_are_searched_like_all_others(
    chunks: list[bytes], place: tuple[int, int], texts: list[bytes], few: int
) -> None:
    columns, at = place
    values: list[Cells] = [(text,) for text in texts]
    assert RowFilter([at], columns, values, few=few)(chunks) == plainly([at], values, chunks)


@pytest.mark.parametrize("few", [0, 10**9])
@pytest.mark.parametrize("count", [1, 2, 3, 500])
def test_many_rows_in_many_chunks_are_found_by_one_column_and_by_two(few: int, count: int) -> None:
    chunks = [b"".join(b"%d\t%d\tn%d\n" % (n, n % 97, n % 7) for n in range(c, c + 900)) for c in range(0, 9000, 900)]
    by_one: list[Cells] = [(b"%d" % (n * 13 % 131),) for n in range(count)]
    by_two: list[Cells] = [(b"n%d" % (n % 9), b"%d" % (n * 61)) for n in range(count)]
    assert RowFilter([1], 3, by_one, few=few)(chunks) == plainly([1], by_one, chunks)
    assert RowFilter([2, 0], 3, by_two, few=few)(chunks) == plainly([2, 0], by_two, chunks) != []


def test_nothing_equals_null() -> None:
    assert RowFilter([0], 1, [(None,)]).empty
    assert RowFilter([0], 1, [(NULL,)], few=0)([b"\\N\n"]) == []
