"""What is backed up night after night: a SQLite file, or a server's database as files that were read from it."""

import shlex
import shutil
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from tests.bench import database, serverdata
from tests.bench.serverside import SOURCE, MariaSite, Site

HOWS = ("scattered", "clustered", "everywhere")
"""Updates of random customers; of the newest ones; of random rows in every table. New calls come at the end in any case."""
_STEP = 7919


class Subject(ABC):
    """A database that changes every night."""

    name: str

    @abstractmethod
    def churn(self, night: int, share: float, how: str) -> None:
        """Change that share of the rows."""

    @abstractmethod
    def read(self) -> None:
        """Put tonight's state where the tools find it; not measured."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of tonight's state."""


class SqliteFile(Subject):
    """A telecom company's customers in one file."""

    name = "sqlite"

    def __init__(self, work: Path, customers: int) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.path = work / "source.db"
        shutil.copyfile(database.database(customers), self.path)

    def churn(self, night: int, share: float, how: str) -> None:
        """By arithmetic on keys, so that every tool and every run meets the same nights."""
        db = sqlite3.connect(self.path, isolation_level=None)
        db.execute("begin")
        for statement in churn_statements(night, share, how, _newest(db), sqlite=True):
            db.execute(statement)
        db.execute("commit")
        db.execute("pragma wal_checkpoint(truncate)")
        db.close()

    def read(self) -> None:
        """It is a file already."""

    @property
    def size(self) -> int:
        """Of the file."""
        return self.path.stat().st_size


def _newest(db: sqlite3.Connection) -> dict[str, int]:
    return {t: db.execute(f"select max(id) from {t}").fetchone()[0] for t in ("customers", "invoices", "calls")}


def churn_statements(night: int, share: float, how: str, newest: dict[str, int], *, sqlite: bool) -> list[str]:
    """SQL that changes a share of the rows; the same in every dialect."""
    every = round(1 / share)
    joined = "notes || ' x'" if sqlite else "concat(notes, ' x')"

    def some(table: str) -> str:
        if how == "clustered":
            return f"id > {round(newest[table] * (1 - share))}"
        return f"(id * {_STEP} + {night * 104_729}) % {every} = {night % every}"

    changes = [f"update customers set city = 'Town {night}', notes = {joined} where {some('customers')}"]
    if how == "everywhere":
        money = "amount" if sqlite else "net"
        changes.append(f"update invoices set {money} = {money} + 1 where {some('invoices')}")
        changes.append(f"update calls set cost = cost + 1 where {some('calls')}")
    columns = "subscription_id, at, seconds, dest, cost"
    if not sqlite:
        columns = "subscription_id, started, seconds, destination, kind, cell, bytes_up, cost"
    fresh = f"select {columns} from calls where id % {every} = {(night * 31) % every}"
    changes.append(f"insert into calls ({columns}) {fresh}")
    gone = 20 * every
    changes.append(f"delete from calls where id % {gone} = {(night * 57) % gone}")
    return changes


class ServerDump(Subject):
    """A database on a server, read into files: a dump as peers get it, and the tables as backupctl would be sent them."""

    def __init__(self, site: Site, work: Path, customers: int) -> None:
        self.site, self.work, self.name = site, work, site.name
        self.files = work / "files"
        self.files.mkdir(parents=True)
        self.dump = work / "dump.sql"
        site.fill(customers)

    def churn(self, night: int, share: float, how: str) -> None:
        """In the server."""
        newest = {t: int(self.site.sql(f"SELECT max(id) FROM {t}", SOURCE)) for t in ("customers", "invoices", "calls")}
        self.site.sql(";\n".join(churn_statements(night, share, how, newest, sqlite=False)) + ";\n", SOURCE)

    def read(self) -> None:
        """Dump and tables."""
        for command in (self._dump(), *(self._table(table) for table in serverdata.TABLES)):
            env = {"MYSQL_PWD": self.site.password} if self.site.password else None
            subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, env=env)
        (self.files / "schema.sql").write_text("-- the schema\n")

    def _dump(self) -> str:
        out = shlex.quote(str(self.dump))
        if isinstance(self.site, MariaSite):
            words = [*self.site.login, "--single-transaction", "--skip-dump-date", SOURCE]
            return f"{shlex.join([str(self.site.bin / 'mariadb-dump'), *words])} > {out}"
        return f"{shlex.join([str(self.site.bin / 'pg_dump'), '-d', self.site.url(SOURCE)])} > {out}"

    def _table(self, table: str) -> str:
        out = shlex.quote(str(self.files / f"{table}.rows"))
        select = f"SELECT * FROM {table} ORDER BY id"
        if isinstance(self.site, MariaSite):
            words = [str(self.site.bin / "mariadb"), *self.site.login, "-N", "-B", "--quick", "-e", select, SOURCE]
            return f"{shlex.join(words)} > {out}"
        psql = [str(self.site.bin / "psql"), "-X", "-q", "-d", self.site.url(SOURCE)]
        return f"{shlex.join([*psql, '-c', f'COPY ({select}) TO STDOUT'])} > {out}"

    @property
    def size(self) -> int:
        """Of the dump."""
        return self.dump.stat().st_size
