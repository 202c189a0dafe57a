"""The database side: what a source and a target promise to the jobs above.

A source yields one consistent moment as streams of bytes; a target takes the streams back. Nothing here knows of
chunks, keys or stores, and no object is made per row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

CheckLevel = Literal["none", "quick", "full"]


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table as the manifest lists it. `rows` is None where the engine cannot count it."""

    name: str
    key: tuple[str, ...]
    rows: int | None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of a capture.

    Attributes:
        name: a label (never a path), e.g. "main".
        kind: "pages", "rows" or "schema".
        size_hint: expected bytes, for progress.
        unit: bytes of a page; 0 where that means nothing.
    """

    name: str
    kind: Literal["pages", "rows", "schema"]
    size_hint: int | None
    unit: int = 0


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

    def read(self, stream: StreamInfo) -> Iterator[bytes | bytearray]:
        """The stream's bytes, in order, as buffers of 64 KiB to 1 MiB; each buffer is the caller's to keep.

        For pages, every buffer but the last is a multiple of 64 KiB.
        """


class Source(Protocol):
    """A database to protect."""

    @property
    def engine(self) -> str:
        """ "sqlite", "postgresql" or "mariadb"."""

    @property
    def default_name(self) -> str:
        """The source's name if the user gave none."""

    def view(self, *, check: bool = False) -> AbstractContextManager[View]:
        """Open one consistent moment; with `check`, the engine's own check of it must pass.

        Raises:
            Unreachable, TryAgain, SourceIncomplete.
        """


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a restore wrote.

    Attributes:
        bytes: bytes written.
        check_seconds: time of the engine's own check, which is not part of the restore time.
    """

    bytes: int
    check_seconds: float
    warnings: tuple[str, ...] = field(default=())


class Target(Protocol):
    """A place to restore to."""

    def prepare(self, *, overwrite: str | None) -> None:
        """Refuse now what would be refused at the end: an existing database, leftovers beside it.

        Raises:
            SafetyRefused, Unreachable, StorageRefused.
        """

    def load(
        self, buffers: Iterable[bytes], *, size: int, facts: Mapping[str, object], check: CheckLevel
    ) -> LoadResult:
        """Write the one stream beside the target, check it, and only then make it visible under the target's name.

        If `buffers` raises or ends early, nothing is left behind.
        """
