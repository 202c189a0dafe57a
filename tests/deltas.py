"""The writing side of the delta codecs, for tests: FORMAT.md, section 6. And zstd frames put together by hand.

`python -m tests.deltas` prints new vectors for `vectors/codecs.json`; those that are kept there are never changed.
"""

import json
import struct
from collections.abc import Sequence
from difflib import SequenceMatcher

from backupd.crypto.chunks import Kind
from backupd.repo.codecs import DICT_DELTA, RAW, ROW_DELTA, ZSTD, split_rows
from backupd.repo.compression import compress, compress_with

Placed = tuple[int, bytes]


def varint(n: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def gaps(places: Sequence[int]) -> bytes:
    """Rising places as gaps to the place before."""
    return b"".join(varint(at - before - 1) for before, at in zip([-1, *places], places, strict=False))


def join_delta(base_rows: int, result_rows: int, removed: Sequence[Placed], added: Sequence[Placed]) -> bytes:
    """A row delta from its parts, sensible or not."""
    return b"".join(
        [
            *(varint(n) for n in (base_rows, result_rows, len(removed), len(added))),
            gaps([at for at, _ in removed]),
            gaps([at for at, _ in added]),
            *(varint(len(row)) for _, row in [*removed, *added]),
            *(row for _, row in [*removed, *added]),
        ]
    )


def row_delta(bases: Sequence[bytes], result: bytes) -> bytes:
    """The row delta that makes `result` of the bases."""
    old = [row for base in bases for row in split_rows(base)]
    new = split_rows(result)
    removed: list[Placed] = []
    added: list[Placed] = []
    for word, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if word != "equal":
            removed += [(at, old[at]) for at in range(a, b)]
            added += [(at, new[at]) for at in range(c, d)]
    return join_delta(len(old), len(new), removed, added)


def encode_delta(codec: int, bases: Sequence[bytes], result: bytes) -> bytes:
    """The payload of `result` as a row or dictionary delta on its bases."""
    if codec == ROW_DELTA:
        return compress(row_delta(bases, result))
    return compress_with(result, b"".join(bases))


def zstd_frame(
    blocks: Sequence[bytes], *, size: int | None, window_log: int | None = None, dictionary_id: int = 0
) -> bytes:
    """A zstd frame (RFC 8878) that says what it is told to say; without `window_log` a single segment."""
    single = window_log is None
    flags = (0 if size is None else 3) << 6 | single << 5 | (3 if dictionary_id else 0)
    window = b"" if window_log is None else bytes([(window_log - 10) << 3])
    name = struct.pack("<I", dictionary_id) if dictionary_id else b""
    content = b"" if size is None else struct.pack("<Q", size)
    return b"\x28\xb5\x2f\xfd" + bytes([flags]) + window + name + content + b"".join(blocks)


def raw_block(data: bytes, *, last: bool = True) -> bytes:
    """A block that holds its bytes as they are."""
    return (len(data) << 3 | last).to_bytes(3, "little") + data


def rle_block(byte: bytes, count: int, *, last: bool = True) -> bytes:
    """A block that stands for `count` times one byte: four bytes of bomb."""
    return (count << 3 | 1 << 1 | last).to_bytes(3, "little") + byte


def rle_bomb(size: int, *, says: int | None, window_log: int | None = None) -> bytes:
    """A frame that decompresses to `size` bytes of nothing, in blocks of 128 KiB, and says that it is `says` long."""
    count, rest = divmod(size, 131072)
    blocks = [rle_block(b"\0", 131072, last=False)] * count + [rle_block(b"\0", rest)]
    return zstd_frame(blocks, size=says, window_log=window_log)


def vectors() -> list[dict[str, object]]:
    """Every codec of version 1, with small and odd contents."""
    rows = b"".join(b"%d\tname %d\tsome town\n" % (n, n * n) for n in range(60))
    edited = rows.replace(b"name 49\t", b"name forty-nine\t").replace(b"3\tname 9\tsome town\n", b"") + b"60\tnew\tx\n"
    cases: list[tuple[str, Kind, int, list[bytes], bytes]] = [
        ("one byte as it is", Kind.PAGES, RAW, [], b"\0"),
        ("rows as they are", Kind.ROWS, RAW, [], b"a\tb\n\n"),
        ("one byte compressed", Kind.SCHEMA, ZSTD, [], b"x"),
        ("rows compressed", Kind.ROWS, ZSTD, [], rows),
        ("a few rows changed", Kind.ROWS, ROW_DELTA, [rows], edited),
        ("two bases joined", Kind.ROWS, ROW_DELTA, [rows[:700], rows[700:]], edited),
        ("nothing changed", Kind.ROWS, ROW_DELTA, [rows], rows),
        ("everything replaced", Kind.ROWS, ROW_DELTA, [b"a\nb\nc\n"], b"x\ny\n"),
        ("duplicates and empty rows", Kind.ROWS, ROW_DELTA, [b"a\na\n\n\nb\n"], b"\na\na\na\n\nb\nb\n"),
        ("a last row without line feed", Kind.ROWS, ROW_DELTA, [b"a\nb"], b"a\nb\nc"),
        ("all but one row deleted", Kind.ROWS, ROW_DELTA, [b"a\nb\nc\n"], b"b\n"),
        ("a page on the page before", Kind.PAGES, DICT_DELTA, [rows[:1000] * 4], rows[:999] + b"!" + rows[:1000] * 3),
        ("a page on two pages", Kind.PAGES, DICT_DELTA, [rows[:900], rows[900:]], rows[800:1000] * 5),
        (
            "a schema on a schema",
            Kind.SCHEMA,
            DICT_DELTA,
            [b"create table t(a);\n" * 9],
            b"create table t(a, b);\n" * 9,
        ),
    ]
    out: list[dict[str, object]] = []
    for name, kind, codec, bases, plain in cases:
        full = {RAW: plain, ZSTD: compress(plain)}
        payload = full[codec] if codec in full else encode_delta(codec, bases, plain)
        out.append(
            {
                "name": name,
                "kind": int(kind),
                "codec": codec,
                "bases": [base.hex() for base in bases],
                "payload": payload.hex(),
                "plain": plain.hex(),
            }
        )
    return out


if __name__ == "__main__":
    print(json.dumps({"format": 1, "vectors": vectors()}, indent=1))
