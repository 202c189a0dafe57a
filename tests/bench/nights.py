"""The benchmark of the nights: what a night costs after a share of the rows changed, night after night. See README.md."""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backupd.config.version import VERSION
from tests.bench import database, measure, peers, serverdata, serverside
from tests.bench.measure import MB, CommandFailed, Usage
from tests.bench.nighttools import OursFile, OursServer, Runner, runners, told
from tests.bench.run import say
from tests.bench.servers import SITES, machine
from tests.bench.subjects import HOWS, ServerDump, SqliteFile, Subject
from tests.servers.packages import Unavailable

ENGINES = ("sqlite", *SITES)
Cell = dict[str, Any]
_ROWS = [
    ("a night stores, MB", "stored", MB, ".2f"),
    ("  objects written", "objects", 1, ".0f"),
    ("  the unchanged night stores, MB", "unchanged", MB, ".3f"),
    ("a night takes, s", "wall", 1, ".2f"),
    ("  CPU, s", "cpu", 1, ".2f"),
    ("  peak memory, MB", "peak", MB, ".0f"),
    ("first snapshot, s", "first_wall", 1, ".2f"),
    ("  stored, MB", "first_stored", MB, ".1f"),
    ("restore of the first night, s", "restore_first", 1, ".2f"),
    ("  and until it is on the disk (fsync), s", "durable_first", 1, ".2f"),
    ("restore after the last night, s", "restore_last", 1, ".2f"),
    ("  and until it is on the disk (fsync), s", "durable_last", 1, ".2f"),
    ("everything stored, MB", "whole", MB, ".1f"),
    ("prune all but the last, s", "prune", 1, ".2f"),
]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/bench/nights.py", description=__doc__)
    parser.add_argument("--engines", default=",".join(ENGINES), help="some of: " + ",".join(ENGINES))
    parser.add_argument(
        "--churn", default="1", help="per cent of the rows that change, several with commas (default: 1)"
    )
    parser.add_argument("--how", default="scattered", help="some of: " + ",".join(HOWS))
    parser.add_argument("--nights", type=int, default=10, help="nights after the first snapshot (default: 10)")
    parser.add_argument("--size", metavar="200m|4g", default="200m", help="about how large the database is")
    parser.add_argument("--tools", default="all", help="`ours` leaves the peers out")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep each cell there, and leave out what is there")
    parser.add_argument("--results", type=Path, metavar="FILE", help="append the tables to this file")
    parser.add_argument("--folder", type=Path, help="work in a new folder below this one (default: the cache folder)")
    options = parser.parse_args(argv)
    options.engines = _some(parser, options.engines, ENGINES)
    options.how = _some(parser, options.how, HOWS)
    try:
        options.churn = [float(part) / 100 for part in options.churn.split(",")]
        database.parse_size(options.size)
    except ValueError:
        parser.error("--churn and --size must be numbers")
    if options.nights < 1 or not all(0 < share <= 0.5 for share in options.churn):
        parser.error("--nights must be at least 1, --churn between 0 and 50")
    return options


def _some(parser: argparse.ArgumentParser, text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return names


@contextmanager
def subject(engine: str, size: str, work: Path) -> Iterator[Subject]:
    """The database of an engine, new."""
    if engine == "sqlite":
        yield SqliteFile(work, database.parse_size(size))
        return
    with SITES[engine]() as site:
        assert isinstance(site, serverside.Site)
        yield ServerDump(site, work, serverdata.parse_size(size))


def cell(
    engine: str, share: float, how: str, options: argparse.Namespace, work: Path, found: dict[str, tuple[str, str]]
) -> Cell:
    """All nights of one engine and one kind of churn, every tool every night."""
    with subject(engine, options.size, work) as source:
        columns = runners(source, work, found)
        if options.tools == "ours":
            columns = [column for column in columns if isinstance(column, OursFile | OursServer)]
        source.read()
        size = source.size
        values: dict[str, dict[str, list[float]]] = {column.title: {} for column in columns}
        first: dict[str, str] = {}
        for column in columns:
            column.fresh()
        for night in range(options.nights + 1):
            if night:
                source.churn(night, share, how)
                source.read()
            turn = night % len(columns)
            for column in [*columns[turn:], *columns[:turn]]:
                say(f"{engine}, {share:.1%} {how}, night {night}: {column.title}")
                used = one_night(column, source, values[column.title], "first_" if night == 0 else "")
                if night == 0:
                    first[column.title] = str(told(used).get("snapshot", "latest"))
                    restored(column, source, first[column.title], values[column.title], "first")
        for column in columns:
            mine = values[column.title]
            restored(column, source, "latest", mine, "last")
            measure.level(column.repository)
            before = measure.stored(column.repository)
            add(mine, "whole", before)
            column.night()
            add(mine, "unchanged", measure.stored(column.repository) - before)
            add(mine, "prune", column.prune().wall)
        return {"engine": engine, "share": share, "how": how, "size": size, "nights": options.nights, "tools": values}


def add(values: dict[str, list[float]], name: str, value: float) -> None:
    """Keep one value."""
    values.setdefault(name, []).append(value)


def one_night(column: Runner, source: Subject, values: dict[str, list[float]], prefix: str) -> Usage:
    """Back up once, and keep what it cost."""
    warm(source)
    objects = count(column.repository)
    before = measure.stored(column.repository)
    used = column.night()
    add(values, prefix + "wall", used.wall)
    add(values, prefix + "cpu", used.cpu)
    add(values, prefix + "peak", float(used.peak))
    add(values, prefix + "stored", measure.stored(column.repository) - before)
    add(values, prefix + "objects", count(column.repository) - objects)
    return used


def warm(source: Subject) -> None:
    """The same start for every tool."""
    if isinstance(source, SqliteFile):
        measure.level(source.path)
    elif isinstance(source, ServerDump):
        source.site.rest()
        measure.level(source.dump, source.files)


def restored(column: Runner, source: Subject, snapshot: str, values: dict[str, list[float]], which: str) -> None:
    """Restore, compare where that is easy, and keep how long it took: as the tool ends, and until a power cut takes nothing."""
    measure.level(column.repository)
    used, place = column.restore(snapshot)
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    add(values, f"restore_{which}", used.wall)
    add(values, f"durable_{which}", used.wall + sum(map(measure.to_disk, files)))
    if isinstance(source, SqliteFile) and not measure.same(source.path, place):
        raise CommandFailed(f"{column.title} restored something else than the source")
    if isinstance(source, ServerDump) and place.is_file() and place.stat().st_size != source.size:
        raise CommandFailed(f"{column.title} restored something else than the dump")
    shutil.rmtree(column.tool.target, ignore_errors=True)


def count(folder: Path) -> int:
    """How many files are below a folder."""
    return sum(1 for path in folder.rglob("*") if path.is_file())


def show(one: Cell) -> str:
    """A cell as a table."""
    titles = list(one["tools"])
    widths = [max(11, len(title)) for title in titles]
    head = " " * 34 + "  ".join(title.rjust(width) for title, width in zip(titles, widths, strict=True))
    lines = [
        f"{one['engine']}, {one['share']:.1%} {one['how']}, {one['size'] / MB:.0f} MB, medians of {one['nights']} nights",
        "",
        head,
    ]
    for title, name, unit, form in _ROWS:
        found = [one["tools"][tool].get(name) for tool in titles]
        texts = ["-" if not values else format(statistics.median(values) / unit, form) for values in found]
        lines.append(title.ljust(34) + "  ".join(t.rjust(w) for t, w in zip(texts, widths, strict=True)))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and print."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measure.compile_sources()
    cores = measure.pin()
    found: dict[str, tuple[str, str]] = {}
    missing: dict[str, str] = {}
    for name, get in (("restic", peers.restic), ("borg", peers.borg), ("zstd", peers.zstd)):
        peer = get()
        if isinstance(peer, peers.Missing):
            missing[name] = peer.reason
        else:
            found[name] = (peer.command, peer.version)
    done: dict[str, Cell] = json.loads(options.resume.read_text()) if options.resume and options.resume.exists() else {}
    versions = ", ".join(f"{name} {version}" for name, (_, version) in found.items())
    head = f"{time.strftime('%Y-%m-%d')}, backupctl {VERSION}, {versions}, Python {platform.python_version()}; {machine()}; "
    head += f"pinned to cores {', '.join(map(str, cores))}, load before {os.getloadavg()[0]:.1f}"
    print(head + "\n")
    texts = []
    for engine in options.engines:
        for how in options.how:
            for share in options.churn:
                name = f"{engine} {share} {how} {options.size} {options.nights} {options.tools}"
                if name not in done:
                    work = Path(tempfile.mkdtemp(prefix="nights-", dir=options.folder or peers.cache_folder()))
                    try:
                        done[name] = cell(engine, share, how, options, work, found)
                    except (Unavailable, CommandFailed) as error:
                        missing[name] = " ".join(str(error).split())
                        continue
                    finally:
                        shutil.rmtree(work, ignore_errors=True)
                    if options.resume:
                        options.resume.write_text(json.dumps(done, indent=1) + "\n")
                texts.append(show(done[name]))
                print(texts[-1], flush=True)
    for what, reason in missing.items():
        print(f"{what}: not measured: {reason}")
    if options.results and texts:
        keep(options.results, f"## {head}\n\n" + "\n".join(f"```\n{text}```\n" for text in texts))
    return 1 if missing else 0


def keep(path: Path, text: str) -> None:
    """Put tables behind the others of the nights, and before what other benchmarks have printed."""
    said = path.read_text() if path.exists() else "# Results of the nights\n"
    at = said.find("\n# ", 1)
    before, after = (said, "") if at < 0 else (said[:at], said[at:])
    path.write_text(before.rstrip("\n") + "\n\n" + text + after)


if __name__ == "__main__":
    sys.exit(main())
