"""A live SQLite database whose records are read and changed one by one; see `engines.live`.

Everything is written as a statement whose names and values one module quotes, and every value that was written is read back
in the same step: a column's type must not make another one of it. No conflict clause of the schema ever replaces a row.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from backupd.engines.sqlite_alike import numbered
from backupd.engines.sqlite_open import harden, require_regular, result_code, source_errors
from backupd.engines.sqlite_schema import read_live_schema
from backupd.engines.sqlite_text import literal, name, selections
from backupd.errors import BackupdError, Failed, SafetyRefused, SourceIncomplete, TryAgain, Unreachable
from backupd.model import CELLS, Cell, Cells, Change, LiveSchema, LiveTable

_CODECS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
_LATER = frozenset({apsw.SQLITE_BUSY, apsw.SQLITE_LOCKED, apsw.SQLITE_PROTOCOL})
_THERE = frozenset({apsw.SQLITE_CONSTRAINT_PRIMARYKEY, apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_ROWID})
_ROWIDS = ("rowid", "_rowid_", "oid")


class SqliteLive:
    """An open connection to a database file.

    Args:
        path: of the file.
        timeout: seconds to wait for a lock.

    Raises:
        Unreachable: it is no database, or cannot be opened for writing.
    """

    engine = "sqlite"

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 30.0) -> None:
        self._path, self._timeout = Path(path).absolute(), timeout
        require_regular(self._path)
        with source_errors(self._path, timeout):
            self._link = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                self._link.setbusytimeout(int(timeout * 1000))
                harden(self._link)
                self._encoding = _CODECS.get(str(self._link.pragma("encoding")), "utf-8")
            except BaseException:
                self._link.close(True)
                raise
        self._schema: LiveSchema | None = None

    @property
    def identity(self) -> str:
        """The file's own path, without links."""
        return f"sqlite:///{self._path.resolve()}"

    def schema(self) -> LiveSchema:
        """Its tables; a virtual table is none."""
        with source_errors(self._path, self._timeout):
            self._schema, self._numbers = read_live_schema(self._link)
        return self._schema

    def _table(self, table: str) -> LiveTable:
        schema = self._schema or self.schema()
        if table not in schema.tables:
            raise Failed(f"the live database has no table {table}", object_name=table)
        return schema.tables[table]

    def rows(
        self, table: str, columns: Sequence[str], by: Sequence[str] = (), values: Collection[Cells] = ()
    ) -> Iterator[Cells]:
        """Rows, compared by the columns' own collations."""
        self._table(table)
        for text, bindings in selections(table, columns, by, values):
            yield from self._read(text, bindings, len(columns))

    def alike(self, table: str, columns: Sequence[str], values: Collection[Cells]) -> Mapping[Cells, int]:
        """For each value of some columns a number: equal ones for values that SQLite's own rules take for one, in these columns.

        Rules of the program that made the file nobody else knows: by them only the same values are one.
        """
        known = {column.name: column.equality for column in self._table(table).columns}
        return numbered([known.get(column, CELLS) for column in columns], values) if columns else {}

    @property
    def across(self) -> None:
        """Nobody: what refers is of the type of what it refers to, or compares as that does."""
        return None

    def _read(self, query: str, bindings: Sequence[Cell], width: int) -> Iterator[Cells]:
        try:
            with source_errors(self._path, self._timeout):
                for row in self._link.execute(query, bindings):
                    yield tuple(row[:width])
        except UnicodeError:
            raise SourceIncomplete(
                f"{self._path} holds a text that is no Unicode", object_name=str(self._path)
            ) from None

    # ---- changing

    @contextmanager
    def transaction(self, *, triggers: bool, deletes: bool = False) -> Iterator[None]:  # noqa: ARG002 - nobody else writes
        """A transaction that has the write lock from its beginning; foreign keys are checked at its end."""
        with self._errors("the database"):
            self._link.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, int(triggers))
            self._run("PRAGMA query_only=OFF")
            self._run("PRAGMA foreign_keys=ON")
            self._run("BEGIN IMMEDIATE")
        try:
            with self._errors("the database"):
                for text in self.preamble(triggers=triggers):
                    self._run(text)
            yield
            with self._errors("the database"):
                self._run("COMMIT")
        finally:
            if self._link.in_transaction:
                self._link.execute("ROLLBACK").fetchall()
            self._link.execute("PRAGMA query_only=ON").fetchall()

    def _run(self, statement: str) -> list[Cells]:
        return [tuple(row) for row in self._link.execute(statement).fetchall()]

    def statement(self, change: Change) -> str:
        """A change as one statement."""
        table = f"main.{name(change.table)}"
        if change.kind == "insert":
            columns = ", ".join(map(name, change.new))
            values = ", ".join(literal(cell, self._encoding) for cell in change.new.values())
            return f"INSERT OR ABORT INTO {table} ({columns}) VALUES ({values})"  # noqa: S608 - quoted
        condition = self._condition(change)
        if change.kind == "delete":
            return f"DELETE FROM {table} WHERE {condition}"  # noqa: S608 - quoted
        new = ", ".join(f"{name(column)} = {literal(cell, self._encoding)}" for column, cell in change.new.items())
        return f"UPDATE OR ABORT {table} SET {new} WHERE {condition}"  # noqa: S608 - quoted

    def _condition(self, change: Change) -> str:
        """The row by its key, and all that must stand there; one row of several equal ones without a key."""
        definition = self._table(change.table)
        by_key = bool(definition.key) and {*change.key} == {*definition.key}
        parts = [f"{name(c)} IS {literal(cell, self._encoding)}" for c, cell in change.key.items()] if by_key else []
        exactly = change.old if by_key else {**change.key, **change.old}
        parts += [f"{name(c)} COLLATE BINARY IS {literal(cell, self._encoding)}" for c, cell in exactly.items()]
        condition = " AND ".join(parts)
        if by_key:
            return condition
        taken = {column.name.lower() for column in definition.columns}
        rowid = next((word for word in _ROWIDS if word not in taken), None)
        if rowid is None:
            return condition
        return f"{rowid} = (SELECT {rowid} FROM main.{name(change.table)} WHERE {condition} LIMIT 1)"  # noqa: S608 - quoted

    def preamble(self, *, triggers: bool) -> list[str]:  # noqa: ARG002 - SQLite's own shell has no statement for that
        """What comes before the statements inside a transaction."""
        return ["PRAGMA defer_foreign_keys=ON"]

    def statements(self, changes: Sequence[Change]) -> Iterator[tuple[str, Sequence[Change]]]:
        """Each change is a statement: foreign keys are checked at the end."""
        return ((self.statement(change), (change,)) for change in changes)

    def require_changeable(self, changes: Sequence[Change], *, triggers: bool) -> None:  # noqa: ARG002 - triggers can be off
        """Every table can be rolled back."""
        for table in {change.table for change in changes}:
            self._table(table)

    def unchecked(self, changes: Sequence[Change], *, triggers: bool) -> Mapping[str, str]:  # noqa: ARG002
        """None: all are checked at the end."""
        return {}

    def apply(self, changes: Sequence[Change]) -> None:
        """Carry changes out, one by one."""
        for change in changes:
            with self._errors(change.table):
                self._apply(change)

    def _apply(self, change: Change) -> None:
        statement = self.statement(change)
        if change.kind == "delete":
            self._run(statement)
            if self._link.changes() != 1:
                raise _moved(change)
            return
        found = self._run(f"{statement} RETURNING {', '.join(map(name, change.new))}")
        if len(found) != 1:
            raise _moved(change)
        for (column, wanted), cell in zip(change.new.items(), found[0], strict=True):
            if type(wanted) is not type(cell) or wanted != cell:
                raise Failed(
                    f"column {change.table}.{column} would make another value of what the snapshot holds",
                    object_name=change.table,
                    hint="its type is another one than it was; bring the row back by hand",
                )

    def raise_counters(self, tables: Collection[str]) -> list[str]:
        """SQLite raises AUTOINCREMENT by itself when a row is inserted; what lags behind for another reason is raised here."""
        raised = []
        with self._errors("the database"):
            if not self._run("SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence'"):
                return []
            for table in tables:
                text, rowid = literal(table, self._encoding), self._rowid(table)
                if rowid is not None:
                    self._run(
                        f"UPDATE main.sqlite_sequence SET seq = (SELECT max({rowid}) FROM main.{name(table)})"  # noqa: S608
                        f" WHERE name = {text} AND seq < (SELECT max({rowid}) FROM main.{name(table)})"
                    )
                    if self._link.changes():
                        raised.append(table)
        return raised

    def _rowid(self, table: str) -> str | None:
        return next((name(c.name) for c in self._table(table).columns if c.counter), None)

    def orphans(self, tables: Collection[str]) -> list[str]:
        """Foreign keys that rows break."""
        schema = self._schema or self.schema()
        checked = {r.table for r in schema.references if r.table in tables or r.parent in tables}
        found: set[str] = set()
        for table in sorted(checked):
            with self._errors(table):
                rows = self._link.execute("SELECT fkid FROM pragma_foreign_key_check(?, 'main')", (table,)).fetchall()
                found |= {self._numbers.get((table, int(str(number))), table) for (number,) in rows}
        return sorted(found)

    def close(self) -> None:
        """End the connection."""
        self._link.close(True)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """What SQLite refused, without what it was refused for: its messages may hold values."""
        try:
            yield
        except apsw.Error as error:
            raise self._meaning(error, what) from None

    def _meaning(self, error: apsw.Error, what: str) -> BackupdError:
        code, place = result_code(error), str(self._path)
        if code in _LATER:
            return TryAgain(
                f"{place} stayed locked for {self._timeout:g} s",
                object_name=place,
                hint="run again when its writer is done, or allow a longer wait with --lock-timeout",
            )
        if code == apsw.SQLITE_CONSTRAINT:
            extended = getattr(error, "extendedresult", -1)
            if extended in _THERE:
                return SafetyRefused(
                    f"a row of {what} meets one that is there already", object_name=what, hint="make the plan again"
                )
            kind = "a foreign key" if extended == apsw.SQLITE_CONSTRAINT_FOREIGNKEY else "a constraint"
            return Failed(f"{what} refused: {kind} would be broken; nothing was changed", object_name=what)
        if code in (apsw.SQLITE_READONLY, apsw.SQLITE_PERM, apsw.SQLITE_CANTOPEN):
            return Unreachable(f"{place} cannot be written", object_name=place, hint="check its permissions")
        return Failed(
            f"SQLite refused to change {what} ({type(error).__name__}); nothing was changed", object_name=what
        )


def _moved(change: Change) -> SafetyRefused:
    return SafetyRefused(
        f"a row of {change.table} is not what it was when the plan was made; nothing was changed",
        object_name=change.table,
        hint="make the plan again",
    )


def open_live(path: str | os.PathLike[str], *, timeout: float = 30.0) -> SqliteLive:
    """A database file whose records may be changed."""
    return SqliteLive(path, timeout=timeout)
