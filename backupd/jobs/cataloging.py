"""Writing down in the catalog what a repository holds. The repository is the truth: this reads it, and never changes it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.catalog.opening import Catalog
from backupd.catalog.repositories import Brake, Incident, Seen
from backupd.catalog.snapshots import Snapshot
from backupd.config.clock import parse_stamp
from backupd.jobs.drillrecords import drills_by_snapshot
from backupd.jobs.holds import holds_by_snapshot
from backupd.jobs.locks import Locked, Locks
from backupd.repo.brakes import brakes_set
from backupd.repo.format import snapshot_name
from backupd.repo.incidents import incidents
from backupd.repo.recordfacts import pruned_snapshots
from backupd.repo.records import Record
from backupd.repo.repository import Repository, SnapshotView
from backupd.report import Reporter
from backupd.store.base import lockable

_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a repository.

    Attributes:
        snapshots: all that it holds.
        pruned: ids of those that somebody signed away.
        shut: names of snapshot objects that are there and are not in `snapshots`: they do not verify, are not trusted any
            more, or the key at hand does not open them.
        brakes: those in force.
        problems: what is wrong with it.
        size: bytes of everything in it.
        locks: of what its newest snapshots need; None if nobody asked, or the storage locks nothing.
        incidents: those that nobody has closed.
    """

    snapshots: list[Snapshot]
    pruned: frozenset[str]
    shut: frozenset[str]
    brakes: tuple[Brake, ...]
    problems: tuple[str, ...]
    size: int
    locks: Locked | None = None
    incidents: tuple[Incident, ...] = ()


def look(repo: Repository, now: datetime, report: Reporter, *, promised: timedelta | None = None) -> Look:
    """Every snapshot that a repository holds, and what the catalog remembers besides.

    Args:
        repo: opened with a right to list.
        now: the time.
        report: progress, problems.
        promised: for how long a policy promises that snapshots are locked; None if it does not.

    What does not verify is told to the reporter and left out, and so are snapshots that the key at hand does not open.

    Raises:
        MissingRight: the key may not list snapshots.
        BackupdError: as the storage says.
    """
    history = repo.history()
    found = [*history.record_problems, *history.problems]
    for problem in found:
        report.problem(problem)
    if history.hidden:
        report.warning(f"{history.hidden} snapshots are left out: the key at hand does not open their structure")
    there = {info.name: info.size for info in repo.store.list("")}
    read = {view.object.name for view in history.views}
    store = lockable(repo.store)
    return Look(
        listed(repo.id, history.views, history.records, now),
        frozenset(digest.hex() for digest in pruned_snapshots(history.records).values()),
        frozenset(name for name in there if name.startswith("snapshots/") and name not in read),
        tuple(
            Brake(brake.source, brake.writer.hex(), _moment(brake.since), brake.reason, brake.record)
            for brake in brakes_set(history.records)[0]
        ),
        tuple(f"{problem.object}: {problem.detail}" for problem in found if problem.kind != "unknown")[:_MOST_PROBLEMS],
        sum(there.values()),
        Locks(repo, store, promised, now, report).look(history.views) if promised and store else None,
        tuple(open_incidents(history.records)),
    )


def open_incidents(records: Iterable[Record]) -> Iterator[Incident]:
    """What people should see of the incidents that nobody has closed."""
    for one in incidents(records):
        if not one.is_open:
            continue
        sources = tuple(sorted({covered.source for covered in one.sources}))
        said = one.newest or {}
        yield Incident(
            one.id,
            one.kind,
            sources,
            _moment(one.since),
            one.message,
            _moment(str(said["created"])) if said else None,
            said.get("known"),
            said.get("restoring"),
            said.get("rate"),
            said.get("left"),
            _moment(said["until"]) if said.get("until") else None,
        )


def note(
    catalog: Catalog,
    policy: str | None,
    place: str,
    repository: str,
    seen: Look,
    now: datetime,
    *,
    accept: bool = False,
) -> int:
    """Write down what was seen; returns how many snapshots are gone that nobody signed away.

    Args:
        catalog: where to.
        policy: whose repository it is; None if no policy's.
        place: its address, without any secret.
        repository: its id, hex.
        seen: the look at it.
        now: when it began: what was written down since then stays.
        accept: a person has looked: those that are gone are not remembered any longer.
    """
    there = {snapshot.id for snapshot in seen.snapshots}
    known = [s for s in catalog.snapshots.list(repository=repository) if s.id not in there and s.last_seen < now]
    gone = [s for s in known if s.id not in seen.pruned and _object(s) not in seen.shut]
    before = catalog.repositories.all().get(policy or "")
    # what was gone at an earlier look is not known any more: it is remembered by its number, until a person has looked
    vanished = len(gone) + (before.vanished if before and before.repository == repository else 0)
    catalog.snapshots.replace(repository, seen.snapshots, since=now)
    if policy is not None:
        told = 0 if accept else vanished
        catalog.repositories.put(
            Seen(
                policy,
                repository,
                place,
                now,
                seen.size,
                seen.problems,
                seen.brakes,
                seen.locks.until if seen.locks else None,
                told,
                None if seen.locks is None or seen.locks.refused else seen.locks.short,
                seen.incidents,
            )
        )
    return vanished


def _object(snapshot: Snapshot) -> str:
    return snapshot_name(bytes.fromhex(snapshot.writer), snapshot.seq)


def listed(
    repository: bytes, views: Iterable[SnapshotView], records: Iterable[Record], now: datetime
) -> list[Snapshot]:
    """Snapshots that were read, with what the records say of them, for the catalog.

    Args:
        repository: its id.
        views: the snapshots.
        records: all of the repository.
        now: when they were seen.
    """
    views, records = list(views), list(records)
    holds, drills = holds_by_snapshot(views, records), drills_by_snapshot(records)
    return [
        Snapshot(
            repository=repository.hex(),
            writer=view.object.writer.hex(),
            source=view.source,
            seq=view.object.seq,
            id=view.id,
            taken_at=_moment(view.structure.taken_at),
            stored_at=_moment(view.structure.stored_at),
            kind=view.structure.kind,
            rows=view.structure.rows,
            read_bytes=view.structure.read_bytes,
            stored_bytes=view.structure.stored_bytes,
            holds=tuple(holds.get(view.id, ())),
            drilled_at=drills.get(view.id),
            last_seen=now,
        )
        for view in views
    ]


def _moment(text: str) -> datetime | None:
    try:
        return parse_stamp(text)
    except (ValueError, OverflowError):
        return None  # a writer that lies about the time
