"""Which values may be one: folds never call equal values different, and are sure only where equal folds are equal values."""

import pytest

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
