"""Takes rows that must not come back out of a restored database file, before anybody sees it.

What refers to such a row follows it, as the file's own foreign keys say: deleted with it, or its reference made NULL. Foreign
keys are followed here and not by SQLite, so that rows that broke them before stay as they were, and no trigger of the file runs.
Afterwards the whole file is written anew: nothing of the rows is left in free pages. Must never put a value into a message.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from backupd.engines.base import RowRule, RuleOf, Taken
from backupd.engines.sqlite_open import harden
from backupd.errors import Failed
from backupd.model import Cell

_CODECS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
_TABLES = (
    "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%'"
    " ESCAPE '\\' ORDER BY name"
)
_SAMPLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name IN ('sqlite_stat3', 'sqlite_stat4')"
_VIRTUAL = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual' ORDER BY name"
_COLUMNS = "SELECT name, pk FROM pragma_table_xinfo(?, 'main') WHERE hidden IN (0, 3) ORDER BY cid"
_REFERENCES = 'SELECT id, "table", "from", "to", on_delete FROM pragma_foreign_key_list(?, \'main\') ORDER BY id, seq'
_Address = tuple[Any, ...]
_WAL = b"\2\2"
_WRITING = (
    "query_only=OFF",
    "foreign_keys=OFF",
    "journal_mode=MEMORY",
    "secure_delete=ON",
)


@dataclass(frozen=True, slots=True)
class _Reference:
    """A foreign key of the file; a row whose parent goes is deleted too, unless `empties`."""

    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    empties: bool


@dataclass(slots=True)
class _Table:
    """A table, and by what its rows are found: the rowid, or the key."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    address: tuple[str, ...]
    gone: set[_Address] = field(default_factory=set, repr=False)


def take_out(path: Path, rule_of: RuleOf) -> Taken:
    """Take rows out of a database file that nobody has open.

    Raises:
        Failed: SQLite does not let them be deleted.
    """
    fresh = path.with_name(f"{path.name}.fresh")
    with path.open("rb") as file:
        wal = file.read(20)[18:20] == _WAL
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        harden(connection)
        work = _Work(connection, rule_of)
        if work.judge() or work.concerned:  # rows that are gone may still stand in free pages
            for pragma in _WRITING:
                connection.execute(f"PRAGMA {pragma}").fetchall()
            with connection:
                work.carry_out()
                work.forget_samples()
            connection.execute("VACUUM INTO ?", (str(fresh),)).fetchall()
    except (apsw.Error, UnicodeDecodeError) as error:
        fresh.unlink(missing_ok=True)
        raise Failed(
            f"rows of somebody who was erased could not be taken out of the copy ({type(error).__name__})",
            hint="--with-erased --reason TEXT restores them too, and that is recorded: take them out by hand",
        ) from None
    finally:
        connection.close(True)
    changed = fresh.exists()
    if changed:
        _replace(path, fresh, wal=wal)
    virtual = ", ".join(work.virtual) if work.touched else ""
    warned = (
        (f"virtual tables may still hold text of rows that were erased: {virtual}; rebuild them",) if virtual else ()
    )
    return Taken(work.gone, warned, changed)


def _replace(path: Path, fresh: Path, *, wal: bool) -> None:
    """Put the file that was written anew in the old one's place, flushed, with the same kind of journal."""
    if wal:
        connection = apsw.Connection(str(fresh), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
        finally:
            connection.close(True)
    fresh.chmod(0o600)
    descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)


class _Work:
    """The tables of one file, and which of their rows go."""

    def __init__(self, connection: apsw.Connection, rule_of: RuleOf) -> None:
        self._link, self._rule_of = connection, rule_of
        self._codec = _CODECS.get(str(connection.pragma("encoding")), "utf-8")
        self.virtual = [str(name) for (name,) in connection.execute(_VIRTUAL).fetchall()]
        self._tables = {t.name.casefold(): t for t in map(self._table, connection.execute(_TABLES).fetchall())}
        self._references = [r for table in self._tables.values() for r in self._referring(table)]
        self._going: list[tuple[_Table, _Address]] = []
        self._emptied: list[tuple[_Table, _Address, list[str]]] = []
        self.concerned = False

    @property
    def touched(self) -> bool:
        """Whether anything of the rows is to be done."""
        return bool(self._going or self._emptied)

    def judge(self) -> bool:
        """Look at all rows, as they are; returns whether anything is to be done."""
        for table in self._tables.values():
            rule = self._rule_of(table.name, table.columns)
            self.concerned = self.concerned or rule is not None
            for address, found in self._judged(table, rule) if rule is not None else ():
                if found is None:
                    self._going.append((table, address))
                else:
                    self._emptied.append((table, address, found))
        return self.touched

    def carry_out(self) -> None:
        """Take out what was found, and what follows it."""
        for table, address in self._going:
            self._take(table, address)
        for table, address, columns in self._emptied:
            self._empty(table, columns, table.address, address)
        for table in self._tables.values():
            statement = f"DELETE FROM main.{_quoted(table.name)} WHERE {_where(table.address)}"
            for address in table.gone:
                self._link.execute(statement, address).fetchall()

    def forget_samples(self) -> None:
        """Take out the keys that ANALYZE has copied for the planner; it goes on with its counts."""
        for (name,) in self._link.execute(_SAMPLES).fetchall():
            self._link.execute(f"DELETE FROM main.{_quoted(str(name))}").fetchall()

    @property
    def gone(self) -> int:
        """How many rows went."""
        return sum(len(table.gone) for table in self._tables.values())

    def _judged(self, table: _Table, rule: RowRule) -> Iterator[tuple[_Address, list[str] | None]]:
        """The rows of a table that go by themselves (None), and those of which some columns become NULL."""
        if not table.address:
            raise Failed(f"the rows of table {table.name} have no address by which they could be deleted")
        for address, cells in self._rows(table, rule.positions):
            found = rule.judge(cells)
            if found is None:
                yield address, None
            elif found:
                yield address, [table.columns[at] for at in found]

    def _take(self, table: _Table, address: _Address) -> None:
        """A row goes, and with it what refers to it."""
        waiting = [(table, address)]
        while waiting:
            table, address = waiting.pop()
            if address in table.gone:
                continue
            table.gone.add(address)
            for reference in self._references:
                if reference.parent.casefold() == table.name.casefold():
                    waiting += self._follow(table, address, reference)

    def _follow(self, table: _Table, address: _Address, reference: _Reference) -> list[tuple[_Table, _Address]]:
        wanted = ", ".join(map(_quoted, reference.parent_columns))
        where = _where(table.address)
        found = self._link.execute(f"SELECT {wanted} FROM main.{_quoted(table.name)} WHERE {where}", address).fetchall()
        child = self._tables[reference.table.casefold()]
        if not found or None in found[0]:
            return []
        if reference.empties:
            self._empty(child, reference.columns, reference.columns, found[0])
            return []
        selected = f"SELECT {', '.join(map(_quoted, child.address))} FROM main.{_quoted(child.name)}"
        rows = self._link.execute(f"{selected} WHERE {_where(reference.columns)}", found[0]).fetchall()
        return [(child, row) for row in rows]

    def _empty(self, table: _Table, columns: Sequence[str], by: Sequence[str], values: tuple[Any, ...]) -> None:
        made = ", ".join(f"{_quoted(column)} = NULL" for column in columns)
        self._link.execute(f"UPDATE main.{_quoted(table.name)} SET {made} WHERE {_where(by)}", values).fetchall()

    def _rows(self, table: _Table, positions: Sequence[int]) -> Iterator[tuple[_Address, list[Cell]]]:
        """Addresses, and the cells that a rule looks at; the others are None. Texts come as bytes: not all can be read."""
        wanted = [_quoted(table.columns[at]) for at in positions]
        parts = [*map(_quoted, table.address)]
        parts += [
            f"CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) ELSE {c} END, typeof({c}) = 'text'" for c in wanted
        ]
        width = len(table.address)
        for row in self._link.execute(f"SELECT {', '.join(parts)} FROM main.{_quoted(table.name)}"):
            cells: list[Cell] = [None] * len(table.columns)
            for n, at in enumerate(positions):
                value, text = row[width + 2 * n : width + 2 * n + 2]
                cells[at] = value.decode(self._codec, "backslashreplace") if text else value
            yield row[:width], cells

    def _table(self, found: tuple[Any, ...]) -> _Table:
        name, without_rowid = str(found[0]), bool(found[1])
        columns = self._link.execute(_COLUMNS, (name,)).fetchall()
        names = tuple(str(column) for column, _ in columns)
        key = tuple(str(column) for column, pk in sorted(columns, key=lambda c: int(str(c[1]))) if pk)
        free = next((word for word in ("rowid", "_rowid_", "oid") if word not in {n.casefold() for n in names}), None)
        return _Table(name, names, key, key if without_rowid or free is None else (free,))

    def _referring(self, table: _Table) -> Iterator[_Reference]:
        by_id: dict[int, list[tuple[Any, ...]]] = {}
        for number, *rest in self._link.execute(_REFERENCES, (table.name,)).fetchall():
            by_id.setdefault(int(str(number)), []).append(tuple(rest))
        for parts in by_id.values():
            parent = self._tables.get(str(parts[0][0]).casefold())
            if parent is None:
                continue
            there = tuple(str(to) for _, _, to, _ in parts if to is not None) or parent.key
            mine = tuple(str(column) for _, column, _, _ in parts)
            known = {name.casefold() for name in parent.columns}
            if len(there) == len(mine) and all(name.casefold() in known for name in there):
                empties = str(parts[0][3]).upper() in {"SET NULL", "SET DEFAULT"}
                yield _Reference(table.name, mine, parent.name, there, empties)


def _where(columns: Sequence[str]) -> str:
    return " AND ".join(f"{_quoted(column)} = ?" for column in columns)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
