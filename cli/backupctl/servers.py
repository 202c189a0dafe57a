"""Options of verbs that reach a database server, and what becomes of them."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backupctl.options import option
from backupd.errors import UsageError

if TYPE_CHECKING:
    from backupd.wiring import ServerOptions

_MAX_PASSWORD = 4096
_OPTIONS = (
    ("--password-file", {"metavar": "FILE", "help": "The database password (without: PGPASSFILE, or none)."}),
    (
        "--jobs",
        {
            "type": click.IntRange(1, 64),
            "default": 2,
            "show_default": True,
            "help": "Connections to a server at the same time.",
        },
    ),
    (
        "--tools",
        {"metavar": "DIR", "multiple": True, "help": "Look here first for pg_dump, psql, mariadb-dump and their like."},
    ),
    (
        "--lock-timeout",
        {"type": click.FloatRange(0), "default": 30.0, "show_default": True, "help": "Seconds to wait."},
    ),
)


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a connection; the verb gets them as one mapping, `server`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **values: Any) -> Any:
        names = ("password_file", "jobs", "tools", "lock_timeout")
        return function(*args, server={name: values.pop(name) for name in names}, **values)

    decorated: Callable[..., Any] = wrapper
    for name, attrs in reversed(_OPTIONS):
        decorated = option(name, **attrs)(decorated)
    return decorated


def read_password(name: str | None) -> str | None:
    """The password in a file; one trailing newline is ignored.

    Raises:
        UsageError: it cannot be read, is empty, or is no text.
    """
    if name is None:
        return None
    try:
        with Path(name).open("rb") as file:
            text = file.read(_MAX_PASSWORD + 1).decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise UsageError(f"the password file {name} cannot be read: {error.strerror}", object_name=name) from None
    except UnicodeDecodeError:
        raise UsageError(f"the password file {name} holds no UTF-8 text", object_name=name) from None
    if not text or len(text) > _MAX_PASSWORD or set(text) & set("\0\r\n"):
        raise UsageError(f"the password file {name} holds no password", object_name=name)
    return text


def build_options(server: dict[str, Any], **more: Any) -> "ServerOptions":
    """What the library wants to know; the tools' folders from BACKUPCTL_TOOLS are separated by ':'."""
    from backupd.wiring import ServerOptions

    tools = tuple(str(Path(part).absolute()) for text in server["tools"] for part in text.split(os.pathsep) if part)
    return ServerOptions(read_password(server["password_file"]), tools, jobs=server["jobs"], **more)


def table_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names given one by one, or several separated by commas; a backslash keeps a comma in a name."""
    names: list[str] = []
    for text in given:
        part = ""
        letters = iter(text)
        for letter in letters:
            if letter == "\\":
                part += next(letters, "")
            elif letter == ",":
                names.append(part)
                part = ""
            else:
                part += letter
        names.append(part)
    if "" in names:
        raise UsageError("a table's name is empty", hint="leave the option out to mean all tables")
    return tuple(names)
