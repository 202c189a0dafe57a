"""What the C library does with memory that is given back; nothing where it has no such setting."""

import contextlib
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)


def keep_memory() -> None:
    """Keep it: the buffers of one large file come and go by the hundred, and each costs page faults."""
    _set(_MMAP_THRESHOLD, 32 << 20)
    _set(_TRIM_THRESHOLD, 48 << 20)  # a thread gets at most 64 MiB at a time


def share_memory() -> None:
    """Have threads share it: less memory for many tables at once, slower for one file."""
    _set(_ARENA_MAX, 2)


def _set(what: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(AttributeError):  # a C library without it
            ctypes.CDLL(None).mallopt(what, value)
