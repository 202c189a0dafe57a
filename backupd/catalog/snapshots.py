"""What snapshots there are, as their repositories say. A cache: `backupctl catalog rebuild` makes it anew."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from backupd.catalog.database import Database


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot.

    Attributes:
        repository, writer, id: hex.
        taken_at, stored_at: None where the writer wrote no time.
        kind: snapshot or checkpoint.
        holds: the reasons for which it must not be pruned, in order.
        drilled_at: when a drill proved it last.
        last_seen: when its repository last listed it.
    """

    repository: str
    writer: str
    source: str
    seq: int
    id: str
    taken_at: datetime | None
    stored_at: datetime | None
    kind: str
    rows: int | None
    read_bytes: int
    stored_bytes: int
    holds: tuple[str, ...]
    drilled_at: datetime | None
    last_seen: datetime


class Snapshots:
    """The table of snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, repository: str, snapshots: Iterable[Snapshot]) -> int:
        """Write all snapshots of one repository anew, in one transaction; returns how many there are now."""
        raise NotImplementedError

    def add(self, snapshot: Snapshot) -> None:
        """Write one; one of the same repository and id is written over."""
        raise NotImplementedError

    def remove(self, repository: str, ids: Collection[str]) -> int:
        """Forget some; returns how many were known."""
        raise NotImplementedError

    def list(
        self, *, repository: str | None = None, source: str | None = None, limit: int | None = None
    ) -> Sequence[Snapshot]:
        """Snapshots, those taken last first."""
        raise NotImplementedError

    def newest(self, repository: str | None = None) -> Sequence[Snapshot]:
        """Of each repository, writer and source the newest one that is no checkpoint."""
        raise NotImplementedError

    def counts(self) -> dict[tuple[str, str], int]:
        """Of each repository and source how many there are, without checkpoints."""
        raise NotImplementedError
