"""What stands in the way of a complete capture, said by name before anything is read.

The server hides what an account has no privilege on, so a missing privilege on the whole database is an error even where
nothing is seen to be missing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pymysql

from backupd.engines.base import Finding, ServerPlace
from backupd.engines.mariadb import mysql
from backupd.engines.mariadb.catalog import Catalog, Reader, is_system
from backupd.engines.mariadb.client import (
    LOST,
    Connection,
    Server,
    connect,
    discard,
    error_number,
    explain,
    quote_name,
    read_server,
    run,
    server_errors,
)
from backupd.engines.mariadb.tools import CLIENT, DUMP, INSTALL, find_program, version_of
from backupd.errors import SourceIncomplete, Unreachable

_GRANT = re.compile(
    r"(?P<word>GRANT|REVOKE) (?P<what>.+?) ON (?P<scope>\*|`(?:[^`]|``)*`)\.(?P<table>\*|`(?:[^`]|``)*`) (?:TO|FROM) ",
    re.DOTALL,
)
_ROLE = re.compile(r"`((?:[^`]|``)*)`@`((?:[^`]|``)*)`")
_FIXED = {(10, 5): 25, (10, 6): 18, (10, 11): 8, (11, 0): 6, (11, 1): 5, (11, 2): 4, (11, 4): 2}
"""Since which patch the client programs know the sandbox that keeps a dump from running programs."""

_INVALID_VIEW = 1356
_NOWHERE = "does not exist, or the backup user has no privilege on it"
_ROUTINE_SIGHT = frozenset({"SHOW CREATE ROUTINE", "EXECUTE", "ALTER ROUTINE", "CREATE ROUTINE"})
_ROUTINE_HINTS = {
    "mariadb": "grant SELECT on mysql.proc (or SHOW CREATE ROUTINE) to the backup user",
    "mysql": "grant SHOW_ROUTINE on *.* to the backup user",
}
LOG_NOTHING = ("SUPER", "BINLOG ADMIN", "SYSTEM_VARIABLES_ADMIN", "SESSION_VARIABLES_ADMIN")
"""Privileges, of which one is enough to keep a session out of the binary log."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What the account may do: on every database or this one, and whether it may read the server's own tables."""

    words: frozenset[str]
    everywhere: frozenset[str]

    def has(self, *any_of: str) -> bool:
        """Whether it has one of the privileges on the whole database."""
        return "ALL PRIVILEGES" in self.words or bool(self.words & set(any_of))

    def has_everywhere(self, *any_of: str) -> bool:
        """Whether it has one of the privileges on the whole server."""
        return "ALL PRIVILEGES" in self.everywhere or bool(self.everywhere & set(any_of))


def read_rights(place: ServerPlace, link: Connection) -> Rights:
    """What SHOW GRANTS says; a password's hash is in it too, so its text goes nowhere."""
    with server_errors(place, "asking for the privileges"):
        lines = [str(row[0]) for row in run(link, f"SHOW GRANTS{_with_roles(link)}")]
        exact = [str(row[1]) for row in run(link, "SHOW VARIABLES LIKE 'partial_revokes'")] == ["ON"]
    given: set[str] = set()
    everywhere: set[str] = set()
    taken: set[str] = set()
    for line in lines:
        found = _GRANT.match(line)
        if found is None or found["table"] != "*":
            continue
        words = {word.strip().upper() for word in re.sub(r"\([^)]*\)", "", found["what"]).split(",")}
        name = found["scope"][1:-1].replace("``", "`")
        if found["scope"] == "*":
            everywhere |= words
        elif found["word"] == "REVOKE":  # of what was given everywhere, on this database alone
            taken |= words if name == place.database else set()
        elif name == place.database or (not exact and _matches(name, place.database)):
            given |= words
    return Rights(frozenset(everywhere - taken | given), frozenset(everywhere))


def _with_roles(link: Connection) -> str:
    """How to have MySQL count in what the roles give that are at work; MariaDB does so by itself."""
    roles = _ROLE.findall(str(run(link, "SELECT CURRENT_ROLE()")[0][0]))
    names = ["@".join(quote_name(part.replace("``", "`")) for part in role) for role in roles]
    return f" FOR CURRENT_USER() USING {', '.join(names)}" if names else ""


def _matches(pattern: str, name: str) -> bool:
    """Whether the name of a database is meant by that of a grant, in which % and _ stand for others."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    signs = {"%": ".*", "_": "."}
    expression = "".join(signs.get(part) or re.escape(part.removeprefix("\\") or part) for part in parts)
    return re.fullmatch(expression, name, re.DOTALL) is not None


def preflight(
    place: ServerPlace, *, timeout: float = 30.0, exclude: Sequence[str] = (), bin_folders: Sequence[Path] = ()
) -> list[Finding]:
    """All that there is to say about capturing a place.

    Raises:
        Unreachable: nobody there, or the user is refused.
    """
    link = connect(place, timeout=timeout, database=None)
    try:
        server = read_server(place, link)
        catalog = Reader(place, link, server).read(exclude)
        return look(place, link, server, catalog) + _tool_findings(server, bin_folders)
    finally:
        discard(link)


def look(place: ServerPlace, link: Connection, server: Server, catalog: Catalog) -> list[Finding]:
    """What a connection and the catalogue tell."""
    if is_system(place.database):
        return [Finding("error", place.database, "is a database of the server's own", "name one of the applications'")]
    if not catalog.charset:
        return [Finding("error", place.database, _NOWHERE, f"check the name; grant SELECT on {place.database}.*")]
    rights = read_rights(place, link)
    findings = mysql.version_findings(server)
    findings += [*_missing(place, link, server, catalog, rights), *_hidden(server, catalog)]
    findings += _barrier(place, link, server, catalog, rights)
    findings += mysql.differences(place, link, catalog, rights.everywhere) if server.vendor == "mysql" else []
    findings += [
        Finding("error", name, "the server itself cannot open this table", "repair it, or exclude it")
        for name in catalog.broken
    ]
    findings += _broken_views(place, link, catalog)
    findings += [Finding("warning", name, f"{what} is not captured") for name, what in sorted(catalog.odd.items())]
    findings += [
        Finding("warning", name, f"a table of {engine} holds no rows of its own: only its definition is captured")
        for name, engine in sorted(catalog.others.items())
        if engine != "sequence"
    ]
    findings += [
        Finding("warning", table.name, f"not transactional ({table.engine}): its writers wait while it is read")
        for table in sorted(catalog.tables.values(), key=lambda table: table.name)
        if not table.is_transactional
    ]
    return findings + _definers(place, link, catalog)


def require(findings: Sequence[Finding]) -> None:
    """Fail if a capture would be incomplete.

    Raises:
        Unreachable: there is no such database, or none that this user sees.
        SourceIncomplete: it names everything that is missing.
    """
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return
    if errors[0].detail == _NOWHERE:
        raise Unreachable(f"{errors[0].object} {_NOWHERE}", object_name=errors[0].object, hint=errors[0].hint)
    named = "; ".join(f"{finding.object}: {finding.detail}" for finding in errors[:8])
    more = f"; and {len(errors) - 8} more" if len(errors) > 8 else ""
    hints = dict.fromkeys(finding.hint for finding in errors if finding.hint)
    raise SourceIncomplete(
        f"not all of the database can be captured: {named}{more}",
        object_name=errors[0].object,
        hint="; ".join(list(hints)[:4]),
    )


def _missing(place: ServerPlace, link: Connection, server: Server, catalog: Catalog, rights: Rights) -> list[Finding]:
    """Privileges without which something would not even be seen."""
    name = place.database
    found = []
    if not rights.has("SELECT"):
        for table in catalog.tables:
            if not _can_read(place, link, table):
                found.append(
                    Finding(
                        "error",
                        table,
                        "the backup user may not read this table",
                        f"grant SELECT on {name}.*, or exclude it",
                    )
                )
        detail = "without SELECT on the whole database there may be tables that the backup user cannot even see"
        found.append(Finding("error", name, detail, f"grant SELECT on {name}.* to the backup user"))
    for word, things in (("TRIGGER", "triggers"), ("EVENT", "events")):
        if not rights.has(word):
            detail = f"without the privilege {word} its {things} are hidden"
            found.append(Finding("error", name, detail, f"grant {word} on {name}.* to the backup user"))
    if not rights.has("SHOW VIEW") and any(stored.kind == "view" for stored in catalog.stored):
        detail = "without the privilege SHOW VIEW its views cannot be captured"
        found.append(Finding("error", name, detail, f"grant SHOW VIEW on {name}.* to the backup user"))
    if not (rights.has(*_ROUTINE_SIGHT) or _sees_bodies(place, link, server, rights)):
        found.append(Finding("error", name, "its procedures and functions are hidden", _ROUTINE_HINTS[server.vendor]))
    return found


def _sees_bodies(place: ServerPlace, link: Connection, server: Server, rights: Rights) -> bool:
    if server.vendor == "mysql":
        return rights.has_everywhere(*mysql.ROUTINE_SIGHT)
    return _can_read(place, link, "proc", "mysql")


def _hidden(server: Server, catalog: Catalog) -> list[Finding]:
    detail, hint = "its body is hidden from the backup user", _ROUTINE_HINTS[server.vendor]
    return [
        Finding("error", f"{stored.kind} {stored.name}", detail, hint) for stored in catalog.stored if stored.hidden
    ]


def _barrier(place: ServerPlace, link: Connection, server: Server, catalog: Catalog, rights: Rights) -> list[Finding]:
    found = []
    locks = rights.has("LOCK TABLES")
    for table in catalog.tables.values():
        if not table.is_transactional and not locks:
            detail = f"not transactional ({table.engine}), and the backup user may not lock it"
            found.append(
                Finding("error", table.name, detail, f"grant LOCK TABLES on {place.database}.*, or exclude it")
            )
    if server.vendor == "mysql":
        if not locks:
            detail = "without the privilege LOCK TABLES one connection reads everything"
            found.append(Finding("warning", place.database, detail, f"grant LOCK TABLES on {place.database}.*"))
    elif not rights.has_everywhere("RELOAD"):
        other = "table locks" if locks else "a busy server may have to be read with one connection"
        found.append(
            Finding(
                "warning",
                place.database,
                f"without the privilege RELOAD the barrier is weaker: {other}",
                "grant RELOAD on *.*",
            )
        )
    with server_errors(place, "asking for the binary log"):
        if str(run(link, "SELECT @@GLOBAL.log_bin")[0][0]) not in ("1", "ON"):
            found.append(
                Finding(
                    "note", place.database, "the server writes no binary log: the moment is proven by the barrier alone"
                )
            )
    return found


def _definers(place: ServerPlace, link: Connection, catalog: Catalog) -> list[Finding]:
    """Objects whose definer is no account of this server; nothing where accounts may not be listed."""
    if not _can_read(place, link, "user", "mysql"):
        return []
    with server_errors(place, "listing the accounts"):
        accounts = {f"{user}@{host}" for user, host in run(link, "SELECT User, Host FROM mysql.user")}
    return [
        Finding("warning", f"{stored.kind} {stored.name}", f"its definer {stored.definer} is no account of this server")
        for stored in catalog.stored
        if stored.definer and stored.definer not in accounts and stored.definer.removesuffix("@") not in accounts
    ]


def _broken_views(place: ServerPlace, link: Connection, catalog: Catalog) -> list[Finding]:
    """Views on something that is not there any more, which the dump program stops at."""
    detail = "it refers to a table, column or function that is not there, or that its definer may not use"
    found = []
    for stored in catalog.stored:
        if stored.kind != "view":
            continue
        try:
            run(link, f"SHOW COLUMNS FROM {quote_name(place.database)}.{quote_name(stored.name)}")
        except pymysql.Error as error:
            if error_number(error) in LOST:
                raise explain(error_number(error), place, f"looking at view {stored.name}") from None
            if error_number(error) == _INVALID_VIEW:
                found.append(Finding("error", f"view {stored.name}", detail, "repair or drop it, or exclude it"))
    return found


def _can_read(place: ServerPlace, link: Connection, table: str, database: str | None = None) -> bool:
    try:
        run(link, f"SELECT 1 FROM {quote_name(database or place.database)}.{quote_name(table)} LIMIT 0")
    except pymysql.Error as error:
        if error_number(error) in LOST:
            raise explain(error_number(error), place, f"looking at table {table}") from None
        return False
    return True


def _tool_findings(server: Server, folders: Sequence[Path]) -> list[Finding]:
    found = []
    for programs in (CLIENT, DUMP):
        name, program = programs[server.vendor][0], find_program(programs, server.vendor, folders)
        if program is None:
            found.append(Finding("error", name, "the program was not found", INSTALL[server.vendor]))
        elif is_vulnerable(version_of(program)):
            detail = "this version runs programs that a hostile dump names (no sandbox mode)"
            found.append(Finding("warning", name, detail, "update MariaDB's client programs"))
    return found


def is_vulnerable(said: str) -> bool:
    """Whether a MariaDB client program, by what `--version` prints, is older than its sandbox mode."""
    version = re.search(r"(\d+)\.(\d+)\.(\d+)-MariaDB", said)
    if version is None:
        return False
    major, minor, patch = (int(part) for part in version.groups())
    fixed = _FIXED.get((major, minor))
    return patch < fixed if fixed is not None else (major, minor) < (11, 3)
