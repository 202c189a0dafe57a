"""A real daemon with twenty databases that change all the time, killed again and again. See README.md.

.venv/bin/python tests/soak/processes.py --minutes 4 --seed 1
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backupd.catalog.opening import open_catalog

PASSPHRASE = "correct horse battery staple"
MONEY = sum(n * 7 for n in range(2000))
"""The sum of all balances of a database, at any moment."""
SOURCES = 20
POLICY = """\
policy: p{n}
sources:
{sources}
repository: {{url: "file://{folder}/repo"}}
keys: {{write: "file:{folder}/keys/write.key", check: "file:{folder}/keys/check.key",
  read: "file:{folder}/keys/read.key"}}
schedule: {{every: {every}, jitter: {every}, max_duration: 2m}}
retries: {{attempts: 5, backoff: 5s}}
drill: {{every: 2m, assert: [{{sql: "SELECT sum(balance) FROM customers", equals: {sum}}}]}}
"""


class Real:
    """A folder with databases, a repository and a daemon.

    Args:
        folder: where.
        every: a snapshot of each source comes so often.
        jobs: how many run at once.
    """

    def __init__(self, folder: Path, every: str, jobs: int) -> None:
        self.folder, self._jobs = folder, jobs
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BACKUPCTL_", "BACKUPD_", "XDG_"))}
        self.environment = kept | {"HOME": str(folder), "BACKUPCTL_PASSPHRASE_FILE": str(folder / "passphrase")}
        (folder / "passphrase").write_text(PASSPHRASE)
        self.backupctl("init", str(folder / "repo"), "--keys", str(folder / "keys"))
        (folder / "policies").mkdir()
        for n in range(2):
            mine = [i for i in range(SOURCES) if i % 2 == n]
            sources = "\n".join(f'  - {{name: s{i:02}, url: "sqlite:///{folder}/s{i:02}.db"}}' for i in mine)
            text = POLICY.format(n=n, sources=sources, folder=folder, every=every, sum=MONEY)
            (folder / f"policies/p{n}.yaml").write_text(text)
        self.databases = [folder / f"s{i:02}.db" for i in range(SOURCES)]
        for database in self.databases:
            _make(database)
        self.daemon: subprocess.Popen[bytes] | None = None
        self.counts: Counter[str] = Counter()

    def backupctl(self, *words: str) -> dict[str, Any]:
        """Run a command that must succeed; its document."""
        argv = [sys.executable, "-m", "backupctl", *words, "--json"]
        done = subprocess.run(argv, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(
                f"{' '.join(words[:3])} ended with {done.returncode}: {done.stdout[-2000:]} {done.stderr[-500:]}"
            )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def start(self) -> None:
        """Start the daemon."""
        words = [
            "--config",
            str(self.folder / "policies"),
            "--state",
            str(self.folder / "state"),
            "--jobs",
            str(self._jobs),
        ]
        words += ["--listen", "127.0.0.1:0", "--drain", "60"]
        with (self.folder / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "backupd", *words], env=self.environment, stdout=log, stderr=log, cwd=self.folder
            )
        self.counts["daemons started"] += 1

    def children(self) -> list[int]:
        """The processes of the daemon's jobs."""
        assert self.daemon is not None
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children").read_text()
            return [int(word) for word in text.split()]
        return []

    def hurt(self, chance: random.Random) -> None:
        """Kill the daemon, or one of its jobs."""
        assert self.daemon is not None
        if self.daemon.poll() is not None:
            raise SystemExit(f"the daemon ended by itself, with {self.daemon.returncode}: see {self.folder}/log")
        children = self.children()
        if children and chance.random() < 0.6:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
                self.counts["jobs killed"] += 1
            return
        self.daemon.kill()
        self.daemon.wait()
        self.counts["daemons killed"] += 1
        time.sleep(chance.choice([0.0, 0.5, 3.0]))
        self.start()

    def processes(self) -> list[int]:
        """Every process that works in this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if str(self.folder).encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def held(self) -> dict[str, float]:
        """MB and descriptors of the daemon."""
        assert self.daemon is not None
        lines = Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines()
        rss = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
        return {"MiB": rss, "descriptors": len(os.listdir(f"/proc/{self.daemon.pid}/fd"))}

    def wait_for_newer(self, moment: str, seconds: float) -> set[str]:
        """Wait until each source has a snapshot that was taken after a moment; those that have none."""
        until = time.monotonic() + seconds
        while True:
            with open_catalog(self.folder / "state/catalog.sqlite") as catalog:
                taken = {
                    one.source
                    for one in catalog.snapshots.newest()
                    if one.taken_at and one.taken_at.isoformat() > moment
                }
            missing = {database.stem for database in self.databases} - taken
            if not missing or time.monotonic() > until:
                return missing
            time.sleep(2)


def _make(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, balance INTEGER)")
        rows = ((n, f"customer {n} of {path.stem}", n * 7) for n in range(2000))
        connection.executemany("INSERT INTO customers VALUES (?, ?, ?)", rows)


def _write(databases: list[Path], over: threading.Event) -> None:
    """Move money from one customer to another, so that the sum of all stays the same."""
    chance = random.Random(5)
    while not over.wait(0.05):
        with contextlib.closing(sqlite3.connect(chance.choice(databases), timeout=30)) as connection, connection:
            one, other = chance.sample(range(2000), 2)
            connection.execute("UPDATE customers SET balance = balance - 1 WHERE id = ?", (one,))
            connection.execute("UPDATE customers SET balance = balance + 1 WHERE id = ?", (other,))


def _rows(path: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM customers ORDER BY id").fetchall()


def soak(real: Real, minutes: float, chance: random.Random, calm: float) -> list[str]:
    """Everything; what did not hold."""
    over = threading.Event()
    writer = threading.Thread(target=_write, args=(real.databases, over))
    writer.start()
    try:
        real.start()
        until = time.monotonic() + minutes * 60
        while time.monotonic() < until:
            time.sleep(chance.uniform(3, 15))
            real.hurt(chance)
    finally:
        over.set()
        writer.join()
    time.sleep(10)
    first = real.held()
    still = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    wrong = [f"{name} has no snapshot of what it is now" for name in real.wait_for_newer(still, calm)]
    last, crowd = real.held(), len(real.children())
    assert real.daemon is not None
    real.daemon.send_signal(signal.SIGTERM)
    code = real.daemon.wait(180)
    print(f"{'daemon, MiB, before and after the calm time':50} {first['MiB']:>8.0f} {last['MiB']:>8.0f}")
    print(
        f"{'daemon, descriptors, with jobs at work then':50} {first['descriptors']:>8.0f} {last['descriptors']:>8.0f} {crowd:>4}"
    )
    if code:
        wrong.append(f"the daemon ended with {code}")
    if left := real.processes():
        wrong.append(f"{len(left)} processes are left")
    if last["descriptors"] > first["descriptors"] + 4 * (crowd + 1):
        wrong.append("descriptors grew")
    return wrong + _stored(real) + _catalog(real)


def _stored(real: Real) -> list[str]:
    """What is in the repository is whole, and the newest snapshots are what the sources are."""
    read, wrong = ["--repository", str(real.folder / "repo"), "--key", str(real.folder / "keys/read.key")], []
    verified = real.backupctl("verify", "--level", "content", *read)
    real.counts["snapshots verified by content"] = verified["checked"]["snapshots"]
    wrong += [f"verify: {problem}" for problem in verified["problems"]]
    for database in real.databases[::5]:
        target = real.folder / f"restored-{database.name}"
        real.backupctl("restore", f"latest:{database.stem}", str(target), *read)
        real.counts["snapshots restored and compared"] += 1
        if _rows(target) != _rows(database):
            wrong.append(f"{database.stem} was restored to something else")
        if sum(row[2] for row in _rows(target)) != MONEY:
            wrong.append(f"{database.stem}: the sum of all balances is another one")
    drilled = real.backupctl(
        "drill", "--snapshot", f"latest:{real.databases[0].stem}", "--state", str(real.folder / "state"), *read
    )
    wrong += [] if drilled["passed"] else [f"a drill at the end did not pass: {drilled['checks']}"]
    left = [place for base in real.folder.rglob("backupd-drills") for place in base.iterdir() if place.name != "lock"]
    return wrong + [f"drills left {place}" for place in left]


def _catalog(real: Real) -> list[str]:
    with open_catalog(real.folder / "state/catalog.sqlite") as catalog:
        real.counts.update({f"jobs: {state}": count for state, count in catalog.queue.counts().items() if count})
        runs = catalog.runs.list(limit=100_000)
        real.counts["runs"] = len(runs)
        real.counts.update(f"runs that ended as {run.end.outcome}" for run in runs if run.end)
        found = [f"run {run.id} of {run.source} has no end since {run.started}" for run in catalog.runs.unfinished()]
        drills = catalog.drills.list(limit=100_000)
        real.counts["drills that passed"] = sum(drill.passed for drill in drills)
        found += [f"a drill of {drill.source} did not pass: {drill.detail}" for drill in drills if not drill.passed]
        found += [
            f"{name.stem} was never drilled" for name in real.databases if name.stem not in {d.source for d in drills}
        ]
        busy = catalog.queue.list(["running"])
        return found + [f"job {job.id} is running, and nobody is there" for job in busy]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", default="60s", help="a snapshot of each source comes so often")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument(
        "--calm", type=float, default=400, help="seconds at the end within which each source has its snapshot"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="backupd-soak-"))
    real = Real(folder, options.every, options.jobs)
    try:
        wrong = soak(real, options.minutes, random.Random(options.seed), options.calm)
    finally:
        if real.daemon is not None and real.daemon.poll() is None:
            real.daemon.kill()
            real.daemon.wait()
    for name, value in sorted(real.counts.items()):
        print(f"{name:50} {value:>8,}")
    for each in wrong[:40]:
        print("WRONG:", each)
    print(f"{len(wrong)} things did not hold; see {folder}" if wrong else "everything held")
    if not wrong:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
