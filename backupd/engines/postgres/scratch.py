"""Databases of the target server: making a scratch database, and giving it the target's name at the very end."""

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg

from backupd.engines.base import ServerPlace
from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.client import Server, open_connection
from backupd.engines.postgres.names import literal, quoted
from backupd.engines.postgres.problems import meaning, target_error
from backupd.errors import BackupdError, Failed, SafetyRefused, Unreachable

MARK = "backupd: a restore that is not finished; do not use it"
_LONGEST_NAME = 63
_SETTING = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)=(.*)\Z", re.DOTALL)
# Settings whose value is a list of names, which SET takes one by one.
_LISTS = frozenset({"search_path", "temp_tablespaces", "unix_socket_directories"})
# Settings that make the server load code.
_LOADING = frozenset(
    {
        "session_preload_libraries",
        "local_preload_libraries",
        "shared_preload_libraries",
        "dynamic_library_path",
        "jit_provider",
    }
)
_EMPTY = """
SELECT count(*) FROM (
  SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS kind, c.oid FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid FROM pg_catalog.pg_proc WHERE oid >= 16384
  UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, oid FROM pg_catalog.pg_type WHERE oid >= 16384 AND typrelid = 0
     AND typelem = 0
  UNION ALL SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, oid FROM pg_catalog.pg_namespace
     WHERE oid >= 16384 AND nspname !~ '^pg_'
  UNION ALL SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass, oid FROM pg_catalog.pg_largeobject_metadata
) o WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                       WHERE d.classid = o.kind AND d.objid = o.oid AND d.deptype = 'e')
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

    def exists(self, name: str) -> bool:
        """Whether there is a database of this name."""
        return bool(self._rows(b"SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (name,)))

    def is_empty(self, name: str) -> bool:
        """Whether a database holds nothing but what its template and its extensions brought.

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
        tail = f"_backupd_{secrets.token_hex(4)}"
        scratch = name.encode()[: _LONGEST_NAME - len(tail)].decode("utf-8", "ignore") + tail
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
        """Drop a database; with `force`, whoever uses it.

        Raises:
            SafetyRefused: somebody uses it.
            Failed: the server refuses.
        """
        self._run(f"DROP DATABASE {quoted(name)}" + (" WITH (FORCE)" if force else ""), name)

    def rename(self, name: str, new: str) -> None:
        """Rename a database.

        Raises:
            SafetyRefused: somebody uses it.
            Failed: the server refuses.
        """
        self._run(f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(new)}", name)

    def apply(self, name: str, facts: Mapping[str, Any], roles: set[str], allow: Iterable[str]) -> list[str]:
        """Give a database the owner, the grants, the settings and the comment of the source; returns what could not be."""
        statements, warnings = _properties(name, facts, roles, allow)
        for statement in statements:
            try:
                self._session.execute(statement.encode())
            except psycopg.Error as error:
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


def _properties(
    name: str, facts: Mapping[str, Any], roles: set[str], allow: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Statements that give a database its properties, and warnings for those that cannot be given."""
    database, done = f"DATABASE {quoted(name)}", []
    warnings: list[str] = []
    comment = facts.get("comment")
    done.append(f"COMMENT ON {database} IS {literal(str(comment)) if comment else 'NULL'}")
    _settings(name, facts, roles, "all" in allow, done, warnings)
    limit = facts.get("connection_limit")
    if isinstance(limit, int) and limit != -1:
        done.append(f"ALTER {database} CONNECTION LIMIT {limit}")
    owner = facts.get("owner")
    if owner in roles:
        done.append(f"ALTER {database} OWNER TO {quoted(str(owner))}")
    _grants(database, facts, roles, done, warnings)
    return done, warnings


def _settings(
    name: str, facts: Mapping[str, Any], roles: set[str], loading: bool, done: list[str], warnings: list[str]
) -> None:
    for role, settings in facts.get("settings") or ():
        if role is not None and role not in roles:
            warnings.append(f"the settings of the role {role} in this database were left out: there is no such role")
            continue
        database = f"DATABASE {quoted(name)}"
        subject = f"ALTER {database}" if role is None else f"ALTER ROLE {quoted(role)} IN {database}"
        for setting in settings:
            found = _SETTING.match(setting)
            if found is None or (found[1].lower() in _LOADING and not loading):
                left = setting.split("=")[0]
                warnings.append(f"the database's setting {left!a} was left out: it makes the server load code")
            else:
                done.append(f"{subject} SET {quoted(*found[1].split('.'))} TO {_setting_value(found[1], found[2])}")


def _grants(database: str, facts: Mapping[str, Any], roles: set[str], done: list[str], warnings: list[str]) -> None:
    owner, grants = facts.get("owner"), facts.get("grants")
    if grants is None:
        return
    done.append(f"REVOKE ALL ON {database} FROM PUBLIC")
    if owner in roles:
        done.append(f"REVOKE ALL ON {database} FROM {quoted(str(owner))}")
    for _, grantee, privilege, grantable in grants:
        if grantee is not None and grantee not in roles:
            warnings.append(f"a grant to the role {grantee} was left out: there is no such role")
        elif re.fullmatch(r"[A-Z]+", privilege):
            to = "PUBLIC" if grantee is None else quoted(grantee)
            done.append(f"GRANT {privilege} ON {database} TO {to}" + (" WITH GRANT OPTION" if grantable else ""))


def _setting_value(name: str, value: str) -> str:
    if name.lower() not in _LISTS:
        return literal(value)
    parts = re.findall(r'"((?:[^"]|"")*)"|([^,\s"]+)', value)
    return ", ".join(literal(one.replace('""', '"') if one or not other else other) for one, other in parts) or "''"
