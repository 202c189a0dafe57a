"""A MariaDB or MySQL server of our own for one drill: a fresh data folder, reached by its socket alone.

The account that is handed out has rights on databases of drills only, unless more is asked for: no files, no settings of the
server, no other account. All others that could log in are dropped. What is committed is flushed as everywhere, so that the
time of a restore is one that a real server would take.
"""

import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import Connection, Vendor, connect, discard, quote_text, run, server_errors
from backupd.engines.mariadb.guard import version_of_facts
from backupd.engines.mariadb.installation import PRODUCTS, Installation, choose
from backupd.engines.throwaway import USER, Home, Throwaway, home, owner_among
from backupd.errors import BackupdError, IntegrityError, Interrupted

_SOCKET = "mysqld.sock"
_FIRST_ACCOUNT = "root"
_OPTIONS = (
    "--skip-networking",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--local-infile=ON",
    "--event-scheduler=OFF",
    "--performance-schema=OFF",
    "--general-log=OFF",
    "--slow-query-log=OFF",
    "--character-set-server=utf8mb4",
    "--default-time-zone=+00:00",
    "--max-connections=60",
    "--max-allowed-packet=1G",
    "--innodb-buffer-pool-size=128M",
    "--innodb-buffer-pool-load-at-startup=OFF",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
)
_OWN_OPTIONS: Mapping[Vendor, tuple[str, ...]] = {"mariadb": ("--skip-symbolic-links",), "mysql": ("--mysqlx=OFF",)}
_INSTALL = ("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--force")
# Accounts of the server's own, under which nobody can log in, and without which its own views do not work.
_ITS_OWN = frozenset({"mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema"})
_CONNECT_SECONDS = 5.0


@contextmanager
def start(
    facts: Mapping[str, object],
    folder: Path,
    database: str,
    *,
    superuser: bool,
    bin_folders: Sequence[Path],
    timeout: float,
) -> Iterator[Throwaway]:
    """Start a server of the snapshot's own series, or of the nearest newer one that is here.

    Args:
        facts: of the snapshot.
        folder: empty and ours; it is empty again at the end.
        database: the name that the place has.
        superuser: whether the account has every right. The server then runs as nobody that a real server runs as.
        bin_folders: where to look first for the programs.
        timeout: seconds that the start may take.

    Raises:
        Unreachable: there are no programs that fit, or the server does not start.
        IntegrityError: the facts hold no version.
    """
    vendor = _vendor(facts)
    owner = owner_among(() if superuser else ("mysql",))
    installation = choose(vendor, version_of_facts(facts), bin_folders, owner)
    with home(folder, owner, timeout=timeout) as here:
        first = _first_place(here, installation, _name_words(facts))
        place = _with_account(first, superuser=superuser)
        yield Throwaway(replace(place, database=database), installation.text, Path(installation.daemon).parent)


def _vendor(facts: Mapping[str, object]) -> Vendor:
    vendor = facts.get("vendor")
    for known in PRODUCTS:
        if vendor == known:
            return known
    raise IntegrityError("the snapshot does not say of which server it is", hint="verify the snapshot")


def _name_words(facts: Mapping[str, object]) -> list[str]:
    """Where the source took names of tables for one whatever their case, its views need a server that does so as well."""
    settings = facts.get("settings")
    folds = isinstance(settings, Mapping) and str(settings.get("lower_case_table_names")) in ("1", "2")
    return ["--lower-case-table-names=1"] if folds else []


def _first_place(here: Home, installation: Installation, words: Sequence[str]) -> ServerPlace:
    """Make the system tables and start the server; where its first account connects to, which has no password yet."""
    data, socket = here.give("data"), here.give_socket(_SOCKET)
    common = ["--no-defaults", f"--datadir={data}", *installation.places, *words]
    product = PRODUCTS[installation.vendor]
    if installation.installer is None:
        here.run([installation.daemon, *common, "--initialize-insecure"], f"{product}'s own initialization")
    else:
        here.run([installation.installer, *common, *_INSTALL], Path(installation.installer).name)
    options = [f"--socket={socket / _SOCKET}", f"--pid-file={socket}/pid", f"--tmpdir={here.give('tmp')}"]
    options += [f"--secure-file-priv={here.give('files')}", *_OPTIONS, *_OWN_OPTIONS[installation.vendor]]
    # Who could read what goes through the socket could read the database's files as well.
    place = ServerPlace(installation.vendor, str(socket), 0, _FIRST_ACCOUNT, "", {"ssl_disabled": "true"})
    here.start([installation.daemon, *common, *options], product, lambda: _answers(place), signal.SIGKILL)
    return place


def _answers(place: ServerPlace) -> bool:
    try:
        discard(connect(place, timeout=_CONNECT_SECONDS))
    except Interrupted:
        raise
    except BackupdError:
        return False
    return True


def _with_account(first: ServerPlace, *, superuser: bool) -> ServerPlace:
    """Make the account that the drill uses, and drop all others."""
    place = replace(first, user=USER, password=secrets.token_hex(24))
    link = connect(first, timeout=_CONNECT_SECONDS)
    try:
        with server_errors(first, "making the account of the drill"):
            _make_account(link, place, superuser=superuser)
    finally:
        discard(link)
    return place


def _make_account(link: Connection, place: ServerPlace, *, superuser: bool) -> None:
    account = f"{quote_text(USER)}@'localhost'"
    run(link, f"CREATE USER {account} IDENTIFIED BY {quote_text(place.password or '')}")
    # In the name of a grant an underscore stands for any character, unless a backslash is before it.
    scope, more = ("*.*", " WITH GRANT OPTION") if superuser else (r"`backupd\_drill\_%`.*", "")
    run(link, f"GRANT ALL PRIVILEGES ON {scope} TO {account}{more}")
    if place.engine == "mysql" and not superuser:
        run(link, f"GRANT SESSION_VARIABLES_ADMIN ON *.* TO {account}")  # or it may not leave checks to the restore
    for user, host in run(link, "SELECT User, Host FROM mysql.user"):
        if user != USER and user not in _ITS_OWN:
            run(link, f"DROP USER {quote_text(str(user))}@{quote_text(str(host))}")
