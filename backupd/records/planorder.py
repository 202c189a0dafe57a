"""In which order rows are written: parents before what refers to them, one row after the other.

Rows that refer to each other in a circle stand together. Where the database checks at once and a reference of the circle
may be NULL, the row is written with NULL first and updated behind; where none may be, the engine has to carry the circle out
in one statement, or to check at the end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter

from backupd.model import Cells, Change, LiveTable, Reference
from backupd.records.leading import Leading


@dataclass(frozen=True, slots=True)
class _Edge:
    child: int
    parent: int
    reference: Reference


@dataclass(frozen=True, slots=True)
class Ordered:
    """Changes in their order, and the tables of rows in circles that could not be broken."""

    changes: tuple[Change, ...] = field(repr=False)
    circles: tuple[str, ...]


CellsOf = Callable[[Change, Sequence[str]], Cells]
"""What an inserted row has in some columns, those that the database computes among them, as far as that is known."""


def written_cells(change: Change, columns: Sequence[str]) -> Cells:
    """What an insert writes into some columns; NULL where it writes nothing."""
    return tuple(change.new.get(column) for column in columns)


def ordered(
    inserts: Sequence[Change],
    tables: Mapping[str, LiveTable],
    references: Sequence[Reference],
    leading: Leading,
    cells_of: CellsOf = written_cells,
) -> Ordered:
    """Inserts in the order in which they can be carried out.

    Args:
        inserts: in any order.
        tables: what the live database says of them.
        references: those that are checked, and others.
        leading: how values are compared along them.
        cells_of: what stands in columns of an inserted row.
    """
    if (levels := _levels(inserts, references, leading, cells_of)) is not None:
        return Ordered(tuple(inserts[at] for at in levels), ())
    edges = list(_edges(inserts, references, leading, cells_of))
    circles: set[str] = set()
    changes = list(_in_order(list(inserts), list(range(len(inserts))), edges, tables, circles))
    return Ordered(tuple(changes), tuple(sorted(circles)))


def _levels(
    inserts: Sequence[Change], references: Sequence[Reference], leading: Leading, cells_of: CellsOf
) -> list[int] | None:
    """The order in which rows of tables that refer to no others in a circle are written, without a graph of all rows."""
    tables = {change.table for change in inserts}
    inside = [r for r in references if {r.table, r.parent} <= tables]
    graph: dict[str, set[str]] = {name: set() for name in tables}
    for reference in inside:
        graph[reference.table].add(reference.parent)
    try:
        names = list(TopologicalSorter(graph).static_order())
    except CycleError:
        return None
    depth = [0] * len(inserts)
    for name in names:  # all parents are known by then
        for edge in _edges(inserts, [r for r in inside if r.table == name], leading, cells_of):
            depth[edge.child] = max(depth[edge.child], depth[edge.parent] + 1)
    return sorted(range(len(inserts)), key=lambda at: (depth[at], inserts[at].table, at))


def _edges(
    inserts: Sequence[Change], references: Sequence[Reference], leading: Leading, cells_of: CellsOf
) -> Iterator[_Edge]:
    by_table: dict[str, list[int]] = {}
    for at, change in enumerate(inserts):
        by_table.setdefault(change.table, []).append(at)
    for reference in references:
        children, parents = by_table.get(reference.table, []), by_table.get(reference.parent, [])
        if not children or not parents:
            continue
        to = {at: cells for at in parents if None not in (cells := cells_of(inserts[at], reference.parent_columns))}
        of = {at: cells for at in children if None not in (cells := cells_of(inserts[at], reference.columns))}
        names, parents_names = leading.sides(reference, {*of.values()}, {*to.values()})
        places = {parents_names[cells]: at for at, cells in to.items()}
        for at, value in of.items():
            parent = places.get(names[value]) if value in names else None
            if parent is not None and parent != at:
                yield _Edge(at, parent, reference)


def _in_order(
    inserts: list[Change],
    nodes: Sequence[int],
    edges: Sequence[_Edge],
    tables: Mapping[str, LiveTable],
    circles: set[str],
) -> Iterator[Change]:
    for group in _groups(inserts, nodes, edges):
        if len(group) == 1:
            yield inserts[group[0]]
            continue
        members = set(group)
        inside = [edge for edge in edges if edge.child in members and edge.parent in members]
        cut = _breakable(inside, tables)
        if cut is None:
            if not all(edge.reference.deferrable or not edge.reference.declared for edge in inside):
                circles |= {inserts[at].table for at in group}
            yield from (inserts[at] for at in group)
            continue
        reference, columns = cut
        behind, cut_rows = [], {edge.child for edge in inside if edge.reference is reference}
        for at in sorted(cut_rows):
            inserts[at], update = _split(inserts[at], columns)
            behind.append(update)
        left = [e for e in inside if e.child not in cut_rows or not set(e.reference.columns) & set(columns)]
        yield from _in_order(inserts, group, left, tables, circles)
        yield from behind


def _breakable(edges: Sequence[_Edge], tables: Mapping[str, LiveTable]) -> tuple[Reference, tuple[str, ...]] | None:
    """A reference that may be NULL for a moment, and its columns that may."""
    if all(edge.reference.deferrable or not edge.reference.declared for edge in edges):
        return None
    for edge in edges:
        table = tables[edge.reference.table]
        free = {c.name for c in table.columns if not c.required and not c.generated} - set(table.key)
        columns = tuple(column for column in edge.reference.columns if column in free)
        if columns:
            return edge.reference, columns
    return None


def _split(change: Change, columns: Sequence[str]) -> tuple[Change, Change]:
    """An insert with NULL in some columns, and the update that brings them."""
    nulls = dict.fromkeys(columns)
    update = Change("update", change.table, change.key, nulls, {column: change.new[column] for column in columns})
    key = {**change.key, **{c: None for c in columns if c in change.key}}
    return replace(change, key=key, new={**change.new, **nulls}), replace(update, key=key)


def _groups(inserts: Sequence[Change], nodes: Sequence[int], edges: Sequence[_Edge]) -> list[list[int]]:
    """Rows, those of a circle together, parents first; otherwise by table and in their order."""
    parents: dict[int, list[int]] = {node: [] for node in nodes}
    for edge in edges:
        if edge.child in parents and edge.parent in parents:
            parents[edge.child].append(edge.parent)
    circles = _circles(parents)
    depth: dict[int, int] = {}
    for circle in circles:  # parents come first
        inside = set(circle)
        above = [depth[p] + 1 for node in circle for p in parents[node] if p not in inside]
        for node in circle:
            depth[node] = max(above, default=0)
    groups = [sorted(circle) for circle in circles]
    return sorted(groups, key=lambda g: (depth[g[0]], len(g) > 1, inserts[g[0]].table, g[0]))


def _circles(parents: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Strongly connected components, those that others refer to first (Tarjan 1972, without recursion)."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    waiting: set[int] = set()
    found: list[list[int]] = []
    for root in parents:
        if root in number:
            continue
        work = [(root, iter(parents[root]))]
        while work:
            node, rest = work[-1]
            if node not in number:
                number[node] = low[node] = len(number)
                stack.append(node)
                waiting.add(node)
            following = next((p for p in rest if p not in number or p in waiting), None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    found.append(_popped(stack, waiting, node))
            elif following in number:
                low[node] = min(low[node], number[following])
            else:
                work.append((following, iter(parents[following])))
    return found


def _popped(stack: list[int], waiting: set[int], node: int) -> list[int]:
    out = []
    while True:
        last = stack.pop()
        waiting.discard(last)
        out.append(last)
        if last == node:
            return out
