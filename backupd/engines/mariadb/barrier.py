"""Opens several transactions at one moment: a barrier of a few milliseconds, and the proof that it was one moment.

No writer is kept waiting for long: whatever would wait for more than a tenth of a second is given up and tried again, and
so is a barrier under which the transactions do not open within half a second. Should this machine fail while the barrier
stands, the server lifts it after five seconds.

Where no barrier can be had, one connection is read: that connections report the same place in the binary log proves nothing
about commits that are not written to it.
"""

import time
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace

import pymysql

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import (
    DENIED,
    IDLE,
    LOST,
    Connection,
    Row,
    Server,
    error_number,
    explain,
    quote_name,
    run,
)
from backupd.engines.mariadb.mysql import INTERRUPTED, Alarm, place_in_log
from backupd.engines.mariadb.worker import Worker
from backupd.errors import BackupdError, Failed, TryAgain, Unreachable

PATIENCE = 0.1
OPENING = 0.5
_HOLDER_IDLE = 5
_TRIES = 20
_PAUSE = 0.05
OPEN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"


@dataclass(frozen=True, slots=True)
class Moment:
    """How the transactions were opened.

    Attributes:
        barrier: "backup_stage", "flush_tables", "lock_tables" or "one_connection".
        held: seconds for which the barrier stood.
        file, position, gtid: the binary log's place of that moment; empty and 0 where there is none.
        proven: whether all connections reported the same place. MySQL's do not tell; there the server itself must have
            reported one place before they opened and afterwards.
    """

    barrier: str
    held: float
    file: str
    position: int
    gtid: str
    proven: bool


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    close: tuple[str, ...]
    lift: str
    equal: bool
    """Whether nothing at all can commit behind it, so that the places of all connections must be equal."""
    alarm: Alarm | None = None


def open_together(
    place: ServerPlace,
    link: Connection,
    server: Server,
    workers: MutableSequence[Worker],
    tables: Sequence[str],
    timeout: float,
    renew: Callable[[], Worker] | None = None,
) -> Moment:
    """Open a consistent snapshot in each worker, all at one moment; in the first alone where no barrier can be had.

    The barrier is then "one_connection", and the other workers hold nothing.

    Args:
        link: a connection of its own that holds the barrier.
        tables: the tables that are read, for a barrier of table locks.
        timeout: seconds for which to go on trying.
        renew: makes a worker in the place of one that was lost or too slow.

    Raises:
        Unreachable, TryAgain, Failed.
    """
    with ExitStack() as stack:
        alarm = None
        if server.vendor == "mysql" and len(workers) > 1:
            alarm = stack.enter_context(closing(Alarm(place, link, timeout)))
        for kind in _kinds(server, tables, alarm) if len(workers) > 1 else ():
            moment = _try(place, link, server, workers, kind, timeout, renew)
            if moment is not None:
                return moment
    return _place_of(place, "one_connection", 0.0, _open(workers[:1], timeout), link)


def _kinds(server: Server, tables: Sequence[str], alarm: Alarm | None) -> list[_Kind]:
    stages = tuple(f"BACKUP STAGE {stage}" for stage in ("START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT"))
    kinds = []
    if server.vendor == "mariadb" and server.version >= (10, 4, 1):
        kinds.append(_Kind("backup_stage", stages, "BACKUP STAGE END", equal=True))
    # MySQL's waits for every statement at work, and whoever comes later waits for it, even if the lock was given up.
    if server.vendor == "mariadb":
        kinds.append(_Kind("flush_tables", ("FLUSH TABLES WITH READ LOCK",), "UNLOCK TABLES", equal=True))
    locks = ", ".join(f"{quote_name(table)} READ" for table in tables)
    if locks:
        kinds.append(_Kind("lock_tables", (f"LOCK TABLES {locks}",), "UNLOCK TABLES", equal=False, alarm=alarm))
    return kinds


def _try(
    place: ServerPlace,
    link: Connection,
    server: Server,
    workers: MutableSequence[Worker],
    kind: _Kind,
    timeout: float,
    renew: Callable[[], Worker] | None,
) -> Moment | None:
    """Try one kind of barrier until it holds; None if this user may not, or it was never free in time."""
    deadline = time.monotonic() + timeout / 3
    for _ in range(_TRIES):
        try:
            if (moment := _once(place, link, server, workers, kind)) is not None:
                return moment
        except pymysql.Error as error:
            number = error_number(error)
            if number in LOST - {INTERRUPTED} or number == 0:  # the driver gives none where the connection is closed
                raise explain(number, place, "setting the barrier") from None
            if number in DENIED:
                return None
        except (Unreachable, TryAgain):
            if renew is None or not any(worker.is_broken for worker in workers):
                raise
            workers[:] = [renew() if worker.is_broken else worker for worker in workers]
        if time.monotonic() > deadline:
            return None
        time.sleep(_PAUSE)
    return None


def _once(
    place: ServerPlace, link: Connection, server: Server, workers: Sequence[Worker], kind: _Kind
) -> Moment | None:
    """Open all transactions behind a barrier; None if something was committed meanwhile."""
    began = time.monotonic()
    with _standing(link, kind):
        before = place_in_log(link) if server.vendor == "mysql" else None
        places = _open(workers, OPENING)
        after = place_in_log(link) if before is not None else None
    held = time.monotonic() - began
    if kind.equal and len(set(places)) != 1:
        return None
    moment = _place_of(place, kind.name, held, places, link)
    if after is None:
        return moment
    return replace(moment, file=after[0], position=after[1], gtid=after[2], proven=before == after)


@contextmanager
def _standing(link: Connection, kind: _Kind) -> Iterator[None]:
    """The barrier, which the server lifts by itself if its holder is not heard of any more."""
    run(link, f"SET SESSION wait_timeout = {_HOLDER_IDLE}")
    try:
        try:
            close_barrier(link, kind.close, kind.alarm)
            yield
        finally:
            run(link, kind.lift)
    finally:
        run(link, f"SET SESSION wait_timeout = {IDLE}")


def close_barrier(link: Connection, statements: Sequence[str], alarm: Alarm | None) -> None:
    """Run statements, each for no longer than the patience."""
    limited = limit_statements(link)
    try:
        for statement in statements:
            with alarm.after(PATIENCE) if alarm is not None else nullcontext():
                run(link, statement)
    finally:
        limited()


def limit_statements(link: Connection) -> Callable[[], None]:
    """Have the server give up what waits for longer than the patience; what lifts the limit again."""
    try:
        run(link, f"SET SESSION max_statement_time = {PATIENCE}")
        return lambda: _lift(link, "SET SESSION max_statement_time = 0")
    except pymysql.Error as error:
        if error_number(error) in LOST:
            raise
    run(link, "SET SESSION lock_wait_timeout = 1")  # MySQL knows whole seconds only
    return lambda: _lift(link, "SET SESSION lock_wait_timeout = DEFAULT")


def _lift(link: Connection, statement: str) -> None:
    run(link, statement)


def _open(workers: Sequence[Worker], timeout: float) -> list[Row]:
    """Open the transactions, all at the same time, and ask each where it stands.

    Raises:
        Unreachable, TryAgain, Failed: not all did within `timeout`; those that did not are ended, and the others are ready.
    """
    deadline = time.monotonic() + timeout
    places: list[Row] = []
    first: BackupdError | None = None
    asked: list[Worker] = []
    for worker in workers:
        try:
            worker.send("ROLLBACK", OPEN, "SHOW STATUS LIKE 'binlog_snapshot_%'", "SAVEPOINT backupd")
            asked.append(worker)
        except BackupdError as error:
            first = first or error
    for worker in asked:
        try:
            places.append(position_of(worker.answer(max(0.0, deadline - time.monotonic()))))
        except BackupdError as error:
            first = first or error
    if first is not None:
        raise first
    return places


def position_of(printed: bytes) -> tuple[str, int]:
    """The binary log's file and position in what SHOW STATUS printed; "" and 0 where there is none."""
    words = dict(line.split("\t", 1) for line in printed.decode("utf-8", "replace").splitlines() if "\t" in line)
    folded = {word.lower(): value for word, value in words.items()}
    position = folded.get("binlog_snapshot_position", "")
    return folded.get("binlog_snapshot_file", ""), int(position) if position.isdigit() else 0


def _place_of(place: ServerPlace, barrier: str, held: float, places: Sequence[Row], link: Connection) -> Moment:
    file, position = places[0]
    if not isinstance(file, str) or not isinstance(position, int):
        raise Failed(f"{place} gave no place in its binary log")
    proven = bool(file) and len(set(places)) == 1
    gtid = ""
    if proven:
        try:
            rows = run(link, "SELECT BINLOG_GTID_POS(%s, %s)", (file, position))
            gtid = str(rows[0][0] or "")
        except pymysql.Error as error:
            if error_number(error) in LOST:
                raise explain(error_number(error), place, "reading the binary log's place") from None
    return Moment(barrier, held, file, position, gtid, proven)
