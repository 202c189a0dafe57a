"""Connections to a server: parameters, session settings, and the private environment of child programs.

A password reaches a child only through a private file that has no name in any folder (where the system has such files),
never through an argument or the environment. Children see nothing of this process's environment.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from backupd.engines.base import ServerPlace
from backupd.engines.postgres.private import PrivateFile
from backupd.engines.postgres.problems import connect_error
from backupd.errors import Unreachable, UsageError

OLDEST = 14
APPLICATION = "backupd"
# Of a capture's main connection: a statement that takes longer than this means that the server is lost.
QUERY_SECONDS = 900.0
# Of ours, in a URL: says that what answers in the server's place gives each connection a session of its own.
_POOLER = "pooler"
_REFUSED = frozenset({"password", "sslpassword", "oauth_client_secret"})
_SECRETS = _REFUSED | {"passfile", "service", "servicefile"}
# Parameters that the children's libpq may be too old for; passed on only if the URL has them.
_NEW = frozenset({"sslcertmode", "gssdelegation", "require_auth", "sslnegotiation", "min_protocol_version"}) | {
    "max_protocol_version",
    "sslkeylogfile",
}
# A child must reach the very server that the first connection found.
_CHOICES = frozenset({"target_session_attrs", "load_balance_hosts", "host", "hostaddr", "port", "dbname", "user"})
_KEEPALIVE = {"keepalives": "1", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
_SETTINGS = (
    ("search_path", ""),
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("timezone", "UTC"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("xmloption", "content"),
    ("array_nulls", "on"),
    ("synchronize_seqscans", "off"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("max_parallel_workers_per_gather", "0"),
    ("jit", "off"),
    ("enable_memoize", "off"),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("client_min_messages", "error"),
    ("client_encoding", "UTF8"),
)
# Settings that decide how a value is written as text; part of every row format's fingerprint.
TEXT_SETTINGS = _SETTINGS[1:10]


def session_settings(major: int) -> str:
    """The statements that every session of ours begins with."""
    late = (("transaction_timeout", "0"),) if major >= 17 else ()
    return "".join(f"SET {name} = '{value}';\n" for name, value in (*_SETTINGS, *late))


@dataclass(frozen=True, slots=True)
class Server:
    """A server as the first connection found it.

    Attributes:
        parameters: what else of libpq's parameters is needed to reach it again; no secrets.
        version: e.g. 150018.
    """

    host: str
    port: int
    user: str
    parameters: Mapping[str, str]
    version: int
    password: str | None = field(default=None, repr=False)

    @property
    def major(self) -> int:
        """The major version."""
        return self.version // 10000

    def conninfo(self, database: str) -> str:
        """A connection string without secrets."""
        place = {"host": self.host, "port": str(self.port), "user": self.user, "dbname": database}
        return make_conninfo("", **{**self.parameters, **{name: value for name, value in place.items() if value}})

    def connect(self, database: str) -> "psycopg.Connection[Any]":
        """One more connection to the same server, to any of its databases.

        Raises:
            psycopg.Error: no connection.
        """
        connection = psycopg.connect(self.conninfo(database), password=self.password, autocommit=True)
        try:
            connection.execute(session_settings(self.major).encode())
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def child_environment(server: Server, options: str = "") -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """The whole environment of a child program, and the descriptors that it must inherit.

    Args:
        server: where the child shall connect to.
        options: settings for its sessions, as `-c name=value` words.
    """
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PGAPPNAME": APPLICATION}
    if options:
        environment["PGOPTIONS"] = options
    if server.password is None:
        yield environment, ()
        return
    if "\n" in server.password or "\r" in server.password:
        raise Unreachable("the password holds a line break, which PostgreSQL's own tools cannot be given")
    with PrivateFile() as file:
        escaped = server.password.replace("\\", "\\\\").replace(":", "\\:")
        file.write(f"*:*:*:*:{escaped}\n".encode())
        environment["PGPASSFILE"] = file.path
        yield environment, file.inherited


def open_connection(
    place: ServerPlace, *, timeout: float, database: str | None = None
) -> "tuple[psycopg.Connection[Any], Server]":
    """Connect, check the version, and set the session up.

    Raises:
        Unreachable: no connection, a pooler instead of the server, or a server that is too old.
        TryAgain: the server is starting up, or full.
    """
    parameters = _parameters(place, timeout, database or place.database)
    try:
        connection = psycopg.connect(**parameters)
    except psycopg.ProgrammingError as error:
        raise UsageError(f"{place} has an option that PostgreSQL does not know", hint="check the URL") from error
    except (psycopg.Error, UnicodeError, ValueError, OSError) as error:
        raise connect_error(error, str(place)) from error
    try:
        server = _describe(connection, timeout, place)
        if server.major < OLDEST:
            raise Unreachable(
                f"{place} is PostgreSQL {server.major}",
                object_name=str(place),
                hint=f"PostgreSQL {OLDEST} is the oldest version that is supported",
            )
        with patience(connection, timeout):
            connection.execute(session_settings(server.major).encode())
            _refuse_pooler(connection, place)
    except (psycopg.Error, UnicodeError, ValueError) as error:
        connection.close()
        raise connect_error(error, str(place)) from error
    except BaseException:
        connection.close()
        raise
    return connection, server


def _refuse_pooler(connection: "psycopg.Connection[Any]", place: ServerPlace) -> None:
    """A pooler may give each transaction to another session: settings and snapshots would be those of nobody knows whom.

    Most hand out process numbers of their own. So do proxies that give each connection a session of its own, which cannot
    be told apart from here: whoever knows that it is one says so in the URL.
    """
    if place.options.get(_POOLER) == "session":
        return
    row = connection.execute(b"SELECT pg_catalog.pg_backend_pid()").fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        raise Unreachable(
            f"a connection pooler or proxy answers at {place}",
            object_name=str(place),
            hint="give the address of the server itself, because a pooler may change sessions in between;"
            f" if it gives each connection a session of its own, add {_POOLER}=session to the URL's options",
        )


def _parameters(place: ServerPlace, timeout: float, database: str) -> dict[str, Any]:
    if forbidden := sorted(_REFUSED & place.options.keys()):
        raise UsageError(
            f"the option {forbidden[0]} of {place} is refused: it would show in histories and process lists",
            hint="use --password-file or PGPASSFILE",
        )
    given = {
        "host": place.host,
        "port": str(place.port) if place.port else "",
        "user": place.user,
        "dbname": database,
        "password": place.password or "",
    }
    return {
        **_KEEPALIVE,
        "tcp_user_timeout": str(round(max(timeout, 30.0) * 2000)),
        "connect_timeout": str(max(2, round(timeout))),
        "application_name": APPLICATION,
        "autocommit": True,
        **{name: value for name, value in place.options.items() if name != _POOLER},
        **{name: value for name, value in given.items() if value},
    }


def _describe(connection: "psycopg.Connection[Any]", timeout: float, place: ServerPlace) -> Server:
    info = connection.info
    found = info.get_parameters()
    dropped = _SECRETS | _CHOICES | (_NEW - place.options.keys())
    kept = {name: value for name, value in found.items() if name not in dropped}
    if info.hostaddr and "hostaddr" in found:
        kept["hostaddr"] = info.hostaddr
    kept["connect_timeout"] = str(max(2, round(timeout)))
    return Server(info.host, info.port, info.user, kept, info.server_version, info.password or None)


@contextmanager
def patience(connection: "psycopg.Connection[Any]", seconds: float = QUERY_SECONDS) -> Iterator[None]:
    """Cut the line if what is done within takes longer than `seconds`; the statement under way then fails."""
    timer = threading.Timer(seconds, _cutter(connection))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cutter(connection: "psycopg.Connection[Any]") -> Callable[[], None]:
    return lambda: cut(connection)


def cut(connection: "psycopg.Connection[Any]") -> None:
    """Break the line without a farewell, so that the server undoes what is under way; safe from any thread."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=_duplicate(connection)) as line:
        line.shutdown(socket.SHUT_RDWR)


def _duplicate(connection: "psycopg.Connection[Any]") -> int:
    return os.dup(connection.fileno())
