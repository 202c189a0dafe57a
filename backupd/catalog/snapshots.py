"""What snapshots there are, as their repositories say. A cache: `backupctl catalog rebuild` makes it anew."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Row, Select, and_, delete, func, insert, select, update

from backupd.catalog.calendar import date_of, day_of
from backupd.catalog.database import Database
from backupd.catalog.documents import canonical, parsed
from backupd.catalog.newest import fields_of, newest_of
from backupd.catalog.tables import snapshots as table

_GOOD = table.c.kind == "snapshot"


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


@dataclass(frozen=True, slots=True)
class Standing:
    """The snapshots of one source.

    Attributes:
        newest, oldest: when these were taken.
        drilled_at: when a drill proved one last.
        count: how many there are.
    """

    newest: datetime | None
    oldest: datetime | None
    drilled_at: datetime | None
    count: int


class Snapshots:
    """The table of snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, repository: str, snapshots: Iterable[Snapshot], *, since: datetime | None = None) -> int:
        """Write all snapshots of one repository anew, in one transaction; returns how many there are now.

        Those that somebody wrote down after `since`, when the reading began, stay as they are.
        """
        rows = [_values(snapshot) for snapshot in snapshots]
        if any(row["repository"] != repository for row in rows):
            raise ValueError("a snapshot of another repository")
        old = table.c.repository == repository
        with self._database.write() as connection:
            newer = set()
            if since is not None:
                newer = set(connection.execute(select(table.c.id).where(old, table.c.last_seen > since)).scalars())
                old = and_(old, table.c.last_seen <= since)
            connection.execute(delete(table).where(old))
            rows = [row for row in rows if row["id"] not in newer]
            if rows:
                connection.execute(insert(table), rows)
        return len(rows) + len(newer)

    def add(self, snapshot: Snapshot) -> None:
        """Write one; one of the same repository and id is written over."""
        with self._database.write() as connection:
            same = (table.c.repository == snapshot.repository) & (table.c.id == snapshot.id)
            connection.execute(delete(table).where(same))
            connection.execute(insert(table).values(**_values(snapshot)))

    def remove(self, repository: str, ids: Collection[str]) -> int:
        """Forget some; returns how many were known."""
        with self._database.write() as connection:
            return sum(
                connection.execute(delete(table).where(table.c.repository == repository, table.c.id == id)).rowcount
                for id in set(ids)  # noqa: A001 - as the values call it
            )

    def proven(self, repository: str, id: str, now: datetime) -> bool:  # noqa: A002 - as the values call it
        """A drill proved one now; False if it is not known. What is being read of the repository meanwhile is older."""
        one = and_(table.c.repository == repository, table.c.id == id)
        with self._database.write() as connection:
            proven = update(table).where(one).values(drilled_at=now, last_seen=now)
            return connection.execute(proven).rowcount > 0

    def list(
        self, *, repository: str | None = None, source: str | None = None, limit: int | None = None
    ) -> Sequence[Snapshot]:
        """Snapshots, those taken last first."""
        query = select(table).order_by(table.c.taken_at.desc(), table.c.seq.desc(), table.c.id)
        if repository is not None:
            query = query.where(table.c.repository == repository)
        if source is not None:
            query = query.where(table.c.source == source)
        return self._snapshots(query.limit(limit))

    def newest(self, repository: str | None = None) -> Sequence[Snapshot]:
        """Of each repository, writer and source the newest one that is no checkpoint."""
        where = {"kind": "snapshot", **({} if repository is None else {"repository": repository})}
        return self._snapshots(newest_of(table, ("repository", "writer", "source"), "taken_at", where, tie="seq"))

    def counts(self) -> dict[tuple[str, str], int]:
        """Of each repository and source how many there are, without checkpoints."""
        query = select(table.c.repository, table.c.source, func.count()).where(_GOOD)
        with self._database.read() as connection:
            found = connection.execute(query.group_by(table.c.repository, table.c.source)).all()
        return {(repository, source): count for repository, source, count in found}

    def standing(self) -> dict[tuple[str, str], Standing]:
        """Of each repository and source how its snapshots stand."""
        taken, by = table.c.taken_at, (table.c.repository, table.c.source)
        which = select(*by, func.max(taken), func.min(taken), func.max(table.c.drilled_at), func.count())
        with self._database.read() as connection:
            rows = connection.execute(which.where(_GOOD).group_by(*by))
            return {(repository, source): Standing(new, old, at, n) for repository, source, new, old, at, n in rows}

    def days(self, since: datetime) -> dict[tuple[str, str], dict[date, int]]:
        """Of each repository and source how many snapshots were taken on each day since then, UTC."""
        by = (table.c.repository, table.c.source, day_of(table.c.taken_at))
        found: dict[tuple[str, str], dict[date, int]] = {}
        with self._database.read() as connection:
            rows = connection.execute(select(*by, func.count()).where(_GOOD, table.c.taken_at >= since).group_by(*by))
            for repository, source, number, count in rows:
                found.setdefault((repository, source), {})[date_of(number)] = count
        return found

    def _snapshots(self, query: Select[Any]) -> Sequence[Snapshot]:
        with self._database.read() as connection:
            return [_snapshot(row) for row in connection.execute(query)]


def _values(snapshot: Snapshot) -> dict[str, Any]:
    return {**fields_of(snapshot), "holds": canonical({"holds": snapshot.holds})}


def _snapshot(row: Row[Any]) -> Snapshot:
    holds = parsed(row.holds, f"holds of snapshot {row.id[:12]}").get("holds", [])
    return Snapshot(**{**row._asdict(), "holds": tuple(holds)})
