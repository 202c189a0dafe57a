"""What ran, when, and how it ended. Messages are sentences without data."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from backupd.catalog.database import Database


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended.

    Attributes:
        outcome: done, failed, incomplete, cancelled or lost.
        error_code: the error's word, as in the JSON documents.
        error_exit: its exit code.
        error_message: its sentence.
        snapshot: the id of the snapshot that it made.
        seconds: how long the work took.
        warnings: how many there were.
    """

    outcome: str
    error_code: str | None = None
    error_exit: int | None = None
    error_message: str | None = None
    snapshot: str | None = None
    read_bytes: int | None = None
    stored_bytes: int | None = None
    rows: int | None = None
    seconds: float | None = None
    warnings: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at one job; `ended` and `end` are None while it runs."""

    id: int
    policy: str
    source: str | None
    kind: str
    job: str | None
    attempt: int
    started: datetime
    ended: datetime | None
    end: RunEnd | None


class Runs:
    """The table of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self, policy: str, source: str | None, kind: str, now: datetime, *, job: str | None = None, attempt: int = 1
    ) -> int:
        """A run begins; returns its id. The same attempt of the same job is one run, however often it is told."""
        raise NotImplementedError

    def finish(self, run: int, now: datetime, end: RunEnd) -> bool:
        """A run ends; False if it had ended already (then nothing changes) or is not known."""
        raise NotImplementedError

    def lose(self, job: str, attempt: int, now: datetime) -> bool:
        """The run of an attempt whose worker is gone ends as lost; False if it had ended, or never began."""
        raise NotImplementedError

    def get(self, run: int) -> Run | None:
        """One run."""
        raise NotImplementedError

    def list(
        self,
        *,
        policy: str | None = None,
        source: str | None = None,
        kinds: Collection[str] | None = None,
        outcomes: Collection[str] | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[Run]:
        """Runs, those that began last first."""
        raise NotImplementedError

    def last_good(self, kind: str = "run") -> dict[tuple[str, str | None], Run]:
        """Of each policy and source the newest run of this kind that is done."""
        raise NotImplementedError

    def last(self, count: int, kind: str = "run") -> dict[tuple[str, str | None], Sequence[Run]]:
        """Of each policy and source the newest runs of this kind, newest first; at most so many each."""
        raise NotImplementedError

    def unfinished(self) -> Sequence[Run]:
        """Runs that have not ended: those at work, and those whose worker is gone."""
        raise NotImplementedError

    def purge(self, before: datetime) -> int:
        """Forget runs that ended before then, but not the newest good one of each policy, source and kind."""
        raise NotImplementedError
