"""Which changes one statement does together, and what is believed of their rows afterwards."""

from collections.abc import Collection, Iterator, Sequence

from backupd.engines import grouping, rowproof
from backupd.model import Cells, Change, LiveColumn, LiveTable, NamedCells, Reference

TABLE = LiveTable("t", (LiveColumn("id", "int"), LiveColumn("a", "text")), ("id",))


def insert(n: int, a: bytes = b"x", table: str = "t") -> Change:
    row = {"id": b"%d" % n, "a": a}
    return Change("insert", table, {"id": row["id"]}, {}, row)


def delete(n: int) -> Change:
    return Change("delete", "t", {"id": b"%d" % n}, {"id": b"%d" % n, "a": b"x"}, {})


def bundled(run: Sequence[Change], *references: Reference) -> list[int]:
    """How many changes each statement does."""
    parts = grouping.parts(grouping.dependencies(run, references))
    found = list(grouping.bundles(run, parts, lambda one: grouping.bundled(one, TABLE, references)))
    assert [first for first, _, _ in found] == [0, *(last for _, last, _ in found)][: len(found)]
    assert all(together == (last > first + 1) for first, last, together in found)
    return [last - first for first, last, _ in found]


def test_neighbours_are_done_together_within_bounds() -> None:
    """By rows and by bytes; other tables, other columns and rows without a key stand apart."""
    assert bundled([insert(n) for n in range(450)]) == [200, 200, 50]
    assert bundled([insert(n, b"x" * 100_000) for n in range(5)]) == [2, 2, 1]
    assert bundled([insert(1, b"x" * 900_000), insert(2)]) == [1, 1]
    other = Change("insert", "t", {}, {}, {"id": b"9"})
    assert bundled([insert(1), insert(2), other, other, insert(3, table="u")]) == [2, 2, 1]
    assert bundled([delete(n) for n in range(60)]) == [50, 10]
    whole = Change("delete", "t", {"id": b"1", "a": b"x"}, {}, {})
    assert bundled([whole, whole]) == [1, 1]
    assert bundled([]) == []


def test_a_table_that_refers_to_itself_loses_its_rows_one_by_one() -> None:
    itself = Reference("r", "t", ("a",), "t", ("id",))
    assert bundled([delete(1), delete(2)], itself) == [1, 1]
    assert bundled([insert(1), insert(2)], itself) == [2]


def having(*rows: Cells) -> rowproof.Rows:
    """A table in which these rows are found, whatever is asked for."""

    def found(_table: str, columns: Sequence[str], _by: Sequence[str], _values: Collection[Cells]) -> Iterator[Cells]:
        assert tuple(columns[1:]) in {("id", "a"), ("a", "id")}
        yield from (((row[0], *row) if columns[1] == "id" else (row[0], row[1], row[0])) for row in rows)

    return found


def test_only_what_is_the_same_to_the_last_letter_is_believed() -> None:
    one, two = insert(1), insert(2)
    right = having((b"1", b"x"), (b"2", b"x"))
    assert rowproof.are_written(right, TABLE, [one, two])
    assert rowproof.are_as_before(right, TABLE, [delete(1), delete(2)])
    for rows in ([(b"1", b"x")], [(b"1", b"x"), (b"2", b"X")], [(b"1", b"x"), (b"02", b"x")], [(b"1", b"x")] * 3, []):
        assert not rowproof.are_written(having(*rows), TABLE, [one, two])
        assert not rowproof.are_as_before(having(*rows), TABLE, [delete(1), delete(2)])
    assert not rowproof.are_written(right, TABLE, [one, one]), "one key twice"
    assert not rowproof.are_written(right, TABLE, [insert(1)]), "one row is asked for as before"
    assert not rowproof.are_written(right, TABLE, [one, Change("insert", "t", {}, {}, {"a": b"x"})]), "no key"


def test_named_cells_are_what_a_dict_is() -> None:
    places = {"id": 0, "b": 2}
    cells = NamedCells(places, (1, "secret", None))
    assert cells == {"id": 1, "b": None} == cells
    assert ({**cells}, list(cells), cells.get("a"), "a" in cells, len(cells)) == (
        dict(cells),
        ["id", "b"],
        None,
        False,
        2,
    )
    assert cells == NamedCells(places, (1, "other", None)) != NamedCells(places, (2, "secret", None))
    assert "secret" not in repr(cells)
