"""What each tool is told to do with a server: snapshots and restores, measured; what must be there first is not."""

import json
import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench import measure, tools
from tests.bench.measure import Usage
from tests.bench.serverdata import TABLES
from tests.bench.serverside import SOURCE, TARGET, MariaSite, PostgresSite, Site

Values = dict[str, float]
Step = Callable[[], Values]


class Contender(ABC):
    """A way to back a server up, with a folder of its own."""

    name: str
    title: str

    def __init__(self, site: Site, work: Path) -> None:
        self.site = site
        self.folder = work / site.name / self.name

    @abstractmethod
    def steps(self) -> dict[str, Step]:
        """What it can do; each step returns what it cost."""

    @abstractmethod
    def fresh(self) -> None:
        """Forget everything; not measured."""

    @abstractmethod
    def plain_snapshot(self) -> Usage:
        """A first snapshot."""


def _values(step: str, used: Usage, **more: float) -> Values:
    base = {"wall": used.wall, "cpu": used.cpu, "peak": float(used.peak), **more}
    return {f"{step}_{name}": value for name, value in base.items()}


class Backupctl(Contender):
    """This project, as installed in the environment that runs the benchmark."""

    name = "backupctl"
    title = "backupctl"

    def __init__(self, site: Site, work: Path) -> None:
        super().__init__(site, work)
        self._tool = tools.Backupctl(self.folder.parent)
        self._told: dict[str, str] = {}

    def steps(self) -> dict[str, Step]:
        """Two snapshots; restores without and with the check, and where it matters without local_infile."""
        steps: dict[str, Step] = {
            "first": lambda: self._snapshot("first"),
            "second": lambda: self._snapshot("second"),
            "restore": lambda: self._restore("restore", "--check", "none"),
            "checked": lambda: self._restore("checked"),
        }
        if isinstance(self.site, MariaSite):
            steps["rows"] = self._restore_rows
        return steps

    def fresh(self) -> None:
        """An empty repository and its keys."""
        self._tool.fresh()

    def plain_snapshot(self) -> Usage:
        """With the write key."""
        return self._run(*self._words("run", "write"), "--source", self.site.url(SOURCE))[0]

    def same(self, database: str, snapshot: str) -> None:
        """Compare a database with the snapshot that a step took, by the content of every table.

        Raises:
            CommandFailed: it is another content.
        """
        words = [self._told[snapshot], "--against-source", "--source", self.site.url(database)]
        self._run(*self._words("verify", "read", *words))

    @property
    def can_compare(self) -> bool:
        """Whether there are snapshots to compare with."""
        return "first" in self._told

    def _words(self, verb: str, key: str, *words: str) -> list[str]:
        password = ["--password-file", str(self.site.password_file)] if self.site.password_file else []
        return [verb, *words, "--json", "--key", self._tool.key(key), "--tools", str(self.site.bin), *password]

    def _run(self, *words: str) -> tuple[Usage, Values]:
        """In a process that tells its own peak from its children's; the same program otherwise."""
        report = self.folder / "peaks.json"
        used = self._tool.run(sys.executable, measure.__file__, str(report), *words)
        peaks = json.loads(report.read_text())
        return used, {"own": float(peaks["own"]), "child": float(peaks["children"])}

    def _snapshot(self, step: str) -> Values:
        before = measure.stored(self._tool.repository)
        used, peaks = self._run(*self._words("run", "write"), "--source", self.site.url(SOURCE))
        self._told[step] = json.loads(used.output)["snapshot"]
        return _values(step, used, stored=measure.stored(self._tool.repository) - before, **peaks)

    def _restore(self, step: str, *more: str) -> Values:
        used, peaks = self._run(*self._words("restore", "read", "latest", self.site.url(TARGET), *more))
        told = json.loads(used.output)
        names = ("seconds", "unlock_seconds", "check_seconds")
        return _values(step, used, **{name: float(told[name]) for name in names}, **peaks)

    def _restore_rows(self) -> Values:
        assert isinstance(self.site, MariaSite)
        self.site.local_infile(on=False)
        try:
            return self._restore("rows", "--check", "none")
        finally:
            self.site.local_infile(on=True)


class Native(Contender):
    """The server's own programs, which write into a folder."""

    def __init__(self, site: Site, work: Path, zstd: str = "zstd") -> None:
        super().__init__(site, work)
        self._zstd = zstd

    @property
    def out(self) -> Path:
        """Where it stores."""
        return self.folder / "out"

    def fresh(self) -> None:
        """An empty folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.out.mkdir(parents=True)

    def run(self, *argv: str) -> Usage:
        """Run a command, measured."""
        password = {"MYSQL_PWD": self.site.password} if self.site.password else {}
        return measure.run(argv, env={**tools.clean_environment(self.folder), **password}, folder=self.folder)

    def pipe(self, *commands: str) -> Usage:
        """Run commands whose outputs are the next ones' inputs, measured; any failure is the pipe's."""
        return self.run("bash", "-o", "pipefail", "-c", " | ".join(commands))

    def program(self, name: str, *words: str) -> list[str]:
        """A command of the server's own."""
        return [str(self.site.bin / name), *words]

    def first(self) -> Values:
        """A snapshot, and what it stored."""
        used = self.plain_snapshot()
        return _values("first", used, stored=measure.stored(self.out))


class PgDump(Native):
    """pg_dump and pg_restore, with the folder format."""

    name = "pg_dump"

    def __init__(self, site: PostgresSite, work: Path) -> None:
        super().__init__(site, work)
        self.title = "pg_dump -Fd -j2"

    def steps(self) -> dict[str, Step]:
        """A dump, and its restore into an empty database."""
        return {"first": self.first, "restore": self._restore}

    def plain_snapshot(self) -> Usage:
        """Two connections, zstd 3."""
        words = ["-Fd", "-j2", "-Z", "zstd:3", "-f", str(self.out / "dump"), "-d", self.site.url(SOURCE)]
        return self.run(*self.program("pg_dump", *words))

    def _restore(self) -> Values:
        self.site.create(TARGET)
        words = ["-j2", "-d", self.site.url(TARGET), str(self.out / "dump")]
        return _values("restore", self.run(*self.program("pg_restore", *words)))


class Copies(Native):
    """No backup: COPY of every table, two at a time, the largest first, each through zstd."""

    name = "copy"
    title = "COPY | zstd -3"

    def steps(self) -> dict[str, Step]:
        """It can only write."""
        return {"first": self.first}

    def plain_snapshot(self) -> Usage:
        """One psql and one zstd a table."""
        psql = shlex.join(self.program("psql", "-X", "-q", "-d", self.site.url(SOURCE)))
        one = f'{psql} -c "COPY $0 TO STDOUT" | {self._zstd} -3 -q -o {shlex.quote(str(self.out))}/$0.zst'
        each = shlex.join(["xargs", "-P2", "-n1", "bash", "-o", "pipefail", "-c", one])
        return self.pipe(shlex.join(["printf", r"%s\n", *TABLES]), each)


class MariaDump(Native):
    """mariadb-dump through zstd, and mariadb to load it."""

    name = "mariadb-dump"
    title = "mariadb-dump | zstd"
    site: MariaSite

    def steps(self) -> dict[str, Step]:
        """A dump, and its load into an empty database."""
        return {"first": self.first, "restore": self._restore}

    @property
    def _file(self) -> str:
        return shlex.quote(str(self.out / "dump.sql.zst"))

    def plain_snapshot(self) -> Usage:
        """One connection."""
        dump = shlex.join(self.program("mariadb-dump", *self.site.login, "--single-transaction", SOURCE))
        return self.pipe(dump, f"{self._zstd} -3 -q -o {self._file}")

    def _restore(self) -> Values:
        self.site.create(TARGET)
        load = shlex.join(self.program("mariadb", *self.site.login, TARGET))
        return _values("restore", self.pipe(f"{self._zstd} -q -dc {self._file}", load))


def contenders(site: Site, work: Path, zstd: str | None) -> Sequence[Contender]:
    """All of a server's, ours first; without zstd, only those that need none."""
    found: list[Contender] = [Backupctl(site, work)]
    if isinstance(site, PostgresSite):
        found.append(PgDump(site, work))
        found += [Copies(site, work, zstd)] if zstd else []
    elif isinstance(site, MariaSite) and zstd:
        found.append(MariaDump(site, work, zstd))
    return found
