"""The database side: what a source and a target promise to the jobs above.

A source (see `source`) yields one consistent moment as streams of bytes; a target takes the streams back. Nothing here
knows of chunks, keys or stores, and no object is made per row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from backupd.engines.source import Source, StreamInfo, TableInfo, View
from backupd.model import Cell

__all__ = [
    "CheckLevel",
    "Finding",
    "Listed",
    "Listing",
    "LoadOptions",
    "LoadResult",
    "RowRule",
    "RuleOf",
    "ServerPlace",
    "ServerTarget",
    "Source",
    "StoredStream",
    "StreamInfo",
    "TableInfo",
    "TakeOut",
    "Taken",
    "Target",
    "View",
]

CheckLevel = Literal["none", "quick", "full"]


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """A database on a server. `password` is for drivers and for the environment or private files of native tools only.

    Attributes:
        engine: "postgresql", "mariadb" or "mysql".
        host: a name, an address, or a folder with a socket; empty for the driver's default.
        port: 0 for the default.
        options: the driver's own URL parameters (TLS and the like).
    """

    engine: str
    host: str
    port: int
    user: str
    database: str
    options: Mapping[str, str] = field(default_factory=dict)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.engine}://{user}{self.host}{port}/{self.database}"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a restore wrote.

    Attributes:
        bytes: bytes written.
        check_seconds: time of the engine's own check, which is not part of the restore time.
        left_out: rows that a rule kept from coming back, where the target itself takes them out.
        untaken: tables of owners and grants that were left out as it was allowed, and cannot be compared.
    """

    bytes: int
    check_seconds: float
    warnings: tuple[str, ...] = field(default=())
    left_out: int = 0
    untaken: int = 0


class RowRule(Protocol):
    """What is to become of the rows of one table on their way back."""

    @property
    def positions(self) -> Sequence[int]:
        """Of the cells that are looked at."""

    def judge(self, cells: Sequence[Cell]) -> Sequence[int] | None:
        """The positions whose values become NULL (mostly none); None if the row must not come back."""


RuleOf = Callable[[str, Sequence[str]], RowRule | None]
"""The rule of a table, by its name and its columns in their order; None if none of its rows is concerned."""


@dataclass(frozen=True, slots=True)
class Taken:
    """How many rows were taken out of a database file, what could not be followed, and whether it is another file now."""

    rows: int
    warnings: tuple[str, ...] = ()
    changed: bool = False


TakeOut = Callable[[Path, RuleOf], Taken]
"""Takes rows out of a database file that nobody has open."""


class Target(Protocol):
    """A place to restore to."""

    def prepare(self, *, overwrite: str | None) -> None:
        """Refuse now what would be refused at the end: an existing database, leftovers beside it.

        Raises:
            SafetyRefused, Unreachable, StorageRefused.
        """

    def load(
        self,
        buffers: Iterable[bytes],
        *,
        size: int,
        facts: Mapping[str, object],
        check: CheckLevel,
        rule_of: RuleOf | None = None,
    ) -> LoadResult:
        """Write the one stream beside the target, check it, and only then make it visible under the target's name.

        If `buffers` raises or ends early, nothing is left behind. With `rule_of`, rows that must not come back are taken out
        first, with everything that refers to them as its foreign keys say.
        """


@dataclass(frozen=True, slots=True)
class Listed:
    """A database that a server has; `refused` says why it cannot be captured, if that is known beforehand."""

    name: str
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The databases of a server, by name, without those that are its own; and what may be missing among them."""

    databases: tuple[Listed, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at a source found before anything is read.

    Attributes:
        level: an "error" keeps a capture from being whole, a "warning" should be known, a "note" is in order.
        object: the table, role or program that it is about.
    """

    level: Literal["error", "warning", "note"]
    object: str
    detail: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A stream of a snapshot on its way back.

    Attributes:
        info: as it was captured.
        size: plain bytes.
        sieved: whether rows are taken out on the way, so that fewer bytes come; whoever takes them out checks what was stored.
        open: begins to read it; may be called once. The iterator raises if the storage is damaged, and whatever took its
            bytes then must be killed and not closed.
    """

    info: StreamInfo
    size: int
    open: Callable[[], Iterator[bytes]]
    sieved: bool = False


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a restore to a server was told.

    Attributes:
        tables: only these, by the names of the manifest; empty for the whole database.
        overwrite: the name of an existing database that may be replaced.
        allow: kinds of objects that run code as a superuser and may come along, or "all".
        globals: whether roles are restored as well.
        jobs: connections at the same time.
    """

    tables: tuple[str, ...] = ()
    overwrite: str | None = None
    allow: frozenset[str] = frozenset()
    globals: bool = False
    jobs: int = 2


class ServerTarget(Protocol):
    """A database on a server to restore to."""

    @property
    def kinds(self) -> frozenset[str]:
        """The words that `LoadOptions.allow` may hold, besides "all"."""

    def prepare(self, options: LoadOptions, facts: Mapping[str, object]) -> Sequence[str]:
        """Refuse now what would be refused at the end: a database that is not empty, a server that is too old.

        Returns:
            warnings that should be given before anything is written.

        Raises:
            SafetyRefused, Unreachable.
        """

    def load(
        self,
        streams: Sequence[StoredStream],
        tables: Sequence[TableInfo],
        *,
        facts: Mapping[str, object],
        check: CheckLevel,
        compare: Callable[[str, Iterator[bytes | bytearray]], None],
    ) -> LoadResult:
        """Load everything under a scratch name, and give it the target's name last.

        Args:
            streams: the snapshot's streams; those of rows may be opened in several threads at once.
            tables: as in the manifest.
            facts: as in the manifest.
            check: with "none", nothing is read back.
            compare: given a table's name and its rows as they are now, raises IntegrityError unless they are what was stored.

        Raises:
            SafetyRefused: objects that run code as a superuser, not allowed by name.
            Failed: the server refused something; what is left bears a scratch name, and the error says which.
        """
