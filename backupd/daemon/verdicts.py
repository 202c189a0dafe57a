"""What the document of a drill says of each source: a verdict, or why there is none. Pure.

As in endings.py: what cannot be believed is left out, and nothing here ever raises. Of a check only its name is taken, and
whether it passed: what it saw is in the signed report.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backupd.catalog.runs import RunEnd
from backupd.daemon import endings
from backupd.daemon.endings import Document
from backupd.errors import Exit

RESTORE, RTO = "restore", "rto"
"""Checks that mean more than others: whether anything came back, and whether in time."""
_MOST_CHECKS = 500
_MOST_NAME = 250
_MOST_SOURCES = 5000
_FINDINGS = {Exit.FAILED, Exit.INTEGRITY, Exit.OBJECTIVE_MISSED}
"""With these a drill ends that was done, and did not pass."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the drill of one source.

    Attributes:
        source: as the repository calls it.
        snapshot: the id of what was restored; empty where nothing could be tried.
        passed: whether all is as it must be.
        checks: by their names, whether each passed; none where nothing could be tried.
        restore_seconds: how long the restore took, if it came to its end.
        seconds: how long all of it took.
        why: why nothing could be tried.
        code, word: the exit code and the word of that.
    """

    source: str
    snapshot: str = ""
    passed: bool = False
    checks: tuple[tuple[str, bool], ...] = ()
    restore_seconds: float | None = None
    seconds: float = 0.0
    why: str = ""
    code: int = int(Exit.FAILED)
    word: str = "failed"

    @property
    def tried(self) -> bool:
        """Whether it is a verdict at all."""
        return bool(self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """The checks that did not pass."""
        return tuple(name for name, passed in self.checks if not passed)


def judged(end: RunEnd, verdicts: Sequence[Verdict]) -> RunEnd:
    """How a drill's job ended: done only if it says what passed, and that all of it did."""
    if end.outcome != "done" or (verdicts and all(verdict.passed for verdict in verdicts)):
        return end
    return RunEnd("failed", "failed", int(Exit.FAILED), "it ended without a word on what came back")


def verdicts_in(document: Document, code: int) -> list[Verdict]:
    """The verdicts that a document tells of, and what could not be tried, each source once.

    Args:
        document: of one drill, or of a policy with several sources.
        code: the exit code: a single drill that passed ends with 0 and no other with it.
    """
    several = document.get("drills")
    entries = several[:_MOST_SOURCES] if isinstance(several, list) else [document]
    found: dict[str, Verdict] = {}
    for entry in entries:
        verdict = _verdict(entry) if isinstance(entry, dict) and not entry.get("dry_run") else None
        if verdict is None or not (isinstance(several, list) or _agrees(verdict, code)):
            continue
        before = found.get(verdict.source)  # of two writers' sources of one name, the one that did not pass counts
        if before is None or before.passed:
            found[verdict.source] = verdict
    return list(found.values())


def _agrees(verdict: Verdict, code: int) -> bool:
    return code == Exit.DONE if verdict.passed else verdict.tried and code in _FINDINGS


def _verdict(entry: Document) -> Verdict | None:
    source, passed, snapshot = entry.get("source"), entry.get("passed"), entry.get("snapshot")
    if not isinstance(source, str) or not 0 < len(source) <= endings.MOST_SOURCE:
        return None
    source = _plain(source)
    if not isinstance(passed, bool):
        return _untried(source, entry)
    checks = tuple(_checks(entry.get("checks")))
    if not endings.is_hex(snapshot) or not checks or passed != all(good for _, good in checks):
        return None
    restored, whole = endings.seconds(entry.get("restore_seconds")), endings.seconds(entry.get("seconds"))
    return Verdict(source, snapshot, passed, checks, restored, whole or 0.0)


def _untried(source: str, entry: Document) -> Verdict | None:
    error = entry.get("error")
    if not isinstance(error, dict):
        return None
    code, word, why = endings.count(error.get("exit")), error.get("code"), error.get("message")
    return Verdict(
        source,
        why=why[: endings.MOST_WORDS] if isinstance(why, str) and why else "it did not say why",
        code=code if code is not None and 0 < code < 256 else int(Exit.FAILED),
        word=word if endings.is_word(word) else "failed",
    )


def _checks(given: object) -> Iterator[tuple[str, bool]]:
    """Names and whether they passed; nothing at all if one cannot be read, for that one may have failed."""
    if not isinstance(given, list) or len(given) > _MOST_CHECKS:
        return
    found = []
    for check in given:
        name, passed = (check.get("name"), check.get("passed")) if isinstance(check, dict) else (None, None)
        if not isinstance(name, str) or not name or not isinstance(passed, bool):
            return
        found.append((_plain(name[:_MOST_NAME]), passed))
    yield from found


def _plain(text: str) -> str:
    """Text that every database takes."""
    return text.encode("utf-8", "backslashreplace").decode()
