"""Cuts a dump's SQL text into statements, without asking any client program.

What the client programs would do on the way (run a shell, read a file) does not exist here: everything is a statement for
the server, and what is no statement the server knows is refused before anything is sent.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from backupd.errors import SafetyRefused

_SPACE = " \t\n\r\f\v"
_SPACE = " \t\n\r\f\v"
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<line>(?:\#|--(?=[\x00-\x20\x7f]|\Z))[^\n\x00]*)
  | (?P<opener>/\*M?!(?:\d{5,6})?)
  | (?P<comment>/\*.*?(?:\*/|\Z))
  | (?P<closer>\*/)
  | (?P<quoted>`[^`]*+(?:``[^`]*+)*+(?:`|\Z))
  | (?P<word>[A-Za-z_0-9$\x80-\U0010ffff]+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_STRINGS = {
    ("'", True): re.compile(r"'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+(?:'|\\?\Z)", re.DOTALL),
    ("'", False): re.compile(r"'[^']*+(?:''[^']*+)*+(?:'|\Z)"),
    ('"', True): re.compile(r'"[^"\\]*+(?:(?:\\.|"")[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL),
    ('"', False): re.compile(r'"[^"]*+(?:""[^"]*+)*+(?:"|\Z)'),
}
"""By the quote, and by whether a backslash escapes what follows it."""

_DELIMITER = re.compile(r"DELIMITER[ \t]+(\S+)[ \t]*\r?(?:\n|\Z)", re.IGNORECASE | re.ASCII)
_ANSI = re.compile(r"\b(?:ANSI_QUOTES|ANSI|ORACLE|MSSQL|DB2|MAXDB|POSTGRESQL)\b")
_MODE = re.compile(r"SET\s+(?:SESSION\s+)?sql_mode\s*=\s*'([A-Za-z_,]*)'\s*\Z", re.IGNORECASE | re.ASCII)
_SAVED_MODE = re.compile(r"SET\s+(?:SESSION\s+)?sql_mode\s*=\s*@", re.IGNORECASE | re.ASCII)
_EVERYWHERE = range(50000, 50700)
"""The versions of comments that every server executes."""

_EITHER_WAY = re.compile(
    r"/\*M?!\d{5,6}\s*(?:COMPRESSED|INVISIBLE|NOT\s+ENFORCED|SRID\s+\d+|AUTOEXTEND_SIZE\s*=\s*\d+|ENCRYPTION\s*=\s*'[YN]')\s*\*/",
    re.ASCII,
)
"""Comments that some servers execute and some do not, and that are harmless both ways."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A statement as it is sent, and the same with strings and comments blanked out, of the same length.

    Attributes:
        mode: the sql_mode by which the statement was read, as far as the text sets it.
        unsure: whether servers may differ in what they read, because a comment inside is executed by some only.
    """

    text: str
    mask: str
    mode: str = ""
    unsure: bool = False


@dataclass(slots=True)
class _Statement:
    parts: list[tuple[str, str]]
    wrapped: bool = False
    depth: int = 0
    inline: int = 0
    is_empty: bool = True
    unsure: bool = False

    def add(self, text: str, mask: str | None = None) -> None:
        shown = text if mask is None else mask
        self.parts.append((text, shown))
        self.is_empty = self.is_empty and not shown.strip(_SPACE)

    def piece(self, mode: str) -> Piece:
        text, mask = ("".join(part) for part in zip(*self.parts, strict=True)) if self.parts else ("", "")
        begin = len(mask) - len(mask.lstrip(_SPACE))
        end = len(text.rstrip(_SPACE))
        return Piece(text[begin:end], mask[begin:end], mode, self.unsure)


def quoting(mode: str) -> tuple[bool, bool]:
    """What an sql_mode says about where strings end: whether backslashes escape nothing, and whether "x" is a name."""
    return "NO_BACKSLASH_ESCAPES" in mode.upper(), _ANSI.search(mode.upper()) is not None


def split(text: str) -> Iterator[Piece]:
    """The statements of a dump, in order.

    A comment that the server executes, around a whole statement or a piece of one, is opened: its text is the statement's.

    Raises:
        SafetyRefused: an unknown delimiter, a statement that does not end, or a character that is in no statement.
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
            piece = statement.piece(mode)
            position += len(delimiter)
            statement = _Statement([])
            if piece.mask:
                mode = set_mode[1] if (set_mode := _MODE.match(piece.text)) else _restored(piece.text, mode)
                yield piece
            continue
        position = _take(text, position, statement, quoting(mode))
    if not statement.is_empty:
        raise SafetyRefused("the definitions end in the middle of a statement", hint="verify the snapshot")


def restores_mode(text: str) -> bool:
    """Whether a statement puts a saved sql_mode back."""
    return _SAVED_MODE.match(text) is not None


def _restored(text: str, mode: str) -> str:
    return "" if restores_mode(text) else mode


def _at_line_start(text: str, position: int) -> bool:
    return not text[text.rfind("\n", 0, position) + 1 : position].strip(_SPACE)


def _take(text: str, position: int, statement: _Statement, rules: tuple[bool, bool]) -> int:
    """Take one token into the statement; where the next one begins."""
    if (quote := text[position]) in "'\"":
        literal, names = rules
        found = _STRINGS[quote, not literal and (quote == "'" or not names)].match(text, position)
        assert found is not None
        inner = found[0]
        statement.add(inner, inner[0] + "." * (len(inner) - 2) + inner[-1] if len(inner) > 1 else inner)
        return found.end()
    found = _TOKEN.match(text, position)
    assert found is not None
    kind, token = found.lastgroup, found[0]
    if kind == "opener":
        return _open(text, position, token, statement)
    if kind == "closer" and statement.inline:
        statement.inline -= 1
        statement.add(token, "  ")
    elif kind == "closer" and statement.depth:
        statement.depth -= 1
        statement.add(" ")
    elif kind in ("comment", "line"):
        statement.add(token, " " * len(token))
    elif kind == "quoted":
        statement.add(token, "`" + "." * (len(token) - 2) + "`" if len(token) > 1 else token)
    elif kind == "other" and (ord(token) < 32 or ord(token) == 127):
        raise SafetyRefused("the definitions hold a character that is in no statement", hint="verify the snapshot")
    else:
        statement.add(token)
    return found.end()


def _open(text: str, position: int, token: str, statement: _Statement) -> int:
    """A comment that the server executes: opened where the statement begins with one, else kept and read like the rest.

    One that only some servers execute is not read, and noted: what stands behind it may be seen differently.
    """
    if statement.depth == 0 and (statement.is_empty or statement.wrapped):
        statement.wrapped = True
        statement.depth = 1
        statement.add(" ")
        return position + len(token)
    if known := _EITHER_WAY.match(text, position):
        statement.add(known[0], " " * len(known[0]))
        return known.end()
    if statement.depth:
        statement.unsure = True
        end = text.find("*/", position)
        end = len(text) if end < 0 else end + 2
        statement.add(text[position:end])  # inside a body: verbatim, and its words are seen
        return end
    if token.startswith("/*!") and token[3:] and int(token[3:]) in _EVERYWHERE:
        statement.inline += 1
        statement.add(token, " " * len(token))
    else:
        statement.unsure = True
        statement.add(token)
    return position + len(token)
