"""What is said of rows: of a chunk of them, and of a whole table. Light, so that page streams pay for no arrays."""

from dataclasses import dataclass, field

KEY_BYTES = 200
"""Of a chunk's first and last key, what its list holds."""
STARTS_INSIDE, ENDS_INSIDE = 1, 2


@dataclass(slots=True)
class RowDigest:
    """The running digest of a multiset of rows. Two of them are equal if the rows are, in whatever order they came."""

    rows: int = 0
    size: int = 0
    sums: tuple[int, int] = (0, 0)

    def add(self, rows: int, size: int, sums: tuple[int, int]) -> None:
        """Count more rows in: their number, their bytes, and the sums of their hashes."""
        self.rows += rows
        self.size += size
        self.sums = ((self.sums[0] + sums[0]) % 2**64, (self.sums[1] + sums[1]) % 2**64)

    def merge(self, other: "RowDigest") -> None:
        """Count another part of the same table in."""
        self.add(other.rows, other.size, other.sums)

    @staticmethod
    def count(hexdigest: str) -> int:
        """How many rows a digest stands for."""
        return int.from_bytes(bytes.fromhex(hexdigest[:16]), "little")

    def hexdigest(self) -> str:
        """64 digits: rows, bytes and both sums, each with its low byte first."""
        return b"".join(value.to_bytes(8, "little") for value in (self.rows, self.size, *self.sums)).hex()


@dataclass(frozen=True, slots=True)
class RowChunk:
    """A chunk of rows: its bytes, what the content tree says of it, and the sums of the hashes of the rows that end in it."""

    data: memoryview = field(repr=False)
    rows: int = 0
    first: bytes = field(default=b"", repr=False)
    last: bytes = field(default=b"", repr=False)
    flags: int = 0
    sums: tuple[int, int] = (0, 0)
