"""What an extension says of its configuration tables: which of their rows are the user's, as the end of a SELECT.

Such a condition is the server's own text and becomes part of what psql is fed with. One that could end the statement it is
put into, or that psql itself would act on, is not used.
"""

import re

from backupd.engines.postgres.sqltext import Token, Unclear, statements
from backupd.errors import SourceIncomplete

_COLONS_APART = re.compile(r":\s+:")
_SPACES = "\t\n\r"
_PARENTHESES = {"(": 1, ")": -1, "[": 1, "]": -1}


def is_sound(condition: str) -> bool:
    """Whether a condition stays within the SELECT it ends, for the server and for psql alike."""
    if "\\" in condition or "--" in condition or _COLONS_APART.search(condition) or any(map(_is_control, condition)):
        return False
    try:
        # The last word shows that what comes after the condition is still of the same statement.
        found = list(statements(f"SELECT 1 {condition} END"))
    except Unclear:
        return False
    return len(found) == 1 and _stays_within(found[0].tokens)


def sound(condition: str, table: str) -> str:
    """The condition itself.

    Raises:
        SourceIncomplete: it is not sound.
    """
    if not is_sound(condition):
        raise SourceIncomplete(problem(table), object_name=table, hint=HINT)
    return condition


def problem(table: str) -> str:
    """What is said of a table whose condition is not sound."""
    return f"the extension's condition for the rows of {table} is not one plain condition"


HINT = "look at pg_extension.extcondition; exclude the table, or use capture: native"


def _is_control(character: str) -> bool:
    return (character < " " and character not in _SPACES) or "\x7f" <= character < "\xa0"


def _stays_within(tokens: tuple[Token, ...]) -> bool:
    """Whether brackets are balanced, no statement ends, and no colon makes psql put a variable there."""
    depth = 0
    marks = [token.text if token.kind == "mark" else "" for token in tokens]
    for mark in marks:
        depth += _PARENTHESES.get(mark, 0)
        if depth < 0 or mark == ";":
            return False
    text = "".join(mark or "x" for mark in marks).replace("::", "")
    return depth == 0 and ":" not in text
