"""What an incident responder waits for, on a PostgreSQL database of ten million rows. See README.md.

.venv/bin/python tests/bench/worstday.py --rows 10000000 --nights 30
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import measure
from tests.bench.measure import MB
from tests.bench.tools import clean_environment
from tests.servers import postgres

DATABASE, CUSTOMER, DEPENDENTS, SCATTERED = "crm", 4711, 200, 1000
_FILL = """
CREATE TABLE customers(id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, city text, notes text);
CREATE TABLE orders(id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
  at timestamptz NOT NULL, amount numeric(12,2) NOT NULL);
CREATE TABLE items(id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
  product text NOT NULL, quantity int NOT NULL, price numeric(10,2) NOT NULL);
CREATE TABLE tickets(id bigint PRIMARY KEY, customer_id bigint REFERENCES customers ON DELETE SET NULL, text text NOT NULL);
INSERT INTO customers SELECT n, 'name ' || md5(n::text), md5((n * 7)::text) || n || '@example.com', 'city ' || n % 997,
  repeat(md5((n * 3)::text), 2) FROM generate_series(1, {customers}) n;
INSERT INTO orders SELECT n, CASE WHEN n <= 40 THEN {customer} ELSE 1 + (n::bigint * 7919) % {customers} END,
  '2026-01-01'::timestamptz + n * interval '13 seconds', (n * 37 % 100000) / 100.0 FROM generate_series(1, {orders}) n;
INSERT INTO items SELECT n, CASE WHEN n <= 150 THEN 1 + n % 40 ELSE 41 + (n::bigint * 31) % ({orders} - 40) END,
  'product ' || md5((n % 5000)::text), 1 + n % 9, (n * 11 % 10000) / 100.0 FROM generate_series(1, {items}) n;
INSERT INTO tickets SELECT n, CASE WHEN n <= 10 THEN {customer} ELSE 1 + (n::bigint * 104729) % {customers} END,
  repeat(md5(n::text), 3) FROM generate_series(1, {tickets}) n;
CREATE INDEX ON orders(customer_id);
CREATE INDEX ON items(order_id);
CREATE INDEX ON tickets(customer_id);
ANALYZE;
"""
_CHANGE = """
UPDATE customers SET city = 'moved ' || {night} WHERE id IN (SELECT 1 + (n::bigint * 99991) % {customers}
  FROM generate_series({night} * 7919, {night} * 7919 + {a} - 1) n);
UPDATE items SET quantity = quantity + 1 WHERE id IN (SELECT 151 + (n::bigint * 1299709) % ({items} - 150)
  FROM generate_series({night} * 104729, {night} * 104729 + {b} - 1) n);
"""


@dataclass(slots=True)
class Day:
    """A repository beside a server, and what was measured."""

    folder: Path
    server: postgres.PostgresServer
    lines: list[tuple[str, float, float, int, str]] = field(default_factory=list)

    def backupctl(self, *words: str, key: str = "read") -> tuple[measure.Usage, dict[str, Any]]:
        """Run a verb; what it cost, and its document."""
        env = clean_environment(self.folder) | {
            "BACKUPCTL_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "BACKUPCTL_REPOSITORY": str(self.folder / "repository"),
        }
        program = Path(sys.executable).with_name("backupctl")
        more = ["--key", str(self.folder / f"keys/{key}.key")] if key else []
        tools = ["--tools", str(self.server.bin)] if "--source" in words else []
        used = measure.run([str(program), *words, *more, *tools, "--json"], env=env, folder=self.folder)
        return used, json.loads(used.output)

    def note(self, what: str, used: measure.Usage, more: str) -> None:
        """Keep a line of the table."""
        self.lines.append((what, used.wall, used.cpu, used.peak, more))
        print(f"{what}: {used.wall:.2f} s, CPU {used.cpu:.2f} s, peak {used.peak / MB:.0f} MB; {more}", flush=True)

    @property
    def url(self) -> str:
        """The live database."""
        return f"postgresql://{self.server.superuser}@{self.server.host}:{self.server.port}/{DATABASE}"


def sizes(rows: int) -> dict[str, int]:
    """How many rows each table has."""
    return {"customers": rows // 10, "orders": rows // 5, "items": rows * 6 // 10, "tickets": rows // 10}


def change(day: Day, counts: dict[str, int], night: int, share: int) -> None:
    """Scattered updates in two tables."""
    day.server.psql(DATABASE, _CHANGE.format(night=night, a=share // 2, b=share - share // 2, **counts))


def nights(day: Day, counts: dict[str, int], wanted: int) -> list[str]:
    """The snapshots, the first two with a thousand changed rows between them."""
    made = []
    for night in range(wanted):
        if night:
            change(day, counts, night, SCATTERED if night == 1 else 100)
        used, told = day.backupctl("run", "--source", day.url, "--name", DATABASE, key="write")
        made.append(told["snapshot"])
        if night < 2:
            stored = f"{told['stored_bytes'] / MB:.1f} MB stored of {told['read_bytes'] / MB:.0f} MB"
            day.note(f"snapshot {night + 1}", used, stored)
    return made


def ask(day: Day, made: list[str], counts: dict[str, int], stored: int) -> None:
    """Everything that a responder asks."""
    used, told = day.backupctl("diff", made[0], made[1])
    changed = sum(t["changed"] for t in told["tables"])
    share = (
        f"{told['fetched_bytes'] / MB:.2f} MB fetched, {100 * told['fetched_bytes'] / stored:.2f} % of what is stored"
    )
    day.note("diff of two nights", used, f"{changed} changed; {share}")
    used, told = day.backupctl("diff", made[1], made[1])
    day.note("diff, nothing changed", used, f"{told['fetched_bytes']} bytes fetched")
    used, told = day.backupctl("find", DATABASE, "customers", str(CUSTOMER))
    day.note(f"find by key, {len(made)} snapshots", used, f"{told['fetched_bytes'] / MB:.2f} MB fetched")
    used, told = day.backupctl("query", made[-1], f"select * from customers where id = {CUSTOMER}")
    day.note("query by key", used, f"{told['fetched_bytes'] / MB:.2f} MB fetched")
    for sql in ("select count(*) from items", "select sum(quantity) from items"):
        used, told = day.backupctl("query", made[-1], sql)
        day.note(sql, used, f"{counts['items'] / used.wall:,.0f} rows/s")
    day.server.psql(DATABASE, f"DELETE FROM customers WHERE id = {CUSTOMER}")
    used, told = day.backupctl("recover", made[-1], f"customers:{CUSTOMER}", "--into", day.url)
    day.note("plan to recover a customer", used, f"{told['counts']}; {told['fetched_bytes'] / MB:.1f} MB fetched")
    used, told = day.backupctl("recover", made[-1], f"customers:{CUSTOMER}", "--into", day.url, "--apply")
    day.note("recover it", used, f"applied: {told['applied']}")
    used, told = day.backupctl("diff", made[-1], "live", "--source", day.url)
    left = sum(t["added"] + t["removed"] + t["changed"] for t in told["tables"])
    day.note("diff with the live database", used, f"{left} records differ")


@contextmanager
def prepared(rows: int) -> Iterator[tuple[Day, dict[str, int]]]:
    """A server with the database, and an empty repository."""
    counts = sizes(rows)
    with (
        tempfile.TemporaryDirectory(prefix="backupd-worst-day-") as name,
        postgres.running(18, shared_buffers="512MB", max_wal_size="8GB") as server,
    ):
        folder = Path(name)
        (folder / "passphrase").write_text("for the benchmark only\n")
        server.create_database(DATABASE)
        server.psql(DATABASE, _FILL.format(customer=CUSTOMER, **counts))
        day = Day(folder, server)
        day.backupctl("init", str(folder / "repository"), "--keys", str(folder / "keys"), key="")
        yield day, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--nights", type=int, default=30)
    options = parser.parse_args()
    measure.compile_sources()
    with prepared(options.rows) as (day, counts):
        made = nights(day, counts, max(2, options.nights))
        stored = sum(path.stat().st_size for path in (day.folder / "repository/packs").rglob("*") if path.is_file())
        ask(day, made, counts, stored)
    print(f"\n{options.rows:,} rows, {len(made)} snapshots, {os.cpu_count()} cores")
    for what, wall, cpu, peak, more in day.lines:
        print(f"| {what} | {wall:.2f} s | {cpu:.2f} s | {peak / MB:.0f} MB | {more} |")


if __name__ == "__main__":
    main()
