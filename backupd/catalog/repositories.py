"""What was last seen of each policy's repository: which it is, how large, what is wrong with it, which sources are braked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select

from backupd.catalog.database import Database
from backupd.catalog.documents import canonical, parsed
from backupd.catalog.tables import repositories


@dataclass(frozen=True, slots=True)
class Brake:
    """Pruning of a source stands still.

    Attributes:
        writer: hex.
        reason: why, without data.
        record: the record that says so.
    """

    source: str
    writer: str
    since: datetime | None
    reason: str
    record: str


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident that nobody has closed.

    Attributes:
        sources: whose: names of sources.
        message: what people are told, or why it was opened.
        told: when the message was written; None if it has none.
        known, restoring: what is known; what is being brought back.
        rate, left: bytes a second, as measured; bytes that are still to come.
        until: when it should be done.
    """

    id: str
    kind: str
    sources: tuple[str, ...]
    since: datetime | None
    message: str
    told: datetime | None = None
    known: str | None = None
    restoring: str | None = None
    rate: int | None = None
    left: int | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A policy's repository.

    Attributes:
        repository: its id, hex.
        place: its address, without any secret.
        at: when it was looked at.
        bytes: of everything in it; None if nobody counted.
        problems: what is wrong with it.
        brakes: those in force.
        locked_until: until when everything that its newest snapshots need is locked by the storage; None if it is not, or
            nobody knows.
        vanished: snapshots that the catalog knew and that are gone without a record that says so.
        lock_short: whether that is sooner than the policy promises; None if nobody knows.
        incidents: those that are open.
    """

    policy: str
    repository: str
    place: str
    at: datetime
    bytes: int | None = None
    problems: tuple[str, ...] = ()
    brakes: tuple[Brake, ...] = ()
    locked_until: datetime | None = None
    vanished: int = 0
    lock_short: bool | None = None
    incidents: tuple[Incident, ...] = ()


class Repositories:
    """The table of repositories."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, seen: Seen) -> None:
        """Write down what was seen, in place of what was known."""
        brakes: list[dict[str, str | None]] = [
            {
                "source": brake.source,
                "writer": brake.writer,
                "since": brake.since.isoformat() if brake.since else None,
                "reason": brake.reason,
                "record": brake.record,
            }
            for brake in seen.brakes
        ]
        values = {
            "policy": seen.policy,
            "repository": seen.repository,
            "place": seen.place,
            "at": seen.at,
            "bytes": seen.bytes,
            "locked_until": seen.locked_until,
            "detail": canonical(
                {
                    "problems": list(seen.problems),
                    "brakes": brakes,
                    "vanished": seen.vanished,
                    "lock_short": seen.lock_short,
                    "incidents": [_plain(incident) for incident in seen.incidents],
                }
            ),
        }
        with self._database.write() as connection:
            connection.execute(delete(repositories).where(repositories.c.policy == seen.policy))
            connection.execute(insert(repositories).values(**values))

    def all(self) -> dict[str, Seen]:
        """Of each policy its repository."""
        with self._database.read() as connection:
            rows = connection.execute(select(repositories)).mappings().all()
        return {row["policy"]: _seen(dict(row)) for row in rows}

    def keep(self, policies: Sequence[str]) -> None:
        """Forget those of all other policies."""
        with self._database.write() as connection:
            connection.execute(delete(repositories).where(repositories.c.policy.not_in(policies)))


def _seen(row: dict[str, object]) -> Seen:
    detail = parsed(str(row.pop("detail")), "a repository's detail")
    brakes = tuple(
        Brake(
            str(brake["source"]),
            str(brake["writer"]),
            datetime.fromisoformat(brake["since"]) if brake["since"] else None,
            str(brake["reason"]),
            str(brake["record"]),
        )
        for brake in detail["brakes"]
    )
    problems, vanished = tuple(map(str, detail["problems"])), int(detail["vanished"])
    short = detail.get("lock_short")
    open_ones = tuple(map(_incident, detail.get("incidents", [])))  # older daemons wrote none
    more = {"problems": problems, "brakes": brakes, "vanished": vanished, "lock_short": short, "incidents": open_ones}
    return Seen(**row, **more)  # type: ignore[arg-type]


_TIMES = ("since", "told", "until")


def _plain(incident: Incident) -> dict[str, Any]:
    said = {**asdict(incident), "sources": list(incident.sources)}
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in said.items()}


def _incident(said: dict[str, Any]) -> Incident:
    times = {name: datetime.fromisoformat(said[name]) if said[name] else None for name in _TIMES}
    return Incident(**{**said, **times, "sources": tuple(map(str, said["sources"]))})
