"""The only printer: results on standard output, everything else on standard error.

With --json there is one document on standard output, also when something fails. Nothing here colours anything that
carries a meaning, and nothing prints what a key file or a record holds.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backupd import report
from backupd.errors import BackupdError


def plain(text: str) -> str:
    """Text for a terminal: what cannot be printed (escape sequences, newlines, marks of direction) is spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(plain(text) + "\n")


def note(text: str) -> None:
    """A remark, on standard error."""
    sys.stderr.write(plain(text) + "\n")


def data(text: str) -> None:
    """Data for programs, as it is; on a terminal what it holds must not command that."""
    if sys.stdout.isatty():
        text = "".join(plain(line) + "\n" for line in text.removesuffix("\n").removesuffix("\r").split("\n"))
    sys.stdout.write(text)


def document(verb: str, values: Mapping[str, Any], *, ok: bool = True) -> None:
    """The JSON document of a verb."""
    sys.stdout.write(_document(verb, values, ok) + "\n")


def _document(verb: str, values: Mapping[str, Any], ok: bool) -> str:
    whole = {"schema": f"backupctl/{verb.replace(' ', '-')}/1", "ok": ok, **values}
    return "\n".join(map(_unspoken, json.dumps(whole, indent=2, ensure_ascii=_narrow()).split("\n")))


def _unspoken(line: str) -> str:
    """A line of a document; JSON itself leaves some control characters, and marks of direction, as they are."""
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _narrow() -> bool:
    return not (sys.stdout.encoding or "").lower().startswith("utf")


def item(value: object) -> str:
    """An item of a long list in a document."""
    return "    " + _unspoken(json.dumps(value, ensure_ascii=_narrow()))


def long_document(verb: str, values: Mapping[str, Any], name: str, items: Iterable[str]) -> None:
    """The document of a verb with a list too long for memory at its end; `items` are made by `item`."""
    sys.stdout.write(_document(verb, values, True).removesuffix("\n}") + f',\n  "{name}": [')
    for n, text in enumerate(items):
        sys.stdout.write((",\n" if n else "\n") + text)
    sys.stdout.write("\n  ]\n}\n")


def error_values(error: BackupdError) -> dict[str, Any]:
    """The `error` of a failed document."""
    return {
        "code": error.code,
        "exit": int(error.exit),
        "message": error.message,
        "hint": error.hint,
        "object": error.object_name,
    }


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> None:
    """An aligned table; columns whose numbers stand in `right` are right-aligned."""
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[n]) for line in [list(headings), *cells]) for n in range(len(headings))]
    for line in [list(headings), ["-" * width for width in widths], *cells]:
        parts = [c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))]
        say("  ".join(parts).rstrip())


def size(n: int) -> str:
    """Bytes for people."""
    return report.size(n)


def count(n: int | None) -> str:
    """A number with separators, or a dash."""
    return "-" if n is None else f"{n:,}"


def plural(n: int, word: str) -> str:
    """A number and its word."""
    return f"{n:,} {word}" + ("" if n == 1 else "s")
