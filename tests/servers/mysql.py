"""Real MySQL servers for tests: the packages of Debian unstable, unpacked beside this machine's own libraries.

No released Debian has MySQL, so its packages bring their own C library. They are downloaded and unpacked below the user's
cache folder, once. Another version is tried by naming the folder of its programs (mysqld, mysql, mysqldump) in the
variable BACKUPD_TEST_MYSQL: of what MySQL's own archives unpack to, that is `bin`.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers import packages
from tests.servers.mariadb import MariaServer
from tests.servers.packages import Unavailable

DEBIAN = ("mysql-server-core", "mysql-client-core", "zlib1g")
PROGRAMS = ("usr/sbin/mysqld", "usr/bin/mysql", "usr/bin/mysqldump", "usr/bin/mysqladmin")
NOT_NEEDED = re.compile(r"lib(perl|python|llvm)")
ELSEWHERE = "BACKUPD_TEST_MYSQL"
ROOT = """
CREATE USER root@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL PRIVILEGES ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
ALTER USER root@localhost IDENTIFIED BY '{password}';
"""
OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--mysqlx=OFF",
    "--secure-file-priv=",
    "--max-connections=60",
    "--character-set-server=utf8mb4",
    "--default-time-zone=+00:00",
    "--event-scheduler=OFF",
    "--local-infile=ON",
    "--server-id=1",
    "--log-bin=binlog",
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=64M",
    "--innodb-redo-log-capacity=32M",
    "--innodb-use-native-aio=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=OFF",
    "--innodb-extend-and-initialize=OFF",
)
"""What every server starts with; the extra arguments come behind and win."""


def _unpacked() -> Path:
    if named := os.environ.get(ELSEWHERE):
        return _elsewhere(Path(named))
    resolve = packages.with_libraries(*DEBIAN, leave=NOT_NEEDED)
    return packages.unpacked("mysql", "mysql-server-core", resolve, _finish, suite="sid")


def _finish(tree: Path) -> None:
    packages.wrap_apart(tree, PROGRAMS)


def _elsewhere(folder: Path) -> Path:
    """A tree of the same shape around programs that somebody else unpacked."""
    if not (folder / "mysqld").exists():
        raise Unavailable(f"{ELSEWHERE}: {folder} has no mysqld in it")
    name = "mysql-at" + str(folder.resolve()).replace("/", "-")
    with packages.locked(name) as cache:
        tree = cache / name
        if not (tree / ".complete").exists():
            with packages.work_folder(cache) as work:
                made = work / "tree"
                made.mkdir()
                (made / "usr").symlink_to(folder.resolve().parent)
                (made / "programs").symlink_to(folder.resolve())
                packages.publish(made, tree)
        return tree


class MysqlServer(MariaServer):
    """A MySQL server with a data folder of its own in a temporary folder."""

    product, engine = "MySQL", "mysql"
    client, dump, daemon = "mysql", "mysqldump", "mysqld"
    root_script = ROOT
    options = OPTIONS

    @staticmethod
    def unpacked() -> Path:
        """Where its programs are."""
        return _unpacked()

    def install_command(self, tree: Path) -> list[str]:
        """What fills an empty data folder."""
        own = [f"--lc-messages-dir={tree}/usr/share/mysql", f"--character-sets-dir={tree}/usr/share/mysql/charsets"]
        words = ["--no-defaults", "--initialize-insecure", f"--basedir={tree}/usr", f"--datadir={self.data}", *own]
        return [str(tree / "programs" / self.daemon), *words, "--innodb-redo-log-capacity=32M"]


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[MysqlServer]:
    """A server with a fresh data folder for the length of the context; `arguments` are mysqld's own.

    Raises:
        Unavailable: it cannot be had or does not start here.
    """
    with tempfile.TemporaryDirectory(prefix="mysql-", ignore_cleanup_errors=True) as home:
        server = MysqlServer(Path(home), arguments)
        server.make_data()
        try:
            server.start()
            yield server
        finally:
            server.kill()
