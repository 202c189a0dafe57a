"""Runs `backupctl` as a user does: a process of its own, an environment of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backupctl.__main__ import _run
from backupd.jobs.init import KdfCost, init_repository
from backupd.store.folder import FolderStore

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
        """Run `backupctl ARGUMENTS`; `key` is a role, for --key keys/ROLE.key."""
        more = ["--key", str(self.folder / f"keys/{key}.key")] if key else []
        done = subprocess.run(
            [sys.executable, "-m", "backupctl", *arguments, *more],
            cwd=self.folder,
            env=env if env is not None else self.env(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def init(self) -> None:
        """Make the repository and the keys."""
        done = self.run("init", self.repository, "--keys", "keys")
        assert done.code == 0, done.err

    def back_up(self, source: Path | str = CHINOOK, *more: str) -> dict[str, Any]:
        """Take a snapshot."""
        done = self.run("run", "--source", str(source), "--json", *more, key="write")
        assert done.code == 0, done.err + done.out
        return done.document


@dataclass
class Inside(User):
    """The same in this process, with keys that are quick to open: for many commands that need no process of their own."""

    def run(self, *arguments: str, key: str | None = None, env: dict[str, str] | None = None) -> Ran:
        """Run `backupctl ARGUMENTS`; `key` is a role, or several with a comma between them."""
        more = [
            word for role in (key or "").split(",") if role for word in ("--key", str(self.folder / f"keys/{role}.key"))
        ]
        out, err, kept = io.StringIO(), io.StringIO(), dict(os.environ)
        os.environ.clear()
        os.environ.update(env if env is not None else self.env())
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = _run([*arguments, *more])
        finally:
            os.environ.clear()
            os.environ.update(kept)
        return Ran(code, out.getvalue(), err.getvalue())

    def init(self) -> None:
        """Make the repository and the keys, cheaply."""
        cost, now = KdfCost(8192, 1, 1), datetime.now(UTC)
        init_repository(
            FolderStore(self.repository, create=True),
            self.folder / "keys",
            PASSPHRASE.encode,
            now=now,
            create_only=True,
            label="host",
            cost=cost,
        )
