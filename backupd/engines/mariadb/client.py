"""Connections to a MariaDB or MySQL server through PyMySQL: for the catalogue, the barrier and the load.

No rows of a capture come this way. A message of the server never becomes part of an error, because it may quote a record;
only its number does.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pymysql

from backupd.engines.base import ServerPlace
from backupd.errors import BackupdError, Failed, SourceIncomplete, SourceMoved, TryAgain, Unreachable, UsageError

Row: TypeAlias = tuple[object, ...]
Connection: TypeAlias = "pymysql.Connection[pymysql.cursors.Cursor]"

_TLS_WORDS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity", "ssl_disabled")
_OTHER_WORDS = ("unix_socket", "charset", "local_infile")
_TRUE = ("1", "true", "yes", "on")
_SOCKETS = ("mysqld.sock", "mysql.sock", "mariadb.sock", "socket")

LOST = frozenset(
    {
        1053,
        1077,
        1079,
        1152,
        1159,
        1160,
        1161,
        1184,
        1317,
        1927,
        2000,
        2002,
        2003,
        2005,
        2006,
        2012,
        2013,
        2014,
        2026,
        2027,
        2055,
    }
)
"""The connection ended, was killed, or was never there."""

DENIED = frozenset({1044, 1045, 1095, 1141, 1142, 1143, 1227, 1370, 1419, 1698, 1820, 1862, 3118, 4151})
"""The account may not do that."""

MOVED = frozenset({1049, 1051, 1054, 1146, 1356, 1412, 1932, 4031})
"""A table, or a column of it, is not any more what it was."""

BUSY = frozenset({1040, 1203, 1205, 1213, 1226, 1969, 3024, 3572})
"""Too many connections, a lock that was not given in time, a statement over its time."""


Vendor = Literal["mariadb", "mysql"]


@dataclass(frozen=True, slots=True)
class Server:
    """What a server is."""

    vendor: Vendor
    version: tuple[int, int, int]
    text: str

    @property
    def release(self) -> str:
        """Vendor, major and minor version, as in "mariadb-10.11"."""
        return f"{self.vendor}-{self.version[0]}.{self.version[1]}"


def parse_version(text: str) -> Server:
    """What `SELECT VERSION()` says; "5.5.5-" in front is what replicas of old made MariaDB say.

    Raises:
        Unreachable: it is no version.
    """
    found = re.match(r"(?:5\.5\.5-)?(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", text)
    if found is None:
        raise Unreachable("the server does not say which version it is", hint="check the address")
    major, minor, patch = (int(part or 0) for part in found.groups())
    is_mariadb = "mariadb" in text.lower() or major >= 10
    return Server("mariadb" if is_mariadb else "mysql", (major, minor, patch), text[:80])


def quote_name(name: str) -> str:
    """An identifier, quoted."""
    return "`" + name.replace("`", "``") + "`"


def quote_text(text: str) -> str:
    """A string literal that means the same under every sql_mode; no backslash may be in it under NO_BACKSLASH_ESCAPES."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0").replace("\n", "\\n") + "'"


def error_number(error: BaseException) -> int:
    """The server's or the client's number of an error; 0 if it has none."""
    number = error.args[0] if error.args else 0
    return number if isinstance(number, int) else 0


def explain(number: int, place: ServerPlace, doing: str, *, subject: str | None = None) -> BackupdError:
    """The error to raise for a number: what could not be done, on which object, and why as far as the number says it."""
    where = f"{doing} on {place}"
    if number in LOST or number == 0:
        return Unreachable(
            f"the connection was lost or refused while {where} (error {number})",
            object_name=subject or str(place),
            hint="check the address, the server and the network, then run again",
        )
    if number in DENIED:
        return Unreachable(
            f"the server refused {where} (error {number})",
            object_name=subject or str(place),
            hint="check the user, the password and the privileges",
        )
    if number in BUSY:
        return TryAgain(
            f"the server was too busy for {where} (error {number})", object_name=subject, hint="run again later"
        )
    return Failed(
        f"the server failed {where} (error {number})", object_name=subject or str(place), hint="see the server's log"
    )


@contextmanager
def server_errors(place: ServerPlace, doing: str, *, subject: str | None = None) -> Iterator[None]:
    """Turn what the driver raises, a garbled answer included, into this project's errors.

    Raises:
        Unreachable, TryAgain, Failed.
    """
    try:
        yield
    except pymysql.Error as error:
        raise explain(error_number(error), place, doing, subject=subject) from None
    except OSError as error:
        raise Unreachable(
            f"the connection failed while {doing} on {place} ({type(error).__name__})", hint="check the server"
        ) from None
    except (AssertionError, AttributeError, LookupError, RuntimeError, ValueError, TypeError, struct.error) as error:
        raise Unreachable(
            f"the server's answer makes no sense while {doing} on {place} ({type(error).__name__})",
            hint="check that the address is that of a MariaDB or MySQL server",
        ) from None


@contextmanager
def making_errors(place: ServerPlace, label: str, name: str) -> Iterator[None]:
    """The same while an object of a snapshot is made: the server is there, and what it refuses is that object.

    Raises:
        Unreachable, TryAgain, Failed.
    """
    with server_errors(place, f"creating {label}", subject=name):
        try:
            yield
        except pymysql.Error as error:
            if (number := error_number(error)) not in DENIED:
                raise
            raise Failed(
                f"the server refused creating {label} (error {number})",
                object_name=name,
                hint="it takes rights that this account has not: grant them, or restore with another account",
            ) from None


def as_source_error(error: BackupdError, number: int, table: str) -> BackupdError:
    """The same, for a table that is read."""
    if number in MOVED:
        return SourceMoved(
            f"table {table} was dropped, renamed, truncated or altered while it was read (error {number})",
            object_name=table,
            hint="run again when no migration is running",
        )
    if number in DENIED:
        return SourceIncomplete(
            f"table {table} may not be read (error {number})",
            object_name=table,
            hint=f"grant SELECT on {table} to the backup user, or exclude the table",
        )
    return error


def socket_of(place: ServerPlace) -> str | None:
    """The socket that a place names: the option `unix_socket`, or a host that is a path.

    Raises:
        Unreachable: the folder has no socket in it.
    """
    if path := place.options.get("unix_socket"):
        return path
    if not place.host.startswith("/"):
        return None
    folder = Path(place.host)
    if not folder.is_dir():
        return place.host
    for name in _SOCKETS:
        if (folder / name).exists():
            return str(folder / name)
    raise Unreachable(f"{place.host} has no server's socket in it", hint="name the socket itself")


def require_options(place: ServerPlace) -> None:
    """Refuse a URL parameter that nothing would heed.

    Raises:
        UsageError: an unknown parameter.
    """
    for word in place.options:
        if word not in _TLS_WORDS + _OTHER_WORDS:
            raise UsageError(
                f"the parameter {word!r} of {place} is not known",
                hint="known are " + ", ".join(_TLS_WORDS + _OTHER_WORDS[:1]),
            )


def is_true(options: Mapping[str, str], word: str) -> bool:
    """Whether a parameter of the URL says yes."""
    return options.get(word, "").lower() in _TRUE


def _tls(options: Mapping[str, str]) -> dict[str, object]:
    """PyMySQL's own words for TLS."""
    words: dict[str, object] = {word: options[word] for word in ("ssl_ca", "ssl_cert", "ssl_key") if word in options}
    for word in ("ssl_verify_cert", "ssl_verify_identity", "ssl_disabled"):
        if word in options:
            words[word] = is_true(options, word)
    return words


def connect(
    place: ServerPlace,
    *,
    timeout: float,
    database: str | None = None,
    read_timeout: float | None = None,
    local_infile: bool = False,
) -> Connection:
    """A connection with this project's session settings, in autocommit; `read_timeout` in seconds, by default `timeout`.

    Even where `local_infile` is asked for, the driver itself never sends a file: see `load.send_rows`.

    Raises:
        Unreachable: nobody there, no server, or the user is refused.
    """
    require_options(place)
    path = socket_of(place)
    where: dict[str, object] = (
        {"unix_socket": path} if path else {"host": place.host or "127.0.0.1", "port": place.port or 3306}
    )
    with server_errors(place, "connecting"):
        link: Connection = pymysql.connect(  # type: ignore[call-overload]
            user=place.user or None,
            password=place.password or "",
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=max(1, round(timeout)),
            read_timeout=timeout if read_timeout is None else read_timeout or None,
            write_timeout=timeout,
            local_infile=local_infile,
            program_name="backupd",
            **where,
            **_tls(place.options),
        )
        inner(link)._local_infile = False
    try:
        settle(place, link)
    except BaseException:
        discard(link)
        raise
    return link


def settle(place: ServerPlace, link: Connection) -> None:
    """Session settings that every connection has."""
    for statement in SESSION:
        with server_errors(place, "setting the session up"):
            run(link, statement)
    for statement in OPTIONAL_SESSION:
        try:
            with server_errors(place, "setting the session up"):
                run(link, statement)
        except Failed:  # a variable that this vendor or version does not have
            continue


NO_LIMIT = 18446744073709551615
"""The sql_select_limit under which a SELECT gives every row; DEFAULT would be what the server's administrator set."""

IDLE = 2000000
"""Seconds for which the server keeps a connection that says nothing and holds nothing."""

SESSION = (
    "SET NAMES utf8mb4",
    f"SET SESSION time_zone = '+00:00', sql_mode = '', sql_select_limit = {NO_LIMIT}, sql_safe_updates = 0",
    f"SET SESSION net_write_timeout = 86400, net_read_timeout = 86400, wait_timeout = {IDLE}",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
)
OPTIONAL_SESSION = (
    "SET SESSION max_statement_time = 0",
    "SET SESSION idle_transaction_timeout = 0, idle_readonly_transaction_timeout = 0",
    "SET SESSION information_schema_stats_expiry = 0, max_execution_time = 0",
    "SET SESSION show_gipk_in_create_table_and_information_schema = ON",
)


def run(link: Connection, statement: str, values: Sequence[object] = ()) -> list[Row]:
    """Run one statement; the driver's errors come as they are."""
    with link.cursor() as cursor:
        cursor.execute(statement, tuple(values) or None)
        return list(cursor.fetchall())


def send(link: Connection, text: str) -> None:
    """Run a statement of a dump, byte for byte: what was no UTF-8 in it comes out as it went in."""
    link.query(text.encode("utf-8", "surrogateescape"))


def inner(link: object) -> Any:
    """The driver's own parts, which its types do not tell of."""
    return link


def discard(link: Connection) -> None:
    """End a connection at once, without a word to the server: what was not committed is rolled back."""
    inner(link)._force_close()


def read_server(place: ServerPlace, link: Connection) -> Server:
    """Which server is at the other end."""
    with server_errors(place, "asking for the version"):
        rows = run(link, "SELECT VERSION()")
        return parse_version(str(rows[0][0]))
