"""Runs `backupctl` as a user does: a process of its own, an environment of its own."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backupd.jobs.init import KdfCost, init_repository
from backupd.store.folder import FolderStore
from tests.cli.forking import server

PASSPHRASE = "correct horse battery staple"
CHINOOK = Path(__file__).resolve().parents[1] / "data/chinook.sqlite"


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass
class User:
    """A user with a folder, a passphrase file, and a repository in it."""

    folder: Path
    repository: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "passphrase").write_text(PASSPHRASE + "\n")
        self.repository = self.repository or str(self.folder / "repo")

    def env(self, **extra: str) -> dict[str, str]:
        """The environment of the user's commands."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BACKUPCTL_", "XDG_"))}
        return kept | {
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "BACKUPCTL_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "BACKUPCTL_REPOSITORY": self.repository,
            **self.environment,
            **extra,
        }

    def run(self, *arguments: str, key: str | None = None, env: dict[str, str] | None = None) -> Ran:
        """Run `backupctl ARGUMENTS`; `key` is a role, for --key keys/ROLE.key, or several with commas between them."""
        roles = key.split(",") if key else []
        more = [word for role in roles for word in ("--key", str(self.folder / f"keys/{role}.key"))]
        chosen = env if env is not None else self.env()
        if any(name.startswith("PYTHON") and os.environ.get(name) != value for name, value in chosen.items()):
            return self._start(*arguments, *more, env=chosen)
        with tempfile.TemporaryDirectory(prefix="backupctl-ran-") as name:
            out, err = Path(name) / "out", Path(name) / "err"
            code = server().run([*arguments, *more], cwd=self.folder, env=chosen, out=out, err=err)
            return Ran(code, out.read_text(), err.read_text())

    def _start(self, *arguments: str, env: dict[str, str]) -> Ran:
        """Run it by an interpreter of its own: what the environment says to Python itself, only a new one hears."""
        command = [sys.executable, "-m", "backupctl", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def init(self) -> None:
        """Make the repository and the keys; in a folder, with keys that are quick to open."""
        if self.repository.startswith("s3:"):
            done = self.run("init", self.repository, "--keys", "keys")
            assert done.code == 0, done.err
            return
        init_repository(
            FolderStore(self.repository, create=True),
            self.folder / "keys",
            PASSPHRASE.encode,
            now=datetime.now(UTC),
            create_only=True,
            label="host",
            cost=KdfCost(8192, 1, 1),
        )

    def back_up(self, source: Path | str = CHINOOK, *more: str) -> dict[str, Any]:
        """Take a snapshot."""
        done = self.run("run", "--source", str(source), "--json", *more, key="write")
        assert done.code == 0, done.err + done.out
        return done.document
