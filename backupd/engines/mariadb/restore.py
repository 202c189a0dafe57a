"""Restores a snapshot to a MariaDB or MySQL server: everything under a scratch name first.

Tables are made and filled in a database of their own, compared there with what was stored, and then renamed into the target
in one statement; views, routines, triggers and at last events are made in the target. What is executed is decided by the
text of each statement and never by a snapshot's facts.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from backupd.engines.base import CheckLevel, LoadOptions, LoadResult, ServerPlace, StoredStream, TableInfo
from backupd.engines.mariadb import accounts, catalog, splitting, statements
from backupd.engines.mariadb.capture import select
from backupd.engines.mariadb.client import (
    Connection,
    Server,
    connect,
    discard,
    making_errors,
    quote_name,
    read_server,
    run,
    send,
    server_errors,
)
from backupd.engines.mariadb.formats import known_encodings
from backupd.engines.mariadb.guard import Guard, charset_clause
from backupd.engines.mariadb.load import Loader, keep_alive, settle
from backupd.engines.mariadb.publish import Publisher, leave
from backupd.engines.mariadb.script import SCHEMA
from backupd.engines.mariadb.statements import Definition
from backupd.engines.mariadb.tools import open_tools
from backupd.engines.mariadb.worker import Worker, settle_all
from backupd.errors import BackupdError, Failed, IntegrityError, SafetyRefused

_SCHEMA_LIMIT = 256 << 20
_DEFER_FROM = 4 << 20
_NAME_LENGTH = 64
_STALL = 3600.0


class MariaTarget:
    """A database of a MariaDB or MySQL server to restore to.

    Args:
        timeout: seconds to wait for a connection and for short answers.
        bin_folders: where to look for the client program, which reads the rows back.
    """

    kinds = frozenset({statements.DEFINER, statements.FOREIGN, statements.DIRECTORY})

    def __init__(self, place: ServerPlace, *, timeout: float, bin_folders: Sequence[Path]) -> None:
        self._place = place
        self._timeout = timeout
        self._bin_folders = tuple(bin_folders)
        self._options = LoadOptions()

    def prepare(self, options: LoadOptions, facts: Mapping[str, object]) -> Sequence[str]:
        """Refuse now what would be refused at the end.

        Raises:
            SafetyRefused: another vendor, an older server, a database that is not empty.
            Unreachable: nobody there, or the user is refused.
        """
        self._options = options
        link = connect(self._place, timeout=self._timeout)
        try:
            server = read_server(self._place, link)
            Guard(self._place, link, server).require_place(options, facts)
        finally:
            discard(link)
        return ()

    def load(
        self,
        streams: Sequence[StoredStream],
        tables: Sequence[TableInfo],
        *,
        facts: Mapping[str, object],
        check: CheckLevel,
        compare: Callable[[str, Iterator[bytes | bytearray]], None],
    ) -> LoadResult:
        """Load everything into a scratch database, compare it, and move it to the target's name.

        Raises:
            SafetyRefused: something that runs with another's rights, not allowed by name.
            IntegrityError: what was restored is not what was stored.
            Failed: the server refused something.
        """
        with ExitStack() as stack:
            link = connect(self._place, timeout=self._timeout, read_timeout=0)
            stack.callback(discard, link)
            keep_alive(link)
            run_ = _Restore(self, link, read_server(self._place, link), self._options, facts)
            return run_.load(streams, tables, check, compare)


class _Restore:
    """One restore."""

    def __init__(
        self, target: MariaTarget, link: Connection, server: Server, options: LoadOptions, facts: Mapping[str, object]
    ) -> None:
        self._place = target._place
        self._timeout = target._timeout
        self._bin_folders = target._bin_folders
        self._link = link
        self._server = server
        self._options = options
        self._facts = facts
        self._warnings: list[str] = []
        suffix = f"_backupd_{secrets.token_hex(4)}"
        self._scratch = self._place.database[: _NAME_LENGTH - len(suffix)] + suffix
        self._later: dict[str, list[str]] = {}

    def load(
        self,
        streams: Sequence[StoredStream],
        tables: Sequence[TableInfo],
        check: CheckLevel,
        compare: Callable[[str, Iterator[bytes | bytearray]], None],
    ) -> LoadResult:
        guard = Guard(self._place, self._link, self._server)
        guard.require_place(self._options, self._facts)
        definitions = statements.read(splitting.split(_schema_text(streams)))
        wanted = self._choose(definitions, tables)
        if self._options.tables:
            definitions = [one for one in definitions if one.name in wanted or one.kind in ("sequence", "setval")]
            definitions = [one for one in definitions if one.kind in ("table", "sequence", "setval")]
        people = accounts.read(splitting.split(_schema_text(streams, secret=True))) if self._options.globals else []
        definitions = guard.permit(definitions, self._options.allow, {statement.who for statement in people})
        self._warnings += guard.warnings
        rows = {
            info.name: [stream for stream in streams if _is_rows_of(stream, info.name)]
            for info in tables
            if info.name in wanted
        }
        made: list[str] = []
        publisher = Publisher(self._place, self._link, self._scratch, guard, self._options, self._facts)
        try:
            self._create(definitions, wanted, rows)
            found = self._require_tables(tables, wanted)
            loaded = self._fill(found, rows)
            self._set_sequences(definitions)
            check_seconds = self._compare(found, check, compare)
            if people:
                self._warnings += accounts.restore(self._place, self._link, people, made)
            publisher.publish(definitions)
            self._warnings += publisher.warnings
        except BaseException as error:
            if made:
                leave(error, f"these accounts were made and stay: {', '.join(made)}")
            if publisher.stranded:
                leave(error, f"the tables are in {self._place.database} or in {self._scratch}")
            elif publisher.replaced:
                leave(error, f"{self._place.database} was being replaced; all tables are in {self._scratch}")
            else:
                self._clean_up(error)
            raise
        return LoadResult(loaded, check_seconds, tuple(self._warnings))

    def _choose(self, definitions: Sequence[Definition], tables: Sequence[TableInfo]) -> frozenset[str]:
        """The tables to restore.

        Raises:
            SafetyRefused: a chosen table is not in the snapshot.
        """
        known = {definition.name for definition in definitions if definition.kind == "table"}
        for info in tables:
            if info.name not in known:
                raise IntegrityError(
                    f"the snapshot has no definition of table {info.name}",
                    object_name=info.name,
                    hint="verify the snapshot",
                )
        if not self._options.tables:
            return frozenset(known)
        missing = [name for name in self._options.tables if name not in known]
        if missing:
            raise SafetyRefused(
                f"the snapshot has no table {missing[0]}", object_name=missing[0], hint="see `backupctl show`"
            )
        self._warnings.append("with chosen tables, views, routines, triggers and events are not restored")
        return frozenset(self._options.tables)

    def _create(
        self, definitions: Sequence[Definition], wanted: frozenset[str], rows: Mapping[str, Sequence[StoredStream]]
    ) -> None:
        """Make the scratch database and the empty tables in it."""
        source = str(self._facts.get("database", ""))
        with server_errors(self._place, "creating the scratch database"):
            run(self._link, f"CREATE DATABASE {quote_name(self._scratch)} {charset_clause(self._facts)}")
            self._link.select_db(self._scratch)
        settle(self._place, self._link)
        for definition in definitions:
            if definition.kind == "sequence" or (definition.kind == "table" and definition.name in wanted):
                piece = statements.sequence_owner(definition.piece, source, self._scratch)
                size = sum(stream.size for stream in rows.get(definition.name, ()))
                is_large = definition.kind == "table" and size >= _DEFER_FROM
                text = self._deferred(replace(definition, piece=piece)) if is_large else piece.text
                with making_errors(self._place, definition.label, definition.name):
                    send(self._link, text)

    def _deferred(self, definition: Definition) -> str:
        """A table's statement, without the indexes that are quicker to make when the rows are in."""
        mask = definition.piece.mask.upper()
        if "ENGINE=INNODB" not in mask or "WITH SYSTEM VERSIONING" in mask:
            return definition.piece.text
        text, later = statements.defer(definition.piece)
        self._later[definition.name] = later
        return text

    def _require_tables(self, infos: Sequence[TableInfo], wanted: frozenset[str]) -> list[catalog.Table]:
        """The tables as they were made, which must be those that the streams were written from.

        Raises:
            IntegrityError: they are not.
        """
        place = replace(self._place, database=self._scratch)
        made = catalog.Reader(place, self._link, self._server).read().tables
        facts = self._facts.get("tables")
        found = []
        for info in infos:
            if info.name not in wanted:
                continue
            table = made.get(info.name)
            kept = facts.get(info.name) if isinstance(facts, Mapping) else None
            encodings = known_encodings(kept.get("encodings") if isinstance(kept, Mapping) else None, len(info.columns))
            if (
                table is None
                or encodings is None
                or [c.name for c in table.columns] != [name for name, _ in info.columns]
            ):
                raise IntegrityError(
                    f"table {info.name} is not what its rows were written from",
                    object_name=info.name,
                    hint="verify the snapshot",
                )
            found.append(replace(table, encodings=encodings))
        return found

    def _fill(self, tables: Sequence[catalog.Table], rows: Mapping[str, Sequence[StoredStream]]) -> int:
        """Load every table, the largest first; then have the server count what it will plan with."""
        with server_errors(self._place, "asking for local_infile"):
            local = str(run(self._link, "SELECT @@GLOBAL.local_infile")[0][0]) in ("1", "ON")
        if not local:
            self._warnings.append("the server's local_infile is off: rows were loaded by INSERTs, which takes longer")
        loader = Loader(self._place, self._scratch, self._server, timeout=self._timeout, local=local)
        order = sorted(tables, key=lambda table: -sum(stream.size for stream in rows[table.name]))
        with ThreadPoolExecutor(max(1, self._options.jobs), thread_name_prefix="load") as pool:
            try:
                jobs = [
                    pool.submit(loader.load, table, rows[table.name], self._later.get(table.name, ()))
                    for table in order
                ]
                done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                failed = [job for job in done if job.exception() is not None]
                if failed:
                    loader.stop()
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise _first_error(failed[0].exception())
            except BaseException:
                loader.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for table in tables:
            with server_errors(self._place, f"analyzing table {table.name}", subject=table.name):
                run(self._link, f"ANALYZE TABLE {quote_name(table.name)}")
        return sum(job.result() for job in jobs)

    def _set_sequences(self, definitions: Sequence[Definition]) -> None:
        for definition in definitions:
            if definition.kind == "setval":
                with server_errors(self._place, f"setting sequence {definition.name}", subject=definition.name):
                    send(self._link, definition.piece.text)

    def _compare(
        self,
        tables: Sequence[catalog.Table],
        check: CheckLevel,
        compare: Callable[[str, Iterator[bytes | bytearray]], None],
    ) -> float:
        """Read every table back as it was read when it was captured; the seconds that took."""
        if check == "none":
            return 0.0
        began = time.monotonic()
        place = replace(self._place, database=self._scratch)
        with open_tools(place, self._bin_folders, timeout=self._timeout, vendor=self._server.vendor) as tools:
            worker = Worker(tools, place, timeout=self._timeout, stall=_STALL)
            try:
                settle_all([worker])
                for table in tables:
                    marker = "N" + secrets.token_hex(12)
                    compare(table.name, worker.rows(select(table, marker), marker, table.name))
            finally:
                worker.close()
        return time.monotonic() - began

    def _clean_up(self, error: BaseException) -> None:
        """Drop the scratch database; where that fails, the error says what is left."""
        link = None
        try:
            link = connect(self._place, timeout=self._timeout, read_timeout=600)
            with server_errors(self._place, "dropping the scratch database"):
                run(link, f"DROP DATABASE IF EXISTS {quote_name(self._scratch)}")
        except BackupdError:
            leave(error, f"drop the unfinished database {self._scratch}")
        finally:
            if link is not None:
                discard(link)


def _is_rows_of(stream: StoredStream, table: str) -> bool:
    return stream.info.kind == "rows" and stream.info.name == table


def _schema_text(streams: Sequence[StoredStream], *, secret: bool = False) -> str:
    """The definitions, or the accounts.

    Raises:
        IntegrityError: they are missing, too long, or cut off.
    """
    parts = []
    for stream in streams:
        is_wanted = stream.info.secret if secret else stream.info.name == SCHEMA and not stream.info.secret
        if stream.info.kind != "schema" or not is_wanted:
            continue
        if stream.size > _SCHEMA_LIMIT:
            raise IntegrityError(f"the definitions are over {_SCHEMA_LIMIT} bytes", object_name=stream.info.name)
        text = b"".join(stream.open())
        if len(text) != stream.size:
            raise IntegrityError("the definitions end early", object_name=stream.info.name, hint="verify the snapshot")
        parts.append(text)
    if not parts and not secret:
        raise IntegrityError("the snapshot holds no definitions", hint="verify the snapshot")
    return b"".join(parts).decode("utf-8", "surrogateescape")


def _first_error(error: BaseException | None) -> BaseException:
    return error if error is not None else Failed("a table could not be loaded")
