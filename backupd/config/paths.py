"""Where state and caches live."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from backupd.errors import SafetyRefused


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of one repository on this machine: `state` is remembered, `cache` may be deleted at any time."""

    state: Path
    cache: Path


def places(repository: bytes, state: str | None) -> Places:
    """The folders of a repository; nothing is created, but where the user has no home: see `_homeless`.

    Args:
        repository: the repository's id.
        state: --state or BACKUPCTL_STATE, if given.

    Raises:
        SafetyRefused: there is no home, and the folder that stands in for it is not this user's own.
    """
    cache = _base("XDG_CACHE_HOME", ".cache")
    return Places(state_base(state) / repository.hex(), cache.absolute() / repository.hex())


def state_base(state: str | None) -> Path:
    """The folder that holds the state of all repositories, and the catalog; it is not created.

    Args:
        state: --state or BACKUPCTL_STATE, if given.

    Raises:
        SafetyRefused: as of `places`.
    """
    base = Path(state) if state else _base("XDG_STATE_HOME", ".local/state")
    return base.absolute()


def _base(variable: str, below_home: str) -> Path:
    if given := os.environ.get(variable):
        return Path(given) / "backupd"
    try:
        home = Path.home()
    except RuntimeError:  # HOME is not set, and the system knows no user of this id
        return _homeless() / below_home / "backupd"
    return home / below_home / "backupd"


def _homeless() -> Path:
    """A private folder among the temporary ones, so that a restore works for a user without a home."""
    import tempfile

    folder = Path(tempfile.gettempdir()) / f"backupd-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise SafetyRefused(
                f"there is no home, and {folder} is not a folder of this user's own",
                object_name=str(folder),
                hint="set HOME, or XDG_STATE_HOME and XDG_CACHE_HOME",
            ) from None
    return folder


def daemon_environment() -> dict[str, str]:
    """The environment of a daemon's jobs: its own, without what would give their commands other options than theirs.

    A read key is never without a passphrase: the file that holds it, where a host verifies content or drills, is passed on.
    """
    kept = ("BACKUPCTL_LIMIT_", "BACKUPCTL_JOBS", "BACKUPCTL_TOOLS", "BACKUPCTL_PASSPHRASE_FILE")
    return {n: v for n, v in os.environ.items() if not n.startswith(("BACKUPCTL_", "BACKUPD_")) or n.startswith(kept)}


def plain_environment() -> dict[str, str]:
    """The environment without this program's own variables, for commands that are not its own."""
    own = ("BACKUPCTL_", "CREDENTIALS_DIRECTORY")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}
