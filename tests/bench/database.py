"""The databases of the benchmark: made by backupd's own generator, kept in the cache folder, used as copies.

A large one is the generator's default one, multiplied inside SQLite: rows are copied with shifted keys and rotated texts,
so that the copies do not compress against each other.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.bench.peers import cache_folder

CUSTOMERS = 329_000
BYTES_A_CUSTOMER = 1271
_INDEXES = {
    "subscriptions_customer": "subscriptions(customer_id)",
    "invoices_subscription": "invoices(subscription_id)",
    "calls_subscription": "calls(subscription_id)",
}


def parse_size(text: str) -> int:
    """Customers for a size such as 418m or 4g."""
    units = {"m": 10**6, "g": 10**9}
    number, unit = text[:-1], text[-1:].lower()
    if unit not in units:
        raise ValueError("a size is a number followed by m or g")
    return max(100, int(float(number) * units[unit] / BYTES_A_CUSTOMER))


def database(customers: int) -> Path:
    """The database of that many customers, made if it is not kept yet."""
    path = cache_folder() / f"telecom-{customers}.db"
    if path.exists():
        return path
    draft = path.with_suffix(".draft")
    for suffix in ("", "-wal", "-shm"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    if customers <= 2 * CUSTOMERS:
        subprocess.run([sys.executable, "-m", "backupctl.telecom", "make", str(draft), str(customers)], check=True)
    else:
        shutil.copyfile(database(CUSTOMERS), draft)
        _grow(draft, customers)
    os.sync()
    draft.rename(path)
    return path


def _grow(path: Path, customers: int) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode=off", "synchronous=off", "locking_mode=exclusive", "cache_size=-1000000"):
        db.execute(f"pragma {setting}")
    for index in _INDEXES:
        db.execute(f"drop index {index}")
    calls, invoices = (db.execute(f"select max(id) from {table}").fetchone()[0] for table in ("calls", "invoices"))
    have, copy = CUSTOMERS, 0
    while have < customers:
        copy += 1
        n = min(CUSTOMERS, customers - have)
        values = {"at": have, "c": copy, "n": n, "calls": calls * copy, "invoices": invoices * copy, "own": CUSTOMERS}
        for statement in (_CUSTOMERS, _SUBSCRIPTIONS, _INVOICES, _CALLS):
            db.execute(statement, values)
        have += n
    for index, columns in _INDEXES.items():
        db.execute(f"create index {index} on {columns}")
    db.execute("pragma journal_mode=wal")
    db.close()


_CUSTOMERS = """insert into customers select id + :at, name, 'c' || :c || email, phone, city, created,
  substr(notes, 1 + (id * 7 + :c * 13) % 40) || ' ' || substr(notes, 1, (id * 7 + :c * 13) % 40)
  from customers where id <= :n"""
_SUBSCRIPTIONS = """insert into subscriptions select id + 2 * :at, customer_id + :at, 1 + (plan_id + :c) % 50, start, status
  from subscriptions where id <= 2 * :own and customer_id <= :n"""
_INVOICES = """insert into invoices select id + :invoices, subscription_id + 2 * :at, month,
  round(amount * (1 + :c / 100.0), 2), paid
  from invoices where id <= 4 * :own and subscription_id <= 2 * :n"""
_CALLS = """insert into calls select id + :calls, subscription_id + 2 * :at, at, (seconds + id * :c) % 3600,
  substr(dest, 1, 5) || substr(10000000 + (cast(substr(dest, 6) as integer) + id * :c * 7919) % 10000000, 2),
  round(cost * (1 + :c / 100.0), 4)
  from calls where id <= 10 * :own and subscription_id <= 2 * :n"""


def change_one_row(path: str, number: int) -> None:
    """Change one customer's city, the way an application would."""
    db = sqlite3.connect(path, isolation_level=None)
    (customers,) = db.execute("select max(id) from customers").fetchone()
    db.execute("update customers set city=? where id=?", (f"Town {number}", customers // 2 + number))
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()


if __name__ == "__main__":
    change_one_row(sys.argv[1], int(sys.argv[2]))
