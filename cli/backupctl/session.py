"""What every verb does first: find the repository, read the keys, ask for the passphrase, open."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backupctl.options import Settings
from backupctl.output import note
from backupd.config.urls import RepositoryUrl, parse_repository
from backupd.errors import SafetyRefused, UsageError

if TYPE_CHECKING:
    from backupd.crypto.keyfile import LockedKey
    from backupd.crypto.keyring import Right
    from backupd.store.base import ObjectStore
    from backupd.wiring import Opened

_MAX_PASSPHRASE = 64 * 1024


def repository_url(settings: Settings, given: str | None = None) -> RepositoryUrl:
    """The repository's URL.

    Raises:
        UsageError: none was given.
    """
    text = given or settings.repository
    if not text:
        raise UsageError("no repository was given", hint="name it with --repository URL or BACKUPCTL_REPOSITORY")
    return parse_repository(text)


def refuse_inside(url: RepositoryUrl, folder: Path) -> None:
    """Refuse a folder for keys that lies in the repository.

    Raises:
        SafetyRefused: it does.
    """
    if url.path is None:
        return
    place, keys = url.path.resolve(), folder.resolve()
    if place == keys or place in keys.parents:
        raise SafetyRefused(
            f"the keys' folder {folder} lies in the repository: who gets the one gets the other",
            object_name=str(folder),
            hint="name a folder somewhere else with --keys",
        )


class Passphrase:
    """Asks once: the passphrase file, else the terminal."""

    def __init__(self, settings: Settings) -> None:
        self._file, self._what = settings.passphrase_file, "Passphrase"
        self._value: bytes | None = None
        self.seconds = 0.0

    @classmethod
    def of(cls, file: str | None, what: str) -> "Passphrase":
        """Another passphrase than the one that opens keys: from this file, or asked for by this name."""
        asked = cls(replace(Settings(), passphrase_file=file))
        asked._what = what
        return asked

    def get(self, *, confirm: bool = False) -> bytes:
        """The passphrase; one trailing newline is ignored.

        Raises:
            UsageError: there is neither a file nor a terminal, or it is empty.
        """
        if self._value is None:
            began = time.monotonic()
            self._value = self._from_file(self._file) if self._file else self._ask(confirm)
            self.seconds = time.monotonic() - began
        return self._value

    def for_key(self, _: "LockedKey") -> bytes:
        """The passphrase of a key."""
        return self.get()

    @staticmethod
    def _from_file(name: str) -> bytes:
        try:
            with Path(name).open("rb") as file:
                data = file.read(_MAX_PASSPHRASE)
        except OSError as error:
            raise UsageError(f"the passphrase file {name} cannot be read: {error.strerror}", object_name=name) from None
        data = data.removesuffix(b"\n").removesuffix(b"\r")
        if not data:
            raise UsageError(f"the passphrase file {name} is empty", object_name=name)
        return data

    def _ask(self, confirm: bool) -> bytes:
        option = f"--{self._what.lower().replace(' ', '-')}-file"
        if not sys.stdin.isatty():
            raise UsageError(
                f"a {self._what.lower()} is needed, and there is neither a file nor a terminal",
                hint=f"name a file with {option} or BACKUPCTL_{option[2:].replace('-', '_').upper()}",
            )
        import getpass

        text = getpass.getpass(f"{self._what}: ")
        if not text:
            raise UsageError("the passphrase is empty")
        if confirm and getpass.getpass("Again: ") != text:
            raise UsageError("the two passphrases differ")
        return text.encode()


@dataclass(slots=True)
class Session:
    """An opened repository, and how long unlocking took (without the time for typing)."""

    opened: "Opened"
    store: "ObjectStore"
    unlock_seconds: float
    remote: bool


@contextmanager
def opened(
    settings: Settings, right: "Right", *, store: "ObjectStore | None" = None, fresh: bool = False
) -> Iterator[Session]:
    """Open the repository with a key that holds `right`; closes the store at the end.

    With `fresh`, everything is fetched from the storage, also what this machine has copies of.
    """
    from backupd.crypto.keyring import Right
    from backupd.wiring import open_repository, open_store, read_keys

    url = repository_url(settings)
    keys = read_keys(settings.key_paths)
    store = store or open_store(url, **settings.limits)
    try:
        passphrase = Passphrase(settings)
        began = time.monotonic()
        # a run must remember; whoever reads goes on without memory, and says so
        warn = None if right is Right.WRITE else note
        near = url.path is None and not fresh
        found = open_repository(store, keys, right, passphrase.for_key, settings.state, warn, near=near)
        yield Session(found, store, time.monotonic() - began - passphrase.seconds, url.path is None)
    finally:
        store.close()
