"""Restores roles from what pg_dumpall wrote: statement by statement, and only roles that the target lacks.

Roles that exist are left as they are: their passwords and rights are the target's own affair.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

import psycopg

from backupd.engines.postgres.problems import meaning
from backupd.engines.postgres.sqltext import Statement, Unclear, statements
from backupd.errors import IntegrityError, SafetyRefused

SUPERUSER_ROLES = "superuser-role"
_FENCE = re.compile(r"^\\(?:un)?restrict [A-Za-z0-9]+\s*$", re.MULTILINE)


def restore_roles(
    session: "psycopg.Connection[Any]", text: bytes, existing: Collection[str], allow: Collection[str]
) -> tuple[set[str], list[str]]:
    """Create the roles that are missing; returns them, and warnings.

    Raises:
        SafetyRefused: a statement that pg_dumpall does not write, or a superuser that is not allowed.
        IntegrityError: the text cannot be read.
    """
    created: set[str] = set()
    warnings: list[str] = []
    for statement in list(_wanted(text)):
        role = _subject(statement)
        if role is None or role in (existing if statement.word(0) == "create" else set(existing) - created):
            continue
        source = _without_superuser(statement, role, allow, warnings)
        try:
            session.execute(source.encode("utf-8", "surrogateescape"))
        except psycopg.Error as error:
            # The text may hold a password hash, so nothing of it is said.
            warnings.append(f"{statement.word(0).upper()} for the role {role} was refused: {meaning(error.sqlstate)}")
            continue
        if statement.word(0) == "create":
            created.add(role)
    return created, warnings


def _wanted(text: bytes) -> Iterator[Statement]:
    """The statements about roles; what sets up the session or makes tablespaces is passed over."""
    try:
        for statement in statements(_FENCE.sub("", text.decode("utf-8", "surrogateescape"))):
            first, second = statement.word(0), statement.word(1)
            if first == "set" or (
                first in {"create", "alter", "comment", "grant"} and "tablespace" in statement.words[:8]
            ):
                continue
            is_comment = (first, second) == ("comment", "on") and statement.word(2) == "role"
            if is_comment or (first, second) in {("create", "role"), ("alter", "role")} or first == "grant":
                yield statement
            elif first not in {"security", "select"}:
                raise SafetyRefused(
                    f"the roles' text has a statement that does not belong there: {first[:20]!a}",
                    hint="restore without --with-globals",
                )
    except Unclear as error:
        raise IntegrityError(f"the roles' text cannot be read: {error}", hint="verify the snapshot") from error


def _subject(statement: Statement) -> str | None:
    """The role that a statement is about; of a grant, the role that becomes a member."""
    tokens = statement.tokens
    if statement.word(0) == "grant":
        words = [token.text if token.kind == "word" else "" for token in tokens]
        if "on" in words or "to" not in words:
            return None
        place = words.index("to") + 1
    else:
        place = 3 if statement.word(0) == "comment" else 2
    return tokens[place].text if place < len(tokens) and tokens[place].kind in {"word", "name"} else None


def _without_superuser(statement: Statement, role: str, allow: Collection[str], warnings: list[str]) -> str:
    """The statement's text; a superuser becomes an ordinary role unless that is allowed."""
    if "superuser" not in statement.words or {"all", SUPERUSER_ROLES} & set(allow):
        return statement.text
    warnings.append(f"the role {role} was a superuser and is none here; --allow {SUPERUSER_ROLES} keeps it")
    return re.sub(r"\bSUPERUSER\b", "NOSUPERUSER", statement.text, count=1)
