"""What is written for a record on a command line: `table:key`, the parts of a composite key separated by commas.

A backslash before `:`, `,` or another backslash makes it a letter like others. A subject names a person: never may it
stand in a log, and a message tells what is wrong with it without repeating it.
"""

from dataclasses import dataclass, field

from backupd.errors import UsageError

_HINT = (
    "write TABLE:KEY, as in customers:4711; composite keys as TABLE:A,B; a backslash before a `:` or `,` that is meant"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A record: its table's name, and what was written for each column of the key."""

    table: str
    key: tuple[str, ...] = field(repr=False)


def parse_subject(text: str) -> Subject:
    """A subject from its text.

    Raises:
        UsageError: it is none.
    """
    table, *rest = split_escaped(text, ":", most=2)
    if not rest or not table or not rest[0]:
        raise UsageError("a record is written with its table and its key", hint=_HINT)
    return Subject(unescaped(table), parse_key(rest[0]))


def parse_key(text: str) -> tuple[str, ...]:
    """What was written for each column of a key.

    Raises:
        UsageError: there is nothing, or it ends in the middle of an escape.
    """
    if not text:
        raise UsageError("the key is empty", hint=_HINT)
    return tuple(map(unescaped, split_escaped(text, ",")))


def split_escaped(text: str, separator: str, most: int = 0) -> list[str]:
    """Cut at separators without a backslash, into at most so many parts; escapes stay as they are.

    Raises:
        UsageError: it ends in the middle of an escape.
    """
    found: list[str] = []
    start = at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == separator and (not most or len(found) < most - 1):
            found.append(text[start:at])
            start = at + 1
        at += 1
    if at > len(text):
        raise UsageError("a key ends with a backslash that escapes nothing", hint=_HINT)
    return [*found, text[start:]]


def unescaped(part: str, letters: str = ":,\\") -> str:
    """Without its escapes; a backslash before any other letter stands for itself."""
    out, at = [], 0
    while at < len(part):
        if part[at] == "\\" and part[at + 1 : at + 2] in tuple(letters):
            at += 1
        out.append(part[at])
        at += 1
    return "".join(out)
