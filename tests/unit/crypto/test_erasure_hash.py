"""Hashes of erased rows: equal cells have equal ones, whatever order columns come in, and nothing else has."""

import math

from hypothesis import given
from hypothesis import strategies as st

from backupd.crypto.erasure import HASH_BYTES, ErasureHash, canonical
from backupd.model import Cell
from backupd.records.rowtext import cell_of, field_of

CELLS: st.SearchStrategy[Cell] = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=40),
)
HASHER = ErasureHash.of(b"k" * 32)


@given(CELLS, CELLS)
def test_cells_are_equal_just_if_their_forms_are(a: Cell, b: Cell) -> None:
    """1, 1.0, '1' and b'1' are four cells; the two zeros of a float are one."""
    assert (canonical(a) == canonical(b)) == (type(a) is type(b) and a == b)


def test_numbers_and_texts_that_look_alike_are_not_one() -> None:
    cells: list[Cell] = [None, 1, 1.0, "1", b"1", "", b"", 0, 0.0, math.inf]
    assert len({canonical(cell) for cell in cells}) == len(cells)
    assert canonical(-0.0) == canonical(0.0)


@given(st.one_of(st.none(), st.binary(max_size=40)))
def test_a_servers_text_hashes_as_its_cell(cell: bytes | None) -> None:
    """What capture writes for a value and what a look-up reads of it are the same, escapes or not."""
    digest = HASHER.rows("t", ["a"])
    assert digest((cell_of(field_of(cell)),)) == digest((cell,))


@given(st.dictionaries(st.text(max_size=5), CELLS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_columns_does_not_matter(row: dict[str, Cell], noise: object) -> None:
    names = list(row)
    noise.shuffle(names)  # type: ignore[attr-defined]
    assert HASHER.rows("t", list(row))(tuple(row.values())) == HASHER.rows("t", names)(tuple(row[n] for n in names))


@given(st.lists(CELLS, min_size=2, max_size=2, unique_by=lambda c: (type(c), c)))
def test_columns_tables_and_keys_count(pair: list[Cell]) -> None:
    """Swapped cells, another column, another table, another repository: another hash; and each is short."""
    a, b = pair
    both = HASHER.rows("t", ["a", "b"])
    found = {both((a, b)), both((b, a)), HASHER.rows("u", ["a", "b"])((a, b)), HASHER.rows("t", ["a", "c"])((a, b))}
    found |= {HASHER.rows("t", ["a"])((a,)), ErasureHash.of(b"l" * 32).rows("t", ["a", "b"])((a, b))}
    assert len(found) == 6
    assert {len(one) for one in found} == {HASH_BYTES}


def test_names_are_not_rows() -> None:
    assert HASHER.name("t") != HASHER.rows("t", [])(())
    assert HASHER.name("t") != HASHER.name("u")
