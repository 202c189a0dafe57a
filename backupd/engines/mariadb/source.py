"""Opens a source: looks at what is there, refuses what would be incomplete, and pins one moment for all readers."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb import findings as outlook
from backupd.engines.mariadb.barrier import open_together
from backupd.engines.mariadb.capture import MariaView, Opened
from backupd.engines.mariadb.catalog import Catalog, Reader
from backupd.engines.mariadb.client import (
    Connection,
    Server,
    connect,
    discard,
    quote_name,
    read_server,
    run,
    server_errors,
)
from backupd.engines.mariadb.locker import Locker
from backupd.engines.mariadb.tools import Tools, open_tools
from backupd.engines.mariadb.worker import Worker
from backupd.errors import BackupdError, SourceIncomplete, SourceMoved, TryAgain

_ATTEMPTS = 5
_STALL = 900.0


class MariaSource:
    """A database of a MariaDB or MySQL server.

    Args:
        timeout: seconds to wait for the server's answers, and for the barrier.
        exclude: tables and views that are left out.
        globals: whether accounts and grants come along, as a stream of their own.
        jobs: how many snapshots are read at the same time.
        bin_folders: where to look for the client programs before the path.
    """

    engine = "mariadb"

    def __init__(
        self, place: ServerPlace, *, timeout: float, exclude: Sequence[str], globals: bool, jobs: int, bin_folders: Sequence[Path]  # noqa: A002
    ) -> None:  # fmt: skip
        self._place = place
        self._timeout = timeout
        self._exclude = tuple(exclude)
        self._globals = globals
        self._jobs = max(1, jobs)
        self._bin_folders = tuple(bin_folders)

    @property
    def default_name(self) -> str:
        """The database's name."""
        return self._place.database

    def standstill(self) -> str | None:
        """None: InnoDB's update times are kept in memory only, and the binary log lacks what was not logged."""
        return None

    @contextmanager
    def view(self, *, check: bool = False) -> Iterator[MariaView]:
        """Open one moment; with `check`, the server's CHECK TABLE must find nothing.

        Raises:
            Unreachable, TryAgain, SourceIncomplete, SourceMoved.
        """
        with ExitStack() as stack:
            link = connect(self._place, timeout=self._timeout)
            stack.callback(discard, link)
            server = read_server(self._place, link)
            reader = Reader(self._place, link, server)
            catalog = reader.read(self._exclude)
            findings = outlook.look(self._place, link, server, catalog)
            outlook.require(findings)
            with server_errors(self._place, "opening the database"):
                link.select_db(self._place.database)
            if check:
                self._check(catalog)
            tools = stack.enter_context(self._tools(server))
            self._hold_definitions(server, stack)
            opened = self._open(stack, tools, link, server, reader, catalog)
            opened.warnings.extend(
                f"{finding.object}: {finding.detail}" for finding in findings if finding.level == "warning"
            )
            opened.warnings.extend(f"table {name} is excluded" for name in self._exclude)
            yield MariaView(opened)

    def _tools(self, server: Server) -> AbstractContextManager[Tools]:
        return open_tools(self._place, self._bin_folders, timeout=self._timeout, vendor=server.vendor)

    def _open(
        self, stack: ExitStack, tools: Tools, link: Connection, server: Server, reader: Reader, catalog: Catalog
    ) -> Opened:
        # Else the binary log keeps every table that was read locked against ALTER to the end, as beside mariadb-dump.
        unlogged = outlook.read_rights(self._place, link).has_everywhere(*outlook.LOG_NOTHING)
        workers = [self._worker(stack, tools) for _ in range(self._jobs if catalog.tables else 1)]
        for worker in workers:
            _settle(worker, unlogged=unlogged)

        def renew() -> Worker:
            return _settle(self._worker(stack, tools), unlogged=unlogged)

        locker: Locker | None = None
        for _ in range(_ATTEMPTS):
            locker = self._lock(stack, tools, locker, catalog)
            moment = open_together(self._place, link, server, workers, list(catalog.tables), self._timeout, renew)
            again = reader.read(self._exclude)
            moved = catalog.difference(again)
            if moved is None:
                opened = Opened(
                    self._place, tools, link, server, reader, again, moment, workers, locker, self._exclude,
                    self._globals, [], _settings(self._place, link),
                )  # fmt: skip
                _weigh(opened)
                return opened
            catalog = again
            outlook.require(outlook.look(self._place, link, server, catalog))
        raise SourceMoved(f"{moved} keeps changing", object_name=moved, hint="run again when no migration is running")

    def _worker(self, stack: ExitStack, tools: Tools) -> Worker:
        worker = self._start(tools)
        stack.callback(worker.close)
        return worker

    def _start(self, tools: Tools) -> Worker:
        return Worker(tools, self._place, timeout=self._timeout, stall=max(_STALL, self._timeout))

    def _lock(self, stack: ExitStack, tools: Tools, locker: Locker | None, catalog: Catalog) -> Locker | None:
        """Lock the tables without transactions, if there are any."""
        names = [table.name for table in catalog.tables.values() if not table.is_transactional]
        if not names:
            if locker is not None:
                locker.release()
            return None
        if locker is None:
            locker = Locker(lambda: _settle(self._start(tools), unlogged=False), timeout=self._timeout)
            stack.callback(locker.close)
        locker.hold(names)
        return locker

    def _hold_definitions(self, server: Server, stack: ExitStack) -> None:
        """MySQL has a lock against definitions that change, which may be held for as long as one likes."""
        if server.vendor != "mysql" or server.version[0] < 8:
            return
        link = connect(self._place, timeout=self._timeout)
        stack.callback(discard, link)
        try:
            with server_errors(self._place, "locking the definitions"):
                run(link, "LOCK INSTANCE FOR BACKUP")
        except TryAgain:
            raise
        except BackupdError:  # without BACKUP_ADMIN, the comparison of the catalogue has to do
            return

    def _check(self, catalog: Catalog) -> None:
        link = connect(self._place, timeout=self._timeout, database=self._place.database, read_timeout=0)
        try:
            for name in catalog.tables:
                with server_errors(self._place, f"checking table {name}", subject=name):
                    rows = run(link, f"CHECK TABLE {quote_name(name)}")
                if any(row[2] == "error" for row in rows) or rows[-1][3] not in ("OK", "Table is already up to date"):
                    raise SourceIncomplete(
                        f"the server's CHECK TABLE finds table {name} corrupt",
                        object_name=name,
                        hint="repair it, or back it up unchecked",
                    )
        finally:
            discard(link)


def _settle(worker: Worker, *, unlogged: bool) -> Worker:
    """Set a worker's session up; `unlogged` keeps it out of the binary log."""
    worker.settle()
    if unlogged:
        worker.attempt("SET SESSION sql_log_bin = 0")
    return worker


def _weigh(opened: Opened) -> None:
    """Warn of a moment that is not all that it could be, and end the workers that are no part of it."""
    moment, workers = opened.moment, opened.workers
    if moment.barrier != "one_connection":
        if not (moment.proven or (opened.server.vendor == "mysql" and moment.file)):
            opened.warnings.append("the server's binary log does not prove the moment: the barrier alone does")
    elif len(workers) > 1:
        opened.warnings.append(
            "no barrier could be had, so one connection reads everything: grant RELOAD (or LOCK TABLES) to the backup user"
        )
        for worker in workers[1:]:
            worker.close()
        del workers[1:]


def _settings(place: ServerPlace, link: Connection) -> dict[str, object]:
    """Settings of the server that decide what a definition means."""
    with server_errors(place, "reading the settings"):
        rows = run(
            link,
            "SELECT @@GLOBAL.sql_mode, @@GLOBAL.lower_case_table_names, @@GLOBAL.time_zone, @@GLOBAL.log_bin,"
            " @@GLOBAL.sql_select_limit",
        )
    sql_mode, lower_case, time_zone, log_bin, select_limit = rows[0]
    return {
        "sql_mode": str(sql_mode),
        "lower_case_table_names": str(lower_case),
        "time_zone": str(time_zone),
        "log_bin": str(log_bin),
        "sql_select_limit": str(select_limit),
    }
