"""Durations, shares and references to secrets, as policies write them."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
MOST_SECONDS = 100 * 365 * 86400
_DURATION = r"^[0-9]{1,9}\s*[smhdw]$"
_SHARE = r"^[0-9]{1,3}(\.[0-9]{1,3})?\s*%$"
_REFERENCE = r"^(file|env|credential|exec|aws-sm):.+$"


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `36h`, `14d`, `8w`.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"([0-9]{1,9})\s*([smhdw])", text.strip())
    if match is None:
        raise ValueError("write a number and s, m, h, d or w, such as 15m, 36h or 14d")
    seconds = int(match[1]) * UNITS[match[2]]
    if seconds > MOST_SECONDS:
        raise ValueError("a hundred years are enough")
    return timedelta(seconds=seconds)


def _duration(value: Any) -> timedelta:
    if not isinstance(value, str):
        raise ValueError("write a number and s, m, h, d or w, such as 15m, 36h or 14d")
    return parse_duration(value)


def _positive(value: Any) -> timedelta:
    found = _duration(value)
    if not found:
        raise ValueError("must be more than nothing")
    return found


def _share(value: Any) -> float:
    if not isinstance(value, str) or not re.fullmatch(_SHARE, value.strip()):
        raise ValueError("write a share such as 5%")
    share = float(value.strip().removesuffix("%"))
    if not 0 < share <= 100:
        raise ValueError("must be more than 0% and at most 100%")
    return share


def _secret(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(_REFERENCE, value):
        # what stands here may be a secret: it is not quoted
        raise ValueError("name where the secret is: file:PATH, env:NAME, credential:NAME, exec:COMMAND or aws-sm:NAME")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), WithJsonSchema({"type": "string", "pattern": _DURATION})]
Positive = Annotated[timedelta, BeforeValidator(_positive), WithJsonSchema({"type": "string", "pattern": _DURATION})]
Share = Annotated[float, BeforeValidator(_share), WithJsonSchema({"type": "string", "pattern": _SHARE})]
SecretRef = Annotated[str, BeforeValidator(_secret), WithJsonSchema({"type": "string", "pattern": _REFERENCE})]


def written(duration: timedelta) -> str:
    """A duration as a policy would write it."""
    seconds = int(duration.total_seconds())
    for unit in ("w", "d", "h", "m"):
        if seconds and seconds % UNITS[unit] == 0:
            return f"{seconds // UNITS[unit]}{unit}"
    return f"{seconds}s"
