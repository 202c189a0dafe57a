"""One record through time: over all snapshots of a source, oldest first, where it was, what it was, and when it was not there.

A chunk in which it was looked for once is not opened again for another snapshot that has it too, and a file is not asked
again in which all that was read for the last answer is the same. Records reach the caller only. A table whose shape or
whose key changed is told of; a snapshot without the table is one without the record.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from backupd.errors import UsageError
from backupd.jobs.compare import FETCHERS
from backupd.jobs.conditions import AskRows, Meant, Where, doubt, matching, meant
from backupd.jobs.pagefile import Groups
from backupd.jobs.query import RowTable
from backupd.jobs.stored import Erased
from backupd.jobs.storedfile import OpenFile, StoredFileTable
from backupd.jobs.storedrows import StoredRows
from backupd.jobs.storedtables import OpenTable, open_tables
from backupd.jobs.tableshapes import Opaque
from backupd.model import Cells
from backupd.records.values import Value, order
from backupd.repo.comparing import Unit
from backupd.repo.reading import PackCache
from backupd.repo.repository import Repository, SnapshotView
from backupd.report import Reporter

_GROUPS = 1536
"""Groups of pages that are kept: of a table of up to 96 MiB only what changed is read in the next snapshot."""
_Names = tuple[bytes, ...]
_Record = tuple[tuple[str, ...], tuple[Value, ...]]
"""Names of columns, and values."""


@dataclass(slots=True)
class Version:
    """A record as it was in one or more snapshots that follow each other.

    Attributes:
        first, last: when the first and the last of them were taken.
        snapshot: the id of the first.
    """

    first: str
    last: str
    snapshot: str
    columns: tuple[str, ...]
    values: tuple[Value, ...] = field(repr=False)


@dataclass(slots=True)
class Found:
    """What became of a record.

    Attributes:
        versions: oldest first; several at one time if several records fit.
        present: the ids of the snapshots that have it.
        absent: when the snapshots were taken that have it not.
        remarks: what was met on the way that is no record.
    """

    versions: list[Version] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    last_seen: str | None = None
    fetched_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A record's table, and what was written for its key, or conditions that all hold for it."""

    table: str
    key: tuple[str, ...] = field(default=(), repr=False)
    where: tuple[Where, ...] = field(default=(), repr=False)


def find(
    repo: Repository,
    views: Sequence[SnapshotView],
    asked: Asked,
    *,
    open_file: OpenFile,
    ask_rows: AskRows,
    erased: Callable[[SnapshotView], Erased | None],
    report: Reporter,
) -> Found:
    """Look for a record in snapshots.

    Args:
        repo: the repository, with the read right.
        views: verified snapshots of one source, oldest first.
        asked: what is looked for.
        open_file: opens a database file (`wiring.open_file_database`).
        ask_rows: makes conditions of SQL (`wiring.ask_rows`).
        erased: what the erasure ledger hides of a snapshot's source.
        report: progress.

    Raises:
        UsageError: no snapshot has the table, or the key is none of the table's.
        IntegrityError: an object that is needed is missing, damaged or forged.
    """
    cache = PackCache(repo, sparse=True, fetchers=FETCHERS)
    try:
        search, kept = _Search(asked, ask_rows), Groups(_GROUPS)
        for view in views:
            report.phase(f"looking into {view.id[:12]}")
            try:
                tables = open_tables(repo, view, cache, open_file=open_file, erased=erased(view), kept=kept)
            except Opaque as error:
                search.found.remarks.append(f"{view.structure.taken_at}: {error.message}")
                continue
            try:
                search.look(view, tables.rows.get(asked.table))
            finally:
                tables.close()
        search.found.fetched_bytes = cache.fetched_bytes
        return search.ended()
    finally:
        cache.close()


class _Search:
    """What was found so far."""

    def __init__(self, asked: Asked, ask_rows: AskRows) -> None:
        self._asked, self._ask_rows, self.found = asked, ask_rows, Found()
        self._open: list[Version] = []
        self._seen: dict[object, dict[_Names, list[_Record]]] = {}
        self._file: tuple[object, StoredFileTable, list[_Record]] | None = None
        self._shape: tuple[tuple[tuple[str, str], ...], tuple[str, ...]] | None = None
        self._error: UsageError | None = None

    def look(self, view: SnapshotView, table: OpenTable | None) -> None:
        """Look into the next snapshot."""
        when = view.structure.taken_at
        records: list[_Record] = []
        if table is None:
            self.found.remarks.append(f"{when}: the snapshot has no table {self._asked.table}")
        else:
            self._tell_shape(when, table)
            try:
                records = self._records(table)
                self._error, self._readable = None, True
            except UsageError as error:
                self._error = error
                self.found.remarks.append(f"{when}: {error.message}")
        self._add(view, records)

    _readable = False

    def _tell_shape(self, when: str, table: OpenTable) -> None:
        shape = table.columns, table.key
        if self._shape is not None and shape != self._shape:
            what = "key" if shape[1] != self._shape[1] else "columns"
            self.found.remarks.append(f"{when}: the {what} of {table.name} changed")
        self._shape = shape

    def _records(self, table: OpenTable) -> list[_Record]:
        what = self._meant(table)
        for column in what.doubtful:
            if doubt(column) not in self.found.remarks:
                self.found.remarks.append(doubt(column))
        found = self._of_chunks(table, what) if isinstance(table, StoredRows) else self._of_file(table, what)
        return sorted(found, key=lambda record: [order(v) for v in record[1]])

    def _of_file(self, table: StoredFileTable, what: Meant) -> Iterable[_Record]:
        place = what.by, what.value, what.sql, table.columns, table.key, table.erased
        last = self._file
        if last is not None and last[0] == place and table.reads_as(last[1]):
            found = last[2]
        else:
            columns = tuple(name for name, _ in table.columns)
            found = [(columns, table.shown(row)) for row in matching(table, what, self._ask_rows)]
        self._file = place, table, found
        return found

    def _of_chunks(self, table: StoredRows, what: Meant) -> Iterator[_Record]:
        values = [what.value] if what.by else []
        units = list(table.units(what.by, values))
        # what a chunk holds that is looked for depends on these alone
        place = what.by, what.value, what.sql, table.columns, table.key, table.owner, table.erased
        seen = self._seen.setdefault(place, {})
        fresh = {name: unit for unit in units if (name := _name(unit)) not in seen}
        columns = tuple(name for name, _ in table.columns)
        with closing(_Sieve(table, what, self._ask_rows)) as sieve:
            for unit, lines in table.of_units(fresh.values(), what.by, values):
                seen[_name(unit)] = [(columns, table.shown(row)) for row in sieve.rows(lines)]
        return (record for unit in units for record in seen.get(_name(unit), ()))

    def _meant(self, table: OpenTable) -> Meant:
        if self._asked.where:
            return meant(table, self._asked.where, self._ask_rows)
        if not table.key:
            raise UsageError(f"table {table.name} has no key", hint="use --where CONDITION", object_name=table.name)
        if len(table.key) != len(self._asked.key):
            raise UsageError(
                f"the key of {table.name} is made of: {', '.join(table.key)}",
                hint="write its parts separated by commas",
                object_name=table.name,
            )
        pairs = zip(table.key, self._asked.key, strict=True)
        return Meant(table.key, tuple(table.cell(column, text) for column, text in pairs))

    def _add(self, view: SnapshotView, records: list[_Record]) -> None:
        when = view.structure.taken_at
        if records:
            self.found.present.append(view.id)
            self.found.last_seen = when
        elif self.found.absent and not self._open:
            self.found.absent[-1] = (self.found.absent[-1][0], when)
        else:
            self.found.absent.append((when, when))
        was: dict[object, list[Version]] = {}
        for version in reversed(self._open):
            was.setdefault(_identity(version.columns, version.values), []).append(version)
        self._open = []
        for columns, values in records:
            known = was.get(_identity(columns, values))
            if known:
                same = known.pop()
            else:
                same = Version(when, when, view.id, columns, values)
                self.found.versions.append(same)
            same.last = when
            self._open.append(same)

    def ended(self) -> Found:
        """What was found.

        Raises:
            UsageError: in no snapshot could be looked for it.
        """
        if not self._readable:
            raise self._error or UsageError(
                f"no snapshot of the source has a table {self._asked.table}",
                hint="`backupctl show SNAPSHOT` lists the tables of a snapshot",
                object_name=self._asked.table,
            )
        return self.found


class _Sieve:
    """Finds the rows that are meant among those of a chunk."""

    def __init__(self, table: StoredRows, what: Meant, ask_rows: AskRows) -> None:
        self._table = table
        self._places = [[name for name, _ in table.columns].index(name) for name in what.by]
        self._shown = RowTable(table)
        self._test = ask_rows(table.name, self._shown.columns, what.sql) if what.sql is not None else None

    def rows(self, lines: Sequence[bytes]) -> list[Cells]:
        """Their cells; hidden rows are not among them."""
        test = self._test
        if test is None or not self._table.hides:
            if test is not None:
                lines = [lines[n] for n in test.fitting(lambda used: self._shown.taken(lines, used))]
            return self._table.seen(lines, self._places)
        rows = self._table.seen(lines, self._places)
        return [rows[n] for n in test.fitting(lambda used: self._shown.shown(rows, used))]

    def close(self) -> None:
        """Let go of the condition."""
        if self._test is not None:
            self._test.close()


def _name(unit: Unit) -> tuple[bytes, ...]:
    return tuple(ref.id for ref in unit)


def _identity(columns: Sequence[str], values: Sequence[Value]) -> object:
    """What tells versions apart: 1 and 1.0 are two."""
    return tuple(columns), tuple((type(v), v) for v in values)
