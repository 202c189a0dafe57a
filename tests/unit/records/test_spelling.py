"""Values that refer to a column of another type, as that column spells them; whoever knows is asked for many at a time, once."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest

from backupd.model import Cells, Reference, Spelling
from backupd.records.leading import Leading
from backupd.records.spelling import Respelling
from tests.recovery import MemoryTable, refers

REFERENCE = refers("c", "p", "p")


class Knowing:
    """Doubles numbers; no odd number is one afterwards. Notes what it is asked."""

    def __init__(self, *words: Spelling) -> None:
        self.words, self.asked = words, []

    def spellings(self, reference: Reference) -> tuple[Spelling, ...]:
        return self.words

    def as_parents(self, reference: Reference, values: Collection[Cells]) -> Mapping[Cells, Cells | None]:
        self.asked.append(len(values))
        return {(v,): (b"%d" % (2 * int(v)),) if int(v) % 2 == 0 else None for (v,) in values}


@pytest.mark.parametrize(
    ("word", "value", "becomes"),
    [
        ("trimmed", b"ab  ", b"ab"),
        ("trimmed", b" \t ", b" \t"),
        ("timed", b"2020-01-01", b"2020-01-01 00:00:00"),
        ("timed", b"0044-03-15 BC", b"0044-03-15 00:00:00 BC"),
        ("timed", b"-infinity", b"-infinity"),
        ("dated", b"2020-01-01 00:00:00", b"2020-01-01"),
        ("dated", b"0044-03-15 00:00:00 BC", b"0044-03-15 BC"),
        ("dated", b"infinity", b"infinity"),
        ("dated", b"2020-01-01 00:00:00.5", None),
        ("dated", b"2020-01-01 10:00:00", None),
        ("dated", b"10:00:00 00:00:00", b"10:00:00"),
    ],
)
def test_what_types_say_plainly_nobody_is_asked(word: Spelling, value: bytes, becomes: bytes | None) -> None:
    knowing = Knowing(word)
    assert Respelling(knowing).led(REFERENCE, [(value,)]) == ({} if becomes is None else {(value,): (becomes,)})
    assert knowing.asked == []


def test_children_are_found_by_what_their_values_become() -> None:
    """Equal texts of two types are not equal values, and each value is asked about once, however many rows have it."""
    knowing = Knowing("asked")
    leading = Leading({}, across=knowing)
    rows: list[Cells] = [(at, b"%d" % (at % 5)) for at in range(2500)]
    stored = MemoryTable("c", (("id", ""), ("p", "")), ("id",), rows)
    assert {row[1] for row in leading.children(REFERENCE, stored, {(b"4",)})} == {b"2"}
    assert {row[1] for row in leading.children(REFERENCE, stored, {(b"2",), (b"8",)})} == {b"4"}
    assert knowing.asked == [5]
    assert leading.without(REFERENCE, {(b"2",), (b"4",), (b"3",)}, {(b"4",), (b"3",)}) == {(b"4",), (b"3",)}
    assert not leading.is_column(REFERENCE)
    assert not leading.is_plain(REFERENCE)


def test_what_is_not_declared_is_followed_by_equal_texts_and_that_is_told() -> None:
    """No foreign key says how the two types compare, so nothing is made up; a zone is told once it was asked for."""
    knowing = Knowing("zoned")
    spelled = Respelling(knowing)
    assert spelled.led(replace(REFERENCE, declared=False), [(b"2",)]) == {(b"2",): (b"2",)}
    assert spelled.is_own(REFERENCE)
    assert len(list(spelled.remarks())) == 1
    assert spelled.led(REFERENCE, [(b"2",), (b"3",)]) == {(b"2",): (b"4",)}
    assert ["equal texts" in text for text in spelled.remarks()] == [True, False]
