"""Accounts, roles and grants from a snapshot: only those that the server does not have are made, nothing of others changes.

What a statement does, and to whom, is read from its own text; what the dump program does not print is refused.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pymysql

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import LOST, Connection, error_number, explain, run, send, server_errors
from backupd.engines.mariadb.splitting import Piece, quoting
from backupd.errors import SafetyRefused

_FLAGS = re.IGNORECASE | re.ASCII
_NAME = r"(?:`[^`]*`|'[^']*')"
_WHO = rf"({_NAME}(?:@{_NAME})?)"
_CREATE_USER = re.compile(rf"CREATE\s+USER\s+(?:IF\s+NOT\s+EXISTS\s+)?{_WHO}(?:\s[^,]*)?\Z", _FLAGS)
_CREATE_ROLE = re.compile(rf"CREATE\s+ROLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{_WHO}(?:\s+WITH\s+ADMIN\s+\w+)?\s*\Z", _FLAGS)
_GRANT = re.compile(rf"GRANT\s.*\sTO\s+{_WHO}(?:\s+(?:IDENTIFIED|REQUIRE|WITH)\s[^,]*)?\s*\Z", _FLAGS | re.DOTALL)
_DEFAULT_ROLE = re.compile(rf"SET\s+DEFAULT\s+ROLE\s+(?:NONE|{_NAME})\s+FOR\s+{_WHO}\s*\Z", _FLAGS)
_IGNORED = re.compile(
    r"SET\s+(?:ROLE|NAMES|@|TIME_ZONE|SQL_MODE|FOREIGN_KEY_CHECKS|UNIQUE_CHECKS|CHARACTER_SET|COLLATION|SQL_NOTES|NOTE_VERBOSITY)"
    r"|SELECT\s+COALESCE\(CURRENT_ROLE|(?:CREATE|DROP)\s+ROLE\s+(?:IF\s+NOT\s+EXISTS\s+)?mariadb_dump_import_role\b"
    r"|GRANT\s+mariadb_dump_import_role\s|EXECUTE\s+IMMEDIATE\s|ALTER\s+USER\s",
    _FLAGS,
)


@dataclass(frozen=True, slots=True)
class AccountStatement:
    """One statement about one account ("user@host") or role ("role@")."""

    who: str
    makes: bool
    text: str


def read(pieces: Iterable[Piece]) -> list[AccountStatement]:
    """What a dump of accounts would do.

    Raises:
        SafetyRefused: something else than accounts, roles and grants.
    """
    found = []
    for piece in pieces:
        mask = "" if piece.unsure or any(quoting(piece.mode)) else piece.mask
        if match := _CREATE_ROLE.match(mask):
            role = piece.text[slice(*match.span(1))]
            found.append(AccountStatement(_account(role), True, f"CREATE ROLE IF NOT EXISTS {role}"))
        elif match := _CREATE_USER.match(mask):
            found.append(AccountStatement(_account(piece.text[slice(*match.span(1))]), True, piece.text))
        elif _IGNORED.match(mask):
            continue
        elif match := _GRANT.match(mask) or _DEFAULT_ROLE.match(mask):
            found.append(AccountStatement(_account(piece.text[slice(*match.span(1))]), False, piece.text))
        else:
            raise SafetyRefused(
                "the accounts' stream holds something else than accounts and grants", hint="restore without the globals"
            )
    return found


def existing(place: ServerPlace, link: Connection) -> frozenset[str] | None:
    """The accounts and roles of the server; None if this user may not list them."""
    try:
        return frozenset(f"{user}@{host}" for user, host in run(link, "SELECT User, Host FROM mysql.user"))
    except pymysql.Error as error:
        if error_number(error) in LOST:
            raise explain(error_number(error), place, "listing the accounts") from None
        return None


def restore(place: ServerPlace, link: Connection, wanted: Sequence[AccountStatement], made: list[str]) -> list[str]:
    """Make the accounts that are missing, with their grants; what should be known of it.

    Args:
        made: those that were made are added, also where a later one fails.

    Raises:
        SafetyRefused: this user may not list the accounts.
        Failed: the server refused one.
    """
    known = existing(place, link)
    if known is None:
        raise SafetyRefused(
            "the accounts cannot be restored: the user may not read mysql.user", hint="restore without the globals"
        )
    fresh = {statement.who for statement in wanted if statement.makes} - known
    for statement in wanted:
        if statement.who in fresh:
            with server_errors(place, f"restoring account {statement.who}", subject=statement.who):
                send(link, statement.text)
            if statement.makes:
                made.append(statement.who)
    kept = sorted({statement.who for statement in wanted} & known)
    return [f"accounts that were there already were left as they are: {', '.join(kept)}"] if kept else []


def _account(text: str) -> str:
    parts = re.findall(r"`(?:[^`]|``)*`|'(?:[^'\\]|\\.|'')*'", text, re.DOTALL)
    names = [
        re.sub(r"\\(.)", r"\1", part[1:-1].replace(part[0] * 2, part[0]))
        if part[0] == "'"
        else part[1:-1].replace("``", "`")
        for part in parts
    ]
    return "@".join(names) if len(names) > 1 else f"{names[0]}@"
