"""Compare two versions of an SQLite file, stored or live; see `records.pagediff`.

Must never write a page anywhere but into sealed, nameless temporary files.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from backupd.errors import UsageError
from backupd.jobs.comparison import Asked, Comparison, TableDiff
from backupd.jobs.pagefile import PageFile
from backupd.jobs.tableshapes import SchemaChange, column_changes
from backupd.model import Bytes, PagedSchema, PagedTable
from backupd.records.pagediff import Compared, PageDiff, Side
from backupd.records.sqliterecords import RecordShape
from backupd.report import Reporter

ReadSchema = Callable[[Bytes], PagedSchema]
"""What a database file says of its tables; the engine's."""


def compare_files(old: PageFile, new: PageFile, read_schema: ReadSchema, asked: Asked, report: Reporter) -> Comparison:
    """Compare two versions of a file, table by table.

    Raises:
        IntegrityError: one of them is no sound database, or what is needed of it is damaged.
        UsageError: neither has the table that was asked for.
    """
    schemas = read_schema(old), read_schema(new)
    found = Comparison()
    with ExitStack() as stack:
        tables = []
        for table, partly in _matched(*schemas, asked, found):
            stack.callback(table.difference.close)
            if partly and (reason := asked.unclear(table.name, table.difference.shape)):
                found.tables.append(TableDiff(table.name, reason=reason))
            else:
                tables.append(table)
        report.phase("comparing pages", max(old.size, new.size))
        PageDiff(old, new, old.same(new), tables).run(report.advance)
        for table in tables:
            if table.fault is not None:
                found.tables.append(TableDiff(table.name, reason=f"cannot be compared: {table.fault}"))
            else:
                found.tables.append(asked.count(table.name, table.difference))
    for name in sorted({*schemas[0].virtual, *schemas[1].virtual}):
        if asked.table in (None, name):
            found.tables.append(TableDiff(name, reason="a virtual table has no records of its own"))
    found.tables.sort(key=lambda table: table.name)
    found.schema_changes += _other_changes(*schemas)
    return found


def _matched(old: PagedSchema, new: PagedSchema, asked: Asked, found: Comparison) -> Iterator[tuple[Compared, bool]]:
    """The tables, and whether only some columns of one are compared."""
    before, after = ({table.name: table for table in schema.tables} for schema in (old, new))
    names = sorted({*before, *after}) if asked.table is None else [asked.table]
    if not {*before, *after, *old.virtual, *new.virtual} >= {*names}:
        raise UsageError(f"neither side has a table {asked.table}", object_name=asked.table)
    budget = max(1 << 20, (64 << 20) // max(1, len(names)))
    for name in names:
        was, now = before.get(name), after.get(name)
        if was is not None and now is not None:
            found.schema_changes += _changes(was, now)
        elif was is not None or now is not None:
            found.schema_changes.append(SchemaChange(name, "table removed" if now is None else "table added"))
        if was is not None or now is not None:
            yield _compared(name, (was, old.encoding), (now, new.encoding), asked, budget)


def _compared(
    name: str, old: tuple[PagedTable | None, str], new: tuple[PagedTable | None, str], asked: Asked, budget: int
) -> tuple[Compared, bool]:
    was, now = old[0], new[0]
    only, key = _columns(was, now)
    if old[1] != new[1] and was is not None and now is not None:
        only = only or [column.name for column in now.columns]
    sides = [
        None if table is None else Side(table, RecordShape(table, encoding, key, only))
        for table, encoding in (old, new)
    ]
    shape = next(side.shape for side in reversed(sides) if side is not None)
    skips = was is None or now is None or (old[1] == new[1] and _same_places(was, now))
    compared = Compared(name, sides[0], sides[1], asked.difference(name, shape, budget=budget), skips)
    return compared, only is not None


def _columns(was: PagedTable | None, now: PagedTable | None) -> tuple[list[str] | None, Sequence[str]]:
    """The columns that are compared, None for all as they stand; and the key."""
    if was is None or now is None:
        table = was or now
        assert table is not None
        return None, table.key
    names = [column.name for column in now.columns]
    if was.columns == now.columns and (was.storage, was.alias, was.rowid) == (now.storage, now.alias, now.rowid):
        return None, now.key or was.key
    there = {column.name for column in was.columns}
    common = [name for name in names if name in there]
    return common, next((t.key for t in (now, was) if t.key and set(t.key) <= set(common)), ())


def _same_places(was: PagedTable, now: PagedTable) -> bool:
    """Whether the columns that both have are at the same places of a record, and mean the same there."""
    alias = [None if t.alias is None else t.columns[t.alias].name for t in (was, now)]
    if was.rowid != now.rowid or alias[0] != alias[1]:
        return False
    places = [
        {t.columns[at].name: (n, t.columns[at].real, t.columns[at].default) for n, at in enumerate(t.storage)}
        for t in (was, now)
    ]
    return all(places[0][name] == places[1][name] for name in places[0].keys() & places[1].keys())


def _changes(was: PagedTable, now: PagedTable) -> Iterator[SchemaChange]:
    types = [{column.name: column.type for column in table.columns} for table in (was, now)]
    yield from column_changes(now.name, *types)
    if was.key != now.key:
        yield SchemaChange(now.name, "key changed", None, ", ".join(was.key), ", ".join(now.key))


def _other_changes(old: PagedSchema, new: PagedSchema) -> Iterator[SchemaChange]:
    """Indexes, views and triggers that are not what they were."""
    for name in sorted({*old.others, *new.others}):
        if old.others.get(name) != new.others.get(name):
            word = "removed" if name not in new.others else "added" if name not in old.others else "changed"
            yield SchemaChange(None, f"definition {word}", name)
