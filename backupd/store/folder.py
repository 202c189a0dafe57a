"""A store in a folder of a local or network file system.

An object is a plain file whose path is its name. It must never be visible half-written, never follow a symbolic link
below the root, and never replace an object that was written create-only.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from backupd.store.base import (
    MAX_OBJECT_BYTES,
    ObjectInfo,
    ObjectMissing,
    ShortRead,
    StoreMissing,
    check_name,
    is_valid_name,
)
from backupd.store.edges import check_range, range_end
from backupd.store.files import Files
from backupd.store.folder_errors import translated
from backupd.store.folder_publish import Publisher, not_plain
from backupd.store.folder_walk import TEMPORARY, objects_under, open_folder, opened, strangers_under


class FolderStore:
    """Objects as files below `root`; several processes and threads may use the same root.

    A write goes to a temporary file in `.tmp`, is made durable, is given its name in one step, and then the name is
    made durable (see `Publisher`). What has an object's name but is no plain file - a link, a pipe, a folder - is never
    taken for an object: `get` and `put` refuse it with StoreRefused, listings leave it out.

    Args:
        root: the folder.
        create: make the folder if it is missing (its parent must exist).
        files: the system calls that change the disk.

    Raises:
        StoreMissing, StoreRefused: with `create`, when the folder cannot be made.
    """

    def __init__(self, root: str | Path, *, create: bool = False, files: Files | None = None) -> None:
        self._root = Path(root).absolute()
        self._files = files or Files()
        self._publisher = Publisher(self._files)
        self._durable: set[tuple[str, ...]] = set()
        if create:
            self._make_root()

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return self._root.as_uri()

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        """Write a whole object; see `ObjectStore.put`. Answers are not lost here: what is there is ObjectExists."""
        parents = check_name(name).split("/")[:-1]
        with (
            translated(name),
            opened(self._open_root()) as root,
            opened(self._descend(root, [TEMPORARY], make=True)) as drafts,
            opened(self._descend(root, parents, make=True)) as folder,
        ):
            self._publisher.refuse_existing(name, folder, create_only=create_only)
            octets = memoryview(data).cast("B")
            return self._publisher.publish(name, octets, drafts, folder, create_only=create_only)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Read an object or a range of it; see `ObjectStore.get`."""
        check_range(start, length)
        with translated(name), opened(self.open_file(name)) as file:
            return _read(name, file, start, length)

    def open_file(self, name: str) -> int:
        """A descriptor of an object; see `LocalObjects.open_file`."""
        *parents, last = check_name(name).split("/")
        # O_NONBLOCK: opening a pipe that somebody left here must not wait for its other end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with translated(name), opened(self._open_root()) as root:
            try:
                with opened(self._descend(root, parents)) as folder:
                    file = os.open(last, flags, dir_fd=folder)
            except FileNotFoundError:
                raise ObjectMissing("there is no object of this name", object_name=name) from None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise not_plain(name)
        return file

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose name starts with `prefix`, in name order; only the folders that this needs are read."""
        *parents, stem = prefix.split("/")
        with translated(prefix), opened(self._open_root()) as root:
            if parents and not is_valid_name("/".join(parents)):
                return
            try:
                start = self._descend(root, parents)
            except FileNotFoundError:
                return
            with opened(start) as folder:
                yield from objects_under(folder, "".join(f"{part}/" for part in parents), stem)

    def strangers(self) -> Iterator[str]:
        """Names outside the grammar, and things that are no plain files, below the root."""
        with translated(None), opened(self._open_root()) as root:
            yield from strangers_under(root)

    def delete(self, name: str) -> None:
        """Remove an object durably; one that is not there is fine."""
        *parents, last = check_name(name).split("/")
        with translated(name), opened(self._open_root()) as root:
            try:
                with opened(self._descend(root, parents)) as folder:
                    self._files.unlink(last, folder)
                    self._files.fsync(folder)
            except FileNotFoundError:
                return

    def close(self) -> None:
        """Nothing to give back: no descriptor outlives a call."""

    def _make_root(self) -> None:
        with (
            translated(None),
            opened(os.open(self._root.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as parent,
        ):
            try:
                self._files.mkdir(self._root.name, parent)
            except FileExistsError:
                return
            self._files.fsync(parent)

    def _open_root(self) -> int:
        try:
            return os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreMissing(f"there is no folder {self._root}", hint="is its disk mounted?") from None

    def _descend(self, root: int, parents: Sequence[str], *, make: bool = False) -> int:
        """Open the folder that `parents` lead to, making what is missing if asked; the caller closes it."""
        here = os.dup(root)
        for depth, part in enumerate(parents, start=1):
            with opened(here) as above:
                here = self._make_and_open(part, above, tuple(parents[:depth])) if make else open_folder(part, above)
        return here

    def _make_and_open(self, part: str, above: int, path: tuple[str, ...]) -> int:
        """Open the folder `part`, made if need be; its own name is durable when this process has used it once."""
        try:
            made = open_folder(part, above)
        except FileNotFoundError:
            with suppress(FileExistsError):  # another writer was quicker
                self._files.mkdir(part, above)
            made = open_folder(part, above)
        if path not in self._durable:
            try:
                self._files.fsync(above)
            except BaseException:
                os.close(made)
                raise
            self._durable.add(path)
        return made


def _read(name: str, file: int, start: int, length: int | None) -> bytes:
    end = range_end(name, os.fstat(file).st_size, start, length)
    if end - start > MAX_OBJECT_BYTES:  # before anything is allocated: a sparse file may claim any size
        raise ShortRead(f"{end - start} bytes, and no object has more than {MAX_OBJECT_BYTES}", object_name=name)
    parts = []
    while start < end:
        part = os.pread(file, end - start, start)
        if not part:
            raise ShortRead(f"the file ends at byte {start}, before byte {end}", object_name=name)
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
