"""What people write about a recovery, and what it means."""

from dataclasses import replace

import pytest

from backupd.errors import UsageError
from backupd.jobs.conditions import Where
from backupd.jobs.recoverroots import Condition, parse_condition
from backupd.jobs.recoverrules import parse_rules
from backupd.model import LiveColumn, LiveSchema
from backupd.records.references import parse_reference
from tests.recovery import table

SCHEMA = LiveSchema(
    {
        "a": table("a", ["id", LiveColumn("x", "INTEGER"), LiveColumn("r", "REAL"), LiveColumn("t", "VARCHAR(3)")]),
        "s.a": table("s.a", ["id", "x"]),
    },
    (),
)


def test_rules() -> None:
    """A word for all, a table's, a column's; a name with a dot is a table if there is one of that name."""
    rules = parse_rules(["skip", "a=overwrite", "s.a=fail", "s.a.x=overwrite", "a.x=overwrite"], [], SCHEMA, "sqlite")
    assert rules.default == "skip"
    assert rules.tables == {"a": "overwrite", "s.a": "fail"}
    assert rules.columns == {("s.a", "x"), ("a", "x")}


def test_values_become_what_the_column_would_hold() -> None:
    """Numbers where it is for numbers, and text where it is for text; a server reads the text itself."""
    texts = ["a.x=007", "a.r=1", "a.t=7", "s.a.x=a=b"]
    values = parse_rules([], texts, SCHEMA, "sqlite").values
    assert {k: repr(v) for k, v in values.items()} == {
        ("a", "x"): "7",
        ("a", "r"): "1.0",
        ("a", "t"): "'7'",
        ("s.a", "x"): "'a=b'",
    }
    assert parse_rules([], ["a.x=007"], SCHEMA, "postgresql").values == {("a", "x"): b"007"}


def test_values_are_written_in_the_database_s_own_character_set() -> None:
    """And one that it does not have is refused before anything is asked of it."""
    schema = replace(SCHEMA, encoding="LATIN1")
    assert parse_rules([], ["a.x=é"], schema, "postgresql").values == {("a", "x"): b"\xe9"}
    with pytest.raises(UsageError, match="LATIN1"):
        parse_rules([], ["a.x=€"], schema, "postgresql")


@pytest.mark.parametrize(
    ("conflicts", "values"),
    [(["b=skip"], []), (["a=maybe"], []), (["a.y=overwrite"], []), (["a.x=skip"], []), ([], ["a.y=1"]), ([], ["a.x"])],
)
def test_what_is_no_rule(conflicts: list[str], values: list[str]) -> None:
    """Tables, columns and words that are not there."""
    with pytest.raises(UsageError):
        parse_rules(conflicts, values, SCHEMA, "sqlite")


def test_references() -> None:
    """As on paper; several columns; and what happens on delete."""
    found = parse_reference("order lines(customer, region) -> shop.customers ( id ,region ) ON DELETE  set null")
    assert (found.table, found.columns) == ("order lines", ("customer", "region"))
    assert (found.parent, found.parent_columns) == ("shop.customers", ("id", "region"))
    assert (found.on_delete, found.declared) == ("set null", False)
    for text in ("a -> b", "a(x) -> b(y,z)", "a() -> b(x)", "a(x) -> b(y) on delete nothing", ""):
        with pytest.raises(UsageError):
            parse_reference(text)


def test_conditions() -> None:
    """A backslash keeps what would separate; what is no list of columns and values is SQL."""
    found = parse_condition(r"a\:b: x=1\,2, y=c=d")
    assert (found.table, found.where.pairs) == ("a:b", (("x", "1,2"), ("y", "c=d")))
    for text in ("total > 5", "x", "a in (1, 2)", "t like 'a:b\\'", "=1"):
        assert parse_condition(f"a:{text}") == Condition("a", Where(text))
    for text in ("a", "a:", ":x=1", "a: "):
        with pytest.raises(UsageError):
            parse_condition(text)
