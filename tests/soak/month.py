"""A simulated month of 200 sources. See README.md.

.venv/bin/python tests/soak/month.py --days 30 --seed 1
"""

import argparse
import gc
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backupd.catalog.opening import Catalog, open_catalog
from backupd.errors import Exit
from tests.soak.checks import at_the_end, objectives
from tests.soak.hosts import Host, Log
from tests.soak.world import World

DAY = 86_400.0
CALM_DAYS = 3.0
SHORT, LONG = 45.0, 125.0
"""Seconds of a step: see `hosts.PLAN`."""
KINDS = (
    # how many policies of ten sources, schedule, RPO
    (12, 'cron: "30 2 * * *", timezone: Europe/Berlin, jitter: 90m, max_duration: 3h', "30h"),
    (3, 'cron: "15 1 * * *", timezone: America/New_York, jitter: 30m, blackout: ["Sun 00:00-06:00"]', "60h"),
    (3, "every: 6h, jitter: 20m, max_duration: 90m", "14h"),
    (1, "every: 1h, jitter: 5m, max_duration: 40m", "4h"),
    (1, 'cron: "0 12 * * 1-5", timezone: Europe/Berlin, catch_up: never', "100h"),
)
POLICY = """\
policy: p{n:02}
sources:
{sources}
repository: {{url: "file:///simulated/p{n:02}"}}
keys: {{write: "file:/simulated/write.key", check: "file:/simulated/check.key", prune: "file:/simulated/prune.key",
  read: "file:/simulated/read.key"}}
schedule: {{{schedule}}}
retries: {{attempts: 4, backoff: 3m}}
objectives: {{rpo: {rpo}}}
retention: {{keep: {{last: 20}}}}
verify: [{{level: structure, every: 7d}}]
drill: {{every: 7d}}
notify:
  - {{on: [failure, rpo_breach, verify_failed, drill_failed, notify_failed], to: ops}}
{pings}
notifiers: {{ops: {{webhook: "env:SIMULATED"}}, beat: {{ping: "env:SIMULATED"}}}}
"""


def write_policies(folder: Path) -> None:
    """Twenty policies of ten sources each."""
    folder.mkdir()
    n = 0
    for count, schedule, rpo in KINDS:
        for _ in range(count):
            n += 1
            sources = "\n".join(f'  - {{name: s{n:02}-{i}, url: "sqlite:////simulated/{n}-{i}.db"}}' for i in range(10))
            pings = "  - {on: [success], to: beat}" if n % 10 == 0 else ""
            text = POLICY.format(n=n, sources=sources, schedule=schedule, rpo=rpo, pings=pings)
            (folder / f"p{n:02}.yaml").write_text(text)


class Month:
    """The month.

    Args:
        folder: where to work.
        days: how long.
        seed: of everything random.
        calm: so many days at the end nothing bad happens.
    """

    def __init__(self, folder: Path, days: float, seed: int, calm: float = CALM_DAYS) -> None:
        write_policies(folder / "policies")
        self.world = World(random.Random(seed))
        self.log = Log(self.world)
        self.end = self.world.ticks + days * DAY
        self.calm_from = self.end - calm * DAY
        self.begin = self.world.now()
        self.hosts = [
            Host("one", frozenset({"scheduler", "worker"}), 4, folder, self.world, self.log),
            Host("two", frozenset({"worker"}), 4, folder, self.world, self.log),
            Host("three", frozenset({"worker"}), 4, folder, self.world, self.log),
        ]
        self.log.robbed = lambda worker: any(host.owns(worker) for host in self.hosts)
        self.catalog: Catalog = open_catalog(folder / "catalog.sqlite")
        self.steps = 0

    def run(self) -> Iterator[float]:
        """Go through it; yields after each day."""
        world, next_day = self.world, self.world.ticks + DAY
        while world.ticks < self.end:
            world.calm = world.ticks > self.calm_from
            if not world.calm:
                self._mischief()
            world.ticks += self._pace()
            for host in self.hosts:
                host.step()
                if host.looked:
                    host.looked = False
                    objectives(host, self.catalog, world)
            self.steps += 1
            if world.ticks >= next_day:
                next_day += DAY
                yield world.ticks

    def _pace(self) -> float:
        """Small steps while there is work, and large ones while there is none."""
        if any(True for _ in self.world.alive()):
            return SHORT
        return SHORT if self.catalog.queue.oldest_due(self.world.now() + timedelta(seconds=LONG)) else LONG

    def _mischief(self) -> None:
        world, chance = self.world, self.world.chance
        if world.happens(8e-4):
            storage = chance.choice(list(world.repositories.values()) or [None])  # type: ignore[list-item]
            if storage is not None:
                storage.trouble = chance.choice(
                    [Exit.TRY_AGAIN, Exit.STORAGE_REFUSED, Exit.NO_REPOSITORY, Exit.UNREACHABLE]
                )
                storage.until = world.ticks + chance.choice([600, 3600, 6 * 3600, 30 * 3600])
                world.count("times a storage had trouble")
        if world.happens(2e-3):
            storage = chance.choice(list(world.repositories.values()) or [None])  # type: ignore[list-item]
            if storage is not None:
                storage.damaged = world.ticks + chance.choice([1, 2, 5]) * DAY
                world.count("times a storage was damaged")
        if world.happens(8e-4):
            world.broken_notifiers[chance.choice(["ops", "beat"])] = world.ticks + chance.choice([600, 4 * 3600])
            world.count("times a notifier had trouble")
        for host in self.hosts:
            if host.up and not host.stalled and world.happens(6e-4):
                host.die()
            elif host.up and not host.stalled and world.happens(6e-4):
                host.stop_for(chance.choice([30, 100, 200, 900]))
                world.count("times a worker was stopped")
        if world.happens(12e-4):
            self._jump()
        if world.happens(1e-4):
            world.ahead += timedelta(hours=chance.uniform(0.5, 9))
            world.jumped = world.ticks
            world.count("times the machine slept")

    def _jump(self) -> None:
        """The clock is put forward or back; on the whole it stays where it is."""
        world, chance = self.world, self.world.chance
        seconds = chance.choice([30, 150, 1200, 3 * 3600, -5, -40, -600, -3000, -2 * 3600])
        world.ahead += timedelta(seconds=seconds)
        if seconds > 0:
            world.jumped = world.ticks
        world.count("times the clock was put forward" if seconds > 0 else "times the clock was put back")


def held() -> dict[str, float]:
    """What this process holds: MB, descriptors, threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    megabytes = pages * resource.getpagesize() / 1e6
    return {"MB": megabytes, "descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}


@contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    """A folder, gone at the end unless it was given."""
    if given is not None:
        given.mkdir(parents=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="backupd-soak-") as name:
        yield Path(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calm", type=float, default=CALM_DAYS, help="days at the end without anything bad")
    parser.add_argument("--folder", type=Path, help="where to work, and what is left there (default: a temporary one)")
    options = parser.parse_args()
    began = time.monotonic()
    with folder_of(options.folder) as folder:
        month = Month(folder, options.days, options.seed, options.calm)
        after: list[dict[str, float]] = [held()]
        told = 0
        for day, _ in enumerate(month.run(), 1):
            after.append(held())
            at = f"{time.monotonic() - began:.0f} s: day {day}, {month.steps:,} steps"
            print(f"{at}, {after[-1]['MB']:.0f} MB", *month.world.wrong[told:][:20], sep="\n    WRONG: ", flush=True)
            told = len(month.world.wrong)
        at_the_end(month.hosts, month.catalog, month.world, month.log, month.begin)
        figures = {"sources": 200, "days": options.days, "seed": options.seed, "steps": month.steps}
        figures |= dict(sorted(month.world.counts.items())) | {"notices delivered": month.world.delivered}
        figures |= {"seconds of real time": round(time.monotonic() - began)}
    for name, value in figures.items():
        print(f"{name:50} {value:>10,}")
    for name in ("MB", "descriptors", "threads"):
        print(
            f"{name + ' after two days, at the end':50} {after[min(2, len(after) - 1)][name]:>10.0f} {after[-1][name]:>10.0f}"
        )
    wrong = month.world.wrong + leaks(after)
    for each in wrong[:40]:
        print("WRONG:", each)
    print(f"{len(wrong)} things did not hold" if wrong else "everything held")
    return 1 if wrong else 0


def leaks(after: list[dict[str, float]]) -> list[str]:
    """What grew from the first days to the last ones."""
    if len(after) < 6:
        return []
    first, last = after[2], after[-1]
    found = [f"{name}: {first[name]:.0f}, then {last[name]:.0f}" for name in ("threads",) if last[name] > first[name]]
    if last["descriptors"] > first["descriptors"] + 6:  # connections of three catalogs that come and go
        found.append(f"descriptors: {first['descriptors']:.0f}, then {last['descriptors']:.0f}")
    if last["MB"] > first["MB"] * 1.25 + 10:
        found.append(f"memory: {first['MB']:.0f} MB, then {last['MB']:.0f} MB")
    return found


if __name__ == "__main__":
    sys.exit(main())
