"""The daemon's own log: one structured line for each event, to standard output, for a journal or a collector.

Nothing that may hold a record or a secret is logged: events are words, values are names, numbers and times. What looks like a
secret by its key, inside a URL or behind `password=` is blotted out all the same, in case somebody forgets. A log that cannot be
written (its reader is gone, its disk is full) must never stop a backup.
"""

import contextlib
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO, cast

import structlog

from backupd.config.clock import fine_stamp, now

_PRIORITY = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_SECRET_KEYS = re.compile(r"pass(word|phrase)?|secret|token|authorization|api_?key|credential", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^/@\s:]*:[^@\s]*(?=@)")
_IN_TEXT = re.compile(
    r"(?i)\b(pass(?:word|wd|phrase)?|secret|token|authorization|api_?key)(\s*[=:]\s*)((?:bearer\s+|basic\s+)?[^\s,;&]+)"
)
Logger = structlog.typing.FilteringBoundLogger


def configure(*, verbose: bool, journal: bool, out: TextIO | None = None) -> Logger:
    """The daemon's logger.

    Args:
        verbose: debug events too.
        journal: a journal reads it: each line begins with its priority (`<6>`), and has no time of its own.
        out: where to; standard output by default.
    """
    stream = out or sys.stdout
    people = stream.isatty() and not journal
    last: Any = structlog.processors.JSONRenderer()
    if people:
        last = structlog.dev.ConsoleRenderer(colors=False, repr_native_str=True)  # what a job says moves no cursor
    processors: list[Any] = [structlog.processors.add_log_level, _stamp, redact, last]
    if journal:
        processors.append(_Prefix())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(10 if verbose else 20),
        logger_factory=structlog.PrintLoggerFactory(
            file=cast(TextIO, _Patient(stream))
        ),  # it writes and flushes, no more
        cache_logger_on_first_use=False,
    )
    logger: Logger = structlog.get_logger()
    return logger


def _stamp(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["at"] = fine_stamp(now())
    return event


def redact(_logger: object, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Blot out what must not be there."""
    return {key: "***" if _SECRET_KEYS.search(key) else _clean(value) for key, value in event.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _IN_TEXT.sub(r"\1\2***", _IN_URL.sub("***", value))
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: "***" if _SECRET_KEYS.search(str(key)) else _clean(item) for key, item in value.items()}
    return value


class _Patient:
    """A stream whose reader may go away."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Have it written, or lose it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Prefix:
    """Puts the priority before a line of the journal."""

    def __call__(self, _logger: object, name: str, line: str) -> str:
        return f"<{_PRIORITY.get(name, 6)}>{line}"
