"""Real MariaDB servers for tests: Debian's packages, without installing anything.

The packages are downloaded and unpacked below the user's cache folder, once, and so is a fresh data folder, which every
server starts from. Servers run as ordinary processes on free loopback ports and die with the thread that started them.
"""

import contextlib
import hashlib
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.servers import packages, processes
from tests.servers.packages import Unavailable

START_SECONDS = 60
DEBIAN = ("mariadb-server-core", "mariadb-server", "mariadb-client-core", "mariadb-client")
PROGRAMS = re.compile(r"(mariadb|my_print_defaults|myisamchk|aria_chk|innochecksum)")
NO_TESTS_NEED = ("usr/share/mysql/mini-benchmark", "usr/share/mysql-test", "usr/lib/mysql/plugin/auth_pam_tool_dir")
INSTALL = ("--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--force")
ROOT = """
CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL PRIVILEGES ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
ALTER USER root@localhost IDENTIFIED BY '{password}';
DELETE FROM mysql.global_priv WHERE User = '' OR Host NOT IN ('127.0.0.1', 'localhost');
FLUSH PRIVILEGES;
"""
ROOT_PASSWORD = "r#ot\\ \"pass'word;%"  # everything that somebody forgets to quote
OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--max-connections=60",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_general_ci",
    "--default-time-zone=+00:00",
    "--event-scheduler=OFF",
    "--performance-schema=OFF",
    "--local-infile=ON",
    "--server-id=1",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=32M",
    "--innodb-use-native-aio=0",
    "--aria-pagecache-buffer-size=8M",
    "--key-buffer-size=8M",
)
"""What every server starts with; the extra arguments come behind and win."""


class SqlError(Exception):
    """A statement failed; the text is what the client said."""


def programs() -> Path:
    """The folder with the programs (mariadb, mariadb-dump, mariadb-admin, ...), ready to be run from anywhere.

    Raises:
        Unavailable: they cannot be had here.
    """
    return _unpacked() / "programs"


def _unpacked() -> Path:
    return packages.unpacked("mariadb", "mariadb-server-core", packages.with_libraries(*DEBIAN), _finish)


def _finish(tree: Path) -> None:
    for part in NO_TESTS_NEED:
        shutil.rmtree(tree / part, ignore_errors=True)
    kept = []
    for file in sorted(file for part in ("usr/bin", "usr/sbin") for file in (tree / part).iterdir()):
        if PROGRAMS.match(file.name):
            kept.append(str(file.relative_to(tree)))
        else:
            file.unlink()
    packages.wrap_programs(tree, kept, packages.library_folders(tree))


class MariaServer:
    """A server with a data folder of its own in a temporary folder.

    `data`, `log`, `port` and `socket` stay the same however often it is stopped, killed and started.
    """

    product, engine = "MariaDB", "mariadb"
    client, dump, daemon = "mariadb", "mariadb-dump", "mariadbd"
    host = "127.0.0.1"
    root = "root"
    root_password = ROOT_PASSWORD
    root_script = ROOT
    options: tuple[str, ...] = OPTIONS

    def __init__(self, home: Path, arguments: Sequence[str] = ()) -> None:
        self.home = home
        self.arguments = list(arguments)
        self.owner = processes.unprivileged()
        if self.owner:
            home.chmod(0o755)
        self.tree = self.unpacked()
        self.bin = self.tree / "programs"
        parts = ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share/mysql", "lib", "programs")
        self._daemon_tree = processes.reachable(self.tree, home, self.owner, parts)
        self.data = home / "data"
        self.log = home / "server.log"
        self.own = home / "own"
        self.own.mkdir()
        processes.give(self.owner, self.own)
        self.socket = self.own / "socket"
        (self.port,) = processes.free_ports(1)
        self.env = {"PATH": "/usr/bin:/bin", "HOME": str(self.own), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        self.root_password_file = home / "root.password"
        self.root_password_file.touch(0o600)
        self.root_password_file.write_text(ROOT_PASSWORD + "\n")
        found = re.search(r"(\d+\.\d+\.\d+)[- ]", self.run(self.client, "--version").stdout)
        if found is None:
            raise Unavailable(f"{self.product}'s client program does not run here")
        self.version = found[1]
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def unpacked() -> Path:
        """Where its programs are."""
        return _unpacked()

    @property
    def daemon_bin(self) -> Path:
        """The folder with the programs, where the server's own user can run them as well."""
        return self._daemon_tree / "programs"

    def run(
        self, program: str, *words: str | Path, text: str = "", password: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the server's programs to its end; it reads `text`."""
        env = {**self.env, "MYSQL_PWD": password} if password else self.env
        return processes.run([self.bin / program, *words], env=env, cwd=self.home, text=text, seconds=600)

    def make_data(self) -> None:
        """Make a fresh data folder: a copy of the one that is kept."""
        recipe = hashlib.sha256(repr((INSTALL, ROOT, ROOT_PASSWORD, self.options)).encode()).hexdigest()[:12]
        name = f"data-{self.tree.name}-{recipe}"
        with packages.locked(name) as cache:
            template = cache / name
            if not (template / ".complete").exists():
                self._keep_data(cache, template)
        shutil.copytree(template, self.data, ignore=shutil.ignore_patterns(".complete"))
        self.data.chmod(0o700)
        processes.give(self.owner, self.data)

    def _keep_data(self, cache: Path, template: Path) -> None:
        self.data.mkdir(0o700)
        processes.give(self.owner, self.data)
        command = self.install_command(self._daemon_tree)
        done = processes.run(command, env=self.env, cwd=self.own, owner=self.owner)
        if done.returncode:
            raise Unavailable(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
        arguments, self.arguments = self.arguments, ["--skip-log-bin"]
        self.start()
        try:
            password = ROOT_PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
            words = ["--no-defaults", f"--socket={self.socket}", "-u", "root"]
            done = self.run(self.client, *words, text=self.root_script.format(password=password))
            if done.returncode:
                raise Unavailable(f"root's password cannot be set: {done.stderr}")
        finally:
            self.stop()
            self.arguments = arguments
        with packages.work_folder(cache) as work:
            shutil.copytree(self.data, work / "data")
            packages.publish(work / "data", template)
        shutil.rmtree(self.data)

    def install_command(self, tree: Path) -> list[str]:
        """What fills an empty data folder."""
        words = [*INSTALL, f"--basedir={tree}/usr", f"--datadir={self.data}", "--innodb-log-file-size=32M"]
        return [str(tree / "programs/mariadb-install-db"), *words]

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            Unavailable: it does not start here.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._process = self._spawn()
            begins = self.log.stat().st_size
            while self._process.poll() is None:
                if self._is_ready(begins):
                    return
                if time.monotonic() > deadline:
                    self.kill()
                    raise Unavailable(
                        f"{self.product} did not answer within {START_SECONDS} s: {processes.tail(self.log)}"
                    )
                time.sleep(0.02)
            ended = f"{self.product} ended with {self._process.returncode}: {processes.tail(self.log)}"
            self._process = None
            if time.monotonic() > deadline or b"already in use" not in self.log.read_bytes()[begins:]:
                raise Unavailable(ended)
            time.sleep(0.2)  # somebody was quicker to take the port

    def _spawn(self) -> subprocess.Popen[bytes]:
        base = self._daemon_tree / "usr"
        places = [
            f"--basedir={base}",
            f"--datadir={self.data}",
            f"--plugin-dir={base}/lib/mysql/plugin",
            f"--lc-messages-dir={base}/share/mysql",
            f"--character-sets-dir={base}/share/mysql/charsets",
            f"--socket={self.socket}",
            f"--pid-file={self.own}/pid",
            f"--tmpdir={self.own}",
            f"--port={self.port}",
        ]
        command = [str(self._daemon_tree / "programs" / self.daemon), "--no-defaults", *places]
        command += [*self.options, *self.arguments]
        return processes.spawn(command, env=self.env, cwd=self.own, out=self.log, owner=self.owner)

    def _is_ready(self, begins: int) -> bool:
        """Whether this very process says that it is ready, and its port greets."""
        if b"ready for connections" not in self.log.read_bytes()[begins:]:
            return False
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1) as link:
            return len(link.recv(5)) == 5
        return False

    @property
    def pid(self) -> int:
        """The process number of the running server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def stop(self) -> None:
        """Stop the server, if it runs."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            self._process = None

    def kill(self) -> None:
        """End the server at once, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def url(self, database: str = "", user: str = root) -> str:
        """The address of a database, without a password."""
        return f"{self.engine}://{user}@{self.host}:{self.port}/{database}"

    def sql(
        self,
        statement: str,
        database: str | None = None,
        *,
        check: bool = True,
        user: str = root,
        password: str | None = None,
    ) -> str:
        """Run statements; the rows, columns parted by tabs. `password` None is root's password.

        Without `check` an error ends the statements too, and its message is part of what is returned.

        Raises:
            SqlError: a statement failed.
        """
        words = ["--no-defaults", "--protocol=tcp", f"--host={self.host}", f"--port={self.port}", f"--user={user}"]
        words += ["--batch", "--skip-column-names", "--default-character-set=utf8mb4", "--local-infile=1"]
        words += [] if database is None else [f"--database={database}"]
        done = self.run(self.client, *words, text=statement, password=ROOT_PASSWORD if password is None else password)
        if done.returncode and check:
            raise SqlError(done.stderr.strip())
        return (done.stdout + ("" if check else done.stderr)).removesuffix("\n")

    def create_database(self, name: str | None = None, options: str = "") -> str:
        """Create a database and return its name, a fresh one by default; options are `CHARACTER SET latin1` and the like."""
        name = name or f"test_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {_quoted(name)} {options}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database."""
        self.sql(f"DROP DATABASE IF EXISTS {_quoted(name)}")

    def create_user(
        self, *grants: str, name: str | None = None, password: str | None = None, host: str = "%"
    ) -> tuple[str, str]:
        """Create a user with chosen privileges, `SELECT, LOCK TABLES ON shop.*` and the like; its name and password."""
        name = name or f"user_{secrets.token_hex(4)}"
        password = secrets.token_urlsafe(12) if password is None else password
        account = f"{_text(name)}@{_text(host)}"
        self.sql(f"CREATE USER {account} IDENTIFIED BY {_text(password)}")
        for grant in grants:
            self.sql(f"GRANT {grant} TO {account}")
        return name, password


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[MariaServer]:
    """A server with a fresh data folder for the length of the context; `arguments` are mariadbd's own.

    Raises:
        Unavailable: it cannot be had or does not start here.
    """
    with tempfile.TemporaryDirectory(prefix="mariadb-", ignore_cleanup_errors=True) as home:
        server = MariaServer(Path(home), arguments)
        server.make_data()
        try:
            server.start()
            yield server
        finally:
            server.kill()


class Servers:
    """One server for each set of arguments, started when it is first asked for."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[tuple[str, ...], MariaServer] = {}

    def __call__(self, *arguments: str) -> MariaServer:
        """The running server with these arguments.

        Raises:
            Unavailable: it cannot be had or does not start here.
        """
        if arguments not in self._running:
            self._running[arguments] = self._stack.enter_context(running(*arguments))
        return self._running[arguments]

    def close(self) -> None:
        """Stop them all."""
        self._stack.close()


if __name__ == "__main__":
    began = time.monotonic()
    with running() as one:
        print(one.url(), one.version, f"up after {time.monotonic() - began:.1f} s")
        print(one.sql("SELECT version(), current_user()"), one.sql("SELECT user, host FROM mysql.user"))
