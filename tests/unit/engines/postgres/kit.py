"""A small stand-in for the jobs: captures into memory, restores from it, and compares by native tools."""

import hashlib
import json
import queue
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupd.engines.base import (
    CheckLevel,
    LoadOptions,
    LoadResult,
    ServerPlace,
    StoredStream,
    StreamInfo,
    TableInfo,
    View,
)
from backupd.engines.postgres import open_source, open_target
from backupd.engines.postgres.capture import PostgresSource
from backupd.errors import IntegrityError
from tests.servers.postgres import PostgresServer

DATA = Path(__file__).parents[3] / "data"
BLOCK = 300_000
ALLOWED = LoadOptions(allow=frozenset({"event-trigger"}))


@dataclass(frozen=True)
class Snapshot:
    """What a job would have stored."""

    streams: list[tuple[StreamInfo, bytes]]
    tables: list[TableInfo]
    facts: Mapping[str, Any]
    warnings: list[str]

    def rows(self, name: str) -> bytes:
        """A table's rows."""
        return b"".join(data for info, data in self.streams if info.kind == "rows" and info.name == name)

    def stream(self, name: str) -> bytes:
        """The one stream of a name."""
        (data,) = [data for info, data in self.streams if info.name == name]
        return data

    def with_stream(self, name: str, data: bytes) -> "Snapshot":
        """The same with another content of a stream."""
        streams = [(info, data if info.name == name else old) for info, old in self.streams]
        return Snapshot(streams, self.tables, self.facts, self.warnings)


def place(server: PostgresServer, database: str, user: str = "postgres", **options: Any) -> ServerPlace:
    """A database of a server."""
    return ServerPlace("postgresql", server.host, server.port, user, database, **options)


def source(server: PostgresServer, database: str, user: str = "postgres", **options: Any) -> PostgresSource:
    """A source with the server's own client programs."""
    options.setdefault("timeout", 20.0)
    return open_source(place(server, database, user), bin_folders=[str(server.bin)], **options)


def drain(view: View, threads: int = 1) -> list[tuple[StreamInfo, bytes]]:
    """All streams, read as the jobs read them: each in one thread, those that are late after all others."""
    found: dict[int, bytes] = {}
    failures: list[BaseException] = []
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    streams = list(view.streams)
    for number, stream in enumerate(streams):
        if not stream.late:
            waiting.put(number)

    def read() -> None:
        try:
            while not failures:
                number = waiting.get_nowait()
                found[number] = b"".join(bytes(buffer) for buffer in view.read(streams[number]))
                if streams[number].kind == "rows":
                    view.counted(streams[number], found[number].count(b"\n"))
        except queue.Empty:
            return
        except BaseException as error:
            failures.append(error)

    crew = [threading.Thread(target=read) for _ in range(threads)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    if failures:
        raise failures[0]
    for number, stream in enumerate(streams):
        if stream.late:
            found[number] = b"".join(bytes(buffer) for buffer in view.read(stream))
    return [(stream, found[number]) for number, stream in enumerate(streams)]


def capture(taken: PostgresSource, threads: int = 1) -> Snapshot:
    """Take a snapshot."""
    with taken.view() as view:
        streams = drain(view, threads)
        view.finish()
        return Snapshot(streams, list(view.tables), json.loads(json.dumps(view.facts)), list(view.warnings))


def digest(rows: bytes) -> Counter[bytes]:
    """The rows as a multiset."""
    return Counter(hashlib.sha1(row).digest() for row in rows.split(b"\n"))


def stored(
    snapshot: Snapshot, spoil: Callable[[str, Iterator[bytes]], Iterator[bytes]] | None = None
) -> list[StoredStream]:
    """The snapshot's streams on their way back."""

    def opener(info: StreamInfo, data: bytes) -> Callable[[], Iterator[bytes]]:
        def begin() -> Iterator[bytes]:
            blocks = iter([data[start : start + BLOCK] for start in range(0, len(data), BLOCK)])
            return spoil(info.name, blocks) if spoil else blocks

        return begin

    return [StoredStream(info, len(data), opener(info, data)) for info, data in snapshot.streams]


def restore(
    server: PostgresServer,
    database: str,
    snapshot: Snapshot,
    options: LoadOptions = ALLOWED,
    *,
    user: str = "postgres",
    check: CheckLevel = "full",
    streams: Sequence[StoredStream] | None = None,
    tools: Sequence[PostgresServer] = (),
    compared: list[str] | None = None,
    told: list[str] | None = None,
    where: ServerPlace | None = None,
) -> LoadResult:
    """Restore a snapshot, comparing every table with what was stored; `where` is a place on another server."""
    folders = [str(server.bin), *(str(other.bin) for other in tools)]
    target = open_target(where or place(server, database, user), timeout=20.0, bin_folders=folders)
    warnings = target.prepare(options, snapshot.facts)
    if told is not None:
        told += warnings

    def compare(name: str, rows: Iterator[bytes | bytearray]) -> None:
        if digest(b"".join(rows)) != digest(snapshot.rows(name)):
            raise IntegrityError(f"{name} is not what was stored")
        if compared is not None:
            compared.append(name)

    return target.load(
        stored(snapshot) if streams is None else streams,
        snapshot.tables,
        facts=snapshot.facts,
        check=check,
        compare=compare,
    )


def dump(server: PostgresServer, database: str, *words: str, tools: PostgresServer | None = None) -> str:
    """pg_dump's text of a database, the same for a copy of it under another name; rows are sorted within their table."""
    done = (tools or server).run("pg_dump", "--create", "--restrict-key=x", *words, "-d", server.url(database))
    assert done.returncode == 0, done.stderr
    text = re.sub(rf'"?\b{re.escape(database)}\b"?', "DATABASE_NAME", done.stdout)
    text = re.sub(r"Name: (?:\S+); Type: TABLE DATA[^\n]*", "Type: TABLE DATA", text)
    return re.sub(
        r"(?ms)^(COPY [^\n]*;\n)(.*?)^\\\.$", lambda m: m[1] + "".join(sorted(m[2].splitlines(True))) + "\\.", text
    )


def nasty_script(major: int) -> str:
    """The hand-made database, as far as a server of this version can hold it."""
    lines = []
    for line in (DATA / "nasty/postgresql.sql").read_text().splitlines():
        found = re.search(r" --@(-?)(icu|\d+)$", line)
        if line.startswith("-- ") or (found and not _fits(found[1] == "-", found[2], major)):
            continue
        lines.append(line[: found.start()] if found else line)
    return "\n".join(lines) + "\n"


def _fits(negated: bool, what: str, major: int) -> bool:
    if what == "icu":
        return (major == 15) != negated  # the servers from wheels are built without it
    return major <= int(what) if negated else major >= int(what)


def make_nasty(server: PostgresServer) -> None:
    """Make the database `nasty` and its roles; every statement must succeed."""
    drop_nasty(server)
    server.psql("postgres", nasty_script(server.major))


def drop_nasty(server: PostgresServer) -> None:
    """Remove the database `nasty`, its copies and its roles."""
    for name in databases(server):
        if name == "nasty" or name.startswith("back_"):
            server.drop_database(name)
    server.psql("postgres", 'DROP ROLE IF EXISTS app_owner, app_ro, "we""ird role"', check=False)


def databases(server: PostgresServer) -> set[str]:
    """The names of all databases."""
    return set(server.psql("postgres", "SELECT datname FROM pg_database").split("\n"))
