"""One statement asked of a restored database, and its answer: the first value of the first row, as a plain value.

Whoever asks wrote the statement; the database that answers is hostile. So it can neither write, nor take longer than it is
given, nor answer with more than one value; and no message here holds what it answered.
"""

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from backupd.errors import BackupdError, Failed, UsageError
from backupd.model import Answer

LONGEST = 64 * 1024
"""Characters of a text that is an answer."""

_HINT = "ask for one value, such as SELECT count(*) FROM orders"
_TOO_GREAT = 300
_HEAD = re.compile(r"(?:[\s(]|--[^\n]*\n|/\*(?![!M+]).*?\*/)*([A-Za-z]+)", re.DOTALL)
_READING = frozenset({"select", "with", "values", "table"})


def require_reading(statement: str) -> None:
    """Refuse what does not begin as a query, as far as its first word tells.

    Raises:
        UsageError: it does not.
    """
    found = _HEAD.match(statement)
    if "\0" in statement or found is None or found[1].lower() not in _READING:
        raise refused("is none that reads")


def refused(why: str) -> UsageError:
    """That a statement is none that is asked."""
    return UsageError(f"the statement {why}", hint="one statement that reads: it begins with SELECT, WITH or VALUES")


def too_late(seconds: float) -> BackupdError:
    """That a statement ran too long."""
    return Failed(f"the statement was stopped after {seconds:g} s", hint="allow more time, or ask for less")


def no_row() -> BackupdError:
    """That there is nothing to look at."""
    return UsageError("the statement gave no row", hint=_HINT)


def require_single(columns: int) -> None:
    """Refuse an answer of several values.

    Raises:
        UsageError: the rows have another number of columns than one.
    """
    if columns != 1:
        raise UsageError(f"the statement gives {columns} columns, and one is asked for", hint=_HINT)


def plain(value: object) -> Answer:
    """What a driver gave, as a plain value.

    A day is its first moment, and a span of time is its seconds. A moment has a zone, UTC, where its type says so.

    Raises:
        UsageError: it is nothing that can be compared.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _text(value)
        case Decimal():
            return _number(value)
        case datetime():
            return value if value.tzinfo is None else value.astimezone(UTC)
        case date():
            return datetime.combine(value, time())  # noqa: DTZ005, RUF100 - a day has no zone
        case time():
            return value.isoformat()
        case UUID():
            return str(value)
        case timedelta():
            seconds = value.total_seconds()
            return int(seconds) if seconds.is_integer() else seconds
        case bytes() | bytearray() | memoryview():
            raise UsageError("the statement gave bytes, which nothing is compared with", hint="ask for their length")
    raise not_plain()


def shown(name: str) -> str:
    """A name from a database, for a sentence: what cannot be printed is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def not_plain() -> BackupdError:
    """That an answer is of a type that is no plain value, or beyond what a plain value can be."""
    return UsageError(
        "the statement gave a value that nothing can be compared with", hint="cast it to a text or a number"
    )


def _text(value: str) -> str:
    if len(value) > LONGEST:
        raise UsageError(f"the statement gave a text of over {LONGEST} characters", hint=_HINT)
    return value


def _number(value: Decimal) -> int | float:
    if not value.is_finite() or value.adjusted() > _TOO_GREAT:
        return float(value)
    return int(value) if value == value.to_integral_value() else float(value)
