"""A live PostgreSQL database whose rows are found and changed one by one.

A transaction is READ COMMITTED and locks each row that it reads. Rows that were read cannot change any more, whatever
isolation level the others use (SERIALIZABLE would only see those who use it, too), and a row that somebody changed before is
read as it is now, so that it is refused for what it says and not for a conflict that comes back with every try. Must never
put a value into a message, and never commit anything after a failure.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psycopg

from backupd.engines import grouping, rowproof
from backupd.engines.base import ServerPlace
from backupd.engines.postgres import live_across, live_checks, live_computed, live_text
from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.client import open_connection, patience
from backupd.engines.postgres.live_rows import KEY_LOCK, ROW_LOCK, Rows
from backupd.engines.postgres.live_schema import Known, Shape, read_shape
from backupd.engines.postgres.problems import live_error
from backupd.engines.ranking import RANKED, RANKED_BYTES, ranked
from backupd.errors import Failed, SafetyRefused, Unreachable
from backupd.model import Cells, Change, LiveSchema, Reference, Spelling

_NOT_ALLOWED = frozenset({"42501"})
_PLAN_AGAIN = "plan again: it was changed meanwhile"


def open_live(place: ServerPlace, *, timeout: float = 30.0) -> "PostgresLive":
    """Connect to a database whose rows shall be read and changed.

    Args:
        place: the server and the database.
        timeout: seconds to wait for the connection, and for each lock.

    Raises:
        Unreachable, TryAgain: no connection.
    """
    session, _ = open_connection(place, timeout=timeout)
    return PostgresLive(session, place, timeout)


class PostgresLive:
    """A connection to a live database; made by `open_live`."""

    engine = "postgresql"

    def __init__(self, session: Session, place: ServerPlace, timeout: float) -> None:
        self._session = session
        self._name = str(place)
        self._timeout = timeout
        self._rows = Rows(session)
        self._shape: Shape | None = None
        self._inside = False
        self._triggers = True

    @property
    def identity(self) -> str:
        """The server's address and the database."""
        info = self._session.info
        return f"postgresql://{info.host}:{info.port}/{info.dbname}"

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
        known, encoding = self._known(table), self._now().encoding
        with self._errors(table):
            if by:
                yield from self._rows.some(known, encoding, columns, by, values, lock=self._inside)
            else:
                yield from self._rows.all(known, encoding, columns, lock=self._inside)

    def alike(self, table: str, columns: Sequence[str], values: Collection[Cells]) -> Mapping[Cells, int]:
        """For each value of some columns a number: equal ones for values that these columns take for one.

        Raises:
            Failed, TryAgain, Unreachable: the database refused.
        """
        known = self._known(table)

        def ask(some: Sequence[Cells]) -> Iterator[tuple[int, int]]:
            with patience(self._session):
                found = self._run(live_text.numbered(known, columns, some)).fetchall()
            return ((int(str(place)), int(str(rank))) for place, rank in found)

        self._rows.require_idle()
        with self._errors(table):
            return ranked({one for one in values if None not in one}, ask, RANKED, RANKED_BYTES)

    @property
    def across(self) -> "PostgresLive":
        """The database itself."""
        return self

    def spellings(self, reference: Reference) -> tuple[Spelling, ...]:
        """How the columns of a reference spell their parents' values."""
        return tuple(pair.spelling for pair in live_across.pairs(self._now(), reference))

    def as_parents(self, reference: Reference, values: Collection[Cells]) -> Mapping[Cells, Cells | None]:
        """What a foreign key makes of the values of its columns, as its parent's columns spell that.

        Raises:
            Failed, TryAgain, Unreachable: the database refused.
        """
        pairs, asked = live_across.pairs(self._now(), reference), [one for one in values if None not in one]
        if not any(pair.spelling for pair in pairs):
            return {one: one for one in asked}
        self._rows.require_idle()
        with self._errors(reference.table), patience(self._session), self._nowhere():
            return live_across.become(self._session, pairs, asked, self._now().encoding)

    def computed(
        self, table: str, columns: Sequence[str], by: Sequence[str], values: Collection[Cells]
    ) -> Mapping[Cells, Cells]:
        """What generated columns are for values of the columns that they are made of.

        Raises:
            Failed, TryAgain, Unreachable: the database refused, or the column is not such a one.
        """
        known, encoding = self._known(table), self._now().encoding
        self._rows.require_idle()
        texts = [known.expressions[name] for name in columns]
        with self._errors(table), patience(self._session), self._nowhere():
            return live_computed.compute(self._session, known.relation, texts, by, values, encoding)

    @contextmanager
    def transaction(self, *, triggers: bool, deletes: bool = False) -> Iterator[None]:
        """One transaction; deferrable foreign keys are checked at its end. Without triggers, no foreign key is checked.

        Raises:
            SafetyRefused: this role may not keep triggers from running.
            TryAgain: somebody else holds what is needed.
            Unreachable: the connection was lost; if it was while the end was waited for, whether it happened is not known.
        """
        self._now()  # read before, so that it is no part of it
        self._rows.require_idle()
        with self._errors(self._name):
            self._run("BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE")
        try:
            self._begin(triggers=triggers)
            self._inside, self._triggers = True, triggers
            self._rows.lock = KEY_LOCK if deletes else ROW_LOCK
            yield
            self._rows.require_idle()
            with self._errors(self._name):
                self._run("SET CONSTRAINTS ALL IMMEDIATE")
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

    def preamble(self, *, triggers: bool) -> list[str]:
        """What must come before the statements in a transaction of another client."""
        return live_text.preamble(triggers=triggers)

    def statements(self, changes: Sequence[Change]) -> Iterator[tuple[str, Sequence[Change]]]:
        """What `apply` executes, and which changes each statement is of.

        Neighbours that do not depend on each other are one statement, where no trigger could tell the difference.
        An insert that refers to one after it becomes one statement with it, where the foreign key between them is checked
        at the end of each statement; and so does a delete of a row that a later one refers to.
        """
        references = [one for one in self._now().schema.references if not one.deferrable] if self._triggers else ()
        for run in grouping.runs(changes):
            parts = grouping.parts(grouping.dependencies(run, references))
            for first, last, together in grouping.bundles(run, parts, self._alike):
                some = run[first:last]
                is_one = together and some[0].kind == "delete"
                yield live_text.deletes(self._known(some[0].table), some) if is_one else self._one(some), some

    def require_changeable(self, changes: Sequence[Change], *, triggers: bool) -> None:
        """See that changes may be carried out here at all.

        Raises:
            SafetyRefused: a trigger would run that is not to.
        """
        for table in () if triggers else dict.fromkeys(change.table for change in changes):
            if names := self._known(table).unstoppable:
                raise SafetyRefused(
                    f"{table}: the trigger {names[0]!a} runs even where triggers are kept from running",
                    object_name=table,
                    hint="it is ENABLE ALWAYS or ENABLE REPLICA: let triggers run, or alter it",
                )

    def unchecked(self, changes: Sequence[Change], *, triggers: bool) -> Mapping[str, str]:
        """Of foreign keys that are not checked since triggers do not run, queries for rows that break them."""
        tables = {change.table for change in changes}
        return {} if triggers else live_checks.queries(self._now().foreign_keys, tables)

    def apply(self, changes: Sequence[Change]) -> None:
        """Carry changes out; each must be of exactly one row.

        Raises:
            SafetyRefused: a row is not what was expected, or is there already, or a trigger that would run is not to.
            Failed, TryAgain, Unreachable: the database refused, or would hold another value.
        """
        if not self._inside:
            raise Failed("nothing is changed outside a transaction", hint="please report this: it is a bug")
        self._rows.require_idle()
        self.require_changeable(changes, triggers=self._triggers)
        for text, parts in self.statements(changes):
            table = parts[0].table
            known = self._known(table).table
            if not rowproof.are_as_before(self.rows, known, parts):
                for one in parts:
                    self._require_same(one)
            with self._errors(table), patience(self._session):
                cursor = self._run(text)
                row = cursor.fetchone() if text.startswith("WITH ") else (cursor.rowcount,)
            if row is None or row[0] != len(parts):
                raise SafetyRefused(
                    f"{table}: a row is not there as it was expected, or a trigger kept it from being written",
                    object_name=table,
                    hint=_PLAN_AGAIN,
                )
            if not rowproof.are_written(self.rows, known, parts):
                for one in parts:
                    self._require_written(one)
            if not self._triggers:
                self._lock_parents(parts)

    def raise_counters(self, tables: Collection[str]) -> list[str]:
        """Move sequences on that would give a number that a row has; this outlives a transaction that is rolled back.

        Raises:
            Failed, TryAgain, Unreachable: the database refused.
        """
        self._rows.require_idle()
        with self._errors(self._name), patience(self._session):
            return live_checks.raise_sequences(self._session, [self._known(table) for table in tables])

    def orphans(self, tables: Collection[str]) -> list[str]:
        """Foreign keys that a row breaks.

        Raises:
            Failed, TryAgain, Unreachable: the database refused.
        """
        self._rows.require_idle()
        with self._errors(self._name), patience(self._session):
            return live_checks.broken(self._session, self._now().foreign_keys, tables)

    def close(self) -> None:
        """End the connection; what was not committed is undone."""
        self._session.close()

    def _begin(self, *, triggers: bool) -> None:
        with self._errors(self._name):
            self._run(f"SET LOCAL lock_timeout = {max(1, round(self._timeout * 1000))}")
            # Triggers and checks may rely on the schemas that this role's sessions usually look into.
            self._run("SET LOCAL search_path TO DEFAULT")
            for text in self.preamble(triggers=triggers):
                try:
                    self._run(text)
                except psycopg.Error as error:
                    if error.sqlstate not in _NOT_ALLOWED or triggers:
                        raise
                    raise SafetyRefused(
                        f"{self._name}: this role may not keep triggers from running",
                        object_name=self._name,
                        hint="be a superuser, or since PostgreSQL 15 GRANT SET ON PARAMETER session_replication_role",
                    ) from None

    def _undo(self) -> None:
        if not self._rows.reading:
            with suppress(psycopg.Error):
                self._session.rollback()
        if self._session.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            self._session.close()  # the server undoes what is under way

    def _commit(self) -> None:
        try:
            with patience(self._session):
                self._run("COMMIT")
        except psycopg.Error as error:
            if error.sqlstate is not None:
                raise live_error(error, self._name) from None
            raise Unreachable(
                f"{self._name}: the connection was lost at the end of the transaction, so it is not known whether it happened",
                object_name=self._name,
                hint="plan again, which shows what is there now",
            ) from None

    def _alike(self, change: Change) -> object:
        """Which changes one statement can do together."""
        table = self._known(change.table).table
        if self._triggers and table.triggers:
            return None
        return grouping.bundled(change, table, self._now().schema.references)

    def _require_same(self, change: Change) -> None:
        """See that the row is what was expected to the last letter, which the database's equality does not say."""
        known = self._known(change.table)
        if change.kind == "insert" or not known.table.key:
            return
        key = tuple(change.key[name] for name in known.table.key)
        names = tuple(change.old)
        found = list(self.rows(change.table, names, known.table.key, [key]))
        if found != [tuple(change.old.values())]:
            raise SafetyRefused(
                f"{change.table}: a row is not what it was any more", object_name=change.table, hint=_PLAN_AGAIN
            )

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

    def _one(self, run: Sequence[Change]) -> str:
        """Changes as one statement: inserts with several rows for those of one table and of the same columns."""
        if len(run) == 1:
            return self.statement(run[0])
        if run[0].kind != "insert":
            return live_text.together([self.statement(change) for change in run])
        groups: dict[object, list[Change]] = {}
        for place, change in enumerate(run):
            columns = frozenset(change.new)
            groups.setdefault((change.table, columns) if columns else place, []).append(change)
        texts = [live_text.inserts(self._known(group[0].table), group) for group in groups.values()]
        return texts[0] if len(texts) == 1 else live_text.together(texts)

    def _lock_parents(self, changes: Sequence[Change]) -> None:
        """Keep the rows that were just referred to from being deleted, as the check that did not run would have done."""
        for reference in self._now().schema.references:
            children = [one for one in changes if one.new and one.table == reference.table and reference.declared]
            wanted = {grouping.cells_of(one, reference.columns) for one in children}
            led = self.as_parents(reference, wanted) if wanted else {}
            for _ in self.rows(reference.parent, (), reference.parent_columns, {v for v in led.values() if v}):
                pass

    def _now(self) -> Shape:
        if self._shape is None:
            with self._errors(self._name), patience(self._session):
                self._rows.require_idle()
                with self._nowhere():  # types are named with their schemas only if nothing is looked up in any
                    self._shape = read_shape(self._session)
        return self._shape

    @contextmanager
    def _nowhere(self) -> Iterator[None]:
        """Inside a transaction: names are looked up in no schema but PostgreSQL's own, as they are outside of one."""
        if self._inside:
            self._run("SET LOCAL search_path TO ''")
        yield
        if self._inside:
            self._run("SET LOCAL search_path TO DEFAULT")

    def _known(self, table: str) -> Known:
        found = self._now().known.get(table)
        if found is None:
            raise Failed(
                f"there is no table {table!a} now", object_name=table, hint="look at the database, and plan again"
            )
        return found

    def _run(self, text: str) -> "psycopg.Cursor[tuple[object, ...]]":
        return self._session.execute(text.encode())

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn what the driver raises into a failure by name; values never become part of it."""
        try:
            yield
        except psycopg.Error as error:
            raise live_error(error, what) from None
