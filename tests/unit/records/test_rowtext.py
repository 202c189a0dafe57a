"""Rows as text and back."""

from hypothesis import given
from hypothesis import strategies as st

from backupd.records.rowtext import cell_of, fields_of, row_of
from backupd.records.values import Record, as_json, as_text, hexadecimal, integer

CELLS = st.lists(st.none() | st.binary(max_size=12), min_size=1, max_size=6)


@given(CELLS)
def test_cells_come_back(cells: list[bytes | None]) -> None:
    """Any cells, with tabs, newlines, backslashes, NULs and NULL, are one line of text and come back."""
    row = row_of(cells)
    assert row.count(b"\n") == 1
    assert list(map(cell_of, fields_of(row))) == cells


def test_null_is_not_its_own_text() -> None:
    """Only the bare two characters are NULL."""
    assert cell_of(b"\\N") is None
    assert cell_of(b"\\\\N") == b"\\N"
    assert row_of([None, b"\\N", b""]) == b"\\N\t\\\\N\t\n"


def test_what_a_server_may_write() -> None:
    """MariaDB's client writes NUL as \\0; a letter that stands for nothing is itself."""
    assert cell_of(b"a\\0b\\tc\\nd\\\\e\\qf") == b"a\0b\tc\nd\\eqf"


def test_values_for_programs_and_for_people() -> None:
    """Large integers are text in JSON, bytes have their own form, and NULL does not look like a text."""
    assert as_json(2**53) == 2**53
    assert as_json(2**53 + 1) == "9007199254740993"
    assert as_json(b"\xff") == {"base64": "/w=="}
    assert as_json(float("inf")) == "inf"
    assert [as_text(v) for v in (None, "NULL", "", 5, b"\1")] == ["NULL", "'NULL'", "''", "5", "\\x01"]
    assert (integer(b"-12"), integer(b"1" * 40), integer(b"x")) == (-12, "1" * 40, "x")
    assert (hexadecimal(b"\\x00ff"), hexadecimal(b"0g")) == (b"\x00\xff", "0g")


def test_a_record_shows_no_values_by_itself() -> None:
    """What may hold customers' data is not in a record's representation."""
    record = Record("changed", ("id", "mail"), (0,), (1, "old@x"), (1, "new@x"))
    assert "@" not in repr(record)
    assert record.key == (1,)
    assert record.differing == (1,)
