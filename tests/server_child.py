"""The other process of the conformance suite for servers: moves money, as sqlite_child.py's `transfers` does.

Run as `python -m tests.server_child postgresql|mariadb HOST PORT USER DATABASE`, the password in CHILD_PASSWORD. It prints
"ready" once it is at work; it ends when its standard input closes, and then prints one line of JSON.
"""

import json
import os
import select
import sys
import time
from typing import Any


def connect(engine: str, host: str, port: int, user: str, database: str) -> Any:
    """A connection of the engine's own driver, with transactions by hand."""
    password = os.environ.get("CHILD_PASSWORD", "")
    if engine == "postgresql":
        import psycopg

        return psycopg.connect(host=host, port=port, user=user, dbname=database, password=password, autocommit=True)
    import pymysql

    return pymysql.connect(host=host, port=port, user=user, database=database, password=password, autocommit=True)


def transfers(link: Any, accounts: int) -> None:
    """Moves money between accounts, and books each move with its two lines, in one transaction."""
    cursor = link.cursor()
    cursor.execute("select coalesce(max(id), 0) from bookings")
    first = cursor.fetchone()[0]

    def step(number: int) -> None:
        source = number * 7919 % accounts
        target = (source + 1 + number % (accounts - 1)) % accounts
        booking = first + number + 1
        cursor.execute("begin")
        cursor.execute("update accounts set balance = balance - 1 where id = %s", (source,))
        cursor.execute("update accounts set balance = balance + 1 where id = %s", (target,))
        cursor.execute("insert into bookings (id, note) values (%s, %s)", (booking, "x" * (number % 700)))
        cursor.execute(
            "insert into `lines` values (%s, %s), (%s, %s)".replace("`", QUOTE), (booking, source, booking, target)
        )
        cursor.execute("commit")

    count, longest = 0, 0.0
    step(0)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        count += 1
        started = time.monotonic()
        step(count)
        longest = max(longest, time.monotonic() - started)
    print(json.dumps({"commits": count, "longest": longest}), flush=True)


if __name__ == "__main__":
    ENGINE, HOST, PORT, USER, DATABASE, ACCOUNTS = sys.argv[1:]
    QUOTE = '"' if ENGINE == "postgresql" else "`"
    transfers(connect(ENGINE, HOST, int(PORT), USER, DATABASE), int(ACCOUNTS))
