"""Walking a folder store in name order.

It must never follow a link, and never descend into a folder whose name no object can have.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from backupd.store.base import ObjectInfo, is_valid_name
from backupd.store.edges import printable

TEMPORARY = ".tmp"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """Close the descriptor at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_folder(name: str, parent: int) -> int:
    """Open the folder `name` of an open folder, never through a link; the caller closes it."""
    return os.open(name, _FOLDER, dir_fd=parent)


def objects_under(folder: int, path: str, stem: str) -> Iterator[ObjectInfo]:
    """The objects below an open folder, in the byte order of their full names.

    Args:
        folder: an open folder; it must stay open while the iterator is used.
        path: its name within the store, ending in "/", or "".
        stem: only entries of this folder that start so.
    """
    for name, is_folder in _entries(folder):
        full = path + name
        if not name.startswith(stem) or not is_valid_name(full):
            continue
        try:
            if is_folder:
                with opened(open_folder(name, folder)) as inner:
                    yield from objects_under(inner, f"{full}/", "")
                continue
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue  # deleted since the folder was read
        if stat.S_ISREG(status.st_mode):
            yield ObjectInfo(full, status.st_size, datetime.fromtimestamp(status.st_mtime_ns / 1e9, UTC))


def strangers_under(folder: int, path: str = "") -> Iterator[str]:
    """What is below an open folder and cannot be an object: odd names, links, pipes. A strange folder counts once."""
    for name, is_folder in _entries(folder):
        if not path and name == TEMPORARY:
            continue
        full = path + name
        try:
            if is_folder and is_valid_name(full):
                with opened(open_folder(name, folder)) as inner:
                    yield from strangers_under(inner, f"{full}/")
                continue
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue  # deleted since the folder was read
        if not is_valid_name(full) or not stat.S_ISREG(status.st_mode):
            yield printable(f"{full}/" if is_folder else full)


def _entries(folder: int) -> list[tuple[str, bool]]:
    """Names and whether they are folders; a folder sorts as "name/", so that the walk follows the full names' order."""
    with os.scandir(folder) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    return sorted(entries, key=lambda entry: f"{entry[0]}/" if entry[1] else entry[0])
