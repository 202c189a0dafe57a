"""Days, UTC, as the database counts them."""

from datetime import date, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, type_coerce

_DAY = 86_400_000_000
_FIRST = date(1970, 1, 1)


def day_of(moment: ColumnElement[Any]) -> ColumnElement[Any]:
    """The number of the day of a column of times."""
    microseconds = type_coerce(moment, BigInteger)
    return ((microseconds - microseconds % _DAY) / _DAY).label("day")


def date_of(number: float) -> date:
    """The day of a number."""
    return _FIRST + timedelta(days=int(number))
