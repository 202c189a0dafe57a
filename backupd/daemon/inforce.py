"""The policies in force: a whole valid set, kept as it was read, whatever happens to the files meanwhile.

Jobs read the kept copies, so that a file that somebody is editing at half past two cannot spoil the night.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from backupd.config.policies import PolicyFile, load_valid, policy_files
from backupd.errors import Failed, UsageError
from backupd.policy.model import Policy

_KEPT = 3
"""Sets that are kept: jobs of the one before may still be at work."""


@dataclass(frozen=True, slots=True)
class InForce:
    """A set of policies.

    Attributes:
        files: each policy with the copy that it is read from.
        folder: where the copies are.
        digest: names the set.
    """

    files: tuple[PolicyFile, ...]
    folder: Path
    digest: str

    def __iter__(self) -> Iterator[Policy]:
        return (loaded.policy for loaded in self.files)

    def named(self, name: str) -> Policy | None:
        """The policy of that name."""
        return next((policy for policy in self if policy.policy == name), None)


def take(configured: Path, kept: Path) -> InForce:
    """Read a folder of policies (or one file), and keep a copy of it, if all of it is valid.

    Args:
        configured: the administrator's folder or file.
        kept: this daemon's folder for copies.

    Raises:
        UsageError: something is not valid: nothing of the set counts.
        Failed: no copy can be kept.
    """
    texts: dict[str, bytes] = {}
    for path in policy_files([configured]):
        try:
            texts[path.name] = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", object_name=str(path)) from None
    digest = _digest(texts)
    folder = kept / digest
    try:
        if _read(folder) != texts:  # a power cut may have left a copy without its content
            beside = folder.with_name(folder.name + ".new")
            _write(texts, beside)
            _load(beside, configured)  # what is not valid never gets the name of a set
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
        files = _load(folder, configured)
        os.utime(folder)
        _tidy(kept, folder)
    except OSError as error:
        raise Failed(
            f"the policies in force cannot be kept in {kept}: {error.strerror}", object_name=str(kept)
        ) from None
    return InForce(tuple(files), folder, digest)


def _load(folder: Path, configured: Path) -> list[PolicyFile]:
    """Judge what was read, in the words of the files that it was read from."""
    try:
        return load_valid(policy_files([folder]))
    except UsageError as error:
        where = configured if configured.is_dir() else configured.parent
        raise UsageError(
            error.message.replace(str(folder), str(where)),
            object_name=error.object_name and error.object_name.replace(str(folder), str(where)),
            hint=error.hint,
        ) from None


def _digest(texts: dict[str, bytes]) -> str:
    whole = sha256()
    for name in sorted(texts):
        for part in (os.fsencode(name), texts[name]):
            whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()[:32]


def _read(folder: Path) -> dict[str, bytes]:
    """What a copy holds; nothing if it is not as we leave them."""
    found = list(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path.read_bytes() for path in found} if all(path.is_file() for path in found) else {}


def _write(texts: dict[str, bytes], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    for name, data in texts.items():
        (folder / name).write_bytes(data)


def _tidy(kept: Path, current: Path) -> None:
    """Remove the oldest sets."""
    sets = sorted((path for path in kept.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for old in sets[:-_KEPT]:
        if old != current:
            shutil.rmtree(old, ignore_errors=True)
