"""A made-up database server for tests of the pipeline: tables of rows in memory, several read at once, and a target."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from backupd.engines.base import (
    CheckLevel,
    LoadOptions,
    LoadResult,
    StoredStream,
    StreamInfo,
    TableInfo,
)

Rows = Sequence[bytes]


@dataclass
class TableSource:
    """A source whose tables are lists of rows; `parts` cuts each into that many streams."""

    tables: Mapping[str, Rows]
    parallel: int = 2
    parts: int = 1
    buffer: int = 100_000
    schema: bytes = b"create table everything;\n"
    hint: int | None = None
    before_read: Callable[[str, int], None] = lambda name, at: None
    before_finish: Callable[[], None] = lambda: None
    engine: str = "postgresql"
    default_name: str = "made-up"
    still: str | None = None
    infos: Mapping[str, TableInfo] = field(default_factory=dict)
    """Tables that are not (id bigint, x text) with the key id."""
    told: Mapping[str, object] = field(default_factory=dict)
    """More facts."""

    def info(self, name: str) -> TableInfo:
        columns = (("id", "bigint"), ("x", "text"))
        return self.infos.get(name) or TableInfo(name, ("id",), None, columns, "f1", True)

    def standstill(self) -> str | None:
        return self.still

    @contextmanager
    def view(self, *, check: bool = False) -> Iterator["TableView"]:
        yield TableView(self)


class TableView:
    """One moment of it."""

    pressing = False
    warnings: Sequence[str] = ("table moon is made of cheese",)

    def __init__(self, source: TableSource) -> None:
        self._source = source
        self._finished = False
        self._lock = threading.Lock()
        self.reading = self.most = 0
        self._rows: dict[int, Rows] = {}
        self._counted: set[int] = set()
        self._begun: set[int] = set()
        self.streams: list[StreamInfo] = [StreamInfo("schema.sql", "schema", len(source.schema))]
        for name, rows in source.tables.items():
            step = -(-len(rows) // source.parts) or 1
            for at in range(0, max(len(rows), 1), step):
                part = rows[at : at + step]
                size = sum(map(len, part)) if source.hint is None else source.hint
                info = source.info(name)
                names = [column for column, _ in info.columns]
                key = tuple(names.index(column) for column in info.key)
                self.streams.append(StreamInfo(name, "rows", size, key=key))
                self._rows[id(self.streams[-1])] = part
        self.streams.append(StreamInfo("after.sql", "schema", None, late=True))

    @property
    def parallel(self) -> int:
        return self._source.parallel

    @property
    def tables(self) -> Sequence[TableInfo]:
        return [self._source.info(name) for name in self._source.tables]

    @property
    def facts(self) -> Mapping[str, object]:
        return {"finished": self._finished, **self._source.told}

    def read(self, stream: StreamInfo) -> Iterator[bytes]:
        if stream.late:
            assert self.reading == 0
            yield b"select 'done';\n"
            return
        if stream.kind == "schema":
            yield self._source.schema
            return
        with self._lock:
            self._begun.add(id(stream))
            self.reading += 1
            self.most = max(self.most, self.reading)
        data = b"".join(self._rows[id(stream)])
        for at in range(0, len(data), self._source.buffer):
            self._source.before_read(stream.name, at)
            yield data[at : at + self._source.buffer]
        with self._lock:
            self.reading -= 1

    def counted(self, stream: StreamInfo, rows: int) -> None:
        assert rows == len(self._rows[id(stream)])
        self._counted.add(id(stream))

    def finish(self) -> None:
        assert self._counted == self._begun, "somebody has read rows and not said how many"
        self._source.before_finish()
        self._finished = True


@dataclass
class TableTarget:
    """Takes tables back; `spoil` changes what it says it holds."""

    jobs: int = 2
    kinds: frozenset[str] = frozenset({"cheese"})
    spoil: Callable[[str, bytes], bytes] = lambda name, data: data
    held: dict[str, bytes] = field(default_factory=dict)
    schemas: dict[str, bytes] = field(default_factory=dict)
    named: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)

    def prepare(self, options: LoadOptions, facts: Mapping[str, object]) -> Sequence[str]:
        self.facts = facts
        return ["the moon is far"]

    def load(
        self,
        streams: Sequence[StoredStream],
        tables: Sequence[TableInfo],
        *,
        facts: Mapping[str, object],
        check: CheckLevel,
        compare: Callable[[str, Iterator[bytes | bytearray]], None],
    ) -> LoadResult:
        size = 0
        for stream in streams:
            data = b"".join(stream.open())
            size += len(data)
            if stream.info.kind == "rows":
                self.held[stream.info.name] = self.held.get(stream.info.name, b"") + data
            else:
                self.schemas[stream.info.name] = data
        if check != "none":
            for table in tables:
                compare(table.name, iter([self.spoil(table.name, self.held.get(table.name, b""))]))
        self.named = True
        return LoadResult(size, 0.0)
