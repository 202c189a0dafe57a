"""The difference of two multisets of rows, in memory and beyond."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.records.difference import Difference
from backupd.records.shapes import Projection, TextShape
from backupd.records.values import Record, Value, text_decoder

TEXT = text_decoder("utf-8")


class Blocks:
    """A spool in memory that counts."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.blocks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.blocks.append(data)
        return len(self.blocks) - 1

    def read(self, number: int) -> bytes:
        return self.blocks[number]

    def close(self) -> None:
        self.blocks.clear()


def rows_of(values: list[tuple[int, int]]) -> list[bytes]:
    return [b"%d\t%d\n" % value for value in values]


def keyed(count: int = 2, key: tuple[int, ...] = (0,)) -> TextShape:
    return TextShape([f"c{n}" for n in range(count)], key, [TEXT] * count)


def told(old: list[bytes], new: list[bytes], shape: TextShape, budget: int) -> list[Record]:
    """The records that differ; their number is the same where only that is asked for."""
    two = [Difference(shape, Blocks, budget=budget) for _ in range(2)]
    for difference in two:
        for row in old:
            difference.add([row], -1)
        for row in new:
            difference.add([row], 1)
    records = list(two[0].records())
    assert +Counter(record.op for record in records) == +two[1].counts()
    return records


PAIRS = st.dictionaries(st.integers(0, 60), st.integers(0, 3), max_size=60)


@settings(max_examples=150, deadline=None)
@given(PAIRS, PAIRS, st.sampled_from([300, 2000, 10**9]))
def test_a_keyed_table(old: dict[int, int], new: dict[int, int], budget: int) -> None:
    """With a key: keys on one side only are added or removed, keys with another row are changed, whatever fits in memory."""
    records = told(rows_of(list(old.items())), rows_of(list(new.items())), keyed(), budget)
    by_op: dict[str, set[Value]] = {"added": set(), "removed": set(), "changed": set()}
    for record in records:
        by_op[record.op].add(record.key[0])
    assert by_op == {
        "added": {str(k) for k in new.keys() - old.keys()},
        "removed": {str(k) for k in old.keys() - new.keys()},
        "changed": {str(k) for k in old.keys() & new.keys() if old[k] != new[k]},
    }
    assert len(records) == sum(map(len, by_op.values()))


MANY = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=80)


@settings(max_examples=150, deadline=None)
@given(MANY, MANY, st.sampled_from([300, 10**9]))
def test_a_table_without_a_key(old: list[tuple[int, int]], new: list[tuple[int, int]], budget: int) -> None:
    """Without a key rows are a multiset: duplicates count, and nothing is called changed."""
    records = told(rows_of(old), rows_of(new), keyed(key=()), budget)
    before, after = Counter(old), Counter(new)
    found = {
        op: Counter(tuple(map(int, r.new or r.old or ())) for r in records if r.op == op) for op in ("added", "removed")
    }
    assert found == {"added": after - before, "removed": before - after}
    assert len(records) == sum(found["added"].values()) + sum(found["removed"].values())


@pytest.mark.parametrize("budget", [500, 10**9])
def test_composite_keys_and_nulls(budget: int) -> None:
    """All columns of a key together are the key; a NULL in one of them means nothing to anybody, so such rows are not paired."""
    old = [b"a\tb\t1\n", b"a\tc\t1\n", b"\\N\tx\t1\n"]
    new = [b"a\tb\t2\n", b"b\tc\t1\n", b"\\N\tx\t2\n"]
    found = [(r.op, r.key) for r in told(old, new, keyed(3, (0, 1)), budget)]
    assert sorted(found, key=str) == sorted(
        [
            ("changed", ("a", "b")),
            ("removed", ("a", "c")),
            ("added", ("b", "c")),
            ("removed", (None, "x")),
            ("added", (None, "x")),
        ],
        key=str,
    )


def test_records_come_in_order_of_their_keys() -> None:
    """What stayed in memory is told in order, numbers as numbers where they are ones."""
    shape = TextShape(["id"], (0,), [int])
    found = [r.key for r in told([], [b"%d\n" % n for n in (10, 9, 100, 1)], shape, 10**9)]
    assert found == [(1,), (9,), (10,), (100,)]


def test_memory_is_bounded_by_parting() -> None:
    """Far more rows than the budget go through the spool, more than once where a part is still too large."""
    Blocks.made = 0
    old = [b"%d\tx\n" % n for n in range(20_000)]
    new = [b"%d\t%s\n" % (n, b"y" if n % 100 == 0 else b"x") for n in range(20_000)]
    found = told(old, new, keyed(), 6_000)
    assert {r.op for r in found} == {"changed"}
    assert {r.key[0] for r in found} == {str(n) for n in range(0, 20_000, 100)}
    assert Blocks.made > 2


@pytest.mark.parametrize("budget", [2_000, 30_000])
def test_one_key_for_everything_ends(budget: int) -> None:
    """Thousands of rows of one key are nobody's database; it still comes to an end, with every row counted."""
    old = [b"1\t%d\n" % n for n in range(3_000)]
    found = told(old, [], keyed(), budget)
    assert Counter(r.op for r in found) == {"removed": 3_000}


def test_rows_that_may_not_be_seen() -> None:
    """What the predicate hides appears neither as old nor as new."""
    difference = Difference(keyed(), Blocks, hidden=lambda cells: None if cells[0] == b"7" else ())
    difference.add([b"7\ta\n", b"8\ta\n"], -1)
    difference.add([b"7\tb\n", b"8\tb\n"], 1)
    assert [r.key for r in difference.records()] == [("8",)]


@given(st.lists(st.binary(max_size=30), max_size=5), st.lists(st.integers(0, 4), max_size=3, unique=True))
def test_garbage_rows_harm_nothing(rows: list[bytes], key: list[int]) -> None:
    """Rows with too few or too many fields, or none, are told of as far as they go."""
    found = told([], rows, keyed(5, tuple(key)), 10**9)
    assert len(found) == len(rows)
    assert all(len(r.new or ()) == 5 for r in found)


def test_a_projection_takes_fields_as_they_are_written() -> None:
    """Columns that both sides have, in one order; fields that are missing are NULL."""
    assert Projection((2, 0))(b"a\\t\tb\tc\\n\n") == b"c\\n\ta\\t\n"
    assert Projection((3,))(b"a\n") == b"\\N\n"
