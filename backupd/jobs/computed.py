"""Tables of a snapshot with columns that the database computes: of those it has no values, and references may lead by them.

What they were is what the live database computes of the stored columns that they are made of; it is asked for many rows at a
time, and only about columns of references. Where it cannot be asked, a table stays as it is.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from backupd.engines.live import Live
from backupd.jobs.stored import StoredTable
from backupd.model import Cells, LiveSchema, LiveTable, Reference

_TOGETHER = 1000
_KEPT = 200_000


def with_computed(
    stored: Mapping[str, StoredTable], live: Live, schema: LiveSchema, references: Sequence[Reference]
) -> dict[str, "StoredTable | ComputedTable"]:
    """The same tables, with the computed columns that references need."""
    found: dict[str, StoredTable | ComputedTable] = dict(stored)
    for name, table in stored.items():
        known = schema.tables.get(name)
        needed = {c for r in references for side, columns in _sides(r) if side == name for c in columns}
        missing = sorted(needed - {column for column, _ in table.columns})
        if known is None or not missing:
            continue
        sources = _sources(known, missing)
        if sources is not None and {*sources} <= {column for column, _ in table.columns}:
            found[name] = ComputedTable(table, known, missing, sources, live)
    return found


def _sides(reference: Reference) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield reference.table, reference.columns
    yield reference.parent, reference.parent_columns


def _sources(table: LiveTable, columns: Collection[str]) -> tuple[str, ...] | None:
    """What columns are made of; None if one of them is not computed, or nobody may be asked about it."""
    found: dict[str, None] = {}
    known = {column.name: column.made_of for column in table.columns if column.generated}
    for name in columns:
        made_of = known.get(name)
        if made_of is None:
            return None
        found |= dict.fromkeys(made_of)
    return tuple(found)


class ComputedTable:
    """A table of a snapshot, its rows with more columns behind; see `StoredTable`.

    Args:
        stored: the table.
        known: what the live database says of it.
        computed: names of the columns that come behind.
        sources: of what they are made.
        live: computes them.
    """

    def __init__(
        self, stored: StoredTable, known: LiveTable, computed: Sequence[str], sources: Sequence[str], live: Live
    ) -> None:
        self._stored, self._computed, self._sources, self._live = stored, tuple(computed), tuple(sources), live
        types = {column.name: column.type for column in known.columns}
        self.name = stored.name
        self.columns = (*stored.columns, *((name, types[name]) for name in computed))
        self.key = stored.key
        self._width = len(stored.columns)
        self._names = [name for name, _ in self.columns]
        self._from = [self._names.index(name) for name in sources]
        self._known: dict[Cells, Cells] = {}

    def rows(self, by: Sequence[str] = (), values: Collection[Cells] = ()) -> Iterator[Cells]:
        """See `StoredTable`. By a computed column all rows that may be meant are looked at."""
        computed = [at for at, name in enumerate(by) if name in self._computed]
        if not computed:
            yield from self.widened(self._stored.rows(by, values))
            return
        wanted = {*values}
        plain = [at for at in range(len(by)) if at not in computed]
        some = {tuple(value[at] for at in plain) for value in wanted}
        found = self._stored.rows([by[at] for at in plain], some) if plain else self._stored.rows()
        places = [self._names.index(name) for name in by]
        yield from (row for row in self.widened(found) if tuple(row[at] for at in places) in wanted)

    def chosen(self, by: Sequence[str], fits: Callable[[Cells], bool]) -> Iterator[Cells]:
        """See `StoredTable`."""
        if not {*by} & {*self._computed}:
            return self.widened(self._stored.chosen(by, fits))
        places = [self._names.index(name) for name in by]
        return (row for row in self.widened(self._stored.rows()) if fits(tuple(row[at] for at in places)))

    def widened(self, rows: Iterable[Cells]) -> Iterator[Cells]:
        """Rows of the snapshot with the computed columns behind, whether or not they have them already."""
        found = iter(rows)
        while batch := list(islice(found, _TOGETHER)):
            wanted = [tuple([row[at] for at in self._from]) for row in batch]
            if new := {*wanted} - self._known.keys():
                if len(self._known) > _KEPT:
                    self._known.clear()
                    new = {*wanted}
                self._known |= self._live.computed(self.name, self._computed, self._sources, new)
            yield from (row[: self._width] + self._known[cells] for row, cells in zip(batch, wanted, strict=True))
