"""A live database and a snapshot in memory, for tests of recovery: rows in dicts, foreign keys and triggers' absence exact."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

from backupd.errors import Failed, SafetyRefused, UsageError
from backupd.model import Cell, Cells, Change, LiveColumn, LiveSchema, LiveTable, Reference, Spelling
from backupd.records.values import Value


def table(name: str, columns: Sequence[LiveColumn | str], key: Sequence[str] = ("id",), **more: object) -> LiveTable:
    """A live table; a column by its name alone may be NULL."""
    made = tuple(LiveColumn(c, "") if isinstance(c, str) else c for c in columns)
    return LiveTable(name, made, tuple(key), **more)  # type: ignore[arg-type]


def refers(child: str, column: str, parent: str, on_delete: str = "cascade", **more: object) -> Reference:
    """A foreign key of one column to `id`."""
    return Reference(f"{child}_{column}", child, (column,), parent, ("id",), on_delete, **more)  # type: ignore[arg-type]


@dataclass
class MemoryTable:
    """A table of a snapshot."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    held: list[Cells]
    asked: list[tuple[tuple[str, ...], int]] = field(default_factory=list)

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        self.asked.append((tuple(by), len(values)))
        places = [[c for c, _ in self.columns].index(name) for name in by]
        wanted = set(values)
        for row in self.held:
            value = tuple(row[at] for at in places)
            if not by or (None not in value and value in wanted):
                yield row

    def chosen(self, by: Sequence[str], fits: Callable[[Cells], bool]) -> Iterator[Cells]:
        places = [[c for c, _ in self.columns].index(name) for name in by]
        return (row for row in self.held if fits(tuple(row[at] for at in places)))

    def shown(self, row: Cells) -> tuple[Value, ...]:
        return row

    def cell(self, column: str, text: str) -> Cell:
        if column not in dict(self.columns):
            raise UsageError(f"no column {column}")
        return int(text) if text.lstrip("-").isdigit() else text


@dataclass
class MemoryStored:
    """A snapshot."""

    tables: Mapping[str, MemoryTable]
    engine: str = "sqlite"
    fetched_bytes: int = 0


class MemoryLive:
    """A live database that checks keys, uniques and foreign keys as one does at the end of a transaction."""

    engine = "sqlite"
    identity = "memory"

    def __init__(self, schema: LiveSchema, rows: Mapping[str, Sequence[Cells]] | None = None) -> None:
        self._schema = schema
        self.held: dict[str, list[dict[str, Cell]]] = {name: [] for name in schema.tables}
        for name, some in (rows or {}).items():
            names = [c.name for c in schema.tables[name].columns]
            self.held[name] = [dict(zip(names, row, strict=True)) for row in some]
        self.log: list[str] = []

    def schema(self) -> LiveSchema:
        return self._schema

    def snapshot(self) -> MemoryStored:
        """What it holds now, as a snapshot."""
        return MemoryStored(
            {
                name: MemoryTable(
                    name,
                    tuple((c.name, c.type) for c in t.columns),
                    t.key,
                    [tuple(row[c.name] for c in t.columns) for row in self.held[name]],
                )
                for name, t in self._schema.tables.items()
            }
        )

    def state(self) -> dict[str, Counter[Cells]]:
        """All rows, to compare."""
        return {
            name: Counter(tuple(row[c.name] for c in self._schema.tables[name].columns) for row in rows)
            for name, rows in self.held.items()
        }

    def rows(
        self, table: str, columns: Sequence[str], by: Sequence[str] = (), values: Collection[Cells] = ()
    ) -> Iterator[Cells]:
        wanted = set(values)
        for row in list(self.held[table]):
            value = tuple(row[c] for c in by)
            if not by or (None not in value and value in wanted):
                yield tuple(row[c] for c in columns)

    def alike(self, table: str, columns: Sequence[str], values: Collection[Cells]) -> Mapping[Cells, int]:
        """Texts without case, as a collation of some language."""
        numbers: dict[object, int] = {}
        return {v: numbers.setdefault(tuple(str(c).casefold() for c in v), len(numbers)) for v in values}

    def spellings(self, reference: Reference) -> tuple[Spelling, ...]:
        return ()

    def as_parents(self, reference: Reference, values: Collection[Cells]) -> Mapping[Cells, Cells | None]:
        return {value: value for value in values}

    def computed(
        self, table: str, columns: Sequence[str], by: Sequence[str], values: Collection[Cells]
    ) -> Mapping[Cells, Cells]:
        raise AssertionError("no column is said to be made of others")

    @contextmanager
    def transaction(self, *, triggers: bool, deletes: bool = False) -> Iterator[None]:
        before = deepcopy(self.held)
        try:
            yield
            if broken := self.orphans(self.held):
                raise Failed(f"broken: {broken}")
        except BaseException:
            self.held = before
            raise

    def statement(self, change: Change) -> str:
        return f"{change.kind} {change.table}"

    def preamble(self, *, triggers: bool) -> list[str]:
        return []

    def statements(self, changes: Sequence[Change]) -> Iterator[tuple[str, Sequence[Change]]]:
        return ((self.statement(change), (change,)) for change in changes)

    def require_changeable(self, changes: Sequence[Change], *, triggers: bool) -> None:
        pass

    def unchecked(self, changes: Sequence[Change], *, triggers: bool) -> Mapping[str, str]:
        return {}

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.log.append(f"{change.kind} {change.table}")
            rows = self.held[change.table]
            if change.kind == "insert":
                self._insert(change)
                continue
            found = [row for row in rows if all(row[c] == v for c, v in {**change.key, **change.old}.items())]
            if not found or (self._schema.tables[change.table].key and len(found) > 1):
                raise SafetyRefused(f"{change.kind} of {change.table}: not as it was")
            if change.kind == "delete":
                self._cascade(change.table, found[0])
            else:
                found[0].update(change.new)

    def _cascade(self, name: str, row: dict[str, Cell]) -> None:
        """Delete one row, and what the foreign keys take with it."""
        self.held[name] = [other for other in self.held[name] if other is not row]
        for r in self._schema.references:
            if r.parent == name and r.declared and r.on_delete == "cascade":
                value = tuple(row[c] for c in r.parent_columns)
                for child in [c for c in self.held[r.table] if tuple(c[n] for n in r.columns) == value]:
                    self._cascade(r.table, child)

    def _insert(self, change: Change) -> None:
        definition = self._schema.tables[change.table]
        row: dict[str, Cell] = {c.name: None for c in definition.columns} | dict(change.new)
        for unique in (definition.key, *definition.uniques):
            value = tuple(row[c] for c in unique)
            taken = (tuple(other[c] for c in unique) == value for other in self.held[change.table])
            if unique and None not in value and any(taken):
                raise SafetyRefused(f"insert into {change.table}: there already")
        self.held[change.table].append(row)

    def raise_counters(self, tables: Collection[str]) -> list[str]:
        return []

    def orphans(self, tables: Collection[str]) -> list[str]:
        found = []
        for r in self._schema.references:
            if not r.declared:
                continue
            there = {tuple(row[c] for c in r.parent_columns) for row in self.held[r.parent]}
            values = {tuple(row[c] for c in r.columns) for row in self.held[r.table]}
            if any(None not in value and value not in there for value in values):
                found.append(r.name)
        return found

    def close(self) -> None:
        pass

    def delete(self, name: str, **where: Cell) -> None:
        """What a client's DELETE does, with everything that its foreign keys do then."""
        gone = [row for row in self.held[name] if all(row[c] == v for c, v in where.items())]
        self.held[name] = [row for row in self.held[name] if not any(row is one for one in gone)]
        for r in self._schema.references:
            if r.parent != name or not r.declared:
                continue
            for row in gone:
                value = tuple(row[c] for c in r.parent_columns)
                for child in [c for c in self.held[r.table] if tuple(c[n] for n in r.columns) == value]:
                    if not any(child is other for other in self.held[r.table]):
                        continue
                    if r.on_delete == "set null":
                        child.update(dict.fromkeys(r.columns))
                    elif r.on_delete == "set default":
                        columns = {c.name: c.fallback for c in self._schema.tables[r.table].columns}
                        child.update({c: columns[c] for c in r.columns})
                    elif self._schema.tables[r.table].key:
                        self.delete(r.table, **{k: child[k] for k in self._schema.tables[r.table].key})
                    else:
                        self.held[r.table] = [other for other in self.held[r.table] if other is not child]
