"""A PostgreSQL server of our own for one drill: a fresh cluster, reached by its socket alone.

The role that is handed out is no superuser unless that is asked for: what is restored may call any function of the server.
It may bypass row security, because otherwise not all rows of what it restores could be read back. `fsync` and the
write-ahead log are as everywhere, so that the time of a restore is one that a real server would take.
"""

import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg

from backupd.engines.base import ServerPlace
from backupd.engines.postgres.client import open_connection
from backupd.engines.postgres.names import literal, quoted
from backupd.engines.postgres.problems import meaning
from backupd.engines.postgres.tools import SERVER, Tools, installed
from backupd.engines.throwaway import (
    USER,
    WAYS_OUT,
    Home,
    Owner,
    Throwaway,
    home,
    not_runnable,
    owner_among,
    said_by,
)
from backupd.errors import BackupdError, IntegrityError, Interrupted, Unreachable

# Not `postgres`: that is often a role of the snapshot's, and who restores could give it nothing.
_FIRST_ROLE = "backupd_first"
_PORT = 5432
_SOCKET = f".s.PGSQL.{_PORT}"
_INITDB = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "40",
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "dynamic_shared_memory_type": "mmap",  # in the folder, so that nothing of it stays
    "restart_after_crash": "off",
    "jit": "off",  # where memory is never both written and run, it would end every longer statement
    "shared_preload_libraries": "",
    "timezone": "UTC",
    # No statement and no value of what is restored goes to the log.
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_timezone": "UTC",
    "lc_messages": "C",
}
_CONNECT_SECONDS = 5.0


@contextmanager
def start(
    facts: Mapping[str, object],
    folder: Path,
    database: str,
    *,
    superuser: bool,
    bin_folders: Sequence[str],
    timeout: float,
) -> Iterator[Throwaway]:
    """Start a server of the snapshot's own major version, or of the nearest newer one that is here.

    Args:
        facts: of the snapshot.
        folder: empty and ours; it is empty again at the end.
        database: the name that the place has.
        superuser: whether the role is one. The server then runs as nobody that a real server runs as: it could reach that one.
        bin_folders: where to look first for the programs.
        timeout: seconds that the start may take.

    Raises:
        Unreachable: there are no programs that fit, or the server does not start.
        IntegrityError: the facts hold no version.
    """
    owner = owner_among(() if superuser else ("postgres",))
    tools = choose(bin_folders, _major(facts), owner)
    with home(folder, owner, timeout=timeout) as here:
        first = _first_place(here, tools)
        place = _with_role(first, superuser=superuser)
        yield Throwaway(replace(place, database=database), f"PostgreSQL {tools.version}", tools.folder)


def _major(facts: Mapping[str, object]) -> int:
    number = facts.get("server_version_num")
    if not isinstance(number, int) or number < 10000:
        raise IntegrityError("the snapshot does not say of which version it is", hint="verify the snapshot")
    return number // 10000


def choose(bin_folders: Sequence[str], major: int, owner: Owner | None) -> Tools:
    """The programs of that version, else of the lowest newer one."""
    found = installed(bin_folders, SERVER)
    fit = sorted((tools for tools in found if tools.major >= major), key=lambda tools: (tools.major, -tools.minor))
    for tools in fit:
        if all(said_by([tools.program(name), "--version"], owner) is not None for name in SERVER):
            return tools
    if fit:
        raise not_runnable(fit[0].folder, owner)
    newest = max((tools.major for tools in found), default=0)
    have = f"the newest here is {newest}" if newest else "there is none here"
    raise Unreachable(
        f"PostgreSQL's server programs (initdb, postgres) of version {major} or newer are needed; {have}",
        object_name="postgres",
        hint=f"install them (Debian: apt-get install postgresql-{major}), {WAYS_OUT}",
    )


def _first_place(here: Home, tools: Tools) -> ServerPlace:
    """Make the cluster and start the server; where its first role connects to."""
    password = secrets.token_hex(24)
    data, socket = here.give("data"), here.give_socket(_SOCKET)
    rules = here.write("hba.conf", "local all all scram-sha-256\n")
    file = here.write("password", f"{password}\n")
    words = [f"--pgdata={data}", f"--username={_FIRST_ROLE}", f"--pwfile={file}"]
    here.run([tools.program("initdb"), *_INITDB, *words], "initdb")
    file.unlink()
    settings = {**_SETTINGS, "hba_file": str(rules), "unix_socket_directories": quoted(str(socket))}
    command = [tools.program("postgres"), "-D", str(data)]
    command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    place = ServerPlace("postgresql", str(socket), _PORT, _FIRST_ROLE, "postgres", {}, password)
    # SIGQUIT ends all of its processes; killed alone, it would leave those behind that are at work, and shared memory.
    here.start(command, "PostgreSQL", lambda: _answers(place), signal.SIGQUIT)
    return place


def _answers(place: ServerPlace) -> bool:
    try:
        session, _ = open_connection(place, timeout=_CONNECT_SECONDS)
    except Interrupted:
        raise
    except BackupdError:
        return False
    session.close()
    return True


def _with_role(first: ServerPlace, *, superuser: bool) -> ServerPlace:
    """Make the role that the drill uses."""
    password = secrets.token_hex(24)
    rights = "SUPERUSER" if superuser else "CREATEDB BYPASSRLS"
    statement = f"CREATE ROLE {quoted(USER)} LOGIN {rights} PASSWORD {literal(password)}"
    session, _ = open_connection(first, timeout=_CONNECT_SECONDS)
    with closing(session):
        try:
            session.execute(statement.encode())
        except psycopg.Error as error:
            raise Unreachable(f"the role of the drill could not be made: {meaning(error.sqlstate)}") from None
    return replace(first, user=USER, password=password)
