"""Servers of our own, each for one drill: whom they run as, where they live, and that nothing of them stays.

What is restored into such a server is hostile, and others may run as the same user as it does. So the folder stays ours:
only folders in it are the server's, and nothing in those is opened, written or trusted by us. Must never reach beyond the
folder, listen on a network, read a configuration of this machine, or leave a process behind.
"""

import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backupd.engines.base import ServerPlace
from backupd.engines.children import die_with_us
from backupd.errors import Failed, SafetyRefused, Unreachable

USER = "backupd_drill"
"""The role or account that restores and asks."""

WAYS_OUT = "or name a server for drills: `scratch` in the policy's `drill`, or --into URL"
_NAME = re.compile(r"backupd_drill_[0-9a-f]{16}")
_DERIVED = re.compile(r"_backupd_[0-9a-f]{8}")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
# A socket's path may have 107 bytes on Linux and 103 on macOS.
_LONGEST_SOCKET = 100
_SHORT = "/tmp"  # noqa: S108 - of mkdtemp, where no other folder is short enough
_ENDING, _PAUSE = 10.0, 0.02
_LAST_BYTES, _LAST_LINES, _LONGEST_SAID = 4096, 4, 500


@dataclass(frozen=True, slots=True)
class Throwaway:
    """A running server of our own.

    Attributes:
        place: where the database will be that the drill restores.
        version: product and version, e.g. "PostgreSQL 18.1".
        programs: the folder of its programs.
    """

    place: ServerPlace
    version: str
    programs: Path


@dataclass(frozen=True, slots=True)
class Owner:
    """An unprivileged user of this machine."""

    name: str
    uid: int
    gid: int


def owner_among(names: Sequence[str]) -> Owner | None:
    """Whom a server runs as where we are root: the first of these users that is there, else `nobody`. None for ourselves.

    Raises:
        Unreachable: there is none of them.
    """
    if os.geteuid() != 0:
        return None
    for name in (*names, "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if found.pw_uid != 0:
            return Owner(name, found.pw_uid, found.pw_gid)
    raise Unreachable("no server is run as root, and this machine has no user `nobody`", hint=f"make one, {WAYS_OUT}")


def said_by(command: Sequence[str], owner: Owner | None) -> str | None:
    """What a program prints when the server's user runs it; None if that user cannot."""
    try:
        done = subprocess.run(
            command,
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
            user=owner.uid if owner else None,
            group=owner.gid if owner else None,
            extra_groups=[] if owner else None,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return None if done.returncode else done.stdout.decode("utf-8", "replace")


def not_runnable(folder: Path, owner: Owner | None) -> Unreachable:
    """That a server's programs are here, and its user cannot run them."""
    who = f"by the user {owner.name}, as which servers run where we are root" if owner else "by this user"
    return Unreachable(
        f"the server's programs in {folder} cannot be run {who}",
        object_name=str(folder),
        hint=f"install them where every user may run them, {WAYS_OUT}",
    )


def require_name(name: str) -> None:
    """Refuse a name that no database of a drill has.

    Raises:
        SafetyRefused: it is another one.
    """
    if not _NAME.fullmatch(name):
        raise SafetyRefused(
            f"{name!a} is not the name of a drill's database",
            object_name=name,
            hint="only databases called backupd_drill_ and 16 hexadecimal digits are dropped",
        )


def of_drill(name: str, among: Iterable[str]) -> list[str]:
    """Those databases that are a drill's, or that its restore made on the way and did not come to rename or drop."""
    return [one for one in among if one == name or (one.startswith(name) and _DERIVED.fullmatch(one[len(name) :]))]


class Home:
    """The folder of one server, and the processes that run in it; made by `home`."""

    def __init__(self, folder: Path, owner: Owner | None, deadline: float) -> None:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or any(folder.iterdir()):
            raise SafetyRefused(f"{folder} is not an empty folder of this user's own", object_name=str(folder))
        self.folder = folder
        self.deadline = deadline
        self._group = status.st_gid
        self._owner = owner
        self._log = -1
        self._server: subprocess.Popen[bytes] | None = None
        self._ending = signal.SIGKILL
        self._apart: Path | None = None

    def open(self) -> None:
        """Let the server's user through the folder.

        Raises:
            Unreachable: it cannot get there.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._log = os.open(self.folder / "log", flags, 0o600)
        if self._owner is None:
            self.folder.chmod(0o700)
            return
        os.chown(self.folder, -1, self._owner.gid)
        self.folder.chmod(0o710)
        if said_by(["test", "-x", str(self.folder)], self._owner) is None:
            raise Unreachable(
                f"the user {self._owner.name}, as which the server is to run, cannot get to {self.folder}",
                object_name=str(self.folder),
                hint="have it below a folder that every user may pass, such as /var/tmp",
            )

    def give(self, name: str) -> Path:
        """A new folder that is the server's own."""
        path = self.folder / name
        path.mkdir(0o700)
        return self._given(path)

    def give_socket(self, file: str) -> Path:
        """A new folder for the server's socket, elsewhere if the path of this one is too long for a socket."""
        if len(os.fsencode(self.folder / "socket" / file)) <= _LONGEST_SOCKET:
            return self.give("socket")
        self._apart = Path(tempfile.mkdtemp(prefix="backupd-drill-", dir=_SHORT))
        return self._given(self._apart)

    def _given(self, path: Path) -> Path:
        if self._owner is not None:
            os.chown(path, self._owner.uid, self._owner.gid)
        return path

    def write(self, name: str, text: str) -> Path:
        """A new file that the server may read and nobody but us may write."""
        path = self.folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if self._owner is not None:
                os.fchown(descriptor, -1, self._owner.gid)
                os.fchmod(descriptor, 0o640)
        return path

    def run(self, command: Sequence[str], what: str) -> None:
        """Run a program to its end.

        Raises:
            Unreachable: it failed, or took too long.
        """
        child = self._spawn(command, signal.SIGKILL)
        try:
            status = child.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._trouble(f"{what} took too long") from None
        finally:
            _end(child, signal.SIGKILL)
        if status:
            raise self._trouble(f"{what} failed (exit {status})")

    def start(self, command: Sequence[str], what: str, ready: Callable[[], bool], ending: signal.Signals) -> None:
        """Start the server, and wait until it is ready; `ending` is the signal that ends it, and all of its children, at once.

        Raises:
            Unreachable: it does not start, or takes too long.
        """
        self._ending = ending
        self._server = self._spawn(command, ending)
        while not ready():
            if (status := self._server.poll()) is not None:
                raise self._trouble(f"{what} did not start (exit {status})")
            if time.monotonic() > self.deadline:
                raise self._trouble(f"{what} took too long to start")
            time.sleep(_PAUSE)

    def _spawn(self, command: Sequence[str], death: signal.Signals) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                command,
                env=_ENVIRONMENT,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
                umask=0o077,
                user=self._owner.uid if self._owner else None,
                group=self._owner.gid if self._owner else None,
                extra_groups=[] if self._owner else None,
                preexec_fn=die_with_us(death),  # noqa: PLW1509 (one system call, no lock)
            )
        except OSError as error:
            raise Unreachable(
                f"{Path(command[0]).name} cannot be run ({type(error).__name__})", object_name=command[0]
            ) from None

    def _trouble(self, message: str) -> Unreachable:
        """An error with the last lines of the log, which nothing of a snapshot can be in as long as the server starts."""
        begin = max(0, os.fstat(self._log).st_size - _LAST_BYTES)
        text = os.pread(self._log, _LAST_BYTES, begin).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]
        said = "".join(c if c.isprintable() else "?" for c in " / ".join(lines))[-_LONGEST_SAID:]
        return Unreachable(
            f"{message}: {said}" if said else message,
            object_name=str(self.folder),
            hint=f"see that the server of this machine's package can start, {WAYS_OUT}",
        )

    def close(self) -> str | None:
        """End the server at once, and remove all that is in the folder; what could not be removed, in words."""
        if self._server is not None:
            _end(self._server, self._ending)
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        try:
            for path in [*self.folder.iterdir(), *([self._apart] if self._apart else [])]:
                _remove(path)
            if self._owner is not None:
                self.folder.chmod(0o700)
                os.chown(self.folder, -1, self._group)
        except OSError as error:
            return f"what the server left in {self.folder} could not be removed ({type(error).__name__})"
        return None


@contextmanager
def home(folder: Path, owner: Owner | None, *, timeout: float) -> Iterator[Home]:
    """Take a folder for a server; at the end the server is killed, and the folder is empty again.

    Raises:
        SafetyRefused: it is not an empty folder of ours.
        Unreachable: the server's user cannot get there.
        Failed: something could not be removed.
    """
    one = Home(folder, owner, time.monotonic() + timeout)
    try:
        one.open()
        yield one
    except BaseException as error:
        if left := one.close():
            error.add_note(left)
        raise
    if left := one.close():
        raise Failed(left, object_name=str(folder), hint="remove it")


def _end(child: "subprocess.Popen[bytes]", ending: signal.Signals) -> None:
    """End a child and what it started. It leads a group of its own, whose number is its own until it is reaped."""
    if child.poll() is not None:
        return
    if ending != signal.SIGKILL:
        child.send_signal(ending)
        try:
            child.wait(_ENDING)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
    else:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _remove(path: Path) -> None:
    """Remove a file or a folder; what is dying may still write into it for a moment. Links are not followed."""
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    until = time.monotonic() + _ENDING
    while True:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
        else:
            return
