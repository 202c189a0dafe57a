"""A worker in a process of its own, for the queue's conformance suite and for tests of the catalog.

Run as `python -m tests.queue_child URL WHAT NAME [COUNT]`; the real clock is its clock.
"""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from backupd.catalog.opening import Catalog
from backupd.wiring import open_catalog


def drain(catalog: Catalog, name: str) -> None:
    """Claim and finish whatever there is, until all is done; prints each job, and whether its end was taken."""
    queue = catalog.queue
    while queue.counts()["queued"] + queue.counts()["running"]:
        claim = queue.claim(name, datetime.now(UTC), 60)
        if claim is None:
            time.sleep(0.002)
            continue
        (before,) = [job for job in queue.list(["running"], 100) if job.id == claim.id]
        alone = sum(job.spec.lock == before.spec.lock for job in queue.list(["running"], 100)) == 1
        print(claim.id, int(alone and queue.finish(claim, datetime.now(UTC), "done", name)), flush=True)


def hold(catalog: Catalog, name: str) -> None:
    """Claim a job, say so, and never end."""
    claim = catalog.queue.claim(name, datetime.now(UTC), 1)
    print(claim.id if claim else "", flush=True)
    time.sleep(600)


def write(catalog: Catalog, name: str, count: str) -> None:
    """Write into every part of the catalog, so many times."""
    for n in range(int(count)):
        now = datetime.now(UTC)
        catalog.audit.append(name, "run", f"{name}-{n}", now)
        catalog.runs.start("p", name, "run", now, job=f"{name}-{n}")
        catalog.alerts.open("failure", "p", None, f"{name}-{n}", now)
        catalog.outbox.enqueue(f"key-{n}", "p", "ops", "failure", {}, now)
        catalog.heartbeats.beat(name, now)
    print("done", flush=True)


if __name__ == "__main__":
    url, what, *words = sys.argv[1:]
    with open_catalog(Path("unused"), url) as opened:
        {"drain": drain, "hold": hold, "write": write}[what](opened, *words)
