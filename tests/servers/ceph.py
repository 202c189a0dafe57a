"""A real S3 server for tests: Ceph's object gateway, from Debian's packages, without installing anything.

The packages are downloaded and unpacked below the user's cache folder, once; the daemons run from there as ordinary
processes on free loopback ports, with everything in memory, and die with the process that started them.
"""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import packages, processes
from tests.servers.packages import Apt, Unavailable

PACKAGES = ("ceph-mon", "ceph-osd", "radosgw")
WANTED = re.compile(r"(lib|ceph-(mon|osd|base|common)$|rados)")
START_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it is and who may use it.

    Attributes:
        new_user: makes one more user, who may do nothing until a bucket's policy says so; gives access key and secret key.
    """

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    new_user: Callable[[str], tuple[str, str]] = field(repr=False)
    region: str = "us-east-1"


# What is needed of librados, in a process of its own: its libraries come from the unpacked tree.
MON_COMMANDS = """
import ctypes, sys
rados = ctypes.CDLL("librados.so.2")
cluster = ctypes.c_void_p()
def good(number):
    if number < 0:
        sys.exit(f"librados: error {number}")
good(rados.rados_create(ctypes.byref(cluster), b"admin"))
good(rados.rados_conf_read_file(cluster, sys.argv[1].encode()))
good(rados.rados_conf_set(cluster, b"client_mount_timeout", b"30"))
good(rados.rados_connect(cluster))
for command in sys.argv[2:]:
    words = (ctypes.c_char_p * 1)(command.encode())
    out, out_size, text, text_size = ctypes.c_char_p(), ctypes.c_size_t(), ctypes.c_char_p(), ctypes.c_size_t()
    good(rados.rados_mon_command(cluster, words, 1, b"", 0, ctypes.byref(out), ctypes.byref(out_size),
                                 ctypes.byref(text), ctypes.byref(text_size)))
rados.rados_shutdown(cluster)
"""

CONF = """
[global]
fsid = {fsid}
mon initial members = a
mon host = [v2:127.0.0.1:{mon_port}]
ms bind msgr1 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
paxos propose interval = 0.05
log file = {data}/$name.log
admin socket = {data}/$name.asok
run dir = {data}
crash dir = {data}
plugin dir = {lib}/ceph
erasure code dir = {lib}/ceph/erasure-code
osd class dir = {lib}/rados-classes
keyring = {data}/keyring
[mon.a]
mon data = {data}/mon
mon data avail crit = 1
mon data avail warn = 1
[osd.0]
osd data = {data}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
rgw dns name = 127.0.0.1
rgw thread pool size = 32
"""


def unpacked() -> Path:
    """The unpacked packages; downloads them the first time.

    Raises:
        Unavailable: they cannot be had here.
    """
    return packages.unpacked("ceph", "radosgw", _resolve)


def _resolve(apt: Apt) -> list[str]:
    """Every package that would be installed and that has a program or library of ours, with its version."""
    plan = apt.run("apt-get", "install", "-s", "-y", "--no-install-recommends", *PACKAGES)
    found = dict(re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+)", plan, re.MULTILINE))
    if "radosgw" not in found:
        raise Unavailable("ceph is installed on this machine already; its packages cannot be unpacked apart")
    return [f"{name}={version}" for name, version in found.items() if WANTED.match(name)]


class _Cluster:
    """One monitor, one store in memory and one gateway."""

    def __init__(self, tree: Path, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.data.mkdir()
        self.owner = processes.unprivileged()
        self.tree = processes.reachable(tree, home, self.owner, ("usr/lib", "usr/bin", "lib"))
        (self.lib,) = (self.tree / "usr/lib").glob("*-linux-gnu*")
        mon, self.rgw_port = processes.free_ports(2)
        self.mon_port = mon
        self.fsid = str(uuid.uuid4())
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.conf = self.data / "ceph.conf"
        text = CONF.format(fsid=self.fsid, mon_port=mon, rgw_port=self.rgw_port, data=self.data, lib=self.lib)
        self.conf.write_text(text)
        (self.data / "osd").mkdir()
        if self.owner:
            home.chmod(0o755)
            processes.give(self.owner, self.data)
        self.env = {
            "PATH": f"{self.tree}/usr/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{self.lib}:{self.lib}/ceph:{self.tree}/lib/{self.lib.name}",
            "HOME": str(self.data),
            "LC_ALL": "C",
        }

    def run(self, *command: str | Path, as_owner: bool = True) -> None:
        """Run a program to its end."""
        owner = self.owner if as_owner else None
        done = processes.run(command, env=self.env, cwd=self.data, owner=owner, seconds=START_SECONDS)
        if done.returncode:
            raise Unavailable(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-500:]}")

    def start(self, *command: str) -> None:
        """Start a daemon that dies with us."""
        words = [str(self.tree / "usr/bin" / command[0]), "-c", str(self.conf), "-f", *command[1:]]
        out = self.home / f"{command[0]}.out"
        daemon = processes.spawn(words, env=self.env, cwd=self.data, out=out, owner=self.owner)
        self.daemons.append(daemon)

    def bring_up(self) -> Server:
        """Make the cluster and wait until it serves."""
        tool, keys = "ceph-authtool", str(self.data / "keyring")
        caps = {
            "mon.": ["mon", "allow *"],
            "client.admin": ["mon", "allow *", "osd", "allow *"],
            "osd.0": ["mon", "allow profile osd", "osd", "allow *"],
            "client.rgw": ["mon", "allow rw", "osd", "allow rwx"],
        }
        self.run(tool, keys, "--create-keyring")
        for who, words in caps.items():
            pairs = [word for n in range(0, len(words), 2) for word in ("--cap", words[n], words[n + 1])]
            self.run(tool, keys, "--gen-key", "-n", who, *pairs)
        address = f"[v2:127.0.0.1:{self.mon_port}]"
        monmap = self.data / "monmap"
        self.run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", address, "--clobber", monmap)
        self.run("ceph-mon", "-c", self.conf, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keys)
        self.start("ceph-mon", "-i", "a")
        self.run(sys.executable, "-c", MON_COMMANDS, self.conf, '{"prefix": "osd create"}', as_owner=False)
        self.run("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs")
        self.start("ceph-osd", "-i", "0")
        self.start("radosgw", "-n", "client.rgw")
        self._wait_for_gateway()
        access, secret = self.new_user("tests")
        return Server(f"http://127.0.0.1:{self.rgw_port}", access, secret, self.new_user)

    def new_user(self, name: str) -> tuple[str, str]:
        """Make a user; returns access key and secret key."""
        access, secret = f"AK{secrets.token_hex(9).upper()}", secrets.token_hex(20)
        user = [f"--uid={name}", f"--display-name={name}", f"--access-key={access}", f"--secret={secret}"]
        self.run("radosgw-admin", "-c", self.conf, "user", "create", *user)
        return access, secret

    def _wait_for_gateway(self) -> None:
        for _ in range(START_SECONDS * 10):
            for daemon in self.daemons:
                if daemon.poll() is not None:
                    name = Path(str(daemon.args[0])).name  # type: ignore[index]
                    said = processes.tail(self.home / f"{name}.out")
                    raise Unavailable(f"{name} ended with {daemon.returncode}: {said}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.rgw_port), 1):
                return
            time.sleep(0.1)
        raise Unavailable(f"the gateway did not answer within {START_SECONDS} s")

    def stop(self) -> None:
        """Stop every daemon that was started here."""
        for daemon in reversed(self.daemons):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait(10)


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server for the length of the context.

    Raises:
        Unavailable: it cannot be had or does not start here.
    """
    if not sys.platform.startswith("linux"):
        raise Unavailable("the real S3 server runs on Linux only")
    tree = unpacked()
    with tempfile.TemporaryDirectory(prefix="ceph-", ignore_cleanup_errors=True) as home:
        cluster = _Cluster(tree, Path(home))
        try:
            yield cluster.bring_up()
        finally:
            cluster.stop()


if __name__ == "__main__":
    began = time.monotonic()
    with running() as server:
        print(server, f"up after {time.monotonic() - began:.1f} s")
