"""Restores roles from what pg_dumpall wrote: statement by statement, and only roles that the target lacks.

Nothing of the text is executed as it is. Each statement must have one of the forms that pg_dumpall writes, and is written
anew from its names and strings; what has another form is refused. Roles that exist are left as they are: their passwords
and rights are the target's own affair.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from backupd.engines.postgres.names import quoted
from backupd.engines.postgres.problems import meaning
from backupd.engines.postgres.settings import SUPERUSER_ROLES, loads_code
from backupd.engines.postgres.sqltext import Statement, Token, Unclear, statements
from backupd.errors import IntegrityError, SafetyRefused

_FENCE = re.compile(r"^\\(?:un)?restrict [A-Za-z0-9]+\s*$", re.MULTILINE)
# Words that stand for a role that they do not name, or for none, or that begin something else.
_NO_ROLES = frozenset({"current_user", "session_user", "current_role", "user", "all", "public", "group", "none"})
_ATTRIBUTES = frozenset(
    {"superuser", "inherit", "createrole", "createdb", "login", "replication", "bypassrls"}
    | {"nosuperuser", "noinherit", "nocreaterole", "nocreatedb", "nologin", "noreplication", "nobypassrls"}
)
_MEMBERSHIP = {"admin": {"option", "true", "false"}, "inherit": {"true", "false"}, "set": {"true", "false"}}


@dataclass(frozen=True, slots=True)
class _Order:
    """One statement as it is executed.

    Attributes:
        role: the role that it makes or changes.
        granted: of a grant, the role that the other becomes a member of.
        superuser: whether it makes a superuser.
        setting: of a setting, its name.
    """

    verb: str
    role: str
    text: str
    granted: str | None = None
    superuser: bool = False
    setting: str | None = None


class _Foreign(Exception):
    """A statement that pg_dumpall does not write."""


class _Words:
    """Takes a statement apart, token by token.

    Args:
        trusted: whether roles may get rights that only a superuser gives.
    """

    def __init__(self, tokens: Sequence[Token], trusted: bool) -> None:
        self._tokens = tokens
        self.trusted = trusted
        self._place = 0

    @property
    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self._place >= len(self._tokens)

    def take(self) -> Token:
        """The next token."""
        if self.at_end:
            raise _Foreign
        self._place += 1
        return self._tokens[self._place - 1]

    def has(self, text: str, kind: str = "word") -> bool:
        """Take the next token if it is this one."""
        if self.at_end or self._tokens[self._place] != Token(kind, text):
            return False
        self._place += 1
        return True

    def expect(self, *words: str) -> None:
        """Take these words."""
        if not all(self.has(word) for word in words):
            raise _Foreign

    def end(self) -> None:
        """Nothing may be left."""
        if not self.at_end:
            raise _Foreign

    def name(self) -> str:
        """A name, quoted or not."""
        token = self.take()
        if token.kind not in {"word", "name"} or (token.kind == "name" and not token.raw.startswith('"')):
            raise _Foreign
        return token.text

    def role(self) -> str:
        """The name of a role."""
        token = self.take()
        self._place -= 1
        if (token.kind == "word" and token.text in _NO_ROLES) or token.text in {"public", "none"}:
            raise _Foreign
        return self.name()

    def string(self) -> str:
        """A string constant, as it was written."""
        token = self.take()
        if token.kind != "string" or not re.match(r"[eE]?'", token.raw):
            raise _Foreign
        return token.raw

    def number(self) -> str:
        """A whole number, or its negative."""
        sign = "-" if self.has("-", "mark") else ""
        token = self.take()
        if token.kind != "number" or not token.text.isdigit():
            raise _Foreign
        return sign + token.text


def restore_roles(
    session: "psycopg.Connection[Any]", text: bytes, existing: Collection[str], allow: Collection[str]
) -> tuple[set[str], list[str]]:
    """Create the roles that are missing; returns them, and warnings.

    Raises:
        SafetyRefused: a statement that pg_dumpall does not write; nothing has been executed then.
        IntegrityError: the text cannot be read.
    """
    created: set[str] = set()
    warnings: list[str] = []
    trusted = bool({"all", SUPERUSER_ROLES} & set(allow))
    for order in list(_orders(text, trusted)):
        if order.role not in created and (order.verb != "CREATE" or order.role in existing):
            continue
        if (why := _left_out(order, created, trusted)) is not None:
            warnings.append(why)
            continue
        if order.superuser and not trusted:
            warnings.append(
                f"the role {order.role} was a superuser and is none here; --allow {SUPERUSER_ROLES} keeps it"
            )
        try:
            session.execute(order.text.encode("utf-8", "surrogateescape"))
        except psycopg.Error as error:
            # The text may hold a password hash, so nothing of it is said.
            warnings.append(f"{order.verb} for the role {order.role} was refused: {meaning(error.sqlstate)}")
            continue
        if order.verb == "CREATE":
            created.add(order.role)
    return created, warnings


def _left_out(order: _Order, created: Collection[str], trusted: bool) -> str | None:
    """Why a statement is not executed: it gives what only the target's owner may give."""
    if trusted:
        return None
    if order.granted is not None and order.granted not in created:
        return (
            f"the role {order.role} was not made a member of {order.granted}, which is not of this snapshot; "
            f"--allow {SUPERUSER_ROLES} does that"
        )
    if order.setting is not None and loads_code(order.setting):
        return f"the setting {order.setting!a} of the role {order.role} was left out: it makes the server load code"
    return None


def _orders(text: bytes, trusted: bool) -> Iterator[_Order]:
    """What to execute; what sets up the session, and what is about tablespaces, is passed over."""
    try:
        for statement in statements(_FENCE.sub("", text.decode("utf-8", "surrogateescape"))):
            first = statement.word(0)
            if first in {"set", "security", "select"} or _is_of_others(statement):
                continue
            try:
                yield _order(statement, trusted)
            except _Foreign:
                raise SafetyRefused(
                    f"the roles' text has a statement that does not belong there: {first[:20]!a}",
                    hint="restore without --with-globals",
                ) from None
    except Unclear as error:
        raise IntegrityError(f"the roles' text cannot be read: {error}", hint="verify the snapshot") from error


def _is_of_others(statement: Statement) -> bool:
    """Whether it is about tablespaces, or grants a right on an object; such are not executed."""
    first = statement.word(0)
    if first in {"create", "alter"}:
        return statement.word(1) == "tablespace"
    if first == "comment":
        return statement.word(2) == "tablespace"
    return first in {"grant", "revoke"} and "on" in statement.words


def _order(statement: Statement, trusted: bool) -> _Order:
    words = _Words(statement.tokens, trusted)
    verb = words.take()
    order = _FORMS[verb.text](words) if verb.kind == "word" and verb.text in _FORMS else None
    if order is None:
        raise _Foreign
    words.end()
    return order


def _create(words: _Words) -> _Order:
    words.expect("role")
    role = words.role()
    return _Order("CREATE", role, f"CREATE ROLE {quoted(role)}")


def _alter(words: _Words) -> _Order:
    words.expect("role")
    role = words.role()
    if words.has("set"):
        name = words.name()
        while words.has(".", "mark"):
            name += f".{words.name()}"
        if not (words.has("to") or words.has("=", "mark")):
            raise _Foreign
        values = [words.string()]
        while words.has(",", "mark"):
            values.append(words.string())
        place = quoted(*name.split("."))
        return _Order("ALTER", role, f"ALTER ROLE {quoted(role)} SET {place} TO {', '.join(values)}", setting=name)
    words.expect("with")
    options, superuser = _options(words)
    return _Order("ALTER", role, f"ALTER ROLE {quoted(role)} WITH {options}", superuser=superuser)


def _options(words: _Words) -> tuple[str, bool]:
    """What follows ALTER ROLE ... WITH; a superuser becomes an ordinary role unless that is trusted."""
    found: list[str] = []
    superuser = False
    while not words.at_end:
        token = words.take()
        if token.kind != "word":
            raise _Foreign
        if token.text == "superuser":
            superuser = True
            found.append("SUPERUSER" if words.trusted else "NOSUPERUSER")
        elif token.text in _ATTRIBUTES:
            found.append(token.text.upper())
        elif token.text == "connection":
            words.expect("limit")
            found.append(f"CONNECTION LIMIT {words.number()}")
        elif token.text == "password":
            found.append(f"PASSWORD {words.string()}")
        elif token.text == "valid":
            words.expect("until")
            found.append(f"VALID UNTIL {words.string()}")
        else:
            raise _Foreign
    return " ".join(found), superuser


def _grant(words: _Words) -> _Order:
    granted = words.role()
    words.expect("to")
    role = words.role()
    text = f"GRANT {quoted(granted)} TO {quoted(role)}"
    if words.has("with"):
        text += f" WITH {_membership(words)}"
    if words.has("granted"):
        words.expect("by")
        text += f" GRANTED BY {quoted(words.role())}"
    return _Order("GRANT", role, text, granted=granted)


def _membership(words: _Words) -> str:
    found = []
    while True:
        option, value = words.take(), words.take()
        if option.kind != "word" or value.kind != "word" or value.text not in _MEMBERSHIP.get(option.text, ()):
            raise _Foreign
        found.append(f"{option.text.upper()} {value.text.upper()}")
        if not words.has(",", "mark"):
            return ", ".join(found)


def _comment(words: _Words) -> _Order:
    words.expect("on", "role")
    role = words.role()
    words.expect("is")
    return _Order("COMMENT", role, f"COMMENT ON ROLE {quoted(role)} IS {words.string()}")


_FORMS: Mapping[str, Callable[[_Words], _Order]] = {
    "create": _create,
    "alter": _alter,
    "grant": _grant,
    "comment": _comment,
}
