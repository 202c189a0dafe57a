"""Where state and caches live."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of one repository on this machine: `state` is remembered, `cache` may be deleted at any time."""

    state: Path
    cache: Path


def places(repository: bytes, state: str | None) -> Places:
    """The folders of a repository; nothing is created.

    Args:
        repository: the repository's id.
        state: --state or BACKUPCTL_STATE, if given.
    """
    home = Path.home()
    base = Path(state) if state else Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state") / "backupd"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "backupd"
    return Places(base.absolute() / repository.hex(), cache.absolute() / repository.hex())
