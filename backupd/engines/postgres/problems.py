"""What a server's refusals mean. Messages are made of SQLSTATEs and of names, never of what the server says.

A server's own words may quote rows (`invalid input syntax for type integer: "..."`, and the CONTEXT of a COPY).
"""

from psycopg import Error, OperationalError

from backupd.errors import BackupdError, Failed, SafetyRefused, SourceIncomplete, StorageRefused, TryAgain, Unreachable

_MEANINGS = {
    "08": "the connection broke",
    "0A000": "the server does not support it",
    "22P02": "a value is not valid for its type",
    "22021": "a character is not valid in the encoding",
    "22": "a value is not valid",
    "23502": "a NULL where none is allowed",
    "23503": "a foreign key does not hold",
    "23505": "a key is not unique",
    "23514": "a check constraint does not hold",
    "23": "a constraint does not hold",
    "25006": "the session is read-only",
    "28": "the server refused the user",
    "3D000": "the database does not exist",
    "40001": "it conflicted with another transaction",
    "40P01": "a deadlock",
    "42501": "a privilege is missing",
    "42704": "an object it needs does not exist",
    "42710": "an object of that name exists already",
    "42883": "a function it needs does not exist",
    "42P01": "a table it needs does not exist",
    "42P04": "a database of that name exists already",
    "42": "the statement is not valid there",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory or of lock space",
    "53300": "the server has no connection left",
    "54": "a limit of the server was exceeded",
    "55006": "somebody uses it",
    "55P03": "a lock was not to be had",
    "57014": "the statement was cancelled",
    "57P01": "the server ended the session",
    "57P02": "the server crashed",
    "57P03": "the server is starting or stopping",
    "58": "the server could not read or write its files",
    "58P01": "a file that the server needs is missing",
    "XX001": "the server found damaged data",
    "XX002": "the server found a damaged index",
    "XX": "an internal error of the server",
}
_TOO_LARGE = (
    "a value of more than 512 MB, or a row of more than 1 GB? PostgreSQL writes none as text, for pg_dump neither"
)
_TRY_LATER = frozenset({"40001", "40P01", "53300", "55P03", "57P03"})
_FULL = "53100"
_ENDED = frozenset({"57P01", "57P02", "57P05", "25P03"})
_TAKEN = frozenset({"23505", "23P01"})
_REFUSALS = (
    (
        "password authentication failed",
        "the server refused the user or the password",
        "check the user and the password",
    ),
    ("no password supplied", "the server wants a password", "give --password-file, or set PGPASSFILE"),
    ("does not exist", "there is no such database or user", "check the names in the URL"),
    ("no pg_hba.conf entry", "the server does not let this user in from here", "add a line to its pg_hba.conf"),
    ("permission denied", "the server does not let this user in", "grant CONNECT on the database"),
    ("certificate", "TLS could not be agreed on", "check sslmode and the certificates"),
    ("ssl", "TLS could not be agreed on", "check sslmode and the certificates"),
    ("could not translate host name", "the host is not known", "check the URL"),
    ("name or service not known", "the host is not known", "check the URL"),
    ("timeout", "it did not answer in time", "check that the server runs and can be reached from here"),
)
_LATER = (
    ("too many clients", "the server has no connection left"),
    ("remaining connection slots", "the server has no connection left"),
    ("starting up", "the server is starting"),
    ("shutting down", "the server is stopping"),
)


def meaning(state: str | None) -> str:
    """What an SQLSTATE says, in words; with the code itself."""
    if not state:
        return "the connection broke"
    words = _MEANINGS.get(state) or _MEANINGS.get(state[:2]) or "the server refused it"
    return f"{words} (SQLSTATE {state})"


def connect_error(error: BaseException, name: str) -> BackupdError:
    """Why a connection could not be made."""
    said = str(error).lower()
    for mark, words in _LATER:
        if mark in said:
            return TryAgain(f"{name}: {words}", object_name=name, hint="try again later")
    for mark, words, hint in _REFUSALS:
        if mark in said:
            return Unreachable(f"{name} cannot be reached: {words}", object_name=name, hint=hint)
    hint = "check the host and the port, and that PostgreSQL runs there"
    return Unreachable(f"{name} cannot be reached", object_name=name, hint=hint)


def source_error(state: str | None, what: str, name: str) -> BackupdError:
    """Why a part of a source could not be read."""
    message = f"{what}: {meaning(state)}"
    if state in _TRY_LATER:
        return TryAgain(message, object_name=name, hint="try again later")
    hint = "grant the role what `backupctl doctor --source` says is missing" if state == "42501" else "run again"
    if state == "54000":
        hint = _TOO_LARGE
    elif state and state.startswith("XX0"):
        hint = "check the server's disk and its log; restore an older snapshot if the table is damaged"
        if state == "XX000":
            hint = f"{_TOO_LARGE}; else {hint}"
    return SourceIncomplete(message, object_name=name, hint=hint)


def target_error(error: Error, what: str, name: str) -> BackupdError:
    """Why a target refused something: names of columns and constraints, and no values.

    A line that broke and a full disk are told apart: they say nothing of what was to be restored.
    """
    diag, state = error.diag, error.sqlstate
    where = "".join(
        f", {kind} {value}"
        for kind, value in (("column", diag.column_name), ("constraint", diag.constraint_name))
        if value
    )
    message = f"{what}{where}: {meaning(state)}"
    if state == _FULL:
        return StorageRefused(message, object_name=name, hint="free some space on the server's disk, then try again")
    lost = isinstance(error, OperationalError) if state is None else state.startswith("08") or state in _ENDED
    if lost:
        return Unreachable(message, object_name=name, hint="check the server and the network; its log may say more")
    return Failed(message, object_name=name, hint="the server's log may say more")


def live_error(error: Error, name: str) -> BackupdError:
    """Why a live database refused something: with names of columns and constraints, and no values."""
    state = error.sqlstate
    said = error.diag
    kinds = (("table", said.table_name), ("column", said.column_name), ("constraint", said.constraint_name))
    where = "".join(f", {kind} {value}" for kind, value in kinds if value and value != name)
    message = f"{name}{where}: {meaning(state)}"
    if state is None or state.startswith("08") or state in _ENDED:
        return Unreachable(message, object_name=name, hint="check the server and the network; nothing was committed")
    if state in _TRY_LATER:
        return TryAgain(message, object_name=name, hint="somebody else is at work on the same rows: try again later")
    if state in _TAKEN:
        return SafetyRefused(message, object_name=name, hint="another row has that key: plan again")
    hint = "grant the role what it lacks" if state == "42501" else "nothing was changed; the server's log may say more"
    return Failed(message, object_name=name, hint=hint)
