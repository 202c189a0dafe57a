"""Looking records up: a query by key, full scans, and one record over 30 snapshots. `make bench-records ROWS=1000000`."""

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from backupd.crypto.keyfile import Role
from backupd.engines.base import TableInfo
from backupd.jobs.find import Asked, find
from backupd.jobs.query import query
from backupd.report import Tally
from backupd.wiring import ask_rows, open_file_database, run_sql
from tests.jobs_kit import Kit
from tests.table_engine import TableSource
from tests.unit.jobs.test_tables import take

NIGHTS = 30
COLUMNS = (("id", "bigint"), ("name", "text"), ("amount", "numeric"), ("note", "text"))
QUERIES = (
    "select name from t where id = 77",
    "select count(*) from t",
    "select sum(amount) from t",
    "select count(*) from t where name = 'name 500'",
)


def main(count: int) -> None:
    """Print the figures."""
    noise = random.Random(1)
    rows = [
        b"%d\tname %d\t%d.%02d\t%s\n" % (n, n, noise.randrange(1000), n % 100, noise.randbytes(30).hex().encode())
        for n in range(count)
    ]
    info = {"t": TableInfo("t", ("id",), None, COLUMNS, "f1", True)}
    with tempfile.TemporaryDirectory() as folder:
        kit = Kit(Path(folder), pack_bytes=4_000_000)
        for night in range(NIGHTS):
            for _ in range(max(1, count // 1000) if night else 0):
                n = noise.randrange(count)
                rows[n] = b"%d\tnight %d\t0.00\t\n" % (n, night)
            take(kit, TableSource({"t": rows}, infos=info))
        repo = kit.repo(Role.READ, host="reader")
        views = repo.history().views
        for sql in QUERIES:
            began, used = time.perf_counter(), time.process_time()
            with query(
                repo, {"main": views[-1]}, sql, run_sql=run_sql, open_file=open_file_database, erased=lambda _: None
            ) as answer:
                list(answer.rows)
                fetched = answer.fetched()
            seconds, cpu = time.perf_counter() - began, time.process_time() - used
            print(f"{sql:50} {seconds:7.3f} s {count / cpu:12,.0f} rows per CPU second, {fetched:,} bytes fetched")
        began = time.perf_counter()
        found = find(
            repo,
            views,
            Asked("t", (str(count // 2),)),
            open_file=open_file_database,
            ask_rows=ask_rows,
            report=Tally(),
            erased=lambda _: None,
        )
        seconds = time.perf_counter() - began
        print(f"{'find over 30 snapshots':50} {seconds:7.3f} s, {found.fetched_bytes:,} bytes fetched")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB at most, with the rows themselves")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
