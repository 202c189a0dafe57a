"""Which values may be one: folds never call equal values different, and are sure only where equal folds are equal values."""

import apsw
import pytest

from backupd.engines.sqlite_alike import numbered
from backupd.engines.sqlite_lazy import schema_of
from backupd.engines.sqlite_schema import read_live_schema
from backupd.model import Cell, Cells, Equality, LiveColumn, LiveSchema
from backupd.records.equality import Candidates
from backupd.records.leading import Leading
from tests.recovery import MemoryLive, refers, table

LETTERS = Equality("letters")


@pytest.mark.parametrize(
    ("equality", "one", "other", "settled"),
    [
        (Equality("numbers"), b"1.0", b"1.00", True),
        (Equality("numbers"), b"-0", b"0", True),
        (Equality("numbers"), b"NaN", b"NaN", True),
        (Equality("numbers"), b"10", b"1", False),
        (Equality("numbers"), b"1" * 400_000, b"1", False),
        (Equality("padded"), b"a", b"a  ", True),
        (Equality("padded"), b"a", b" a", False),
        (Equality("nocase"), "aZ", "Az", True),
        (Equality("nocase"), "\u00e9", "\u00c9", False),
        (Equality("nocase"), b"a", b"A", False),
        (Equality("cells", "text"), 1, "1", True),
        (Equality("cells", "number"), "1.50", 1.5, True),
        (Equality("cells", "number"), "x", 1, False),
        (LETTERS, b"ada", b"ADA", True),
        (LETTERS, b"ada", b"ADA ", None),
        (LETTERS, b"ada", b"adam", False),
        (LETTERS, b"jose", "jos\u00e9".encode(), None),
        (LETTERS, b"anna", "jos\u00e9".encode(), False),
        (LETTERS, b"a", b"a\x01", None),
        (Equality("letters", proven=False), b"ada", b"ADA", None),
        (Equality("asked"), b"a", b"b", None),
    ],
)
def test_two_values(equality: Equality, one: Cell, other: Cell, settled: bool | None) -> None:
    """In both directions; None where only the database knows."""
    assert Candidates([equality], [(one,)]).settled((other,)) is settled
    assert Candidates([equality], [(other,)]).settled((one,)) is settled


TYPES = [
    ("INTEGER", False),
    ("TEXT", True),
    ("REAL", True),
    ("NUMERIC(9)", False),
    ("", False),
    ("ANY", False),
    ("any", True),
]
VALUES: list[Cell] = [
    1, 1.0, "1", " 1 ", "\u00a01", "\x1c1", "1\0", b"1", "1.0", 1.5, "1.5", "1e2", 100, "1e", "0x1", "1_0", "a", "A", "a ",
    0.1 + 0.2, "0.3", "0.30000000000000004", "0.060533", 2**53 + 1, str(2**53 + 1), float(2**53), "1e400", float("inf"), "Inf",
    2.0**63, "9223372036854775808", "9223372036854775809", "9.2233720368547758e+18", "1" * 5000, -0.0, "0.0", "0", b"", "",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "strict"), TYPES)
@pytest.mark.parametrize("collation", ["BINARY", "NOCASE", "RTRIM"])
def test_references_of_files_lead_where_sqlite_says(kind: str, strict: bool, collation: str) -> None:
    """To columns of every type, in STRICT tables too: what is settled is what its own check says, and the rest it is asked."""
    db = apsw.Connection(":memory:")
    db.execute(f"CREATE TABLE p (k {kind} COLLATE {collation} UNIQUE) {'STRICT' if strict else ''}").fetchall()
    for n, (child, exact) in enumerate(TYPES if collation == "BINARY" else TYPES[-1:]):
        db.execute(f"CREATE TABLE c{n} (id INTEGER PRIMARY KEY, r {child} REFERENCES p(k)) {'STRICT' if exact else ''}")
        for value in VALUES:
            try:
                db.execute(f"INSERT INTO c{n} (r) VALUES (?)", (value,)).fetchall()
            except apsw.ConstraintError:
                continue
    schema, _ = read_live_schema(db)
    leading = Leading.of(schema, lambda *_: {}, wide=True)
    children = {r.table: db.execute(f"SELECT id, r FROM {r.table}").fetchall() for r in schema.references}
    for value in VALUES:
        db.execute("DELETE FROM p").fetchall()
        try:
            ((parent,),) = db.execute("INSERT INTO p VALUES (?) RETURNING k", (value,)).fetchall()
        except apsw.ConstraintError:
            continue
        for reference in schema.references:
            broken = {row for (row,) in db.execute(f"SELECT rowid FROM pragma_foreign_key_check('{reference.table}')")}
            equalities = leading.alike(reference)
            near = Candidates(equalities, [(parent,)])
            found = [(number, cell, near.settled((cell,))) for number, cell in children[reference.table]]
            names = numbered(equalities, [(parent,), *((cell,) for _, cell, settled in found if settled is None)])
            for number, cell, settled in found:
                there = names[cell,] == names[parent,] if settled is None else settled
                assert there == (number not in broken), (reference.table, parent, cell)
    db.close()


def test_a_column_of_any_type_holds_what_it_is_given_in_a_strict_table_only() -> None:
    """Its default, too, is what stands there; elsewhere ANY is a word like any other, and means NUMERIC."""
    db = apsw.Connection(":memory:")
    for name, word in (("s", "STRICT"), ("n", "")):
        db.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY) {word}; INSERT INTO {name} VALUES (1)").fetchall()
        db.execute(f"ALTER TABLE {name} ADD COLUMN v ANY DEFAULT '5'").fetchall()
        ((value,),) = db.execute(f"SELECT v FROM {name}").fetchall()
        found = next(t for t in schema_of(db).tables if t.name == name).columns[1]
        assert (found.affinity, found.default) == (("BLOB", value) if word else ("NUMERIC", value))
        assert read_live_schema(db)[0].tables[name].columns[1].fallback == value
    db.close()


def test_names_stay_and_are_shared_by_what_the_database_takes_for_one() -> None:
    """Whatever order the spellings come in, and however many of them at a time."""
    columns = [LiveColumn("id", "", equality=LETTERS), LiveColumn("p", "", equality=LETTERS)]
    schema = LiveSchema({"t": table("t", columns)}, (reference := refers("t", "p", "t"),))
    values: list[Cells] = [(text.encode(),) for text in ("a", "\u00c9", "A", "b", "\u00e9", "B", "e")]

    class Folding(MemoryLive):
        def alike(self, table, columns, values):  # type: ignore[no-untyped-def]
            numbers: dict[object, int] = {}
            return {v: numbers.setdefault(v[0].decode().casefold(), len(numbers)) for v in values}

    for size in (1, 2, 3, len(values)):
        leading = Leading.of(schema, Folding(schema).alike, wide=False)
        named: dict[Cells, object] = {}
        for at in range(0, len(values), size):
            for value, name in leading.names(reference, values[: at + size]).items():
                assert named.setdefault(value, name) == name
        assert len(set(named.values())) == 4
        assert named[values[1]] == named[values[4]] != named[values[6]]
