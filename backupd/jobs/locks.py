"""Until when the storage lets nobody remove what the newest snapshots need; and longer locks where they run out too early.

A bucket locks each object from the moment it is written. A snapshot leans on packs of earlier nights, whose locks end earlier
than its own: what is promised of a snapshot holds only if these are locked anew. That is done by whoever prunes, who reads the
lists anyway, with credentials of a right that no backup host needs.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.config.clock import parse_stamp
from backupd.errors import BackupdError
from backupd.jobs.needed import packs_needed
from backupd.repo.repository import Repository, SnapshotView
from backupd.report import Reporter
from backupd.store.base import Lockable

_AT_ONCE = 8
_LEAST_SLACK = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Locked:
    """What was seen of the locks of all that the newest snapshots need.

    Attributes:
        until: the earliest end of one; None if an object is not locked, or the storage does not say.
        short: whether one ends earlier than was promised, by more than is left to the next prune.
        objects: how many there are.
        extended: how many of them were locked for longer now.
        refused: why the storage did not answer, or did not lock an object; None if it did.
    """

    until: datetime | None
    short: bool
    objects: int = 0
    extended: int = 0
    refused: str | None = None


def slack(promised: timedelta) -> timedelta:
    """By how much longer than promised objects are locked, so that not every prune has to lock every one of them again."""
    return max(_LEAST_SLACK, promised / 10)


def newest_of_each(views: Iterable[SnapshotView]) -> list[SnapshotView]:
    """The newest snapshot of each source of each writer."""
    found: dict[tuple[bytes, str], SnapshotView] = {}
    for view in views:
        key = (view.object.writer, view.source)
        if view.structure.kind == "snapshot" and (key not in found or found[key].object.seq < view.object.seq):
            found[key] = view
    return list(found.values())


class Locks:
    """The locks of a repository in a store that can lock.

    Args:
        repo: opened with a right to read lists.
        store: where it is.
        promised: for how long each snapshot is to be locked from the time it was taken.
        now: a snapshot that says it was taken later is believed to be of now: nobody's word locks anything for centuries.
        report: progress.
    """

    def __init__(self, repo: Repository, store: Lockable, promised: timedelta, now: datetime, report: Reporter) -> None:
        self._repo, self._store, self._promised, self._now, self._report = repo, store, promised, now, report

    def look(self, views: Iterable[SnapshotView]) -> Locked:
        """Only ask."""
        return self._work(views, None)

    def keep(self, views: Iterable[SnapshotView], mode: str) -> Locked:
        """Lock for longer what would be free before the time that was promised."""
        return self._work(views, mode)

    def _work(self, views: Iterable[SnapshotView], mode: str | None) -> Locked:
        self._report.phase("looking at locks", None)
        wanted: dict[str, datetime] = {}
        try:
            wanted = self._wanted(views)
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="locks") as pool:
                found = list(pool.map(lambda item: self._one(item[0], item[1], mode), wanted.items()))
        except BackupdError as error:
            return Locked(None, short=False, objects=len(wanted), refused=error.message)
        if not wanted:
            return Locked(None, short=False)
        ends = [until for until, _, _ in found]
        refused = next((why for _, _, why in found if why), None)
        short = any(
            until is None or until < wanted[name] - slack(self._promised)
            for name, until in zip(wanted, ends, strict=True)
        )
        earliest = None if None in ends else min(end for end in ends if end is not None)
        return Locked(earliest, short, len(wanted), sum(done for _, done, _ in found), refused)

    def _one(self, name: str, until: datetime, mode: str | None) -> tuple[datetime | None, bool, str | None]:
        """When an object's lock ends now, whether it was made longer, and why it could not be."""
        there = self._store.locked_until(name)
        if mode is None or (there is not None and there >= until):
            return there, False, None
        longer = until + slack(self._promised)
        try:
            self._store.lock(name, longer, mode)
        except BackupdError as error:
            return there, False, error.message
        return longer, True, None

    def _wanted(self, views: Iterable[SnapshotView]) -> dict[str, datetime]:
        """Every object that the newest snapshots need, and until when it is to be locked."""
        wanted: dict[str, datetime] = {}
        for view in newest_of_each(views):
            until = min(_taken(view) or self._now, self._now) + self._promised
            packs, _ = packs_needed(self._repo, [view], [])
            for name in (view.object.name, *packs):
                wanted[name] = max(until, wanted.get(name, until))
        return wanted


def _taken(view: SnapshotView) -> datetime | None:
    try:
        return parse_stamp(view.structure.taken_at)
    except (ValueError, OverflowError):
        return None  # a writer that lies about the time
