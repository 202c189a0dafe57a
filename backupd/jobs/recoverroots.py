"""Which records of a snapshot somebody means: one by its key, some by a column's value, all that are missing, or removed since.

What is not there and what was erased are told in the same words: nobody learns from here who was erased. No message holds a
value.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backupd.engines.live import Live
from backupd.errors import Failed, UsageError
from backupd.jobs.conditions import AskRows, Where, doubt, matching, meant, no_sql
from backupd.jobs.stored import StoredTable, StoredTables
from backupd.model import Cell, Cells
from backupd.records.cells import exact
from backupd.records.closure import Table
from backupd.records.liverows import count_wholes, look_up
from backupd.records.subject import Subject, split_escaped, unescaped
from backupd.records.values import Record, Value, as_text
from backupd.report import Reporter

_TOGETHER = 1000
Roots = dict[str, list[Cells]]


@dataclass(frozen=True, slots=True)
class Condition:
    """Rows of a table."""

    table: str
    where: Where


@dataclass(slots=True)
class Wanted:
    """What is to be brought back; everything that is named.

    Attributes:
        subject: a record by its key.
        keyed_by: the column that a subject's table is asked by, if a policy names another one than the key.
        tables: of these everything that is missing.
        where: rows by conditions; `ask_rows` makes those of SQL.
        removed: by table, what a comparison says was removed.
    """

    subject: Subject | None = None
    keyed_by: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[str] = ()
    where: Sequence[Condition] = ()
    removed: Mapping[str, Sequence[Record]] = field(default_factory=dict, repr=False)
    ask_rows: AskRows = field(default=no_sql, repr=False)


def _plain(part: str) -> str:
    return unescaped(part, ":,=\\")


def parse_condition(text: str) -> Condition:
    """Read `table:column=value`, or with several columns `table:a=1,b=2` (a backslash keeps a separator), or `table:` and SQL.

    Raises:
        UsageError: it is none.
    """
    table, *rest = split_escaped(text, ":", most=2)
    if not table or not rest or not rest[0].strip():
        raise UsageError("a condition is written as table:column=value", hint="such as --where orders:customer_id=4711")
    try:
        pairs = [split_escaped(part.lstrip(), "=", most=2) for part in split_escaped(rest[0], ",")]
    except UsageError:  # it ends with a backslash: so may SQL
        pairs = [[]]
    if any(len(pair) != 2 or not pair[0] for pair in pairs):
        return Condition(_plain(table), Where(rest[0]))
    return Condition(_plain(table), Where(rest[0], tuple((_plain(column), _plain(value)) for column, value in pairs)))


def find_roots(
    stored: StoredTables, tables: Mapping[str, Table], live: Live, wanted: Wanted, report: Reporter
) -> Roots:
    """The records that are meant.

    Raises:
        UsageError: there is no such table, column or key.
        Failed: no record is found.
    """
    roots: Roots = {}
    if wanted.subject is not None:
        roots.setdefault(wanted.subject.table, []).extend(_of_subject(stored, wanted.subject, wanted.keyed_by))
    for condition in wanted.where:
        roots.setdefault(condition.table, []).extend(_of_condition(stored, condition, wanted.ask_rows, report))
    for name in wanted.tables:
        _table(stored, name)
        if name not in tables:
            raise Failed(f"the live database has no table {name}", object_name=name, hint="make the table first")
        report.phase(f"looking for what is missing in {name}")
        roots.setdefault(name, []).extend(_missing(tables[name], live, report))
    lost = 0
    for name, records in wanted.removed.items():
        if name not in stored.tables:
            lost += len(records)
            continue
        found = list(_of_records(stored, stored.tables[name], records))
        lost += max(0, len(records) - len(found))
        roots.setdefault(name, []).extend(found)
    if lost:
        report.warning(f"{lost:,} of the records that were removed are not in this snapshot, or erased")
    for name in roots:
        if name not in tables and roots[name]:
            raise Failed(f"the live database has no table {name}", object_name=name, hint="make the table first")
    return {name: rows for name, rows in roots.items() if rows}


def _table(stored: StoredTables, name: str) -> StoredTable:
    if name not in stored.tables:
        raise UsageError(
            f"the snapshot has no rows of a table {name}",
            object_name=name,
            hint="`backupctl show SNAPSHOT` lists its tables",
        )
    return stored.tables[name]


def _of_subject(stored: StoredTables, subject: Subject, keyed_by: Mapping[str, str]) -> list[Cells]:
    table = _table(stored, subject.table)
    key = (keyed_by[subject.table],) if subject.table in keyed_by else table.key
    if not key:
        raise UsageError(f"{subject.table} has no key", hint="name its rows with --where TABLE:COLUMN=VALUE")
    if len(key) != len(subject.key):
        raise UsageError(f"the key of {subject.table} is {', '.join(key)}: {len(key)} values, separated by commas")
    return _found(table, key, subject.key)


def _of_condition(stored: StoredTables, condition: Condition, ask_rows: AskRows, report: Reporter) -> list[Cells]:
    table = _table(stored, condition.table)
    what = meant(table, [condition.where], ask_rows)
    for column in what.doubtful:
        report.warning(doubt(column))
    return _there(table, matching(table, what, ask_rows))


def _found(table: StoredTable, columns: Sequence[str], texts: Sequence[str]) -> list[Cells]:
    value = tuple(table.cell(column, text) for column, text in zip(columns, texts, strict=True))
    return _there(table, table.rows(columns, [value]))


def _there(table: StoredTable, found: Iterable[Cells]) -> list[Cells]:
    rows = list(found)
    if not rows:
        raise Failed(
            f"no such record of {table.name}: it is not in this snapshot, or erased",
            object_name=table.name,
            hint="`backupctl find` tells which snapshots have a record",
        )
    return rows


def _missing(table: Table, live: Live, report: Reporter) -> Iterator[Cells]:
    """Rows of a snapshot's table that the live one does not have."""
    wholes: list[Cells] = []
    batch: dict[Cells, Cells] = {}
    for row in table.stored.rows():
        key = table.identity(row)
        if key is None:
            wholes.append(row)
        else:
            batch[key] = row
        if len(batch) >= _TOGETHER:
            yield from _absent(table, live, batch)
            report.advance(_size(batch.values()))
            batch = {}
    yield from _absent(table, live, batch)
    wanted = {exact(table.cells(row, table.compared)) for row in wholes}
    there = count_wholes(live, table, wanted)
    standing = Counter(exact(table.cells(row, table.compared)) for row in wholes)
    # all copies of a row are handed on together: how many are missing is the plan's to say
    yield from (row for row in wholes if there[c := exact(table.cells(row, table.compared))] < standing[c])


def _absent(table: Table, live: Live, batch: Mapping[Cells, Cells]) -> Iterator[Cells]:
    found = look_up(live, table.name, (), table.key, batch.keys()) if batch else {}
    return (row for key, row in batch.items() if key not in found)


def _size(rows: Iterable[Cells]) -> int:
    return sum(len(cell) if isinstance(cell, str | bytes) else 8 for row in rows for cell in row)


def _of_records(stored: StoredTables, table: StoredTable, records: Collection[Record]) -> Iterator[Cells]:
    """The rows of records that a comparison showed as values."""
    keyed: dict[tuple[str, ...], list[Record]] = {}
    wholes: list[Record] = []
    for record in records:
        names = tuple(record.columns[at] for at in record.keyed)
        if names and None not in record.key:
            keyed.setdefault(names, []).append(record)
        else:
            wholes.append(record)
    for names, some in keyed.items():
        values = {
            tuple(_cell(stored, table, name, v) for name, v in zip(names, record.key, strict=True)) for record in some
        }
        yield from table.rows(names, values)
    if wholes:
        yield from _like(table, wholes)


def _cell(stored: StoredTables, table: StoredTable, column: str, value: Value) -> Cell:
    if stored.engine == "sqlite" or value is None:
        return value
    return table.cell(column, value if isinstance(value, str) else as_text(value))


def _like(table: StoredTable, records: Sequence[Record]) -> Iterator[Cells]:
    """Rows without a key that read as records do; all copies of one together."""
    places = {column: at for at, (column, _) in enumerate(table.columns)}
    columns = [column for column in records[0].columns if column in places]
    wanted = {
        exact(value for column, value in zip(record.columns, record.old or (), strict=False) if column in places)
        for record in records
    }
    for row in table.rows():
        shown = table.shown(row)
        if exact(shown[places[column]] for column in columns) in wanted:
            yield row
