"""How a folder store gives bytes a name: whole, durable, and at most once.

The order is: write a temporary file, make it durable, give it its name, make the name durable. It must never let a name
point to bytes that are not on the disk yet, and never take a name away from what has it.
"""

import errno
import hashlib
import os
import stat
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from backupd.store.base import ObjectExists, StoreRefused, StoreUnavailable
from backupd.store.files import Files
from backupd.store.folder_write import ObjectWriter

_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
STALE_DRAFT_SECONDS = 24 * 3600
STALE_CLAIM_SECONDS = 600
_CLAIM_TRIES = 200
_CLAIM_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Draft:
    """A temporary file, complete and durable, and where it is to go."""

    temporary: str
    status: os.stat_result
    drafts_folder: int
    name: str
    last: str
    folder: int


class Publisher:
    """Publishes objects through the folder of drafts.

    With links, `link(2)` is the one step: it makes the name or fails because the name is there, for any number of hosts
    and processes, and a reader never sees less than the whole object.

    Where links are refused (FAT, some FUSE and network mounts) a *claim* stands in for it: a file named by the hash of
    the object's name, made among the drafts by an exclusive create, and held while its owner sees that the name is free
    and renames the draft to it. Writing straight to the name by an exclusive create would need no claim, but readers
    and a crash would then see torn objects; a rename never shows one. A claim left by a crash blocks its one name until
    it is ten minutes old by the file system's clock; then the next writer moves it aside. An owner checks that the
    claim is still its own right before the rename, so two writers could only meet if one of them stood still between
    these two calls for ten minutes.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._writer = ObjectWriter(files)
        self._swept = threading.Event()

    def publish(self, name: str, data: memoryview, drafts_folder: int, folder: int, *, create_only: bool) -> datetime:
        """Write `data` under the last part of `name` in the open folder `folder`.

        Returns:
            The file's modification time, by the file system's clock.

        Raises:
            ObjectExists, StoreRefused, StoreUnavailable, OSError.
        """
        last = name.rpartition("/")[2]
        temporary = f"{os.urandom(16).hex()}.draft"
        try:
            status = self._write(temporary, data, drafts_folder)
            self._sweep_once(drafts_folder, status)
            draft = _Draft(temporary, status, drafts_folder, name, last, folder)
            if create_only:
                self._create(draft)
            else:
                self._files.rename(temporary, drafts_folder, last, folder)
        finally:
            self._discard(temporary, drafts_folder)
        self._files.fsync(folder)
        return datetime.fromtimestamp(status.st_mtime_ns / 1e9, UTC)

    def refuse_existing(self, name: str, folder: int, *, create_only: bool) -> None:
        """Refuse a name that is taken, or that something else than a plain file has.

        Raises:
            ObjectExists: with `create_only`; the name is durable then, even if its writer had no time to see to it.
            StoreRefused: no plain file has the name.
        """
        status = _look(name.rpartition("/")[2], folder)
        if status is None:
            return
        if not stat.S_ISREG(status.st_mode):
            raise not_plain(name)
        if create_only:
            self._files.fsync(folder)
            raise ObjectExists("there is an object of this name already", object_name=name)

    def _write(self, temporary: str, data: memoryview, drafts_folder: int) -> os.stat_result:
        fd = self._files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, drafts_folder)
        try:
            os.fchmod(fd, 0o600)
            self._writer.write(fd, data)
            self._files.fsync(fd)
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _create(self, draft: _Draft) -> None:
        try:
            self._files.link(draft.temporary, draft.drafts_folder, draft.last, draft.folder)
        except FileExistsError:
            # A network file system may repeat a link whose answer was lost, and then finds its own work.
            found = _look(draft.last, draft.folder)
            if found is None or (found.st_dev, found.st_ino) != (draft.status.st_dev, draft.status.st_ino):
                self.refuse_existing(draft.name, draft.folder, create_only=True)
                raise StoreUnavailable("the object was removed meanwhile", object_name=draft.name) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._create_by_claim(draft)

    def _create_by_claim(self, draft: _Draft) -> None:
        claim = f"{hashlib.sha256(draft.name.encode()).hexdigest()}.claim"
        mine = self._take(claim, draft)
        try:
            self.refuse_existing(draft.name, draft.folder, create_only=True)
            if _identity(_look(claim, draft.drafts_folder)) != mine:
                raise StoreUnavailable("the claim on this name was lost", object_name=draft.name, hint="try again")
            self._files.rename(draft.temporary, draft.drafts_folder, draft.last, draft.folder)
        finally:
            if _identity(_look(claim, draft.drafts_folder)) == mine:
                self._discard(claim, draft.drafts_folder)

    def _take(self, claim: str, draft: _Draft) -> tuple[int, int]:
        for _ in range(_CLAIM_TRIES):
            try:
                fd = self._files.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, draft.drafts_folder)
            except FileExistsError:
                self.refuse_existing(draft.name, draft.folder, create_only=True)
                if not self._break_stale(claim, draft):
                    time.sleep(_CLAIM_PAUSE_SECONDS)
                continue
            try:
                return _identity(os.fstat(fd))
            finally:
                os.close(fd)
        raise StoreUnavailable(
            "another writer holds this name", object_name=draft.name, hint="try again in ten minutes"
        )

    def _break_stale(self, claim: str, draft: _Draft) -> bool:
        status = _look(claim, draft.drafts_folder)
        if status is None:
            return True
        if draft.status.st_mtime - status.st_mtime < STALE_CLAIM_SECONDS:
            return False
        aside = f"{os.urandom(16).hex()}.broken"
        try:
            self._files.rename(claim, draft.drafts_folder, aside, draft.drafts_folder)
        except FileNotFoundError:
            return True
        self._discard(aside, draft.drafts_folder)
        return True

    def _sweep_once(self, drafts_folder: int, newest: os.stat_result) -> None:
        """Remove what crashed writers left, judged by the file system's own clock: that of the draft just written."""
        if self._swept.is_set():
            return
        self._swept.set()
        for name in os.listdir(drafts_folder):
            status = _look(name, drafts_folder)
            if (
                status is not None
                and stat.S_ISREG(status.st_mode)
                and newest.st_mtime - status.st_mtime > STALE_DRAFT_SECONDS
            ):
                self._discard(name, drafts_folder)

    def _discard(self, name: str, drafts_folder: int) -> None:
        try:
            self._files.unlink(name, drafts_folder)
        except FileNotFoundError:
            return  # renamed away, or removed by another writer's sweep
        except OSError:
            return  # the object's own fate is what counts and is told; a later sweep takes the draft


def not_plain(name: str) -> StoreRefused:
    """The error for a name that a link, a pipe or a folder has."""
    return StoreRefused("what has this name is no plain file", object_name=name, hint="see who put it there")


def _look(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result | None) -> tuple[int, int]:
    return (status.st_ino, status.st_mtime_ns) if status else (0, 0)
