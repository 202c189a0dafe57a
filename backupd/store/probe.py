"""What a store really does, found out by trying, because some servers take a condition and ignore it.

Everything happens on throwaway objects below `probe/<random>/`. It must never touch an object that it did not make, and
it takes its own away again, also when it fails.
"""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

from backupd.store.base import ObjectExists, ObjectMissing, ObjectStore, ShortRead, StoreError, StoreRefused

CLOCK_TOLERANCE = timedelta(minutes=5)
_WRITERS = 8
_DATA = bytes(range(256)) * 4

Level = Literal["A", "B", "C"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing tried: its name, whether the store honours it, and what follows from that."""

    name: str
    honoured: bool
    follows: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was found.

    Attributes:
        url: the store that was tried.
        level: A: everything is honoured. B: all but create-only: each writer needs a lock of its own, and forks of the
            history are detected, not prevented. C: something is missing that backups rely on.
        facts: in the order tried.
        clock_offset_seconds: the store's clock minus ours.
        left_behind: names of probe objects that could not be taken away.
    """

    url: str
    level: Level
    facts: tuple[Fact, ...]
    clock_offset_seconds: float
    left_behind: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The same as JSON values."""
        return {
            "url": self.url,
            "level": self.level,
            "facts": [asdict(fact) for fact in self.facts],
            "clock_offset_seconds": self.clock_offset_seconds,
            "left_behind": list(self.left_behind),
        }


_FOLLOWS = {
    "write_then_read": (
        "what was written can be read at once",
        "a read right after a write fails or differs: no backup here can be trusted",
    ),
    "range_reads": (
        "a restore fetches only the parts that it needs",
        "restores of parts fail here: the server does not honour byte ranges",
    ),
    "write_then_list": (
        "a listing shows what was written before it",
        "a listing lags behind: pruning and rebuilding could miss fresh objects",
    ),
    "create_only": (
        "an object that exists is never overwritten",
        "an existing object is overwritten silently: each writer needs a lock of its own",
    ),
    "create_only_race": (
        "of several writers at once exactly one wins",
        "several writers at once may all believe that they won: forks of the history are detected, not prevented",
    ),
    "delete": (
        "objects can be removed: pruning works",
        "objects cannot be removed with these credentials: pruning needs others",
    ),
    "clock": (
        "this machine and the storage agree on the time",
        "this machine and the storage disagree on the time by more than five minutes: set the clock (NTP)",
    ),
}
_ONLY_CREATE = {"create_only", "create_only_race"}


class _Probe:
    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.place = f"probe/{secrets.token_hex(8)}"
        self.made: dict[str, None] = {}  # a set that keeps its order; several threads add
        self.facts: list[Fact] = []

    def note(self, name: str, honoured: bool) -> None:
        self.facts.append(Fact(name, honoured, _FOLLOWS[name][0 if honoured else 1]))

    def put(self, last: str, data: bytes) -> datetime:
        name = f"{self.place}/{last}"
        self.made[name] = None
        return self.store.put(name, data)

    def reads(self, last: str, data: bytes, start: int = 0, length: int | None = None) -> bool:
        try:
            return self.store.get(f"{self.place}/{last}", start, length) == data
        except (ObjectMissing, ShortRead):
            return False

    def listed(self) -> list[str]:
        return [info.name for info in self.store.list(f"{self.place}/")]

    def refuses_second(self) -> bool:
        try:
            self.put("a", b"something else")
        except ObjectExists:
            return self.reads("a", _DATA)
        except StoreRefused:
            return False  # a server that knows no conditions may say so
        return False

    def has_one_winner(self) -> bool:
        barrier = threading.Barrier(_WRITERS)

        def attempt(number: int) -> int | None:
            barrier.wait()
            try:
                self.put("race", b"%d" % number * 100)
            except (ObjectExists, StoreRefused):
                return None
            return number

        with ThreadPoolExecutor(_WRITERS) as pool:
            winners = [number for number in pool.map(attempt, range(_WRITERS)) if number is not None]
        return len(winners) == 1 and self.reads("race", b"%d" % winners[0] * 100)

    def clear(self) -> list[str]:
        """Take away what was made; returns the names that stay."""
        for name in self.made:
            with suppress(StoreError):  # what stays is found out below and told
                self.store.delete(name)
        left = []
        for name in self.made:
            try:
                self.store.get(name)
            except ObjectMissing:
                continue
            except StoreError:
                pass
            left.append(name)
        return left

    def try_all(self, now: datetime) -> float:
        written = self.put("a", _DATA)
        self.note("write_then_read", self.reads("a", _DATA))
        self.note("range_reads", self.reads("a", _DATA[100:150], 100, 50) and self.reads("a", _DATA[1000:], 1000))
        self.note("write_then_list", self.listed() == [f"{self.place}/a"])
        self.note("create_only", self.refuses_second())
        self.note("create_only_race", self.has_one_winner())
        offset = written - now
        self.note("clock", abs(offset) <= CLOCK_TOLERANCE)
        return offset.total_seconds()


def probe(store: ObjectStore, *, now: datetime) -> ProbeResult:
    """Find out what a store honours.

    Args:
        store: where about ten small objects are written and removed.
        now: the time on this machine (aware).

    Raises:
        StoreRefused, StoreUnavailable, StoreMissing: the store cannot be used at all.
    """
    trial = _Probe(store)
    try:
        offset = trial.try_all(now)
    finally:
        left = trial.clear()
    trial.note("delete", not left)
    failed = {fact.name for fact in trial.facts if not fact.honoured}
    level: Level = "A" if not failed else "B" if failed <= _ONLY_CREATE else "C"
    return ProbeResult(store.url, level, tuple(trial.facts), offset, tuple(left))
