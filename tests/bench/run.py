"""The benchmark: one table that compares backupctl with restic, borg and plain zstd on one SQLite file. See README.md."""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import database, measure, peers
from tests.bench.measure import MB, CommandFailed, Usage
from tests.bench.tools import Backupctl, Borg, Restic, Tool, Zstd

NAMES = ("backupctl", "restic", "borg", "zstd")
STEPS = ("first", "second", "restore")


@dataclass(slots=True)
class Results:
    """All numbers of one tool: each name has one value a round."""

    title: str
    values: dict[str, list[float]] = field(default_factory=dict)
    failure: str | None = None

    def note(self, step: str, used: Usage) -> None:
        """Keep what a step cost."""
        for name, value in (("wall", used.wall), ("cpu", used.cpu), ("peak", float(used.peak))):
            self.add(f"{step}_{name}", value)

    def add(self, name: str, value: float) -> None:
        """Keep one value."""
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        """The median over the rounds."""
        found = self.values.get(name)
        return statistics.median(found) if found else None


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/bench/run.py", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds; the table shows medians (default: 5)")
    parser.add_argument("--customers", type=int, default=database.CUSTOMERS, help="rows of the main table")
    parser.add_argument("--size", metavar="418m|4g", help="instead of --customers: about how large the file is")
    parser.add_argument("--tools", default=",".join(NAMES), help="some of: " + ",".join(NAMES))
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every single measurement there")
    parser.add_argument("--folder", type=Path, help="work in a new folder below this one (default: the cache folder)")
    parser.add_argument("--keep", action="store_true", help="leave the work folder behind")
    options = parser.parse_args(argv)
    options.tools = [name.strip() for name in options.tools.split(",") if name.strip()]
    if unknown := set(options.tools) - set(NAMES):
        parser.error(f"unknown tools: {', '.join(sorted(unknown))}")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if options.size:
        try:
            options.customers = database.parse_size(options.size)
        except ValueError as error:
            parser.error(str(error))
    return options


def make_tools(names: Iterable[str], work: Path) -> tuple[list[Tool], dict[str, str]]:
    """The tools that can be had, and why the others cannot."""
    tools: list[Tool] = []
    missing: dict[str, str] = {}
    ready: dict[str, tuple[type[Restic | Borg | Zstd], Callable[[], peers.Peer | peers.Missing]]] = {
        "restic": (Restic, peers.restic),
        "borg": (Borg, peers.borg),
        "zstd": (Zstd, peers.zstd),
    }
    for name in names:
        if name == "backupctl":
            tools.append(Backupctl(work))
            continue
        make, get = ready[name]
        say(f"looking for {name}")
        found = get()
        if isinstance(found, peers.Missing):
            missing[name] = found.reason
        else:
            tools.append(make(work, found.command, found.version))
    return tools, missing


def say(text: str) -> None:
    """Progress goes to standard error; only the table goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def change(source: Path, number: int) -> None:
    """Change one row, in a process of its own so that this one stays small."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); from tests.bench.database import change_one_row as change; "
    root = str(Path(__file__).resolve().parents[2])
    subprocess.run(
        [sys.executable, "-c", script + "change(sys.argv[2], int(sys.argv[3]))", root, str(source), str(number)],
        check=True,
    )


def one_round(number: int, tools: list[Tool], results: dict[str, Results], source: Path) -> None:
    """Every step for every tool, step by step, so that a slow minute of the machine hits all of them."""
    turn = number % len(tools)
    order = [*tools[turn:], *tools[:turn]]

    def each(step: str, do: Callable[[Tool, Results], None]) -> None:
        for tool in order:
            result = results[tool.name]
            if result.failure is None:
                say(f"round {number + 1}: {step}, {tool.name}")
                try:
                    do(tool, result)
                except CommandFailed as error:
                    result.failure = str(error)

    def first(tool: Tool, result: Results) -> None:
        tool.fresh()
        before = measure.stored(tool.repository)
        measure.level(source)
        result.note("first", tool.snapshot(source))
        result.add("first_stored", measure.stored(tool.repository) - before)

    def second(tool: Tool, result: Results) -> None:
        before = 0 if isinstance(tool, Zstd) else measure.stored(tool.repository)
        measure.level(source)
        result.note("second", tool.snapshot(source))
        result.add("second_stored", measure.stored(tool.repository) - before)

    def restore(tool: Tool, result: Results) -> None:
        measure.level(tool.repository)
        used, restored = tool.restore(source)
        result.note("restore", used)
        result.add("restore_durable", used.wall + measure.to_disk(restored))
        if number == 0 and not measure.same(source, restored):
            raise CommandFailed("what it restored is not what it was given")
        for name, value in tool.notes(source).items():
            result.add(name, value)
        if isinstance(tool, Backupctl):
            result.add("help_wall", tool.help().wall)
        shutil.rmtree(tool.target)

    each("first snapshot", first)
    change(source, number)
    each("second snapshot", second)
    each("restore", restore)


ROWS: list[tuple[str, str, float, str]] = [
    ("first snapshot, s", "first_wall", 1, ".2f"),
    ("  CPU, s", "first_cpu", 1, ".2f"),
    ("  peak memory, MB", "first_peak", MB, ".0f"),
    ("  stored, MB", "first_stored", MB, ".1f"),
    ("second snapshot, one row changed, s", "second_wall", 1, ".2f"),
    ("  CPU, s", "second_cpu", 1, ".2f"),
    ("  peak memory, MB", "second_peak", MB, ".0f"),
    ("  stored, MB", "second_stored", MB, ".3f"),
    ("restore, whole process, s", "restore_wall", 1, ".2f"),
    ("  and until it is on the disk (fsync), s", "restore_durable", 1, ".2f"),
    ("  CPU, s", "restore_cpu", 1, ".2f"),
    ("  peak memory, MB", "restore_peak", MB, ".0f"),
    ("  with the check: the process itself, MB", "own", MB, ".0f"),
    ("  with the check: key derivation's child, MB", "children", MB, ".0f"),
    ("  unlocked key to renamed file, s", "seconds", 1, ".2f"),
    ("  unlocking the key, s", "unlock_seconds", 1, ".2f"),
    ("  SQLite's check (--check quick), s", "check_seconds", 1, ".2f"),
    ("--help, s", "help_wall", 1, ".2f"),
]


def table(results: dict[str, Results], rows: Sequence[tuple[str, str, float, str]] = ROWS) -> str:
    """The table: one column for each tool."""
    shown = [r for r in results.values() if r.values]
    width = max(len(label) for label, *_ in rows)
    cell = max(19, *(len(r.title) + 2 for r in shown)) if shown else 19
    lines = [" " * width + "".join(f"{r.title:>{cell}}" for r in shown)]
    for label, name, unit, form in rows:
        cells = [r.median(name) for r in shown]
        lines.append(
            f"{label:<{width}}" + "".join(f"{format(c / unit, form) if c is not None else '-':>{cell}}" for c in cells)
        )
    return "\n".join(lines)


def comparison(results: dict[str, Results]) -> list[str]:
    """How many times as fast backupctl is as each other tool."""
    ours = results.get("backupctl")
    if ours is None:
        return []
    lines = []
    for name, theirs in results.items():
        parts = []
        for step in STEPS:
            mine, other = ours.median(f"{step}_wall"), theirs.median(f"{step}_wall")
            if name != "backupctl" and mine and other:
                parts.append(f"{step} {other / mine:.2f}")
        if parts:
            lines.append(f"backupctl is so many times as fast as {name:<6} (whole processes): {', '.join(parts)}")
    return lines


def main() -> int:
    """Measure and print."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the work folder goes away
    measure.compile_sources()
    cores = measure.pin()
    load = os.getloadavg()[0]
    source = database.database(options.customers)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=options.folder or peers.cache_folder()))
    try:
        tools, missing = make_tools(options.tools, work)
        here = work / "data" / "source.db"
        here.parent.mkdir()
        shutil.copyfile(source, here)
        results = {tool.name: Results(tool.title) for tool in tools}
        for number in range(options.runs):
            if tools:
                one_round(number, tools, results, here)
        size = here.stat().st_size
    finally:
        if options.keep:
            say(f"left behind: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    rounds = f"{options.runs} rounds, medians" if options.runs > 1 else "1 round"
    pinned = f"pinned to {'core' if len(cores) == 1 else 'cores'} {', '.join(map(str, cores))}"
    print(f"{size / MB:.0f} MB SQLite file, {rounds}, {pinned}; load before: {load:.1f}\n")
    print(table(results))
    print()
    for line in comparison(results):
        print(line)
    failures = {name: r.failure for name, r in results.items() if r.failure}
    for name, reason in {**missing, **failures}.items():
        print(f"{name}: not measured: {reason}")
    if options.json:
        document = {"bytes": size, "cores": cores, "runs": options.runs, "missing": missing, "failures": failures}
        document["tools"] = {name: {"title": r.title, "values": r.values} for name, r in results.items()}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
