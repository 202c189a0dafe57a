"""Gives a filled scratch database the target's name, and makes there what cannot be moved.

A server of this kind cannot rename a database. Its tables are moved by one RENAME TABLE, which is all or nothing; then come
the views, routines and triggers, and events last. If one of those fails, the tables are moved back and dropped.
"""

import re
from collections.abc import Mapping, Sequence

from backupd.engines.base import LoadOptions, ServerPlace
from backupd.engines.mariadb.client import Connection, making_errors, quote_name, quote_text, run, send, server_errors
from backupd.engines.mariadb.guard import Guard, charset_clause
from backupd.engines.mariadb.splitting import split
from backupd.engines.mariadb.statements import Context, Definition, sequence_owner
from backupd.errors import BackupdError, IntegrityError

_WORD = re.compile(r"[A-Za-z0-9_]+")


class Publisher:
    """Publishes one restore."""

    def __init__(
        self,
        place: ServerPlace,
        link: Connection,
        scratch: str,
        guard: Guard,
        options: LoadOptions,
        facts: Mapping[str, object],
    ) -> None:
        self._place = place
        self._link = link
        self._scratch = scratch
        self._guard = guard
        self._options = options
        self._facts = facts
        self._made_database = False
        self._clause = charset_clause(facts)
        self._clause_now = self._clause
        self.replaced = False
        self.stranded = False
        self.warnings: list[str] = []

    def publish(self, definitions: Sequence[Definition]) -> None:
        """Move the tables, then make everything else.

        Raises:
            SafetyRefused: the target is not empty any more.
            Failed: the server refused; nothing but the scratch database is left, and what was overwritten is gone.
        """
        names = self._tables(self._scratch)
        self._make_target()
        try:
            self._rename(names, self._scratch, self._place.database)
        except BaseException as error:
            self._drop_target(error)
            raise
        try:
            self._own_sequences()
            for definition in sorted(definitions, key=lambda definition: definition.kind == "event"):
                self._execute(definition)
            with server_errors(self._place, "setting the database's character set"):
                self._set_clause(self._clause)
        except BaseException as error:
            self._undo(names, error)
            raise
        self._warn_of_missing(definitions)
        self._drop_scratch()

    def _undo(self, names: Sequence[str], error: BaseException) -> None:
        """Take everything back; where that fails nothing is dropped, and the first error is still the one that is told."""
        try:
            self._take_back(names)
        except BackupdError:
            self.stranded = True
            return
        self._drop_target(error)

    def _drop_target(self, error: BaseException) -> None:
        if not self._made_database:
            return
        try:
            with server_errors(self._place, "dropping the unfinished database"):
                run(self._link, f"DROP DATABASE IF EXISTS {quote_name(self._place.database)}")
        except BackupdError:
            leave(error, f"drop the unfinished database {self._place.database}")

    def _drop_scratch(self) -> None:
        try:
            with server_errors(self._place, "dropping the scratch database"):
                run(self._link, f"DROP DATABASE {quote_name(self._scratch)}")
        except BackupdError as error:
            self.warnings.append(f"the empty database {self._scratch} could not be dropped: {error.message}")

    def _warn_of_missing(self, definitions: Sequence[Definition]) -> None:
        """Say by name which stored objects the server took, and does not have: it drops events whose time has passed."""
        lists = (
            ("view", "VIEWS", "TABLE_NAME", "TABLE_SCHEMA"),
            ("trigger", "TRIGGERS", "TRIGGER_NAME", "TRIGGER_SCHEMA"),
            ("event", "EVENTS", "EVENT_NAME", "EVENT_SCHEMA"),
        )
        for kind, view, column, schema in lists:
            wanted = [definition for definition in definitions if definition.kind == kind]
            statement = f"SELECT {column} FROM information_schema.{view} WHERE {schema} = %s"
            try:
                with server_errors(self._place, "looking at what was made"):
                    run(self._link, "SET NAMES utf8mb4")
                    there = {str(row[0]).lower() for row in run(self._link, statement, (self._place.database,))}
            except BackupdError as error:
                self.warnings.append(f"what was made could not be listed: {error.message}")
                return
            why = ": its time has passed, and it is not one that is kept" if kind == "event" else ""
            self.warnings += [
                f"{one.label} is not there after the restore{why}" for one in wanted if one.name.lower() not in there
            ]

    def _make_target(self) -> None:
        name, clause = quote_name(self._place.database), self._clause
        self._guard.require_place(self._options, self._facts)
        with server_errors(self._place, "creating the database"):
            if self._options.overwrite == self._place.database:
                self.replaced = True
                run(self._link, f"DROP DATABASE IF EXISTS {name}")
            exists = run(
                self._link, "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", (self._place.database,)
            )
            run(self._link, f"{'ALTER' if exists else 'CREATE'} DATABASE {name} {clause}")
            self._made_database = not exists
            self._link.select_db(self._place.database)

    def _tables(self, database: str) -> list[str]:
        with server_errors(self._place, "listing the tables"):
            statement = (
                "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE <> 'VIEW'"
            )
            return [str(row[0]) for row in run(self._link, statement, (database,))]

    def _rename(self, names: Sequence[str], old: str, new: str) -> None:
        if not names:
            return
        pairs = (f"{quote_name(old)}.{quote_name(name)} TO {quote_name(new)}.{quote_name(name)}" for name in names)
        with server_errors(self._place, f"renaming the tables of {old} to {new}"):
            run(self._link, f"RENAME TABLE {', '.join(pairs)}")

    def _own_sequences(self) -> None:
        """Defaults that draw from a sequence name its database: they must name the new one."""
        statement = (
            "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_DEFAULT FROM information_schema.COLUMNS "
            "WHERE TABLE_SCHEMA = %s AND LOCATE(%s, COLUMN_DEFAULT) > 0"
        )
        values = (self._place.database, quote_name(self._scratch))
        changes: dict[str, list[str]] = {}
        with server_errors(self._place, "renewing the defaults"):
            for table, column, default in run(self._link, statement, values):
                (piece,) = split(f"{default};")
                value = sequence_owner(piece, self._scratch, self._place.database).text
                if value != piece.text:
                    change = f"ALTER COLUMN {quote_name(str(column))} SET DEFAULT ({value})"
                    changes.setdefault(str(table), []).append(change)
            for table, parts in changes.items():  # all of a table at once: one that is left would be looked up
                run(self._link, f"ALTER TABLE {quote_name(table)} {', '.join(parts)}")

    def _execute(self, definition: Definition) -> None:
        if definition.kind in ("table", "sequence", "setval"):
            return
        with making_errors(self._place, definition.label, definition.name):
            self._set_clause(definition.context.database or self._clause)
            for statement in session(definition):
                run(self._link, statement)
            send(self._link, definition.piece.text)

    def _set_clause(self, clause: str) -> None:
        """Give the database the character set that stored objects made in it keep."""
        if clause.lower() != self._clause_now.lower():
            run(self._link, "SET NAMES utf8mb4")
            run(self._link, f"ALTER DATABASE {quote_name(self._place.database)} {clause}")
            self._clause_now = clause

    def _take_back(self, names: Sequence[str]) -> None:
        """Undo: drop what was made beside the tables, and move those back."""
        database = self._place.database
        lists = (
            ("TRIGGER", "TRIGGERS", "TRIGGER_NAME", "TRIGGER_SCHEMA"),
            ("VIEW", "VIEWS", "TABLE_NAME", "TABLE_SCHEMA"),
            ("EVENT", "EVENTS", "EVENT_NAME", "EVENT_SCHEMA"),
        )
        with server_errors(self._place, "moving the tables back"):
            run(self._link, "SET NAMES utf8mb4")
            self._set_clause(self._clause)
            for kind, view, column, schema in lists:
                statement = f"SELECT {column} FROM information_schema.{view} WHERE {schema} = %s"
                for (name,) in run(self._link, statement, (database,)):
                    run(self._link, f"DROP {kind} IF EXISTS {quote_name(str(name))}")
            statement = "SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s"
            for routine, name in run(self._link, statement, (database,)):
                run(self._link, f"DROP {routine} IF EXISTS {quote_name(str(name))}")
        self._rename(names, database, self._scratch)


def leave(error: BaseException, left: str) -> None:
    """Have an error say what is left behind."""
    if isinstance(error, BackupdError):
        error.hint = f"{error.hint}; {left}" if error.hint else left


def session(definition: Definition) -> list[str]:
    """The settings under which a stored object is made, and which it keeps.

    Raises:
        IntegrityError: a setting is no word.
    """
    context = definition.context
    if definition.kind in ("view", "placeholder", "drop_view"):
        context = Context("NO_AUTO_VALUE_ON_ZERO", context.character_set_client, context.collation_connection)
    for word in (context.character_set_client, context.collation_connection):
        if not _WORD.fullmatch(word):
            raise IntegrityError(f"the settings of {definition.label} are not valid", object_name=definition.name)
    charset, collation = context.character_set_client, context.collation_connection
    return [
        f"SET SESSION sql_mode = {quote_text(context.sql_mode)}, time_zone = {quote_text(context.time_zone)}",
        f"SET SESSION character_set_client = {charset}, collation_connection = {collation}",
    ]
