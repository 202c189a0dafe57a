"""A live MariaDB or MySQL database whose rows are found and changed one by one.

A transaction is READ COMMITTED, and each row that it reads is locked against writers, so that what was read stands until the
end and what was not read holds up nobody. Must never put a value into a message, never write to a table that cannot be
rolled back, and never commit anything after a failure.
"""

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter

import pymysql
from pymysql.cursors import SSCursor

from backupd.engines import grouping, rowproof
from backupd.engines.base import ServerPlace
from backupd.engines.mariadb import live_text
from backupd.engines.mariadb.client import (
    LOST,
    Connection,
    connect,
    discard,
    error_number,
    inner,
    quote_name,
    read_server,
    run,
    server_errors,
)
from backupd.engines.mariadb.live_checks import explained, moved_on, orphan
from backupd.engines.mariadb.live_schema import Known, Shape, read_shape
from backupd.engines.ranking import RANKED, RANKED_BYTES, ranked
from backupd.errors import Failed, SafetyRefused, Unreachable
from backupd.model import Cells, Change, LiveSchema

_AT_ONCE = 200
_BYTES_AT_ONCE = 1 << 20
_SORTED = 16_384
"""Bytes by which a value is put in order: more than the longest key takes up in any collation."""
_STALL = 900.0
_PLAN_AGAIN = "plan again: it was changed meanwhile"


def open_live(place: ServerPlace, *, timeout: float = 30.0) -> "MariaLive":
    """Connect to a database whose rows shall be read and changed.

    Args:
        place: the server and the database.
        timeout: seconds to wait for the connection, and for each lock.

    Raises:
        Unreachable, TryAgain: no connection.
    """
    link = connect(place, timeout=timeout, database=place.database, read_timeout=_STALL)
    try:
        seconds = max(1, round(timeout))
        with server_errors(place, "setting the session up"):
            for text in live_text.preamble():
                run(link, text)
            run(link, f"SET SESSION innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}")
            run(link, f"SET SESSION max_sort_length = {_SORTED}")
        return MariaLive(place, link)
    except BaseException:
        discard(link)
        raise


class MariaLive:
    """A connection to a live database; made by `open_live`."""

    engine = "mariadb"

    def __init__(self, place: ServerPlace, link: Connection) -> None:
        self._place = place
        self._link = link
        self._server = read_server(place, link)
        self._marker = b"N" + secrets.token_hex(12).encode()  # drawn now, so no row can hold it
        self._shape: Shape | None = None
        self._inside = False
        self._triggers = True
        self._deletes = False
        self._reading = ""

    @property
    def identity(self) -> str:
        """The server's address and the database."""
        port = f":{self._place.port}" if self._place.port else ""
        return f"{self._place.engine}://{self._place.host}{port}/{self._place.database}"

    def schema(self) -> LiveSchema:
        """The tables as they are now.

        Raises:
            Unreachable, TryAgain, Failed: they cannot be read.
        """
        self._shape = None
        return self._now().schema

    def rows(
        self, table: str, columns: Sequence[str], by: Sequence[str] = (), values: Collection[Cells] = ()
    ) -> Iterator[Cells]:
        """Rows of a table; inside a transaction they are locked. Without `by`, nothing else may be asked until the last one.

        Raises:
            Failed, TryAgain, Unreachable: they cannot be read.
        """
        known = self._known(table)
        self._require_idle()
        if not by:
            yield from self._streamed(known, columns)
            return
        wanted = {one for one in values if None not in one}
        for batch in grouping.batches(wanted, _AT_ONCE, _BYTES_AT_ONCE):
            self._require_idle()
            text = self._select(known, columns, live_text.found_by(known, by, batch))
            with self._errors(table), self._raw() as cursor:
                cursor.execute(text)
                found = [self._cells(row) for row in cursor.fetchall()]
            yield from found

    def alike(self, table: str, columns: Sequence[str], values: Collection[Cells]) -> Mapping[Cells, int]:
        """For each value of some columns a number: equal ones for values that these columns take for one.

        Raises:
            Failed, TryAgain, Unreachable: the database refused.
        """
        known = self._known(table)

        def ask(some: Sequence[Cells]) -> Iterator[tuple[int, int]]:
            found = run(self._link, live_text.numbered(known, columns, some, self._server.vendor))
            return ((int(str(place)), int(str(rank))) for place, rank in found)

        self._require_idle()
        with self._errors(table):
            return ranked({one for one in values if None not in one}, ask, RANKED, RANKED_BYTES)

    @property
    def across(self) -> None:
        """Nobody: what refers is of the type of what it refers to, or compares as that does."""
        return None

    @contextmanager
    def transaction(self, *, triggers: bool, deletes: bool = False) -> Iterator[None]:
        """One transaction. Foreign keys are checked row by row; triggers cannot be kept from running.

        With `triggers` False, `apply` refuses changes of tables that have some.

        Raises:
            TryAgain: somebody else holds what is needed.
            Unreachable: the connection was lost; if it was while the end was waited for, whether it happened is not known.
        """
        self._now()
        self._require_idle()
        with self._errors(self._place.database):
            run(self._link, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            run(self._link, "START TRANSACTION")
        self._inside, self._triggers, self._deletes = True, triggers, deletes
        try:
            yield
            self._require_idle()
        except BaseException:
            self._undo()
            raise
        finally:
            self._inside = False
        self._commit()

    def statement(self, change: Change) -> str:
        """A change as one statement.

        Raises:
            Failed: the table, or a column, is not there.
        """
        return live_text.statement(self._known(change.table), change)

    def preamble(self, *, triggers: bool) -> list[str]:  # noqa: ARG002
        """What must come before the statements in another client's session; triggers cannot be kept from running."""
        return live_text.preamble()

    def statements(self, changes: Sequence[Change]) -> Iterator[tuple[str, Sequence[Change]]]:
        """What `apply` executes, and which changes each statement is of: none for those that turn foreign keys off and on.

        Neighbours that do not depend on each other are one statement, where no trigger could tell the difference.
        Rows that refer to each other are put in an order in which the server accepts them; if there is none, their foreign
        keys are checked when all are there.
        """
        references = self._now().schema.references
        for run_ in grouping.runs(changes):
            needed = grouping.dependencies(run_, references)
            for first, last, together in grouping.bundles(run_, grouping.parts(needed), self._alike):
                if together:
                    some = run_[first:last]
                    yield live_text.bundle(self._known(some[0].table), some), some
                    continue
                graph = {place: [one for one in needed[place] if one >= first] for place in range(first, last)}
                try:
                    order, is_cycle = list(TopologicalSorter(graph).static_order()), False
                except CycleError:
                    order, is_cycle = list(range(first, last)), True
                if is_cycle:
                    yield live_text.CHECKS_OFF, ()
                for place in order:
                    yield self.statement(run_[place]), run_[place : place + 1]
                if is_cycle:
                    yield live_text.CHECKS_ON, ()

    def require_changeable(self, changes: Sequence[Change], *, triggers: bool) -> None:
        """See that changes may be carried out here at all.

        Raises:
            SafetyRefused: a table has triggers that are not to run, or cannot be rolled back.
        """
        for table in dict.fromkeys(change.table for change in changes):
            self._require_safe(self._known(table), triggers=triggers)

    def unchecked(self, changes: Sequence[Change], *, triggers: bool) -> Mapping[str, str]:  # noqa: ARG002 - they always run
        """Of foreign keys that `statements` leaves unchecked, queries for rows that break them."""
        if all(parts for _, parts in self.statements(changes)):
            return {}
        tables = {change.table for change in changes}
        concerned = (r for r in self._now().schema.references if not tables.isdisjoint((r.table, r.parent)))
        return {f"{one.name} of {one.table}": orphan(one) for one in concerned}

    def apply(self, changes: Sequence[Change]) -> None:
        """Carry changes out; each must be of exactly one row.

        Raises:
            SafetyRefused: a row is not what was expected, or is there already; a table has triggers that are not to run, or
                cannot be rolled back.
            Failed, TryAgain, Unreachable: the database refused, or would hold another value.
        """
        if not self._inside:
            raise Failed("nothing is changed outside a transaction", hint="please report this: it is a bug")
        self._require_idle()
        self.require_changeable(changes, triggers=self._triggers)
        unchecked = False
        for text, parts in self.statements(changes):
            table = parts[0].table if parts else self._place.database
            with self._errors(table), self._link.cursor() as cursor:
                count = cursor.execute(text)
            if parts and count != len(parts):
                raise SafetyRefused(
                    f"{table}: a row is not there as it was expected", object_name=table, hint=_PLAN_AGAIN
                )
            if not (parts and rowproof.are_written(self.rows, self._known(table).table, parts)):
                for one in parts:
                    self._require_written(one)
            unchecked = unchecked or not parts
        if unchecked and (broken := self.orphans({change.table for change in changes})):
            raise Failed(
                f"the foreign key {broken[0]} does not hold",
                object_name=broken[0],
                hint="nothing was changed; plan again",
            )

    def raise_counters(self, tables: Collection[str]) -> list[str]:
        """Move sequences on that defaults read; this outlives a rollback. An AUTO_INCREMENT goes up by itself.

        Raises:
            Failed, TryAgain, Unreachable: the database refused.
        """
        self._require_idle()
        raised: dict[str, None] = {}
        for known in map(self._known, tables):
            for column, sequence in known.sequences.items():
                with self._errors(known.table.name):
                    if moved_on(self._link, known.table.name, column, sequence):
                        raised[sequence] = None
        return list(raised)

    def orphans(self, tables: Collection[str]) -> list[str]:
        """Foreign keys that a row breaks.

        Raises:
            Failed, TryAgain, Unreachable: the database refused.
        """
        self._require_idle()
        found = []
        for reference in self._now().schema.references:
            if {reference.table, reference.parent}.isdisjoint(tables):
                continue
            with self._errors(reference.table):
                if run(self._link, orphan(reference)):
                    found.append(f"{reference.name} of {reference.table}")
        return found

    def close(self) -> None:
        """End the connection; what was not committed is undone."""
        discard(self._link)

    def _streamed(self, known: Known, columns: Sequence[str]) -> Iterator[Cells]:
        """Every row, as it comes; who leaves early has the rest read and thrown away, so that the connection is free."""
        self._reading = known.table.name
        try:
            with self._errors(known.table.name), self._raw(SSCursor) as cursor:
                cursor.execute(self._select(known, columns, ""))
                while row := cursor.fetchone():
                    yield self._cells(row)[: len(columns)]
        finally:
            self._reading = ""

    def _select(self, known: Known, columns: Sequence[str], condition: str) -> str:
        stored = known.stored
        text = f"SELECT {live_text.read_columns(known, columns, self._marker.decode())} FROM {quote_name(stored.name)}"
        text += " FOR SYSTEM_TIME ALL" if stored.versioned else ""
        text += f" WHERE {condition}" if condition else ""
        lock = " FOR UPDATE" if self._deletes else " LOCK IN SHARE MODE"  # a shared one lets others refer to the row
        return text + (lock if self._inside else "")

    def _cells(self, row: Sequence[object]) -> Cells:
        return tuple(
            None if cell == self._marker else bytes(cell) for cell in row if isinstance(cell, bytes | bytearray)
        )

    @contextmanager
    def _raw(self, kind: type[pymysql.cursors.Cursor] = pymysql.cursors.Cursor) -> "Iterator[pymysql.cursors.Cursor]":
        """A cursor whose rows are bytes as the server sent them."""
        link = inner(self._link)
        decoders = link.decoders
        link.use_unicode, link.decoders = False, {}
        try:
            with self._link.cursor(kind) as cursor:
                yield cursor
        finally:
            link.use_unicode, link.decoders = True, decoders

    def _require_idle(self) -> None:
        if self._reading:
            raise Failed(
                f"the rows of {self._reading} have not been read to their end",
                object_name=self._reading,
                hint="please report this: it is a bug",
            )

    def _require_safe(self, known: Known, *, triggers: bool) -> None:
        table, stored = known.table, known.stored
        problem = hint = ""
        if not stored.is_transactional:
            problem, hint = f"{stored.engine} cannot undo what was written", "ALTER TABLE ... ENGINE = InnoDB"
        elif stored.versioned:
            problem, hint = "the server writes the history of its rows itself", "write to it with your own statements"
        elif not triggers and table.triggers:
            problem = f"the trigger {table.triggers[0]!a} cannot be kept from running"
            hint = "let triggers run, or drop them meanwhile"
        if problem:
            raise SafetyRefused(f"{table.name}: {problem}", object_name=table.name, hint=hint)

    def _alike(self, change: Change) -> object:
        """Which changes one statement can do together."""
        table = self._known(change.table).table
        return None if table.triggers else grouping.bundled(change, table, self._now().schema.references)

    def _require_written(self, change: Change) -> None:
        """See that a row is what it was to become: a type may round what it cannot hold. Triggers may write what they like."""
        known = self._known(change.table)
        key = grouping.key_after(change, known.table.key)
        if key is None or (self._triggers and known.table.triggers):
            return
        names = [c.name for c in known.table.columns if c.name in change.new and not c.generated]
        if list(self.rows(change.table, names, known.table.key, [key])) != [tuple(change.new[name] for name in names)]:
            raise Failed(
                f"{change.table}: a column does not hold its value as it was",
                object_name=change.table,
                hint="compare the columns' types with those of the snapshot; nothing was changed",
            )

    def _undo(self) -> None:
        try:
            if self._reading:
                discard(self._link)
            else:
                run(self._link, "ROLLBACK")
                run(self._link, live_text.CHECKS_ON)
        except (pymysql.Error, OSError):
            discard(self._link)

    def _commit(self) -> None:
        try:
            run(self._link, "COMMIT")
        except (pymysql.Error, OSError) as error:
            if error_number(error) not in LOST | {0}:
                self._undo()
                raise explained(error, self._place.database) from None
            raise Unreachable(
                f"{self._place}: the connection was lost at the end of the transaction, so it is not known whether it happened",
                object_name=str(self._place),
                hint="plan again, which shows what is there now",
            ) from None

    def _now(self) -> Shape:
        if self._shape is None:
            self._require_idle()
            self._shape = read_shape(self._place, self._link, self._server)
        return self._shape

    def _known(self, table: str) -> Known:
        found = self._now().known.get(table)
        if found is None:
            raise Failed(
                f"there is no table {table!a} now", object_name=table, hint="look at the database, and plan again"
            )
        return found

    @contextmanager
    def _errors(self, table: str) -> Iterator[None]:
        try:
            yield
        except (pymysql.Error, OSError) as error:
            raise explained(error, table) from None
