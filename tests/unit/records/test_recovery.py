"""Recovery on made-up databases in memory: what is found, what is planned, in which order, and that it can be taken back."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupd.errors import IntegrityError
from backupd.model import Cell, Cells, LiveColumn, LiveSchema, LiveTable, Reference
from backupd.records.closure import Rows, Table, down
from backupd.records.judging import make_plan
from backupd.records.leading import Leading
from backupd.records.plan import Plan, Rules
from backupd.records.undo import Undo, make_undo_plan, parse_undo, undo_lines
from tests.recovery import MemoryLive, MemoryStored, refers, table

REQUIRED_ID = LiveColumn("id", "", required=True)


def tables_of(stored: MemoryStored, live: MemoryLive) -> dict[str, Table]:
    return {
        name: Table.of(name, some, live.schema().tables[name])
        for name, some in stored.tables.items()
        if name in live.schema().tables
    }


def leading(live: MemoryLive) -> Leading:
    return Leading.of(live.schema(), live.alike, wide=False)


def closed(stored: MemoryStored, live: MemoryLive, *roots: tuple[str, Cell]) -> Rows:
    return down(
        tables_of(stored, live),
        live.schema().references,
        {name: [row for row in stored.tables[name].held if row[0] == key] for name, key in roots},
        leading(live),
    )


def planned(stored: MemoryStored, live: MemoryLive, *roots: tuple[str, Cell], rules: Rules | None = None) -> Plan:
    schema = live.schema()
    return make_plan(closed(stored, live, *roots), schema, schema.references, live, rules or Rules(), leading(live))


def undone(live: MemoryLive, plan: Plan) -> None:
    """Take a plan back by the text of its undo file."""
    undo = parse_undo(undo_lines(Undo("sqlite", "memory", "2026-11-21T23:00:00Z", "ab", None, plan.changes)))
    assert undo.changes == plan.changes
    back = make_undo_plan(undo, live.schema(), live.schema().references, live, leading(live))
    assert [(e.table, e.reason, e.key, e.old, e.new) for e in back.entries if e.op == "conflict"] == []
    with live.transaction(triggers=True):
        live.apply(back.carried)
    again = make_undo_plan(undo, live.schema(), live.schema().references, live, leading(live))
    assert again.changes == ()


# ---- any schema


@st.composite
def databases(draw: st.DrawFn) -> tuple[MemoryLive, tuple[str, int]]:
    """A database of a few tables that refer to each other as they like, themselves included, and one row of it."""
    names = [f"t{n}" for n in range(draw(st.integers(2, 4)))]
    tables: dict[str, LiveTable] = {}
    references: list[Reference] = []
    for name in names:
        columns: list[LiveColumn] = [REQUIRED_ID]
        for n in range(draw(st.integers(0, 2))):
            what = draw(st.sampled_from(["cascade", "set null", "set default"]))
            deferrable = draw(st.booleans())
            columns.append(LiveColumn(f"r{n}", ""))
            references.append(refers(name, f"r{n}", draw(st.sampled_from(names)), what, deferrable=deferrable))
        tables[name] = table(name, [*columns, "note"])
    if draw(st.booleans()):
        references.append(refers("loose", "r0", names[0], draw(st.sampled_from(["cascade", "set null"]))))
        tables["loose"] = table("loose", ["r0", "note"], key=())
    rows: dict[str, list[Cells]] = {}
    sizes = {name: draw(st.integers(1, 5)) for name in names}
    for name, made in tables.items():
        leads = {r.columns[0]: r.parent for r in references if r.table == name}

        def cell(column: str, at: int, leads: dict[str, str] = leads) -> Cell:
            if column == "id":
                return at
            if column == "note":
                return draw(st.sampled_from(["a", "b", None]))
            return draw(st.one_of(st.none(), st.integers(1, sizes[leads[column]])))

        count = sizes.get(name, 4)
        rows[name] = [tuple(cell(c.name, at) for c in made.columns) for at in range(1, count + 1)]
    root = draw(st.sampled_from(names))
    return MemoryLive(LiveSchema(tables, tuple(references)), rows), (root, draw(st.integers(1, sizes[root])))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(databases(), st.booleans())
def test_what_a_delete_took_comes_back_and_goes_again(made: tuple[MemoryLive, tuple[str, int]], busy: bool) -> None:
    """After recovery the database holds what it held before, and what is newer; after the undo what it held between."""
    live, (name, key) = made
    before, stored = live.state(), live.snapshot()
    live.delete(name, id=key)
    newer: dict[str, Counter[Cells]] = {}
    if busy:
        for other, definition in live.schema().tables.items():
            row: dict[str, Cell] = dict.fromkeys(c.name for c in definition.columns) | {"note": "newer"}
            row |= {"id": 1000} if definition.key else {}
            live.held[other].append(row)
            newer[other] = Counter([tuple(row.values())])
    between = live.state()
    plan = planned(stored, live, (name, key))
    assert plan.counts["conflict"] == 0
    assert_parents_first(plan, live)
    with live.transaction(triggers=True):
        live.apply(plan.changes)
    assert live.state() == {t: before[t] + newer.get(t, Counter()) for t in before}
    assert planned(stored, live, (name, key)).changes == ()
    undone(live, plan)
    assert live.state() == between


def assert_parents_first(plan: Plan, live: MemoryLive) -> None:
    """Nothing refers to a row that is written later, but where the database checks at the end, or rows form a circle."""
    there = {name: {row.get("id") for row in rows} for name, rows in live.held.items()}
    for change in plan.changes:
        if change.kind == "insert":
            there[change.table].add(change.new.get("id"))
        for r in live.schema().references:
            value = change.new.get(r.columns[0]) if r.table == change.table else None
            if value is not None and not r.deferrable and change.table not in plan.circles:
                later = value not in there[r.parent]
                assert not later or any(x.deferrable for x in live.schema().references)


# ---- one by one


def shop(*, required: bool = False, uniques: Sequence[tuple[str, ...]] = ()) -> MemoryLive:
    """Customers, their orders, lines of these, a region above, and notes that stay when their customer goes."""
    tables = [
        table("region", [REQUIRED_ID, "name"]),
        table("customer", [REQUIRED_ID, "name", LiveColumn("region", "")], uniques=tuple(uniques)),
        table("order", [REQUIRED_ID, LiveColumn("customer", "", required=required), "state"]),
        table("line", ["order", "n", "what"], key=("order", "n")),
        table("note", [REQUIRED_ID, LiveColumn("customer", ""), "text"], triggers=("note_log",)),
    ]
    references = (
        refers("customer", "region", "region", "restrict"),
        refers("order", "customer", "customer"),
        refers("line", "order", "order"),
        refers("note", "customer", "customer", "set null"),
    )
    rows: dict[str, list[Cells]] = {
        "region": [(1, "north"), (2, "south")],
        "customer": [(1, "Ada", 1), (2, "Bob", 1), (3, "Cy", 2)],
        "order": [(10, 1, "open"), (11, 1, "sent"), (20, 2, "open")],
        "line": [(10, 1, "x"), (10, 2, "y"), (20, 1, "z")],
        "note": [(5, 1, "likes tea"), (6, 2, "likes coffee")],
    }
    return MemoryLive(LiveSchema({t.name: t for t in tables}, references), rows)


def ops(plan: Plan) -> dict[tuple[str, Cell], str]:
    return {(e.table, e.row[0]): e.op for e in plan.entries}


def test_down_and_never_down_again_from_a_parent() -> None:
    """A customer's rows are found with one look-up for each table and level; the region brings no other customer along."""
    live = shop()
    stored = live.snapshot()
    live.delete("customer", id=1)
    live.held["region"] = [row for row in live.held["region"] if row["id"] != 1]
    for row in live.held["customer"]:
        row["region"] = 2
    plan = planned(stored, live, ("customer", 1))
    assert ops(plan) == {
        ("customer", 1): "insert",
        ("order", 10): "insert",
        ("order", 11): "insert",
        ("line", 10): "insert",
        ("note", 5): "repair",
        ("region", 1): "insert",
    }
    assert stored.tables["order"].asked == [(("customer",), 1)]
    assert stored.tables["line"].asked == [(("order",), 2)]
    assert [c.table for c in plan.changes] == ["region", "customer", "order", "order", "line", "line", "note"]
    assert plan.triggers == {"note": ("note_log",)}
    assert plan.counts == {"insert": 6, "update": 0, "repair": 1, "conflict": 0, "same": 0, "skip": 0}


def test_what_was_changed_since_is_a_conflict_until_somebody_decides() -> None:
    """By default, by table, and by column; and a reference is repaired beside changes that are left alone."""
    live = shop()
    stored = live.snapshot()
    live.delete("customer", id=1)
    live.held["note"][0]["text"] = "likes cocoa"
    failing = planned(stored, live, ("customer", 1))
    (conflict,) = [e for e in failing.entries if e.op == "conflict"]
    assert (conflict.table, conflict.columns, conflict.reason) == ("note", ("text",), "it was changed since")
    skipping = planned(stored, live, ("customer", 1), rules=Rules(tables={"note": "skip"}))
    (repair,) = [e for e in skipping.entries if e.table == "note"]
    assert (repair.op, repair.columns) == ("repair", ("customer",))
    for rules in (Rules(tables={"note": "overwrite"}), Rules(columns=frozenset({("note", "text")}))):
        (update,) = [e for e in planned(stored, live, ("customer", 1), rules=rules).entries if e.table == "note"]
        assert update.op == "update"
        assert update.change is not None
        assert dict(update.change.new) == {"customer": 1, "text": "likes tea"}
        assert dict(update.change.old) == {"customer": None, "text": "likes cocoa"}


def test_a_reference_that_was_cleared_while_its_parent_stands_is_no_repair() -> None:
    """Somebody may have taken it away on purpose: that is newer, and a conflict."""
    live = shop()
    stored = live.snapshot()
    live.held["note"][0]["customer"] = None
    assert ops(planned(stored, live, ("customer", 1)))["note", 5] == "conflict"


def test_a_reference_that_now_leads_elsewhere_is_a_conflict() -> None:
    """A note that was given to another customer since is not taken back."""
    live = shop()
    stored = live.snapshot()
    live.delete("customer", id=1)
    live.held["note"][0]["customer"] = 2
    assert ops(planned(stored, live, ("customer", 1)))["note", 5] == "conflict"


def test_another_row_with_the_same_unique_columns() -> None:
    """Is named by its columns, cannot be overwritten, and what belongs to the row stands or falls with it."""
    live = shop(uniques=[("name",)])
    stored = live.snapshot()
    live.delete("customer", id=1)
    live.held["customer"].append({"id": 77, "name": "Ada", "region": None})
    for rules in (Rules(), Rules(default="overwrite")):
        plan = planned(stored, live, ("customer", 1), rules=rules)
        reasons = {(e.table, e.reason) for e in plan.entries if e.op == "conflict"}
        assert ("customer", "another row has the same name") in reasons
        assert ("order", "its parent in customer is neither there nor brought back") in reasons
        assert ("note", "it was changed since") in reasons or any(e.table == "note" for e in plan.entries)
    skipping = planned(stored, live, ("customer", 1), rules=Rules(default="skip"))
    assert skipping.changes == ()
    assert {e.op for e in skipping.entries} == {"skip"}


def test_columns_that_came_and_went_since() -> None:
    """A new one that must have a value is refused by name until it gets one; one that is gone is told of."""
    live = shop()
    stored = live.snapshot()
    live.delete("customer", id=1)
    schema = live.schema()
    grown = LiveTable("customer", (REQUIRED_ID, LiveColumn("name", ""), LiveColumn("vat", "", required=True)), ("id",))
    live._schema = LiveSchema({**schema.tables, "customer": grown}, schema.references[1:])
    plan = planned(stored, live, ("customer", 1))
    assert plan.obstacles == ("column customer.vat must have a value, and the snapshot has none",)
    assert "column customer.region is in the snapshot only: its values are left out" in plan.warnings
    given_one = planned(stored, live, ("customer", 1), rules=Rules(values={("customer", "vat"): "none"}))
    assert given_one.obstacles == ()
    change = next(c for c in given_one.changes if c.table == "customer")
    assert dict(change.new) == {"id": 1, "name": "Ada", "vat": "none"}
    assert dict(change.key) == {"id": 1}


def test_generated_columns_are_neither_written_nor_compared() -> None:
    """What the database computes is not the snapshot's to say."""
    live = shop()
    stored = live.snapshot()
    live.held["customer"][0]["name"] = "computed"
    columns = (REQUIRED_ID, LiveColumn("name", "", generated=True), LiveColumn("region", ""))
    schema = live.schema()
    live._schema = LiveSchema({**schema.tables, "customer": LiveTable("customer", columns, ("id",))}, schema.references)
    assert ops(planned(stored, live, ("customer", 1)))["customer", 1] == "same"


@pytest.mark.parametrize(("nullable", "circles"), [(True, ()), (False, ("a", "b"))])
def test_rows_in_a_circle(nullable: bool, circles: tuple[str, ...]) -> None:
    """One is written with NULL first where that may be; else they stand together, and the plan says so."""
    tables = [
        table("a", [REQUIRED_ID, LiveColumn("b", "", required=not nullable)]),
        table("b", [REQUIRED_ID, LiveColumn("a", "", required=True)]),
    ]
    references = (refers("a", "b", "b"), refers("b", "a", "a"))
    live = MemoryLive(LiveSchema({t.name: t for t in tables}, references), {"a": [(1, 9)], "b": [(9, 1)]})
    before, stored = live.state(), live.snapshot()
    live.delete("a", id=1)
    plan = planned(stored, live, ("a", 1))
    assert plan.circles == circles
    kinds = [(c.kind, c.table) for c in plan.changes]
    assert kinds == [("insert", "a"), ("insert", "b"), *([("update", "a")] if nullable else [])]
    assert_parents_first(plan, live)
    with live.transaction(triggers=True):
        live.apply(plan.changes)
    assert live.state() == before
    undone(live, plan)
    assert live.state() == {"a": Counter(), "b": Counter()}


def test_a_self_reference_comes_parents_first() -> None:
    """However the snapshot lists them."""
    live = MemoryLive(
        LiveSchema({"t": table("t", [REQUIRED_ID, LiveColumn("up", "")])}, (refers("t", "up", "t"),)),
        {"t": [(1, 3), (2, 1), (3, None)]},
    )
    stored = live.snapshot()
    live.delete("t", id=3)
    assert [dict(c.key)["id"] for c in planned(stored, live, ("t", 3)).changes] == [3, 1, 2]


def test_a_reference_that_only_a_policy_knows() -> None:
    """Is followed like others; a parent that nobody has is a warning, for no database refuses it."""
    tables = [table("a", [REQUIRED_ID]), table("b", [REQUIRED_ID, "a", "c"]), table("c", [REQUIRED_ID])]
    references = (refers("b", "a", "a", declared=False), refers("b", "c", "c", declared=False))
    live = MemoryLive(LiveSchema({t.name: t for t in tables}, references), {"a": [(1,)], "b": [(5, 1, 404)]})
    stored = live.snapshot()
    live.held["a"], live.held["b"] = [], []
    plan = planned(stored, live, ("a", 1))
    assert plan.counts["insert"] == 2
    assert plan.warnings == ("1 of b refer to a parent in c that is neither there nor brought back",)


def test_equal_rows_without_a_key_come_back_as_often_as_they_were_there() -> None:
    """They are counted: two of three are missing."""
    live = MemoryLive(LiveSchema({"t": table("t", ["x", "y"], key=())}, ()), {"t": [("a", 1)] * 3 + [("a", 1.0)]})
    stored = live.snapshot()
    live.held["t"] = [{"x": "a", "y": 1}, {"x": "a", "y": 1.0}]
    plan = planned(stored, live, ("t", "a"))
    assert (plan.counts["insert"], plan.counts["same"]) == (2, 2)
    assert [dict(c.new)["y"] for c in plan.changes] == [1, 1]
    assert any("has no key" in warning for warning in plan.warnings)


def test_what_comes_back_below_a_record_that_is_somebody_else_by_now_is_told() -> None:
    """A key that was used again: who keeps the newer record hears that the older one's orders would hang below it."""
    live = shop()
    stored = live.snapshot()
    live.delete("customer", id=1)
    columns = [c.name for c in live.schema().tables["customer"].columns]
    live.held["customer"].append(dict.fromkeys(columns, "somebody else") | {"id": 1})
    plan = planned(stored, live, ("customer", 1), rules=Rules("skip"))
    assert any("of order would come back below records of customer" in text for text in plan.warnings)


# ---- taking back


def test_undo_refuses_what_somebody_changed_or_hung_below() -> None:
    """A row that was changed since, and one that has got children of its own, are conflicts; nothing else is."""
    live = shop()
    stored = live.snapshot()
    live.delete("customer", id=1)
    plan = planned(stored, live, ("customer", 1))
    live.apply(plan.changes)
    undo = Undo("sqlite", "memory", "", "", None, plan.changes)
    live.held["order"].append({"id": 99, "customer": 1, "state": "newer"})
    next(row for row in live.held["line"] if row["order"] == 10)["what"] = "changed"
    back = make_undo_plan(undo, live.schema(), live.schema().references, live, leading(live))
    assert {(e.table, e.reason) for e in back.entries if e.op == "conflict"} == {
        ("customer", "rows of order belong to it that were not brought back"),
        ("line", "it was changed since"),
        ("order", "rows of line belong to it that were not brought back"),
    }


@pytest.mark.parametrize("cut", [0, 1, 30, -1, -2])
def test_a_cut_undo_file_is_refused(cut: int) -> None:
    """Wherever it ends, and also where a byte of it is another one."""
    live = shop()
    stored = live.snapshot()
    live.delete("customer", id=1)
    undo = Undo("sqlite", "memory", "t", "s", True, planned(stored, live, ("customer", 1)).changes)
    whole = b"".join(undo_lines(undo))
    assert parse_undo(whole.splitlines(keepends=True)) == undo
    with pytest.raises(IntegrityError):
        parse_undo(whole[:cut].splitlines(keepends=True))
    with pytest.raises(IntegrityError):
        parse_undo(whole.replace(b"likes tea", b"likes TEA").replace(b"Ada", b"Adb").splitlines(keepends=True))


def test_every_cell_survives_the_undo_file() -> None:
    """Bytes, numbers beyond 2^53, infinities, halves of surrogates, and the difference of 1 and 1.0."""
    cells: dict[str, Cell] = {
        "a": b"\x00\xff",
        "b": 2**63 - 1,
        "c": float("inf"),
        "d": 0.1,
        "e": "\udc80\x00'; DROP TABLE t",
        "f": 1.0,
        "g": 1,
        "h": None,
        "i": -0.0,
    }
    from backupd.model import Change

    undo = Undo("sqlite", "m", "t", "s", None, (Change("insert", "t", {"g": 1}, {}, cells),))
    (back,) = parse_undo(undo_lines(undo)).changes
    assert {k: repr(v) for k, v in back.new.items()} == {k: repr(v) for k, v in cells.items()}
