"""Progress with rate and time left, on a terminal only; none when piped. Warnings and problems go to standard error."""

import sys
import time

from backupctl.options import Settings
from backupctl.output import note, plain, size
from backupctl.verbs import Reached
from backupd.report import Problem, Tally

_EVERY = 0.2


class TerminalReporter(Tally):
    """Shows what a job does in one line that rewrites itself."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._quiet = settings.quiet
        self._loud = not settings.quiet and not settings.json
        self._says_more = self._loud and settings.verbose
        self._live = self._loud and sys.stderr.isatty()
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._began = self._shown = 0.0

    def phase(self, name: str, total_bytes: int | None = None) -> None:
        """Begin a phase."""
        self.clear()
        self._name, self._total, self._done = plain(name), total_bytes, 0
        self._began, self._shown = time.monotonic(), 0.0
        if self._says_more:
            note(f"{name}, {size(total_bytes)}" if total_bytes else name)

    def advance(self, done_bytes: int) -> None:
        """Count on, and show it now and then."""
        self._done += done_bytes
        now = time.monotonic()
        if self._live and now - self._shown >= _EVERY:
            self._shown = now
            sys.stderr.write("\r\x1b[K" + self._line(now - self._began))
            sys.stderr.flush()

    def _line(self, seconds: float) -> str:
        rate = self._done / max(seconds, 0.001)
        text = f"{self._name}: {size(self._done)}"
        if self._total:
            left = max(0, self._total - self._done) / max(rate, 1)
            text += f" of {size(self._total)} ({min(100, 100 * self._done // self._total)} %)"
            return f"{text}, {size(int(rate))}/s, {int(left // 60)}:{int(left % 60):02d} left"
        return f"{text}, {size(int(rate))}/s"

    def clear(self) -> None:
        """Take the line away."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def warning(self, text: str) -> None:
        """Show a warning at once, also where a document follows: it may tell of what is about to be done."""
        super().warning(text)
        Reached.warnings.append(text)
        if not self._quiet:
            self.clear()
            note(f"warning: {text}")

    def problem(self, problem: Problem) -> None:
        """Show a problem."""
        super().problem(problem)
        if self._loud:
            self.clear()
            note(f"problem: {problem.object}: {problem.kind}: {problem.detail}")
