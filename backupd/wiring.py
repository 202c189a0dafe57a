"""The one place that names concrete stores and engines, and joins keys, places and repositories.

Drivers are imported where they are chosen: a command pays only for what it uses.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backupd.config.paths import Places, places, plain_environment
from backupd.config.urls import DatabaseUrl, RepositoryUrl, parse_database
from backupd.crypto.keyfile import LockedKey, read_key_file
from backupd.crypto.keyring import Right, unlock
from backupd.errors import Failed, IntegrityError, KeyProblem, UsageError
from backupd.repo.format import frame_repository, kind_of, trust_name
from backupd.repo.ledger import Ledger
from backupd.repo.near import FOLDER as NEAR
from backupd.repo.near import NearCopies
from backupd.repo.repository import Repository, repository_id
from backupd.store.base import ObjectStore

if TYPE_CHECKING:
    from backupd.catalog.opening import Catalog
    from backupd.catalog.places import Server
    from backupd.engines.base import Finding, Listing, RuleOf, ServerPlace, ServerTarget, Taken, Target
    from backupd.engines.live import Live
    from backupd.engines.source import Source
    from backupd.engines.sqlite_condition import RowTest
    from backupd.engines.sqlite_database import LazyDatabase
    from backupd.model import Answered, Bytes, Columnar, LiveSchema, PagedSchema, Queried
    from backupd.notify.base import Notifier
    from backupd.notify.http import Limits
    from backupd.policy.model import Notifier as NotifierModel

CATALOG = "catalog.sqlite"
"""The catalog's file in the state folder."""


def open_store(
    url: RepositoryUrl, *, create: bool = False, upload: int | None = None, download: int | None = None
) -> ObjectStore:
    """The store behind a repository URL.

    Args:
        url: where.
        create: whether a folder that is not there is made.
        upload: bytes a second to it; None for no limit.
        download: bytes a second from it.
    """
    if url.path is not None:
        from backupd.store.folder import FolderStore

        folder = FolderStore(url.path, create=create)
        return _paced(folder, upload, download) if upload or download else folder
    from backupd.store.pace import Limits
    from backupd.store.s3 import S3Store

    limits = Limits(upload, download)

    return S3Store(url.bucket, url.prefix, endpoint=url.endpoint, region=url.region, limits=limits)


def _paced(store: ObjectStore, upload: int | None, download: int | None) -> ObjectStore:
    from backupd.store.pace import Limits, PacedStore

    return PacedStore(store, Limits(upload, download))


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to reach a database server, and what is read of it.

    Attributes:
        password: if the server wants one.
        tools: folders to look in first for pg_dump, mariadb-dump and their like.
        native: one opaque archive of the server's own tool instead of rows.
        exclude: tables whose rows are left out.
        globals: whether roles are part of it.
        jobs: connections at the same time.
    """

    password: str | None = field(default=None, repr=False)
    tools: tuple[str, ...] = ()
    native: bool = False
    exclude: tuple[str, ...] = ()
    globals: bool = False
    jobs: int = 2


def place_of(url: DatabaseUrl, options: ServerOptions) -> "ServerPlace":
    """Where the database behind a server's URL is, as its engine is told."""
    from backupd.engines.base import ServerPlace

    return ServerPlace(url.engine, url.host, url.port, url.user, url.database, url.options, options.password)


def open_source(url: DatabaseUrl, *, timeout: float = 30.0, options: ServerOptions | None = None) -> "Source":
    """The source behind a database URL; `timeout` seconds are waited for a lock or a connection."""
    if url.engine == "sqlite":
        from backupd.engines.sqlite import open_source as sqlite_source

        return sqlite_source(url.path, timeout=timeout)
    options = options or ServerOptions()
    place = place_of(url, options)
    if url.engine == "postgresql":
        from backupd.engines.postgres import open_source as postgres_source

        return postgres_source(
            place,
            timeout=timeout,
            native=options.native,
            exclude=options.exclude,
            globals=options.globals,
            jobs=options.jobs,
            bin_folders=options.tools,
        )
    from backupd.engines.mariadb import open_source as mariadb_source

    return mariadb_source(
        place,
        timeout=timeout,
        exclude=options.exclude,
        globals=options.globals,
        jobs=options.jobs,
        bin_folders=[Path(folder) for folder in options.tools],
    )


def list_databases(url: DatabaseUrl, options: ServerOptions, *, timeout: float = 30.0) -> "Listing":
    """The databases of the server behind a URL.

    Raises:
        Unreachable: no connection.
    """
    place = place_of(url, options)
    if url.engine == "postgresql":
        from backupd.engines.postgres import databases as postgres_databases

        return postgres_databases(place, timeout=timeout)
    from backupd.engines.mariadb import databases as mariadb_databases

    return mariadb_databases(place, timeout=timeout)


def open_target(url: DatabaseUrl) -> "Target":
    """The target behind the URL of a database file."""
    from backupd.engines.sqlite import open_target as sqlite_target

    return sqlite_target(url.path)


def open_server_target(
    url: DatabaseUrl, *, timeout: float = 30.0, options: ServerOptions | None = None
) -> "ServerTarget":
    """The target behind the URL of a database on a server."""
    options = options or ServerOptions()
    place = place_of(url, options)
    if url.engine == "postgresql":
        from backupd.engines.postgres import open_target as postgres_target

        return postgres_target(place, timeout=timeout, bin_folders=options.tools)
    from backupd.engines.mariadb import open_target as mariadb_target

    return mariadb_target(place, timeout=timeout, bin_folders=[Path(folder) for folder in options.tools])


def open_live(url: DatabaseUrl, *, timeout: float = 30.0, options: ServerOptions | None = None) -> "Live":
    """The live database behind a URL, whose records may be read and changed one by one.

    Raises:
        Unreachable: it is not there, or cannot be connected to.
    """
    if url.engine == "sqlite":
        from backupd.engines.sqlite_live import open_live as sqlite_live

        return sqlite_live(url.path, timeout=timeout)
    place = place_of(url, options or ServerOptions())
    if url.engine == "postgresql":
        from backupd.engines.postgres import open_live as postgres_live

        return postgres_live(place, timeout=timeout)
    from backupd.engines.mariadb import open_live as mariadb_live

    return mariadb_live(place, timeout=timeout)


def read_file_schema(data: "Bytes") -> "PagedSchema":
    """What tables the database file of these bytes has.

    Raises:
        IntegrityError: it is no sound database.
    """
    from backupd.engines.sqlite_lazy import read_schema

    return read_schema(data)


def open_file_database(data: "Bytes") -> "LazyDatabase":
    """The database file of these bytes, open for reading.

    Raises:
        IntegrityError: it is no sound database.
    """
    from backupd.engines.sqlite_database import LazyDatabase

    return LazyDatabase(data)


def read_file_relations(data: "Bytes") -> "LiveSchema":
    """What the tables are and what refers to what in the database file of these bytes.

    Raises:
        IntegrityError: it is no sound database.
    """
    from backupd.engines.sqlite_references import read_relations

    return read_relations(data)


def take_out_of_file(path: Path, rule_of: "RuleOf") -> "Taken":
    """Take rows out of a database file that nobody has open.

    Raises:
        Failed: they cannot be deleted.
    """
    from backupd.engines.sqlite_takeout import take_out

    return take_out(path, rule_of)


def run_sql(schemas: "Mapping[str, Sequence[Queried]]", statement: str) -> "AbstractContextManager[Answered]":
    """Run one statement that reads over tables.

    Raises:
        UsageError: it is none.
    """
    from backupd.engines.sqlite_query import queried

    return queried(schemas, statement)


def run_duckdb(schemas: "Mapping[str, Sequence[Columnar]]", statement: str) -> "AbstractContextManager[Answered]":
    """The same by DuckDB.

    Raises:
        UsageError: it is none, or DuckDB is not installed.
    """
    from backupd.engines.duckdb_query import analysed

    return analysed(schemas, statement)


def ask_rows(name: str, columns: Sequence[tuple[str, str]], condition: str) -> "RowTest":
    """A condition of SQL over the rows of a table.

    Raises:
        UsageError: it is none.
    """
    from backupd.engines.sqlite_condition import RowTest

    return RowTest(name, columns, condition)


def examine_source(url: DatabaseUrl, options: ServerOptions, *, timeout: float = 30.0) -> "list[Finding]":
    """What would keep a server's database from being captured whole, and what should be known beforehand.

    Raises:
        Unreachable: no connection.
    """
    place = place_of(url, options)
    if url.engine == "postgresql":
        from backupd.engines.postgres import preflight as postgres_preflight

        return postgres_preflight(place, timeout=timeout, bin_folders=options.tools)
    from backupd.engines.mariadb import preflight as mariadb_preflight

    return mariadb_preflight(place, timeout=timeout, bin_folders=[Path(folder) for folder in options.tools])


def open_catalog(state_folder: Path, url: str | None = None, *, timeout: float = 30.0) -> "Catalog":
    """The catalog: at the URL (`postgresql://...`, `sqlite:////path`, or a file's path), otherwise in the state folder.

    Args:
        state_folder: the folder for all repositories, see `config.paths.state_base`.
        url: --catalog or BACKUPCTL_CATALOG, if given.
        timeout: seconds to wait for another writer, or for a connection.

    Raises:
        UsageError: no such URL, or a password in it.
        IntegrityError, SafetyRefused, Unreachable, StorageRefused, TryAgain: see `backupd.catalog.opening`.
    """
    from backupd.catalog.opening import open_catalog as opened_catalog

    return opened_catalog(_catalog_place(state_folder, url), timeout=timeout)


def find_catalog(state_folder: Path, url: str | None = None, *, timeout: float = 5.0) -> "Catalog | None":
    """The same, if it is there and of this program's version: nothing is made, and nothing upgraded; otherwise None.

    Raises:
        BackupdError: as `open_catalog`.
    """
    from backupd.catalog.opening import find_catalog as found_catalog

    return found_catalog(_catalog_place(state_folder, url), timeout=timeout)


def _catalog_place(state_folder: Path, url: str | None) -> "Path | Server":
    from backupd.catalog.places import Server

    if url is None:
        return state_folder / CATALOG
    place = parse_database(url)
    if place.engine == "sqlite":
        return place.path
    if place.engine != "postgresql":
        raise UsageError("a catalog is a file or on a PostgreSQL server", hint="write postgresql://user@host/database")
    return Server(place.host, place.port, place.user, place.database, place.options)


def open_notifier(
    name: str, model: "NotifierModel", resolve: Callable[[str], bytes], *, limits: "Limits | None" = None
) -> "Notifier":
    """The notifier that a policy names; its secrets are read when something is sent, and not kept.

    Args:
        name: as the policy calls it.
        model: what the policy says of it.
        resolve: gives what a reference leads to.
        limits: how long a delivery may take; None for what suits.

    Raises:
        UsageError: its e-mail address is none.
    """
    from backupd.jobs.notices import kind_of
    from backupd.notify.base import Secret
    from backupd.notify.http import PATIENT, Door
    from backupd.notify.mail import Mail

    kind, limits = kind_of(model), limits or PATIENT
    who = f"the notifier {name} ({kind})"
    if kind == "email":
        return Mail(name, model.email or "", Secret(model.smtp, resolve) if model.smtp else None, who, limits)
    secret = Secret(getattr(model, kind), resolve)
    if kind == "apprise":
        from backupd.notify.apprise import Apprise

        return Apprise(name, secret, who, plain_environment(), limits)
    from backupd.config.clock import now
    from backupd.config.proxies import proxy_for
    from backupd.notify.pagerduty import PagerDuty
    from backupd.notify.ping import Ping
    from backupd.notify.slack import Slack
    from backupd.notify.webhook import Webhook

    door = Door(who, proxy_for, limits)
    if kind == "webhook":
        return Webhook(name, secret, Secret(model.secret, resolve) if model.secret else None, door, now)
    if kind == "slack":
        return Slack(name, secret, door)
    return PagerDuty(name, secret, door) if kind == "pagerduty" else Ping(name, secret, door)


def read_keys(paths: Sequence[Path]) -> list[LockedKey]:
    """Read key files without opening them.

    Raises:
        KeyProblem: there are none, or one is no key file.
    """
    if not paths:
        raise KeyProblem(
            "no key was given", hint="name one with --key FILE, or several in BACKUPCTL_KEY, separated by ':'"
        )
    return [read_key_file(path) for path in paths]


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened repository with its places on this machine."""

    repo: Repository
    places: Places


def open_repository(
    store: ObjectStore,
    keys: Sequence[LockedKey],
    right: Right,
    passphrase: Callable[[LockedKey], bytes | None],
    state: str | None,
    warn: Callable[[str], None] | None = None,
    *,
    near: bool = False,
) -> Opened:
    """Choose and unlock the key that holds `right`, and verify the repository's trust.

    With `warn`, a ledger that cannot be read is a warning: on the worst day a restore must not fail for its own notes. With
    `near`, snapshots and records of which this machine has a copy are not fetched again.

    Raises:
        NoRepository, KeyProblem, MissingRight, IntegrityError.
    """
    found = repository_id(store)
    _check_claim(store, keys, found)
    keyring = unlock(keys, right, found, passphrase)
    here = places(found, state)
    copies = NearCopies(here.cache / NEAR) if near else None
    return Opened(Repository.open(store, keyring, _ledger(here, warn), copies), here)


def _ledger(here: Places, warn: Callable[[str], None] | None) -> Ledger:
    try:
        return Ledger.load(here.state)
    except Failed as error:
        if warn is None:
            raise
        warn(f"{error.message}; rollbacks of the storage cannot be noticed now")
        return Ledger(here.state / "heads.json")


def _check_claim(store: ObjectStore, keys: Sequence[LockedKey], found: bytes) -> None:
    """Tell a damaged trust document from keys of another repository: other objects still name the repository.

    Raises:
        IntegrityError: the trust document names another repository than a snapshot that the keys belong to.
    """
    mine = {key.header.pin.repository for key in keys}
    if found in mine:
        return
    name = next((info.name for info in store.list("snapshots/") if kind_of(info.name)), None)
    if name is not None and frame_repository(store.get(name)) in mine:
        raise IntegrityError(
            f"{trust_name(1)} names another repository than the snapshots beside it: it is damaged or replaced",
            object_name=trust_name(1),
        )
