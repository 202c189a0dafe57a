"""The only door to zstd: one frame for each chunk, size always known, output always bounded before it is made.

Must never decompress anything that was not authenticated first.
"""

import sys
import threading
from typing import TYPE_CHECKING

from backupd.errors import IntegrityError

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

Bytes = bytes | bytearray | memoryview

COMPRESSION = 2
"""The level of zstd by default: chunks of 64 KiB come out within half a percent of level 3's size, in two thirds of its time."""
WINDOW_LOG_MAX = 23
MIN_DICTIONARY = 8
"""Shorter dictionaries are none: zstd takes no raw content below 8 bytes."""
_MAGIC = b"\x28\xb5\x2f\xfd"
_local = threading.local()


def compress(data: Bytes, level: int = COMPRESSION) -> bytes:
    """One zstd frame of `data` with its content size; the compressor is reused by each thread."""
    cached: tuple[int, zstd.ZstdCompressor] | None = getattr(_local, "compressor", None)
    if cached is None or cached[0] != level:
        cached = _local.compressor = (level, zstd.ZstdCompressor(level=level))
    compressor = cached[1]
    compressor.set_pledged_input_size(len(data))
    return compressor.compress(data, compressor.FLUSH_FRAME)


def compress_with(data: bytes, dictionary: bytes, level: int = COMPRESSION) -> bytes:
    """One zstd frame of `data` with `dictionary` (at least 8 bytes) as raw content, for dictionary deltas."""
    raw = zstd.ZstdDict(dictionary, is_raw=True)
    compressor = zstd.ZstdCompressor(level=level, zstd_dict=raw.as_prefix)
    compressor.set_pledged_input_size(len(data))
    return compressor.compress(data, compressor.FLUSH_FRAME)


def declared_size(frame: Bytes) -> int:
    """The content size that a single frame declares.

    Raises:
        IntegrityError: not exactly one zstd frame with a content size and no dictionary id.
    """
    try:
        if bytes(frame[:4]) != _MAGIC or zstd.get_frame_size(frame) != len(frame):
            raise IntegrityError("compressed data is not exactly one zstd frame")
        info = zstd.get_frame_info(frame)
    except zstd.ZstdError:
        raise IntegrityError("compressed data is damaged") from None
    size: int | None = info.decompressed_size  # the stubs forget that a frame may not tell it
    if size is None or info.dictionary_id != 0:
        raise IntegrityError("a zstd frame without a content size, or with a dictionary id")
    return size


def decompress(frame: Bytes, *, limit: int, exact: int | None = None, dictionary: bytes | None = None) -> bytes:
    """Decompress one frame.

    Args:
        frame: exactly one frame, authenticated already.
        limit: the largest content size accepted, checked before anything is allocated.
        exact: the content size it must have.
        dictionary: raw content that the frame leans on.

    Raises:
        IntegrityError: any bound is broken or the frame is damaged.
    """
    size = declared_size(frame)
    if size > limit or (exact is not None and size != exact):
        raise IntegrityError("compressed data declares a wrong size")
    if dictionary is not None and len(dictionary) < MIN_DICTIONARY:
        raise IntegrityError("compressed data leans on less than 8 bytes")
    prefix = None if dictionary is None else zstd.ZstdDict(dictionary, is_raw=True).as_prefix
    options = {int(zstd.DecompressionParameter.window_log_max): WINDOW_LOG_MAX}
    decompressor = zstd.ZstdDecompressor(zstd_dict=prefix, options=options)
    try:
        # without a bound the library grows its output block by block; with one it allocates it at once
        out = decompressor.decompress(frame, max_length=size + 1)
    except zstd.ZstdError:
        raise IntegrityError("compressed data is damaged") from None
    if len(out) != size or not decompressor.eof:
        raise IntegrityError("compressed data does not have the size that it declares")
    return out
