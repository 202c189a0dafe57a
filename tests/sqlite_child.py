"""The other processes of the SQLite tests: writers, lock holders and victims of kill -9, on the standard library's SQLite.

Run as `python sqlite_child.py VERB PATH`. It prints "ready" once it is at work; it ends when its standard input closes,
and then prints one line of JSON. Writers must be other processes: two SQLite libraries in one process would drop each
other's POSIX locks.
"""

import json
import select
import sqlite3
import sys
import time
from collections.abc import Callable


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=60, isolation_level=None)


def _ready() -> None:
    print("ready", flush=True)


def _told_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _loop(step: Callable[[int], None]) -> None:
    """Repeat a step until told to stop; prints how many there were and the longest, in seconds."""
    count, longest = 0, 0.0
    step(0)
    _ready()
    while not _told_to_stop():
        count += 1
        started = time.monotonic()
        step(count)
        longest = max(longest, time.monotonic() - started)
    print(json.dumps({"commits": count, "longest": longest}), flush=True)


def transfers(path: str) -> None:
    """Moves money between accounts, and books each move with its two lines, in one transaction."""
    db = _connect(path)
    db.execute("PRAGMA synchronous=OFF")
    accounts = db.execute("SELECT count(*) FROM accounts").fetchone()[0]

    def step(number: int) -> None:
        source = number * 7919 % accounts
        target = (source + 1 + number % (accounts - 1)) % accounts
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE accounts SET balance = balance - 1 WHERE id = ?", (source,))
        db.execute("UPDATE accounts SET balance = balance + 1 WHERE id = ?", (target,))
        booking = db.execute("INSERT INTO bookings (note) VALUES (?)", ("x" * (number % 700),)).lastrowid
        db.execute("INSERT INTO lines (booking, account) VALUES (?, ?), (?, ?)", (booking, source, booking, target))
        db.execute("COMMIT")

    _loop(step)


def churn(path: str) -> None:
    """Changes page 1 with every transaction: user_version, the schema, the free list; with checkpoints and VACUUMs."""
    db = _connect(path)
    db.execute("PRAGMA synchronous=OFF")
    db.execute("PRAGMA wal_autocheckpoint=3")

    def step(number: int) -> None:
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("SELECT n FROM counter").fetchone()[0] + 1
        db.execute("UPDATE counter SET n = ?", (version,))
        db.execute(f"PRAGMA user_version={version}")
        db.execute(f"CREATE TABLE IF NOT EXISTS t{number % 20} (a)")
        db.execute(f"INSERT INTO t{number % 20} VALUES (zeroblob(?))", (number % 50_000,))
        if number % 20 == 0:
            for other in range(1, 20):
                db.execute(f"DROP TABLE IF EXISTS t{other}")
        db.execute("COMMIT")
        if number % 37 == 0:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if number % 101 == 0:
            db.execute("VACUUM")

    _loop(step)


def half(path: str) -> None:
    """Leaves a transaction half-way: pages of it are in the database file already."""
    db = _connect(path)
    db.execute("PRAGMA cache_size=2")
    db.execute("PRAGMA cache_spill=1")
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE accounts SET balance = -1000000")
    _ready()
    sys.stdin.read()


def committed(path: str) -> None:
    """Leaves committed transactions in the WAL, never checkpointed."""
    db = _connect(path)
    db.execute("PRAGMA wal_autocheckpoint=0")
    for number in range(30):
        db.execute(f"CREATE TABLE late{number} (a)")
        db.execute("UPDATE accounts SET balance = balance + 1")
        db.execute(f"PRAGMA user_version={number}")
    _ready()
    sys.stdin.read()


def locked(path: str) -> None:
    """Holds the exclusive lock."""
    db = _connect(path)
    db.execute("BEGIN EXCLUSIVE")
    _ready()
    sys.stdin.read()


def attached(path: str) -> None:
    """Only has the database open, having read it once."""
    db = _connect(path)
    db.execute("SELECT count(*) FROM sqlite_master").fetchall()
    _ready()
    sys.stdin.read()


def grow(path: str) -> None:
    """Makes the WAL as large as a small database, once."""
    db = _connect(path)
    db.execute("CREATE TABLE IF NOT EXISTS big (a)")
    db.execute("INSERT INTO big VALUES (zeroblob(8000000))")
    _ready()
    sys.stdin.read()


def commit(path: str) -> None:
    """Tries one commit without waiting; prints ready if it went through and busy if not."""
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        db.execute("UPDATE accounts SET balance = balance WHERE id = 1")
        print("ready", flush=True)
    except sqlite3.OperationalError:
        print("busy", flush=True)
    sys.stdin.read()


VERBS = {verb.__name__: verb for verb in (transfers, churn, half, committed, locked, attached, grow, commit)}

if __name__ == "__main__":
    VERBS[sys.argv[1]](sys.argv[2])
