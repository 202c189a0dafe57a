"""Claims jobs and runs each in a process of its own, with a lease that is renewed while it works. One thread, which never waits.

One slot more than the jobs that may run at once takes restores only: on the worst day nobody waits behind a night's backups.
Drills, which may take hours, leave the last of several slots to everything else, so that no backup waits behind them. A
worker that lost its claim stops its process at once; what that had done is wasted and harms nothing. An end that cannot be
written down now is kept, with its lease, until it can: nothing must be done again because the catalog was locked.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from backupd.catalog.queue import Claim, JobSpec, Queue
from backupd.daemon.child import Child, Ended
from backupd.daemon.logs import Logger
from backupd.daemon.timetable import PRIORITY
from backupd.errors import BackupdError, Exit

LEASE = 120.0
_BEAT = LEASE / 4
_PATIENCE = 60.0
"""Between asking a job to end and ending it."""
RESTORES = frozenset({"restore"})
_NO_DRILL = frozenset(PRIORITY) - {"drill"}
ABANDONED = "the daemon ended"
TAKEN = "it was cancelled, or is another worker's now"


@dataclass(frozen=True, slots=True)
class Command:
    """What a job's process is started with."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)


class Bookkeeper(Protocol):
    """Who writes down what begins and ends, and what becomes of it."""

    def begun(self, claim: Claim, now: datetime) -> None:
        """A job begins."""

    def ended(self, claim: Claim, ended: Ended, now: datetime, why: str) -> None:
        """A job's process has ended; `why` it was stopped, if it was. After an error it is called again, with the same values."""

    def refused(self, claim: Claim, error: BackupdError, now: datetime) -> None:
        """A job cannot even begin."""


@dataclass(frozen=True, slots=True)
class _Room:
    """There is a free slot, for jobs of these kinds; None for all."""

    kinds: Collection[str] | None


@dataclass(slots=True)
class _Slot:
    """A job at work; `end` is how it ended and when, while that is still to be written down."""

    claim: Claim
    child: Child
    began: datetime
    beat: float
    deadline: float | None
    beat_at: datetime
    why: str = ""
    kill_at: float | None = None
    last: str = ""
    end: tuple[Ended, datetime] | None = None


class Workers:
    """The slots of one daemon.

    Args:
        name: of this worker, for people.
        slots: how many jobs may run at once, besides one restore.
        queue: where jobs come from.
        command: a job's command.
        start: starts its process.
        books: told of everything.
        log: what jobs say is passed on to it.
        ticks: seconds of a clock that nobody puts forward or back.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        queue: Queue,
        command: Callable[[JobSpec], Command],
        start: Callable[[Command], Child],
        books: Bookkeeper,
        log: Logger,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._most, self._queue, self._ticks = name, slots, queue, ticks
        self._command, self._start, self._books, self._log = command, start, books, log
        self._slots: dict[str, _Slot] = {}
        self.draining = False

    @property
    def busy(self) -> int:
        """How many jobs are at work."""
        return len(self._slots)

    def running(self) -> Iterator[tuple[Claim, datetime, str]]:
        """Each job at work, since when, and the last thing it said."""
        for slot in self._slots.values():
            yield slot.claim, slot.began, slot.last

    def descriptors(self) -> Iterator[int]:
        """Where messages arrive."""
        for slot in self._slots.values():
            if slot.end is None and (fd := slot.child.messages) is not None:
                yield fd

    def tend(self, now: datetime) -> bool:
        """Look after the jobs at work; returns whether one has ended.

        What needs no catalog is done for all of them first: no job may escape its limits because that does not answer.
        """
        for slot in self._slots.values():
            self._listen(slot)
            self._limit(slot)
            self._see(slot, now)
        over = [key for key, slot in self._slots.items() if slot.end is not None]
        for slot in self._slots.values():
            self._renew(slot, now)
        for key in over:
            self._write_down(key)
        return bool(over)

    def fill(self, now: datetime) -> None:
        """Take jobs for the slots that are free."""
        while not self.draining and (room := self._room()):
            claim = self._queue.claim(self._name, now, LEASE, room.kinds)
            if claim is None:
                return
            self._begin(claim, now)

    def _room(self) -> _Room | None:
        restores = sum(slot.claim.spec.kind in RESTORES for slot in self._slots.values())
        shared = len(self._slots) - min(1, restores)
        # a process that was told to stop since its job is another's may not have yet, and the next job may be that very one
        is_stopping = any(slot.why == TAKEN and slot.end is None for slot in self._slots.values())
        if shared < self._most and not is_stopping:
            drills = sum(slot.claim.spec.kind == "drill" for slot in self._slots.values())
            return _Room(_NO_DRILL if 0 < self._most - 1 <= drills else None)
        return None if restores else _Room(RESTORES)

    def _begin(self, claim: Claim, now: datetime) -> None:
        try:
            self._books.begun(claim, now)
        except BackupdError as error:  # the job is ours all the same, and its end is written down with its beginning
            self._log.warning("the beginning of a job cannot be written down", job=claim.id, reason=error.message)
        try:
            child = self._start(self._command(claim.spec))
        except BackupdError as error:
            self._books.refused(claim, error, now)
            return
        most, ticks = claim.spec.max_seconds, self._ticks()
        self._slots[claim.token] = _Slot(claim, child, now, ticks, ticks + most if most else None, now)
        self._log.info("job begins", job=claim.id, attempt=claim.attempt, pid=child.pid, **_what(claim.spec))

    def _listen(self, slot: _Slot) -> None:
        if slot.end is None:
            self._pass_on(slot, slot.child.read_messages())

    def _pass_on(self, slot: _Slot, lines: Sequence[str]) -> None:
        for line in lines:
            slot.last = line
            self._log.info("job says", job=slot.claim.id, **_what(slot.claim.spec), line=line)

    def _limit(self, slot: _Slot) -> None:
        """End what takes too long."""
        if slot.end is not None:
            return
        ticks = self._ticks()
        if slot.deadline is not None and ticks >= slot.deadline:
            self._stop(slot, f"it took longer than the {slot.claim.spec.max_seconds:g} seconds that it may")
        if slot.kill_at is not None and ticks >= slot.kill_at:
            slot.child.stop(hard=True)

    def _see(self, slot: _Slot, now: datetime) -> None:
        """Whether the process has ended."""
        if slot.end is None and (end := slot.child.ended()) is not None:
            self._end(slot, end, now)

    def _end(self, slot: _Slot, end: Ended, now: datetime) -> None:
        slot.end = end, now
        self._pass_on(slot, slot.child.close())
        self._log.info("job ends", job=slot.claim.id, exit=end.code, why=slot.why or None, **_what(slot.claim.spec))

    def _renew(self, slot: _Slot, now: datetime) -> None:
        """Renew the lease; what is no longer ours ends. The end of a job is tried to be written down as long as it is ours."""
        ticks = self._ticks()
        # by the wall clock too, which leases are counted by: put forward, it must not make us look dead
        if ticks - slot.beat < _BEAT and abs((now - slot.beat_at).total_seconds()) < _BEAT:
            return
        slot.beat, slot.beat_at = ticks, now
        if not self._queue.heartbeat(slot.claim, now, LEASE) and slot.end is None:
            self._stop(slot, TAKEN)

    def _write_down(self, key: str) -> None:
        """Only what is written down is over: an error leaves it for the next time, behind all others."""
        slot = self._slots.pop(key)
        assert slot.end is not None
        try:
            self._books.ended(slot.claim, *slot.end, slot.why)
        except BackupdError:
            self._slots[key] = slot
            raise

    def _stop(self, slot: _Slot, why: str) -> None:
        if not slot.why:
            slot.why, slot.kill_at = why, self._ticks() + _PATIENCE
            slot.child.stop()

    def stop_all(self, why: str) -> None:
        """Ask every job to end."""
        for slot in self._slots.values():
            if slot.end is None:
                self._stop(slot, why)

    def abandon(self, now: datetime) -> None:
        """End every job at once, without asking; what cannot be written down is left to the lease, which runs out."""
        for key, slot in list(self._slots.items()):
            if slot.end is None:
                slot.why = slot.why or ABANDONED
                slot.child.stop(hard=True)
                self._end(slot, Ended(int(Exit.TERMINATED), None), now)
            try:
                self._write_down(key)
            except BackupdError as error:
                self._log.error("the end of a job cannot be written down", job=slot.claim.id, reason=error.message)
        self._slots.clear()


def worker_name(host: str) -> str:
    """A name for this process."""
    return f"{host}:{os.getpid()}"


def _what(spec: JobSpec) -> dict[str, str]:
    found = {"kind": spec.kind, "policy": spec.policy}
    return found | ({"source": spec.source} if spec.source else {})
