"""Cuts a dump's SQL text into statements, without asking any client program.

What the client programs would do on the way (run a shell, read a file) does not exist here: everything is a statement for
the server, and what is no statement the server knows is refused before anything is sent.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from backupd.errors import SafetyRefused

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<line>\#[^\n]*|--(?=[\s]|$)[^\n]*)
  | (?P<opener>/\*M?!\d{0,6})
  | (?P<comment>/\*.*?(?:\*/|\Z))
  | (?P<closer>\*/)
  | (?P<quoted>`(?:[^`]|``)*(?:`|\Z))
  | (?P<word>[A-Za-z_0-9$\x80-\U0010ffff]+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_STRINGS = {
    ("'", True): re.compile(r"'(?:[^'\\]|\\.|'')*(?:'|\Z)", re.DOTALL),
    ("'", False): re.compile(r"'(?:[^']|'')*(?:'|\Z)", re.DOTALL),
    ('"', True): re.compile(r'"(?:[^"\\]|\\.|"")*(?:"|\Z)', re.DOTALL),
    ('"', False): re.compile(r'"(?:[^"]|"")*(?:"|\Z)', re.DOTALL),
}
"""By the quote, and by whether a backslash escapes what follows it."""

_DELIMITER = re.compile(r"DELIMITER[ \t]+(\S+)[ \t]*\r?(?:\n|\Z)", re.IGNORECASE)
_ANSI = re.compile(r"\b(?:ANSI_QUOTES|ANSI|ORACLE|MSSQL|DB2|MAXDB|POSTGRESQL)\b")
_MODE = re.compile(r"SET\s+(?:SESSION\s+)?sql_mode\s*=\s*'([A-Za-z_,]*)'\s*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A statement as it is sent, and the same with strings and comments blanked out, of the same length."""

    text: str
    mask: str


@dataclass(slots=True)
class _Statement:
    parts: list[tuple[str, str]]
    wrapped: bool = False
    depth: int = 0

    def add(self, text: str, mask: str | None = None) -> None:
        self.parts.append((text, text if mask is None else mask))

    @property
    def is_empty(self) -> bool:
        return not any(mask.strip() for _, mask in self.parts)

    def piece(self) -> Piece:
        text, mask = ("".join(part) for part in zip(*self.parts, strict=True)) if self.parts else ("", "")
        begin = len(mask) - len(mask.lstrip())
        end = len(text.rstrip())
        return Piece(text[begin:end], mask[begin:end])


def split(text: str) -> Iterator[Piece]:
    """The statements of a dump, in order.

    A comment that the server executes, around a whole statement or a piece of one, is opened: its text is the statement's.

    Raises:
        SafetyRefused: an unknown delimiter, or a statement that does not end.
    """
    position, delimiter, mode = 0, ";", ""
    statement = _Statement([])
    while position < len(text):
        if statement.is_empty and (found := _DELIMITER.match(text, position)) and _at_line_start(text, position):
            if found[1] not in (";", ";;"):
                raise SafetyRefused(
                    "the definitions use an unknown delimiter",
                    hint="restore chosen tables, or export the snapshot and look",
                )
            delimiter, position = found[1], found.end()
            continue
        if text.startswith(delimiter, position):
            piece = statement.piece()
            position += len(delimiter)
            statement = _Statement([])
            if piece.mask:
                mode = set_mode[1] if (set_mode := _MODE.match(piece.text)) else _restored(piece.text, mode)
                yield piece
            continue
        position = _take(text, position, statement, mode.upper())
    if not statement.is_empty:
        raise SafetyRefused("the definitions end in the middle of a statement", hint="verify the snapshot")


def _restored(text: str, mode: str) -> str:
    """The mode after a statement that puts a saved one back."""
    return "" if re.match(r"SET\s+(?:SESSION\s+)?sql_mode\s*=\s*@", text, re.IGNORECASE) else mode


def _at_line_start(text: str, position: int) -> bool:
    return not text[text.rfind("\n", 0, position) + 1 : position].strip()


def _take(text: str, position: int, statement: _Statement, mode: str) -> int:
    """Take one token into the statement; where the next one begins."""
    if (quote := text[position]) in "'\"":
        escapes = "NO_BACKSLASH_ESCAPES" not in mode and (quote == "'" or not _ANSI.search(mode))
        found = _STRINGS[quote, escapes].match(text, position)
        assert found is not None
        inner = found[0]
        statement.add(inner, inner[0] + "." * (len(inner) - 2) + inner[-1] if len(inner) > 1 else inner)
        return found.end()
    found = _TOKEN.match(text, position)
    assert found is not None
    kind, token = found.lastgroup, found[0]
    if kind == "opener":
        return _open(text, position, token, statement)
    if kind == "closer" and statement.depth:
        statement.depth -= 1
        statement.add(" ")
    elif kind in ("comment", "line"):
        statement.add(token, " " * len(token))
    elif kind == "quoted":
        statement.add(token, "`" + "." * (len(token) - 2) + "`" if len(token) > 1 else token)
    else:
        statement.add(token)
    return found.end()


def _open(text: str, position: int, token: str, statement: _Statement) -> int:
    """A comment that the server executes: opened where the statement begins with one, else kept and shown."""
    if statement.depth == 0 and (statement.is_empty or statement.wrapped):
        statement.wrapped = True
        statement.depth = 1
        statement.add(" ")
        return position + len(token)
    if statement.depth:
        end = text.find("*/", position)
        end = len(text) if end < 0 else end + 2
        statement.add(text[position:end])  # inside a body: verbatim, and its words are seen
        return end
    statement.add(token)
    return position + len(token)
