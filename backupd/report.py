"""The reporter: where expected problems and progress go while a job works on.

A job tells its reporter what it counts and which problems it met; it never prints and never logs by itself.
Nothing given to a reporter may hold a record's content.
"""

import threading
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing found wrong with a stored object: its name, the kind of problem, and a sentence."""

    object: str
    kind: str
    detail: str


class Reporter(Protocol):
    """What a job tells while it works."""

    def phase(self, name: str, total_bytes: int | None = None) -> None:
        """A new phase begins; `total_bytes` is what `advance` will add up to, if known."""

    def advance(self, done_bytes: int) -> None:
        """That many more bytes of the phase are done."""

    def warning(self, text: str) -> None:
        """Something the operator should know, though the job goes on."""

    def problem(self, problem: Problem) -> None:
        """A stored object is not as it should be."""


class Locked:
    """A reporter that several threads may tell at once."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner
        self._lock = threading.Lock()

    def phase(self, name: str, total_bytes: int | None = None) -> None:
        """Passed on."""
        with self._lock:
            self._inner.phase(name, total_bytes)

    def advance(self, done_bytes: int) -> None:
        """Passed on."""
        with self._lock:
            self._inner.advance(done_bytes)

    def warning(self, text: str) -> None:
        """Passed on."""
        with self._lock:
            self._inner.warning(text)

    def problem(self, problem: Problem) -> None:
        """Passed on."""
        with self._lock:
            self._inner.problem(problem)


@dataclass(slots=True)
class Tally:
    """A reporter that only collects: for tests, for `--quiet`, and under every other reporter."""

    warnings: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def phase(self, name: str, total_bytes: int | None = None) -> None:
        """Collects nothing."""

    def advance(self, done_bytes: int) -> None:
        """Collects nothing."""

    def warning(self, text: str) -> None:
        """Keeps the warning."""
        self.warnings.append(text)

    def problem(self, problem: Problem) -> None:
        """Keeps the problem."""
        self.problems.append(problem)


def size(n: float) -> str:
    """Bytes for people: `512 B`, `1.5 kB`, `310 MB`."""
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
