"""The servers of the benchmark: how each is made, filled, changed, brought to rest and asked."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from tests.bench import serverdata
from tests.bench.run import say
from tests.servers import mariadb, postgres

SOURCE = "telecom"
TARGET = "restored"
_REST_SECONDS = 60
_FEW_PAGES = 500
_HASTE = """
SET GLOBAL innodb_max_dirty_pages_pct = 0; SET GLOBAL innodb_io_capacity_max = 40000; SET GLOBAL innodb_io_capacity = 20000
"""
_LEISURE = """
SET GLOBAL innodb_io_capacity = 200; SET GLOBAL innodb_io_capacity_max = 2000; SET GLOBAL innodb_max_dirty_pages_pct = 90
"""  # what MariaDB begins with


class Site(ABC):
    """A running server with the database `telecom` on it."""

    name: str
    title: str
    bin: Path
    password_file: Path | None
    password: str
    dialect: serverdata.Dialect

    def fill(self, customers: int) -> None:
        """Make the source."""
        self.create(SOURCE)
        for script in serverdata.Plan(customers, self.dialect).scripts():
            self.sql(script, SOURCE)

    @abstractmethod
    def sql(self, script: str, database: str) -> str:
        """Run statements; returns the rows."""

    @abstractmethod
    def url(self, database: str) -> str:
        """A database's address, without a password."""

    @abstractmethod
    def create(self, database: str) -> None:
        """Create a database."""

    @abstractmethod
    def clear(self) -> None:
        """Drop all databases but the source, whatever a restore left behind."""

    @abstractmethod
    def rest(self) -> None:
        """Let nothing be left to do for the server, so that no tool pays for the one before it."""

    @abstractmethod
    def size(self) -> int:
        """Bytes that the source takes on the server, with its indexes."""

    def change_one_row(self, number: int, customers: int) -> None:
        """Change one customer's city, the way an application would."""
        self.sql(f"UPDATE customers SET city = 'Town {number}' WHERE id = {customers // 2 + number + 1}", SOURCE)

    def counts(self, database: str) -> dict[str, int]:
        """Rows of each table."""
        return {table: int(self.sql(f"SELECT count(*) FROM {table}", database)) for table in serverdata.TABLES}

    def warm(self) -> None:
        """Read every row once."""
        for table in serverdata.TABLES:
            self.sql(f"SELECT max(length({_LAST_COLUMN[table]})) FROM {table}", SOURCE)


_LAST_COLUMN = {
    "calls": "destination",
    "invoices": "remark",
    "customers": "notes",
    "subscriptions": "settings",
    "plans": "description",
}


class PostgresSite(Site):
    """PostgreSQL 18."""

    name = "postgresql"
    password_file = None
    password = ""
    dialect = serverdata.Postgres()

    def __init__(self, server: postgres.PostgresServer) -> None:
        self._server = server
        self.bin = server.bin
        self.title = f"PostgreSQL {server.version}"
        self.version = server.version

    def sql(self, script: str, database: str) -> str:
        """psql."""
        return self._server.psql(database, script)

    def url(self, database: str) -> str:
        """As the superuser, who is trusted."""
        return self._server.url(database)

    def create(self, database: str) -> None:
        """Create."""
        self._server.create_database(database)

    def clear(self) -> None:
        """Whoever uses them."""
        kept = f"datname NOT IN ('postgres', '{SOURCE}')"
        found = self._server.psql("postgres", f"SELECT datname FROM pg_database WHERE NOT datistemplate AND {kept}")
        for database in found.splitlines():
            self._server.drop_database(database)

    def rest(self) -> None:
        """Write all that is dirty."""
        self._server.psql("postgres", "CHECKPOINT")

    def size(self) -> int:
        """What the server says."""
        return int(self._server.psql("postgres", f"SELECT pg_database_size('{SOURCE}')"))


class MariaSite(Site):
    """MariaDB."""

    name = "mariadb"
    dialect = serverdata.MariaDB()

    def __init__(self, server: mariadb.MariaServer) -> None:
        self._server = server
        self.bin = server.bin
        self.title = f"MariaDB {server.version}"
        self.version = server.version
        self.password_file = server.root_password_file
        self.password = server.root_password

    @property
    def login(self) -> list[str]:
        """Words that let a client program in."""
        place = [f"--host={self._server.host}", f"--port={self._server.port}"]
        return ["--no-defaults", "--protocol=tcp", *place, f"--user={self._server.root}"]

    def sql(self, script: str, database: str) -> str:
        """mariadb."""
        return self._server.sql(script, database)

    def url(self, database: str) -> str:
        """As root, who has a password."""
        return self._server.url(database)

    def create(self, database: str) -> None:
        """Create."""
        self._server.create_database(database)

    def clear(self) -> None:
        """All but the server's own."""
        kept = f"'mysql', 'sys', 'information_schema', 'performance_schema', '{SOURCE}'"
        where = f"FROM information_schema.schemata WHERE schema_name NOT IN ({kept})"
        for database in self._server.sql(f"SELECT schema_name {where}").splitlines():
            self._server.drop_database(database)

    def local_infile(self, *, on: bool) -> None:
        """Whether clients may send files for LOAD DATA LOCAL."""
        self._server.sql(f"SET GLOBAL local_infile = {'ON' if on else 'OFF'}")

    def rest(self) -> None:
        """Forget the binary log, and wait until all that is dirty has been written."""
        self._server.sql(f"RESET MASTER; {_HASTE}")
        deadline = time.monotonic() + _REST_SECONDS
        while (dirty := self._dirty()) > _FEW_PAGES and time.monotonic() < deadline:
            time.sleep(0.1)
        self._server.sql(_LEISURE)
        if dirty > _FEW_PAGES:
            say(f"{self.title} still has {dirty} pages to write after {_REST_SECONDS} s")

    def _dirty(self) -> int:
        said = self._server.sql("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")
        return int(said.split("\t")[1])

    def size(self) -> int:
        """What the server estimates."""
        where = f"FROM information_schema.tables WHERE table_schema = '{SOURCE}'"
        return int(self._server.sql(f"SELECT cast(sum(data_length + index_length) AS unsigned) {where}"))


@contextlib.contextmanager
def postgresql() -> Iterator[PostgresSite]:
    """PostgreSQL with settings for a machine of this size; fsync is as in the tests.

    Raises:
        Unavailable: it cannot be had here.
    """
    with postgres.running(18, shared_buffers="512MB", max_wal_size="8GB") as server:
        yield PostgresSite(server)


@contextlib.contextmanager
def maria() -> Iterator[MariaSite]:
    """MariaDB with settings for a machine of this size; flushing is as in the tests.

    Raises:
        Unavailable: it cannot be had here.
    """
    with mariadb.running("--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G") as server:
        yield MariaSite(server)
