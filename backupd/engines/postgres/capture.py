"""Captures a PostgreSQL database: tables are locked, then one snapshot is exported, and then it is checked that nothing moved.

The order matters. A table that is truncated or rewritten after a snapshot and before its lock reads as empty, without any
error; so the locks (ACCESS SHARE: they hold up nobody but who wants to alter or drop a table) come first, and the list of
tables is compared once more under the snapshot. Several psql processes then read from that snapshot at the same time.
"""

import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

from backupd.engines.base import Finding, ServerPlace, StreamInfo, TableInfo
from backupd.engines.postgres import catalog, facts, script
from backupd.engines.postgres.catalog import Relation, Session
from backupd.engines.postgres.client import Server, child_environment, open_connection, patience
from backupd.engines.postgres.counting import RowCounts
from backupd.engines.postgres.dump import SchemaDump, dump_roles, native_archive
from backupd.engines.postgres.examination import is_excluded, judge, refuse, warn_of_tools
from backupd.engines.postgres.names import ARCHIVE, quoted
from backupd.engines.postgres.objects import object_streams
from backupd.engines.postgres.plan import Piece, Planner, loading_roots, refuse_foreign
from backupd.engines.postgres.problems import source_error
from backupd.engines.postgres.tools import Tools, find_tools
from backupd.engines.postgres.worker import Worker
from backupd.errors import BackupdError, SourceIncomplete, SourceMoved, TryAgain

_TRIES = 3
_LOCKS_AT_ONCE = 200
# Up to this many tables every worker locks all of them at once; beyond, the server's lock table might be too small for that.
_MOST_EARLY_LOCKS = 1000
_GONE = frozenset({"42P01", "3F000"})


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How a database is captured; see `open_source`."""

    timeout: float = 30.0
    native: bool = False
    exclude: tuple[str, ...] = ()
    globals: bool = False
    jobs: int = 2
    bin_folders: tuple[str, ...] = ()


class PostgresView:
    """One moment of a PostgreSQL database; made by `PostgresSource.view`, which also ends it."""

    def __init__(
        self,
        session: Session,
        server: Server,
        place: ServerPlace,
        options: CaptureOptions,
        tools: Tools,
        found: Sequence[Relation],
        snapshot: str,
        findings: Sequence[Finding],
    ) -> None:
        self._session = session
        self._server = server
        self._name = str(place)
        self._database = session.info.dbname
        self._options = options
        self._tools = tools
        self._snapshot = snapshot
        self._found = found
        self._warnings = [finding.detail for finding in findings if finding.level == "warning"]
        self._facts: dict[str, object] = facts.read_facts(session, server, tools, self._database)
        self._pieces: dict[int, Piece] = {}
        self._workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._all_workers: list[Worker] = []
        self._closed = False
        self._streams: list[StreamInfo] = []
        self._tables: list[TableInfo] = []
        self._schema = SchemaDump(tools, server, self._database, self._dump_words())
        if options.native:
            self._streams.append(StreamInfo("native", "schema", None))
        else:
            self._streams += [StreamInfo(ARCHIVE, "schema", None), StreamInfo("schema.sql", "schema", None)]
        if options.globals:
            self._streams.append(StreamInfo("globals.sql", "schema", None, secret=True))
        self._warn_of_lost_definitions()
        if not options.native:
            self._plan()
        self._counts = RowCounts(self._pieces.values())

    @property
    def streams(self) -> Sequence[StreamInfo]:
        """The schema first, then the rows, the largest tables first."""
        return self._streams

    @property
    def tables(self) -> Sequence[TableInfo]:
        """Every table that has a row stream."""
        return self._tables

    @property
    def facts(self) -> Mapping[str, object]:
        """Version, encoding, locale, extensions, settings, sequences, and what loading needs to know of each table."""
        return self._facts

    @property
    def warnings(self) -> Sequence[str]:
        """What is not captured, or should be known."""
        return tuple(self._warnings)

    @property
    def pressing(self) -> bool:
        """Never: a reader holds up no writer; it keeps dead rows from being cleaned up, which `finish` reports."""
        return False

    @property
    def parallel(self) -> int:
        """As many as there are workers."""
        return max(1, self._options.jobs)

    def read(self, stream: StreamInfo) -> Iterator[bytes | bytearray]:
        """The stream's bytes.

        Raises:
            SourceIncomplete, TryAgain, SourceMoved: what was given is not whole.
        """
        if self._closed:
            raise SourceIncomplete("the view is closed", object_name=self._name, hint="run again")
        if stream.kind == "rows":
            return self._rows(self._pieces[id(stream)])
        if stream.name == ARCHIVE:
            return self._schema.archive()
        if stream.name == "schema.sql":
            return self._schema.text()
        if stream.name == script.NAME:
            return self._script()
        if stream.name == "native":
            words = ["-Fc", "-Z0", "-w", *self._dump_words(), "-d", self._server.conninfo(self._database)]
            return native_archive(words, self._server, self._database, tools=self._tools)
        if stream.name == "globals.sql":
            return self._roles()
        raise ValueError(f"no such stream: {stream.name}")

    def counted(self, stream: StreamInfo, rows: int) -> None:
        """Keep how many rows came, for the comparison with the heap."""
        self._counts.came(self._pieces[id(stream)], rows)

    def finish(self) -> None:
        """End the workers in order, count rows where that is needed, then read the sequences, which belong to no snapshot.

        Raises:
            SourceIncomplete, TryAgain: the locks were lost meanwhile, a worker did not end as it should, or rows are missing.
        """
        for worker in self._all_workers:
            worker.finish()
        self._all_workers.clear()
        with self._errors("the number of rows"):
            self._counts.check(self._session)
        with self._errors("the end of the snapshot"), patience(self._session):
            self._read_sequences()
            row = self._session.execute(
                b"""SELECT pg_catalog.age(backend_xmin), extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::float8
                      FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()"""
            ).fetchone()
        if row is not None:
            self._facts["held_back"] = {"transactions": row[0], "seconds": round(row[1], 3)}

    def start(self, environment: dict[str, str], inherited: Sequence[int]) -> None:
        """Start the workers, and wait until each of them is in the snapshot.

        Raises:
            SourceIncomplete, TryAgain, SourceMoved.
        """
        locks = sorted({piece.lock for piece in self._pieces.values() if piece.lock})
        wanted = min(self._options.jobs, len(self._pieces))
        for _ in range(max(wanted, 1 if self._pieces else 0)):
            worker = Worker(self._tools, self._server, self._database, environment, inherited)
            self._all_workers.append(worker)
            worker.begin(self._snapshot, locks if len(locks) <= _MOST_EARLY_LOCKS else ())
        for worker in self._all_workers:
            worker.ready()
            self._workers.put(worker)

    def close(self) -> None:
        """End whatever is still running."""
        self._closed = True
        for worker in self._all_workers:
            worker.kill()
        self._schema.close()

    def _rows(self, piece: Piece) -> Iterator[bytes | bytearray]:
        try:
            worker = self._workers.get(timeout=3600)
        except queue.Empty:
            raise SourceIncomplete(
                "no worker is left to read rows", object_name=piece.table, hint="run again"
            ) from None
        whole = False
        try:
            yield from worker.copy(piece)
            whole = True
            self._counts.was_read(piece)
        finally:
            if whole:
                self._workers.put(worker)
            else:
                self._lose(worker)

    def _lose(self, worker: Worker) -> None:
        """A worker that broke, or was left in the middle of a table, is of no more use."""
        worker.kill()
        if worker in self._all_workers:
            self._all_workers.remove(worker)

    def _roles(self) -> Iterator[bytearray]:
        row = self._session.execute(
            b"SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')"
        ).fetchone()
        passwords = row is not None and bool(row[0])
        if not passwords:
            self._warnings.append("the roles are captured without passwords: only a superuser may read them")
        return dump_roles(self._tools, self._server, self._database, passwords=passwords)

    def _read_sequences(self) -> list[list[object]]:
        """The sequences as they stand, read once: after the rows, so that none lags behind a row that it numbered."""
        found = self._facts.get("sequences")
        if not isinstance(found, list):
            sequences = [
                relation for relation in self._found if relation.kind == "S" and not self._is_lacking(relation)
            ]
            for lacking in [r.label for r in self._found if r.kind == "S" and self._is_lacking(r)]:
                self._warnings.append(
                    f"{lacking} is captured without its value: a standby has none of an unlogged sequence"
                )
            found = self._facts["sequences"] = facts.read_sequences(self._session, sequences)
        return found

    def _is_lacking(self, relation: Relation) -> bool:
        """Whether the contents of a relation are not on this server, as it is a standby."""
        return relation.persistence == "u" and bool(self._facts["standby"])

    def _script(self) -> Iterator[bytes]:
        with self._errors("the sequences"), patience(self._session):
            sequences = self._read_sequences()
        tables = facts.as_mapping(self._facts["tables"])
        major = self._server.major
        return script.load_script(self._streams, tables, sequences, encoding=self._encoding(), major=major)

    def _dump_words(self) -> list[str]:
        words = [f"--snapshot={self._snapshot}", f"--lock-wait-timeout={round(self._options.timeout * 1000)}"]
        for relation in self._found:
            if relation.kind in "rp" and is_excluded(relation.label, self._options.exclude):
                kind = "table-data" if relation.readable else "table"
                words.append(f"--exclude-{kind}={quoted(relation.schema, relation.name)}")
        return words

    def _plan(self) -> None:
        tables = self._chosen()
        with self._errors("the catalogs"), patience(self._session):
            types = catalog.Types(self._session, {column.type_oid for table in self._found for column in table.columns})
            roots = loading_roots(self._found, catalog.partitionings(self._session), types)
            refuse_foreign(self._found, tables, roots)
            measures = catalog.measures(self._session, tables)
            planner = Planner(types, measures, roots, self._encoding(), self._server.major, self._options.jobs)
            plans = planner.tables(tables)
            objects = self._large_objects()
        self._facts["tables"] = facts.table_facts(plans)
        self._tables = [plan.info for plan in plans]
        pieces = [piece for plan in plans for piece in plan.pieces]
        self._tables += [info for info, _ in objects]
        pieces += [piece for _, piece in objects]
        for piece in pieces:
            # Streams of one table may be equal, so each is a value of its own here.
            stream = StreamInfo(piece.info.name, "rows", piece.info.size_hint, 0, piece.info.key)
            self._streams.append(stream)
            self._pieces[id(stream)] = piece
        self._streams.append(StreamInfo(script.NAME, "schema", None, late=True))

    def _warn_of_lost_definitions(self) -> None:
        """Tables that may not be read are left out by pg_dump altogether, if they are excluded."""
        for relation in self._found:
            if relation.kind in "rp" and not relation.readable:
                self._warnings.append(
                    f"{relation.label} is captured without its definition, as it is excluded and this role may not read it:"
                    " a restored database has no such table, and nothing that needs it can be restored"
                )

    def _chosen(self) -> list[Relation]:
        excluded, chosen, skipped = [], [], []
        for relation in self._found:
            if relation.kind == "f":
                skipped.append(relation.label)
            if relation.kind != "r":
                continue
            if is_excluded(relation.label, self._options.exclude):
                excluded.append(relation.label)
                self._warnings.append(f"{relation.label} is captured without its rows, as it is excluded")
            elif self._is_lacking(relation):
                skipped.append(relation.label)
                self._warnings.append(
                    f"{relation.label} is captured without its rows: a standby has none of an unlogged table"
                )
            else:
                chosen.append(relation)
        self._facts["excluded"], self._facts["skipped"] = excluded, skipped
        return chosen

    def _encoding(self) -> str:
        return str(facts.as_mapping(self._facts["database"])["encoding"])

    def _large_objects(self) -> list[tuple[TableInfo, Piece]]:
        row = self._session.execute(b"SELECT count(*) FROM pg_catalog.pg_largeobject_metadata").fetchone()
        size = self._session.execute(
            b"SELECT pg_catalog.pg_relation_size('pg_catalog.pg_largeobject'::pg_catalog.regclass)"
        ).fetchone()
        assert row is not None
        assert size is not None
        self._facts["large_objects"] = row[0]
        return object_streams(row[0], size[0], self._encoding()) if row[0] else []

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        with _session_errors(f"{self._name}: {what} could not be read", self._name):
            yield


class PostgresSource:
    """A PostgreSQL database; made by `open_source`."""

    engine = "postgresql"

    def __init__(self, place: ServerPlace, options: CaptureOptions) -> None:
        self._place = place
        self._name = str(place)
        self._options = options

    @property
    def default_name(self) -> str:
        """The database's name."""
        return self._place.database or self._place.user

    def standstill(self) -> str | None:
        """None: statistics may be lost in a crash, and neither relfilenode nor LSN of a table says that no row changed."""
        return None

    @contextmanager
    def view(self, *, check: bool = False) -> Iterator[PostgresView]:
        """Lock, take one snapshot, and check that nothing moved in between.

        Raises:
            Unreachable: no connection, or a server that is too old.
            Failed: no client programs that are new enough.
            SourceIncomplete: something may not be read; all of it is named.
            TryAgain: a lock was not to be had in time.
            SourceMoved: tables kept changing.
        """
        with ExitStack() as stack:
            session, server = open_connection(self._place, timeout=self._options.timeout)
            stack.callback(session.close)
            tools = find_tools(self._options.bin_folders, at_least=server.major, nearest=server.major)
            with _session_errors(f"{self._name} could not be captured", self._name):
                with patience(session):
                    if check:
                        self._check(session)
                    found, snapshot, findings = self._pin(session)
                findings += warn_of_tools(tools)
                view = PostgresView(session, server, self._place, self._options, tools, found, snapshot, findings)
                stack.callback(view.close)
                view.start(*stack.enter_context(child_environment(server)))
            yield view

    def _check(self, session: Session) -> None:
        row = session.execute(
            b"""SELECT checksum_failures FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()"""
        ).fetchone()
        if row is not None and row[0]:
            raise SourceIncomplete(
                f"{self._name}: the server has found {row[0]} damaged pages",
                object_name=self._name,
                hint="check the server's disks, or back it up as it is, without the check",
            )

    def _pin(self, session: Session) -> tuple[list[Relation], str, list[Finding]]:
        """The tables, the name of the exported snapshot, and what was found on the way."""
        moved = ""
        for _ in range(_TRIES):
            before = catalog.relations(session)
            findings = list(judge(session, before, self._options.exclude, native=self._options.native))
            refuse(findings, self._name)
            session.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if (problem := self._lock(session, before)) is None:
                row = session.execute(b"SELECT pg_catalog.pg_export_snapshot()").fetchone()
                assert row is not None
                after = catalog.relations(session)
                moved = _difference(before, after)
                if not moved:
                    return after, str(row[0]), findings
            else:
                moved = problem
            session.execute(b"ROLLBACK")
        raise SourceMoved(
            f"{self._name}: tables kept being created, dropped, truncated or altered, among them {moved}",
            object_name=moved,
            hint="run again when no migration is under way",
        )

    def _lock(self, session: Session, found: Sequence[Relation]) -> str | None:
        """Lock all tables; this takes no snapshot yet. Returns the name of one that is gone, if that is so.

        Raises:
            TryAgain: somebody else holds a lock for longer than the timeout.
        """
        tables = [
            relation
            for relation in found
            if relation.kind in "rp" and (relation.readable or not is_excluded(relation.label, self._options.exclude))
        ]
        session.execute(f"SET LOCAL lock_timeout = {round(self._options.timeout * 1000)}".encode())
        for start in range(0, len(tables), _LOCKS_AT_ONCE):
            some = tables[start : start + _LOCKS_AT_ONCE]
            names = ", ONLY ".join(relation.quoted for relation in some)
            try:
                session.execute(f"LOCK TABLE ONLY {names} IN ACCESS SHARE MODE".encode())
            except psycopg.Error as error:
                if error.sqlstate in _GONE:
                    return some[0].label if len(some) == 1 else f"one of {some[0].label} ... {some[-1].label}"
                if error.sqlstate == "55P03":
                    raise self._locked(session, tables) from error
                raise
        session.execute(b"SET LOCAL lock_timeout = 0")
        return None

    def _locked(self, session: Session, tables: Sequence[Relation]) -> BackupdError:
        """Whose lock it is that was waited for in vain."""
        session.execute(b"ROLLBACK")
        rows = session.execute(
            b"""SELECT l.relation::bigint FROM pg_catalog.pg_locks l
                 WHERE l.mode = 'AccessExclusiveLock' AND l.relation = ANY (%s::pg_catalog.oid[])""",
            ([table.oid for table in tables],),
        ).fetchall()
        held = {row[0] for row in rows}
        names = [table.label for table in tables if table.oid in held] or [self._name]
        return TryAgain(
            f"{', '.join(names[:5])} was locked for longer than {self._options.timeout:g} s",
            object_name=names[0],
            hint="try again when no migration is under way, or allow more time",
        )


def _difference(before: Sequence[Relation], after: Sequence[Relation]) -> str:
    """The name of a table that is not the same in both lists; empty if all are.

    Sequences and materialized views are not locked, so they are compared by what they are and not by their files.
    """
    old = {relation.oid: _shape(relation) for relation in before}
    new = {relation.oid: _shape(relation) for relation in after}
    moved = {oid for oid in old.keys() | new.keys() if old.get(oid) != new.get(oid)}
    names = {relation.oid: relation.label for relation in (*before, *after)}
    return ", ".join(sorted(names[oid] for oid in moved)[:5])


def _shape(relation: Relation) -> tuple[object, ...]:
    if relation.kind in "rp":
        return relation.identity
    return (relation.oid, relation.schema, relation.name, relation.kind)


@contextmanager
def _session_errors(what: str, name: str) -> Iterator[None]:
    """Turn what the driver raises into a failure by name; values never become part of it."""
    try:
        yield
    except psycopg.Error as error:
        raise source_error(error.sqlstate, what, name) from error
    except UnicodeError as error:
        raise SourceIncomplete(
            f"{what}: a name in it is not valid in the database's encoding",
            object_name=name,
            hint="use capture: native",
        ) from error
