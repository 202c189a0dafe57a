"""A made-up telecom company's customer database, for the demo and the benchmarks; runs as a program of its own.

    python -m backupctl.telecom make PATH CUSTOMERS [SEED]     make the database (about 1 kB a customer)
    python -m backupctl.telecom write PATH SECONDS             keep writing calls and invoices, as a billing system would
    python -m backupctl.telecom delete PATH FIRST LAST         delete customers and all that is theirs
    python -m backupctl.telecom digest PATH CUSTOMER           a hash of a customer and all that is theirs
    python -m backupctl.telecom count PATH                     rows of each table, as JSON
    python -m backupctl.telecom churn PATH SHARE SEED          update and add that share of rows, scattered

A process of its own, because nothing else in a process that takes a snapshot may open or close the source's file.
All names and numbers are random; none is anybody's.
"""

import hashlib
import json
import os
import random
import select
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator

_SCHEMA = """
create table customers(id integer primary key, name text not null, email text not null unique, phone text, city text,
  created text, notes text);
create table plans(id integer primary key, name text not null, price real not null);
create table subscriptions(id integer primary key, customer_id integer not null references customers(id) on delete cascade,
  plan_id integer not null references plans(id), start text, status text);
create table invoices(id integer primary key, subscription_id integer not null references subscriptions(id) on delete cascade,
  month text, amount real, paid integer);
create table calls(id integer primary key, subscription_id integer not null references subscriptions(id) on delete cascade,
  at text, seconds integer, dest text, cost real);
create index subscriptions_customer on subscriptions(customer_id);
create index invoices_subscription on invoices(subscription_id);
create index calls_subscription on calls(subscription_id);
"""
TABLES = ("customers", "plans", "subscriptions", "invoices", "calls")
CALLS_WRITTEN = 5
"""Calls of each transaction that `write` makes."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.execute("pragma foreign_keys=on")
    return db


class _Words:
    """Random words and what is made of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - made-up data
        self.words = ["".join(self.random.choices(_LETTERS, k=self.random.randrange(3, 10))) for _ in range(4000)]

    def name(self) -> str:
        return f"{self.random.choice(self.words).title()} {self.random.choice(self.words).title()}"

    def text(self) -> str:
        return " ".join(self.random.choices(self.words, k=self.random.randrange(5, 40)))

    def day(self) -> str:
        return (
            f"20{self.random.randrange(10, 27)}-{self.random.randrange(1, 13):02d}-{self.random.randrange(1, 29):02d}"
        )

    def call(self, subscriptions: int) -> tuple[object, ...]:
        r = self.random
        at = f"2026-{r.randrange(1, 13):02d}-{r.randrange(1, 29):02d} {r.randrange(24):02d}:{r.randrange(60):02d}:00"
        cost = round(r.random() * 3, 4)
        return (r.randrange(1, subscriptions + 1), at, r.randrange(3600), f"+44{r.randrange(10**10):010d}", cost)


def _customers(words: _Words, first: int, last: int) -> Iterator[tuple[object, ...]]:
    for i in range(first, last + 1):
        mail = f"{words.random.choice(words.words)}{i}@example.com"
        phone = f"+44 7{words.random.randrange(10**9):09d}"
        yield (i, words.name(), mail, phone, words.random.choice(words.words[:300]).title(), words.day(), words.text())


def make(path: str, customers: int, seed: int = 1) -> None:
    """Make the database with that many customers: two subscriptions, four invoices and ten calls each."""
    words, db = _Words(seed), _connect(path)
    r = words.random
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=off")
    db.executescript(_SCHEMA)
    n = customers * 2
    db.execute("begin")
    db.executemany("insert into plans values(?,?,?)", [(i, f"plan {i}", i * 5.0) for i in range(1, 51)])
    db.executemany("insert into customers values(?,?,?,?,?,?,?)", _customers(words, 1, customers))
    states = ("active", "cancelled", "paused")
    subscriptions = (
        (i, (i - 1) % customers + 1, r.randrange(1, 51), words.day(), r.choice(states)) for i in range(1, n + 1)
    )
    db.executemany("insert into subscriptions values(?,?,?,?,?)", subscriptions)
    invoices = ((i % n + 1, f"2026-{i % 12 + 1:02d}", round(r.random() * 90, 2), r.randrange(2)) for i in range(n * 2))
    db.executemany("insert into invoices(subscription_id,month,amount,paid) values(?,?,?,?)", invoices)
    calls = (words.call(n) for _ in range(customers * 10))
    db.executemany("insert into calls(subscription_id,at,seconds,dest,cost) values(?,?,?,?,?)", calls)
    db.execute("commit")
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()


def write(path: str, seconds: float) -> None:
    """Write small transactions for that long; prints how many."""
    words, db = _Words(time.monotonic_ns()), _connect(path)
    (n,) = db.execute("select count(*) from customers").fetchone()
    recent = max(1, n // 100)  # most of what happens, happens to few
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end and not _asked_to_stop():
        db.execute("begin immediate")
        db.executemany(
            "insert into calls(subscription_id,at,seconds,dest,cost) values(?,?,?,?,?)",
            [words.call(recent) for _ in range(CALLS_WRITTEN)],
        )
        db.execute("update customers set notes=notes || ' called' where id=?", (words.random.randrange(1, recent + 1),))
        db.execute("commit")
        done += 1
        time.sleep(0.005)
    db.close()
    sys.stdout.write(f"{done}\n")


def _asked_to_stop() -> bool:
    """Whether somebody held standard input open, and closed it."""
    if sys.stdin is None or sys.stdin.isatty() or not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return False
    return bool(select.select([sys.stdin], [], [], 0)[0])


def delete(path: str, first: int, last: int) -> None:
    """Delete customers; what is theirs goes with them."""
    db = _connect(path)
    db.execute("delete from customers where id between ? and ?", (first, last))
    db.close()


def count(path: str) -> dict[str, int]:
    """Rows of each table."""
    db = _connect(path)
    rows = {t: int(db.execute(f"select count(*) from {t}").fetchone()[0]) for t in TABLES}  # noqa: S608 - our own names
    db.close()
    return rows


def digest(path: str, customer: int) -> str:
    """A hash of a customer and all that is theirs; of nothing, if there is no such customer."""
    db = _connect(path)
    mine = "(select id from subscriptions where customer_id = ?)"
    rows = [
        db.execute(f"select * from {table} where {condition} order by id", (customer,)).fetchall()  # noqa: S608 - our own names
        for table, condition in (
            ("customers", "id = ?"),
            ("subscriptions", "customer_id = ?"),
            ("invoices", f"subscription_id in {mine}"),
            ("calls", f"subscription_id in {mine}"),
        )
    ]
    db.close()
    return hashlib.sha256(repr(rows).encode()).hexdigest() + f" {sum(map(len, rows))}"


def churn(path: str, share: float, seed: int) -> None:
    """Update that share of the customers, scattered, and add that share of new calls."""
    words, db = _Words(seed), _connect(path)
    r = words.random
    (customers,) = db.execute("select max(id) from customers").fetchone()
    (calls,) = db.execute("select max(id) from calls").fetchone()
    (n,) = db.execute("select max(id) from subscriptions").fetchone()
    db.execute("begin")
    changed = ((words.name(), r.randrange(1, customers + 1)) for _ in range(int(customers * share)))
    db.executemany("update customers set city=? where id=?", changed)
    fresh = (words.call(n) for _ in range(int(calls * share)))
    db.executemany("insert into calls(subscription_id,at,seconds,dest,cost) values(?,?,?,?,?)", fresh)
    db.execute("commit")
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()


def main(arguments: list[str]) -> None:
    """Dispatch."""
    match arguments:
        case ["make", path, customers, *seed]:
            make(path, int(customers), int(seed[0]) if seed else 1)
        case ["write", path, seconds]:
            write(path, float(seconds))
        case ["delete", path, first, last]:
            delete(path, int(first), int(last))
        case ["digest", path, customer]:
            sys.stdout.write(digest(path, int(customer)) + "\n")
        case ["count", path]:
            sys.stdout.write(json.dumps(count(path)) + "\n")
        case ["churn", path, share, seed]:
            churn(path, float(share), int(seed))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
