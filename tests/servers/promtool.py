"""Prometheus's own checker of rules, from Debian's package, without installing anything."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.servers import packages


@dataclass(frozen=True, slots=True)
class Promtool:
    """The program."""

    path: Path

    def run(self, *words: str | Path) -> str:
        """What it says to both outputs, with its exit status before it."""
        done = subprocess.run([self.path, *words], capture_output=True, text=True, check=False, timeout=300)
        return f"{done.returncode}\n{done.stdout}{done.stderr}"


def unpacked() -> Promtool:
    """The unpacked program; downloads its package the first time.

    Raises:
        packages.Unavailable: it cannot be had here.
    """
    tree = packages.unpacked("prometheus", "prometheus", lambda _: ["prometheus"], _only_promtool)
    return Promtool(tree / "usr/bin/promtool")


def _only_promtool(tree: Path) -> None:
    """Take away the server and what belongs to it: ten times the checker's size."""
    for part in ("etc", "lib", "var", "usr/share", "usr/bin/prometheus"):
        place = tree / part
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
