"""What an incident responder waits for, on a database of ten million rows. See README.md.

.venv/bin/python tests/bench/worstday.py --rows 10000000 --nights 30
.venv/bin/python tests/bench/worstday.py --engine sqlite --keep /var/tmp/worst-day     asks the same database again
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import measure
from tests.bench.measure import MB
from tests.bench.tools import clean_environment
from tests.bench.worstplaces import CUSTOMER, DATABASE, Place, opened, sizes

SCATTERED = 1000
_Line = tuple[str, float, float, int, str]


@dataclass(slots=True)
class Day:
    """A repository beside a database, and what was measured."""

    folder: Path
    place: Place
    lines: list[_Line] = field(default_factory=list)

    def backupctl(self, *words: str, key: str = "read") -> tuple[measure.Usage, dict[str, Any]]:
        """Run a verb; what it cost, and its document."""
        env = clean_environment(self.folder) | {
            "BACKUPCTL_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "BACKUPCTL_REPOSITORY": str(self.folder / "repository"),
        }
        program = Path(sys.executable).with_name("backupctl")
        more = ["--key", str(self.folder / f"keys/{key}.key")] if key else []
        tools = self.place.words if "--source" in words else []
        used = measure.run([str(program), *words, *more, *tools, "--json"], env=env, folder=self.folder)
        return used, json.loads(used.output)

    def note(self, what: str, used: measure.Usage, more: str) -> None:
        """Keep a line of the table."""
        self.lines.append((what, used.wall, used.cpu, used.peak, more))
        print(f"{what}: {used.wall:.2f} s, CPU {used.cpu:.2f} s, peak {used.peak / MB:.0f} MB; {more}", flush=True)

    # ---- what is kept between two runs

    @property
    def _notes(self) -> Path:
        return self.folder / "worstday.json"

    def kept(self) -> dict[str, Any]:
        """What an earlier run left behind; empty if there was none."""
        return dict(json.loads(self._notes.read_text())) if self._notes.exists() else {}

    def keep(self, rows: int, made: list[str]) -> None:
        """Note the snapshots and what they cost, for the next run."""
        self._notes.write_text(json.dumps({"rows": rows, "snapshots": made, "lines": self.lines}))


def nights(day: Day, rows: int, made: list[str], wanted: int) -> None:
    """Make the snapshots that are missing, the first two with a thousand changed rows between them."""
    for night in range(len(made), wanted):
        if night:
            day.place.change(sizes(rows), night, SCATTERED if night == 1 else 100)
        used, told = day.backupctl("run", "--source", day.place.url, "--name", DATABASE, key="write")
        made.append(told["snapshot"])
        if night < 2:
            stored = f"{told['stored_bytes'] / MB:.1f} MB stored of {told['read_bytes'] / MB:.0f} MB"
            day.note(f"snapshot {night + 1}", used, stored)
        day.keep(rows, made)


def ask(day: Day, made: list[str], counts: Mapping[str, int]) -> None:
    """Everything that a responder asks."""
    packs = (day.folder / "repository/packs").rglob("*")
    stored = sum(path.stat().st_size for path in packs if path.is_file())
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


def bring_back(day: Day, newest: str) -> None:
    """Delete the customer, plan, and bring everything back."""
    day.place.delete()
    words = ["recover", newest, f"customers:{CUSTOMER}", "--into", day.place.url]
    used, told = day.backupctl(*words)
    day.note("plan to recover a customer", used, f"{told['counts']}; {told['fetched_bytes'] / MB:.1f} MB fetched")
    used, told = day.backupctl(*words, "--apply")
    day.note("recover it", used, f"applied: {told['applied']}")
    used, told = day.backupctl("diff", newest, "live", "--source", day.place.url)
    left = sum(t["added"] + t["removed"] + t["changed"] for t in told["tables"])
    day.note("diff with the live database", used, f"{left} records differ")


@contextmanager
def prepared(engine: str, rows: int, folder: Path) -> Iterator[tuple[Day, list[str]]]:
    """The database of a folder and its repository, as they were left; both are made if the folder is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    with opened(engine, folder) as place:
        day = Day(folder, place)
        kept = day.kept()
        if not kept:
            (folder / "passphrase").write_text("for the benchmark only\n")
            place.fill(sizes(rows))
            day.backupctl("init", str(folder / "repository"), "--keys", str(folder / "keys"), key="")
        elif kept["rows"] != rows:
            raise SystemExit(f"{folder} was made with --rows {kept['rows']}")
        day.lines += map(tuple, kept.get("lines", ()))
        yield day, kept.get("snapshots", [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="leave everything there, and begin with what is there"
    )
    parser.add_argument("--only", choices=("ask", "recover"), help="leave the other half out")
    options = parser.parse_args()
    measure.compile_sources()
    with tempfile.TemporaryDirectory(prefix="backupd-worst-day-") as name:
        folder = (options.keep or Path(name)).absolute()
        with prepared(options.engine, options.rows, folder) as (day, made):
            nights(day, options.rows, made, max(2, options.nights))
            if options.only != "recover":
                ask(day, made, sizes(options.rows))
            if options.only != "ask":
                bring_back(day, made[-1])
    print(f"\n{options.engine}, {options.rows:,} rows, {len(made)} snapshots, {os.cpu_count()} cores")
    for what, wall, cpu, peak, more in day.lines:
        print(f"| {what} | {wall:.2f} s | {cpu:.2f} s | {peak / MB:.0f} MB | {more} |")


if __name__ == "__main__":
    main()
