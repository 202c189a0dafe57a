"""Names, times and numbers as the page shows them, and commands as somebody may paste them. Pure.

Names come from policies and databases and may be hostile: what would hide, reorder or break text is written out. Escaping for
HTML is the template's work, always on, and never done here.
"""

import shlex
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from backupd import report

LONGEST = 160
LONGEST_SENTENCE = 600
_HIDDEN = {"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def shown(text: str, longest: int = LONGEST) -> str:
    """A name without invisible letters (written as `\\u202e`), cut if it is very long."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return visible(text)


def told(text: str) -> str:
    """The same for a sentence, which may be longer."""
    return shown(text, LONGEST_SENTENCE)


def visible(text: str) -> str:
    """The same, never cut: for commands."""
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(letter: str) -> str:
    if unicodedata.category(letter) not in _HIDDEN:
        return letter
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


def quoted(text: str) -> str:
    """As one word of a shell (bash, zsh); what is invisible stays visible."""
    if visible(text) == text:
        return shlex.quote(text)
    return "$'" + "".join(_visible(letter) for letter in text.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def size(n: float | None) -> str:
    """Bytes for people, or a dash."""
    return "–" if n is None else report.size(n)


def length(seconds: float | None) -> str:
    """A length of time for people."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return "less than a second" if seconds > 0 else "0 seconds"
    for unit, name, least in ((_DAY, "day", 3 * _DAY), (_HOUR, "hour", 2 * _HOUR), (_MINUTE, "minute", 2 * _MINUTE)):
        if seconds >= least:
            return f"{int(seconds // unit)} {name}s"
    return f"{int(seconds)} second" + ("s" if int(seconds) != 1 else "")


def relative(moment: datetime, at: datetime) -> str:
    """A moment as seen from another: `9 hours ago`, `in 5 hours`."""
    seconds = (moment - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"in {length(seconds)}" if seconds > 0 else f"{length(-seconds)} ago"


def utc(moment: datetime) -> str:
    """A moment in UTC, to the minute."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def iso(moment: datetime) -> str:
    """A moment for machines."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def local(moment: datetime, zone: str) -> str:
    """A moment in a zone, and in UTC where that differs."""
    there = moment.astimezone(_zone(zone))
    if there.utcoffset() == UTC.utcoffset(None):
        return utc(moment)
    elsewhere = moment.astimezone(UTC)
    date = f"{elsewhere:%Y-%m-%d} " if elsewhere.date() != there.date() else ""
    return f"{there:%Y-%m-%d %H:%M} {there:%Z} ({date}{elsewhere:%H:%M} UTC)"


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")  # a policy with such a zone is refused; the page must come all the same


def percent(share: float | None) -> str:
    """A share; what is over is told up to a bound."""
    if share is None:
        return "–"
    return "over 999 %" if share > 9.99 else f"{int(share * 100)} %"
