"""What the daemon costs with 200 sources, while nothing is to do, and what its catalog costs. See README.md.

.venv/bin/python tests/bench/daemon.py --seconds 60
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import insert

from backupd.catalog.opening import Catalog, open_catalog
from backupd.catalog.queue import JobSpec
from backupd.catalog.repositories import Seen
from backupd.catalog.snapshots import Snapshot
from backupd.catalog.tables import jobs, runs
from tests.bench import measure

POLICIES, SOURCES, SNAPSHOTS, RUNS = 20, 10, 100, 20_000
BACKUPCTL = str(Path(sys.executable).with_name("backupctl"))
POLICY = """\
policy: p{n:02}
sources:
{sources}
repository: {{url: "file://{folder}/repo{n:02}"}}
keys: {{write: "file:{folder}/write.key", check: "file:{folder}/check.key"}}
schedule: {{cron: "{minute} {hour} * * *", jitter: 30m}}
objectives: {{rpo: 36h}}
verify: [{{level: structure, every: 7d}}]
notify: [{{on: [failure, rpo_breach], to: ops}}]
notifiers: {{ops: {{webhook: "env:NOBODY"}}}}
"""


def prepare(folder: Path) -> None:
    """Twenty policies whose runs are half a day away, and a catalog with their past."""
    later = datetime.now(UTC) + timedelta(hours=12)
    (folder / "policies").mkdir()
    for n in range(POLICIES):
        names = "\n".join(f'  - {{name: s{n:02}-{i}, url: "sqlite:///{folder}/{n}-{i}.db"}}' for i in range(SOURCES))
        text = POLICY.format(n=n, sources=names, folder=folder, minute=n, hour=later.hour)
        (folder / f"policies/p{n:02}.yaml").write_text(text)
    with open_catalog(folder / "state/catalog.sqlite") as catalog:
        fill(catalog, folder)


def fill(catalog: Catalog, folder: Path) -> None:
    """A hundred days of two hundred sources."""
    now = datetime.now(UTC)
    for n in range(POLICIES):
        repository = f"{n:064x}"
        made = [snapshot(repository, f"s{n:02}-{i}", day, now) for i in range(SOURCES) for day in range(SNAPSHOTS)]
        catalog.snapshots.replace(repository, made)
        catalog.repositories.put(Seen(f"p{n:02}", repository, f"file://{folder}/repo{n:02}", now, 10**9))
    each = range(RUNS)
    ran = [run(n, now - timedelta(minutes=7 * n)) for n in each]
    queued = [job(n, now - timedelta(minutes=7 * n)) for n in each]
    with catalog._database.write() as connection:
        connection.execute(insert(runs), ran)
        connection.execute(insert(jobs), queued)


def snapshot(repository: str, source: str, day: int, now: datetime) -> Snapshot:
    """One of each day."""
    taken = now - timedelta(days=day, hours=3)
    name = f"{source}-{day}".encode().hex().ljust(64, "0")
    return Snapshot(
        repository, "aa" * 8, source, day, name, taken, taken, "snapshot", 10**6, 10**9, 10**6, (), None, now
    )


def run(n: int, at: datetime) -> dict[str, object]:
    """A run that is done."""
    which = {"policy": f"p{n % POLICIES:02}", "source": f"s{n % POLICIES:02}-{n // POLICIES % SOURCES}", "kind": "run"}
    sizes = {"read_bytes": 10**9, "stored_bytes": 10**6, "rows": 10**6, "seconds": 40.0, "warnings": 0}
    return {
        **which,
        "job": str(n + 1),
        "attempt": 1,
        "started": at,
        "ended": at,
        "outcome": "done",
        "snapshot": f"{n:064x}",
        **sizes,
    }


def job(n: int, at: datetime) -> dict[str, object]:
    """Its job."""
    times = {"submitted": at, "queued": at, "due": at, "started": at, "ended": at}
    rest = {
        "payload": "{}",
        "max_attempts": 3,
        "attempt": 1,
        "lease_microseconds": 0,
        "cancelling": False,
        "detail": "",
    }
    return {
        "key": f"k{n}",
        "kind": "run",
        "policy": "p00",
        "source": "s",
        "lock": f"l{n}",
        "rank": -10,
        "state": "done",
        **times,
        **rest,
    }


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[int, str]]:
    """A daemon that is ready; its process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--config", str(folder / "policies"), "--state", str(folder / "state"), "--listen", f"127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "backupd", *words], env=environment(folder), stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            if answers(address + "/ready"):
                break
            if process.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.2)
        yield process.pid, address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def answers(url: str) -> bool:
    """Whether an address answers."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return bool(answer.read()) and answer.status == 200
    except OSError:
        return False


def environment(folder: Path) -> dict[str, str]:
    """Of a user whose home is the folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BACKUPCTL_", "BACKUPD_", "XDG_"))}
    return kept | {"HOME": str(folder)}


def memory(pid: int) -> float:
    """MB of a process that are its own or shared, as the kernel counts them now."""
    return (
        next(
            int(line.split()[1])
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        / 1024
    )


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(what: Callable[[], object], times: int = 5) -> float:
    """Median of several."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        what()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def idle(folder: Path, seconds: float) -> dict[str, str]:
    """What the daemon itself needs."""
    with daemon(folder) as (pid, address):
        time.sleep(15)
        used, before = memory(pid), cpu(pid)
        time.sleep(seconds)
        share = (cpu(pid) - before) / seconds
        found = {
            "idle daemon, memory": f"{used:.0f} MiB",
            f"idle daemon, CPU over {seconds:.0f} s": f"{share * 100:.2f} % of a core",
        }
        for path in ("/metrics", "/"):
            found[f"{path} answered"] = (
                f"{timed(lambda path=path: (time.sleep(1.1), answers(address + path)), 3) - 1.1:.2f} s"  # type: ignore[misc]
            )
        found["daemon after that, memory"] = f"{memory(pid):.0f} MiB"
        found["descriptors"] = str(len(os.listdir(f"/proc/{pid}/fd")))
        found |= status(folder)
    return found


def status(folder: Path) -> dict[str, str]:
    """`backupctl status`, whole process, while the daemon runs."""
    words = [BACKUPCTL, "status", "--json", "--config", str(folder / "policies"), "--state", str(folder / "state")]
    ran = [measure.run(words, env=environment(folder), folder=folder) for _ in range(5)]
    if (where := json.loads(ran[0].output)["from"]) != "catalog":
        raise SystemExit(f"status asked the {where}: these figures mean nothing")
    middle = sorted(ran, key=lambda used: used.wall)[2]
    return {"backupctl status": f"{middle.wall:.2f} s ({middle.cpu:.2f} s of CPU), {middle.peak / measure.MB:.0f} MB"}


def queue(folder: Path, count: int = 1000) -> dict[str, str]:
    """Jobs a second, one after the other, beside 20,000 that are over."""
    now = datetime.now(UTC)
    with open_catalog(folder / "copy.sqlite") as catalog:
        began = time.perf_counter()
        for n in range(count):
            catalog.queue.submit(JobSpec("run", "p", f"s{n}", f"new{n}", f"lock{n}"), now)
        submitted = time.perf_counter()
        for _ in range(count):
            claim = catalog.queue.claim("bench", now, 60)
            assert claim is not None
            catalog.queue.finish(claim, now, "done")
        done = time.perf_counter()
    rates = count / (submitted - began), count / (done - submitted)
    return {"submit": f"{rates[0]:.0f} a second", "claim and finish": f"{rates[1]:.0f} a second"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long the idle daemon is watched")
    options = parser.parse_args()
    measure.compile_sources()
    with tempfile.TemporaryDirectory(prefix="backupd-daemon-") as name:
        folder = Path(name)
        prepare(folder)
        shutil.copy(folder / "state/catalog.sqlite", folder / "copy.sqlite")
        table = {**idle(folder, options.seconds), **queue(folder)}
    print(f"{POLICIES * SOURCES} sources, {SNAPSHOTS} snapshots each, {RUNS:,} runs; load {os.getloadavg()[0]:.1f}")
    print("\n| | |\n|---|---|")
    for what, value in table.items():
        print(f"| {what} | {value} |")


if __name__ == "__main__":
    main()
