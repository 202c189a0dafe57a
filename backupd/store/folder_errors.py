"""What the operating system's errors mean for a folder store, in the store's own words.

It must never hide an error: one that is not known here is refused with the system's own text.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from backupd.store.base import StoreError, StoreMissing, StoreRefused, StoreUnavailable

_REFUSED = {
    errno.ENOSPC: (
        "the disk is full",
        "free some space (backupctl prune helps) or move to a bigger disk, then run again",
    ),
    errno.EDQUOT: ("the disk quota is used up", "ask for a bigger quota, then run again"),
    errno.EROFS: ("the file system is read-only", "mount it for writing; after a disk error check the disk first"),
    errno.EACCES: ("permission denied", "give the user that runs backupd read and write access to the folder"),
    errno.EPERM: ("operation not permitted", "give the user that runs backupd read and write access to the folder"),
    errno.EFBIG: ("the file system takes no file of this size", "choose another file system"),
    errno.EIO: ("the disk reports an error", "look into the kernel's log, check the disk and its cable"),
    errno.ELOOP: ("a symbolic link stands in an object's place", "see who put it there: backupd makes no links"),
    errno.ENOTDIR: ("something that is no folder stands in a folder's place", "see who put it there"),
    errno.EISDIR: ("a folder stands in an object's place", "see who put it there"),
}
_LATER = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY}


def store_error(error: OSError, name: str | None) -> StoreError:
    """The store's word for an error of the operating system that met the object `name`."""
    number = error.errno or 0
    if number == errno.ENOENT:
        return StoreMissing("the repository's folder vanished", object_name=name, hint="is its disk mounted?")
    text, hint = _REFUSED.get(number, (error.strerror or type(error).__name__, None))
    if number in _LATER:
        return StoreUnavailable(f"the file system cannot do it now: {text}", object_name=name, hint="try again later")
    return StoreRefused(text, object_name=name, hint=hint)


@contextmanager
def translated(name: str | None) -> Iterator[None]:
    """Turn every OSError inside into the store's own word.

    Raises:
        StoreRefused, StoreUnavailable, StoreMissing.
    """
    try:
        yield
    except OSError as error:
        raise store_error(error, name) from error
