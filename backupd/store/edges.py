"""The edges that every store checks in the same way: ranges inside an object, and strange names made printable.

It must never touch a store by itself.
"""

from backupd.errors import UsageError
from backupd.store.base import ShortRead


def check_range(start: int, length: int | None) -> None:
    """Refuse a range that means nothing, whatever the object's size.

    Raises:
        UsageError: `start` or `length` is negative.
    """
    if start < 0 or (length is not None and length < 0):
        raise UsageError(f"not a byte range: {length} from {start}")


def range_end(name: str, size: int, start: int, length: int | None) -> int:
    """The end (exclusive, in bytes) of `length` bytes from `start` in an object of `size` bytes.

    Raises:
        UsageError: the range means nothing.
        ShortRead: it reaches past the object's end.
    """
    check_range(start, length)
    end = size if length is None else start + length
    if start > size or end > size:
        raise ShortRead(f"the object has {size} bytes, asked for bytes {start} to {end}", object_name=name)
    return end


def printable(name: str) -> str:
    """A name from outside, shortened to 100 characters of plain ASCII, so that a report can show it safely."""
    return ascii(name)[1:-1][:100]
