"""A program that writes small transactions at a fixed rate and says how long each took, and who waited for a lock.

    python tests/bench/writers.py URL CUSTOMERS RATE      (a password comes from BENCH_PASSWORD)

Two connections share the rate. Each transaction has its time: when the server is late, the next ones are late too, and
that counts (an open loop, so a server that stands still for a second shows up in hundreds of latencies and not in one).
Prints `ready` and writes until it is given a line with two times of the system's monotonic clock: it ends, and prints JSON
about what was due between them. A third connection looks every 20 ms who waits for a lock, and for how long in a row.
"""

import json
import os
import random
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

CONNECTIONS = 2
LOOK_SECONDS = 0.02
LONG_WAIT = 0.1
_UPDATE = "UPDATE customers SET credit = credit + 0.01 WHERE id = %s"
_INSERT = (
    "INSERT INTO calls (subscription_id, started, seconds, destination, kind, cell, bytes_up, cost) "
    "VALUES (%s, '2026-11-22 10:00:00', %s, '+447700900123', 1, 4711, NULL, 0.1234)"
)


class Server(ABC):
    """How to talk to a kind of server."""

    def __init__(self, url: str) -> None:
        self.parts = urlsplit(url)

    @abstractmethod
    def connect(self, *, autocommit: bool) -> Any:
        """A connection of its driver."""

    @abstractmethod
    def waiting(self, cursor: Any) -> set[str]:
        """What identifies each wait for a lock that there is now."""


class Postgres(Server):
    """PostgreSQL, with psycopg."""

    def connect(self, *, autocommit: bool) -> Any:
        """Connect."""
        import psycopg

        return psycopg.connect(self.parts.geturl(), autocommit=autocommit)

    def waiting(self, cursor: Any) -> set[str]:
        """Statements that wait."""
        where = "wait_event_type = 'Lock' AND datname = current_database()"
        cursor.execute(f"SELECT pid::text || query_start FROM pg_stat_activity WHERE {where}")
        return {row[0] for row in cursor.fetchall()}


class MariaDB(Server):
    """MariaDB, with PyMySQL."""

    def connect(self, *, autocommit: bool) -> Any:
        """Connect."""
        import pymysql

        return pymysql.connect(
            host=self.parts.hostname,
            port=self.parts.port or 0,
            user=unquote(self.parts.username or ""),
            password=os.environ.get("BENCH_PASSWORD", ""),
            database=self.parts.path[1:],
            autocommit=autocommit,
        )

    def waiting(self, cursor: Any) -> set[str]:
        """Statements that wait for a table or for the server, and those that write while somebody waits for a row.

        information_schema.innodb_trx would tell who waits for a row, but whoever asks it more often than each 100 ms gets
        the same old answer.
        """
        cursor.execute("SELECT query_id, state FROM information_schema.processlist WHERE db = database()")
        found = [(str(number), state or "") for number, state in cursor.fetchall()]
        waiting = {number for number, state in found if state.startswith("Waiting for ")}
        writing = {number for number, state in found if state.startswith("Upda")}
        if writing:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
            waiting |= writing if int(cursor.fetchone()[1]) else set()
        return waiting


class Writers:
    """The connections that write."""

    def __init__(self, server: Server, customers: int, rate: float) -> None:
        self.stop = threading.Event()
        self.latencies: list[tuple[float, float]] = []
        """When each transaction was due, and how long it then took."""
        self.waits = Waits()
        self.failures: list[BaseException] = []
        self._server = server
        self._customers = customers
        self._pause = CONNECTIONS / rate
        self._ready = threading.Barrier(CONNECTIONS + 2)

    def start(self) -> list[threading.Thread]:
        """Connect, and begin to write."""
        tasks: list[Callable[[], None]] = [self._look]
        tasks += [lambda number=number: self._write(number) for number in range(CONNECTIONS)]  # type: ignore[misc]
        threads = [threading.Thread(target=self._guarded, args=(task,), daemon=True) for task in tasks]
        for thread in threads:
            thread.start()
        self._ready.wait(60)
        return threads

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            self.failures.append(error)
            self._ready.abort()

    def _write(self, number: int) -> None:
        chance = random.Random(number)
        link = self._server.connect(autocommit=False)
        cursor = link.cursor()
        self._ready.wait(60)
        due = time.monotonic() + self._pause * number / CONNECTIONS
        while not self.stop.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            cursor.execute(_UPDATE, (chance.randint(1, self._customers),))
            cursor.execute(_INSERT, (chance.randint(1, 2 * self._customers), chance.randrange(3600)))
            link.commit()
            self.latencies.append((due, time.monotonic() - due))
            due += self._pause
        link.close()

    def _look(self) -> None:
        link = self._server.connect(autocommit=True)
        cursor = link.cursor()
        self._ready.wait(60)
        while not self.stop.is_set():
            now = time.monotonic()
            self.waits.saw(self._server.waiting(cursor), now)
            time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - now)))
        self.waits.saw(set(), time.monotonic())
        link.close()


class Waits:
    """Waits for locks, put together from what was seen from time to time.

    A wait counts from when it was first seen to when it was first seen no more: up to 20 ms too long, never too short by
    more than that.
    """

    def __init__(self) -> None:
        self.over: list[tuple[float, float]] = []
        """When each one that is over began and ended."""
        self._since: dict[str, float] = {}

    def saw(self, keys: set[str], now: float) -> None:
        """These waited at that time."""
        for key in [key for key in self._since if key not in keys]:
            self.over.append((self._since.pop(key), now))
        for key in keys:
            self._since.setdefault(key, now)

    def lasted(self, began: float, ended: float) -> list[float]:
        """How long those lasted that lie within a time, if only in part."""
        return [last - first for first, last in self.over if first < ended and last > began]


def percentile(sorted_values: list[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def main() -> int:
    """Write until the input ends."""
    url, customers, rate = sys.argv[1:]
    server = Postgres(url) if url.startswith("postgresql:") else MariaDB(url)
    writers = Writers(server, int(customers), float(rate))
    try:
        threads = writers.start()
    except threading.BrokenBarrierError:
        print(f"the writers did not start: {writers.failures}", file=sys.stderr)
        return 1
    print("ready", flush=True)
    began, ended = map(float, sys.stdin.readline().split())
    writers.stop.set()
    for thread in threads:
        thread.join(120)
    found = sorted(took for due, took in writers.latencies if began <= due < ended)
    if writers.failures or not found or any(thread.is_alive() for thread in threads):
        print(f"the writers failed: {writers.failures or 'nothing was written, or it did not end'}", file=sys.stderr)
        return 1
    waits = writers.waits.lasted(began, ended)
    told = {
        "transactions": len(found),
        "p50": percentile(found, 0.5),
        "p99": percentile(found, 0.99),
        "max": found[-1],
        "lock_waits": sum(wait > LONG_WAIT for wait in waits),
        "longest_lock_wait": max(waits, default=0.0),
    }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
