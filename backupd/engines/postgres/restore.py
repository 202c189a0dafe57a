"""Restores a PostgreSQL database: into a scratch database that gets the target's name when everything is done.

The order is that of pg_restore: what the rows need, the rows, then indexes, constraints, triggers and grants. What would
run code with a superuser's rights is refused before anything is created. A failure drops the scratch database, or says its name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import psycopg

from backupd.engines.base import CheckLevel, LoadOptions, LoadResult, ServerPlace, StoredStream, TableInfo
from backupd.engines.postgres import native, roles
from backupd.engines.postgres.archive import Archive, Entry, major_of, read_archive
from backupd.engines.postgres.client import Server
from backupd.engines.postgres.facts import as_mapping
from backupd.engines.postgres.judgement import KINDS, dangers, refuse, restorable
from backupd.engines.postgres.loading import Crew, Load, connect_for_loading, load_rows, plan_loads, run_parallel
from backupd.engines.postgres.names import ARCHIVE, LARGE_OBJECTS, OBJECTS_METADATA, label, literal, parse_label, quoted
from backupd.engines.postgres.objects import load_objects
from backupd.engines.postgres.pgrestore import restore_entries, restore_tools, split_entries
from backupd.engines.postgres.private import PrivateFile
from backupd.engines.postgres.problems import target_error
from backupd.engines.postgres.readback import compare_tables
from backupd.engines.postgres.requirements import MISSING_ROLES, Offer, owners, refuse_unknown_tables
from backupd.engines.postgres.scratch import Databases, Properties, open_maintenance, other_name, tell
from backupd.engines.postgres.selection import Selection
from backupd.engines.postgres.settings import SUPERUSER_ROLES
from backupd.engines.postgres.tools import Tools
from backupd.errors import BackupdError, Failed, IntegrityError, SafetyRefused

_SUPERUSER = "the restore runs as a superuser: constraints and functions of the snapshot run with its rights"
_OWNED = "pg_catalog.pg_has_role(c.relowner, 'USAGE')"

Compare = Callable[[str, Iterator[bytes | bytearray]], None]


@dataclass
class Job:
    """One restore under way."""

    streams: Mapping[str, list[StoredStream]]
    tables: Sequence[TableInfo]
    facts: Mapping[str, Any]
    options: LoadOptions
    offer: Offer
    databases: Databases
    server: Server
    scratch: str = ""
    bytes: int = 0
    warnings: list[str] = field(default_factory=list)
    missing_roles: set[str] = field(default_factory=set)

    @property
    def encoding(self) -> str:
        """The encoding of the source, in which its rows are stored."""
        return str(as_mapping(self.facts.get("database"))["encoding"])

    @property
    def flags(self) -> list[str]:
        """pg_restore's options for what the target lacks."""
        return (["--no-tablespaces"] if self.lacking_tablespaces else []) + (
            ["--no-owner"] if self.missing_roles else []
        )

    @property
    def lacking_tablespaces(self) -> list[str]:
        """Tablespaces of the source that the target has not."""
        return sorted(set(_names(self.facts.get("tablespaces"))) - self.offer.tablespaces)


class PostgresTarget:
    """A database to restore to; made by `open_target`."""

    engine = "postgresql"
    kinds = frozenset({*KINDS, MISSING_ROLES, SUPERUSER_ROLES})

    def __init__(self, place: ServerPlace, *, timeout: float, bin_folders: tuple[str, ...]) -> None:
        self._place = place
        self._name = str(place)
        self._timeout = timeout
        self._bin_folders = bin_folders
        self._options = LoadOptions()

    def prepare(self, options: LoadOptions, facts: Mapping[str, object]) -> Sequence[str]:
        """Refuse now what would be refused at the end.

        Raises:
            SafetyRefused: the database exists and is not empty, the server is older than the source, roles or extensions
                are missing.
            UsageError: a table that the snapshot has not.
            Unreachable: no connection.
        """
        self._options = options
        refuse_unknown_tables(options.tables, facts)
        session, server = open_maintenance(self._place, timeout=self._timeout)
        with session:
            offer = Offer(session, server, self._name)
            offer.refuse_version(facts)
            offer.refuse_role()
            offer.refuse_extensions(facts)
            if not options.globals:
                offer.refuse_roles(_names(facts.get("roles")), options)
            self._refuse_existing(Databases(session, server, self._place))
        restore_tools(self._bin_folders, server, at_least=major_of(str(facts.get("pg_dump"))))
        return [_SUPERUSER] if offer.superuser else []

    def load(
        self,
        streams: Sequence[StoredStream],
        tables: Sequence[TableInfo],
        *,
        facts: Mapping[str, object],
        check: CheckLevel,
        compare: Compare,
    ) -> LoadResult:
        """Load everything into a scratch database, compare it, and rename it.

        Raises:
            SafetyRefused: objects that run code as a superuser; or the database is not empty any more.
            Failed: the server refused something; the error names the scratch database if it could not be dropped.
            IntegrityError: what was loaded is not what was stored.
        """
        by_name: dict[str, list[StoredStream]] = {}
        for stream in streams:
            by_name.setdefault(stream.info.name if stream.info.kind == "rows" else f"/{stream.info.name}", []).append(
                stream
            )
        session, server = open_maintenance(self._place, timeout=self._timeout)
        with session:
            databases = Databases(session, server, self._place)
            offer = Offer(session, server, self._name)
            offer.refuse_version(facts)
            job = Job(by_name, tables, facts, self._options, offer, databases, server)
            if self._options.globals:
                self._restore_roles(session, job)
            if "/native" in by_name:
                return self._load(job, native.NativePlan(job, self._name, self._bin_folders), check, compare)
            with PrivateFile() as file:
                return self._load(job, self._plan(job, file), check, compare)

    def _load(self, job: Job, plan: "_Plan | native.NativePlan", check: CheckLevel, compare: Compare) -> LoadResult:
        self._refuse_existing(job.databases)
        if lacking := job.lacking_tablespaces:
            job.warnings.append(
                f"everything is in the default tablespace: there is no tablespace {', '.join(lacking)} here"
            )
        job.scratch = job.databases.create_scratch(self._place.database, as_mapping(job.facts.get("database")))
        try:
            tables = plan.build(job)
            began = monotonic()
            if check != "none":
                job.warnings += compare_tables(
                    job.server, job.scratch, tables, job.facts, self._bin_folders, self._options.jobs, compare
                )
            seconds = monotonic() - began
            self._publish(job)
        except BaseException as error:
            self._give_up(job, error)
            raise
        untaken = len(job.tables) - len(tables)
        return LoadResult(job.bytes, seconds, tuple(dict.fromkeys(job.warnings)), untaken=untaken)

    def _plan(self, job: Job, file: PrivateFile) -> "_Plan":
        """Read the archive, choose its entries, and judge them."""
        for stream in _only(job.streams, f"/{ARCHIVE}"):
            for block in stream.open():
                file.write(block)
                job.bytes += len(block)
        archive = read_archive(file.read)
        entries = restorable(archive)
        tables = list(job.tables)
        if self._options.tables:
            tables = [table for table in tables if table.name in self._options.tables]
            details = as_mapping(job.facts.get("tables"))
            rooted = [table.name for table in tables if as_mapping(details.get(table.name)).get("through_root")]
            selection = Selection(
                entries, [_parsed(table.name) for table in tables], [_parsed(name) for name in rooted]
            )
            entries = selection.entries
            job.warnings += [
                f"{left} was left out: it needs a table that was not chosen" for left in selection.left_out
            ]
        refuse(dangers(archive, entries, job.offer.trusted_extensions), self._options.allow, self._name)
        job.warnings += job.offer.refuse_extensions(job.facts)
        wanted = owners(entries) | (set(_names(job.facts.get("roles"))) if not self._options.tables else set())
        job.missing_roles = job.offer.refuse_roles(wanted, self._options, owners(entries))
        if job.missing_roles:
            job.warnings.append(job.offer.told(job.missing_roles))
        entries = job.offer.possible(entries, job.warnings)
        tools = restore_tools(self._bin_folders, job.server, at_least=major_of(archive.dump_version))
        return _Plan(tools, file, archive, entries, tables)

    def _restore_roles(self, session: "psycopg.Connection[Any]", job: Job) -> None:
        text = b"".join(block for stream in _only(job.streams, "/globals.sql") for block in stream.open())
        job.bytes += len(text)
        created, warnings = roles.restore_roles(session, text, job.offer.roles, self._options.allow)
        job.offer.roles |= created
        job.warnings += warnings

    def _refuse_existing(self, databases: Databases) -> bool:
        """Refuse a database that is not empty and was not named; returns whether there is one."""
        name = self._place.database
        if not databases.exists(name):
            return False
        if self._options.overwrite == name:
            if users := databases.users(name):
                raise SafetyRefused(
                    f"{users} sessions are connected to the database {name}",
                    object_name=name,
                    hint="end them, then try again",
                )
            return True
        if not databases.is_empty(name):
            raise SafetyRefused(
                f"the database {name} is not empty",
                object_name=name,
                hint=f"name another target, or repeat its name: --overwrite {name}",
            )
        return True

    def _publish(self, job: Job) -> None:
        """Give the scratch database its properties and its name, and drop what had the name before."""
        name, databases = self._place.database, job.databases
        exists = self._refuse_existing(databases)
        aside = other_name(name) if exists else None
        facts = as_mapping(job.facts.get("database"))
        known = job.offer.roles - (job.missing_roles & {facts.get("owner")})
        properties = Properties(facts, known, self._options.allow)
        try:
            job.warnings += databases.swap(job.scratch, name, aside, properties)
        except BaseException as error:
            self._look(job, aside, error)
            raise
        scratch, job.scratch = job.scratch, ""
        if aside is None:
            return
        job.warnings.append(f"the owner, grants and settings of the database {name} are those of the snapshot now")
        try:
            self._drop_replaced(job, scratch, aside)
        except BaseException as error:
            if not job.scratch:
                tell(error, f"the database {name} is what was restored; what had its name before is {aside}")
            raise

    def _look(self, job: Job, aside: str | None, error: BaseException) -> None:
        """After a failure at the end, say which databases are there."""
        name = self._place.database
        names = [one for one in (name, job.scratch, aside) if one is not None]
        there = job.databases.there(*names)
        if there is None:
            tell(error, f"it is not known which of the databases {', '.join(names)} are there now")
        elif job.scratch in there:
            tell(error, f"the database {name} is as it was" if name in there else f"there is no database {name} yet")
        else:
            job.scratch = ""
            old = f"; what had its name before is {aside}" if aside in there else ""
            tell(error, f"the database {name} is what was restored{old}")

    def _drop_replaced(self, job: Job, scratch: str, aside: str) -> None:
        """Drop the database that was replaced; one that had to be empty is looked into once more, and put back if need be."""
        name, databases = self._place.database, job.databases
        try:
            if self._options.overwrite == name or databases.is_empty(aside):
                databases.drop(aside, force=False)
                return
        except BackupdError as error:
            job.warnings.append(f"the replaced database is still there as {aside}: {error.message}")
            return
        databases.swap(aside, name, scratch)
        job.scratch = scratch
        raise SafetyRefused(
            f"the database {name} is not empty any more",
            object_name=name,
            hint=f"name another target, or repeat its name: --overwrite {name}",
        )

    def _give_up(self, job: Job, error: BaseException) -> None:
        """Drop the scratch database; if that fails too, say its name."""
        if not job.scratch:
            return
        try:
            job.databases.drop(job.scratch, force=True)
        except BackupdError:
            tell(error, f"what was loaded is left in the database {job.scratch}: drop it")


class _Plan:
    """What is restored, and how."""

    def __init__(
        self, tools: Tools, file: PrivateFile, archive: Archive, entries: Sequence[Entry], tables: Sequence[TableInfo]
    ) -> None:
        self._tools = tools
        self._file = file
        self._archive = archive
        self._tables = tables
        self._before, self._after = split_entries(entries)

    def build(self, job: Job) -> Sequence[TableInfo]:
        """Fill the scratch database; returns the tables that can be compared."""
        after = [entry for entry in self._after if not job.missing_roles or entry.desc not in {"ACL", "DEFAULT ACL"}]
        restore_entries(self._tools, job.server, job.scratch, self._file, self._before, job.flags)
        job.bytes += load_rows(job.server, job.scratch, self._loads(job), job.options.jobs)
        self._load_objects(job)
        _set_sequences(job)
        flags = [*job.flags, "-j", str(max(1, job.options.jobs))]
        restore_entries(self._tools, job.server, job.scratch, self._file, after, flags)
        _analyze(job)
        if not job.missing_roles:
            return self._tables
        return [table for table in self._tables if table.name != OBJECTS_METADATA]

    def _load_objects(self, job: Job) -> None:
        chosen = {table.name for table in self._tables}
        for name in (OBJECTS_METADATA, LARGE_OBJECTS):
            for stream in job.streams.get(name, []) if name in chosen else ():
                load_objects(job.server, job.scratch, stream, job.encoding)
                job.bytes += stream.size

    def _loads(self, job: Job) -> list[Load]:
        details = as_mapping(job.facts.get("tables"))
        tables = [table for table in self._tables if table.name not in {LARGE_OBJECTS, OBJECTS_METADATA}]
        total = sum(stream.size for table in tables for stream in job.streams.get(table.name, []))
        loads: list[Load] = []
        for table in tables:
            detail = as_mapping(details.get(table.name))
            loads += plan_loads(
                job.streams.get(table.name, []),
                table,
                job.encoding,
                plain=not detail.get("through_root") and not detail.get("extension"),
                share=total / max(1, job.options.jobs),
            )
        return loads


def _names(value: object) -> list[str]:
    """A list of names in the facts."""
    return [str(name) for name in value] if isinstance(value, list | tuple) else []


def _only(streams: Mapping[str, list[StoredStream]], name: str) -> list[StoredStream]:
    found = streams.get(name, [])
    if len(found) != 1:
        raise IntegrityError(f"the snapshot has {len(found)} streams {name[1:]!a}", hint="verify the snapshot")
    return found


def _parsed(name: str) -> tuple[str, str]:
    try:
        return parse_label(name)
    except ValueError as error:
        raise IntegrityError(f"the manifest names a table {name!a}", hint="verify the snapshot") from error


def _set_sequences(job: Job) -> None:
    """Set the sequences; with chosen tables, or if tables were left out of the snapshot, those that are there.

    Raises:
        Failed: one is missing that must be there, or the server refuses.
    """
    calls = []
    for schema, name, value, called in job.facts.get("sequences") or ():
        if not isinstance(value, int) or not isinstance(called, bool):
            raise IntegrityError("the manifest's sequences are damaged", hint="verify the snapshot")
        calls.append((label(schema, name), literal(quoted(schema, name)), value, called))
    missing = []
    try:
        with job.server.connect(job.scratch) as session:
            session.execute(b"SET default_transaction_read_only = off")
            for written, name, value, called in calls:
                known = f"FROM pg_catalog.to_regclass({name}) AS s(oid) WHERE s.oid IS NOT NULL"
                if not session.execute(f"SELECT pg_catalog.setval(s.oid, {value}, {called}) {known}".encode()).rowcount:
                    missing.append(written)
    except psycopg.Error as error:
        raise target_error(error, "a sequence could not be set", job.scratch) from None
    if missing and not job.options.tables:
        _complain_of_sequences(job, missing)


def _complain_of_sequences(job: Job, missing: Sequence[str]) -> None:
    """Sequences are missing: of tables whose definitions the snapshot has not, or of extensions in other versions, if so."""
    listed = ", ".join(missing[:20])
    partial = job.facts.get("excluded") or job.facts.get("skipped")
    if not partial and not job.offer.refuse_extensions(job.facts):
        raise Failed(
            f"sequences of the snapshot are missing after the restore: {listed}",
            object_name=missing[0],
            hint="verify the snapshot",
        )
    job.warnings.append(f"these sequences are not there and were not set: {listed}")


def _analyze(job: Job) -> None:
    """Give the planner its statistics, of several tables at a time, the largest first."""
    tables = f"""SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class c
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                    AND {_OWNED} ORDER BY c.relpages DESC, c.oid"""
    try:
        with job.server.connect(job.scratch) as session:
            names = [str(row[0]) for row in session.execute(tables.encode()).fetchall()]
    except psycopg.Error as error:
        raise target_error(error, "the restored tables could not be listed", job.scratch) from None

    def begin(crew: Crew) -> Callable[[str], None]:
        session = connect_for_loading(job.server, job.scratch)
        crew.on_end(session.close)

        def analyze(name: str) -> None:
            try:
                session.execute(f"ANALYZE {name}".encode())
            except psycopg.Error as error:
                raise target_error(error, f"ANALYZE of {name} failed", name) from None

        return analyze

    run_parallel(names, job.options.jobs, begin)
