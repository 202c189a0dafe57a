"""What a source promises to the jobs above: one consistent moment of a database, as streams of bytes.

Apart from what targets promise (`base`), because a run that takes a snapshot needs nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table as the manifest lists it. `rows` is None where the engine cannot count it (or leaves it to the reader).

    Attributes:
        name: schema-qualified except in the default schema.
        key: the columns of its key; empty if it has none.
        columns: name and type of each column that its row streams hold, in their order; empty for page streams.
        format: a fingerprint of everything that decides how a row is written as text, so that equal rows are equal texts
            wherever two fingerprints are equal.
        ordered: whether rows come in the order of the key.
    """

    name: str
    key: tuple[str, ...]
    rows: int | None
    columns: tuple[tuple[str, str], ...] = ()
    format: str | None = None
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of a capture.

    Rows are text: fields separated by tabs, each row ended by one newline; a newline, a tab or a backslash inside a field is
    written with a backslash, and `\\N` alone is NULL. A table is one stream or several that follow each other.

    Attributes:
        name: a label (never a path), e.g. "main"; of rows, the name of their table.
        kind: "pages", "rows" or "schema".
        size_hint: expected bytes, for progress.
        unit: bytes of a page; 0 where that means nothing.
        key: of rows, the positions of the key's columns in a row.
        secret: whether it holds what only a restore of everything may use (password hashes).
        late: whether it is read only when all others were.
    """

    name: str
    kind: Literal["pages", "rows", "schema"]
    size_hint: int | None
    unit: int = 0
    key: tuple[int, ...] = ()
    secret: bool = False
    late: bool = False


class View(Protocol):
    """One consistent moment of a source, open while its context is."""

    @property
    def streams(self) -> Sequence[StreamInfo]:
        """The streams, in the order in which they are to be read."""

    @property
    def tables(self) -> Sequence[TableInfo]:
        """The tables of that moment."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What the manifest keeps of the engine: versions, settings; JSON values only."""

    @property
    def warnings(self) -> Sequence[str]:
        """What could not be captured or should be known, by name."""

    @property
    def pressing(self) -> bool:
        """True once the source suffers from being read: the rest should be drained as fast as possible."""

    @property
    def parallel(self) -> int:
        """How many streams may be read at the same time, each by a thread of its own."""

    def read(self, stream: StreamInfo) -> Iterator[bytes | bytearray]:
        """The stream's bytes, in order, as buffers of at most 1 MiB; each buffer is the caller's to keep.

        For pages, every buffer but the last is a multiple of 64 KiB. Rows need not end where a buffer does.
        """

    def counted(self, stream: StreamInfo, rows: int) -> None:
        """Whoever reads a stream of rows must say at its end how many came; safe for several threads.

        `finish` may fail if it was not said.
        """

    def finish(self) -> None:
        """After the last stream: whatever proves that all of it was one moment. Facts and warnings are final then.

        Raises:
            SourceMoved: it was not; the whole capture is to be tried again.
        """


class Source(Protocol):
    """A database to protect."""

    @property
    def engine(self) -> str:
        """ "sqlite", "postgresql" or "mariadb"."""

    @property
    def default_name(self) -> str:
        """The source's name if the user gave none."""

    def standstill(self) -> str | None:
        """What stays the same only while nothing is written to the source; None where nothing proves that.

        Two equal answers, of two moments, mean that every view opened after the first and before the second has one content.
        """

    def view(self, *, check: bool = False) -> AbstractContextManager[View]:
        """Open one consistent moment; with `check`, the engine's own check of it must pass.

        Raises:
            Unreachable, TryAgain, SourceIncomplete.
        """
