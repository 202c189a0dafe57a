"""Writes row streams into a scratch database, several at a time, and reads tables back to compare them.

No object is made per row: blocks go to the server as they come. If a stream breaks, the line to the server is cut and not
closed, so that what was sent of the table is undone.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import psycopg

from backupd.engines.base import StoredStream, TableInfo
from backupd.engines.postgres.client import Server, cut
from backupd.engines.postgres.names import literal, parse_label, quoted
from backupd.engines.postgres.problems import target_error
from backupd.errors import IntegrityError

_LOAD_SETTINGS = b"SET default_transaction_read_only = off; SET synchronous_commit = off"


@dataclass(frozen=True, slots=True)
class Load:
    """One table's streams, or one of them, and where they go.

    Attributes:
        truncate: whether the table may be emptied first, in the same transaction, which spares the server work.
    """

    streams: tuple[StoredStream, ...]
    table: str
    copy: str
    truncate: str = ""

    @property
    def size(self) -> int:
        """Bytes of all of its streams."""
        return sum(stream.size for stream in self.streams)


def plan_loads(
    streams: Sequence[StoredStream], info: TableInfo, encoding: str, *, plain: bool, share: float
) -> list[Load]:
    """How to load a table: into the columns that it was read from, in one go if it is no more than a worker's share.

    Args:
        plain: whether the table is one of its own and empty before.
        share: bytes that each worker has to load if all do the same.

    Raises:
        IntegrityError: the manifest's name is no table's.
    """
    try:
        target = quoted(*parse_label(info.name))
        columns = ", ".join(quoted(name) for name, _ in info.columns)
    except ValueError as error:
        raise IntegrityError(f"the manifest names a table {info.name!a}", hint="verify the snapshot") from error
    full = tuple(stream for stream in streams if stream.size)
    if not full:
        return []
    whole = plain and (len(full) == 1 or sum(stream.size for stream in full) <= share)
    listed = f" ({columns})" if columns else ""
    options = f"ENCODING {literal(encoding)}" + (", FREEZE" if whole else "")
    copy = f"COPY {target}{listed} FROM STDIN ({options})"
    if whole:
        return [Load(full, info.name, copy, target)]
    return [Load((stream,), info.name, copy) for stream in full]


class Crew:
    """Runs tasks in threads; the first failure ends all of them.

    Args:
        jobs: how many threads.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = max(1, jobs)
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._stopping: list[Callable[[], None]] = []
        self._ending: list[Callable[[], None]] = []

    @property
    def stopped(self) -> bool:
        """Whether something failed."""
        return self._failure is not None

    def on_failure(self, stop: Callable[[], None]) -> None:
        """What to call once something fails, from whichever thread."""
        with self._lock:
            self._stopping.append(stop)
            failed = self.stopped
        if failed:
            stop()

    def on_end(self, stop: Callable[[], None]) -> None:
        """What to call when all is over, or something fails; it may be called twice."""
        self.on_failure(stop)
        with self._lock:
            self._ending.append(stop)

    def run(self, work: Callable[[], None]) -> None:
        """Do the same work in each thread; it returns when nothing is left to do.

        Raises:
            BaseException: the first failure.
        """
        threads = [threading.Thread(target=self._guarded, args=(work,)) for _ in range(self._jobs)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:
            self._fail(error)
            for thread in threads:
                thread.join()
            raise
        finally:
            for end in self._ending:
                end()
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (passed on by run)
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first = self._failure is None
            if first:
                self._failure = error
            stopping = list(self._stopping) if first else []
        for stop in stopping:
            with suppress(Exception):
                stop()


def load_rows(server: Server, database: str, loads: Iterable[Load], jobs: int) -> int:
    """Load all streams; returns the bytes written.

    Raises:
        IntegrityError: a stream has not the size that the manifest says.
        Failed: the server refused rows.
        BackupdError: whatever a stream raises.
    """
    waiting = deque(sorted(loads, key=lambda load: -load.size))
    total = sum(load.size for load in waiting)
    crew = Crew(min(jobs, len(waiting)))

    def work() -> None:
        session = connect_for_loading(server, database)
        crew.on_failure(lambda: cut(session))
        try:
            while not crew.stopped:
                try:
                    load = waiting.popleft()
                except IndexError:
                    break
                _load(session, load)
        finally:
            session.close()

    if waiting:
        crew.run(work)
    return total


def connect_for_loading(server: Server, database: str) -> "psycopg.Connection[Any]":
    """A connection for writing, whose commits wait for no disk: the rename at the end does.

    Raises:
        Failed: no connection.
    """
    try:
        session = server.connect(database)
        session.execute(_LOAD_SETTINGS)
    except psycopg.Error as error:
        raise target_error(error, f"no connection to {database}", database) from None
    return session


def _load(session: "psycopg.Connection[Any]", load: Load) -> None:
    try:
        with session.transaction():
            if load.truncate:
                session.execute(f"TRUNCATE ONLY {load.truncate}".encode())
            with session.cursor() as cursor, cursor.copy(load.copy.encode()) as copy:
                try:
                    for block in chain.from_iterable(map(measured, load.streams)):
                        copy.write(block)
                except psycopg.Error:
                    raise
                except BaseException:
                    cut(session)
                    raise
    except psycopg.Error as error:
        raise target_error(error, f"the rows of {load.table} were refused", load.table) from None


def measured(stream: StoredStream) -> Iterator[bytes]:
    """The stream's blocks, which must be as many bytes as the manifest says."""
    count = 0
    for block in stream.open():
        count += len(block)
        if count > stream.size:
            break
        yield block
    if count != stream.size and not stream.sieved:
        raise IntegrityError(
            f"the stream of {stream.info.name} is not the {stream.size} bytes that the manifest says",
            object_name=stream.info.name,
            hint="verify the snapshot; restore another one",
        )


def run_parallel(names: Sequence[str], jobs: int, begin: Callable[[Crew], Callable[[str], None]]) -> None:
    """Do something for each name, in threads that each prepare themselves by `begin`.

    Raises:
        BaseException: the first failure.
    """
    waiting = deque(names)
    crew = Crew(min(jobs, len(waiting)))

    def work() -> None:
        do = begin(crew)
        while not crew.stopped:
            try:
                name = waiting.popleft()
            except IndexError:
                return
            do(name)

    if waiting:
        crew.run(work)
