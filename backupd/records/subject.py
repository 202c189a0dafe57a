"""What a person writes for the records that are meant: `table:key`, with several columns `table:a,b`."""

from dataclasses import dataclass, field

from backupd.errors import UsageError


@dataclass(frozen=True, slots=True)
class Subject:
    """A table, and the texts of a key's values."""

    table: str
    key: tuple[str, ...] = field(repr=False)


def parse_subject(text: str) -> Subject:
    """Read a SUBJECT; a backslash keeps a colon, a comma or a backslash in a name or a value.

    Raises:
        UsageError: it is none.
    """
    parts = split_escaped(text, ":", 1)
    if len(parts) != 2 or not parts[0]:
        raise UsageError("a subject is written as table:key", hint="such as customers:4711, or order_lines:17,3")
    return Subject(plain(parts[0]), tuple(map(plain, split_escaped(parts[1], ","))))


def split_escaped(text: str, at: str, most: int = -1) -> list[str]:
    """The parts between separators without a backslash before them; backslashes stay."""
    parts, part, letters = [], "", iter(text)
    for letter in letters:
        if letter == "\\":
            part += letter + next(letters, "")
        elif letter == at and most != 0:
            parts.append(part)
            part, most = "", most - 1
        else:
            part += letter
    return [*parts, part]


def plain(text: str) -> str:
    """Without the backslashes that keep what follows them."""
    letters = iter(text)
    return "".join(next(letters, "\\") if letter == "\\" else letter for letter in letters)
