"""What retention costs in a repository of many snapshots. See README.md.

.venv/bin/python tests/bench/retention.py --snapshots 1000,3000,10000
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import measure

ROOT = Path(__file__).resolve().parents[2]
BACKUPCTL = str(Path(sys.executable).with_name("backupctl"))
PASSPHRASE = "correct horse battery staple"
SOURCES = 200
LATER = 26 * 3600
STEPS = (
    "prune --dry-run",
    "prune, nine tenths go",
    "prune, the wait is over",
    "prune, nothing to do",
    "status",
    "snapshots",
)


@contextmanager
def repository(count: int, folder: Path | None) -> Iterator[Path]:
    """A folder with a repository of so many snapshots and its keys; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="backupd-retention-", dir=folder) as name:
        place = Path(name)
        (place / "passphrase").write_text(PASSPHRASE)
        measure.run([BACKUPCTL, "init", str(place / "repo"), "--keys", "keys"], env=environment(place), folder=place)
        made = [sys.executable, "-m", "tests.bench.snapshots", name, str(count)]
        used = measure.run(made, env={**environment(place), "PYTHONPATH": str(ROOT)}, folder=ROOT)
        print(
            f"{count:,} snapshots made in {used.wall:.0f} s, {measure.stored(place / 'repo') / measure.MB:.0f} MB",
            flush=True,
        )
        yield place


def environment(place: Path) -> dict[str, str]:
    """Of a user whose keys, notes and caches are below a folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BACKUPCTL_", "XDG_"))}
    return kept | {"HOME": str(place), "BACKUPCTL_PASSPHRASE_FILE": str(place / "passphrase")}


def measured(place: Path, count: int) -> dict[str, measure.Usage]:
    """Every step, in order."""

    def backupctl(*words: str) -> measure.Usage:
        argv = [
            BACKUPCTL,
            *words,
            "--json",
            "--repository",
            str(place / "repo"),
            "--key",
            str(place / "keys/prune.key"),
        ]
        return measure.run(argv, env=environment(place), folder=place)

    keep = ("prune", "--keep-daily", str(max(1, count // SOURCES // 10)))
    measure.level(place / "repo")
    found = [backupctl(*keep, "--dry-run"), backupctl(*keep)]
    later(place / "repo")
    found += [backupctl(*keep), backupctl(*keep)]
    gone = json.loads(found[1].output)["forget"]
    freed = json.loads(found[2].output)["freed_bytes"]
    print(f"  {len(gone):,} forgotten, then {freed / measure.MB:.0f} MB freed", flush=True)
    if not gone or not freed:
        raise SystemExit("nothing went: these figures mean nothing")
    found += [backupctl("status"), backupctl("snapshots")]
    return dict(zip(STEPS, found, strict=True))


def later(repo: Path) -> None:
    """Make the marks so much older that the wait is over: in a folder, the time of an object is that of its file."""
    for mark in (repo / "gc").glob("*.mark"):
        then = time.time() - LATER
        os.utime(mark, (then, then))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--snapshots", default="1000,3000,10000", help="how many; divisible by 200, several with commas"
    )
    parser.add_argument("--folder", type=Path, help="where to work (default: TMPDIR)")
    options = parser.parse_args()
    measure.pin()
    measure.compile_sources()
    table = {}
    for count in map(int, options.snapshots.split(",")):
        with repository(count, options.folder) as place:
            table[count] = measured(place, count)
    print("\n| step | " + " | ".join(f"{count:,}" for count in table) + " |\n|---|" + "---|" * len(table))
    for step in STEPS:
        cells = [f"{used[step].wall:.1f} s, {used[step].peak / measure.MB:.0f} MB" for used in table.values()]
        print(f"| {step} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
