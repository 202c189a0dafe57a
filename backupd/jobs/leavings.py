"""Removes what is left of sessions: index segments and session objects, once their snapshot and all their packs are gone.

A segment has to be read to know of which packs it tells. As most of an old session's packs stay for long, the name of one that is
still there is kept on this machine, and while that one is there the segment is not read again. Such a note can only keep a
segment, never remove one. Must never remove a segment that was not read.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from backupd.errors import IntegrityError
from backupd.repo.format import kind_of, pack_name
from backupd.repo.indexing import read_segment
from backupd.repo.repository import Repository, SnapshotView
from backupd.report import Problem, Reporter
from backupd.store.base import ObjectInfo

NOTES = "segments-needed.json"
_READERS = 8
_MOST_NOTES = 64 << 20


@dataclass(slots=True)
class Leavings:
    """What is left of sessions.

    Args:
        repo: the repository.
        packs: those that are there, by name.
        report: is told of segments that cannot be read; they stay.
        cache: the folder for notes; None for none.
    """

    repo: Repository
    packs: Mapping[str, ObjectInfo]
    report: Reporter
    cache: Path | None = None

    def drop(
        self, views: list[SnapshotView], now: datetime, grace: timedelta, delete: Callable[[str, int], None]
    ) -> None:
        """Remove it.

        Args:
            views: the snapshots that stay; what belongs to their sessions stays too.
            now: the storage's time.
            grace: a session that is younger may be under way.
            delete: takes a name and a size.
        """
        alive = {f"{view.object.writer.hex()}/{view.object.envelope.session.hex()}" for view in views}
        segments: dict[str, dict[str, int]] = {}
        for info in self.repo.store.list("index/"):
            if kind_of(info.name):
                segments.setdefault(info.name[6:].rpartition("/")[0], {})[info.name] = info.size
        old = {
            info.name[9:]: info
            for info in self.repo.store.list("sessions/")
            if kind_of(info.name) and info.name[9:] not in alive and now - info.modified >= grace
        }
        empty = self._empty([name for session in old for name in segments.get(session, {})])
        for session, info in old.items():
            sizes = segments.get(session, {})
            for name in sorted(sizes.keys() & empty):
                delete(name, sizes[name])
            if sizes.keys() <= empty:
                delete(info.name, info.size)

    def _empty(self, names: list[str]) -> set[str]:
        """The segments of whose packs none is there."""
        known = {name: pack for name, pack in self._noted().items() if pack in self.packs}
        unknown = [name for name in names if name not in known]
        with ThreadPoolExecutor(_READERS) as pool:
            found = dict(zip(unknown, pool.map(self._pack_of, unknown), strict=True))
        noted = {name: pack for name in names if (pack := known.get(name) or found.get(name))}
        if unknown:
            self._note(noted)
        return {name for name, pack in found.items() if pack is None}

    def _pack_of(self, name: str) -> str | None:
        """The name of a pack of a segment's that is there; of one that cannot be read something that is no name."""
        try:
            listed = [pack_name(pack.digest) for pack in read_segment(self.repo, name)]
        except IntegrityError as error:
            self.report.problem(Problem(name, "damaged", error.message))
            return ""
        return next((pack for pack in listed if pack in self.packs), None)

    def _noted(self) -> dict[str, str]:
        """What was noted; nothing if that cannot be read or is no such thing."""
        if self.cache is None:
            return {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with (self.cache / NOTES).open("rb") as file:
                found = json.loads(file.read(_MOST_NOTES))
            if isinstance(found, dict):
                return {name: pack for name, pack in found.items() if isinstance(pack, str)}
        return {}

    def _note(self, noted: Mapping[str, str]) -> None:
        if self.cache is None:
            return
        fresh = self.cache / f"{NOTES}.{os.getpid()}"
        with contextlib.suppress(OSError):
            self.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh.write_text(json.dumps(noted))
            fresh.replace(self.cache / NOTES)
