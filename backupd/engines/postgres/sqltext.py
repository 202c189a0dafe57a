"""Splits SQL into statements and words, as the server would, to judge it before it is executed.

It knows comments, quotes, dollar quotes and the bodies of SQL functions, for sessions with standard_conforming_strings
on. What it is not sure of it calls unclear, and the caller refuses that.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n\r]*)
    | (?P<comment>/\*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>(?:[uU]&|[bBxXnN])?'(?:[^']|'')*')
    | (?P<name>(?:[uU]&)?"(?:[^"]|"")+")
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    | (?P<number>\.?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_$\x80-\U0010ffff]))
    | (?P<mark>[-+*/<>=~!@\#%^&|`?()\[\],;:.])
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


class Unclear(Exception):
    """The text cannot be judged."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word in lower case, a quoted name, a string, a number or a mark.

    Attributes:
        kind: word, name, string, number or mark.
        text: of a word, in lower case; of a name or a string, what is between the quotes.
        raw: as it was written.
    """

    kind: str
    text: str
    raw: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its tokens, and its own text."""

    tokens: tuple[Token, ...]
    text: str

    def word(self, place: int) -> str:
        """The word at a place; empty if there is none, or something else than a word."""
        if place >= len(self.tokens) or self.tokens[place].kind != "word":
            return ""
        return self.tokens[place].text

    @property
    def words(self) -> list[str]:
        """All words that are not quoted."""
        return [token.text for token in self.tokens if token.kind == "word"]


def statements(text: str) -> Iterator[Statement]:
    """The statements of a text, without empty ones.

    Raises:
        Unclear: a comment in slashes, an open quote, a string that goes on in a second one, or a character that has no
            place there.
    """
    tokens: list[Token] = []
    begin, parentheses, inside = 0, 0, False
    for token, start, end in _tokens(text):
        if token.kind == "mark" and token.text in "()":
            parentheses += 1 if token.text == "(" else -1
        elif token.kind == "word" and parentheses == 0:
            inside = _in_body(tokens, token.text, inside)
        if token.kind == "mark" and token.text == ";" and parentheses == 0 and not inside:
            if tokens:
                yield Statement(tuple(tokens), text[begin:start].strip())
            tokens, begin = [], end
        else:
            tokens.append(token)
    if tokens:
        yield Statement(tuple(tokens), text[begin:].strip())


def _in_body(before: list[Token], word: str, inside: bool) -> bool:
    """Whether what follows a word belongs to the body of a function in BEGIN ATOMIC ... END.

    The body ends with an END that begins a statement of it; the END of a CASE never does.
    """
    if inside:
        ends = word == "end" and before and before[-1] in (Token("mark", ";"), Token("word", "atomic"))
        return not ends
    if word != "atomic" or not before or before[-1] != Token("word", "begin"):
        return False
    head = [token.text if token.kind == "word" else "" for token in before[:4]]
    place = 3 if head[1:3] == ["or", "replace"] else 1
    return head[0] == "create" and head[place : place + 1] in (["function"], ["procedure"])


def _tokens(text: str) -> Iterator[tuple[Token, int, int]]:
    position, after_string = 0, False
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            raise Unclear(f"unexpected character at {position}")
        kind, end = found.lastgroup, found.end()
        if kind == "comment":
            raise Unclear(f"a comment at {position}")
        if kind in {"string", "escaped"} and after_string:
            # The server reads both as one string, whose backslashes count if the first begins with E.
            raise Unclear(f"a string that goes on at {position}")
        if kind != "space":
            after_string = kind in {"string", "escaped"}
        if kind == "dollar":
            close = text.find(found[0], end)
            if close < 0:
                raise Unclear(f"an open quote at {position}")
            whole = close + len(found[0])
            yield Token("string", text[end:close], text[position:whole]), position, whole
            end = whole
        elif kind != "space":
            yield _token(kind, found[0]), position, end
        position = end


def _token(kind: str, raw: str) -> Token:
    if kind == "word":
        return Token("word", raw.translate(_LOWER), raw)
    if kind == "name" and raw[0] == '"':
        return Token("name", raw[1:-1].replace('""', '"'), raw)
    if kind == "string" and raw[0] == "'":
        return Token("string", raw[1:-1].replace("''", "'"), raw)
    if kind in {"name", "string", "escaped"}:
        return Token("name" if kind == "name" else "string", raw, raw)
    return Token(kind, raw, raw)


_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
