"""Claims jobs and runs each in a process of its own, with a lease that is renewed while it works. One thread, which never waits.

One slot more than the jobs that may run at once takes restores only: on the worst day nobody waits behind a night's backups. A
worker that lost its claim stops its process at once; what that had done is wasted and harms nothing.
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
from backupd.errors import BackupdError, Exit

LEASE = 120.0
_BEAT = LEASE / 4
_PATIENCE = 60.0
"""Between asking a job to end and ending it."""
RESTORES = frozenset({"restore"})
ABANDONED = "the daemon ended"


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
        """A job's process has ended; `why` it was stopped, if it was."""

    def refused(self, claim: Claim, error: BackupdError, now: datetime) -> None:
        """A job cannot even begin."""


@dataclass(frozen=True, slots=True)
class _Room:
    """There is a free slot, for jobs of these kinds; None for all."""

    kinds: Collection[str] | None


@dataclass(slots=True)
class _Slot:
    """A job at work."""

    claim: Claim
    child: Child
    began: datetime
    beat: float
    deadline: float | None
    why: str = ""
    kill_at: float | None = None
    last: str = ""


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
            if (fd := slot.child.messages) is not None:
                yield fd

    def tend(self, now: datetime) -> bool:
        """Look after the jobs at work; returns whether one has ended."""
        ended = False
        for key, slot in list(self._slots.items()):
            self._listen(slot)
            if (end := slot.child.ended()) is not None:
                self._settle(key, slot, end, now)
                ended = True
            else:
                self._watch(slot, now)
        return ended

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
        if shared < self._most:
            return _Room(None)
        return None if restores else _Room(RESTORES)

    def _begin(self, claim: Claim, now: datetime) -> None:
        self._books.begun(claim, now)
        try:
            child = self._start(self._command(claim.spec))
        except (BackupdError, OSError) as error:
            self._books.refused(claim, _expected(error), now)
            return
        most, ticks = claim.spec.max_seconds, self._ticks()
        self._slots[claim.id] = _Slot(claim, child, now, ticks, ticks + most if most else None)
        self._log.info("job begins", job=claim.id, attempt=claim.attempt, pid=child.pid, **_what(claim.spec))

    def _listen(self, slot: _Slot) -> None:
        for line in slot.child.read_messages():
            slot.last = line
            self._log.info("job says", job=slot.claim.id, **_what(slot.claim.spec), line=line)

    def _settle(self, key: str, slot: _Slot, end: Ended, now: datetime) -> None:
        while slot.child.messages is not None:  # what it said last; a grandchild that holds the pipe says nothing more
            before = slot.child.messages
            lines = slot.child.read_messages()
            for line in lines:
                self._log.info("job says", job=slot.claim.id, **_what(slot.claim.spec), line=line)
            if not lines and slot.child.messages == before:
                break
        slot.child.close()
        del self._slots[key]
        self._log.info("job ends", job=slot.claim.id, exit=end.code, why=slot.why or None, **_what(slot.claim.spec))
        self._books.ended(slot.claim, end, now, slot.why)

    def _watch(self, slot: _Slot, now: datetime) -> None:
        """Renew the lease; end what takes too long, or is no longer ours."""
        ticks = self._ticks()
        if ticks - slot.beat >= _BEAT:
            slot.beat = ticks
            if not self._queue.heartbeat(slot.claim, now, LEASE):
                self._stop(slot, "it was cancelled, or is another worker's now")
        if slot.deadline and ticks >= slot.deadline:
            self._stop(slot, f"it took longer than the {slot.claim.spec.max_seconds:g} seconds that it may")
        if slot.kill_at and ticks >= slot.kill_at:
            slot.child.stop(hard=True)

    def _stop(self, slot: _Slot, why: str) -> None:
        if not slot.why:
            slot.why, slot.kill_at = why, self._ticks() + _PATIENCE
            slot.child.stop()

    def stop_all(self, why: str) -> None:
        """Ask every job to end."""
        for slot in self._slots.values():
            self._stop(slot, why)

    def abandon(self, now: datetime) -> None:
        """End every job at once, without asking."""
        for key, slot in list(self._slots.items()):
            slot.why = slot.why or ABANDONED
            slot.child.stop(hard=True)
            self._settle(key, slot, Ended(int(Exit.TERMINATED), None), now)


def worker_name(host: str) -> str:
    """A name for this process."""
    return f"{host}:{os.getpid()}"


def _what(spec: JobSpec) -> dict[str, str]:
    found = {"kind": spec.kind, "policy": spec.policy}
    return found | ({"source": spec.source} if spec.source else {})


def _expected(error: BackupdError | OSError) -> BackupdError:
    if isinstance(error, BackupdError):
        return error
    return BackupdError(f"the job cannot be started: {error.strerror}")
