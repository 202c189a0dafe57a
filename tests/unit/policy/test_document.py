"""YAML 1.2 with places: what means what, and what is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.policy.document import MOST_NODES, parse
from backupd.policy.faults import NotValid


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 02:30", {"a": "02:30"}),
        ("a: yes", {"a": "yes"}),
        ("a: on", {"a": "on"}),
        ("a: True", {"a": True}),
        ("a: 010", {"a": 10}),
        ("a: 10", {"a": 10}),
        ("a: -1.5e3", {"a": -1500.0}),
        ("a: '10'", {"a": "10"}),
        ("a: ~", {"a": None}),
        ("a:", {"a": None}),
        ("a: 1_000", {"a": "1_000"}),
        ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: 0x10", {"a": "0x10"}),
        ("[1, {b: c}]", [1, {"b": "c"}]),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
    ],
)
def test_what_means_what(text: str, value: object) -> None:
    """By the core schema of YAML 1.2: 02:30 is no number of minutes, and only true and false are booleans."""
    assert parse(text.encode()).value == value


def test_places() -> None:
    document = parse(b"a:\n  - b: 1\n    c: 2\n")
    assert document.place(("a", 0, "c")) == (3, 8)
    assert document.key_place(("a", 0, "c")) == (3, 5)
    assert document.place(("a", 0, "missing", "deeper")) == (2, 5)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(8)
)


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        (b"a: 1\na: 2\n", 2, "twice"),
        (b"x:\n  a: 1\n  b: 2\n  a: 3\n", 4, "twice"),
        (b"a: [1\nb: 2", 2, "no YAML"),
        (b"a: 1\n\tb: 2", 2, "no YAML"),
        (b"a: \xff", 1, "UTF-8"),
        (b"ok: 1\nbad: \xff", 2, "UTF-8"),
        (b"", 1, "empty"),
        (b"# only words\n", 1, "empty"),
        (b"a: !!python/object:os.system x", 1, "tag"),
        (b"a: !secret x", 1, "tag"),
        (b"base: &b {x: 1}\na: {<<: *b}", 2, "1.1"),
        (b"? [a]\n: 1\n", 1, "word"),
        (b"a: 1\n---\nb: 2\n", 2, "no YAML"),
        (BOMB.encode(), 0, "unfolds"),
        (b"[" * 2000, 0, ""),
        (b"a: " + b"[" * 900_000, 1, ""),
        (b"a: " + b"{b: " * 200_000, 1, "unfolds"),
        (b"- a\n" * 30_000, 20_000, "unfolds"),
        (b"a: " + b"x" * (2 << 20), 0, "larger"),
        (b"a: *missing", 1, "no YAML"),
        (b"a: &x [*x]", 1, ""),
    ],
)
def test_what_is_refused(data: bytes, line: int, why: str) -> None:
    """With the line, and without taking long or much memory."""
    with pytest.raises(NotValid) as failed:
        parse(data)
    assert why in failed.value.message
    assert not line or failed.value.line == line


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_nonsense(data: bytes) -> None:
    """Anything is either a document or refused."""
    with contextlib.suppress(NotValid):
        parse(data)


def test_the_limit_is_no_smaller_than_it_says() -> None:
    assert len(parse(("a: [" + "1," * (MOST_NODES - 10) + "]").encode()).value["a"]) == MOST_NODES - 10
