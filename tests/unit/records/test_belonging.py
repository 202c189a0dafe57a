"""What belongs to a subject: down along every reference, around cycles, and never to what only loses its reference."""

from collections.abc import Collection, Iterator

import pytest

from backupd.errors import UsageError
from backupd.model import Cells, Reference
from backupd.records.belonging import follow_down
from backupd.records.references import parse_reference

COLUMNS = {"p": ("id", "up"), "c": ("a", "b", "p"), "d": ("a", "b")}


def looking(rows: dict[str, list[Cells]]):  # type: ignore[no-untyped-def]
    def look(reference: Reference, values: Collection[Cells]) -> Iterator[Cells]:
        places = [COLUMNS[reference.table].index(column) for column in reference.columns]
        return (row for row in rows[reference.table] if tuple(row[at] for at in places) in values)

    return look


def test_down_around_and_no_further() -> None:
    """Cycles end, keys of two columns are followed, NULL refers to nothing, and unknown tables are passed over."""
    rows: dict[str, list[Cells]] = {
        "p": [(1, 2), (2, 1), (3, None)],
        "c": [("x", 1, 1), ("y", 1, 3), ("z", None, 1)],
        "d": [("x", 1), ("x", 1), ("y", 1), ("z", None)],
    }
    texts = [
        "p(up) -> p(id)",
        "c(p) -> p(id)",
        "d(a, b) -> c(a, b) on delete restrict",
        "no(a) -> p(id)",
        "c(no) -> p(id)",
    ]
    found = follow_down("p", [(1, 2)], COLUMNS, map(parse_reference, texts), looking(rows))
    assert {name: sorted(map(str, some)) for name, some in found.rows.items()} == {
        "p": ["(1, 2)", "(2, 1)"],
        "c": ["('x', 1, 1)", "('z', None, 1)"],
        "d": ["('x', 1)"],
    }
    assert {r.table: values for r, values in found.deleting.items()} == {
        "p": {(1,), (2,)},
        "c": {(1,), (2,)},
        "d": {("x", 1)},
    }


def test_what_only_loses_its_reference_stays() -> None:
    """It is told by what it refers, and what refers to it is not reached."""
    emptied = parse_reference("c(p) -> p(id) ON DELETE  set null")
    rows: dict[str, list[Cells]] = {"p": [(1, None)], "c": [("x", 1, 1)], "d": [("x", 1)]}
    found = follow_down("p", [(1, None)], COLUMNS, [emptied, parse_reference("d(a,b)->c(a,b)")], looking(rows))
    assert found.rows == {"p": [(1, None)]}
    assert (found.emptying, found.deleting) == ({emptied: {(1,)}}, {})


def test_spellings_of_the_parents_mean_nothing_where_children_have_their_own() -> None:
    """Only what stands in the referring table is kept of such a reference."""
    reference = parse_reference("c(p) -> p(id)")
    found = follow_down(
        "p", [(1, None)], COLUMNS, [reference], lambda _r, _v: [("x", 1, 10)], lambda _r: False, lambda _r: True
    )
    assert found.deleting == {reference: {(10,)}}


def test_a_reference_as_it_is_written() -> None:
    assert parse_reference(' s.t( a ,b )-> "u"(c, d) ') == Reference(
        "s.t(a, b)", "s.t", ("a", "b"), '"u"', ("c", "d"), "restrict", declared=False
    )


@pytest.mark.parametrize(
    "text", ["", "a", "a(b)", "a(b) -> c", "a(b, c) -> d(e)", "a(b,) -> d(e, f)", "a(b) -> c(d) on delete"]
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)
