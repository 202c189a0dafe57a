"""The servers' benchmark: tables that compare backupctl with what PostgreSQL and MariaDB bring along. See README.md."""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backupd.config.version import VERSION
from tests.bench import measure, peers, serverdata, serverside
from tests.bench.contenders import Backupctl, Contender, contenders
from tests.bench.measure import MB, CommandFailed
from tests.bench.run import Results, say, table
from tests.bench.serverside import SOURCE, TARGET, Site
from tests.bench.tools import clean_environment
from tests.servers import mariadb, postgres
from tests.servers.packages import Unavailable

SITES: dict[str, Callable[[], AbstractContextManager[Site]]] = {
    "postgresql": serverside.postgresql,
    "mariadb": serverside.maria,
}
STEPS = ("first", "second", "restore", "rows", "checked")
WARM_SECONDS = 2
BROKEN = (CommandFailed, postgres.SqlError, mariadb.SqlError, subprocess.TimeoutExpired, OSError, ValueError, KeyError)
"""What a step that fails may raise: a tool's failure, a server's, or an answer that is none."""


@dataclass(slots=True)
class Section:
    """What was found out about one server."""

    site: Site
    customers: int
    contenders: Sequence[Contender]
    results: dict[str, Results] = field(default_factory=dict)
    writers: dict[str, Results] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        """Each contender has a column."""
        self.results = {contender.name: Results(contender.title) for contender in self.contenders}

    @property
    def ours(self) -> Backupctl:
        """The first of them."""
        first = self.contenders[0]
        assert isinstance(first, Backupctl)
        return first

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Keep a failure under a name; the rest goes on."""
        try:
            yield
        except BROKEN as error:
            self.failures[what] = " ".join(str(error).split()) or type(error).__name__
            say(f"{self.site.title}: {what} failed")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/bench/servers.py", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="rounds; the tables show medians (default: 3)")
    parser.add_argument("--size", metavar="100m|1g", default="1g", help="bytes of the rows as text (default: 1g)")
    parser.add_argument("--servers", default=",".join(SITES), help="some of: " + ",".join(SITES))
    parser.add_argument(
        "--rate", type=float, default=200, help="transactions a second beside a snapshot (default: 200)"
    )
    parser.add_argument("--alone", type=float, default=20, help="seconds of these transactions alone (default: 20)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every single measurement there")
    parser.add_argument("--folder", type=Path, help="work in a new folder below this one (default: the cache folder)")
    options = parser.parse_args(argv)
    options.servers = [name.strip() for name in options.servers.split(",") if name.strip()]
    if unknown := set(options.servers) - set(SITES):
        parser.error(f"unknown servers: {', '.join(sorted(unknown))}")
    if options.runs < 1 or options.rate <= 0 or options.alone <= 0:
        parser.error("--runs, --rate and --alone must be more than 0")
    try:
        options.customers = serverdata.parse_size(options.size)
    except ValueError as error:
        parser.error(str(error))
    return options


def turned(items: Sequence[Any], number: int) -> list[Any]:
    """The same in another order each round, so that a slow minute of the machine hits all of them."""
    turn = number % len(items)
    return [*items[turn:], *items[:turn]]


def one_round(section: Section, number: int) -> None:
    """Every step with every tool, step by step."""
    section.site.warm()
    for step in STEPS:
        if step == "second":
            section.site.change_one_row(number, section.customers)
        for contender in turned(section.contenders, number):
            if step in contender.steps() and not _hopeless(section, contender, step):
                say(f"{section.site.title}, round {number + 1}: {_STEP_TITLES[step]}, {contender.name}")
                with section.guarded(f"{contender.name}, {_STEP_TITLES[step]}"):
                    one_step(section, contender, step, number)


def _hopeless(section: Section, contender: Contender, step: str) -> bool:
    """Whether this failed before, or what it needs did."""
    return any(f"{contender.name}, {_STEP_TITLES[name]}" in section.failures for name in ("first", step))


def one_step(section: Section, contender: Contender, step: str, number: int) -> None:
    """Prepare, measure, compare what was restored (in the first round), tidy up."""
    site = section.site
    site.clear()
    if step == "first":
        contender.fresh()
    site.rest()
    for name, value in contender.steps()[step]().items():
        section.results[contender.name].add(name, value)
    if number == 0 and step in ("restore", "rows", "checked"):
        compare(section, contender)
    site.clear()


def compare(section: Section, contender: Contender) -> None:
    """Compare what was restored with what was captured.

    Raises:
        CommandFailed: it is something else.
    """
    restored = section.site.counts(TARGET)
    if restored != section.rows:
        raise CommandFailed(f"it restored {restored} rows of {section.rows}")
    if section.ours.can_compare:
        try:
            # The peers' dumps were taken when our first snapshot was, before a row changed.
            section.ours.same(TARGET, "second" if contender is section.ours else "first")
        except CommandFailed as error:
            raise CommandFailed(f"restored, but not what was captured: {error}") from None


def latencies(section: Section, options: argparse.Namespace, folder: Path) -> None:
    """How long small transactions take alone, beside the server's own tool and beside backupctl."""
    site = section.site
    beside = {c.name: c for c in section.contenders if c.name != "copy"}
    titles = {"alone": "alone", **{name: f"beside {name}" for name in reversed(beside)}}
    section.writers = {name: Results(title) for name, title in titles.items()}
    for number in range(options.runs):
        for name in turned(list(titles), number):
            contender = beside.get(name)
            what = f"writers {titles[name]}"
            if what in section.failures or (contender and _hopeless(section, contender, "first")):
                continue
            say(f"{site.title}, round {number + 1}: {what}")
            with section.guarded(what):
                site.clear()
                if contender:
                    contender.fresh()
                site.rest()
                for key, value in write_beside(site, contender, section.customers, options, folder).items():
                    section.writers[name].add(key, value)
    for result in section.writers.values():
        if "lock_waits" in result.values:
            result.add("lock_waits_total", sum(result.values["lock_waits"]))


def write_beside(
    site: Site, contender: Contender | None, customers: int, options: argparse.Namespace, folder: Path
) -> dict[str, float]:
    """Write from before a snapshot begins until after it ended; what was due within it counts.

    Raises:
        CommandFailed: the writers or the tool failed.
    """
    program = str(Path(__file__).with_name("writers.py"))
    command = [sys.executable, program, site.url(SOURCE), str(customers), str(options.rate)]
    env = {**clean_environment(folder), "BENCH_PASSWORD": site.password}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as writers:
        try:
            assert writers.stdin is not None
            assert writers.stdout is not None
            if writers.stdout.readline().strip() == "ready":
                os.sync()
                time.sleep(WARM_SECONDS)
                wall = contender.plain_snapshot().wall if contender else _sleep(options.alone)
                ended = time.monotonic()
                writers.stdin.write(f"{ended - wall} {ended}\n")
            out, said = writers.communicate(timeout=200)
        finally:
            writers.kill()
    if writers.returncode:
        raise CommandFailed(said.strip()[-600:])
    return {**json.loads(out), "wall": wall}


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def measured(name: str, options: argparse.Namespace, work: Path, zstd: str | None) -> Section:
    """All there is to find out about one server.

    Raises:
        Unavailable: it cannot be had here.
    """
    say(f"starting {name}")
    with SITES[name]() as site:
        section = Section(site, options.customers, contenders(site, work, zstd))
        say(f"{site.title}: making the database")
        site.fill(options.customers)
        section.rows, section.size = site.counts(SOURCE), site.size()
        with section.guarded("the server itself"):
            for number in range(options.runs):
                one_round(section, number)
            latencies(section, options, work)
        return section


_STEP_TITLES = {
    "first": "first snapshot",
    "second": "second snapshot",
    "restore": "restore",
    "rows": "restore without local_infile",
    "checked": "restore with the check",
}
Row = tuple[str, str, float, str]


def _cost(title: str, step: str, *, stored: str = "", split: bool = True) -> list[Row]:
    rows: list[Row] = [
        (title, f"{step}_wall", 1, ".2f"),
        ("  client CPU, s", f"{step}_cpu", 1, ".2f"),
        ("  peak memory, largest process, MB", f"{step}_peak", MB, ".0f"),
    ]
    if split:
        rows.append(("    backupctl itself, MB", f"{step}_own", MB, ".0f"))
        rows.append(("    its largest child, MB", f"{step}_child", MB, ".0f"))
    return [*rows, ("  stored, MB", f"{step}_stored", MB, stored)] if stored else rows


def _rows(site: Site) -> list[Row]:
    restore = "restore, local_infile on, whole process, s" if site.name == "mariadb" else "restore, whole process, s"
    rows = _cost("first snapshot, s", "first", stored=".1f")
    rows += _cost("second snapshot, one row changed, s", "second", stored=".3f")
    rows += _cost(restore, "restore")
    rows.append(("  unlocked key to renamed database, s", "restore_seconds", 1, ".2f"))
    rows.append(("  unlocking the key, s", "restore_unlock_seconds", 1, ".2f"))
    if site.name == "mariadb":
        rows += _cost("restore, local_infile off, whole process, s", "rows", split=False)
        rows.append(("  unlocked key to renamed database, s", "rows_seconds", 1, ".2f"))
    rows += _cost("restore with the check, whole process, s", "checked", split=False)
    rows.append(("  the check alone, s", "checked_check_seconds", 1, ".2f"))
    return rows


_WRITER_ROWS: list[Row] = [
    ("writers' latency, p50, ms", "p50", 1e-3, ".2f"),
    ("  p99, ms", "p99", 1e-3, ".2f"),
    ("  longest, ms", "max", 1e-3, ".1f"),
    ("  transactions counted", "transactions", 1, ".0f"),
    ("  lock waits over 100 ms, all rounds", "lock_waits_total", 1, ".0f"),
    ("  longest lock wait, ms", "longest_lock_wait", 1e-3, ".0f"),
    ("  seconds (of the snapshot)", "wall", 1, ".2f"),
]


def comparison(section: Section) -> list[str]:
    """How backupctl compares with each other tool."""
    ours = section.results["backupctl"]
    lines = []
    for name, theirs in section.results.items():
        parts = []
        for step, other in (("first", "first"), ("restore", "restore"), ("rows", "restore"), ("checked", "restore")):
            mine, their = ours.median(f"{step}_wall"), theirs.median(f"{other}_wall")
            if name != "backupctl" and mine and their:
                parts.append(f"{_STEP_TITLES[step]} {their / mine:.2f}")
        if parts:
            lines.append(f"backupctl is so many times as fast as {theirs.title} (whole processes): {', '.join(parts)}")
    mine = section.writers["backupctl"].median("p99") if "backupctl" in section.writers else None
    for result in section.writers.values():
        their = result.median("p99")
        if mine and their and result.title != "beside backupctl":
            lines.append(f"writers' p99 beside backupctl is {mine / their:.2f} of that {result.title}")
    return lines


def machine() -> str:
    """What all this ran on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model n")]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}"


def show(section: Section, runs: int) -> None:
    """Print a server's tables."""
    rounds = f"{runs} rounds, medians" if runs > 1 else "1 round"
    rows = f"{sum(section.rows.values()):,} rows in {len(section.rows)} tables"
    print(f"{section.site.title}: {rows}, {section.size / MB:.0f} MB on the server with indexes; {rounds}\n")
    print(table(section.results, _rows(section.site)))
    print()
    print(table(section.writers, _WRITER_ROWS))
    print()
    for line in comparison(section):
        print(line)
    for what, reason in section.failures.items():
        print(f"{what}: failed: {reason}")
    print()


def document(section: Section) -> dict[str, Any]:
    """Every measurement of a server."""
    both = {"tools": section.results, "writers": section.writers}
    measured = {
        kind: {name: {"title": r.title, "values": r.values} for name, r in results.items()}
        for kind, results in both.items()
    }
    return {"server": section.site.title, "rows": section.rows, "bytes": section.size, **measured}


def main() -> int:
    """Measure and print."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end and the work folder goes away
    measure.compile_sources()
    cores = measure.pin()
    load = os.getloadavg()[0]
    zstd = peers.zstd()
    missing = {"zstd, and what needs it": zstd.reason} if isinstance(zstd, peers.Missing) else {}
    sections: dict[str, Section] = {}
    work = Path(tempfile.mkdtemp(prefix="servers-", dir=options.folder or peers.cache_folder()))
    try:
        for name in options.servers:
            try:
                command = None if isinstance(zstd, peers.Missing) else zstd.command
                sections[name] = measured(name, options, work, command)
            except (Unavailable, *BROKEN) as error:
                missing[name] = " ".join(str(error).split())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    version = "missing" if isinstance(zstd, peers.Missing) else zstd.version
    print(f"backupctl {VERSION}, Python {platform.python_version()}, zstd {version}; {machine()}")
    pinned = f"servers and clients pinned to {'core' if len(cores) == 1 else 'cores'} {', '.join(map(str, cores))}"
    print(f"{options.customers:,} customers, about {options.size} of rows as text; {pinned}; load before: {load:.1f}\n")
    for section in sections.values():
        show(section, options.runs)
    for what, reason in missing.items():
        print(f"{what}: not measured: {reason}")
    failures = {name: section.failures for name, section in sections.items() if section.failures}
    if options.json:
        head = {
            "machine": machine(),
            "cores": cores,
            "load": load,
            "runs": options.runs,
            "customers": options.customers,
        }
        versions = {"backupctl": VERSION, "python": platform.python_version(), "zstd": version}
        found = {name: document(section) for name, section in sections.items()}
        whole = {**head, "versions": versions, "missing": missing, "failures": failures, "servers": found}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    return 1 if failures or missing else 0


if __name__ == "__main__":
    sys.exit(main())
