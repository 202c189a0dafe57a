"""A small stand-in for the jobs: keeps a capture's streams in memory, and gives them to a restore."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from backupd.engines import mariadb
from backupd.engines.base import LoadOptions, LoadResult, ServerPlace, StoredStream, StreamInfo, TableInfo
from backupd.engines.mariadb.capture import MariaView
from backupd.errors import IntegrityError
from tests.servers.mariadb import MariaServer

DATA = Path(__file__).parents[3] / "data"


def place(server: MariaServer, database: str, user: str = "root", password: str | None = None) -> ServerPlace:
    """A database of the server, for root by default."""
    secret = server.root_password if password is None else password
    return ServerPlace(server.engine, server.host, server.port, user, database, password=secret)


@dataclass
class Kept:
    """What a capture gave."""

    streams: list[tuple[StreamInfo, bytes]]
    facts: Mapping[str, object]
    tables: Sequence[TableInfo]
    warnings: Sequence[str]
    opened: list[str] = field(default_factory=list)

    def rows(self, table: str) -> bytes:
        """All rows of a table."""
        return b"".join(data for info, data in self.streams if info.kind == "rows" and info.name == table)

    @property
    def schema(self) -> bytes:
        """The definitions."""
        return next(data for info, data in self.streams if info.name == "schema.sql")

    def with_schema(self, schema: bytes) -> "Kept":
        """The same snapshot, forged."""
        streams = [(info, schema if info.name == "schema.sql" else data) for info, data in self.streams]
        return replace(self, streams=streams)

    def stored(self, size: int = 1 << 16) -> list[StoredStream]:
        """The streams on their way back."""

        def opener(info: StreamInfo, data: bytes) -> Callable[[], Iterator[bytes]]:
            def opened() -> Iterator[bytes]:
                self.opened.append(info.name)
                return (data[start : start + size] for start in range(0, len(data), size))

            return opened

        return [StoredStream(info, len(data), opener(info, data)) for info, data in self.streams]


def drain(view: MariaView) -> Kept:
    """Read every stream, as many at a time as the view allows, and finish."""
    parts: dict[int, bytes] = {}
    waiting = list(enumerate(view.streams))
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            with lock:
                if not waiting:
                    return
                number, stream = waiting.pop(0)
            try:
                parts[number] = b"".join(view.read(stream))
                if stream.kind == "rows":
                    view.counted(stream, parts[number].count(b"\n"))
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(view.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    view.finish()
    streams = [(stream, parts[number]) for number, stream in enumerate(view.streams)]
    return Kept(streams, view.facts, view.tables, view.warnings)


def capture(server: MariaServer, where: ServerPlace, **options: object) -> Kept:
    """Capture a database."""
    with mariadb.open_source(where, bin_folders=[server.bin], **options).view() as view:  # type: ignore[arg-type]
        return drain(view)


def restore(
    server: MariaServer, kept: Kept, where: ServerPlace, *, check: str = "full", **options: object
) -> LoadResult:
    """Restore what was kept, comparing each table with it."""

    def compare(table: str, rows: Iterator[bytes | bytearray]) -> None:
        if b"".join(rows) != kept.rows(table):
            raise IntegrityError(f"table {table} differs")

    target = mariadb.open_target(where, bin_folders=[server.bin])
    target.prepare(LoadOptions(**options), kept.facts)  # type: ignore[arg-type]
    return target.load(kept.stored(), kept.tables, facts=kept.facts, check=check, compare=compare)  # type: ignore[arg-type]


def dump(server: MariaServer, database: str, *more: str) -> str:
    """The native dump of a database, with its history, and its own name blanked out."""
    words = ["--routines", "--events", "--triggers", "--single-transaction", "--skip-lock-tables", "--skip-comments"]
    words += ["--hex-blob", "--order-by-primary", "--default-character-set=binary", *more]
    words += ["--dump-history"] if server.engine == "mariadb" else ["--set-gtid-purged=OFF", "--no-tablespaces"]
    where = ["--no-defaults", "--protocol=tcp", f"--host={server.host}", f"--port={server.port}", "--user=root"]
    done = server.run(server.dump, *where, *words, database, password=server.root_password)
    assert done.returncode == 0, done.stderr
    return re.sub(rf"`{re.escape(database)}`\.", "`DATABASE`.", done.stdout)


def fill(server: MariaServer, database: str, file: str) -> None:
    """Run an SQL file in a database."""
    words = ["--no-defaults", "--protocol=tcp", f"--host={server.host}", f"--port={server.port}", "--user=root"]
    words += ["--comments", "--default-character-set=utf8mb4", database]
    words += [] if server.engine == "mariadb" else ["--commands"]
    path = DATA / file
    done = server.run(server.client, *words, "-e", f"source {path}", password=server.root_password)
    assert done.returncode == 0, done.stderr


def databases(server: MariaServer) -> list[str]:
    """The names of all databases."""
    return server.sql("SHOW DATABASES").splitlines()
