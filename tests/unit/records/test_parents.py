"""Broken foreign keys are found by looking at what was written only: the same ones as by looking at every row."""

from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.model import Cell, Change, LiveColumn, LiveSchema, Reference
from backupd.records.leading import Leading
from backupd.records.parents import without_parent
from tests.recovery import MemoryLive, table

ID = LiveColumn("id", "", required=True)
SCHEMA = LiveSchema(
    {
        "p": table("p", [ID, "a", "b"]),
        "c": table("c", [ID, "a", "b", "up"]),
        "bare": table("bare", ["p"], key=()),
    },
    (
        Reference("pair", "c", ("a", "b"), "p", ("a", "b")),
        Reference("self", "c", ("up",), "c", ("id",)),
        Reference("plain", "bare", ("p",), "p", ("id",)),
        Reference("said", "bare", ("p",), "c", ("id",), declared=False),
    ),
)
ROWS: dict[str, list[tuple[Cell, ...]]] = {
    "p": [(n, n % 2, n) for n in range(4)],
    "c": [(0, 0, 0, None), (1, 1, 1, 0), (2, 1, None, 2), (3, None, None, 1), (4, 0, 2, None)],
    "bare": [(0,), (0,), (None,), (3,)],
}
PLAIN = Leading({})
SMALL = st.integers(0, 4)
MAYBE = st.none() | SMALL


@st.composite
def _written(draw: st.DrawFn, live: MemoryLive) -> list[Change]:
    """Changes one after the other, each of a row as it is by then."""
    done: list[Change] = []
    new: dict[str, Cell]
    for _ in range(draw(st.integers(1, 6))):
        name = draw(st.sampled_from(list(SCHEMA.tables)))
        definition, held = SCHEMA.tables[name], live.held[name]
        names = [c.name for c in definition.columns if c.name != "id"]
        # rows without a key cannot be told from each other, so none is written twice
        some = [row for row in held if definition.key or not any(row == one.new for one in done)]
        kind = draw(st.sampled_from(["insert", "update", "delete"] if some else ["insert"]))
        if kind == "insert":
            number = max((row["id"] for row in held if "id" in row), default=-1) + 1  # type: ignore[operator,type-var]
            new = {c: draw(MAYBE) for c in names}
            new |= {"id": number} if definition.key else {}
            change = Change("insert", name, {"id": number} if definition.key else new, {}, new)
        else:
            row = dict(draw(st.sampled_from(some)))
            key = {c: row[c] for c in definition.key} or row
            if kind == "delete":
                change = Change("delete", name, key, row, {})
            else:
                columns = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
                new = {c: draw(MAYBE) for c in columns}
                change = Change("update", name, key, {c: row[c] for c in columns}, new)
        live.apply([change])
        done.append(change)
    return done


@settings(deadline=None)
@given(st.data())
def test_what_is_broken_is_what_a_look_at_every_row_tells(data: st.DataObject) -> None:
    live = MemoryLive(SCHEMA, ROWS)
    assert live.orphans(SCHEMA.tables) == []
    changes = data.draw(_written(live))
    names = {f"{r.name} of {r.table}": r.name for r in SCHEMA.references}
    assert sorted(names[found] for found in without_parent(changes, SCHEMA, live, PLAIN)) == sorted(
        live.orphans(SCHEMA.tables)
    )


def test_a_row_that_was_broken_before_and_of_which_another_column_is_written_breaks_nothing() -> None:
    live = MemoryLive(SCHEMA, {**ROWS, "c": [(7, 1, 9, 8)]})
    changes = [Change("update", "c", {"id": 7}, {"up": 8}, {"up": None})]
    live.apply(changes)
    assert live.orphans(SCHEMA.tables) == ["pair"]
    assert without_parent(changes, SCHEMA, live, PLAIN) == []


def test_a_parent_in_any_partition_is_one() -> None:
    parts = [Reference("part", "c", ("up",), parent, ("id",)) for parent in ("p", "bare")]
    schema = LiveSchema({**SCHEMA.tables, "bare": table("bare", [ID])}, tuple(parts))
    live = MemoryLive(schema, {"p": [(1, 0, 0)], "bare": [(2,)], "c": []})
    for up, found in ((1, []), (2, []), (3, ["part of c"])):
        change = Change("insert", "c", {"id": up}, {}, {"id": up, "a": None, "b": None, "up": up})
        live.apply([change])
        assert without_parent([change], schema, live, PLAIN) == found
