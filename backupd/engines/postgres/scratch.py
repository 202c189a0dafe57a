"""Databases of the target server: making a scratch database, and giving it the target's name at the very end."""

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from backupd.engines.base import ServerPlace
from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.client import Server, open_connection
from backupd.engines.postgres.names import literal, quoted
from backupd.engines.postgres.problems import meaning, target_error
from backupd.engines.postgres.settings import SUPERUSER_ROLES, loads_code, set_words, split_setting
from backupd.errors import BackupdError, Failed, SafetyRefused, Unreachable

MARK = "backupd: a restore that is not finished; do not use it"
_LONGEST_NAME = 63
# Whatever belongs to an extension may hold rows that a user put there, so any extension counts; what the database itself
# was made with is left out.
_EMPTY = """
SELECT (SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
     + (SELECT count(*) FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql')
     + (SELECT count(*) FROM pg_catalog.pg_proc p WHERE p.oid >= 16384 AND NOT EXISTS
         (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
             AND d.objid = p.oid AND d.deptype = 'e'))
     + (SELECT count(*) FROM pg_catalog.pg_type WHERE oid >= 16384 AND typrelid = 0 AND typelem = 0)
     + (SELECT count(*) FROM pg_catalog.pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_')
     + (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata) + (SELECT count(*) FROM pg_catalog.pg_publication)
     + (SELECT count(*) FROM pg_catalog.pg_event_trigger) + (SELECT count(*) FROM pg_catalog.pg_foreign_data_wrapper)
     + (SELECT count(*) FROM pg_catalog.pg_foreign_server)
     + (SELECT count(s.oid) FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
         WHERE d.datname = pg_catalog.current_database())
"""


def open_maintenance(place: ServerPlace, *, timeout: float) -> tuple[Session, Server]:
    """A connection to a database of the server that is not the target itself.

    Raises:
        Unreachable, TryAgain.
    """
    failure: BackupdError | None = None
    for database in ("postgres", "template1"):
        if database == place.database:
            continue
        try:
            session, server = open_connection(place, timeout=timeout, database=database)
            session.execute(b"SET default_transaction_read_only = off")
        except BackupdError as error:
            failure = failure or error
        else:
            return session, server
    assert failure is not None
    raise failure


class Databases:
    """The databases of a server, through a maintenance connection."""

    def __init__(self, session: Session, server: Server, place: ServerPlace) -> None:
        self._session = session
        self._server = server
        self._place = place
        self._maintenance = session.info.dbname

    def exists(self, name: str) -> bool:
        """Whether there is a database of this name."""
        return bool(self._rows(b"SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (name,)))

    def is_empty(self, name: str) -> bool:
        """Whether a database holds nothing that anybody made in it.

        Raises:
            Unreachable: it does not let this user in.
        """
        try:
            with self._server.connect(name) as session:
                row = session.execute(_EMPTY.encode()).fetchone()
        except psycopg.Error as error:
            raise Unreachable(
                f"the database {name} exists and cannot be looked into ({meaning(error.sqlstate)})", object_name=name
            ) from error
        return row is not None and row[0] == 0

    def users(self, name: str) -> int:
        """How many sessions are connected to it."""
        return len(self._rows(b"SELECT 1 FROM pg_catalog.pg_stat_activity WHERE datname = %s", (name,)))

    def create_scratch(self, name: str, facts: Mapping[str, Any]) -> str:
        """Make the scratch database for a target, with the recorded encoding and locale; returns its name.

        Raises:
            Failed: the server cannot make it.
        """
        scratch = other_name(name)
        words = self._locale(facts)
        try:
            self._session.execute(f"CREATE DATABASE {quoted(scratch)} TEMPLATE template0 {words}".encode())
        except psycopg.Error as error:
            raise Failed(
                f"the database {scratch} cannot be created with {words}: {meaning(error.sqlstate)}",
                object_name=name,
                hint="the role needs CREATEDB, and the server the source's locale and locale provider",
            ) from None
        self._run(f"COMMENT ON DATABASE {quoted(scratch)} IS {literal(MARK)}", scratch)
        return scratch

    def _locale(self, facts: Mapping[str, Any]) -> str:
        words = [f"ENCODING {literal(str(facts['encoding']))}"]
        words += [f"LC_COLLATE {literal(str(facts['collate']))}", f"LC_CTYPE {literal(str(facts['ctype']))}"]
        provider, locale = facts.get("provider"), facts.get("locale")
        if provider == "i" and locale:
            words += ["LOCALE_PROVIDER icu", f"ICU_LOCALE {literal(str(locale))}"]
            if facts.get("icu_rules"):
                words.append(f"ICU_RULES {literal(str(facts['icu_rules']))}")
        elif provider == "b" and locale:
            words += ["LOCALE_PROVIDER builtin", f"BUILTIN_LOCALE {literal(str(locale))}"]
        elif self._server.major >= 15:
            words.append("LOCALE_PROVIDER libc")
        return " ".join(words)

    def drop(self, name: str, *, force: bool) -> None:
        """Drop a database; with `force`, whoever uses it. If the line is broken, over a new one.

        Raises:
            SafetyRefused: somebody uses it.
            Failed: the server refuses.
        """
        statement = f"DROP DATABASE {quoted(name)}" + (" WITH (FORCE)" if force else "")
        if not self._session.closed:
            self._run(statement, name)
            return
        try:
            with self._server.connect(self._maintenance) as session:
                session.execute(b"SET default_transaction_read_only = off")
                session.execute(statement.encode())
        except psycopg.Error as error:
            raise target_error(error, f"{self._place}: DROP DATABASE failed", name) from None

    def swap(self, scratch: str, name: str, aside: str | None, properties: "Properties | None" = None) -> list[str]:
        """Give a database another's name, which gets the name `aside`; all of that happens, or nothing.

        Args:
            scratch: what gets the name.
            aside: None if there is no database of that name.
            properties: what the database gets at the same time.

        Returns:
            Warnings of properties that could not be given.

        Raises:
            SafetyRefused: somebody uses one of them.
            Failed: the server refuses, or the line broke.
        """
        try:
            with self._session.transaction():
                if aside is not None:
                    self._run(f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(aside)}", name)
                self._run(f"ALTER DATABASE {quoted(scratch)} RENAME TO {quoted(name)}", scratch)
                return [] if properties is None else self._apply(name, properties)
        except psycopg.Error as error:
            raise target_error(error, f"{self._place}: the databases could not be renamed", name) from None

    def there(self, *names: str) -> set[str] | None:
        """Which of some databases are there, seen by a connection of its own; None if that cannot be found out."""
        try:
            with self._server.connect(self._maintenance) as session:
                rows = session.execute(b"SELECT datname FROM pg_catalog.pg_database").fetchall()
        except (psycopg.Error, OSError):
            return None
        return {row[0] for row in rows} & set(names)

    def _apply(self, name: str, properties: "Properties") -> list[str]:
        """Give a database the owner, the grants, the settings and the comment of the source; returns what could not be."""
        row = self._session.execute(b"SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user").fetchone()
        powerful = {r[0] for r in self._rows(b"SELECT rolname FROM pg_catalog.pg_roles WHERE rolsuper", ())}
        statements, warnings = _properties(name, properties, powerful, superuser=row is not None and bool(row[0]))
        for statement in statements:
            try:
                with self._session.transaction():
                    self._session.execute(statement.encode())
            except psycopg.Error as error:
                if self._session.broken:
                    raise
                what = statement.split(" IS ", 1)[0].split(" TO ", 1)[0]
                warnings.append(f"a property of the database could not be restored: {what} ({meaning(error.sqlstate)})")
        return warnings

    def _rows(self, query: bytes, values: tuple[object, ...]) -> list[Any]:
        try:
            return self._session.execute(query, values).fetchall()
        except psycopg.Error as error:
            raise Unreachable(f"{self._place}: {meaning(error.sqlstate)}", object_name=str(self._place)) from error

    def _run(self, statement: str, name: str) -> None:
        try:
            self._session.execute(statement.encode())
        except psycopg.Error as error:
            if error.sqlstate == "55006":
                raise SafetyRefused(
                    f"others are connected to the database {name}",
                    object_name=name,
                    hint="end their sessions, then try again",
                ) from None
            raise target_error(error, f"{self._place}: {' '.join(statement.split()[:2])} failed", name) from None


@dataclass(frozen=True, slots=True)
class Properties:
    """What a database gets besides its contents.

    Attributes:
        facts: of the source's database.
        roles: those that the target has.
        allow: what the restore was told to allow.
    """

    facts: Mapping[str, Any]
    roles: Collection[str]
    allow: Collection[str]


def other_name(name: str) -> str:
    """A new name for a database that shows whose place it has or had."""
    tail = f"_backupd_{secrets.token_hex(4)}"
    return name.encode()[: _LONGEST_NAME - len(tail)].decode("utf-8", "ignore") + tail


def tell(error: BaseException, words: str) -> None:
    """Add to an error what is there now."""
    if isinstance(error, BackupdError):
        error.hint = f"{words}; {error.hint or ''}".rstrip("; ")
    else:
        error.add_note(words)


def _properties(
    name: str, given: Properties, powerful: Collection[str], *, superuser: bool
) -> tuple[list[str], list[str]]:
    """Statements that give a database its properties, and warnings for those that cannot be given.

    Who is no superuser gives the database away last, because nothing else may be done with it afterwards.
    """
    database, done = f"DATABASE {quoted(name)}", []
    warnings: list[str] = []
    comment = given.facts.get("comment")
    done.append(f"COMMENT ON {database} IS {literal(str(comment)) if comment else 'NULL'}")
    _settings(name, given, powerful, done, warnings)
    limit = given.facts.get("connection_limit")
    if isinstance(limit, int) and limit != -1:
        done.append(f"ALTER {database} CONNECTION LIMIT {limit}")
    owner = given.facts.get("owner")
    to_owner = [f"ALTER {database} OWNER TO {quoted(str(owner))}"] if owner in given.roles else []
    if superuser:
        done += to_owner
        _grants(database, given, quoted(str(owner)) if to_owner else None, done, warnings)
    else:
        _grants(database, given, "CURRENT_USER" if to_owner else None, done, warnings)
        done += to_owner
    return done, warnings


def _settings(name: str, given: Properties, powerful: Collection[str], done: list[str], warnings: list[str]) -> None:
    for role, settings in given.facts.get("settings") or ():
        if role is not None and role not in given.roles:
            warnings.append(f"the settings of the role {role} in this database were left out: there is no such role")
            continue
        if role in powerful and not {"all", SUPERUSER_ROLES} & set(given.allow):
            warnings.append(
                f"the settings of the superuser {role} in this database were left out; --allow {SUPERUSER_ROLES} sets them"
            )
            continue
        database = f"DATABASE {quoted(name)}"
        subject = f"ALTER {database}" if role is None else f"ALTER ROLE {quoted(role)} IN {database}"
        for setting in settings:
            found = split_setting(str(setting))
            if found is None or (loads_code(found[0]) and "all" not in given.allow):
                left = str(setting).split("=")[0]
                warnings.append(f"the database's setting {left!a} was left out: it makes the server load code")
            else:
                done.append(f"{subject} {set_words(*found)}")


def _grants(database: str, given: Properties, holder: str | None, done: list[str], warnings: list[str]) -> None:
    """Grants on the database.

    Args:
        holder: who has, as its owner, the rights that an owner has by default; None if that shall stay so.
    """
    grants = given.facts.get("grants")
    if grants is None:
        return
    done.append(f"REVOKE ALL ON {database} FROM PUBLIC")
    if holder is not None:
        done.append(f"REVOKE ALL ON {database} FROM {holder}")
    for _, grantee, privilege, grantable in grants:
        if grantee is not None and grantee not in given.roles:
            warnings.append(f"a grant to the role {grantee} was left out: there is no such role")
        elif re.fullmatch(r"[A-Z]+", privilege):
            to = "PUBLIC" if grantee is None else quoted(grantee)
            done.append(f"GRANT {privilege} ON {database} TO {to}" + (" WITH GRANT OPTION" if grantable else ""))
