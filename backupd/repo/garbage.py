"""Garbage collection without locks: mark, wait longer than any session may last, list again, sweep.

A session that began after a mark treats its packs as absent; one that began before it has published, or given up, when the
wait is over, and what it needs is seen in the new listing. Every step is an object that is signed and never changed, so
whatever is cut off is taken up by the next prune. The model of it is tests/unit/repo/test_gc_model.py. Must never delete
anything but packs that a mark and its intent name, and the leavings of generations that are done.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupd.crypto.keyring import Signer
from backupd.errors import IntegrityError, StorageRefused, TryAgain
from backupd.repo.format import kind_of
from backupd.repo.records import decode_mark, encode_mark, gc_name
from backupd.repo.repository import Repository, read_object
from backupd.report import Problem, Reporter
from backupd.store.base import ObjectExists, ObjectInfo, ObjectMissing, ObjectStore

MOST_IN_A_MARK = 50_000
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class Generation:
    """A mark whose sweep is not done.

    Attributes:
        number: its generation.
        packs: the names that it marks.
        marked_at: when the storage says that it was made.
    """

    number: int
    packs: frozenset[str] = field(repr=False)
    marked_at: datetime


@dataclass(slots=True)
class Swept:
    """What a sweep did."""

    deleted: list[str] = field(default_factory=list)
    freed: int = 0
    refused: list[str] = field(default_factory=list)


def server_now(store: ObjectStore) -> datetime:
    """The storage's own time, by writing a small object, which is removed if the storage lets it go."""
    name = f"probe/{secrets.token_hex(16)}"
    now = store.put(name, b"what time is it?")
    with contextlib.suppress(StorageRefused):
        store.delete(name)
    return now


class Collector:
    """The marks, intents and sweeps of a repository, those that can be believed.

    What is forged, damaged or signed by a revoked key is reported, and stands for nothing.
    """

    def __init__(self, repo: Repository, created: str, signer: Signer, report: Reporter) -> None:
        self._repo, self._created, self._signer, self._report = repo, created, signer, report
        self._there: dict[str, ObjectInfo] = {}
        self._packs: dict[str, frozenset[str]] = {}
        self._look()

    def _look(self) -> None:
        self._there = {info.name: info for info in self._repo.store.list("gc/") if kind_of(info.name)}

    def _believed(self, name: str) -> frozenset[str] | None:
        """The packs of an object; None if it is not there, or not to be believed."""
        if name not in self._there:
            return None
        if name not in self._packs:
            try:
                self._packs[name] = decode_mark(read_object(self._repo.store, name), name, self._repo.trust)
            except IntegrityError as error:
                self._report.problem(Problem(name, "damaged", error.message))
                del self._there[name]
                return None
        return self._packs[name]

    def _numbers(self) -> list[int]:
        return sorted({int(name[3:15]) for name in self._there if name.endswith(".mark")})

    def open(self) -> list[Generation]:
        """The marks without a sweep, oldest first."""
        found = []
        for number in self._numbers():
            name = gc_name(number, "mark")
            packs = self._believed(name)
            if packs is not None and self._believed(gc_name(number, "sweep")) is None:
                found.append(Generation(number, packs, self._there[name].modified))
        return found

    def mark(self, packs: Iterable[str]) -> list[Generation]:
        """Mark packs: from now on new sessions treat them as absent.

        Raises:
            TryAgain: no number is free.
        """
        names = sorted(packs)
        pieces = [names[at : at + MOST_IN_A_MARK] for at in range(0, len(names), MOST_IN_A_MARK)]
        return [self._mark(piece) for piece in pieces]

    def _mark(self, packs: list[str]) -> Generation:
        believed = [n for n in self._numbers() if self._believed(gc_name(n, "mark")) is not None]
        first = max(believed, default=0) + 1
        for number in range(first, first + _TRIES):
            made = self._put(number, packs, "mark")
            if made is not None:
                self._look()
                return Generation(number, frozenset(packs), made)
        raise TryAgain("other prunes are at work in this repository", hint="run again")

    def _put(self, number: int, packs: list[str], step: str) -> datetime | None:
        """Write an object; None if one of that name was there before."""
        name, data = encode_mark(number, packs, self._created, self._repo.id, self._signer, step)
        try:
            made = self._repo.store.put(name, data)
        except ObjectExists:
            return None
        # a store that does not keep create-only may have two of them: the one that stayed counts
        return made if read_object(self._repo.store, name) == data else None

    def sweep(
        self,
        generation: Generation,
        live: Callable[[str], bool],
        sizes: Mapping[str, int],
        progress: Callable[[int], None],
    ) -> Swept:
        """Delete what a mark names and nothing needs; the wait must be over, and `live` of a listing after it.

        The first intent of a generation decides what goes: another prune that is at it deletes the same and no more, and only
        when all of that is gone the generation is done, from which moment on what was spared may be leaned on again.

        Args:
            generation: whose wait is over.
            live: whether a pack is needed.
            sizes: of the packs that are there.
            progress: is told bytes.

        Returns:
            what went; a pack that the storage refuses to delete (it is locked) keeps the generation open.
        """
        number = generation.number
        wanted = [name for name in sorted(generation.packs) if name in sizes and not live(name)]
        self._put(number, wanted, "intent")
        self._look()
        intent = self._believed(gc_name(number, "intent"))
        if intent is None or self._believed(gc_name(number, "sweep")) is not None:
            return Swept()  # somebody else ended it meanwhile
        swept = Swept()
        for name in sorted(intent & generation.packs):
            if name not in sizes or live(name):
                continue
            try:
                self._repo.store.delete(name)
            except StorageRefused:
                swept.refused.append(name)
                continue
            swept.deleted.append(name)
            swept.freed += sizes[name]
            progress(sizes[name])
        if not swept.refused and not self._left(intent & generation.packs):
            self._put(number, sorted(intent), "sweep")
            self._look()
        return swept

    def _left(self, packs: frozenset[str]) -> bool:
        """Whether any of them is in the storage still."""
        for name in packs:
            try:
                self._repo.store.get(name, 0, 1)
            except ObjectMissing:
                continue
            return True
        return False

    def tidy(self, before: datetime) -> None:
        """Remove the objects of generations that were done before a time; the newest stays, since numbers go on from it."""
        for number in self._numbers()[:-1]:
            sweep = gc_name(number, "sweep")
            if self._believed(sweep) is None or self._there[sweep].modified >= before:
                continue
            with contextlib.suppress(StorageRefused):
                for step in ("mark", "intent", "sweep"):
                    self._repo.store.delete(gc_name(number, step))


def over(generation: Generation, now: datetime, grace: timedelta) -> bool:
    """Whether the wait after a mark is over, by the storage's time."""
    return now - generation.marked_at >= grace
