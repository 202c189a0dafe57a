"""What each tool is told to do: a fresh repository, a snapshot, a restore. Everything else is equal for all."""

import json
import os
import shutil
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from tests.bench import measure
from tests.bench.measure import Usage

_SECRET = "a passphrase of the benchmark, not of anybody"


def clean_environment(folder: Path) -> dict[str, str]:
    """A small environment: nothing of the user's may change what is measured."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return {**kept, **home, "XDG_STATE_HOME": str(folder / "state"), "TMPDIR": str(folder)}


class Tool(ABC):
    """A tool with a work folder of its own, emptied by `fresh`."""

    name: str
    title: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.extra: dict[str, float] = {}

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands."""
        return clean_environment(self.folder)

    def run(self, *argv: str, folder: Path | None = None) -> Usage:
        """Run a command of this tool, measured."""
        return measure.run(argv, env=self.env, folder=folder or self.folder)

    @property
    def repository(self) -> Path:
        """Where it stores."""
        return self.folder / "repository"

    @property
    def target(self) -> Path:
        """The folder that it restores to."""
        return self.folder / "restored"

    def fresh(self) -> None:
        """Forget everything and make an empty repository; not measured."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.init()

    def empty_target(self) -> None:
        """Make an empty folder to restore to; not measured."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()

    @abstractmethod
    def init(self) -> None:
        """Make the repository."""

    @abstractmethod
    def snapshot(self, source: Path) -> Usage:
        """Back the file up."""

    @abstractmethod
    def restore(self, source: Path) -> tuple[Usage, Path]:
        """Bring the newest state back; returns the restored file as well."""

    def notes(self, source: Path) -> dict[str, float]:
        """Further numbers of a restore that only this tool can tell."""
        return {}


class Backupctl(Tool):
    """This project, as installed in the environment that runs the benchmark."""

    name = "backupctl"
    title = "backupctl"

    @property
    def env(self) -> dict[str, str]:
        """With the places of the keys."""
        mine = {"REPOSITORY": self.repository, "KEYS": self.folder / "keys", "PASSPHRASE_FILE": self.folder / "secret"}
        return {**super().env, **{f"BACKUPCTL_{name}": str(path) for name, path in mine.items()}}

    @property
    def command(self) -> str:
        """Its program."""
        return str(Path(sys.executable).with_name("backupctl"))

    def key(self, role: str) -> str:
        """The file of a key."""
        return str(self.folder / "keys" / f"{role}.key")

    def init(self) -> None:
        """A repository and its six keys."""
        (self.folder / "secret").write_text(_SECRET)
        self.run(self.command, "init", str(self.repository), "--quiet")

    def snapshot(self, source: Path) -> Usage:
        """With the write key, which has no passphrase."""
        key = self.key("write")
        return self.run(self.command, "run", "--json", "--source", str(source), "--key", key)

    def _restore(self, check: str) -> tuple[str, ...]:
        self.empty_target()
        key = self.key("read")
        return ("restore", "latest", str(self.target / "out.db"), "--json", "--key", key, "--check", check)

    def restore(self, source: Path) -> tuple[Usage, Path]:
        """Without SQLite's own check, which no peer makes."""
        used = self.run(self.command, *self._restore("none"))
        told = json.loads(used.output)
        self.extra = {"seconds": told["seconds"], "unlock_seconds": told["unlock_seconds"]}
        return used, self.target / "out.db"

    def notes(self, source: Path) -> dict[str, float]:
        """One more restore with the check, in a process that tells its own peak from its children's."""
        report = self.folder / "peaks.json"
        used = self.run(sys.executable, measure.__file__, str(report), *self._restore("quick"))
        peaks = json.loads(report.read_text())
        told = json.loads(used.output)
        extra = {"check_seconds": told["check_seconds"], "own": peaks["own"], "children": peaks["children"]}
        return {**self.extra, **extra}

    def help(self) -> Usage:
        """How long it takes to say what it can do."""
        return self.run(self.command, "--help")


class Restic(Tool):
    """restic with its defaults."""

    name = "restic"

    def __init__(self, folder: Path, command: str, version: str) -> None:
        super().__init__(folder)
        self.title = f"restic {version}"
        self.command = command

    @property
    def env(self) -> dict[str, str]:
        """With the place and the password."""
        mine = {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": _SECRET}
        return {**super().env, **mine, "RESTIC_COMPRESSION": "auto"}

    def init(self) -> None:
        """A repository of the newest version."""
        self.run(self.command, "init", "--quiet")

    def snapshot(self, source: Path) -> Usage:
        """Its own check for changes sees another modification time, so the second one reads the file again."""
        return self.run(self.command, "backup", "--quiet", str(source))

    def restore(self, source: Path) -> tuple[Usage, Path]:
        """To an empty folder."""
        self.empty_target()
        used = self.run(self.command, "restore", "latest", "--quiet", "--target", str(self.target))
        return used, self.target / source.relative_to("/")


class Borg(Tool):
    """borg with its defaults, but for zstd."""

    name = "borg"

    def __init__(self, folder: Path, command: str, version: str) -> None:
        super().__init__(folder)
        self.title = f"borg {version}"
        self.command = command
        self.count = 0

    @property
    def env(self) -> dict[str, str]:
        """With the place and the passphrase."""
        mine = {"BORG_REPO": str(self.repository), "BORG_PASSPHRASE": _SECRET, "BORG_BASE_DIR": str(self.folder)}
        return {**super().env, **mine}

    def init(self) -> None:
        """AES-256-CTR with BLAKE2b, the faster of its two ways to authenticate."""
        self.run(self.command, "init", "--encryption", "repokey-blake2")

    def snapshot(self, source: Path) -> Usage:
        """Its files cache sees another modification time, so the second one reads the file again."""
        self.count += 1
        return self.run(self.command, "create", "--compression", "zstd,3", f"::a{self.count}", str(source))

    def restore(self, source: Path) -> tuple[Usage, Path]:
        """To an empty folder."""
        self.empty_target()
        used = self.run(self.command, "extract", f"::a{self.count}", folder=self.target)
        return used, self.target / source.relative_to("/")


class Zstd(Tool):
    """No backup at all: what reading, compressing and writing cost."""

    name = "zstd"

    def __init__(self, folder: Path, command: str, version: str) -> None:
        super().__init__(folder)
        self.title = f"zstd -3 -T2 {version}"
        self.command = command

    @property
    def _file(self) -> Path:
        return self.repository / "file.zst"

    def init(self) -> None:
        """A folder."""
        self.repository.mkdir()

    def snapshot(self, source: Path) -> Usage:
        """The whole file, every time."""
        return self.run(self.command, "-q", "-3", "-T2", "-f", str(source), "-o", str(self._file))

    def restore(self, source: Path) -> tuple[Usage, Path]:
        """Decompress; zstd does this in one thread."""
        self.empty_target()
        out = self.target / "out.db"
        return self.run(self.command, "-q", "-d", str(self._file), "-o", str(out)), out
